//! A GPU without a GPU: the kernels' PTX, executed and checked on the CPU.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use ptx_emulator::Arch;
use ptx_emulator::{Counters, LaunchError, MemoryError};

use super::driver::{Arg, DevicePtr, Driver, Launch, MemoryInfo, Module, Stream};
use crate::error::{Error, Result};

const NAME: &str = "emulated";

/// How an emulated device runs.
#[derive(Clone, Debug)]
pub struct Emulation {
    /// The GPU whose limits it has, by default one of compute capability 8.0.
    pub arch: Arch,
    /// Bytes of device memory; no more is taken from the machine than is touched.
    pub memory: usize,
    /// 0 runs blocks and warps in order; any other number picks an order, the same each time.
    pub schedule: u64,
    /// Threads of this machine that run blocks; 0 for one each core.
    pub threads: usize,
    /// Whether [`Emulated::take_profile`] has what launches did.
    pub profile: bool,
}

impl Default for Emulation {
    fn default() -> Self {
        Self { arch: Arch::Sm80, memory: 64 << 30, schedule: 0, threads: 0, profile: false }
    }
}

/// What one launch did.
#[derive(Clone, Debug)]
pub struct Profiled {
    /// The kernel.
    pub kernel: String,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// What it did, counted.
    pub counters: Counters,
}

/// The [`Driver`] of an emulated device. A launch runs at once, and what it must not do is its error.
#[derive(Debug)]
pub struct Emulated {
    emulation: Emulation,
    state: Mutex<State>,
}

/// What an emulated device holds.
#[derive(Debug)]
pub(super) struct State {
    pub device: ptx_emulator::Device,
    pub modules: Vec<ptx_emulator::Module>,
    profile: Vec<Profiled>,
}

impl Emulated {
    /// A device with nothing on it.
    pub fn new(emulation: Emulation) -> Self {
        let device = ptx_emulator::Device::with_memory(emulation.arch, emulation.memory as u64);
        Self { emulation, state: Mutex::new(State { device, modules: Vec::new(), profile: Vec::new() }) }
    }

    /// What the launches since the last call did, in their order.
    pub fn take_profile(&self) -> Vec<Profiled> {
        std::mem::take(&mut self.state().profile)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::device(NAME, error.to_string())
}

impl Driver for Emulated {
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
        // An address that is not allocated would be an error of `Buffer`, and the launch that reads it is told.
        let _ = self.state().device.free(ptr.0);
    }

    fn copy_to_device(&self, dst: DevicePtr, src: &[u8], _: Stream) -> Result<()> {
        self.state().device.write(dst.0, src).map_err(refused)
    }

    fn copy_to_host(&self, dst: &mut [u8], src: DevicePtr, _: Stream) -> Result<()> {
        self.state().device.read(src.0, dst).map_err(refused)
    }

    fn copy_on_device(&self, dst: DevicePtr, src: DevicePtr, bytes: usize, _: Stream) -> Result<()> {
        self.state().device.copy(dst.0, src.0, bytes as u64).map_err(refused)
    }

    fn set(&self, dst: DevicePtr, value: u8, bytes: usize, _: Stream) -> Result<()> {
        self.state().device.fill(dst.0, &[value], bytes as u64).map_err(refused)
    }

    fn load(&self, ptx: &str) -> Result<Module> {
        let module = ptx_emulator::Module::parse(ptx).map_err(refused)?;
        let modules = &mut self.state().modules;
        modules.push(module);
        Ok(Module(modules.len() - 1))
    }

    fn launch(&self, module: Module, launch: &Launch<'_>, _: Stream) -> Result<()> {
        let State { device, modules, profile } = &mut *self.state();
        let kernel = modules.get(module.0).and_then(|module| module.kernel(launch.kernel));
        let kernel = kernel.ok_or_else(|| refused(format!("{}: there is no such kernel", launch.kernel)))?;
        let too_large = || refused(format!("{}: the launch is too large", launch.kernel));
        let (grid, block, shared) = launch.dims().ok_or_else(too_large)?;
        let done = device.launch(
            kernel,
            &ptx_emulator::Launch {
                grid,
                block: [block, 1, 1],
                shared_bytes: shared.into(),
                args: &pack(kernel, launch.args).map_err(refused)?,
                seed: self.emulation.schedule,
                threads: self.emulation.threads,
                read_only: &read_only(launch.args),
                ..ptx_emulator::Launch::default()
            },
        );
        let counters = done.map_err(|error| match error {
            LaunchError::Memory(error) => refused(format!("{}: {error}", launch.kernel)),
            error => refused(error),
        })?;
        if self.emulation.profile {
            profile.push(Profiled { kernel: launch.kernel.into(), grid, block, counters });
        }
        Ok(())
    }

    /// Nothing is ever under way.
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

/// The kernel's parameter block.
pub(super) fn pack(kernel: &ptx_emulator::Kernel, args: &[Arg]) -> Result<Vec<u8>, String> {
    let bytes: Vec<[u8; 8]> = args.iter().map(|arg| arg.bits().to_le_bytes()).collect();
    let sizes = kernel.params().iter().map(|param| param.bytes as usize);
    let values: Vec<&[u8]> = bytes.iter().zip(sizes).map(|(bytes, size)| &bytes[..size.min(8)]).collect();
    kernel.pack(&values)
}

/// The buffers that the launch may not write: inputs that are not outputs too, as where a kernel works in place.
fn read_only(args: &[Arg]) -> Vec<Range<u64>> {
    let written = |ptr| args.iter().any(|arg| matches!(arg, Arg::Output(slice) if slice.ptr == ptr));
    let range = |arg: &Arg| match arg {
        Arg::Input(slice) if !written(slice.ptr) => Some(slice.ptr.0..slice.ptr.0 + slice.bytes as u64),
        _ => None,
    };
    args.iter().filter_map(range).collect()
}
