//! The seam between the engine and a GPU: a small trait shaped like the CUDA driver API.

use crate::error::{Error, Result};

/// An address in device memory. Only [`Driver::allocate`] makes one: copies reach whatever address they are given.
///
/// ```compile_fail
/// vicugna::device::DevicePtr(0x1000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DevicePtr(pub(super) u64);

impl DevicePtr {
    /// The address as a number, for tables of pointers that kernels read.
    pub fn address(self) -> u64 {
        self.0
    }
}

/// A queue of work that runs in order. Every device has two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Kernels, and the copies that must stand between them. All memory is allocated and freed here.
    Compute,
    /// Copies that overlap with kernels: large ones to the device, through page-locked memory.
    Copy,
}

/// A loaded PTX module, by its number on its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Module(pub usize);

/// A buffer of the device, as a kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSlice {
    /// Where it begins.
    pub ptr: DevicePtr,
    /// Its length.
    pub bytes: usize,
}

impl DeviceSlice {
    /// What lies behind its first `bytes` bytes.
    pub fn after(self, bytes: usize) -> Self {
        let skipped = bytes.min(self.bytes);
        Self { ptr: DevicePtr(self.ptr.0 + skipped as u64), bytes: self.bytes - skipped }
    }
}

/// One kernel argument.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Arg {
    /// A buffer that the kernel only reads.
    Input(DeviceSlice),
    /// A buffer that the kernel writes.
    Output(DeviceSlice),
    /// A 32-bit integer.
    I32(i32),
    /// A 64-bit integer.
    I64(i64),
    /// A single-precision number.
    F32(f32),
}

impl Arg {
    /// The [`Arg::I32`] of a size.
    ///
    /// # Errors
    /// [`Error::Input`] from 2³¹ on.
    pub fn size(size: usize) -> Result<Self> {
        let too_large = |_| Error::input("kernel argument", format!("a size must be below 2^31, got {size}"));
        i32::try_from(size).map(Self::I32).map_err(too_large)
    }

    /// Its bits, the first of them those of a narrower type.
    pub fn bits(self) -> u64 {
        match self {
            Self::Input(slice) | Self::Output(slice) => slice.ptr.0,
            Self::I32(value) => u64::from(value.cast_unsigned()),
            Self::I64(value) => value.cast_unsigned(),
            Self::F32(value) => u64::from(value.to_bits()),
        }
    }
}

/// One kernel launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The kernel's entry name.
    pub kernel: &'a str,
    /// Blocks in x, y, z.
    pub grid: [usize; 3],
    /// Threads of a block.
    pub block: usize,
    /// Bytes of dynamic shared memory.
    pub shared: usize,
    /// The arguments, in the order of the kernel's `.param` list.
    pub args: &'a [Arg],
}

impl Launch<'_> {
    /// Grid, block and shared memory as the driver takes them; `None` where one of them is larger than any GPU's.
    pub(super) fn dims(&self) -> Option<([u32; 3], u32, u32)> {
        let [x, y, z] = self.grid;
        let fits = x <= i32::MAX as usize && y <= 65_535 && z <= 65_535 && self.block <= 1024;
        let shared = u32::try_from(self.shared).ok().filter(|_| fits)?;
        Some(([x, y, z].map(|blocks| blocks as u32), self.block as u32, shared))
    }
}

/// Bytes of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// What can still be allocated.
    pub free: usize,
    /// What the device has.
    pub total: usize,
}

/// What became of work that was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It was queued, as one launch.
    Queued,
    /// It was not, for want of so many bytes of device memory.
    NoRoom {
        /// The most that it holds at once.
        bytes: usize,
    },
}

/// What the engine asks of a GPU. All work on one [`Stream`] runs in the order it was given.
pub trait Driver: std::fmt::Debug + Send + Sync {
    /// The device, as `--device` spells it.
    fn name(&self) -> &str;
    /// Reserves `bytes`, at least one, of device memory, uninitialised; `None` where there is no room.
    fn allocate(&self, bytes: usize) -> Result<Option<DevicePtr>>;
    /// Returns memory of [`Driver::allocate`], after the work of [`Stream::Compute`] that uses it.
    fn free(&self, ptr: DevicePtr);
    /// Copies host bytes to the device. They may change once this returns.
    fn copy_to_device(&self, dst: DevicePtr, src: &[u8], stream: Stream) -> Result<()>;
    /// Copies device bytes to the host and waits for them.
    fn copy_to_host(&self, dst: &mut [u8], src: DevicePtr, stream: Stream) -> Result<()>;
    /// Copies `bytes` from one place on the device to another.
    fn copy_on_device(&self, dst: DevicePtr, src: DevicePtr, bytes: usize, stream: Stream) -> Result<()>;
    /// Sets `bytes` bytes to `value`.
    fn set(&self, dst: DevicePtr, value: u8, bytes: usize, stream: Stream) -> Result<()>;
    /// Loads a module from PTX text.
    fn load(&self, ptx: &str) -> Result<Module>;
    /// Queues a kernel of `module`, whose arguments were checked against its `.param` list.
    fn launch(&self, module: Module, launch: &Launch<'_>, stream: Stream) -> Result<()>;
    /// Makes later work on `stream` wait for the work that `other` has now.
    fn wait(&self, stream: Stream, other: Stream) -> Result<()>;
    /// Blocks the host until `stream` is empty.
    fn synchronize(&self, stream: Stream) -> Result<()>;
    /// Free and total device memory.
    fn memory_info(&self) -> Result<MemoryInfo>;
    /// Whether work can be recorded and launched as one.
    fn records(&self) -> bool {
        false
    }
    /// Begins work that is known by `key`. Whether the calls on [`Stream::Compute`] from here on are recorded rather than
    /// queued, until one of the next two; a driver may say no.
    fn begin_recording(&self, _key: u64) -> Result<bool> {
        Ok(false)
    }
    /// Queues what was recorded.
    fn end_recording(&self) -> Result<Recorded> {
        Ok(Recorded::Queued)
    }
    /// Forgets what was recorded: none of it was queued.
    fn drop_recording(&self) {}
}
