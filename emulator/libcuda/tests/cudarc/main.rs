//! Programs that call CUDA through an unmodified cudarc, each in a process that finds this library as libcuda.
//!
//! The tests that are ignored are those programs; the others start them.

#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "cudarc marks launches and the driver's functions unsafe")]

mod border;
mod calls;
#[path = "../common/mod.rs"]
mod common;
mod counters;
mod device;
mod graphs;
mod kernels;
mod memory;
mod process;
mod shared;
mod streams;
mod traps;

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, LaunchConfig, sys};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

/// The emulated device, and never a real one.
fn device() -> Arc<CudaContext> {
    // SAFETY: loading this library runs nothing.
    let library = unsafe { sys::culib() };
    // SAFETY: the symbol's type is not used; only whether it is there.
    let marker = unsafe { library.get::<*const ()>(b"vicugna_emulated_driver") };
    assert!(marker.is_ok(), "this is not the emulated driver");
    CudaContext::new(0).unwrap()
}

/// A kernel of one of this repository's PTX files.
fn kernel(stream: &Arc<CudaStream>, op: &str, name: &str) -> CudaFunction {
    let module = stream.context().load_module(Ptx::from_src(common::ptx(op))).unwrap();
    module.load_function(name).unwrap()
}

fn grid(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}
