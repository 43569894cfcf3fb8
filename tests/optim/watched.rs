//! An emulated GPU that counts how often the host waits for it, and copies to it.

use std::sync::atomic::{AtomicUsize, Ordering};

use vicugna::device::{DevicePtr, Driver, Emulated, Emulation, Launch, MemoryInfo, Module, Stream};
use vicugna::error::Result;

#[derive(Debug)]
pub struct Watched {
    gpu: Emulated,
    waits: AtomicUsize,
    copies: AtomicUsize,
}

impl Default for Watched {
    fn default() -> Self {
        Self { gpu: Emulated::new(Emulation::default()), waits: AtomicUsize::new(0), copies: AtomicUsize::new(0) }
    }
}

impl Watched {
    pub fn waits(&self) -> usize {
        self.waits.load(Ordering::Relaxed)
    }

    pub fn copies(&self) -> usize {
        self.copies.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.waits.fetch_add(1, Ordering::Relaxed);
    }
}

impl Driver for Watched {
    fn copy_to_host(&self, dst: &mut [u8], src: DevicePtr, stream: Stream) -> Result<()> {
        self.count();
        self.gpu.copy_to_host(dst, src, stream)
    }
    fn synchronize(&self, stream: Stream) -> Result<()> {
        self.count();
        self.gpu.synchronize(stream)
    }

    fn name(&self) -> &str {
        self.gpu.name()
    }
    fn allocate(&self, bytes: usize) -> Result<Option<DevicePtr>> {
        self.gpu.allocate(bytes)
    }
    fn free(&self, ptr: DevicePtr) {
        self.gpu.free(ptr);
    }
    fn copy_to_device(&self, dst: DevicePtr, src: &[u8], stream: Stream) -> Result<()> {
        self.copies.fetch_add(1, Ordering::Relaxed);
        self.gpu.copy_to_device(dst, src, stream)
    }
    fn copy_on_device(&self, dst: DevicePtr, src: DevicePtr, bytes: usize, stream: Stream) -> Result<()> {
        self.gpu.copy_on_device(dst, src, bytes, stream)
    }
    fn set(&self, dst: DevicePtr, value: u8, bytes: usize, stream: Stream) -> Result<()> {
        self.gpu.set(dst, value, bytes, stream)
    }
    fn load(&self, ptx: &str) -> Result<Module> {
        self.gpu.load(ptx)
    }
    fn launch(&self, module: Module, launch: &Launch<'_>, stream: Stream) -> Result<()> {
        self.gpu.launch(module, launch, stream)
    }
    fn wait(&self, stream: Stream, other: Stream) -> Result<()> {
        self.gpu.wait(stream, other)
    }
    fn memory_info(&self) -> Result<MemoryInfo> {
        self.gpu.memory_info()
    }
}
