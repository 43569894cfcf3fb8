//! Untyped memory on a device, freed on drop.

use std::ops::Range;
use std::sync::Arc;

use super::driver::{Arg, DevicePtr, DeviceSlice, Stream};
use super::host::HostMemory;
use super::{Cuda, Device};
use crate::error::{Error, Result};

/// A block of memory on one device.
#[derive(Debug)]
pub struct Buffer {
    bytes: usize,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    Host(HostMemory),
    Device { ptr: DevicePtr, cuda: Arc<Cuda> },
}

impl Buffer {
    /// `bytes` of memory with unspecified content.
    pub fn uninit(device: &Device, bytes: usize) -> Result<Self> {
        let memory = match device {
            Device::Cpu => Memory::Host(HostMemory::new(bytes)),
            Device::Cuda(cuda) => Memory::Device { ptr: cuda.allocate(bytes)?, cuda: cuda.clone() },
        };
        Ok(Self { bytes, memory })
    }

    /// `bytes` of zeros.
    pub fn zeros(device: &Device, bytes: usize) -> Result<Self> {
        let mut buffer = Self::uninit(device, bytes)?;
        match &mut buffer.memory {
            Memory::Host(memory) => memory.bytes_mut(bytes).fill(0),
            Memory::Device { ptr, cuda } => cuda.driver().set(*ptr, 0, bytes, Stream::Compute)?,
        }
        Ok(buffer)
    }

    /// A copy of host bytes.
    pub fn from_bytes(device: &Device, src: &[u8]) -> Result<Self> {
        let mut buffer = Self::uninit(device, src.len())?;
        match &mut buffer.memory {
            Memory::Host(memory) => memory.bytes_mut(src.len()).copy_from_slice(src),
            Memory::Device { ptr, cuda } => cuda.copy_to_device(*ptr, src)?,
        }
        Ok(buffer)
    }

    /// A copy on the same device.
    pub fn try_clone(&self) -> Result<Self> {
        let mut copy = Self::uninit(&self.device(), self.bytes)?;
        copy.copy_from(0, self, 0..self.bytes)?;
        Ok(copy)
    }

    /// Copies the bytes `range` of `src`, which is on the same device, to its own from the byte `at` on.
    ///
    /// # Errors
    /// [`Error::Device`] if they lie outside a buffer, or the devices differ.
    pub fn copy_from(&mut self, at: usize, src: &Self, range: Range<usize>) -> Result<()> {
        let fits = range.start <= range.end && range.end <= src.bytes && range.len() <= self.bytes.saturating_sub(at);
        let device = self.device();
        match (&mut self.memory, &src.memory) {
            (Memory::Host(to), Memory::Host(from)) if fits => {
                to.bytes_mut(self.bytes)[at..at + range.len()].copy_from_slice(&from.bytes(src.bytes)[range]);
                Ok(())
            }
            (Memory::Device { ptr, cuda }, Memory::Device { ptr: from, cuda: of }) if fits && Arc::ptr_eq(cuda, of) => {
                let (to, from) = (DevicePtr(ptr.0 + at as u64), DevicePtr(from.0 + range.start as u64));
                cuda.driver().copy_on_device(to, from, range.len(), Stream::Compute)
            }
            _ => {
                let (of, from) = (src.bytes, src.device());
                let detail = format!("bytes {range:?} of {of} on {from} do not fit byte {at} of {}", self.bytes);
                Err(Error::device(device, detail))
            }
        }
    }

    /// A copy on `device`.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        match &self.memory {
            Memory::Host(memory) => Self::from_bytes(device, memory.bytes(self.bytes)),
            Memory::Device { .. } if device.is_same(&self.device()) => self.try_clone(),
            Memory::Device { ptr, cuda } => {
                let mut host = Self::uninit(&Device::Cpu, self.bytes)?;
                cuda.driver().copy_to_host(host.host_mut()?, *ptr, Stream::Compute)?;
                if matches!(device, Device::Cpu) { Ok(host) } else { host.to_device(device) }
            }
        }
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The device it lives on.
    pub fn device(&self) -> Device {
        match &self.memory {
            Memory::Host(_) => Device::Cpu,
            Memory::Device { cuda, .. } => Device::Cuda(cuda.clone()),
        }
    }

    /// Its bytes, if it lives in host memory.
    pub fn host(&self) -> Result<&[u8]> {
        match &self.memory {
            Memory::Host(memory) => Ok(memory.bytes(self.bytes)),
            Memory::Device { cuda, .. } => Err(not_in_host_memory(cuda)),
        }
    }

    /// Its bytes for writing, if it lives in host memory.
    pub fn host_mut(&mut self) -> Result<&mut [u8]> {
        match &mut self.memory {
            Memory::Host(memory) => Ok(memory.bytes_mut(self.bytes)),
            Memory::Device { cuda, .. } => Err(not_in_host_memory(cuda)),
        }
    }

    /// Its device address, if it lives on a GPU.
    pub fn device_ptr(&self) -> Result<DevicePtr> {
        match &self.memory {
            Memory::Host(_) => Err(Error::device("cpu", "a host buffer has no device address")),
            Memory::Device { ptr, .. } => Ok(*ptr),
        }
    }

    /// Itself as what a kernel reads.
    pub fn as_input(&self) -> Result<Arg> {
        Ok(Arg::Input(DeviceSlice { ptr: self.device_ptr()?, bytes: self.bytes }))
    }

    /// Itself as what a kernel writes.
    pub fn as_output(&mut self) -> Result<Arg> {
        Ok(Arg::Output(DeviceSlice { ptr: self.device_ptr()?, bytes: self.bytes }))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Memory::Device { ptr, cuda } = &self.memory {
            cuda.free(*ptr, self.bytes);
        }
    }
}

fn not_in_host_memory(cuda: &Cuda) -> Error {
    Error::device(cuda.name(), "a device buffer cannot be read in place; copy it to the cpu first")
}
