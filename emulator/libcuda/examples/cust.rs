//! Doubles numbers with this repository's `scale_f32` through cust, which links libcuda: on the emulator, or on a GPU.
//!
//! ```text
//! emulator/libcuda/install.sh target/cuda
//! CUDA_LIBRARY_PATH=$PWD/target/cuda LD_LIBRARY_PATH=$PWD/target/cuda/lib64 \
//!     cargo run -p ptx-emulator-libcuda --features cust --example cust
//! ```

#![expect(unsafe_code, reason = "cust marks launches unsafe")]

use cust::prelude::*;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let _context = cust::quick_init()?;
    println!("{}", Device::get_device(0)?.name()?);
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../ptx/elementwise.ptx"))?;
    let module = Module::from_ptx(text, &[])?;
    let scale = module.get_function("scale_f32")?;
    let stream = Stream::new(StreamFlags::NON_BLOCKING, None)?;
    let numbers = DeviceBuffer::from_slice(&[1f32, 2.0, 3.0])?;
    let (n, factor) = (numbers.len() as i64, 2f32);
    // SAFETY: the arguments are those of the kernel, and the buffer has `n` elements.
    unsafe { launch!(scale<<<1, 256, 0, stream>>>(numbers.as_device_ptr(), numbers.as_device_ptr(), n, factor)) }?;
    stream.synchronize()?;
    println!("{:?}", numbers.as_host_vec()?);
    Ok(())
}
