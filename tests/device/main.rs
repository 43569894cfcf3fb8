//! Tensors and kernels on a GPU: memory, launches, and what each refuses.

mod graphs;
mod launch;
mod memory;
mod sampled;

use vicugna::device::Device;

/// The GPU under test: the emulated one, or with `VICUGNA_DEVICE=cuda` this machine's.
fn gpu() -> Device {
    match std::env::var("VICUGNA_DEVICE").as_deref() {
        Ok("cuda") => Device::cuda(0).unwrap(),
        _ => Device::emulated(),
    }
}
