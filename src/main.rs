//! The `vicugna` binary.

fn main() -> std::process::ExitCode {
    vicugna::cli::main()
}
