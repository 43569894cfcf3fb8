//! Where tensors live and kernels run: the CPU, or a GPU behind [`Driver`].
//!
//! Nothing above this module knows which implementation of [`Driver`] it talks to.

mod buffer;
mod driver;
pub mod host;
mod probe;

use std::sync::Arc;

pub use buffer::Buffer;
pub use driver::{Arg, DevicePtr, Dim3, Driver, Event, Launch, MemoryInfo, Module, Stream};
pub use probe::{Gpu, gpus};

/// The device that a tensor lives on.
#[derive(Clone, Debug)]
pub enum Device {
    /// Host memory and the CPU code of the ops.
    Cpu,
    /// A GPU, real or emulated, and the CUDA kernels of the ops.
    Cuda(Arc<dyn Driver>),
}

impl Device {
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
            Self::Cuda(driver) => f.write_str(driver.name()),
        }
    }
}
