//! `vicugna finetune`: a model learns from records.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::model::{BaseArgs, find_adapter, with_adapter};
use super::quantize::usage;
use super::report::{Report, say};
use crate::error::{Error, Result};
use crate::train::{Options, Progress, Run};

/// Train an adapter, or with --full the model itself, on records
///
/// JumpStart's, llama-recipes', transformers', TRL's and LLaMA-Factory's names of these options are understood too, with
/// dashes or underscores, and values like True and False.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: BaseArgs,
    /// What to learn: JSON lines, JSON, csv, txt, or a JumpStart folder
    #[arg(long, value_name = "FILE|DIR")]
    train: PathBuf,
    /// What to evaluate on, instead of a part of --train
    #[arg(long, value_name = "FILE|DIR")]
    eval: Option<PathBuf>,
    /// The folder of the results
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    options: Options,
    /// Go on with the run in --out from its last checkpoint, to the bits it would have come to
    #[arg(long)]
    resume: bool,
    /// Take options from here, under the same names with underscores; those on the command line win
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
}

/// Set by Ctrl-C and SIGTERM.
static STOP: AtomicBool = AtomicBool::new(false);

pub(super) fn run(args: &Args, report: &Report) -> Result<()> {
    stop_on_signals()?;
    let mut files = args.model.find(report)?;
    if args.options.full && files.quantization().is_some() {
        usage(format!("--full trains all weights, and those in {} are frozen", files.quantization().in_words()));
    }
    if let Some(name) = &args.options.init_adapter {
        files = with_adapter(files, &find_adapter(name, report)?, report)?;
    }
    if let Some(template) = &args.options.data.chat_template {
        files = files.with_chat_template(template)?;
    }
    let (device, dtype) = args.model.place()?;
    let run = Run {
        model: args.model.model.clone(),
        files: &files,
        device,
        dtype,
        seed: args.model.seed,
        train: args.train.clone(),
        eval: args.eval.clone(),
        out: args.out.clone(),
        resume: args.resume,
        options: args.options.clone(),
    };
    let summary = run.finetune(&STOP, Progress::new(report.quiet))?;
    report.result(&summary, || {
        let evaluated = summary.eval_loss.zip(summary.eval_perplexity);
        let evaluated =
            evaluated.map(|(loss, perplexity)| format!(", evaluation loss {loss:.4}, perplexity {perplexity:.3}"));
        let (out, steps, evaluated) = (summary.out.display(), summary.steps, evaluated.unwrap_or_default());
        format!(
            "{out}: {steps} steps, training loss {:.4}{evaluated}, {:.0} tokens/s",
            summary.train_loss, summary.tokens_per_second
        )
    })
}

/// The first signal asks the run to stop after its step; another one, a second later or more, ends the process. Sooner it
/// is the same request once more: `timeout` for one signals a process and then its group.
fn stop_on_signals() -> Result<()> {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let handler = || {
        if !STOP.swap(true, Ordering::Relaxed) {
            say("stopping after this step; once more to stop at once");
        }
        if FIRST.get_or_init(Instant::now).elapsed() > Duration::from_secs(1) {
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(handler).map_err(|e| Error::input("signals", e.to_string()))
}
