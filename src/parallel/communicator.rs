//! What ranks say to each other.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::device::{Buffer, Device};
use crate::error::{Error, Result};

/// What one rank sends to another: buffers in host memory.
pub type Parts = Vec<Arc<Buffer>>;

/// An exchange under way.
pub trait Exchange: Send {
    /// Whether every rank has come to it; drives it on where nothing else does.
    ///
    /// # Errors
    /// As [`Exchange::wait`].
    fn test(&mut self) -> Result<bool>;

    /// What came from each rank, in their order.
    ///
    /// # Errors
    /// [`Error::Lost`] if a rank is gone, does not come in time, or came with something else.
    fn wait(self: Box<Self>) -> Result<Vec<Parts>>;
}

/// A rank's way to the others. All ranks call the same operations in the same order.
pub trait Communicator: Send + Sync {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn world_size(&self) -> usize;

    /// Starts to give `mine` to every rank. `what` names it in errors; `lengths` are the bytes of each part of each rank.
    ///
    /// # Errors
    /// As [`Exchange::wait`].
    fn all_gather(&self, what: &str, mine: Parts, lengths: &[Vec<usize>]) -> Result<Box<dyn Exchange>>;

    /// Starts to give `parts[r]` to rank r, of each rank. `lengths` are the bytes of what each rank sends to this one.
    ///
    /// # Errors
    /// As [`Exchange::wait`].
    fn all_to_all(&self, what: &str, parts: Vec<Parts>, lengths: &[Vec<usize>]) -> Result<Box<dyn Exchange>>;

    /// Ends the job of all ranks: those that are threads fail, and say `why`; processes exit with `code`.
    fn abort(&self, why: &str, code: i32);

    /// Leaves the job at its end, once all have come to this.
    fn leave(&self) {}
}

impl dyn Communicator + '_ {
    /// What each rank says, in their order.
    ///
    /// # Errors
    /// As [`Exchange::wait`].
    pub fn gather<T: Serialize + DeserializeOwned>(&self, what: &str, mine: &T) -> Result<Vec<T>> {
        let bad = |e: serde_json::Error| Error::lost(format!("{what}: {e}"));
        let mine = serde_json::to_vec(mine).map_err(bad)?;
        let length = Buffer::from_bytes(&Device::Cpu, &(mine.len() as u64).to_le_bytes())?;
        let lengths = vec![vec![size_of::<u64>()]; self.world_size()];
        let found = self.all_gather(what, vec![Arc::new(length)], &lengths)?.wait()?;
        let mut lengths = Vec::with_capacity(found.len());
        for parts in &found {
            let bytes = parts.first().map_or(Ok(&[][..]), |part| part.host())?;
            let length = bytes.try_into().map_err(|_| Error::lost(format!("{what}: no length")))?;
            lengths.push(vec![u64::from_le_bytes(length) as usize]);
        }
        let mine = Buffer::from_bytes(&Device::Cpu, &mine)?;
        let found = self.all_gather(what, vec![Arc::new(mine)], &lengths)?.wait()?;
        let read = |parts: &Parts| {
            let bytes = parts.first().map_or(Ok(&[][..]), |part| part.host())?;
            serde_json::from_slice(bytes).map_err(bad)
        };
        found.iter().map(read).collect()
    }

    /// What rank 0 says.
    ///
    /// # Errors
    /// As [`Exchange::wait`].
    pub fn broadcast<T: Serialize + DeserializeOwned>(&self, what: &str, mine: Option<&T>) -> Result<T> {
        let mine = mine.filter(|_| self.rank() == 0).map(serde_json::to_value).transpose();
        let said = self.gather(what, &mine.map_err(|e| Error::lost(format!("{what}: {e}")))?)?;
        let said =
            said.into_iter().next().flatten().ok_or_else(|| Error::lost(format!("{what}: rank 0 said nothing")))?;
        serde_json::from_value(said).map_err(|e| Error::lost(format!("{what}: {e}")))
    }
}
