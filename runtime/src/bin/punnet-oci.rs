//! The OCI runtime alone: what `punnet oci` and a link named `punnet-oci` run.
fn main() -> std::process::ExitCode {
    punnet_runtime::cli::main(std::env::args_os().skip(1))
}
