//! The command line: one subcommand, one file.

mod aliases;
mod devices;
mod emulate;
mod eval;
mod finetune;
mod generate;
mod inspect;
mod kernels;
mod merge;
mod model;
mod processes;
mod quantize;
mod report;
mod safety;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::error::{Error, Result};
use report::{Report, say};

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
    Finetune(Box<finetune::Args>),
    Generate(generate::Args),
    Eval(eval::Args),
    Inspect(inspect::Args),
    Merge(merge::Args),
    Emulate(emulate::Args),
    Kernels(kernels::Args),
    Devices(devices::Args),
    Safety(safety::Args),
}

/// Runs the command line; 0: done, 1: failed, 2: usage, 3: not safe.
pub fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    let cli = Cli::parse_from(arguments);
    let report = Report { json: cli.json, quiet: cli.quiet };
    let done = match cli.command {
        Command::Finetune(args) => finetune::run(&args, &report),
        Command::Generate(args) => generate::run(&args, &report),
        Command::Eval(args) => eval::run(&args, &report),
        Command::Inspect(args) => inspect::run(&args, &report),
        Command::Merge(args) => merge::run(&args, &report),
        Command::Emulate(args) => emulate::run(&args, &report),
        Command::Kernels(args) => kernels::run(&args, &report),
        Command::Devices(args) => devices::run(&args, &report),
        Command::Safety(args) => match safety::run(&args, &report) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(code_of(&error))
        }
    }
}

/// What the process exits with: 75, try again, where another rank was lost, else 1.
fn code_of(error: &Error) -> u8 {
    if matches!(error, Error::Lost { .. }) { 75 } else { 1 }
}

/// The arguments of the process, those of `finetune` under our names.
fn arguments() -> Result<Vec<OsString>> {
    let given: Vec<OsString> = std::env::args_os().collect();
    let texts: Vec<&str> = given.iter().filter_map(|argument| argument.to_str()).collect();
    let command = texts.iter().skip(1).position(|text| !text.starts_with('-'));
    let Some((before, after)) = command.and_then(|at| texts.split_at_checked(at + 2)) else { return Ok(given) };
    let cli = Cli::command();
    match cli.find_subcommand("finetune") {
        Some(finetune) if before.ends_with(&["finetune"]) && texts.len() == given.len() => {
            let translated = aliases::translate(finetune, after)?;
            Ok(before.iter().map(OsString::from).chain(translated.into_iter().map(OsString::from)).collect())
        }
        _ => Ok(given),
    }
}

fn complain(error: &Error) {
    say(format_args!("error: {error}"));
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if !error.to_string().contains(&inner.to_string()) {
            say(format_args!("cause: {inner}"));
        }
        cause = inner.source();
    }
    if let Some(hint) = error.hint() {
        say(format_args!("hint: {hint}"));
    }
}

/// More than any machine has cores: so many start at once, where a hundred thousand take minutes.
const MOST_THREADS: usize = 4096;

/// Limits the CPU's threads to `--threads`.
fn limit_threads(threads: Option<usize>) -> Result<()> {
    let Some(threads) = threads else { return Ok(()) };
    if !(1..=MOST_THREADS).contains(&threads) {
        return Err(Error::input("--threads", format!("must be from 1 to {MOST_THREADS}, got {threads}")));
    }
    let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    built.map_err(|e| Error::input("--threads", e.to_string()))
}
