//! Work that recurs, recorded as a CUDA graph and followed from then on.
//!
//! The first time that a key is seen its work runs as ever; the second time each call becomes a node of a graph, which is
//! launched in the end. From then on the same code makes the same calls, and each is compared with the one that was
//! recorded in its place: allocations return the addresses of their nodes, arguments, addresses and host bytes that
//! changed are changed in the graph, and in the end it is launched again. A call of another kind, kernel or size is
//! refused: nothing of the work has been queued then.
//!
//! Work frees what it allocates, or leaves it to be freed after the launch and before the next one: while any of it is
//! held, the work runs as ever. Other memory that it drops is freed after the launch.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError};

use super::graph::{Graph, KernelCall, Node, Source, Staged};

/// Graphs that are kept.
const MOST_GRAPHS: usize = 64;
/// Another takes the place of the one that was not used for longest, if that is so many times of work ago. Sooner would
/// cost more than it wins: where shapes come round that are more than are kept, none would be there when it is needed.
const KEPT_FOR: u64 = 1024;
/// Keys that are remembered.
const MOST_KEYS: usize = 1 << 16;

/// A call on the compute stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Allocate { bytes: usize },
    Free { ptr: u64 },
    ToDevice { dst: u64, bytes: usize },
    OnDevice { dst: u64, src: u64, bytes: usize },
    Set { dst: u64, value: u8, bytes: usize },
    Launch { kernel: String, call: KernelCall },
}

/// Why a call, or all of the work, could not be recorded.
#[derive(Debug)]
pub enum Refused {
    /// The driver's error.
    Driver(DriverError),
    /// The work is not what was recorded, in words.
    Differs(String),
}

impl From<DriverError> for Refused {
    fn from(error: DriverError) -> Self {
        Self::Driver(error)
    }
}

type Result<T, E = Refused> = std::result::Result<T, E>;

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Allocate { bytes } => write!(f, "allocates {bytes} bytes"),
            Self::Free { ptr } => write!(f, "frees the memory at {ptr:#x}"),
            Self::ToDevice { bytes, .. } => write!(f, "copies {bytes} bytes to the device"),
            Self::OnDevice { bytes, .. } => write!(f, "copies {bytes} bytes on the device"),
            Self::Set { bytes, .. } => write!(f, "sets {bytes} bytes"),
            Self::Launch { kernel, .. } => write!(f, "launches {kernel}"),
        }
    }
}

impl Call {
    /// Whether a graph with this call can be changed to have the other in its place.
    fn can_become(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::ToDevice { bytes: a, .. }, Self::ToDevice { bytes: b, .. })
            | (Self::OnDevice { bytes: a, .. }, Self::OnDevice { bytes: b, .. }) => a == b,
            (Self::Launch { call: a, .. }, Self::Launch { call: b, .. }) => a.function == b.function,
            _ => self == other,
        }
    }
}

/// A call and its node.
#[derive(Debug)]
struct Entry {
    call: Call,
    node: Node,
    /// The address that an allocation returned.
    ptr: u64,
    /// Where a copy's host bytes are.
    staged: Option<Staged>,
}

/// A graph and the calls that it stands for.
#[derive(Debug)]
struct Work {
    key: u64,
    graph: Graph,
    entries: Vec<Entry>,
    /// When its last launch is over.
    launched: Option<CudaEvent>,
    /// When it was begun last, in times of work.
    begun: u64,
}

impl Work {
    fn new(key: u64, context: &Arc<CudaContext>) -> Result<Self> {
        Ok(Self { key, graph: Graph::new(context)?, entries: Vec::new(), launched: None, begun: 0 })
    }

    /// Adds a call.
    fn record(&mut self, call: Call, data: &[u8]) -> Result<u64> {
        let (graph, mut ptr, mut staged) = (&mut self.graph, 0, None);
        let node = match &call {
            Call::Allocate { bytes } => {
                let node;
                (node, ptr) = graph.allocate(*bytes)?;
                node
            }
            Call::Free { ptr } => graph.free(*ptr)?,
            Call::ToDevice { dst, bytes } => {
                let place = graph.staging(*bytes)?;
                graph.stage(place, data)?;
                staged = Some(place);
                graph.copy(*dst, Source::Staged(place), *bytes)?
            }
            Call::OnDevice { dst, src, bytes } => graph.copy(*dst, Source::Device(*src), *bytes)?,
            Call::Set { dst, value, bytes } => graph.set(*dst, *value, *bytes)?,
            Call::Launch { call, .. } => graph.launch(call)?,
        };
        self.entries.push(Entry { call, node, ptr, staged });
        Ok(ptr)
    }

    /// Makes the call number `at` what it is this time.
    fn follow(&mut self, at: usize, call: Call, data: &[u8]) -> Result<u64> {
        let Some(entry) = self.entries.get_mut(at) else {
            return Err(Refused::Differs(format!("call {at} {call}, where the work had ended")));
        };
        if !entry.call.can_become(&call) {
            return Err(Refused::Differs(format!("call {at} {call}, where the work {}", entry.call)));
        }
        let source = entry.staged.map(Source::Staged);
        if let Some(staged) = entry.staged {
            self.graph.stage(staged, data)?;
        }
        if entry.call != call {
            match (&call, source) {
                (Call::ToDevice { dst, bytes }, Some(source)) => {
                    self.graph.change_copy(entry.node, *dst, source, *bytes)?;
                }
                (Call::OnDevice { dst, src, bytes }, _) => {
                    self.graph.change_copy(entry.node, *dst, Source::Device(*src), *bytes)?;
                }
                (Call::Launch { call, .. }, _) => self.graph.change_launch(entry.node, call)?,
                _ => {}
            }
            entry.call = call;
        }
        Ok(entry.ptr)
    }

    /// The most bytes that it holds at once.
    fn peak(&self) -> usize {
        let (mut held, mut used, mut most) = (HashMap::new(), 0, 0);
        for entry in &self.entries {
            match entry.call {
                Call::Allocate { bytes } => {
                    held.insert(entry.ptr, bytes);
                    used += bytes;
                }
                Call::Free { ptr } => used -= held.remove(&ptr).unwrap_or(0),
                _ => {}
            }
            most = most.max(used);
        }
        most
    }

    fn launch(&mut self, stream: &CudaStream) -> Result<(), DriverError> {
        self.graph.instantiate()?;
        self.graph.queue(stream)?;
        self.launched = Some(stream.record_event(None)?);
        Ok(())
    }
}

/// Waits for the launch that may still read its host memory.
impl Drop for Work {
    fn drop(&mut self) {
        if let Some(launched) = &self.launched {
            let _ = launched.synchronize(); // what failed is told by the next call that can
        }
    }
}

/// Work that is being recorded or followed.
#[derive(Debug)]
struct Section {
    work: Work,
    /// The number of the next call that is to be followed.
    next: Option<usize>,
    /// Memory of this work that is in use.
    held: HashSet<u64>,
    /// Memory of others to be freed after it.
    later: Vec<u64>,
    /// What went wrong, after which nothing of it can be launched.
    broken: Option<String>,
}

impl Section {
    fn call(&mut self, call: Call, data: &[u8]) -> Result<u64> {
        if let Some(broken) = &self.broken {
            return Err(Refused::Differs(broken.clone()));
        }
        let done = match &mut self.next {
            None => self.work.record(call, data),
            Some(next) => {
                *next += 1;
                self.work.follow(*next - 1, call, data)
            }
        };
        if let Err(refused) = &done {
            self.broken = Some(match refused {
                Refused::Differs(text) => text.clone(),
                Refused::Driver(error) => format!("the driver refused a call of it: {error:?}"),
            });
        }
        done
    }

    /// That all of the work was done.
    fn check(&self) -> Result<()> {
        let end = self.next.and_then(|next| self.work.entries.get(next)).map(|entry| &entry.call);
        match (&self.broken, end) {
            (Some(broken), _) => Err(Refused::Differs(broken.clone())),
            (None, Some(call)) => Err(Refused::Differs(format!("it ends where the work {call}"))),
            (None, None) => Ok(()),
        }
    }
}

/// What becomes of memory that is given back.
#[derive(Debug, PartialEq, Eq)]
pub enum Freed {
    /// It is to be freed by a call of the driver now.
    Now,
    /// There is nothing to do.
    Done,
}

/// All recorded work of a device.
#[derive(Debug, Default)]
pub struct Recorder {
    section: Option<Section>,
    /// How many times work was begun.
    clock: u64,
    /// The one used last is the last.
    kept: Vec<Work>,
    seen: HashSet<u64>,
    /// Memory that a launch left allocated, and the key of its work.
    left: HashMap<u64, u64>,
    /// Addresses that were handed out for a launch that never came.
    void: HashSet<u64>,
}

impl Recorder {
    /// Whether calls are recorded.
    pub fn is_recording(&self) -> bool {
        self.section.is_some()
    }

    /// Whether it has any graph.
    pub fn has_graphs(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Begins work, unless it is to run as ever.
    pub fn begin(&mut self, key: u64, context: &Arc<CudaContext>) -> Result<bool> {
        if self.section.is_some() {
            return Err(Refused::Differs("recorded work lies within other recorded work".into()));
        }
        self.clock += 1;
        let (mut work, next) = match self.kept.iter().position(|work| work.key == key) {
            Some(_) if self.left.values().any(|owner| *owner == key) => return Ok(false),
            Some(at) => (self.kept.remove(at), Some(0)),
            None if self.is_worth_it(key) => (Work::new(key, context)?, None),
            None => return Ok(false),
        };
        work.begun = self.clock;
        if let Some(launched) = &work.launched {
            launched.synchronize()?; // it may still read the host bytes that are written now
        }
        let (held, later) = (HashSet::new(), Vec::new());
        self.section = Some(Section { work, next, held, later, broken: None });
        Ok(true)
    }

    /// Whether work that is not kept was seen before, and there is a place for it.
    fn is_worth_it(&mut self, key: u64) -> bool {
        if self.seen.len() >= MOST_KEYS {
            self.seen.clear();
        }
        let is_new = self.seen.insert(key);
        if is_new || self.kept.len() < MOST_GRAPHS {
            return !is_new;
        }
        let is_old = self.kept.first().is_some_and(|oldest| self.clock - oldest.begun > KEPT_FOR);
        if is_old {
            self.kept.remove(0);
        }
        is_old
    }

    /// Records or follows a call, where calls are recorded. The address of an allocation.
    pub fn call(&mut self, call: Call, data: &[u8]) -> Option<Result<u64>> {
        let section = self.section.as_mut()?;
        let allocates = matches!(call, Call::Allocate { .. });
        let done = section.call(call, data);
        if let (Ok(ptr), true) = (&done, allocates) {
            section.held.insert(*ptr);
        }
        Some(done)
    }

    /// Takes memory back.
    pub fn free(&mut self, ptr: u64) -> Freed {
        if let Some(section) = &mut self.section {
            if section.held.remove(&ptr) {
                let _ = section.call(Call::Free { ptr }, &[]); // what is refused is told by the next call
            } else if !self.void.remove(&ptr) {
                section.later.push(ptr);
            }
            return Freed::Done;
        }
        if self.void.remove(&ptr) {
            return Freed::Done;
        }
        self.left.remove(&ptr);
        Freed::Now
    }

    /// Launches the work, calling `make_room` once where there is none. What is to be freed now, and for want of how many
    /// bytes it was not launched.
    pub fn end(&mut self, stream: &CudaStream, make_room: impl FnOnce()) -> (Vec<u64>, Result<Option<usize>>) {
        let Some(mut section) = self.section.take() else { return (Vec::new(), Ok(None)) };
        let full = |error: &DriverError| error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        let launched = section.check().and_then(|()| match section.work.launch(stream) {
            Err(error) if full(&error) => {
                make_room();
                Ok(section.work.launch(stream)?)
            }
            launched => Ok(launched?),
        });
        let result = match launched {
            Ok(()) => Ok(None),
            Err(Refused::Driver(error)) if full(&error) => Ok(Some(section.work.peak())),
            Err(refused) => Err(refused),
        };
        if result.as_ref().is_ok_and(Option::is_none) {
            self.left.extend(section.held.drain().map(|ptr| (ptr, section.work.key)));
            self.kept.push(section.work);
        } else {
            self.void.extend(section.held);
        }
        (self.forget(section.later), result)
    }

    /// Ends the work without a launch; what was recorded is lost. What is to be freed now.
    pub fn abandon(&mut self) -> Vec<u64> {
        let Some(section) = self.section.take() else { return Vec::new() };
        self.void.extend(section.held);
        self.forget(section.later)
    }

    fn forget(&mut self, later: Vec<u64>) -> Vec<u64> {
        for ptr in &later {
            self.left.remove(ptr);
        }
        later
    }

    /// How many kernels the work has that was launched last.
    pub fn last_kernels(&self) -> usize {
        let launches =
            |work: &Work| work.entries.iter().filter(|entry| matches!(entry.call, Call::Launch { .. })).count();
        self.kept.last().map_or(0, launches)
    }
}
