//! `vicugna finetune`: a model learns from records.

use std::path::PathBuf;
#[cfg(feature = "mpi")]
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[cfg(unix)]
use signal_hook::{consts::SIGUSR1, iterator::Signals};

use super::model::{BaseArgs, find_adapter, with_adapter};
#[cfg(feature = "mpi")]
use super::processes::once_a_host;
use super::processes::{Processes, processes};
use super::quantize::usage;
use super::report::{Report, say};
use crate::error::{Error, Result};
use crate::parallel::Strategy;
#[cfg(feature = "mpi")]
use crate::parallel::launch;
#[cfg(feature = "mpi")]
use crate::parallel::{Communicator, Mpi};
use crate::train::{Options, Progress, Run, Summary, finetune_on_threads};

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
    /// Let every rank speak, not rank 0 alone
    #[arg(long)]
    log_all_ranks: bool,
    /// Take options from here, under the same names with underscores; those on the command line win
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
}

/// Set by Ctrl-C, SIGTERM and SIGUSR1.
static STOP: AtomicBool = AtomicBool::new(false);

pub(super) fn run(args: &Args, report: &Report) -> Result<()> {
    stop_on_signals()?;
    match processes(args.options.communicator, Duration::from_secs(args.options.timeout))? {
        Processes::One => run_here(args, report),
        #[cfg(feature = "mpi")]
        Processes::Of(job) => run_as_rank(args, report, &job),
    }
}

/// Makes this process' part of the run; an error of one ends all.
#[cfg(feature = "mpi")]
fn run_as_rank(args: &Args, report: &Report, job: &Arc<Mpi>) -> Result<()> {
    let quiet = report.quiet || (job.rank() > 0 && !args.log_all_ranks);
    let report = Report { quiet, json: report.json };
    let done = part(args, &report, job);
    match &done {
        Ok(()) => job.leave(),
        Err(error) => {
            // The same error everywhere is rank 0's to tell.
            std::thread::sleep(Duration::from_millis(if job.rank() == 0 { 0 } else { 1500 }));
            say(format_args!("rank {}:", job.rank()));
            super::complain(error);
            job.abort(&error.to_string(), super::code_of(error).into());
        }
    }
    done
}

#[cfg(feature = "mpi")]
fn part(args: &Args, report: &Report, job: &Arc<Mpi>) -> Result<()> {
    for asked in (&**job as &dyn Communicator).gather("--ranks", &args.options.ranks)? {
        launch::refuse_other(asked, job.world_size())?;
    }
    if args.model.threads().is_none() {
        // The cores of a host are shared out among its ranks.
        super::limit_threads(Some((launch::cores() / job.local().1.max(1)).max(1)))?;
    }
    once_a_host(job, || {
        args.model.fetch(report)?;
        args.options.init_adapter.iter().try_for_each(|name| find_adapter(name, report).map(drop))
    })?;
    prepared(args, report, |run| {
        let device = run.device.of_rank(job.local().0)?;
        let run = Run { device, communicator: Some(job.clone()), ..run };
        let summary = run.finetune(&STOP, Progress::new(report.quiet))?;
        if job.rank() == 0 { tell(&summary, report) } else { Ok(()) }
    })
}

fn run_here(args: &Args, report: &Report) -> Result<()> {
    let threads = args.model.threads();
    prepared(args, report, |run| {
        let (ranks, limit) = (args.options.ranks, Duration::from_secs(args.options.timeout));
        let progress = Progress::new(report.quiet);
        let summary = match (ranks, args.options.shard) {
            (None | Some(0 | 1), Strategy::None) => run.finetune(&STOP, progress)?,
            _ => finetune_on_threads(run, ranks.unwrap_or(1), threads, limit, &STOP, progress)?,
        };
        tell(&summary, report)
    })
}

/// Hands the run that `args` describe to `start`.
fn prepared(args: &Args, report: &Report, start: impl FnOnce(Run<'_>) -> Result<()>) -> Result<()> {
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
    start(Run {
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
        communicator: None,
    })
}

fn tell(summary: &Summary, report: &Report) -> Result<()> {
    report.result(summary, || {
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
    ctrlc::set_handler(handler).map_err(|e| Error::input("signals", e.to_string()))?;
    stop_before_the_end()
}

/// SIGUSR1 asks the run to stop after its step, as often as it comes: schedulers send it a while before they end a job, and
/// mpirun hands it to every rank.
#[cfg(unix)]
fn stop_before_the_end() -> Result<()> {
    let failed = |e: std::io::Error| Error::input("signals", e.to_string());
    let mut signals = Signals::new([SIGUSR1]).map_err(failed)?;
    std::thread::spawn(move || signals.forever().for_each(|_| STOP.store(true, Ordering::Relaxed)));
    Ok(())
}

#[cfg(not(unix))]
fn stop_before_the_end() -> Result<()> {
    Ok(())
}
