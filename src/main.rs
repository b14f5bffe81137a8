//! The device binary: one file, several faces.
//!
//! `punnet VERB` speaks to people with Docker's habits ([`verbs`]); `punnet oci VERB`, or a link named `punnet-oci`, speaks to container
//! engines (`punnet_runtime::cli`); `punnet agent` is the fleet's hand on a device (`punnet_agent`).
//!
//! **Invariant:** nothing here is asynchronous and nothing here starts a thread: the runtime clones this very process.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(feature = "images"),
    allow(dead_code, reason = "the runtime alone has none of the verbs that use it")
)]

#[cfg(feature = "agent")]
mod apps;
#[cfg(feature = "images")]
mod container;
#[cfg(feature = "images")]
mod doctor;
mod error;
mod help;
#[cfg(feature = "images")]
mod id_ranges;
#[cfg(feature = "agent")]
mod install;
mod roots;
mod verbs;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use error::{CliError, Result};
use lexopt::Arg;
use roots::Roots;

fn main() -> ExitCode {
    // A handler that cannot be installed is no reason to do nothing.
    #[cfg(feature = "runtime")]
    punnet_sys::report_traps().ok();
    let mut args = std::env::args_os();
    let called_as = args.next().unwrap_or_default();
    if Path::new(&called_as)
        .file_name()
        .is_some_and(|name| name == "punnet-oci")
    {
        return punnet_runtime::cli::main(args);
    }
    // The kernel calls /init so, with words of its command line that it has no use for itself.
    #[cfg(feature = "init")]
    if called_as == "/init" && std::process::id() == 1 {
        return dispatch(["init".into()].into_iter()).unwrap_or_else(|error| report(&error));
    }
    dispatch(args).unwrap_or_else(|error| report(&error))
}

fn report(error: &CliError) -> ExitCode {
    error::print_chain(error);
    ExitCode::from(error.exit_code())
}

/// Reads what stands before the verb and hands the rest to it.
fn dispatch(args: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    let args: Vec<OsString> = args.collect();
    let mut parser = lexopt::Parser::from_args(args.iter().cloned());
    let mut roots = Roots::default();
    let mut words_before = 0;
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("data-root") => roots.data = Some(parser.value()?.into()),
            Arg::Long("run-root") => roots.run = Some(parser.value()?.into()),
            Arg::Short('h') | Arg::Long("help") => return Ok(help::print_overview()),
            Arg::Short('V') | Arg::Long("version") => return Ok(help::print_version()),
            Arg::Value(verb) => {
                // The parser has taken the verb and all before it: the runtime reads its own command line.
                words_before = args.iter().position(|word| *word == verb).unwrap_or(words_before) + 1;
                if verb == "oci" {
                    return Ok(punnet_runtime::cli::main(args.into_iter().skip(words_before)));
                }
                // Whoever waits for signals by a descriptor blocks them, and its children inherit that: a container could not be stopped.
                nix::sys::signal::SigSet::empty().thread_set_mask().ok();
                return verbs::find(&verb)?.run(&roots, parser);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    help::print_overview();
    Ok(ExitCode::from(error::USAGE))
}
