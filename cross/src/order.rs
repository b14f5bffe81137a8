//! `cargo xtask order`: which functions the runtime's commands execute, so that the linker can put them side by side.
//!
//! The kernel maps the neighbours of each page that is touched (fault-around, 64 KiB): functions that are strewn over the whole program
//! bring all of it into memory. The commands run under ptrace(2), one instruction at a time; what they execute, what most of them share
//! first, becomes `cross/hot-functions.ld`, which [`crate::cross`] hands to the linker. A name that a later build does not have costs nothing,
//! one that is missing stands with the rest: make the file anew when `bench` says that a command takes more than its budget.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::Hasher as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::ptrace::{self, Options as Trace};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use object::{Object, ObjectSymbol, SymbolKind};
use punnet_boards::Arch;

use crate::bench::runtime::every_command;
use crate::build::{Strip, keep, root};
use crate::cross::{Compiler, Place};
use crate::process::start_stopped;

/// The linker script, in the repository.
pub const SCRIPT: &str = "cross/hot-functions.ld";

/// PTRACE_EVENT_EXEC of linux/ptrace.h.
const EVENT_EXEC: i32 = 4;

/// Characters of a name that are kept: generic names go on for hundreds, and a few functions too many do no harm.
const NAME_MAX: usize = 200;

/// Options of `order`.
#[derive(clap::Args)]
pub struct Options {
    /// Trace this unstripped binary instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Traces and writes the script.
pub fn run_command(options: &Options) -> Result<()> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => Compiler::find()?.build_with("punnet", Arch::Amd64, &[], Strip::No)?,
    };
    on_one_processor()?;
    let mut executed = Vec::new();
    every_command(&binary, |_, words| {
        executed.push(trace(words)?);
        Ok(())
    })?;
    let names = names(&binary, &executed)?;
    std::fs::write(root().join(SCRIPT), script(&names))?;
    println!("{} functions in {SCRIPT}", names.len());
    Ok(())
}

/// A step is two switches between two processes: on two processors each would wake the other up.
fn on_one_processor() -> Result<()> {
    let allowed = sched_getaffinity(Pid::this())?;
    let mut first = CpuSet::new();
    for number in 0..CpuSet::count() {
        if allowed.is_set(number)? {
            first.set(number)?;
            break;
        }
    }
    Ok(sched_setaffinity(Pid::this(), &first)?)
}

/// What is left out: tables for walking up the stack, of the C library, ring and assembly. Nothing walks: a panic is a trap. On 32-bit ARM each table names a
/// routine of libunwind, which would come with all that it needs; it has no address here, and nothing calls it.
const NO_UNWINDING: &str = "__aeabi_unwind_cpp_pr0 = 0;
__aeabi_unwind_cpp_pr1 = 0;
SECTIONS { /DISCARD/ : { *(.eh_frame .eh_frame_hdr .ARM.exidx .ARM.exidx.* .ARM.extab .ARM.extab.*) } } INSERT AFTER .rodata;
";

/// The script under a name of its content, so that cargo links anew when it has changed.
pub fn script_for_linker(place: &Place) -> Result<PathBuf> {
    let text = std::fs::read_to_string(place.source.join(SCRIPT))? + NO_UNWINDING;
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(text.as_bytes());
    let path = place
        .output
        .join(format!("hot-functions-{:016x}.ld", hasher.finish()));
    keep(&path, &text, 0o644)?;
    Ok(path)
}

/// The addresses that a command and the processes it makes execute.
fn trace(words: &[String]) -> Result<BTreeSet<u64>> {
    let mut executed = BTreeSet::new();
    let file = |path: &str| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let ours = file(&words[0])?;
    let shell = start_stopped(words, Path::new("."))?;
    ptrace::seize(
        shell,
        Trace::PTRACE_O_TRACEEXEC
            | Trace::PTRACE_O_TRACECLONE
            | Trace::PTRACE_O_TRACEFORK
            | Trace::PTRACE_O_TRACEVFORK
            | Trace::PTRACE_O_EXITKILL,
    )?;
    kill(shell, Signal::SIGCONT)?;
    let mut began = false;
    loop {
        let status = waitpid(None, Some(WaitPidFlag::__WALL))?;
        let (pid, signal) = match status {
            WaitStatus::Exited(pid, code) if pid == shell => {
                ensure!(code == 0, "ended with {code}");
                return Ok(executed);
            }
            WaitStatus::Signaled(pid, signal, _) if pid == shell => bail!("ended with {signal}"),
            WaitStatus::PtraceEvent(pid, _, EVENT_EXEC) => {
                // Ours may execute itself anew; the container's program is not ours.
                if file(&format!("/proc/{pid}/exe"))? != ours {
                    ptrace::detach(pid, None)?;
                    continue;
                }
                began = true;
                (pid, None)
            }
            WaitStatus::PtraceEvent(pid, ..) => (pid, None),
            WaitStatus::Stopped(pid, Signal::SIGTRAP | Signal::SIGSTOP | Signal::SIGCONT) => (pid, None),
            WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
            _ => continue,
        };
        if began {
            executed.insert(program_counter(pid)?);
            ptrace::step(pid, signal)?;
        } else {
            ptrace::cont(pid, signal)?;
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn program_counter(pid: Pid) -> Result<u64> {
    Ok(ptrace::getregs(pid)?.rip)
}

#[cfg(not(target_arch = "x86_64"))]
fn program_counter(_: Pid) -> Result<u64> {
    bail!("this is done on x86-64")
}

/// The functions at the addresses that each command executes: those that most commands share come first, then by the commands they serve, so that
/// each command finds its own in few places.
fn names(binary: &Path, executed: &[BTreeSet<u64>]) -> Result<Vec<String>> {
    let bytes = std::fs::read(binary)?;
    let file = object::File::parse(&*bytes)?;
    // A function may have several names: the section has one of them.
    let mut functions = BTreeMap::<u64, (u64, Vec<&str>)>::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let (size, names) = functions.entry(symbol.address()).or_default();
        *size = symbol.size().max(*size);
        names.extend(symbol.name());
    }
    ensure!(!functions.is_empty(), "{} has no symbols", binary.display());
    // By name, a bit for each command. In the order of the names: what a crate does stays together, and the file is the same each time.
    let mut users = BTreeMap::<String, u32>::new();
    for (number, addresses) in executed.iter().enumerate() {
        for at in addresses {
            if let Some((start, (size, names))) = functions.range(..=at).next_back()
                && at - start < *size
            {
                for name in names {
                    *users.entry(pattern(name)).or_default() |= 1 << number;
                }
            }
        }
    }
    let mut names: Vec<_> = users.into_iter().collect();
    names.sort_by_key(|(_, commands)| (Reverse(commands.count_ones()), *commands));
    Ok(names.into_iter().map(|(name, _)| name).collect())
}

/// A v0 name without what changes from build to build: the hashes of crates (`Cs`, a number to base 62, `_`), places in the name itself (`B`, likewise),
/// and the crate that happened to bring a generic function, which stands last.
/// <https://doc.rust-lang.org/rustc/symbol-mangling/v0.html>
fn pattern(name: &str) -> String {
    if !name.starts_with("_R") {
        return name.to_owned();
    }
    let mut out = String::new();
    // Copies in several crates have numbers behind a dot.
    let (mut rest, copy) = name.split_once('.').unwrap_or((name, ""));
    while let Some(at) = rest.find(['B', 'C']) {
        let (before, from) = rest.split_at(at);
        out += before;
        let tag = if from.starts_with("Cs") { "Cs" } else { &from[..1] };
        let number = &from[tag.len()..];
        rest = number;
        out += tag;
        if let Some((digits, after)) = number.split_once('_')
            && tag != "C"
            && digits.len() < 14
            && digits.bytes().all(|byte| byte.is_ascii_alphanumeric())
        {
            out += "*_";
            rest = after;
        }
    }
    out += rest;
    let last = out.rfind("Cs*_").filter(|at| out[..*at].contains("Cs*_"));
    if let Some(at) = last
        && out[at + 4..]
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .bytes()
            .all(|byte| byte == b'_' || byte.is_ascii_lowercase())
    {
        out.truncate(at);
        out.push('*');
    }
    if out.len() > NAME_MAX || !copy.is_empty() {
        out.truncate(NAME_MAX);
        out.push('*');
    }
    out
}

fn script(names: &[String]) -> String {
    let mut text = String::from(
        "/* Functions that the runtime's commands execute, side by side: the kernel maps the neighbours of each page that is touched.\n   Made by `cargo xtask order`. */\nSECTIONS\n{\n  .text.hot : {\n",
    );
    for name in names {
        // So zig calls the sections of its own libraries when the binary is to have no symbols.
        let stripped = if name.starts_with("_R") {
            String::new()
        } else {
            format!(" .text..L{name}")
        };
        writeln!(text, "    *(.text.{name} .text.unlikely.{name}{stripped})").expect("a String takes all");
    }
    // The C library is small and stands apart otherwise; the tables of curves are large and only TLS and signatures read them.
    text + "    *.a:*(.text)\n  }\n} INSERT BEFORE .text;\n"
        + "SECTIONS { .rodata.curves : { *libring*:*(.rodata .rodata.*) } } INSERT AFTER .rodata;\n"
}

#[cfg(test)]
mod tests {
    use super::pattern;

    #[test]
    fn a_pattern_has_no_hash_of_a_crate() {
        let cases = [
            ("realpath", "realpath"),
            (
                "_RNvNtCs4KuGPAfUpeM_14punnet_runtime4plan4plan",
                "_RNvNtCs*_14punnet_runtime4plan4plan",
            ),
            (
                "_RNvXs_NtCs1jUobg4QUoi_10serde_core2deCsi7A8qWcZcND_6punnet",
                "_RNvXs_NtCs*_10serde_core2de*",
            ),
            (
                "_RNvNtCs1yuqCzwobP3_5alloc5boxed3new.1311",
                "_RNvNtCs*_5alloc5boxed3new*",
            ),
            (
                "_RINvNtCslNNIrMPnGi3_3std2io4copyNtNtB4_2fs4FileEB9z_",
                "_RINvNtCs*_3std2io4copyNtNtB*_2fs4FileEB*_",
            ),
        ];
        for (name, want) in cases {
            assert_eq!(pattern(name), want);
        }
    }
}
