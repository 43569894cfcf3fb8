//! A real GPU, through cudarc and NVIDIA's driver library, which is looked for at run time.

mod graph;
mod recorder;
mod refusal;
mod staging;

use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute, CUmemPool_attribute, CUmemoryPool, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, result, sys};

use crate::device::driver::{DevicePtr, Driver, Launch, MemoryInfo, Module, Recorded, Stream};
use crate::device::probe::driver_present;
use crate::error::{Error, Result};
use graph::{Function, KernelCall};
use recorder::{Call, Freed, Recorder, Refused};
use staging::Staging;

/// The driver's CUDA version that the checked-in PTX needs. 12.0 has its PTX version, but 12.0's assembler crashes on line
/// information for sm_90.
const OLDEST_DRIVER: i32 = 12_010;

/// A block may have more than 48 KiB of shared memory only where the kernel was told so; of those up to 16 are its own.
const PLAIN_SHARED: u32 = 32 << 10;

/// The [`Driver`] of an NVIDIA GPU.
#[derive(Debug)]
pub struct CudarcDriver {
    name: String,
    context: Arc<CudaContext>,
    compute: Arc<CudaStream>,
    copy: Arc<CudaStream>,
    pool: Pool,
    /// The page-locked memory of the copy stream, from its first upload on.
    staging: Mutex<Option<Staging>>,
    modules: Mutex<Vec<Loaded>>,
    /// The kernel queued last, for errors that come later.
    last: Mutex<String>,
    recorder: Mutex<Recorder>,
}

#[derive(Debug)]
struct Loaded {
    module: Arc<CudaModule>,
    functions: Vec<(String, CudaFunction)>,
}

/// The device's own pool, which `cuMemAllocAsync` takes from.
#[derive(Clone, Copy, Debug)]
struct Pool(CUmemoryPool);

// SAFETY: the pool is the device's default one, which lives as long as the device, and the driver's functions on it may
// be called from any thread.
#[expect(unsafe_code, reason = "a raw handle is not Send by itself")]
unsafe impl Send for Pool {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a raw handle is not Sync by itself")]
unsafe impl Sync for Pool {}

impl CudarcDriver {
    /// The GPU of that number.
    pub fn new(ordinal: usize) -> Result<Self> {
        let name = format!("cuda:{ordinal}");
        refuse_missing(&name, ordinal)?;
        let refused = |error| Error::device(&name, in_words("opening the device", error));
        let context = CudaContext::new(ordinal).map_err(refused)?;
        refuse_old(&name, &context)?;
        let pool = default_pool(&context).map_err(refused)?;
        pool.keep_all();
        let (compute, copy) = (context.new_stream().map_err(refused)?, context.new_stream().map_err(refused)?);
        let (staging, modules, last, recorder) = Default::default();
        Ok(Self { name, context, compute, copy, pool, staging, modules, last, recorder })
    }

    fn stream(&self, stream: Stream) -> &CudaStream {
        match stream {
            Stream::Compute => &self.compute,
            Stream::Copy => &self.copy,
        }
    }

    /// The error of a call, or of a kernel that was still running.
    fn refused(&self, what: &str) -> impl Fn(DriverError) -> Error {
        move |error| {
            let last = lock(&self.last);
            let after = if last.is_empty() { String::new() } else { format!(", after {last} was launched") };
            Error::device(&self.name, format!("{}{after}", in_words(what, error)))
        }
    }

    /// The error of a module, with what the driver's compiler says of it.
    fn module_refused(&self, ptx: &str, error: DriverError) -> Error {
        match refusal::log_of(ptx) {
            log if log.is_empty() => self.refused("loading a module")(error),
            log => Error::device(&self.name, format!("{}: {log}", in_words("loading a module", error))),
        }
    }

    /// Copies to the device on the copy stream.
    fn upload(&self, dst: DevicePtr, src: &[u8]) -> std::result::Result<(), DriverError> {
        let staging = &mut *lock(&self.staging);
        let staging = match staging {
            Some(staging) => staging,
            None => staging.insert(Staging::new(&self.context)?),
        };
        staging.upload(dst.0, src, &self.copy)
    }

    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(self.refused("entering the context"))
    }

    /// Records a call on a stream, if calls on it are recorded; the address of an allocation.
    fn record(&self, stream: Stream, call: impl FnOnce() -> Call, data: &[u8]) -> Result<Option<u64>> {
        if stream == Stream::Copy {
            return Ok(None);
        }
        let mut recorder = lock(&self.recorder);
        if !recorder.is_recording() {
            return Ok(None);
        }
        recorder.call(call(), data).transpose().map_err(|refused| self.not_recorded(refused))
    }

    fn not_recorded(&self, refused: Refused) -> Error {
        match refused {
            Refused::Driver(error) => self.refused("a CUDA graph")(error),
            Refused::Differs(detail) => {
                Error::device(&self.name, format!("the work is not that of its CUDA graph: {detail}"))
                    .with_hint("run without --cuda-graphs")
            }
        }
    }

    /// Refuses what waits for recorded work, which has not begun.
    fn refuse_recording(&self, stream: Stream, what: &str) -> Result<()> {
        if stream == Stream::Compute && lock(&self.recorder).is_recording() {
            return Err(self.not_recorded(Refused::Differs(format!("{what} within it"))));
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "a call of the driver")]
    fn allocate_now(&self, bytes: usize) -> std::result::Result<u64, DriverError> {
        // SAFETY: the stream is this driver's own and lives as long as it; what is allocated is not read as it is.
        unsafe { result::malloc_async(self.compute.cu_stream(), bytes) }
    }

    #[expect(unsafe_code, reason = "a call of the driver")]
    fn free_now(&self, ptr: u64) {
        // SAFETY: `ptr` came from `allocate`, and its one owner gives it back after all work that uses it.
        let freed = unsafe { result::free_async(ptr, self.compute.cu_stream()) };
        self.context.record_err(freed);
    }

    /// Gives the system what the pool and graphs hold back, of which neither lends the other any.
    #[expect(unsafe_code, reason = "a call of the driver")]
    fn make_room(&self) {
        self.context.record_err(self.compute.synchronize());
        self.pool.trim();
        // SAFETY: the device is that of a live context.
        let _ = unsafe { sys::cuDeviceGraphMemTrim(self.context.cu_device()) };
    }

    fn function(&self, module: Module, kernel: &str) -> Result<CudaFunction> {
        let mut modules = lock(&self.modules);
        let missing = || Error::device(&self.name, format!("{kernel}: its module is not loaded"));
        let loaded = modules.get_mut(module.0).ok_or_else(missing)?;
        if let Some((_, function)) = loaded.functions.iter().find(|(name, _)| name == kernel) {
            return Ok(function.clone());
        }
        let function = loaded.module.load_function(kernel).map_err(self.refused(kernel))?;
        loaded.functions.push((kernel.into(), function.clone()));
        Ok(function)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn in_words(what: &str, error: DriverError) -> String {
    let text = error.error_string().map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{what}: {text} ({:?})", error.0)
}

/// Without libcuda, and where it lacks a function, cudarc panics: this comes before every other call.
fn refuse_missing(name: &str, ordinal: usize) -> Result<()> {
    if !driver_present() {
        return Err(Error::device(name, "this machine has no NVIDIA driver (libcuda)"));
    }
    let refused = |e| Error::device(name, in_words("asking the driver what there is", e));
    let version = driver_version().map_err(refused)?;
    if version < OLDEST_DRIVER {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        let detail = format!("the NVIDIA driver is for CUDA {major}.{minor}, and 12.1 or later is needed");
        return Err(Error::device(name, detail));
    }
    let count = CudaContext::device_count().map_err(refused)?;
    if usize::try_from(count).unwrap_or(0) <= ordinal {
        return Err(Error::device(name, format!("there is no such GPU; this machine has {count}")));
    }
    Ok(())
}

/// The oldest GPU that the checked-in PTX runs on, and stream-ordered allocation.
fn refuse_old(name: &str, context: &CudaContext) -> Result<()> {
    let refused = |e| Error::device(name, in_words("asking for attributes", e));
    let (major, minor) = context.compute_capability().map_err(refused)?;
    if major < 8 {
        let detail = format!("its compute capability is {major}.{minor}, and 8.0 or later is needed");
        return Err(Error::device(name, detail));
    }
    let pools = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED).map_err(refused)?;
    if pools == 0 {
        return Err(Error::device(name, "it has no stream-ordered allocation"));
    }
    Ok(())
}

impl Driver for CudarcDriver {
    fn name(&self) -> &str {
        &self.name
    }

    fn allocate(&self, bytes: usize) -> Result<Option<DevicePtr>> {
        self.bind()?;
        if let Some(ptr) = self.record(Stream::Compute, || Call::Allocate { bytes }, &[])? {
            return Ok(Some(DevicePtr(ptr)));
        }
        let full = |error: &DriverError| error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        let mut allocated = self.allocate_now(bytes);
        if allocated.as_ref().is_err_and(full) && lock(&self.recorder).has_graphs() {
            self.make_room();
            allocated = self.allocate_now(bytes);
        }
        match allocated {
            Ok(ptr) => Ok(Some(DevicePtr(ptr))),
            Err(error) if full(&error) => Ok(None),
            Err(error) => Err(self.refused("allocating")(error)),
        }
    }

    fn free(&self, ptr: DevicePtr) {
        // What fails here, after a kernel did, is told by the next call that can.
        if self.bind().is_ok() && lock(&self.recorder).free(ptr.0) == Freed::Now {
            self.free_now(ptr.0);
        }
    }

    #[expect(unsafe_code, reason = "a call of the driver")]
    fn copy_to_device(&self, dst: DevicePtr, src: &[u8], stream: Stream) -> Result<()> {
        self.bind()?;
        let call = || Call::ToDevice { dst: dst.0, bytes: src.len() };
        if src.is_empty() || self.record(stream, call, src)?.is_some() {
            return Ok(());
        }
        let copied = match stream {
            // SAFETY: `dst` is an allocation of at least `src.len()` bytes; `src` is pageable memory, which the driver has
            // copied when it returns.
            Stream::Compute => unsafe { result::memcpy_htod_async(dst.0, src, self.compute.cu_stream()) },
            Stream::Copy => self.upload(dst, src),
        };
        copied.map_err(self.refused("copying to the device"))
    }

    #[expect(unsafe_code, reason = "a call of the driver")]
    fn copy_to_host(&self, dst: &mut [u8], src: DevicePtr, stream: Stream) -> Result<()> {
        self.bind()?;
        self.refuse_recording(stream, "bytes are read back")?;
        let handle = self.stream(stream).cu_stream();
        // SAFETY: `src` is an allocation of at least `dst.len()` bytes; `dst` is borrowed until the stream is empty.
        let copied = unsafe { result::memcpy_dtoh_async(dst, src.0, handle) };
        let done = self.stream(stream).synchronize();
        copied.and(done).map_err(self.refused("copying to the host"))
    }

    #[expect(unsafe_code, reason = "a call of the driver")]
    fn copy_on_device(&self, dst: DevicePtr, src: DevicePtr, bytes: usize, stream: Stream) -> Result<()> {
        self.bind()?;
        let call = || Call::OnDevice { dst: dst.0, src: src.0, bytes };
        if bytes == 0 || self.record(stream, call, &[])?.is_some() {
            return Ok(());
        }
        let stream = self.stream(stream).cu_stream();
        // SAFETY: both are allocations of at least `bytes` bytes, and are freed after the work that is queued now.
        unsafe { result::memcpy_dtod_async(dst.0, src.0, bytes, stream) }.map_err(self.refused("copying on the device"))
    }

    #[expect(unsafe_code, reason = "a call of the driver")]
    fn set(&self, dst: DevicePtr, value: u8, bytes: usize, stream: Stream) -> Result<()> {
        self.bind()?;
        if bytes == 0 || self.record(stream, || Call::Set { dst: dst.0, value, bytes }, &[])?.is_some() {
            return Ok(());
        }
        let stream = self.stream(stream).cu_stream();
        // SAFETY: `dst` is an allocation of at least `bytes` bytes.
        unsafe { result::memset_d8_async(dst.0, value, bytes, stream) }.map_err(self.refused("setting memory"))
    }

    fn load(&self, ptx: &str) -> Result<Module> {
        if ptx.contains('\0') {
            return Err(Error::device(&self.name, "a PTX text cannot hold a NUL"));
        }
        let module = self.context.load_module(ptx.into()).map_err(|error| self.module_refused(ptx, error))?;
        let mut modules = lock(&self.modules);
        modules.push(Loaded { module, functions: Vec::new() });
        Ok(Module(modules.len() - 1))
    }

    #[expect(unsafe_code, reason = "a call of the driver")]
    fn launch(&self, module: Module, launch: &Launch<'_>, stream: Stream) -> Result<()> {
        self.bind()?;
        let function = self.function(module, launch.kernel)?;
        let too_large = || Error::device(&self.name, format!("{}: the launch is too large", launch.kernel));
        let (grid, block, shared) = launch.dims().ok_or_else(too_large)?;
        if shared > PLAIN_SHARED {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let set = function.set_attribute(attribute, shared.cast_signed());
            set.map_err(self.refused(launch.kernel))?;
        }
        let values: Vec<u64> = launch.args.iter().map(|arg| arg.bits()).collect();
        let call = || Call::Launch {
            kernel: launch.kernel.into(),
            call: KernelCall { function: Function(function.cu_function()), grid, block, shared, args: values.clone() },
        };
        if self.record(stream, call, &[])?.is_some() {
            return Ok(());
        }
        let config =
            cudarc::driver::LaunchConfig { grid_dim: grid.into(), block_dim: (block, 1, 1), shared_mem_bytes: shared };
        let mut builder = self.stream(stream).launch_builder(&function);
        for value in &values {
            cudarc::driver::PushKernelArg::arg(&mut builder, value);
        }
        // SAFETY: number and kinds of the arguments were checked against the kernel's `.param` list; narrower ones are
        // the first bytes of their word; buffers are freed in stream order, after this launch.
        unsafe { builder.launch(config) }.map_err(self.refused(launch.kernel))?;
        launch.kernel.clone_into(&mut lock(&self.last));
        Ok(())
    }

    fn wait(&self, stream: Stream, other: Stream) -> Result<()> {
        self.refuse_recording(stream, "a stream is waited for")?;
        self.refuse_recording(other, "a stream waits")?;
        self.stream(stream).join(self.stream(other)).map_err(self.refused("ordering streams"))
    }

    fn synchronize(&self, stream: Stream) -> Result<()> {
        self.refuse_recording(stream, "the host waits")?;
        self.stream(stream).synchronize().map_err(self.refused("waiting"))
    }

    fn memory_info(&self) -> Result<MemoryInfo> {
        let (free, total) = self.context.mem_get_info().map_err(self.refused("asking for free memory"))?;
        Ok(MemoryInfo { free: free + self.pool.unused(), total })
    }

    fn records(&self) -> bool {
        true
    }

    fn begin_recording(&self, key: u64) -> Result<bool> {
        self.bind()?;
        lock(&self.recorder).begin(key, &self.context).map_err(|refused| self.not_recorded(refused))
    }

    fn end_recording(&self) -> Result<Recorded> {
        self.bind()?;
        let mut recorder = lock(&self.recorder);
        let (later, ended) = recorder.end(&self.compute, || self.make_room());
        later.into_iter().for_each(|ptr| self.free_now(ptr));
        match ended.map_err(|refused| self.not_recorded(refused))? {
            Some(bytes) => Ok(Recorded::NoRoom { bytes }),
            None => {
                *lock(&self.last) = format!("a CUDA graph of {} kernels", recorder.last_kernels());
                Ok(Recorded::Queued)
            }
        }
    }

    fn drop_recording(&self) {
        if self.bind().is_ok() {
            lock(&self.recorder).abandon().into_iter().for_each(|ptr| self.free_now(ptr));
        }
    }
}

#[expect(unsafe_code, reason = "a call of the driver")]
fn driver_version() -> std::result::Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: the driver library is there, and writes one int.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    Ok(version)
}

#[expect(unsafe_code, reason = "a call of the driver")]
fn default_pool(context: &CudaContext) -> std::result::Result<Pool, DriverError> {
    // SAFETY: the device is that of a live context.
    unsafe { result::device::get_default_mem_pool(context.cu_device()) }.map(Pool)
}

impl Pool {
    /// Lets the pool keep what is freed, where by default it gives all back to the system at every synchronisation. A
    /// driver that cannot is slower, not wrong.
    fn keep_all(self) {
        let mut threshold = u64::MAX;
        let _ = self.attribute(result::mem_pool::set_attribute, RELEASE_THRESHOLD, &mut threshold);
    }

    /// Gives back what it keeps.
    #[expect(unsafe_code, reason = "a call of the driver")]
    fn trim(self) {
        // SAFETY: the pool is the device's.
        let _ = unsafe { result::mem_pool::trim_to(self.0, 0) };
    }

    /// Bytes that it keeps and nobody uses.
    fn unused(self) -> usize {
        let get = |which| {
            let mut bytes = 0;
            self.attribute(result::mem_pool::get_attribute, which, &mut bytes).map(|()| bytes)
        };
        let unused = get(RESERVED).and_then(|reserved| Ok(reserved.saturating_sub(get(USED)?)));
        unused.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(0))
    }

    #[expect(unsafe_code, reason = "a call of the driver")]
    fn attribute(
        self,
        call: Attribute,
        which: CUmemPool_attribute,
        value: &mut u64,
    ) -> std::result::Result<(), DriverError> {
        // SAFETY: the pool is the device's; the three attributes named below are of the type `cuuint64_t`.
        unsafe { call(self.0, which, std::ptr::from_mut(value).cast()) }
    }
}

/// One of cudarc's two functions on a pool's attributes.
type Attribute = unsafe fn(CUmemoryPool, CUmemPool_attribute, *mut c_void) -> std::result::Result<(), DriverError>;

const RELEASE_THRESHOLD: CUmemPool_attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
const RESERVED: CUmemPool_attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT;
const USED: CUmemPool_attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
