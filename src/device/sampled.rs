//! A GPU that runs a few blocks of each launch: what a step of a large model does can be counted in seconds.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ptx_emulator::{Checks, Counters};

use super::driver::{Arg, DevicePtr, Driver, Launch, MemoryInfo, Module, Stream};
use super::emulated::{Emulated, Emulation, State, pack};
use crate::error::{Error, Result};

const NAME: &str = "sampled";
/// Address space, of which no more becomes memory than the blocks that run touch.
const ADDRESSES: usize = 1 << 42;

/// A [`Driver`] that runs a few blocks of each launch, spread over its grid, and of equal launches only those of the first.
///
/// Bytes that the host copies arrive, for they decide what blocks do. Everything else reads as zeros: results mean nothing.
#[derive(Debug)]
pub struct Sampled {
    blocks: u64,
    /// Whose memory and modules it uses.
    emulated: Emulated,
    launches: Mutex<Launches>,
}

#[derive(Debug, Default)]
struct Launches {
    known: HashMap<Alike, SampledLaunch>,
    since: Vec<SampledLaunch>,
}

/// What makes launches equal: all but the addresses of their buffers.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Alike {
    kernel: String,
    dims: ([u32; 3], u32, u32),
    args: Vec<(char, u64)>,
}

/// One launch, and what some of its blocks did.
#[derive(Clone, Debug)]
pub struct SampledLaunch {
    /// The kernel.
    pub kernel: String,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of the buffers that it only reads.
    pub input_bytes: u64,
    /// Bytes of the buffers that it writes.
    pub output_bytes: u64,
    /// What the blocks that ran did, counted; there were `counters.blocks` of them.
    pub counters: Counters,
}

impl Sampled {
    /// A device with nothing on it, which runs at most so many blocks of a launch.
    pub fn new(blocks: u64) -> Self {
        let emulated = Emulated::new(Emulation { memory: ADDRESSES, ..Emulation::default() });
        Self { blocks: blocks.max(1), emulated, launches: Mutex::default() }
    }

    /// The launches since the last call, in their order.
    pub fn take_launches(&self) -> Vec<SampledLaunch> {
        std::mem::take(&mut self.launches.lock().unwrap_or_else(PoisonError::into_inner).since)
    }
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::device(NAME, error.to_string())
}

impl Driver for Sampled {
    fn name(&self) -> &str {
        NAME
    }

    fn allocate(&self, bytes: usize) -> Result<Option<DevicePtr>> {
        self.emulated.allocate(bytes)
    }

    fn free(&self, ptr: DevicePtr) {
        self.emulated.free(ptr);
    }

    fn copy_to_device(&self, dst: DevicePtr, src: &[u8], stream: Stream) -> Result<()> {
        self.emulated.copy_to_device(dst, src, stream)
    }

    fn copy_to_host(&self, dst: &mut [u8], _: DevicePtr, _: Stream) -> Result<()> {
        dst.fill(0);
        Ok(())
    }

    fn copy_on_device(&self, _: DevicePtr, _: DevicePtr, _: usize, _: Stream) -> Result<()> {
        Ok(())
    }

    fn set(&self, _: DevicePtr, _: u8, _: usize, _: Stream) -> Result<()> {
        Ok(())
    }

    fn load(&self, ptx: &str) -> Result<Module> {
        self.emulated.load(ptx)
    }

    fn launch(&self, module: Module, launch: &Launch<'_>, _: Stream) -> Result<()> {
        let Launches { known, since } = &mut *self.launches.lock().unwrap_or_else(PoisonError::into_inner);
        let too_large = || refused(format!("{}: the launch is too large", launch.kernel));
        let dims = launch.dims().ok_or_else(too_large)?;
        let alike = Alike { kernel: launch.kernel.into(), dims, args: launch.args.iter().map(of_argument).collect() };
        if let Some(known) = known.get(&alike) {
            since.push(known.clone());
            return Ok(());
        }
        let State { device, modules, .. } = &mut *self.emulated.state();
        let kernel = modules.get(module.0).and_then(|module| module.kernel(launch.kernel));
        let kernel = kernel.ok_or_else(|| refused(format!("{}: there is no such kernel", launch.kernel)))?;
        let (grid, block, shared) = dims;
        let sample = ptx_emulator::Launch {
            grid,
            block: [block, 1, 1],
            shared_bytes: shared.into(),
            args: &pack(kernel, launch.args).map_err(refused)?,
            checks: Checks { races: false, poison: false },
            threads: rayon::current_num_threads(),
            sample: self.blocks,
            ..ptx_emulator::Launch::default()
        };
        let counters = device.launch(kernel, &sample).map_err(refused)?;
        let bytes = |wanted: char| alike.args.iter().filter(|(kind, _)| *kind == wanted).map(|(_, bytes)| bytes).sum();
        let (kernel, input_bytes, output_bytes) = (launch.kernel.into(), bytes('i'), bytes('o'));
        since.push(SampledLaunch { kernel, grid, block, input_bytes, output_bytes, counters });
        known.extend(since.last().map(|launch| (alike, launch.clone())));
        Ok(())
    }

    fn wait(&self, _: Stream, _: Stream) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self, _: Stream) -> Result<()> {
        Ok(())
    }

    fn memory_info(&self) -> Result<MemoryInfo> {
        self.emulated.memory_info()
    }
}

/// An argument without its address.
fn of_argument(arg: &Arg) -> (char, u64) {
    match arg {
        Arg::Input(slice) => ('i', slice.bytes as u64),
        Arg::Output(slice) => ('o', slice.bytes as u64),
        number => ('n', number.bits()),
    }
}
