//! Where tensors live and kernels run: the CPU, or a GPU behind [`Driver`].
//!
//! Nothing above this module knows which implementation of [`Driver`] it talks to.

mod buffer;
mod cuda;
mod cudarc;
mod driver;
mod emulated;
pub mod host;
mod params;
mod probe;

use std::sync::Arc;

use crate::error::Result;

pub use buffer::Buffer;
pub use cuda::{Cuda, Kernels, MemoryUse};
pub use driver::{Arg, DevicePtr, DeviceSlice, Driver, Launch, MemoryInfo, Module, Stream};
pub use emulated::{Emulated, Emulation, Profiled};
pub use probe::{Gpu, gpus};

/// The device that a tensor lives on.
#[derive(Clone, Debug)]
pub enum Device {
    /// Host memory and the CPU code of the ops.
    Cpu,
    /// A GPU, real or emulated, and the CUDA kernels of the ops.
    Cuda(Arc<Cuda>),
}

impl Device {
    /// A GPU that the CPU imitates: it executes, checks and counts the same kernels.
    pub fn emulated() -> Self {
        Self::new(Arc::new(Emulated::new(Emulation::default())))
    }

    /// The GPU of that number.
    ///
    /// # Errors
    /// [`Error::Device`](crate::error::Error::Device) if there is no NVIDIA driver, no such GPU, or it refuses.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Ok(Self::new(Arc::new(cudarc::CudarcDriver::new(ordinal)?)))
    }

    /// The GPU behind `driver`, with nothing loaded.
    pub fn new(driver: Arc<dyn Driver>) -> Self {
        Self::Cuda(Arc::new(Cuda::new(driver)))
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

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(cuda) => f.write_str(cuda.name()),
        }
    }
}
