//! What a program sees of a kernel that does what it must not, and of a module that cannot be loaded.

use crate::common::numbers;
use crate::process::succeeds;
use crate::{device, grid, kernel};
use cudarc::driver::{CudaContext, DriverError, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

#[test]
fn a_trap_says_where() {
    succeeds("traps::out_of_bounds", &[("VICUGNA_EMULATED_STREAMS", "now")]);
    succeeds("traps::out_of_bounds", &[("VICUGNA_EMULATED_STREAMS", "late")]);
}

#[test]
fn a_module_says_what_is_wrong_with_it() {
    succeeds("traps::modules", &[]);
}

/// rmsnorm with a `y` that is one element short.
fn short_output(context: &Arc<CudaContext>) -> Result<(), DriverError> {
    let stream = context.new_stream()?;
    let rmsnorm = kernel(&stream, "rmsnorm", "rmsnorm_fwd_f32");
    let (x, weight) = (stream.clone_htod(&numbers(1, 2 * 97))?, stream.clone_htod(&numbers(2, 97))?);
    let mut y = stream.alloc_zeros::<f32>(2 * 97 - 1)?;
    let mut rstd = stream.alloc_zeros::<f32>(2)?;
    let (width, eps) = (97i32, 1e-5f32);
    let mut launch = stream.launch_builder(&rmsnorm);
    launch.arg(&mut y).arg(&mut rstd).arg(&x).arg(&weight).arg(&width).arg(&eps);
    // SAFETY: the emulator checks every access, and this launch is refused for one.
    unsafe { launch.launch(grid(2, 128)) }?;
    stream.synchronize()
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn out_of_bounds() {
    let context = device();
    let error = short_output(&context).unwrap_err();
    let text = error.error_string().unwrap().to_str().unwrap();
    println!("{text}");
    assert_eq!(error.0, sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(error.error_name().unwrap().to_str().unwrap(), "CUDA_ERROR_ILLEGAL_ADDRESS");
    for place in ["out_of_bounds: rmsnorm_fwd_f32: ", "PTX line ", " (cuda/", "block (1, 0, 0), warp 3, lane 0"] {
        assert!(text.contains(place), "{place:?} is not in {text:?}");
    }
    // As on a GPU, the context is lost with all that is in it, and a new one is not.
    assert_eq!(context.synchronize().unwrap_err(), error);
    assert!(context.new_stream().is_err());
    drop(context);
    let context = device();
    assert!(context.new_stream().unwrap().alloc_zeros::<f32>(5).is_ok());
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn modules() {
    let context = device();
    let text = |error: DriverError| format!("{error:?}");
    let error = context.load_module(Ptx::from_src(".version 8.0\n.target sm_80\n.nonsense")).unwrap_err();
    assert_eq!(error.0, sys::CUresult::CUDA_ERROR_INVALID_PTX);
    assert!(text(error).contains("PTX line 3"), "{error:?}");
    let error = context.load_module(Ptx::from_binary(b"\x7fELF\x02\x01\x01\0".to_vec())).unwrap_err();
    assert_eq!(error.0, sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    let error = context.load_module(Ptx::from_file("/no/such/file.ptx")).unwrap_err();
    assert_eq!(error.0, sys::CUresult::CUDA_ERROR_FILE_NOT_FOUND);
    let module = context.load_module(Ptx::from_src(crate::common::ptx("rope"))).unwrap();
    let error = module.load_function("rope_f64").unwrap_err();
    assert_eq!(error.0, sys::CUresult::CUDA_ERROR_NOT_FOUND);
    assert!(text(error).contains("no kernel rope_f64; it has rope_f32, rope_bf16"), "{error:?}");
}
