//! Work that recurs, launched as one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Cuda, Device};
use crate::error::Result;

/// Work of one kind, which is launched as a CUDA graph where its shape recurs.
///
/// The first time that a shape is seen, kernels run one by one; the second time they are recorded, and from then on the
/// recorded graph is launched, with the arguments and host bytes of the day. Nothing else changes, and no bit of the
/// result. A device that was not asked for [`Device::use_graphs`], or has none, runs kernels one by one every time.
#[derive(Debug)]
pub struct Graphs {
    /// What tells its shapes from those of others, on the device.
    own: Option<(u64, Arc<Cuda>)>,
    launches: u64,
}

impl Graphs {
    /// Those of some work on `device`.
    pub fn new(device: &Device) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let own = match device {
            Device::Cuda(cuda) if cuda.uses_graphs() => Some((NEXT.fetch_add(1, Ordering::Relaxed), cuda.clone())),
            _ => None,
        };
        Self { own, launches: 0 }
    }

    /// Does `work`, all of whose launches, copies and sizes `shape` must decide. What it waits for or reads back is
    /// refused: that comes after it. Memory that it leaves, apart from what the first time left, is to be dropped before
    /// the next time, or kernels run one by one then.
    ///
    /// # Errors
    /// Those of `work`; [`Error::Device`](crate::error::Error::Device) if it is not what it was the last time for this
    /// shape, or there is no room for it. Nothing of it was done then.
    pub fn run<R>(&mut self, shape: impl Hash, work: impl FnOnce() -> Result<R>) -> Result<R> {
        let Some((own, cuda)) = &self.own else { return work() };
        let mut hasher = DefaultHasher::new();
        (own, shape).hash(&mut hasher);
        let (done, as_graph) = cuda.as_graph(hasher.finish(), work)?;
        self.launches += u64::from(as_graph);
        Ok(done)
    }

    /// How many times all of the work was one launch, if it can be.
    pub fn launches(&self) -> Option<u64> {
        self.own.as_ref().map(|_| self.launches)
    }
}
