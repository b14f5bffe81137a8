//! The device binary: one file, several faces. `punnet VERB` speaks to people, `punnet oci VERB` (or a link named `punnet-oci`) to
//! container engines.
fn main() -> std::process::ExitCode {
    let mut args = std::env::args_os();
    let called_as = args.next().unwrap_or_default();
    if std::path::Path::new(&called_as).file_name().is_some_and(|name| name == "punnet-oci") {
        return punnet_runtime::cli::main(args);
    }
    match args.next() {
        Some(verb) if verb == "oci" => punnet_runtime::cli::main(args),
        _ => std::process::ExitCode::from(125),
    }
}
