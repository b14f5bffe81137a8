//! The fleet controller's command line; everything is in the library.

fn main() -> std::process::ExitCode {
    punnet_fleet::cli::main()
}
