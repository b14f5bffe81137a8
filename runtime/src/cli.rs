//! The OCI runtime command line.
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command line behind `punnet oci` or `punnet-oci`.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    drop(args);
    ExitCode::from(125)
}
