//! What the driver's compiler has to say of a module that it refuses.

use std::ffi::{CStr, CString, c_void};

use cudarc::driver::sys::{self, CUjit_option, CUresult};

/// Room for a text that names the first refused lines.
const LOG_BYTES: usize = 8 << 10;

/// The compiler's log of errors on a text that was refused; empty where it wrote none. A context is bound.
#[expect(unsafe_code, reason = "calls of the driver")]
pub(super) fn log_of(ptx: &str) -> String {
    let Ok(text) = CString::new(ptx) else { return String::new() };
    let mut log = vec![0u8; LOG_BYTES];
    let mut options = [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    // The driver takes a number in the place of a pointer.
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), std::ptr::without_provenance_mut(LOG_BYTES)];
    let mut module = std::ptr::null_mut();
    let (image, options, values) = (text.as_ptr().cast(), options.as_mut_ptr(), values.as_mut_ptr());
    // SAFETY: the text ends with a NUL; both arrays have two elements, and the log as many bytes as the second value
    // says; all of them live until the call returns.
    let loaded = unsafe { sys::cuModuleLoadDataEx(&raw mut module, image, 2, options, values) };
    if loaded == CUresult::CUDA_SUCCESS {
        // SAFETY: the module was loaded just now, and nobody else knows it.
        let _ = unsafe { sys::cuModuleUnload(module) };
    }
    let text = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
