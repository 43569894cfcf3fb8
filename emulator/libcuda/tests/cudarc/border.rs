//! Every name is there, and no null pointer or made-up handle does more than fail.

use crate::device;
use crate::process::succeeds;
use cudarc::driver::sys;
use std::ffi::{CStr, c_char};
use std::ptr::null_mut;

#[test]
fn nulls_fail_and_nothing_more() {
    let said = succeeds("border::nulls", &[]);
    let once = said.matches("emulated libcuda: cuGraphClone is not supported").count();
    assert_eq!(once, 1, "{said}");
}

#[test]
fn made_up_handles_fail_and_nothing_more() {
    succeeds("border::handles", &[]);
}

#[test]
fn functions_are_found_by_name_and_version() {
    succeeds("border::addresses", &[]);
}

/// A driver function called with nothing but zeros, of which it takes as many as it wants.
type Zeros = unsafe extern "C" fn(u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64) -> i32;

type ErrorName = unsafe extern "C" fn(i32, *mut *const c_char) -> i32;

/// The names that the library is to have, which are all of cudarc's and cust's.
fn names() -> impl Iterator<Item = &'static str> {
    let (_, lists) = include_str!("../../src/names.in").split_once("names! {").unwrap();
    lists.split_whitespace().filter(|name| name.starts_with("cu"))
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn nulls() {
    // SAFETY: loading this library runs nothing.
    let library = unsafe { sys::culib() };
    // SAFETY: this is the function's type, with the code as the number that it is.
    let error_name = unsafe { library.get::<ErrorName>(b"cuGetErrorName") }.unwrap();
    let mut refused = 0;
    for _ in 0..2 {
        for name in names() {
            let _context = device();
            // SAFETY: every function here returns a `CUresult` and follows no null pointer, which is what is tested.
            let function = unsafe { library.get::<Zeros>(name.as_bytes()) };
            let function = function.unwrap_or_else(|error| panic!("{name}: {error}"));
            // SAFETY: as above.
            let status = unsafe { function(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) };
            let mut text = std::ptr::null();
            // SAFETY: `text` lives through the call.
            let known = unsafe { error_name(status, &mut text) };
            assert_eq!(known, 0, "{name} gave {status}");
            refused += usize::from(status == 801);
        }
    }
    assert_eq!(names().count(), 515);
    assert!(refused > 600, "{refused}");
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn handles() {
    use sys::CUresult::*;
    let _context = device();
    let mut out = 0;
    let made_up = |number: usize| std::ptr::without_provenance_mut::<u8>(number);
    // SAFETY: handles are looked up and never followed, which is what is tested; `out` lives through the calls.
    assert_eq!(unsafe { sys::cuStreamSynchronize(made_up(0x7777).cast()) }, CUDA_ERROR_INVALID_HANDLE);
    let function = made_up(0x1000).cast();
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
    // SAFETY: as above.
    assert_eq!(unsafe { sys::cuFuncGetAttribute(&mut out, attribute, function) }, CUDA_ERROR_INVALID_HANDLE);
    // SAFETY: as above.
    assert_eq!(unsafe { sys::cuModuleUnload(made_up(usize::MAX).cast()) }, CUDA_ERROR_INVALID_HANDLE);
    // SAFETY: as above.
    assert_eq!(unsafe { sys::cuEventSynchronize(made_up(8).cast()) }, CUDA_ERROR_INVALID_HANDLE);
    // SAFETY: as above.
    assert_eq!(unsafe { sys::cuCtxSetCurrent(made_up(8).cast()) }, CUDA_ERROR_INVALID_CONTEXT);
    // SAFETY: as above.
    assert_eq!(unsafe { sys::cuMemFree_v2(0x1234) }, CUDA_ERROR_INVALID_VALUE);
    let nothing = null_mut();
    // SAFETY: as above.
    let launched = unsafe { sys::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, null_mut(), nothing, nothing) };
    assert_eq!(launched, CUDA_ERROR_INVALID_HANDLE);
    // SAFETY: as above.
    assert_eq!(unsafe { sys::cuMemcpyHtoD_v2(0x1234, (&raw const out).cast(), 4) }, CUDA_ERROR_INVALID_VALUE);
}

fn address(name: &CStr, version: i32) -> (sys::CUresult, usize) {
    let mut found = null_mut();
    // SAFETY: the name ends with a zero, and `found` lives through the call.
    let status = unsafe { sys::cuGetProcAddress_v2(name.as_ptr(), &mut found, version, 0, null_mut()) };
    (status, found.addr())
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn addresses() {
    let _context = device();
    // SAFETY: loading this library runs nothing.
    let library = unsafe { sys::culib() };
    let symbol = |name: &str| {
        // SAFETY: the function is not called, only its address is looked at.
        let function = unsafe { library.get::<Zeros>(name.as_bytes()) };
        function.map(|function| *function as usize).unwrap()
    };
    let found = |address| (sys::CUresult::CUDA_SUCCESS, address);
    assert_eq!(address(c"cuMemAlloc", 12000), found(symbol("cuMemAlloc_v2")));
    assert_eq!(address(c"cuCtxCreate", 3020), found(symbol("cuCtxCreate_v2")));
    assert_eq!(address(c"cuCtxCreate", 12000), found(symbol("cuCtxCreate_v3")));
    assert_eq!(address(c"cuCtxCreate", 13000), found(symbol("cuCtxCreate_v4")));
    assert_eq!(address(c"cuLaunchHostFunc", 12000), found(symbol("cuLaunchHostFunc")));
    assert_eq!(address(c"cuEventElapsedTime", 12070), found(symbol("cuEventElapsedTime")));
    assert_eq!(address(c"cuNoSuchThing", 12000), (sys::CUresult::CUDA_ERROR_NOT_FOUND, 0));
}
