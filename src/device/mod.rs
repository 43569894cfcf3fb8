//! Where tensors live and kernels run: the CPU, or a GPU behind [`Driver`].
//!
//! Nothing above this module knows which implementation of [`Driver`] it talks to.

mod buffer;
mod cuda;
mod cudarc;
mod driver;
mod emulated;
mod graphs;
pub mod host;
mod params;
mod probe;
mod sampled;
mod timed;

use std::str::FromStr;
use std::sync::Arc;

use crate::dtype::DType;
use crate::error::{Error, Result};

pub use buffer::Buffer;
pub use cuda::{Cuda, Kernels, MemoryUse};
pub use driver::{Arg, DevicePtr, DeviceSlice, Driver, Launch, MemoryInfo, Module, Recorded, Stream};
pub use emulated::{Arch, Emulated, Emulation, Profiled};
pub use graphs::Graphs;
pub use probe::{Gpu, gpus};
pub use ptx_emulator::Class;
pub use sampled::{Sampled, SampledLaunch};
pub use timed::{Timed, TimedLaunch};

/// The device that a tensor lives on.
#[derive(Clone, Debug)]
pub enum Device {
    /// Host memory and the CPU code of the ops.
    Cpu,
    /// A GPU, real or emulated, and the CUDA kernels of the ops.
    Cuda(Arc<Cuda>),
}

impl Device {
    /// The first GPU of this machine, and where it has none the CPU.
    ///
    /// # Errors
    /// [`Error::Device`] if there is a GPU that refuses.
    pub fn best() -> Result<Self> {
        if gpus()?.is_empty() { Ok(Self::Cpu) } else { Self::cuda(0) }
    }

    /// A GPU that the CPU imitates on as many threads as it has: it executes, checks and counts the same kernels.
    pub fn emulated() -> Self {
        let emulation = Emulation { threads: rayon::current_num_threads(), ..Emulation::default() };
        Self::new(Arc::new(Emulated::new(emulation)))
    }

    /// The GPU of that number.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no NVIDIA driver, no such GPU, or it refuses.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Ok(Self::new(Arc::new(cudarc::CudarcDriver::new(ordinal)?)))
    }

    /// The GPU behind `driver`, with nothing loaded.
    pub fn new(driver: Arc<dyn Driver>) -> Self {
        Self::Cuda(Arc::new(Cuda::new(driver)))
    }

    /// What it is, whichever of its kind: `cpu`, `emulated`, or the marketing name of a GPU.
    ///
    /// # Errors
    /// As [`gpus`].
    pub fn model(&self) -> Result<String> {
        let name = self.to_string();
        let gpus = if matches!(self, Self::Cpu) { Vec::new() } else { gpus()? };
        let gpu = gpus.into_iter().find(|gpu| name == format!("cuda:{}", gpu.ordinal));
        Ok(gpu.map_or(name, |gpu| gpu.name))
    }

    /// The device of that rank where this is rank 0's: the CPU is shared, GPUs are counted on from it, and each rank has an
    /// emulated one of its own.
    ///
    /// # Errors
    /// As [`Device::cuda`].
    pub fn of_rank(&self, rank: usize) -> Result<Self> {
        match self {
            Self::Cpu => Ok(Self::Cpu),
            _ if rank == 0 => Ok(self.clone()),
            Self::Cuda(cuda) => {
                match cuda.name().strip_prefix("cuda:").and_then(|ordinal| ordinal.parse::<usize>().ok()) {
                    Some(first) => Self::cuda(first + rank),
                    None => Ok(Self::emulated()),
                }
            }
        }
    }

    /// How weights and activations are stored on it where nothing else is asked for: the CPU computes in f32, the kernels
    /// are fastest in bf16.
    pub fn default_dtype(&self) -> DType {
        match self {
            Self::Cpu => DType::F32,
            Self::Cuda(_) => DType::Bf16,
        }
    }

    /// The most bytes that tensors held on it, if it is a GPU.
    pub fn peak_bytes(&self) -> Option<usize> {
        match self {
            Self::Cpu => None,
            Self::Cuda(cuda) => Some(cuda.memory_use().peak),
        }
    }

    /// Launches work that recurs as CUDA graphs from here on, as [`Graphs`] does; what to tell about a device that has none.
    pub fn use_graphs(&self) -> Option<String> {
        match self {
            Self::Cuda(cuda) if cuda.use_graphs() => None,
            _ => Some(format!("note: {self} has no CUDA graphs and runs kernels one by one")),
        }
    }

    /// Whether both are the same device.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cpu, Self::Cpu) => true,
            (Self::Cuda(a), Self::Cuda(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// Reads a device as `--device` spells it: cpu, emulated, cuda or cuda:N.
impl FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "cpu" => return Ok(Self::Cpu),
            "emulated" => return Ok(Self::emulated()),
            "cuda" => return Self::cuda(0),
            _ => {}
        }
        match name.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok()) {
            Some(ordinal) => Self::cuda(ordinal),
            None => Err(Error::input("--device", format!("{name:?} is no device"))
                .with_hint("use cpu, cuda, cuda:N or emulated")),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(cuda) => f.write_str(cuda.name()),
        }
    }
}
