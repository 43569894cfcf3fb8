//! Memory: its addresses, pools, page-locked host memory, and a module's variables.

use crate::common::numbers;
use crate::device;
use crate::process::succeeds;
use cudarc::driver::{DevicePtr, DriverError, result, sys};
use cudarc::nvrtc::Ptx;

#[test]
fn memory_is_what_it_is_said_to_be() {
    for streams in ["now", "late"] {
        for program in ["device_memory", "page_locked", "pools", "variables"] {
            succeeds(&format!("memory::{program}"), &[("VICUGNA_EMULATED_STREAMS", streams)]);
        }
    }
}

fn code(result: Result<impl std::fmt::Debug, DriverError>) -> sys::CUresult {
    result.unwrap_err().0
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn device_memory() {
    let context = device();
    let stream = context.new_stream().unwrap();
    let (free, total) = context.mem_get_info().unwrap();
    assert_eq!((free, total), (64 << 30, 64 << 30));
    let x = numbers(1, 100);
    let a = stream.clone_htod(&x).unwrap();
    let mut b = stream.alloc_zeros::<f32>(100).unwrap();
    assert_eq!(context.mem_get_info().unwrap().0, free - 800);
    stream.memcpy_dtod(&a.slice(10..90), &mut b.slice_mut(0..80)).unwrap();
    let got = stream.clone_dtoh(&b).unwrap();
    assert_eq!(got[..80], x[10..90]);
    assert_eq!(got[80..], [0.0; 20]);
    stream.synchronize().unwrap();
    let (address, _) = a.device_ptr(&stream);
    // SAFETY: the driver checks addresses, and refuses these.
    let past = unsafe { result::memcpy_dtod_sync(address + 396, address, 8) };
    assert_eq!(code(past), sys::CUresult::CUDA_ERROR_INVALID_VALUE);
    // SAFETY: as above.
    assert_eq!(code(unsafe { result::free_sync(address + 4) }), sys::CUresult::CUDA_ERROR_INVALID_VALUE);
    // SAFETY: no memory comes of it.
    assert_eq!(code(unsafe { result::malloc_sync(65 << 30) }), sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    drop((a, b));
    stream.synchronize().unwrap();
    assert_eq!(context.mem_get_info().unwrap().0, free);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn page_locked() {
    let context = device();
    let stream = context.new_stream().unwrap();
    let x = numbers(1, 64);
    // SAFETY: written before it is read.
    let mut there = unsafe { context.alloc_pinned::<f32>(64) }.unwrap();
    there.as_mut_slice().unwrap().copy_from_slice(&x);
    let on_device = stream.clone_htod(&there).unwrap();
    // SAFETY: written before it is read.
    let mut back = unsafe { context.alloc_pinned::<f32>(64) }.unwrap();
    stream.memcpy_dtoh(&on_device, &mut back).unwrap();
    assert_eq!(back.as_slice().unwrap(), x);
    // SAFETY: the driver checks the address, and refuses this one.
    let foreign = unsafe { result::free_host(std::ptr::without_provenance_mut(64)) };
    assert_eq!(code(foreign), sys::CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn pools() {
    let context = device();
    let stream = context.new_stream().unwrap();
    // SAFETY: device 0 is there.
    let pool = unsafe { result::device::get_default_mem_pool(0) }.unwrap();
    let used = || {
        let mut used = 0u64;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
        // SAFETY: the attribute is a u64, and `used` lives through the call.
        let status = unsafe { sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut used).cast()) };
        status.result().map(|()| used).unwrap()
    };
    assert_eq!(used(), 0);
    let memory = stream.alloc_zeros::<u8>(1000).unwrap();
    assert_eq!(used(), 1000);
    drop(memory);
    stream.synchronize().unwrap();
    assert_eq!(used(), 0);
    // SAFETY: the pool is there, and 0 bytes are no memory.
    let nothing = unsafe { result::malloc_async(stream.cu_stream(), 0) }.unwrap();
    assert_eq!(nothing, 0);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn variables() {
    let stream = device().new_stream().unwrap();
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .global .align 4 .u32 table[3] = {5, 6, 7};
        .visible .entry nothing() { ret; }";
    let module = stream.context().load_module(Ptx::from_src(text)).unwrap();
    let table = module.get_global("table", &stream).unwrap();
    let bytes = stream.clone_dtoh(&table).unwrap();
    assert_eq!(bytes, [5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0]);
    assert_eq!(code(module.get_global("chair", &stream).map(|_| ())), sys::CUresult::CUDA_ERROR_NOT_FOUND);
}
