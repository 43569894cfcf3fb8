//! The state behind the handles, and who may touch it.

use crate::border::entry;
use crate::gpu::Gpu;
use crate::graph::{Executable, Graph, Node};
use crate::queue::{Event, Stream};
use crate::report::Report;
use crate::status::{Failure, Result, Status, invalid};
use crate::table::{Table, new_handle};
use ptx_emulator::{Device, Kernel, Module};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// A context, as far as it has a life of its own: there is one device, and one memory.
#[derive(Debug, Default)]
pub struct Context {
    pub flags: u32,
    pub limits: BTreeMap<i32, usize>,
    pub cache_config: i32,
    pub shared_config: i32,
    /// What it did not survive.
    pub fault: Option<Failure>,
}

/// The context that the device has of itself, which is there while someone retains it.
#[derive(Debug)]
pub struct Primary {
    pub handle: u64,
    pub retained: u32,
    pub flags: u32,
}

/// A kernel with what the program set for it.
#[derive(Debug)]
pub struct Function {
    pub module: u64,
    pub kernel: Kernel,
    /// The most dynamic shared memory that it may be launched with.
    pub dynamic_limit: u64,
    pub carveout: i32,
}

/// Device memory.
#[derive(Debug)]
pub struct Allocation {
    pub bytes: u64,
    /// The pool that it came from; 0 for none.
    pub pool: u64,
}

/// Memory that stream-ordered allocations come from. It holds none back, so only its counts are real.
#[derive(Debug, Default)]
pub struct Pool {
    pub used: u64,
    pub most_used: u64,
    /// What the program set, by the number of the attribute.
    pub set: BTreeMap<i32, u64>,
}

#[derive(Clone, Copy)]
#[repr(align(4096))]
struct Page {
    _bytes: [u8; 4096],
}

/// Host memory that asynchronous copies go to and come from without a stop on the way.
pub struct Pinned {
    pub bytes: usize,
    pub flags: u32,
    /// The memory; none where it is the caller's own.
    pages: Option<Vec<Page>>,
}

impl Pinned {
    pub fn registered(bytes: usize, flags: u32) -> Self {
        Self { bytes, flags, pages: None }
    }

    /// Fresh memory and its address.
    pub fn allocated(bytes: usize, flags: u32) -> Result<(usize, Self)> {
        let count = bytes.div_ceil(size_of::<Page>());
        let mut pages = Vec::new();
        let full = |_| Failure::new(Status::OUT_OF_MEMORY, format!("no room for {bytes} bytes of host memory"));
        pages.try_reserve_exact(count).map_err(full)?;
        pages.resize(count, Page { _bytes: [0; 4096] });
        Ok((pages.as_mut_ptr().expose_provenance(), Self { bytes, flags, pages: Some(pages) }))
    }

    pub fn is_registered(&self) -> bool {
        self.pages.is_none()
    }
}

/// Everything there is.
pub struct Machine {
    pub gpu: Gpu,
    pub device: Device,
    /// The order in which launches run blocks and warps.
    pub seed: u64,
    /// Whether queued work runs only when it is waited for.
    pub late: bool,
    pub tickets: u64,
    pub contexts: Table<Context>,
    pub primary: Primary,
    pub modules: Table<Module>,
    pub functions: Table<Function>,
    pub streams: Table<Stream>,
    pub events: Table<Event>,
    pub allocations: Table<Allocation>,
    pub pools: Table<Pool>,
    /// The pool that allocations come from which name none.
    pub pool: u64,
    pub pinned: Table<Pinned>,
    pub graphs: Table<Graph>,
    pub nodes: Table<Node>,
    pub executables: Table<Executable>,
    /// Start and bytes of memory that launches of graphs leave allocated, from the launch to the call that frees it.
    pub owed: BTreeMap<u64, u64>,
    pub report: Report,
}

fn option<T>(name: &str, default: T, parse: impl FnOnce(&str) -> Option<T>, wanted: &str) -> Result<T> {
    match std::env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => parse(&text).map_or_else(|| invalid(format!("{name} must be {wanted}, got {text:?}")), Ok),
    }
}

fn streams_are_late(text: &str) -> Option<bool> {
    match text {
        "now" => Some(false),
        "late" => Some(true),
        _ => None,
    }
}

impl Machine {
    /// The machine that the environment asks for.
    fn new() -> Result<Self> {
        let default = Gpu::named("80").ok_or_else(|| Failure::new(Status::NO_DEVICE, "no default device"))?;
        let gpu = option("VICUGNA_EMULATED_SM", default, Gpu::named, "80, 86 or 89")?;
        let memory = option("VICUGNA_EMULATED_MEMORY", 64 << 30, |text| text.parse().ok(), "a number of bytes")?;
        let mut pools = Table::new("memory pool");
        let pool = pools.add(0, Pool::default());
        Ok(Self {
            gpu,
            device: Device::with_memory(gpu.arch, memory),
            seed: option("VICUGNA_EMULATED_SEED", 0, |text| text.parse().ok(), "a number")?,
            late: option("VICUGNA_EMULATED_STREAMS", false, streams_are_late, "now or late")?,
            tickets: 0,
            contexts: Table::new("context"),
            primary: Primary { handle: new_handle(), retained: 0, flags: 0 },
            modules: Table::new("module"),
            functions: Table::new("function"),
            streams: Table::new("stream"),
            events: Table::new("event"),
            allocations: Table::new("device allocation"),
            pools,
            pool,
            pinned: Table::new("page-locked host memory"),
            graphs: Table::new("graph"),
            nodes: Table::new("node of a graph"),
            executables: Table::new("graph that can be launched"),
            owed: BTreeMap::new(),
            report: Report::new(),
        })
    }

    /// The only device.
    pub fn check_device(&self, device: i32) -> Result {
        if device == 0 {
            return Ok(());
        }
        Err(Failure::new(Status::INVALID_DEVICE, format!("there is one device, 0, got {device}")))
    }

    /// That a context is there and has not seen what it does not survive.
    pub fn check(&self, context: u64) -> Result {
        match self.contexts.get(context) {
            Ok(Context { fault: Some(fault), .. }) => Err(fault.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::new(Status::CONTEXT_IS_DESTROYED, format!("context {context:#x} is not there"))),
        }
    }

    /// Ends a context and everything in it.
    pub fn destroy_context(&mut self, context: u64) -> Result {
        let settled = self.settle_context(context);
        for address in self.allocations.handles_of(context) {
            self.release(address)?;
        }
        for module in self.modules.handles_of(context) {
            self.unload(module)?;
        }
        self.streams.forget(context);
        self.events.forget(context);
        self.pools.forget(context);
        self.pinned.forget(context);
        self.graphs.forget(context);
        self.nodes.forget(context);
        self.executables.forget(context);
        self.contexts.remove(context)?;
        settled
    }

    /// Frees device memory.
    pub fn release(&mut self, address: u64) -> Result {
        let Ok(allocation) = self.allocations.remove(address) else {
            return invalid(format!("{address:#x} is not the start of an allocation"));
        };
        if let Ok(pool) = self.pools.get_mut(allocation.pool) {
            pool.used -= allocation.bytes;
        }
        self.device.free(address).or_else(|error| invalid(error.to_string()))
    }

    /// Forgets a module, its functions and its variables.
    pub fn unload(&mut self, module: u64) -> Result {
        let text = self.modules.remove(module)?;
        let of_module = |(_, function): &(u64, &Function)| function.module == module;
        let functions: Vec<u64> = self.functions.iter().filter(of_module).map(|(handle, _)| handle).collect();
        functions.into_iter().try_for_each(|function| self.functions.remove(function).map(|_| ()))?;
        self.device.unload(&text);
        Ok(())
    }
}

static MACHINE: Mutex<Option<Machine>> = Mutex::new(None);

/// Makes the machine, the first time.
pub fn initialize() -> Result {
    let mut machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    if machine.is_none() {
        *machine = Some(Machine::new().inspect_err(|failure| eprintln!("emulated libcuda: {}", failure.detail))?);
    }
    Ok(())
}

/// What a call does that needs the machine.
pub fn with(body: impl FnOnce(&mut Machine) -> Result) -> Status {
    entry(|| {
        let mut machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        match machine.as_mut() {
            Some(machine) => body(machine),
            None => Err(Failure::new(Status::NOT_INITIALIZED, "call cuInit first")),
        }
    })
}

/// What a call does in the thread's current context.
pub fn within(body: impl FnOnce(&mut Machine, u64) -> Result) -> Status {
    with(|machine| {
        let context = current()?;
        machine.check(context)?;
        body(machine, context)
    })
}

/// What is done at the end of the process, if nothing is in a call.
pub fn at_end(body: impl FnOnce(&Machine)) {
    if let Ok(machine) = MACHINE.try_lock()
        && let Some(machine) = machine.as_ref()
    {
        body(machine);
    }
}

thread_local! {
    /// The thread's contexts, the current one last.
    static CURRENT: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The thread's stack of contexts.
pub fn contexts_of_thread<R>(body: impl FnOnce(&mut Vec<u64>) -> R) -> R {
    CURRENT.with_borrow_mut(body)
}

/// The thread's current context.
pub fn current() -> Result<u64> {
    let none = || Failure::new(Status::INVALID_CONTEXT, "the thread has no current context");
    contexts_of_thread(|stack| stack.last().copied()).ok_or_else(none)
}
