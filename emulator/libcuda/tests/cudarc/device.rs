//! What the device says of itself.

use crate::process::{run, succeeds};
use crate::{device, kernel};
use cudarc::driver::{CudaContext, sys};
use sys::CUdevice_attribute_enum as Attribute;

#[test]
fn the_environment_chooses_the_device() {
    succeeds("device::sm80", &[]);
    succeeds("device::sm86", &[("VICUGNA_EMULATED_SM", "86")]);
    succeeds("device::sm89", &[("VICUGNA_EMULATED_SM", "89")]);
    let refused = run("device::sm80", &[("VICUGNA_EMULATED_SM", "75")]);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains("VICUGNA_EMULATED_SM must be 80, 86 or 89, got \"75\""), "{error}");
    assert!(!refused.status.success());
}

#[test]
fn occupancy_goes_by_threads_and_shared_memory() {
    let said = succeeds("device::occupancy", &[]);
    assert!(said.contains("CU_FUNC_ATTRIBUTE_NUM_REGS is 0"), "{said}");
}

fn is(minor: i32, shared: i32, threads: i32) {
    let context = device();
    assert_eq!(CudaContext::device_count().unwrap(), 1);
    assert_eq!(CudaContext::new(1).unwrap_err().0, sys::CUresult::CUDA_ERROR_INVALID_DEVICE);
    assert_eq!(context.name().unwrap(), format!("PTX emulator (sm_8{minor})"));
    assert_eq!(context.compute_capability().unwrap(), (8, minor));
    assert_eq!(context.uuid().unwrap().bytes[15] as u8, 80 + minor as u8);
    assert_eq!(context.total_mem().unwrap(), 64 << 30);
    let attribute = |attribute| context.attribute(attribute).unwrap();
    assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE), 32);
    assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK), 48 << 10);
    assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), shared);
    assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR), threads);
    assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY), 0);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn sm80() {
    is(0, 163 << 10, 2048);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn sm86() {
    is(6, 99 << 10, 1536);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn sm89() {
    is(9, 99 << 10, 1536);
}

extern "C" fn no_shared(_threads: i32) -> usize {
    0
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn occupancy() {
    let stream = device().new_stream().unwrap();
    let add = kernel(&stream, "elementwise", "add_f32");
    assert_eq!(add.max_threads_per_block().unwrap(), 256);
    assert_eq!(add.shared_size_bytes().unwrap(), 0);
    assert_eq!(add.binary_version().unwrap(), 80);
    assert_eq!(add.num_regs().unwrap(), 0);
    let blocks = |threads, shared| add.occupancy_max_active_blocks_per_multiprocessor(threads, shared, None).unwrap();
    assert_eq!(blocks(256, 0), 8);
    assert_eq!(blocks(1, 0), 32);
    assert_eq!(blocks(256, 40 << 10), 4);
    assert_eq!(blocks(512, 0), 0);
    assert_eq!(add.occupancy_available_dynamic_smem_per_block(4, 256).unwrap(), 40 << 10);
    assert!(add.occupancy_available_dynamic_smem_per_block(9, 256).is_err());
    assert_eq!(add.occupancy_max_potential_block_size(no_shared, 0, 0, None).unwrap(), (8 * 108, 256));
}
