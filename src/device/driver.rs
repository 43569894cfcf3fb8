//! The seam between the engine and a GPU: a small trait shaped like the CUDA driver API.

use crate::error::Result;

/// An address in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DevicePtr(pub u64);

/// A queue of work that runs in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream(pub u64);

/// A point in a stream that another stream can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event(pub u64);

/// A loaded PTX module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Module(pub u64);

/// Sizes of a grid or a block, in x, y, z.
pub type Dim3 = [u32; 3];

/// One kernel argument.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Arg {
    /// A buffer that the kernel only reads.
    Input(DevicePtr),
    /// A buffer that the kernel writes.
    Output(DevicePtr),
    /// A 32-bit signed integer.
    I32(i32),
    /// A 64-bit signed integer.
    I64(i64),
    /// A single-precision number.
    F32(f32),
}

/// One kernel launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The module that holds the kernel.
    pub module: Module,
    /// The kernel's entry name.
    pub entry: &'a str,
    /// Blocks.
    pub grid: Dim3,
    /// Threads of a block.
    pub block: Dim3,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// The arguments, in the order of the kernel's `.param` list.
    pub args: &'a [Arg],
}

/// Bytes of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// What can still be allocated.
    pub free: usize,
    /// What the device has.
    pub total: usize,
}

/// What the engine asks of a GPU. All work on one [`Stream`] runs in the order it was given.
pub trait Driver: std::fmt::Debug + Send + Sync {
    /// The device, as `--device` spells it.
    fn name(&self) -> &str;
    /// Reserves `bytes` of device memory, uninitialised.
    fn allocate(&self, bytes: usize) -> Result<DevicePtr>;
    /// Returns memory of [`Driver::allocate`], after the work that uses it.
    fn free(&self, ptr: DevicePtr);
    /// Copies host bytes to the device.
    fn copy_to_device(&self, dst: DevicePtr, src: &[u8], stream: Stream) -> Result<()>;
    /// Copies device bytes to the host and waits for them.
    fn copy_to_host(&self, dst: &mut [u8], src: DevicePtr, stream: Stream) -> Result<()>;
    /// Copies `bytes` from one place on the device to another.
    fn copy_on_device(&self, dst: DevicePtr, src: DevicePtr, bytes: usize, stream: Stream) -> Result<()>;
    /// Sets `bytes` bytes to `value`.
    fn set(&self, dst: DevicePtr, value: u8, bytes: usize, stream: Stream) -> Result<()>;
    /// Loads a module from PTX text.
    fn load_module(&self, ptx: &str) -> Result<Module>;
    /// Queues a kernel.
    fn launch(&self, launch: &Launch<'_>, stream: Stream) -> Result<()>;
    /// The stream that the engine computes on.
    fn compute_stream(&self) -> Stream;
    /// Marks the current end of `stream`.
    fn record(&self, stream: Stream) -> Result<Event>;
    /// Makes later work on `stream` wait for `event`.
    fn wait(&self, stream: Stream, event: Event) -> Result<()>;
    /// Blocks the host until `stream` is empty.
    fn synchronize(&self, stream: Stream) -> Result<()>;
    /// Free and total device memory.
    fn memory_info(&self) -> Result<MemoryInfo>;
}
