//! Initialization, version, error texts, and the marker by which this library is told from a real driver.

use crate::border::{Out, entry};
use crate::machine::initialize;
use crate::status::{Failure, Result, Status, interned};
use std::ffi::{CStr, c_char};

/// The newest CUDA whose PTX the emulator takes.
const VERSION: i32 = 13000;

/// Names this library and its version. NVIDIA's driver has no such symbol.
#[unsafe(no_mangle)]
pub extern "C" fn vicugna_emulated_driver() -> *const c_char {
    interned(format!("ptx-emulator {}", env!("CARGO_PKG_VERSION"))).as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: u32) -> Status {
    entry(|| match flags {
        0 => initialize(),
        _ => Err(Failure::new(Status::INVALID_VALUE, format!("cuInit takes no flags, got {flags:#x}"))),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDriverGetVersion(version: Out<i32>) -> Status {
    entry(|| {
        version.place()?.set(VERSION);
        Ok(())
    })
}

/// Gives a text of a code, or null and an error for a number that is no code.
fn text_of(status: Status, text: Out<*const c_char>, found: Option<&'static CStr>) -> Result {
    let place = text.place()?;
    place.set(found.map_or(std::ptr::null(), CStr::as_ptr));
    let unknown = || Failure::new(Status::INVALID_VALUE, format!("{} is no CUDA error code", status.0));
    found.map(|_| ()).ok_or_else(unknown)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorName(status: Status, name: Out<*const c_char>) -> Status {
    entry(|| text_of(status, name, status.name()))
}

/// The meaning of the code, and what happened the last time that a call returned it: for a trap, kernel, PTX line,
/// source line, block, warp and lane.
#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorString(status: Status, text: Out<*const c_char>) -> Status {
    entry(|| text_of(status, text, status.text()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStart() -> Status {
    Status::SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStop() -> Status {
    Status::SUCCESS
}
