//! Which GPUs this machine has, asked without starting work on one.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

use crate::error::{Error, Result};

/// A GPU as its driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its number, as in `--device cuda:N`.
    pub ordinal: usize,
    /// The marketing name.
    pub name: String,
    /// Bytes of device memory.
    pub total_memory: usize,
}

/// The GPUs of this machine; none where no NVIDIA driver is installed.
///
/// # Errors
/// [`Error::Device`] if a driver is there but does not answer.
pub fn gpus() -> Result<Vec<Gpu>> {
    if !driver_present() {
        return Ok(Vec::new());
    }
    let count = match cudarc::driver::CudaContext::device_count() {
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => 0, // as where CUDA_VISIBLE_DEVICES hides all
        count => ask(count)?,
    };
    (0..usize::try_from(count).unwrap_or(0)).map(describe).collect()
}

fn describe(ordinal: usize) -> Result<Gpu> {
    let context = ask(cudarc::driver::CudaContext::new(ordinal))?;
    Ok(Gpu { ordinal, name: ask(context.name())?, total_memory: ask(context.total_mem())? })
}

fn ask<T>(answer: std::result::Result<T, DriverError>) -> Result<T> {
    answer.map_err(|e| Error::device("cuda", format!("the driver refused: {e:?}")))
}

/// cudarc panics without libcuda, so this comes before every other call to it.
#[expect(unsafe_code, reason = "cudarc marks its probe unsafe because it loads a shared library")]
pub(super) fn driver_present() -> bool {
    // SAFETY: loading libcuda runs its initialisers, which NVIDIA's library allows at any time.
    unsafe { cudarc::driver::sys::is_culib_present() }
}
