//! Functions that cudarc has no safe form of, called as they are.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each handle, place and length is the test's own, or to be refused"
)]

use crate::process::succeeds;
use crate::{common, device};
use cudarc::driver::sys::{self, CUresult};
use std::ffi::c_void;
use std::ptr::null_mut;
use sys::CUresult::*;

#[test]
fn launches_in_every_way() {
    succeeds("calls::launches", &[]);
}

#[test]
fn contexts_come_and_go() {
    succeeds("calls::contexts", &[]);
}

#[test]
fn copies_wait_as_cuda_documents() {
    succeeds("calls::late_copies", &[("VICUGNA_EMULATED_STREAMS", "late")]);
}

#[test]
fn addresses_are_known_and_filled() {
    succeeds("calls::fills", &[]);
    succeeds("calls::pointers", &[]);
}

#[test]
fn a_failed_load_leaves_its_log() {
    succeeds("calls::load_log", &[]);
}

/// A result of a call that must succeed.
fn ask<T>(zero: T, call: impl FnOnce(*mut T) -> CUresult) -> T {
    let mut result = zero;
    assert_eq!(call(&mut result), CUDA_SUCCESS);
    result
}

fn done(status: CUresult) {
    assert_eq!(status, CUDA_SUCCESS);
}

fn allocate(bytes: usize) -> sys::CUdeviceptr {
    ask(0, |place| unsafe { sys::cuMemAlloc_v2(place, bytes) })
}

fn read<T: Copy + Default>(address: sys::CUdeviceptr, count: usize) -> Vec<T> {
    let mut out = vec![T::default(); count];
    done(unsafe { sys::cuMemcpyDtoH_v2(out.as_mut_ptr().cast(), address, count * size_of::<T>()) });
    out
}

/// The kernel `scale_f32`, and a buffer of three ones.
fn scale() -> (sys::CUmodule, sys::CUfunction, sys::CUdeviceptr) {
    let text = std::ffi::CString::new(common::ptx("elementwise")).unwrap();
    let module = ask(null_mut(), |place| unsafe { sys::cuModuleLoadData(place, text.as_ptr().cast()) });
    let function = ask(null_mut(), |place| unsafe { sys::cuModuleGetFunction(place, module, c"scale_f32".as_ptr()) });
    let buffer = allocate(12);
    done(unsafe { sys::cuMemsetD32_v2(buffer, 1f32.to_bits(), 3) });
    (module, function, buffer)
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn launches() {
    let _context = device();
    let (_, function, mut buffer) = scale();
    let (mut n, mut factor) = (3i64, 3f32);
    let mut params: [*mut c_void; 4] =
        [(&raw mut buffer).cast(), (&raw mut buffer).cast(), (&raw mut n).cast(), (&raw mut factor).cast()];
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PRIORITY;
    let mut config = sys::CUlaunchConfig {
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 256,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: null_mut(),
        attrs: &mut attribute,
        numAttrs: 1,
    };
    done(unsafe { sys::cuLaunchKernelEx(&config, function, params.as_mut_ptr(), null_mut()) });
    assert_eq!(read::<f32>(buffer, 3), [3.0; 3]);
    attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    config.attrs = &mut attribute;
    let clusters = unsafe { sys::cuLaunchKernelEx(&config, function, params.as_mut_ptr(), null_mut()) };
    assert_eq!(clusters, CUDA_ERROR_NOT_SUPPORTED);

    // The arguments in one buffer: two addresses, a 64-bit and a 32-bit number.
    let mut arguments: Vec<u8> = [buffer, buffer, 3].iter().flat_map(|word| word.to_ne_bytes()).collect();
    arguments.extend(5f32.to_ne_bytes());
    let launch = |bytes: usize, params: *mut *mut c_void| {
        let mut bytes = bytes;
        let mark = std::ptr::without_provenance_mut;
        let mut extra = [mark(1), arguments.as_ptr().cast_mut().cast(), mark(2), (&raw mut bytes).cast(), mark(0)];
        unsafe { sys::cuLaunchKernel(function, 1, 1, 1, 256, 1, 1, 0, null_mut(), params, extra.as_mut_ptr()) }
    };
    done(launch(28, null_mut()));
    assert_eq!(read::<f32>(buffer, 3), [15.0; 3]);
    assert_eq!(launch(27, null_mut()), CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(28, params.as_mut_ptr()), CUDA_ERROR_INVALID_VALUE);

    params[2] = null_mut();
    let launch = |grid, block, params| unsafe {
        sys::cuLaunchKernel(function, grid, 1, 1, block, 1, 1, 0, null_mut(), params, null_mut())
    };
    assert_eq!(launch(1, 256, params.as_mut_ptr()), CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(1, 256, null_mut()), CUDA_ERROR_INVALID_VALUE);
    params[2] = (&raw mut n).cast();
    assert_eq!(launch(0, 256, params.as_mut_ptr()), CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(1, 257, params.as_mut_ptr()), CUDA_ERROR_INVALID_VALUE);
    assert_eq!(read::<f32>(buffer, 3), [15.0; 3]);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn contexts() {
    let primary = device();
    let current = || ask(null_mut(), |place| unsafe { sys::cuCtxGetCurrent(place) });
    assert_eq!(current(), primary.cu_ctx());
    let own = ask(null_mut(), |place| unsafe { sys::cuCtxCreate_v3(place, null_mut(), 0, 4, 0) });
    assert_eq!(current(), own);
    assert_eq!(ask(0, |place| unsafe { sys::cuCtxGetFlags(place) }), 4);
    let stack = sys::CUlimit::CU_LIMIT_STACK_SIZE;
    done(unsafe { sys::cuCtxSetLimit(stack, 4096) });
    assert_eq!(ask(0, |place| unsafe { sys::cuCtxGetLimit(place, stack) }), 4096);
    let stream = ask(null_mut(), |place| unsafe { sys::cuStreamCreateWithPriority(place, 1, -9) });
    assert_eq!(ask(0, |place| unsafe { sys::cuStreamGetPriority(stream, place) }), -5);
    assert_eq!(ask(null_mut(), |place| unsafe { sys::cuStreamGetCtx(stream, place) }), own);
    let buffer = allocate(100);
    assert_eq!(ask(null_mut(), |place| unsafe { sys::cuCtxPopCurrent_v2(place) }), own);
    assert_eq!(current(), primary.cu_ctx());
    let event = ask(null_mut(), |place| unsafe { sys::cuEventCreate(place, 0) });
    assert_eq!(unsafe { sys::cuEventRecord(event, stream) }, CUDA_ERROR_INVALID_HANDLE);
    done(unsafe { sys::cuCtxPushCurrent_v2(own) });
    done(unsafe { sys::cuCtxDestroy_v2(own) });
    assert_eq!(current(), primary.cu_ctx());
    assert_eq!(unsafe { sys::cuStreamSynchronize(stream) }, CUDA_ERROR_INVALID_HANDLE);
    assert_eq!(unsafe { sys::cuMemFree_v2(buffer) }, CUDA_ERROR_INVALID_VALUE);
    assert_eq!(unsafe { sys::cuCtxSetCurrent(own) }, CUDA_ERROR_INVALID_CONTEXT);
    assert_eq!(unsafe { sys::cuCtxDestroy_v2(primary.cu_ctx()) }, CUDA_ERROR_INVALID_CONTEXT);

    // A reset ends what is in the primary context and leaves it usable.
    let buffer = allocate(100);
    done(unsafe { sys::cuDevicePrimaryCtxReset_v2(0) });
    assert_eq!(unsafe { sys::cuMemFree_v2(buffer) }, CUDA_ERROR_INVALID_VALUE);
    assert!(allocate(100) > buffer);
    done(unsafe { sys::cuCtxSetCurrent(null_mut()) });
    assert_eq!(unsafe { sys::cuMemAlloc_v2(&mut 0, 8) }, CUDA_ERROR_INVALID_CONTEXT);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn late_copies() {
    let _context = device();
    let stream = ask(null_mut(), |place| unsafe { sys::cuStreamCreate(place, 1) });
    let buffer = allocate(4);
    let mut word = 1u32;
    let here: *mut c_void = (&raw mut word).cast();
    let to_device = || done(unsafe { sys::cuMemcpyHtoDAsync_v2(buffer, here, 4, stream) });
    let to_host = || done(unsafe { sys::cuMemcpyDtoHAsync_v2(here, buffer, 4, stream) });
    let set = |value| unsafe { here.cast::<u32>().write_volatile(value) };
    let get = || unsafe { here.cast::<u32>().read_volatile() };
    let wait = || done(unsafe { sys::cuStreamSynchronize(stream) });
    // Memory of the program's own: taken at the call, and there when the call returns.
    to_device();
    set(2);
    to_host();
    assert_eq!(get(), 1);
    // Page-locked memory: when the stream gets there.
    done(unsafe { sys::cuMemHostRegister_v2(here, 4, 0) });
    assert_eq!(unsafe { sys::cuMemHostRegister_v2(here, 4, 0) }, CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    set(3);
    to_device();
    set(4);
    wait();
    set(5);
    to_host();
    assert_eq!(get(), 5);
    wait();
    assert_eq!(get(), 4);
    done(unsafe { sys::cuMemHostUnregister(here) });
    assert_eq!(unsafe { sys::cuMemHostUnregister(here) }, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn fills() {
    let _context = device();
    let buffer = allocate(24);
    done(unsafe { sys::cuMemsetD8_v2(buffer, 7, 24) });
    done(unsafe { sys::cuMemsetD2D16_v2(buffer + 2, 8, 0x0201, 2, 3) });
    assert_eq!(read::<u8>(buffer, 24), [7, 7, 1, 2, 1, 2, 7, 7].repeat(3));
    assert_eq!(unsafe { sys::cuMemsetD32_v2(buffer + 2, 0, 1) }, CUDA_ERROR_INVALID_VALUE);
    assert_eq!(unsafe { sys::cuMemsetD8_v2(buffer + 20, 0, 5) }, CUDA_ERROR_INVALID_VALUE);
    assert_eq!(unsafe { sys::cuMemsetD2D8_v2(buffer, 8, 0, 9, 3) }, CUDA_ERROR_INVALID_VALUE);
    let mut pitch = 0;
    let rows = ask(0, |place| unsafe { sys::cuMemAllocPitch_v2(place, &mut pitch, 513, 2, 4) });
    assert_eq!(pitch, 1024);
    done(unsafe { sys::cuMemsetD8_v2(rows, 0, 2048) });
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn pointers() {
    use sys::CUpointer_attribute::{self as Attribute, *};
    let context = device();
    let buffer = allocate(100);
    let about = |attribute: Attribute, address| {
        ask(0u64, |place| unsafe { sys::cuPointerGetAttribute(place.cast(), attribute, address) })
    };
    assert_eq!(about(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, buffer + 50), 2);
    assert_eq!(about(CU_POINTER_ATTRIBUTE_CONTEXT, buffer), context.cu_ctx().addr() as u64);
    assert_eq!(about(CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, buffer + 50), buffer);
    assert_eq!(about(CU_POINTER_ATTRIBUTE_RANGE_SIZE, buffer + 50), 100);
    let nowhere =
        unsafe { sys::cuPointerGetAttribute((&raw mut *Box::new(0u64)).cast(), CU_POINTER_ATTRIBUTE_MEMORY_TYPE, 64) };
    assert_eq!(nowhere, CUDA_ERROR_INVALID_VALUE);
    let (mut start, mut bytes) = (0, 0);
    done(unsafe { sys::cuMemGetAddressRange_v2(&mut start, &mut bytes, buffer + 99) });
    assert_eq!((start, bytes), (buffer, 100));
    // A copy whose addresses tell where they are.
    let (from, mut to) = ([1u8, 2, 3], [0u8; 3]);
    done(unsafe { sys::cuMemcpy(buffer, from.as_ptr().expose_provenance() as u64, 3) });
    done(unsafe { sys::cuMemcpy(to.as_mut_ptr().expose_provenance() as u64, buffer, 3) });
    assert_eq!(from, to);
    // What a kernel takes, by its parameters.
    let (module, function, _) = scale();
    let (mut offset, mut bytes) = (0, 0);
    let library = unsafe { sys::culib() };
    let symbol = unsafe { library.get::<ParamInfo>(b"cuFuncGetParamInfo") }.unwrap();
    done(unsafe { symbol(function, 3, &mut offset, &mut bytes) });
    assert_eq!((offset, bytes), (24, 4));
    assert_eq!(unsafe { symbol(function, 4, &mut offset, &mut bytes) }, CUDA_ERROR_INVALID_VALUE);
    done(unsafe { sys::cuModuleUnload(module) });
    assert_eq!(unsafe { symbol(function, 3, &mut offset, &mut bytes) }, CUDA_ERROR_INVALID_HANDLE);
}

type ParamInfo = unsafe extern "C" fn(sys::CUfunction, usize, *mut usize, *mut usize) -> CUresult;

#[test]
#[ignore = "a program: a test of this file starts it"]
fn load_log() {
    use sys::CUjit_option::*;
    let _context = device();
    let mut log = [9u8; 40];
    let mut options = [CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr().cast(), std::ptr::without_provenance_mut(32)];
    let text = c".version 8.0\n.target sm_80\n.nonsense";
    let status = unsafe {
        sys::cuModuleLoadDataEx(&mut null_mut(), text.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr())
    };
    assert_eq!(status, CUDA_ERROR_INVALID_PTX);
    assert!(log.starts_with(b"PTX line 3: "), "{log:?}");
    assert_eq!(log[31..], [0, 9, 9, 9, 9, 9, 9, 9, 9]);
}

#[test]
fn rows_are_copied_between_pitches() {
    succeeds("calls::rows", &[]);
    succeeds("calls::rows", &[("VICUGNA_EMULATED_STREAMS", "late")]);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn rows() {
    use sys::CUmemorytype::*;
    let _context = device();
    let stream = ask(null_mut(), |place| unsafe { sys::cuStreamCreate(place, 0) });
    let buffer = allocate(32);
    done(unsafe { sys::cuMemsetD8_v2(buffer, 0, 32) });
    let here: Vec<u8> = (1..=12).collect();
    let mut rows = sys::CUDA_MEMCPY2D {
        srcXInBytes: 1,
        srcY: 1,
        srcMemoryType: CU_MEMORYTYPE_HOST,
        srcHost: here.as_ptr().cast(),
        srcDevice: 0,
        srcArray: null_mut(),
        srcPitch: 4,
        dstXInBytes: 2,
        dstY: 1,
        dstMemoryType: CU_MEMORYTYPE_DEVICE,
        dstHost: null_mut(),
        dstDevice: buffer,
        dstArray: null_mut(),
        dstPitch: 8,
        WidthInBytes: 3,
        Height: 2,
    };
    done(unsafe { sys::cuMemcpy2DAsync_v2(&rows, stream) });
    let mut right = [0u8; 32];
    right[10..13].copy_from_slice(&[6, 7, 8]);
    right[18..21].copy_from_slice(&[10, 11, 12]);
    assert_eq!(read::<u8>(buffer, 32), right);
    rows.dstPitch = 4;
    assert_eq!(unsafe { sys::cuMemcpy2D_v2(&rows) }, CUDA_ERROR_INVALID_VALUE);
    (rows.dstPitch, rows.dstY) = (8, 3);
    assert_eq!(unsafe { sys::cuMemcpy2D_v2(&rows) }, CUDA_ERROR_INVALID_VALUE);
    rows.dstMemoryType = CU_MEMORYTYPE_ARRAY;
    assert_eq!(unsafe { sys::cuMemcpy2D_v2(&rows) }, CUDA_ERROR_NOT_SUPPORTED);
}

#[test]
fn libraries_are_modules() {
    succeeds("calls::libraries", &[]);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn libraries() {
    let _context = device();
    let text = std::ffi::CString::new(common::ptx("rope")).unwrap();
    let library = ask(null_mut(), |place| unsafe {
        sys::cuLibraryLoadData(place, text.as_ptr().cast(), null_mut(), null_mut(), 0, null_mut(), null_mut(), 0)
    });
    let kernel = ask(null_mut(), |place| unsafe { sys::cuLibraryGetKernel(place, library, c"rope_bf16".as_ptr()) });
    let function = ask(null_mut(), |place| unsafe { sys::cuKernelGetFunction(place, kernel) });
    let threads = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
    assert_eq!(ask(0, |place| unsafe { sys::cuKernelGetAttribute(place, threads, kernel, 0) }), 256);
    assert_eq!(ask(0, |place| unsafe { sys::cuFuncGetAttribute(place, threads, function) }), 256);
    assert_eq!(unsafe { sys::cuKernelGetAttribute(&mut 0, threads, kernel, 1) }, CUDA_ERROR_INVALID_DEVICE);
    done(unsafe { sys::cuLibraryUnload(library) });
    assert_eq!(unsafe { sys::cuKernelGetFunction(&mut null_mut(), kernel) }, CUDA_ERROR_INVALID_HANDLE);
}
