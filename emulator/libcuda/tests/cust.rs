//! Programs that call CUDA through an unmodified cust, which links libcuda: this binary itself does, and needs a folder
//! of install.sh both to be built (`CUDA_LIBRARY_PATH`) and to be run (`LD_LIBRARY_PATH`, of its `lib64`).

#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "cust marks launches unsafe")]

mod common;

use common::{assert_near, numbers, ptx, rmsnorm};
use cust::error::CudaError;
use cust::memory::LockedBuffer;
use cust::prelude::*;
use cust::stream::StreamWaitEventFlags;

/// rmsnorm of `rows` rows of `width` elements, into a `y` that may be too short.
fn launch_rmsnorm(rows: usize, width: usize, y_length: usize) -> Result<Vec<f32>, CudaError> {
    let module = Module::from_ptx(ptx("rmsnorm"), &[])?;
    let kernel = module.get_function("rmsnorm_fwd_f32")?;
    let stream = Stream::new(StreamFlags::NON_BLOCKING, None)?;
    let x = DeviceBuffer::from_slice(&numbers(1, rows * width))?;
    let weight = DeviceBuffer::from_slice(&numbers(2, width))?;
    let (y, rstd) = (DeviceBuffer::<f32>::zeroed(y_length)?, DeviceBuffer::<f32>::zeroed(rows)?);
    let (blocks, columns, eps) = (rows as u32, width as i32, 1e-5f32);
    // SAFETY: the arguments are those of the kernel, and the emulator checks every access.
    unsafe {
        launch!(kernel<<<blocks, 128, 0, stream>>>(
            y.as_device_ptr(), rstd.as_device_ptr(), x.as_device_ptr(), weight.as_device_ptr(), columns, eps
        ))
    }?;
    stream.synchronize()?;
    y.as_host_vec()
}

#[test]
fn rmsnorm_matches_f64() {
    let _context = cust::quick_init().unwrap();
    for (rows, width) in [(1, 1), (5, 96), (3, 97)] {
        let got = launch_rmsnorm(rows, width, rows * width).unwrap();
        assert_near(got, &rmsnorm(&numbers(1, rows * width), &numbers(2, width), 1e-5), 1e-6);
    }
    device_and_memory();
    streams_and_events();
    // Last: what follows a trap in the same context fails.
    let error = launch_rmsnorm(2, 97, 2 * 97 - 1).unwrap_err();
    assert_eq!(error, CudaError::IllegalAddress);
    assert!(error.to_string().contains("rmsnorm_fwd_f32: ") && error.to_string().contains("PTX line"), "{error}");
}

fn device_and_memory() {
    let device = Device::get_device(0).unwrap();
    assert!(device.name().unwrap().starts_with("PTX emulator"));
    assert_eq!(device.total_memory().unwrap(), 64 << 30);
    let mut locked = LockedBuffer::new(&0u32, 50).unwrap();
    locked.copy_from_slice(&(0..50).collect::<Vec<u32>>());
    let buffer = DeviceBuffer::from_slice(&locked).unwrap();
    assert_eq!(buffer.as_host_vec().unwrap()[..], locked[..]);
}

fn streams_and_events() {
    let module = Module::from_ptx(ptx("elementwise"), &[]).unwrap();
    let scale = module.get_function("scale_f32").unwrap();
    let first = Stream::new(StreamFlags::NON_BLOCKING, Some(0)).unwrap();
    let second = Stream::new(StreamFlags::NON_BLOCKING, None).unwrap();
    let x = numbers(1, 100);
    let there = DeviceBuffer::from_slice(&x).unwrap();
    let (n, factor) = (100i64, 2f32);
    for stream in [&first, &second] {
        // SAFETY: the arguments are those of the kernel, and the buffer has `n` elements.
        unsafe { launch!(scale<<<1, 256, 0, stream>>>(there.as_device_ptr(), there.as_device_ptr(), n, factor)) }
            .unwrap();
        let event = Event::new(EventFlags::DISABLE_TIMING).unwrap();
        event.record(stream).unwrap();
        second.wait_event(event, StreamWaitEventFlags::DEFAULT).unwrap();
    }
    second.synchronize().unwrap();
    let right: Vec<f32> = x.iter().map(|x| 4.0 * x).collect();
    assert_eq!(there.as_host_vec().unwrap(), right);
}
