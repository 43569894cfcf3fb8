//! The command line: one subcommand, one file.

mod devices;
mod generate;
mod inspect;
mod merge;
mod model;
mod report;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};
use report::Report;

/// Fine-tune and run Llama on hand-written kernels.
#[derive(Parser)]
#[command(name = "vicugna", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object on stdout and nothing else there
    #[arg(long, global = true)]
    json: bool,
    /// No progress and no messages on stderr
    #[arg(long, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    Generate(generate::Args),
    Inspect(inspect::Args),
    Merge(merge::Args),
    Devices(devices::Args),
}

/// Runs the command line; 0: done, 1: failed, 2: usage.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let report = Report { json: cli.json, quiet: cli.quiet };
    let done = match cli.command {
        Command::Generate(args) => generate::run(&args, &report),
        Command::Inspect(args) => inspect::run(&args, &report),
        Command::Merge(args) => merge::run(&args, &report),
        Command::Devices(args) => devices::run(&args, &report),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn complain(error: &Error) {
    eprintln!("error: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if !error.to_string().contains(&inner.to_string()) {
            eprintln!("cause: {inner}");
        }
        cause = inner.source();
    }
    if let Some(hint) = error.hint() {
        eprintln!("hint: {hint}");
    }
}

/// Limits the CPU's threads to `--threads`.
fn limit_threads(threads: Option<usize>) -> Result<()> {
    let Some(threads) = threads else { return Ok(()) };
    if threads == 0 {
        return Err(Error::input("--threads", "must be at least 1"));
    }
    let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    built.map_err(|e| Error::input("--threads", e.to_string()))
}
