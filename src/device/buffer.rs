//! Untyped memory on a device, freed on drop.

use std::sync::Arc;

use super::host::HostMemory;
use super::{Device, DevicePtr, Driver};
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
    Device { ptr: DevicePtr, driver: Arc<dyn Driver> },
}

impl Buffer {
    /// `bytes` of memory with unspecified content.
    pub fn uninit(device: &Device, bytes: usize) -> Result<Self> {
        let memory = match device {
            Device::Cpu => Memory::Host(HostMemory::new(bytes)),
            Device::Cuda(driver) => Memory::Device { ptr: driver.allocate(bytes)?, driver: driver.clone() },
        };
        Ok(Self { bytes, memory })
    }

    /// `bytes` of zeros.
    pub fn zeros(device: &Device, bytes: usize) -> Result<Self> {
        let mut buffer = Self::uninit(device, bytes)?;
        match &mut buffer.memory {
            Memory::Host(memory) => memory.bytes_mut(bytes).fill(0),
            Memory::Device { ptr, driver } => driver.set(*ptr, 0, bytes, driver.compute_stream())?,
        }
        Ok(buffer)
    }

    /// A copy of host bytes.
    pub fn from_bytes(device: &Device, src: &[u8]) -> Result<Self> {
        let mut buffer = Self::uninit(device, src.len())?;
        match &mut buffer.memory {
            Memory::Host(memory) => memory.bytes_mut(src.len()).copy_from_slice(src),
            Memory::Device { ptr, driver } => driver.copy_to_device(*ptr, src, driver.compute_stream())?,
        }
        Ok(buffer)
    }

    /// A copy on the same device.
    pub fn try_clone(&self) -> Result<Self> {
        match &self.memory {
            Memory::Host(memory) => Self::from_bytes(&Device::Cpu, memory.bytes(self.bytes)),
            Memory::Device { ptr, driver } => {
                let copy = Self::uninit(&self.device(), self.bytes)?;
                driver.copy_on_device(copy.device_ptr()?, *ptr, self.bytes, driver.compute_stream())?;
                Ok(copy)
            }
        }
    }

    /// A copy on `device`.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        match &self.memory {
            Memory::Host(memory) => Self::from_bytes(device, memory.bytes(self.bytes)),
            Memory::Device { .. } if device.is_same(&self.device()) => self.try_clone(),
            Memory::Device { ptr, driver } => {
                let mut host = Self::uninit(&Device::Cpu, self.bytes)?;
                driver.copy_to_host(host.host_mut()?, *ptr, driver.compute_stream())?;
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
            Memory::Device { driver, .. } => Device::Cuda(driver.clone()),
        }
    }

    /// Its bytes, if it lives in host memory.
    pub fn host(&self) -> Result<&[u8]> {
        match &self.memory {
            Memory::Host(memory) => Ok(memory.bytes(self.bytes)),
            Memory::Device { driver, .. } => Err(not_in_host_memory(driver)),
        }
    }

    /// Its bytes for writing, if it lives in host memory.
    pub fn host_mut(&mut self) -> Result<&mut [u8]> {
        match &mut self.memory {
            Memory::Host(memory) => Ok(memory.bytes_mut(self.bytes)),
            Memory::Device { driver, .. } => Err(not_in_host_memory(driver)),
        }
    }

    /// Its device address, if it lives on a GPU.
    pub fn device_ptr(&self) -> Result<DevicePtr> {
        match &self.memory {
            Memory::Host(_) => Err(Error::device("cpu", "a host buffer has no device address")),
            Memory::Device { ptr, .. } => Ok(*ptr),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Memory::Device { ptr, driver } = &self.memory {
            driver.free(*ptr);
        }
    }
}

fn not_in_host_memory(driver: &Arc<dyn Driver>) -> Error {
    Error::device(driver.name(), "a device buffer cannot be read in place; copy it to the cpu first")
}
