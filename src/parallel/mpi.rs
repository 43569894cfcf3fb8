//! Ranks that are processes, which an MPI launcher started.
//!
//! Every exchange is of messages between two ranks: each part goes from the memory it is in to the memory it is read from, and
//! what has arrived is known rank by rank, so a rank that does not come can be named.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::mem::forget;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::environment::initialize_with_threading;
use mpi::ffi;
use mpi::topology::Communicator as _;

use super::{Communicator, Exchange, Parts};
use crate::device::{Buffer, Device};
use crate::error::{Error, Result};

/// The longest message: its length is a C int.
const LONGEST: usize = 1 << 30;

/// How many tags tell exchanges apart; this one is no exchange's. Every MPI has as many.
const TAGS: c_int = 32_767;

/// How long a process may take to end the job before it ends itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// The exit code of a process that lost another.
const TRY_AGAIN: c_int = 75;

/// The job that this process is one rank of.
pub struct Mpi {
    rank: usize,
    ranks: usize,
    local: (usize, usize),
    limit: Duration,
    /// How many operations it has begun.
    calls: AtomicU64,
    progress: Arc<Progress>,
}

/// What drives messages on while the other threads compute: an MPI may move them only when it is called.
#[derive(Default)]
struct Progress {
    /// The exchanges under way.
    open: AtomicUsize,
    /// Whether MPI is at its end; locked while it is called.
    ends: Mutex<bool>,
}

impl Progress {
    fn run(&self, rank: c_int) {
        loop {
            thread::sleep(Duration::from_millis(1));
            let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
            if *ends {
                return;
            }
            if self.open.load(Ordering::Relaxed) > 0 {
                let mut found = 0;
                // SAFETY: MPI is initialized, for threads, and not at its end, which waits for the lock.
                unsafe { ffi::MPI_Iprobe(rank, TAGS, world(), &raw mut found, ignored()) };
            }
        }
    }
}

impl Mpi {
    /// Joins the job. A rank that waits longer than `limit` for another gives up, and so do all; one that panics takes the
    /// others with it.
    ///
    /// # Errors
    /// [`Error::Device`] if MPI is of no use to more than one thread, or was joined already.
    pub fn join(limit: Duration) -> Result<Arc<Self>> {
        let (universe, threading) = initialize_with_threading(Threading::Multiple)
            .ok_or_else(|| Error::device("mpi", "was initialized before"))?;
        if threading != Threading::Multiple {
            return Err(Error::device("mpi", "this MPI was built without threads"));
        }
        let world = universe.world();
        let host = world.split_shared(world.rank());
        let number = |n: i32| usize::try_from(n).unwrap_or(0);
        let (rank, ranks) = (number(world.rank()), number(world.size()));
        let local = (number(host.rank()), number(host.size()));
        // Dropped in an unwinding thread it would wait for the others, which wait for this one.
        forget((universe, world, host));
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            usual(panic);
            eprintln!("error: rank {rank} panicked");
            end_job(101);
        }));
        let progress = Arc::new(Progress::default());
        let driven = progress.clone();
        thread::spawn(move || driven.run(rank as c_int));
        Ok(Arc::new(Self { rank, ranks, local, limit, calls: AtomicU64::new(0), progress }))
    }

    /// The name and version of the MPI that this binary is linked with.
    pub fn library() -> String {
        let name = mpi::environment::library_version().unwrap_or_default();
        name.lines().next().unwrap_or("an MPI without a name").split(',').next().unwrap_or_default().to_string()
    }

    /// The number of this rank among those on its host, and how many those are.
    pub fn local(&self) -> (usize, usize) {
        self.local
    }

    /// Begins to send `parts[r]` to each other rank r, and to receive what has `lengths` from it.
    fn exchange(&self, what: &str, parts: Vec<Parts>, lengths: &[Vec<usize>]) -> Result<Box<dyn Exchange>> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let mut pending = Pending {
            what: what.into(),
            limit: self.limit,
            peers: Vec::new(),
            requests: Vec::new(),
            rank: self.rank,
            sent: parts,
            received: Vec::with_capacity(lengths.len()),
            progress: self.progress.clone(),
        };
        self.progress.open.fetch_add(1, Ordering::Relaxed);
        for lengths in lengths {
            let buffers = lengths.iter().map(|&length| Buffer::uninit(&Device::Cpu, length));
            pending.received.push(buffers.collect::<Result<_>>()?);
        }
        pending.begin((call % TAGS as u64) as c_int)?;
        Ok(Box::new(pending))
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.ranks
    }

    fn all_gather(&self, what: &str, mine: Parts, lengths: &[Vec<usize>]) -> Result<Box<dyn Exchange>> {
        self.exchange(what, vec![mine; self.ranks], lengths)
    }

    fn all_to_all(&self, what: &str, parts: Vec<Parts>, lengths: &[Vec<usize>]) -> Result<Box<dyn Exchange>> {
        self.exchange(what, parts, lengths)
    }

    fn abort(&self, _why: &str, code: i32) {
        end_job(code);
    }

    fn leave(&self) {
        *self.progress.ends.lock().unwrap_or_else(PoisonError::into_inner) = true;
        // SAFETY: `join` initialized MPI; this is called once, when no exchange is under way.
        unsafe { ffi::MPI_Finalize() };
    }
}

/// Ends all processes of the job, or where MPI does not come to that, this one.
fn end_job(code: c_int) {
    thread::spawn(|| {
        thread::sleep(PATIENCE);
        exit_now(TRY_AGAIN);
    });
    // SAFETY: MPI is initialized, and the constant is its own.
    let world = unsafe { ffi::RSMPI_COMM_WORLD };
    // SAFETY: it takes any communicator of an initialized MPI, on any thread of one that has threads.
    unsafe { ffi::MPI_Abort(world, code) };
}

/// Ends this process without MPI's own end, which would wait for the other ranks.
fn exit_now(code: c_int) {
    unsafe extern "C" {
        fn _exit(code: c_int) -> !;
    }
    // SAFETY: it takes any number and does not return.
    unsafe { _exit(code) }
}

/// An exchange under way.
struct Pending {
    what: String,
    limit: Duration,
    /// The other rank of each message.
    peers: Vec<usize>,
    requests: Vec<ffi::MPI_Request>,
    /// This rank, which sends no message to itself.
    rank: usize,
    /// What the messages to each rank are read from, and what those from each are written to.
    sent: Vec<Parts>,
    received: Vec<Vec<Buffer>>,
    progress: Arc<Progress>,
}

// SAFETY: requests are handles of an MPI that was initialized for threads; the buffers are Send.
unsafe impl Send for Pending {}

impl Pending {
    /// Begins to receive, and then to send, one message a part, or several where it is too long for one.
    fn begin(&mut self, tag: c_int) -> Result<()> {
        let Self { rank, peers, requests, sent, received, .. } = self;
        for (from, buffers) in received.iter_mut().enumerate().filter(|(from, _)| from != rank) {
            for buffer in buffers {
                for piece in buffer.host_mut()?.chunks_mut(LONGEST) {
                    let (at, length, mut request) = (piece.as_mut_ptr().cast(), piece.len() as c_int, null());
                    // SAFETY: `piece` is of `received`, which stays until the request is done, or for ever (`Drop`).
                    unsafe { ffi::MPI_Irecv(at, length, byte(), from as c_int, tag, world(), &raw mut request) };
                    peers.push(from);
                    requests.push(request);
                }
            }
        }
        for (to, parts) in sent.iter().enumerate().filter(|(to, _)| to != rank) {
            for part in parts {
                for piece in part.host()?.chunks(LONGEST) {
                    let (at, length, mut request) = (piece.as_ptr().cast(), piece.len() as c_int, null());
                    // SAFETY: `piece` is of `sent`, which stays, unchanged, until the request is done, or for ever (`Drop`).
                    unsafe { ffi::MPI_Isend(at, length, byte(), to as c_int, tag, world(), &raw mut request) };
                    peers.push(to);
                    requests.push(request);
                }
            }
        }
        Ok(())
    }

    /// The ranks of which something has not arrived, or not left.
    fn missing(&self) -> Vec<usize> {
        let open = self.peers.iter().zip(&self.requests).filter(|(_, request)| **request != null());
        let mut missing: Vec<usize> = open.map(|(peer, _)| *peer).collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    /// Whether this and that message is through.
    fn is_done(&mut self) -> bool {
        for request in self.requests.iter_mut().filter(|request| **request != null()) {
            let mut done = 0;
            // SAFETY: the request is one of MPI's, which this makes null once it is done.
            unsafe { ffi::MPI_Test(&raw mut *request, &raw mut done, ignored()) };
        }
        self.requests.iter().all(|request| *request == null())
    }
}

impl Exchange for Pending {
    fn test(&mut self) -> Result<bool> {
        Ok(self.is_done())
    }

    fn wait(mut self: Box<Self>) -> Result<Vec<Parts>> {
        let begun = Instant::now();
        while !self.is_done() {
            let waited = begun.elapsed();
            if waited > self.limit {
                let missing: Vec<String> = self.missing().iter().map(usize::to_string).collect();
                let (missing, seconds) = (missing.join(", "), self.limit.as_secs());
                return Err(Error::lost(format!("{}: rank {missing} did not come in {seconds} s", self.what)));
            }
            // Short waits are in a hurry; long ones leave the core to those that compute.
            match waited.as_micros() {
                0..200 => thread::yield_now(),
                200..10_000 => thread::sleep(Duration::from_micros(50)),
                _ => thread::sleep(Duration::from_millis(1)),
            }
        }
        let mine = self.sent.get(self.rank).cloned().unwrap_or_default();
        let received = std::mem::take(&mut self.received).into_iter().enumerate();
        let shared = |buffers: Vec<Buffer>| buffers.into_iter().map(Arc::new).collect();
        Ok(received.map(|(from, buffers)| if from == self.rank { mine.clone() } else { shared(buffers) }).collect())
    }
}

impl Drop for Pending {
    /// Memory that messages may still use is never freed.
    fn drop(&mut self) {
        self.progress.open.fetch_sub(1, Ordering::Relaxed);
        if self.requests.iter().any(|request| *request != null()) {
            forget(std::mem::take(&mut self.sent));
            forget(std::mem::take(&mut self.received));
        }
    }
}

fn world() -> ffi::MPI_Comm {
    // SAFETY: a constant of the linked MPI.
    unsafe { ffi::RSMPI_COMM_WORLD }
}

fn byte() -> ffi::MPI_Datatype {
    // SAFETY: a constant of the linked MPI.
    unsafe { ffi::RSMPI_UINT8_T }
}

fn null() -> ffi::MPI_Request {
    // SAFETY: a constant of the linked MPI.
    unsafe { ffi::RSMPI_REQUEST_NULL }
}

fn ignored() -> *mut ffi::MPI_Status {
    // SAFETY: a constant of the linked MPI.
    unsafe { ffi::RSMPI_STATUS_IGNORE }
}
