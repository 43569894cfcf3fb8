//! What a device can do at the most.

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Instant;

use cudarc::driver::CudaContext;
use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use vicugna::autograd::Tensor;
use vicugna::device::{Device, Timed, host};
use vicugna::dtype::DType;

/// Seconds that moving `bytes` takes: half of them copied, on all threads of a CPU.
pub fn copy(device: &Device, bytes: usize) -> f64 {
    if let Device::Cuda(cuda) = device {
        return Timed::new(cuda).time_copy(device, bytes / 2).unwrap();
    }
    let from = vec![1.0f32; bytes / (2 * size_of::<f32>())];
    best(|| {
        let mut to = Tensor::uninit(&Device::Cpu, DType::F32, [from.len()]).unwrap();
        host::par_rows(to.slice_mut::<f32>().unwrap(), 1, |first, to| {
            to.copy_from_slice(&from[first..first + to.len()]);
        });
        black_box(to);
    })
}

/// Floating-point operations a second of products: what all threads of a CPU reach on values in registers, and a GPU at
/// the clock that its driver names; `None` for a GPU that is not listed.
pub fn peak(device: &Device, dtype: DType) -> Option<f64> {
    static CPU: OnceLock<f64> = OnceLock::new();
    match device {
        Device::Cpu => Some(*CPU.get_or_init(cpu_peak)),
        Device::Cuda(cuda) => gpu_peak(cuda.name().strip_prefix("cuda:")?.parse().ok()?, dtype),
    }
}

fn cpu_peak() -> f64 {
    const STEPS: usize = 1 << 16;
    const SUMS: usize = 12;
    const LANES: usize = 16;
    let operations = rayon::current_num_threads() * STEPS * SUMS * LANES * 2;
    let work = || host::vectorize(|| multiply_add::<STEPS, SUMS, LANES>(black_box(0.999)));
    operations as f64 / best(|| drop(rayon::broadcast(|_| work())))
}

#[inline(always)]
fn multiply_add<const STEPS: usize, const SUMS: usize, const LANES: usize>(factor: f32) -> f32 {
    let mut sums = [[1.0f32; LANES]; SUMS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            for lane in sum {
                *lane = lane.mul_add(factor, 0.5);
            }
        }
    }
    sums.iter().flatten().sum()
}

/// Of one of many in a row, the best of some rounds.
fn best(work: impl Fn()) -> f64 {
    let round = |times: usize| {
        let start = Instant::now();
        (0..times).for_each(|_| work());
        start.elapsed().as_secs_f64() / times as f64
    };
    let times = (0.02 / round(1)).clamp(1.0, 1000.0) as usize;
    (0..5).fold(f64::INFINITY, |least, _| least.min(round(times)))
}

/// What the multiprocessors do a clock: dense bf16 products with f32 sums on tensor cores, or f32 multiply-adds. NVIDIA's
/// architecture whitepapers; consumer cards of 8.9 and 12.0 have half of these tensor cores' rate.
fn gpu_peak(ordinal: usize, dtype: DType) -> Option<f64> {
    let context = CudaContext::new(ordinal).ok()?;
    let attribute = |attribute| context.attribute(attribute).ok().map(f64::from);
    let (bf16, f32) = match context.compute_capability().ok()? {
        (8, 0) => (2048, 128),
        (8, 6) => (512, 256),
        (8, 9) | (12, 0) => (1024, 256),
        (9, 0) => (4096, 256),
        (10, 0) => (8192, 256),
        _ => return None,
    };
    let hertz = 1e3 * attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?;
    let each = f64::from(if dtype == DType::F32 { f32 } else { bf16 });
    Some(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? * hertz * each)
}
