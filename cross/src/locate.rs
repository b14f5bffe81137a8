//! `cargo xtask where`: the function and the source line behind the address that a board's binary says when it has an internal error.
//!
//! A panic there is a trap instruction and no message (`cross.rs`; `runtime/sys/src/trap.rs` prints the line). The same source is linked once
//! more with its symbols; its code must be the same, or nothing is told. Lines come from a third build, whose functions are the same and stand elsewhere.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SectionKind, SymbolKind};

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
    let built = |strip| compiler.build_with("punnet", arch, &features, strip);
    let shipped = fs::read(built(Strip::Yes)?)?;
    let named = fs::read(built(Strip::No)?)?;
    ensure!(
        code(&shipped)? == code(&named)?,
        "with its symbols it has other code than what is shipped: an address of the one says nothing of the other"
    );
    let address = start(&shipped)? + options.offset;
    let found = functions(&named)?
        .into_iter()
        .find(|function| (function.address..function.address + function.size).contains(&address))
        .context("no function is there")?;
    println!(
        "{:#} + {:#x}",
        rustc_demangle::demangle(&found.name),
        address - found.address
    );
    let with_lines = built(Strip::NoAndLines)?;
    let twin = functions(&fs::read(&with_lines)?)?
        .into_iter()
        .find(|function| function.name == found.name && function.size == found.size);
    match twin {
        Some(twin) => print_lines(&with_lines, twin.address + (address - found.address))?,
        None => println!("(the build with line tables has another such function: no lines)"),
    }
    println!(
        "of this commit's punnet for {}: another commit's has other addresses; one instruction may stand for several panics of a function.",
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
    let file = object::File::parse(bytes)?;
    let first = file.segments().find(|segment| segment.file_range().0 == 0);
    Ok(first.context("no segment has the program's header")?.address())
}

struct Function {
    name: String,
    address: u64,
    size: u64,
}

fn functions(bytes: &[u8]) -> Result<Vec<Function>> {
    let file = object::File::parse(bytes)?;
    // The lowest bit of an address says Thumb.
    let mask = if file.architecture() == object::Architecture::Arm {
        !1
    } else {
        !0
    };
    let of = |symbol: object::Symbol<'_, '_>| {
        Ok(Function {
            name: symbol.name()?.to_owned(),
            address: symbol.address() & mask,
            size: symbol.size(),
        })
    };
    file.symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0)
        .map(of)
        .collect()
}

/// The innermost first, then what it was inlined into.
fn print_lines(binary: &Path, address: u64) -> Result<()> {
    let wrong = |error| anyhow::anyhow!("cannot read the line tables of {}: {error}", binary.display());
    let loader = addr2line::Loader::new(binary).map_err(wrong)?;
    let mut frames = loader.find_frames(address).map_err(wrong)?;
    while let Some(frame) = frames.next()? {
        let name = match &frame.function {
            Some(name) => name.demangle()?.into_owned(),
            None => "?".to_owned(),
        };
        let (file, line) = frame.location.map_or((None, None), |at| (at.file, at.line));
        println!("    {name} at {}:{}", file.unwrap_or("?"), line.unwrap_or(0));
    }
    Ok(())
}
