//! `cargo xtask where`: the function and the source line behind the address that a board's binary says when it has an internal error.
//!
//! A panic there is a trap instruction and no message (`cross.rs`; `runtime/sys/src/trap.rs` prints the line). The same source is built once
//! more with line tables, which are no part of the program: its code must be the same, or nothing is told.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection, SectionKind};

use crate::build::Strip;
use crate::cross::{self, Compiler};

/// Options of `where`.
#[derive(clap::Args)]
pub struct Options {
    /// The board that said it
    #[arg(long, value_name = "BOARD")]
    board: String,
    /// The features it was built with, if not all: runtime, images, agent
    #[arg(long, value_delimiter = ',')]
    features: Vec<String>,
    /// The address, such as 0x10a2f48
    #[arg(value_name = "ADDRESS", value_parser = hexadecimal)]
    offset: u64,
}

/// Builds, compares and prints.
pub fn run_command(options: &Options) -> Result<()> {
    let arch = cross::board(&options.board)?.board.arch;
    let features: Vec<_> = options.features.iter().map(String::as_str).collect();
    let compiler = Compiler::find()?;
    let shipped = fs::read(compiler.build("punnet", arch, &features)?)?;
    let with_lines = compiler.build_with("punnet", arch, &features, Strip::NoAndLines)?;
    ensure!(
        code(&shipped)? == code(&fs::read(&with_lines)?)?,
        "{} has other code than what is shipped: an address of the one says nothing of the other",
        with_lines.display()
    );
    for line in frames(&with_lines, start(&shipped)? + options.offset)? {
        println!("{line}");
    }
    println!(
        "of this commit's punnet for {}: another's has other addresses. Traps of one function may be one instruction.",
        arch.target()
    );
    Ok(())
}

fn hexadecimal(text: &str) -> Result<u64, std::num::ParseIntError> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16)
}

/// Address and bytes of what is executed.
fn code(bytes: &[u8]) -> Result<Vec<(u64, Vec<u8>)>> {
    object::File::parse(bytes)?
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
        .map(|section| Ok((section.address(), section.data()?.to_vec())))
        .collect()
}

/// The address of the file's first byte.
fn start(bytes: &[u8]) -> Result<u64> {
    use object::ObjectSegment as _;
    let file = object::File::parse(bytes)?;
    let first = file.segments().find(|segment| segment.file_range().0 == 0);
    Ok(first.context("no segment has the program's header")?.address())
}

/// The function at this address, then what it was inlined into.
fn frames(binary: &Path, address: u64) -> Result<Vec<String>> {
    let wrong = |error| anyhow::anyhow!("cannot read the line tables of {}: {error}", binary.display());
    let loader = addr2line::Loader::new(binary).map_err(wrong)?;
    let mut found = loader.find_frames(address).map_err(wrong)?;
    let mut lines = Vec::new();
    while let Some(frame) = found.next()? {
        let name = frame
            .function
            .map(|name| name.demangle().map(std::borrow::Cow::into_owned));
        let place = frame.location.map_or_else(
            || "?".to_owned(),
            |at| format!("{}:{}", at.file.unwrap_or("?"), at.line.unwrap_or(0)),
        );
        lines.push(format!(
            "{} at {place}",
            name.transpose()?.unwrap_or_else(|| "?".into())
        ));
    }
    if lines.is_empty() {
        let symbol = loader.find_symbol(address).context("no function is there")?;
        lines.push(format!("{:#}", rustc_demangle::demangle(symbol)));
    }
    Ok(lines)
}
