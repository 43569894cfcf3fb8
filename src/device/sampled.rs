//! A GPU that runs a few blocks of each launch: what a step of a large model does can be counted in seconds.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ptx_emulator::{Arch, Checks, Counters, MemoryError};

use super::driver::{Arg, DevicePtr, Driver, Launch, MemoryInfo, Module, Stream};
use super::emulated::pack;
use crate::error::{Error, Result};

const NAME: &str = "sampled";
/// Address space, of which no more becomes memory than the blocks that run touch.
const ADDRESSES: u64 = 1 << 42;

/// A [`Driver`] that runs a few blocks of each launch, spread over its grid, and of equal launches only those of the first.
///
/// Bytes that the host copies arrive, for they decide what blocks do. Everything else reads as zeros: results mean nothing.
#[derive(Debug)]
pub struct Sampled {
    blocks: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    device: ptx_emulator::Device,
    modules: Vec<ptx_emulator::Module>,
    known: HashMap<Alike, SampledLaunch>,
    launches: Vec<SampledLaunch>,
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
        let device = ptx_emulator::Device::with_memory(Arch::Sm80, ADDRESSES);
        let (modules, known, launches) = (Vec::new(), HashMap::new(), Vec::new());
        Self { blocks: blocks.max(1), state: Mutex::new(State { device, modules, known, launches }) }
    }

    /// The launches since the last call, in their order.
    pub fn take_launches(&self) -> Vec<SampledLaunch> {
        std::mem::take(&mut self.state().launches)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        match self.state().device.alloc(bytes as u64) {
            Ok(address) => Ok(Some(DevicePtr(address))),
            Err(MemoryError::OutOfMemory { .. }) => Ok(None),
            Err(error) => Err(refused(error)),
        }
    }

    fn free(&self, ptr: DevicePtr) {
        let _ = self.state().device.free(ptr.0);
    }

    fn copy_to_device(&self, dst: DevicePtr, src: &[u8], _: Stream) -> Result<()> {
        self.state().device.write(dst.0, src).map_err(refused)
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
        let module = ptx_emulator::Module::parse(ptx).map_err(refused)?;
        let modules = &mut self.state().modules;
        modules.push(module);
        Ok(Module(modules.len() - 1))
    }

    fn launch(&self, module: Module, launch: &Launch<'_>, _: Stream) -> Result<()> {
        let State { device, modules, known, launches } = &mut *self.state();
        let too_large = || refused(format!("{}: the launch is too large", launch.kernel));
        let dims = launch.dims().ok_or_else(too_large)?;
        let alike = Alike { kernel: launch.kernel.into(), dims, args: launch.args.iter().map(of_argument).collect() };
        if let Some(known) = known.get(&alike) {
            launches.push(known.clone());
            return Ok(());
        }
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
        launches.push(SampledLaunch { kernel, grid, block, input_bytes, output_bytes, counters });
        known.extend(launches.last().map(|launch| (alike, launch.clone())));
        Ok(())
    }

    fn wait(&self, _: Stream, _: Stream) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self, _: Stream) -> Result<()> {
        Ok(())
    }

    fn memory_info(&self) -> Result<MemoryInfo> {
        let (free, total) = self.state().device.memory_info();
        Ok(MemoryInfo { free: free as usize, total: total as usize })
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
