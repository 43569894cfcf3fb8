//! `vicugna safety`: what checkers say of a text.

use std::process::ExitCode;

use serde::Serialize;

use super::model::ModelArgs;
use super::report::Report;
use crate::error::{Error, Result};
use crate::safety::guard::{Guard, Profile};
use crate::safety::{Checker, Judgement, Outcome, Role, Turn, Verdict, judge};

/// Ask checkers whether a text is safe
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Check(CheckArgs),
}

/// Judge one text; exits with 0 if every checker ran and said safe, 3 if one found something, 1 if one cannot judge
#[derive(clap::Args)]
struct CheckArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Who judges, between commas
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    checkers: Vec<Name>,
    /// What the guard is told and how it answers: llama-guard-1, llama-guard-2, llama-guard-3, or a file of TOML
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "llama-guard-3")]
    profile: String,
    /// The probability from which on what the guard finds counts
    #[arg(long, default_value_t = 0.5, allow_negative_numbers = true)]
    threshold: f64,
    /// Whose text it is
    #[arg(long, value_enum, default_value = "user")]
    role: Role,
    /// What the agent was asked, whose answer the text is
    #[arg(long, required_if_eq("role", "agent"), allow_hyphen_values = true)]
    user_prompt: Option<String>,
    /// The text
    #[arg(allow_hyphen_values = true)]
    text: String,
}

/// The checkers there are.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Name {
    /// A Llama that was trained to judge, with --model
    LlamaGuard,
}

#[derive(Serialize)]
struct Checked {
    outcome: Outcome,
    checks: Vec<Judgement>,
}

pub(super) fn run(args: &Args, report: &Report) -> Result<ExitCode> {
    match &args.command {
        Command::Check(args) => check(args, report),
    }
}

fn check(args: &CheckArgs, report: &Report) -> Result<ExitCode> {
    let profile = Profile::find(&args.profile)?;
    let turn = |role, text: &str| Turn { role, text: text.into() };
    let turns = match (args.role, &args.user_prompt) {
        (Role::User, None) => vec![turn(Role::User, &args.text)],
        (Role::User, Some(_)) => {
            let hint = "add --role agent, or leave it out";
            return Err(Error::input("--user-prompt", "is of no use to judge the user's text").with_hint(hint));
        }
        (Role::Agent, prompt) => {
            vec![turn(Role::User, prompt.as_deref().unwrap_or_default()), turn(Role::Agent, &args.text)]
        }
    };
    let files = args.model.find(report)?;
    let tokenizer = files.tokenizer()?;
    let model = args.model.load_frozen(&files, report)?;
    model.freeze()?;
    let mut checkers: Vec<Box<dyn Checker + '_>> = Vec::new();
    for name in &args.checkers {
        match name {
            Name::LlamaGuard => {
                checkers.push(Box::new(Guard::new(&model, &tokenizer, profile.clone(), args.threshold)?));
            }
        }
    }
    let checks = judge(&mut checkers, &turns, args.role);
    let outcome = Outcome::of(&checks);
    report.result(&Checked { outcome, checks: checks.clone() }, || lines(&checks))?;
    Ok(ExitCode::from(match outcome {
        Outcome::Safe => 0,
        Outcome::Unsafe => 3,
        Outcome::CannotJudge | Outcome::Unchecked => 1,
    }))
}

/// A line for each checker.
fn lines(checks: &[Judgement]) -> String {
    let line = |check: &Judgement| {
        let score = check.score.map_or(String::new(), |score| format!(" ({score:.4})"));
        let said = match &check.verdict {
            Verdict::Safe => format!("safe{score}"),
            Verdict::Unsafe { categories } => {
                let named = categories.iter().map(|category| format!(" {} {}", category.code, category.name));
                format!("unsafe{score}:{}", named.collect::<Vec<_>>().join(","))
            }
            Verdict::CannotJudge { why } => format!("cannot judge: {why}"),
        };
        format!("{}: {said}", check.checker)
    };
    checks.iter().map(line).collect::<Vec<_>>().join("\n")
}
