//! Results of calls: CUDA's codes, and the texts that `cuGetErrorString` gives for them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::sync::{LazyLock, Mutex, PoisonError};

/// CUDA's `CUresult`.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub i32);

macro_rules! statuses {
    ($($code:literal $name:ident $text:literal,)+) => {
        #[allow(dead_code, reason = "each code has its name and text, whether or not this library returns it")]
        impl Status {
            $(pub const $name: Self = Self($code);)+
        }

        /// The name behind `CUDA_ERROR_` and the meaning of a code.
        fn known(status: Status) -> Option<(&'static str, &'static str)> {
            Some(match status.0 { $($code => (stringify!($name), $text),)+ _ => return None })
        }
    };
}

statuses! {
    0 SUCCESS "no error",
    1 INVALID_VALUE "an argument is not acceptable",
    2 OUT_OF_MEMORY "out of memory",
    3 NOT_INITIALIZED "cuInit was not called",
    4 DEINITIALIZED "the driver is shutting down",
    5 PROFILER_DISABLED "the profiler is disabled",
    6 PROFILER_NOT_INITIALIZED "the profiler is not initialized",
    7 PROFILER_ALREADY_STARTED "the profiler is already started",
    8 PROFILER_ALREADY_STOPPED "the profiler is already stopped",
    34 STUB_LIBRARY "the library is a stub",
    36 CALL_REQUIRES_NEWER_DRIVER "the call requires a newer driver",
    46 DEVICE_UNAVAILABLE "the device is not available",
    100 NO_DEVICE "there is no device",
    101 INVALID_DEVICE "there is no device of that number",
    102 DEVICE_NOT_LICENSED "the device is not licensed",
    200 INVALID_IMAGE "the module is not valid",
    201 INVALID_CONTEXT "no context is current, or it is not valid",
    202 CONTEXT_ALREADY_CURRENT "the context is already current",
    205 MAP_FAILED "mapping failed",
    206 UNMAP_FAILED "unmapping failed",
    207 ARRAY_IS_MAPPED "the array is mapped",
    208 ALREADY_MAPPED "the resource is already mapped",
    209 NO_BINARY_FOR_GPU "the module has no code for this device",
    210 ALREADY_ACQUIRED "the resource is already acquired",
    211 NOT_MAPPED "the resource is not mapped",
    212 NOT_MAPPED_AS_ARRAY "the resource is not mapped as an array",
    213 NOT_MAPPED_AS_POINTER "the resource is not mapped as a pointer",
    214 ECC_UNCORRECTABLE "uncorrectable memory error",
    215 UNSUPPORTED_LIMIT "the device has no such limit",
    216 CONTEXT_ALREADY_IN_USE "the context is in use by another thread",
    217 PEER_ACCESS_UNSUPPORTED "there is no peer access between these devices",
    218 INVALID_PTX "the PTX cannot be loaded",
    219 INVALID_GRAPHICS_CONTEXT "the graphics context is not valid",
    220 NVLINK_UNCORRECTABLE "uncorrectable NVLink error",
    221 JIT_COMPILER_NOT_FOUND "the PTX compiler was not found",
    222 UNSUPPORTED_PTX_VERSION "the PTX version is not supported",
    223 JIT_COMPILATION_DISABLED "compiling PTX is disabled",
    224 UNSUPPORTED_EXEC_AFFINITY "the execution affinity is not supported",
    225 UNSUPPORTED_DEVSIDE_SYNC "synchronizing from the device is not supported",
    226 CONTAINED "an error was contained",
    300 INVALID_SOURCE "the kernel source is not valid",
    301 FILE_NOT_FOUND "the file was not found",
    302 SHARED_OBJECT_SYMBOL_NOT_FOUND "a symbol of a shared object was not found",
    303 SHARED_OBJECT_INIT_FAILED "a shared object could not be initialized",
    304 OPERATING_SYSTEM "a call of the operating system failed",
    400 INVALID_HANDLE "the handle is not valid",
    401 ILLEGAL_STATE "the resource is not in a state that allows this",
    402 LOSSY_QUERY "the answer would lose information",
    500 NOT_FOUND "nothing of that name was found",
    600 NOT_READY "the work has not completed",
    700 ILLEGAL_ADDRESS "a kernel accessed memory that it must not",
    701 LAUNCH_OUT_OF_RESOURCES "the launch needs more than the device has",
    702 LAUNCH_TIMEOUT "a kernel took too long",
    703 LAUNCH_INCOMPATIBLE_TEXTURING "the launch uses an incompatible texturing mode",
    704 PEER_ACCESS_ALREADY_ENABLED "peer access is already enabled",
    705 PEER_ACCESS_NOT_ENABLED "peer access is not enabled",
    708 PRIMARY_CONTEXT_ACTIVE "the primary context is already active",
    709 CONTEXT_IS_DESTROYED "the context was destroyed",
    710 ASSERT "an assertion failed in a kernel",
    711 TOO_MANY_PEERS "too many peers",
    712 HOST_MEMORY_ALREADY_REGISTERED "the host memory is already registered",
    713 HOST_MEMORY_NOT_REGISTERED "the host memory is not registered",
    714 HARDWARE_STACK_ERROR "a kernel's stack is corrupted",
    715 ILLEGAL_INSTRUCTION "a kernel executed an illegal instruction",
    716 MISALIGNED_ADDRESS "a kernel accessed a misaligned address",
    717 INVALID_ADDRESS_SPACE "a kernel accessed an address in the wrong space",
    718 INVALID_PC "a kernel's program counter is not valid",
    719 LAUNCH_FAILED "a kernel did what it must not",
    720 COOPERATIVE_LAUNCH_TOO_LARGE "the cooperative launch has too many blocks",
    721 TENSOR_MEMORY_LEAK "a kernel left tensor memory allocated",
    800 NOT_PERMITTED "this is not permitted",
    801 NOT_SUPPORTED "this is not supported",
    802 SYSTEM_NOT_READY "the system is not ready",
    803 SYSTEM_DRIVER_MISMATCH "driver and system do not match",
    804 COMPAT_NOT_SUPPORTED_ON_DEVICE "the device does not support compatibility mode",
    805 MPS_CONNECTION_FAILED "no connection to the MPS server",
    806 MPS_RPC_FAILURE "the MPS server did not answer",
    807 MPS_SERVER_NOT_READY "the MPS server is not ready",
    808 MPS_MAX_CLIENTS_REACHED "the MPS server has too many clients",
    809 MPS_MAX_CONNECTIONS_REACHED "the MPS server has too many connections",
    810 MPS_CLIENT_TERMINATED "the MPS client was terminated",
    811 CDP_NOT_SUPPORTED "launches from kernels are not supported",
    812 CDP_VERSION_MISMATCH "the version of launches from kernels does not match",
    900 STREAM_CAPTURE_UNSUPPORTED "this is not permitted while the stream is captured",
    901 STREAM_CAPTURE_INVALIDATED "the capture was invalidated",
    902 STREAM_CAPTURE_MERGE "two captures would be merged",
    903 STREAM_CAPTURE_UNMATCHED "the capture was not begun on this stream",
    904 STREAM_CAPTURE_UNJOINED "the capture has a fork that was not joined",
    905 STREAM_CAPTURE_ISOLATION "a dependency would cross the capture's border",
    906 STREAM_CAPTURE_IMPLICIT "a dependency on the legacy stream would be implied",
    907 CAPTURED_EVENT "the event was last recorded in a captured stream",
    908 STREAM_CAPTURE_WRONG_THREAD "the capture was begun by another thread",
    909 TIMEOUT "the wait took too long",
    910 GRAPH_EXEC_UPDATE_FAILURE "the graph cannot be updated",
    911 EXTERNAL_DEVICE "an external device failed",
    912 INVALID_CLUSTER_SIZE "the cluster size is not valid",
    913 FUNCTION_NOT_LOADED "the function is not loaded",
    914 INVALID_RESOURCE_TYPE "the resource type is not valid",
    915 INVALID_RESOURCE_CONFIGURATION "the resource configuration is not valid",
    916 KEY_ROTATION "a key was rotated",
    999 UNKNOWN "unknown error",
}

impl Status {
    /// Whether a context in which it happened is lost, as on a GPU.
    pub fn is_lasting(self) -> bool {
        matches!(self.0, 700 | 702 | 710 | 714..=719)
    }

    /// CUDA's name, as `CUDA_ERROR_INVALID_VALUE`.
    pub fn name(self) -> Option<&'static CStr> {
        let (name, _) = known(self)?;
        let prefix = if self == Self::SUCCESS { "CUDA_" } else { "CUDA_ERROR_" };
        Some(interned(format!("{prefix}{name}")))
    }

    /// The code's meaning, followed by what happened the last time that a call returned it.
    pub fn text(self) -> Option<&'static CStr> {
        let (_, meaning) = known(self)?;
        let details = DETAILS.lock().unwrap_or_else(PoisonError::into_inner);
        Some(interned(match details.get(&self) {
            Some(detail) => format!("{meaning}: {detail}"),
            None => meaning.to_string(),
        }))
    }
}

/// The last detail of each code.
static DETAILS: LazyLock<Mutex<HashMap<Status, String>>> = LazyLock::new(Mutex::default);

/// A text that stays where it is until the process ends, as C expects of names; each different one is kept once.
pub fn interned(text: String) -> &'static CStr {
    static TEXTS: LazyLock<Mutex<HashSet<&'static CStr>>> = LazyLock::new(Mutex::default);
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = texts.get(text.as_c_str()) {
        return known;
    }
    let kept: &'static CStr = Box::leak(text.into_boxed_c_str());
    texts.insert(kept);
    kept
}

/// Writes to standard error, the first time, what a program may not expect of this library.
pub fn say_once(what: &'static str) {
    static SAID: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(what) {
        eprintln!("emulated libcuda: {what}");
    }
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub status: Status,
    pub detail: String,
}

impl Failure {
    pub fn new(status: Status, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    /// Keeps the detail for `cuGetErrorString`.
    pub fn report(self) -> Status {
        DETAILS.lock().unwrap_or_else(PoisonError::into_inner).insert(self.status, self.detail);
        self.status
    }
}

pub type Result<T = ()> = std::result::Result<T, Failure>;

/// An argument that is not acceptable, and why.
pub fn invalid<T>(detail: impl Into<String>) -> Result<T> {
    Err(Failure::new(Status::INVALID_VALUE, detail))
}

/// What this library does not have.
pub fn unsupported<T>(detail: impl Into<String>) -> Result<T> {
    Err(Failure::new(Status::NOT_SUPPORTED, detail))
}
