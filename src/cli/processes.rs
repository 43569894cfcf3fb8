//! The other processes of a job, if this one was started as one of several.

#[cfg(feature = "mpi")]
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::parallel::launch::{self, Kind};
#[cfg(feature = "mpi")]
use crate::parallel::{Communicator, Mpi};

/// What other processes there are of this run.
pub(super) enum Processes {
    One,
    #[cfg(feature = "mpi")]
    Of(Arc<Mpi>),
}

/// Finds the other processes of this run, if there are some; none is waited for longer than `limit`.
pub(super) fn processes(kind: Option<Kind>, limit: Duration) -> Result<Processes> {
    let launched = launch::launched();
    match (kind, launched) {
        (Some(Kind::Threads), _) | (None, None) => Ok(Processes::One),
        (None | Some(Kind::Mpi), _) => join(limit, launched),
    }
}

#[cfg(not(feature = "mpi"))]
fn join(_: Duration, launched: Option<(usize, &str)>) -> Result<Processes> {
    let hint = "build it with --features mpi, or start one process with --ranks N; --communicator threads makes this one a run of \
                its own";
    Err(match launched {
        Some((size, variable)) => launch::strangers(size, variable, hint),
        None => Error::input("--communicator", "mpi is not in this binary").with_hint(hint),
    })
}

#[cfg(feature = "mpi")]
fn join(limit: Duration, launched: Option<(usize, &str)>) -> Result<Processes> {
    let job = Mpi::join(limit)?;
    if let (1, Some((size, variable))) = (job.world_size(), launched) {
        job.leave();
        let hint = format!(
            "start it with the mpirun of {}, or with srun --mpi=pmix; --communicator threads makes this process a run of its own",
            Mpi::library()
        );
        return Err(launch::strangers(size, variable, &hint));
    }
    Ok(Processes::Of(job))
}

/// Has one rank of each host do `work`, of which the others find the results; they wait for as long as it goes on.
///
/// # Errors
/// What `work` returns, on the rank that did it.
#[cfg(feature = "mpi")]
pub(super) fn once_a_host(job: &Mpi, work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    std::thread::scope(|scope| {
        let working = (job.local().0 == 0).then(|| scope.spawn(work));
        loop {
            let is_done = working.as_ref().is_none_or(|working| working.is_finished());
            let done = (job as &dyn Communicator).gather("what one rank of a host does", &is_done)?;
            if done.into_iter().all(|done| done) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let panicked = |_| Err(Error::lost("a rank panicked"));
        working.map_or(Ok(()), |working| working.join().unwrap_or_else(panicked))
    })
}
