//! Ranks that are threads of one process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Communicator, Exchange, Parts};
use crate::error::{Error, Result};

/// The ways of `ranks` threads to each other. A rank that waits longer than `limit` for another gives up, and so do all.
pub fn threads(ranks: usize, limit: Duration) -> Vec<Arc<dyn Communicator>> {
    let room = Arc::new(Room { ranks, limit, state: Mutex::default(), changed: Condvar::new() });
    let thread =
        |rank| Arc::new(Thread { rank, calls: AtomicU64::new(0), room: room.clone() }) as Arc<dyn Communicator>;
    (0..ranks).map(thread).collect()
}

/// Where the threads meet.
struct Room {
    ranks: usize,
    limit: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The operations that not all ranks are through with, by their number.
    calls: BTreeMap<u64, Call>,
    /// Why the job is over.
    failed: Option<String>,
}

/// One operation of all ranks.
struct Call {
    what: String,
    given: BTreeMap<usize, Given>,
    taken: usize,
}

/// What a rank gave.
enum Given {
    /// To all.
    All(Parts),
    /// To each, in the order of ranks.
    Each(Vec<Parts>),
}

struct Thread {
    rank: usize,
    /// How many operations it has begun.
    calls: AtomicU64,
    room: Arc<Room>,
}

/// A thread's part in an operation.
struct Pending {
    rank: usize,
    call: u64,
    /// The bytes of each part that each rank must have sent.
    lengths: Vec<Vec<usize>>,
    room: Arc<Room>,
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the job, unless it is over, and tells all.
    fn fail(&self, state: &mut State, why: String) -> Error {
        let why = state.failed.get_or_insert(why).clone();
        self.changed.notify_all();
        Error::lost(why)
    }
}

impl Thread {
    fn start(&self, what: &str, given: Given, lengths: &[Vec<usize>]) -> Result<Box<dyn Exchange>> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let (room, rank) = (&self.room, self.rank);
        let mut state = room.lock();
        if let Some(why) = &state.failed {
            return Err(Error::lost(why));
        }
        let new = || Call { what: what.into(), given: BTreeMap::new(), taken: 0 };
        let call = state.calls.entry(number).or_insert_with(new);
        if let Some((other, was)) = call.given.keys().next().zip(Some(&call.what)).filter(|(_, was)| *was != what) {
            let why = format!("rank {rank} is at {what}, rank {other} at {was}");
            return Err(room.fail(&mut state, why));
        }
        call.given.insert(rank, given);
        room.changed.notify_all();
        drop(state);
        Ok(Box::new(Pending { rank, call: number, lengths: lengths.to_vec(), room: room.clone() }))
    }
}

impl Communicator for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.room.ranks
    }

    fn all_gather(&self, what: &str, mine: Parts, lengths: &[Vec<usize>]) -> Result<Box<dyn Exchange>> {
        self.start(what, Given::All(mine), lengths)
    }

    fn all_to_all(&self, what: &str, parts: Vec<Parts>, lengths: &[Vec<usize>]) -> Result<Box<dyn Exchange>> {
        self.start(what, Given::Each(parts), lengths)
    }

    fn abort(&self, why: &str, _code: i32) {
        let mut state = self.room.lock();
        self.room.fail(&mut state, format!("rank {}: {why}", self.rank));
    }
}

impl Pending {
    fn is_there(&self, state: &State) -> bool {
        state.calls.get(&self.call).is_some_and(|call| call.given.len() == self.room.ranks)
    }

    /// What the others gave to this rank; the last one to take it ends the operation.
    fn take(&self, state: &mut State) -> Result<Vec<Parts>> {
        let gone = || Error::lost("an operation that is over");
        let call = state.calls.get_mut(&self.call).ok_or_else(gone)?;
        let to_me = |given: &Given| match given {
            Given::All(parts) => parts.clone(),
            Given::Each(parts) => parts.get(self.rank).cloned().unwrap_or_default(),
        };
        let found: Vec<Parts> = call.given.values().map(to_me).collect();
        let what = call.what.clone();
        call.taken += 1;
        if call.taken == self.room.ranks {
            state.calls.remove(&self.call);
        }
        let sizes = |parts: &Parts| parts.iter().map(|part| part.bytes()).collect::<Vec<_>>();
        match found.iter().zip(&self.lengths).position(|(parts, wanted)| sizes(parts) != *wanted) {
            None => Ok(found),
            Some(from) => {
                let (sent, wanted) = (sizes(&found[from]), &self.lengths[from]);
                let why = format!("{what}: rank {from} sent {sent:?} bytes, rank {} expects {wanted:?}", self.rank);
                Err(self.room.fail(state, why))
            }
        }
    }

    /// The error of ranks that did not come.
    fn missing(&self, state: &mut State) -> Error {
        let call = state.calls.get(&self.call);
        let what = call.map_or("an operation", |call| &call.what).to_string();
        let came = |rank: &usize| call.is_some_and(|call| call.given.contains_key(rank));
        let missing: Vec<String> =
            (0..self.room.ranks).filter(|rank| !came(rank)).map(|rank| rank.to_string()).collect();
        let (missing, seconds) = (missing.join(", "), self.room.limit.as_secs());
        self.room.fail(state, format!("{what}: rank {missing} did not come in {seconds} s"))
    }
}

impl Exchange for Pending {
    fn test(&mut self) -> Result<bool> {
        let state = self.room.lock();
        match &state.failed {
            Some(why) => Err(Error::lost(why)),
            None => Ok(self.is_there(&state)),
        }
    }

    fn wait(self: Box<Self>) -> Result<Vec<Parts>> {
        let end = Instant::now() + self.room.limit;
        let mut state = self.room.lock();
        loop {
            if let Some(why) = &state.failed {
                return Err(Error::lost(why));
            }
            if self.is_there(&state) {
                return self.take(&mut state);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.missing(&mut state));
            }
            state = self.room.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
