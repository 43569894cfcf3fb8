//! Streams and events, with work done at once and as late as it may be.

use crate::common::numbers;
use crate::process::succeeds;
use crate::{device, grid, kernel};
use cudarc::driver::{CudaFunction, CudaSlice, CudaStream, DriverError, PushKernelArg, result, sys};
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const NOW: &[(&str, &str)] = &[("VICUGNA_EMULATED_STREAMS", "now")];
const LATE: &[(&str, &str)] = &[("VICUGNA_EMULATED_STREAMS", "late")];

#[test]
fn events_order_streams() {
    succeeds("streams::waiting", NOW);
    succeeds("streams::waiting", LATE);
}

#[test]
fn a_forgotten_wait_is_found_when_work_is_late() {
    succeeds("streams::not_waiting_goes_well", NOW);
    succeeds("streams::not_waiting_is_found", LATE);
}

#[test]
fn host_functions_are_called_in_order() {
    succeeds("streams::host_function", NOW);
    succeeds("streams::host_function", LATE);
}

#[test]
fn time_passes_between_events() {
    succeeds("streams::elapsed", NOW);
    succeeds("streams::elapsed", LATE);
}

const N: usize = 5000;

fn double(scale: &CudaFunction, stream: &Arc<CudaStream>, y: &mut CudaSlice<f32>, x: &CudaSlice<f32>) {
    let (n, factor) = (N as i64, 2f32);
    let mut launch = stream.launch_builder(scale);
    launch.arg(y).arg(x).arg(&n).arg(&factor);
    // SAFETY: the arguments are those of the kernel, and both buffers have `n` elements.
    unsafe { launch.launch(grid(5, 256)) }.unwrap();
}

/// x is doubled on one stream and doubled again on another, which waits for the first if it is told to.
fn twice_on_two_streams(wait: bool) -> Result<(), DriverError> {
    let context = device();
    // SAFETY: nothing is freed before all streams are done; whether uses are in order is what is tested.
    unsafe { context.disable_event_tracking() };
    let (first, second) = (context.new_stream()?, context.new_stream()?);
    let scale = kernel(&first, "elementwise", "scale_f32");
    let numbers = numbers(1, N);
    let x = first.clone_htod(&numbers)?;
    // SAFETY: written before it is read, if the streams are in order.
    let mut y = unsafe { first.alloc::<f32>(N) }?;
    let mut z = second.alloc_zeros::<f32>(N)?;
    double(&scale, &first, &mut y, &x);
    if wait {
        second.wait(&first.record_event(None)?)?;
    }
    double(&scale, &second, &mut z, &y);
    let got = second.clone_dtoh(&z)?;
    second.synchronize()?;
    assert!(got.iter().zip(&numbers).all(|(got, x)| *got == 4.0 * x), "wrong numbers without a wait");
    Ok(())
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn waiting() {
    twice_on_two_streams(true).unwrap();
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn not_waiting_goes_well() {
    twice_on_two_streams(false).unwrap();
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn not_waiting_is_found() {
    let error = twice_on_two_streams(false).unwrap_err();
    assert!(format!("{error:?}").contains("uninitialized: scale_f32"), "{error:?}");
}

static CALLS: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" fn note(argument: *mut c_void) {
    let number = argument.addr() as u32;
    assert_eq!(CALLS.fetch_add(1, Ordering::Relaxed) + 1, number);
    let mut count = 0;
    // SAFETY: `count` lives through the call.
    let refused = unsafe { sys::cuDeviceGetCount(&mut count) };
    assert_eq!(refused, sys::CUresult::CUDA_ERROR_NOT_PERMITTED);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn host_function() {
    let stream = device().new_stream().unwrap();
    for number in 1..=3usize {
        let argument = std::ptr::without_provenance_mut(number);
        // SAFETY: `note` takes its argument for a number.
        unsafe { result::stream::launch_host_function(stream.cu_stream(), note, argument) }.unwrap();
    }
    stream.synchronize().unwrap();
    assert_eq!(CALLS.load(Ordering::Relaxed), 3);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn elapsed() {
    let context = device();
    let stream = context.new_stream().unwrap();
    let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let scale = kernel(&stream, "elementwise", "scale_f32");
    let x = stream.clone_htod(&numbers(1, N)).unwrap();
    let mut y = stream.alloc_zeros(N).unwrap();
    let start = stream.record_event(timed).unwrap();
    double(&scale, &stream, &mut y, &x);
    let end = stream.record_event(timed).unwrap();
    end.synchronize().unwrap();
    assert!(start.elapsed_ms(&end).unwrap() > 0.0);
    let never = context.new_event(timed).unwrap();
    assert!(start.elapsed_ms(&never).is_err());
}

#[test]
fn threads_share_a_device() {
    succeeds("streams::threads", NOW);
    succeeds("streams::threads", LATE);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn threads() {
    let context = device();
    let own_stream = &|seed: u32| {
        context.bind_to_thread().unwrap();
        let stream = context.new_stream().unwrap();
        let scale = kernel(&stream, "elementwise", "scale_f32");
        let numbers = numbers(seed, N);
        let x = stream.clone_htod(&numbers).unwrap();
        let mut y = stream.alloc_zeros::<f32>(N).unwrap();
        double(&scale, &stream, &mut y, &x);
        let got = stream.clone_dtoh(&y).unwrap();
        assert!(got.iter().zip(&numbers).all(|(got, x)| *got == 2.0 * x));
    };
    std::thread::scope(|scope| {
        for seed in 1..=4 {
            scope.spawn(move || own_stream(seed));
        }
    });
}
