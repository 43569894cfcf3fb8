//! Dynamic shared memory: 48 KiB, and more if it is asked for.

use crate::process::succeeds;
use crate::{device, grid};
use cudarc::driver::{DriverError, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;
use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MAX_DYNAMIC;

#[test]
fn more_shared_memory_must_be_asked_for() {
    succeeds("shared::ask", &[]);
    succeeds("shared::ask_for_too_much", &[("VICUGNA_EMULATED_SM", "86")]);
}

/// Each thread writes its number to the end of shared memory and reads that of its neighbour.
const NEIGHBOURS: &str = "
.version 8.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 memory[];
.visible .entry neighbours(.param .u64 out, .param .u32 start)
{
    .reg .b32 %r<9>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [start];
    mov.u32 %r2, %tid.x;
    mov.u32 %r3, memory;
    add.s32 %r3, %r3, %r1;
    shl.b32 %r4, %r2, 2;
    add.s32 %r5, %r3, %r4;
    st.shared.u32 [%r5], %r2;
    bar.sync 0;
    xor.b32 %r6, %r2, 1;
    shl.b32 %r6, %r6, 2;
    add.s32 %r6, %r3, %r6;
    ld.shared.u32 %r7, [%r6];
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r2, 4;
    add.s64 %rd4, %rd2, %rd3;
    st.global.u32 [%rd4], %r7;
    ret;
}";

fn neighbours(bytes: u32, ask: bool) -> Result<(), DriverError> {
    let stream = device().new_stream()?;
    let function = stream.context().load_module(Ptx::from_src(NEIGHBOURS))?.load_function("neighbours")?;
    if ask {
        function.set_attribute(MAX_DYNAMIC, bytes as i32)?;
        assert_eq!(function.get_attribute(MAX_DYNAMIC)?, bytes as i32);
    }
    let mut out = stream.alloc_zeros::<u32>(64)?;
    let start = bytes - 256;
    let mut launch = stream.launch_builder(&function);
    launch.arg(&mut out).arg(&start);
    // SAFETY: the arguments are those of the kernel, which writes one word of `out` for each of 64 threads.
    unsafe { launch.launch(LaunchConfig { shared_mem_bytes: bytes, ..grid(1, 64) }) }?;
    let right: Vec<u32> = (0..64).map(|thread| thread ^ 1).collect();
    assert_eq!(stream.clone_dtoh(&out)?, right);
    Ok(())
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn ask() {
    neighbours(48 << 10, false).unwrap();
    let error = neighbours(64 << 10, false).unwrap_err();
    assert_eq!(error.0, sys::CUresult::CUDA_ERROR_INVALID_VALUE);
    assert!(
        format!("{error:?}").contains("neighbours: 65536 bytes of dynamic shared memory, 49152 are allowed"),
        "{error:?}"
    );
    neighbours(64 << 10, true).unwrap();
    neighbours(163 << 10, true).unwrap();
    assert_eq!(neighbours(164 << 10, true).unwrap_err().0, sys::CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn ask_for_too_much() {
    neighbours(99 << 10, true).unwrap();
    assert_eq!(neighbours(100 << 10, true).unwrap_err().0, sys::CUresult::CUDA_ERROR_INVALID_VALUE);
}
