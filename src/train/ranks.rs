//! A run of several ranks in one process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use super::progress::Progress;
use super::run::{Run, Summary};
use crate::error::{Error, Result};
use crate::parallel::{self, Communicator};

/// Makes `run` on so many ranks, each a thread with a device, and with threads of the CPU of its own: `threads` each, or an
/// equal share of all. Rank 0 is the one that speaks and writes. A rank that waits longer than `limit` for another gives up.
///
/// # Errors
/// Those of [`Run::finetune`], of the first rank that failed by itself; [`Error::Lost`] if a rank did not come.
pub fn finetune_on_threads(
    run: Run<'_>,
    ranks: usize,
    threads: Option<usize>,
    limit: Duration,
    stop: &AtomicBool,
    progress: Progress,
) -> Result<Summary> {
    let ways = parallel::threads(ranks, limit);
    let each = threads.unwrap_or_else(|| (rayon::current_num_threads() / ranks.max(1)).max(1));
    let mut runs = Vec::with_capacity(ways.len());
    for (rank, way) in ways.iter().enumerate() {
        let device = run.device.of_rank(rank)?;
        runs.push(Run { device, communicator: Some(way.clone()), ..run.clone() });
    }
    drop(run);
    let mut shown = Some(progress);
    let results: Vec<Result<Summary>> = thread::scope(|scope| {
        let start = |(run, way): (_, Arc<dyn Communicator>)| {
            let progress = shown.take().unwrap_or_else(|| Progress::new(true));
            scope.spawn(move || alone(run, &*way, each, stop, progress))
        };
        let started: Vec<_> = runs.into_iter().zip(ways).map(start).collect();
        let panicked = || Err(Error::lost("a rank panicked"));
        started.into_iter().map(|rank| rank.join().unwrap_or_else(|_| panicked())).collect()
    });
    first(results)
}

/// Makes a rank's run on threads of its own, and tells the others if it fails.
fn alone(
    run: Run<'_>,
    way: &dyn Communicator,
    threads: usize,
    stop: &AtomicBool,
    progress: Progress,
) -> Result<Summary> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| Error::input("--threads", e.to_string()))?;
    let done = catch_unwind(AssertUnwindSafe(|| pool.install(|| run.finetune(stop, progress))));
    let done = done.unwrap_or_else(|_| Err(Error::lost(format!("rank {} panicked", way.rank()))));
    done.inspect_err(|error| way.abort(&error.to_string(), 1))
}

/// What rank 0 came to, unless a rank failed: then the error of the first one that did so by itself.
fn first(results: Vec<Result<Summary>>) -> Result<Summary> {
    let is_own = |result: &Result<Summary>| matches!(result, Err(error) if !matches!(error, Error::Lost { .. }));
    let culprit = results.iter().position(is_own).or_else(|| results.iter().position(Result::is_err)).unwrap_or(0);
    results.into_iter().nth(culprit).unwrap_or_else(|| Err(Error::input("--ranks", "must be at least 1")))
}
