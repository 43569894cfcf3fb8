//! A GPU as the engine holds it: its driver, the kernels loaded on it, the bytes allocated on it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::driver::{Arg, DevicePtr, Driver, Launch, Module, Recorded, Stream};
use super::{Device, params};
use crate::error::{Error, Result};

/// A GPU, real or emulated.
#[derive(Debug)]
pub struct Cuda {
    driver: Arc<dyn Driver>,
    /// By the name of [`Kernels`].
    modules: Mutex<HashMap<&'static str, Arc<Loaded>>>,
    used: AtomicUsize,
    peak: AtomicUsize,
    /// Whether work that recurs is to be recorded.
    graphs: AtomicBool,
    /// Whether work is recorded now, all of it on the compute stream.
    recording: AtomicBool,
}

/// A module on the device, and what its kernels take.
#[derive(Debug)]
struct Loaded {
    module: Module,
    signatures: params::Signatures,
}

/// Bytes that tensors hold on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Now.
    pub used: usize,
    /// The most there ever were.
    pub peak: usize,
}

impl Cuda {
    pub(super) fn new(driver: Arc<dyn Driver>) -> Self {
        Self {
            driver,
            modules: Mutex::default(),
            used: 0.into(),
            peak: 0.into(),
            graphs: false.into(),
            recording: false.into(),
        }
    }

    pub(super) fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    pub(crate) fn shared_driver(&self) -> Arc<dyn Driver> {
        self.driver.clone()
    }

    /// The device, as `--device` spells it.
    pub fn name(&self) -> &str {
        self.driver.name()
    }

    /// Uses CUDA graphs from here on, if it has any.
    pub(super) fn use_graphs(&self) -> bool {
        self.graphs.fetch_or(self.driver.records(), Ordering::Relaxed);
        self.driver.records()
    }

    /// Whether CUDA graphs are to be used.
    pub(super) fn uses_graphs(&self) -> bool {
        self.graphs.load(Ordering::Relaxed)
    }

    /// What tensors hold on it.
    pub fn memory_use(&self) -> MemoryUse {
        MemoryUse { used: self.used.load(Ordering::Relaxed), peak: self.peak.load(Ordering::Relaxed) }
    }

    /// Waits for all kernels.
    ///
    /// # Errors
    /// [`Error::Device`] if one of them failed.
    pub fn synchronize(&self) -> Result<()> {
        self.driver.synchronize(Stream::Compute)
    }

    /// Does work that is known by `key` and makes the same calls each time: if it was done before, recorded, and launched
    /// as one. Whether it was that.
    pub(super) fn as_graph<R>(&self, key: u64, work: impl FnOnce() -> Result<R>) -> Result<(R, bool)> {
        /// Nothing is recorded any more, whatever happens.
        struct Recording<'a>(&'a Cuda);
        impl Drop for Recording<'_> {
            fn drop(&mut self) {
                self.0.recording.store(false, Ordering::Relaxed);
                self.0.driver.drop_recording();
            }
        }
        if !self.driver.begin_recording(key)? {
            return Ok((work()?, false));
        }
        self.recording.store(true, Ordering::Relaxed);
        let recording = Recording(self);
        let done = work()?;
        let ended = self.driver.end_recording()?;
        drop(recording);
        match ended {
            Recorded::Queued => Ok((done, true)),
            Recorded::NoRoom { bytes } => {
                drop(done); // it has no memory, and is not to be counted
                Err(self.out_of_memory(bytes))
            }
        }
    }

    /// `bytes` of memory, of which there is at least one, so that every buffer has an address.
    pub(super) fn allocate(&self, bytes: usize) -> Result<DevicePtr> {
        let bytes = bytes.max(1);
        let ptr = self.driver.allocate(bytes)?.ok_or_else(|| self.out_of_memory(bytes))?;
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(used, Ordering::Relaxed);
        Ok(ptr)
    }

    pub(super) fn free(&self, ptr: DevicePtr, bytes: usize) {
        self.driver.free(ptr);
        self.used.fetch_sub(bytes.max(1), Ordering::Relaxed);
    }

    /// Copies host bytes to new memory. What is large goes on the copy stream, as weights do: a GPU takes at most 64 KiB
    /// of pageable memory without waiting for the stream's earlier work.
    pub(super) fn copy_to_device(&self, dst: DevicePtr, src: &[u8]) -> Result<()> {
        const LARGE: usize = 64 << 10;
        if src.len() <= LARGE || self.recording.load(Ordering::Relaxed) {
            return self.driver.copy_to_device(dst, src, Stream::Compute);
        }
        // The memory is there when the stream that allocates has come so far.
        self.driver.wait(Stream::Copy, Stream::Compute)?;
        self.driver.copy_to_device(dst, src, Stream::Copy)?;
        self.driver.wait(Stream::Compute, Stream::Copy)
    }

    fn out_of_memory(&self, asked: usize) -> Error {
        let free = self.driver.memory_info().map_or_else(|_| "unknown".into(), |memory| in_words(memory.free));
        let (asked, used) = (in_words(asked), in_words(self.memory_use().used));
        let hint = "smaller or shorter batches (--batch-size, --max-input-length), --activation-checkpointing or --dtype \
                    bf16 need less";
        Error::device(self.name(), format!("out of memory: asked {asked}, used {used}, free {free}")).with_hint(hint)
    }

    fn loaded(&self, kernels: &Kernels) -> Result<Arc<Loaded>> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = modules.get(kernels.name) {
            return Ok(loaded.clone());
        }
        let wrong = |detail: String| Error::device(self.name(), format!("ptx/{}.ptx: {detail}", kernels.name));
        let signatures = params::signatures(kernels.ptx).map_err(wrong)?;
        let refused = |error: Error| match error {
            Error::Device { detail, .. } => wrong(detail),
            other => other,
        };
        let loaded = Arc::new(Loaded { module: self.driver.load(kernels.ptx).map_err(refused)?, signatures });
        modules.insert(kernels.name, loaded.clone());
        Ok(loaded)
    }
}

/// A number of bytes for people.
fn in_words(bytes: usize) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    match mib {
        ..0.1 => format!("{bytes} bytes"),
        ..1024.0 => format!("{mib:.1} MiB"),
        _ => format!("{:.2} GiB", mib / 1024.0),
    }
}

/// One file of `ptx/`, which [`kernels!`](crate::kernels) embeds.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    /// The op, which names the file.
    pub name: &'static str,
    /// What the file holds.
    pub ptx: &'static str,
}

/// The [`Kernels`](crate::device::Kernels) of `ptx/$name.ptx`.
#[macro_export]
#[doc(hidden)]
macro_rules! kernels {
    ($name:literal) => {
        $crate::device::Kernels {
            name: $name,
            ptx: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/ptx/", $name, ".ptx")),
        }
    };
}

impl Kernels {
    /// The name of each, and the PTX types of what it takes.
    ///
    /// # Errors
    /// [`Error::File`] if the text is malformed.
    pub fn signatures(&self) -> Result<Vec<(String, Vec<&'static str>)>> {
        let wrong = |e: ptx_emulator::ParseError| Error::file(format!("ptx/{}.ptx", self.name), e.to_string());
        let module = ptx_emulator::Module::parse(self.ptx).map_err(wrong)?;
        let types = |kernel: &ptx_emulator::Kernel| kernel.params().iter().map(|param| param.ty.name()).collect();
        Ok(module.kernels().iter().map(|kernel| (kernel.name().into(), types(kernel))).collect())
    }

    /// Queues one of them, loading them first if need be. A grid of no blocks does nothing.
    ///
    /// # Errors
    /// [`Error::Device`], naming the kernel, if `device` is no GPU, the arguments do not fit the kernel's, or the device
    /// refuses.
    pub fn launch(&self, device: &Device, launch: &Launch<'_>) -> Result<()> {
        let Device::Cuda(cuda) = device else {
            return Err(Error::device(device, format!("{}: a kernel needs a GPU", launch.kernel)));
        };
        let loaded = cuda.loaded(self)?;
        let wrong = |detail: String| Error::device(device, format!("{}: {detail}", launch.kernel));
        loaded.signatures.check(launch).map_err(wrong)?;
        if launch.dims().is_none() {
            let Launch { grid, block, shared, .. } = launch;
            return Err(wrong(format!("no GPU has {grid:?} blocks of {block} threads with {shared} shared bytes")));
        }
        if launch.grid.contains(&0) {
            return Ok(());
        }
        cuda.driver.launch(loaded.module, launch, Stream::Compute)
    }
    /// Queues one that works on flat arrays of `n` elements with any grid: of blocks of 256 threads, which take `pack`
    /// elements each.
    ///
    /// # Errors
    /// As [`Kernels::launch`].
    pub fn launch_flat(&self, device: &Device, kernel: &str, n: usize, pack: usize, args: &[Arg]) -> Result<()> {
        const BLOCK: usize = 256;
        let blocks = n.div_ceil(BLOCK * pack.max(1)).min(i32::MAX as usize);
        self.launch(device, &Launch { kernel, grid: [blocks, 1, 1], block: BLOCK, shared: 0, args })
    }
}
