use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Throughput};
use vicugna::autograd::Tensor;
use vicugna::device::{Device, host};
use vicugna::dtype::DType;

/// Sets the group's throughput to `bytes` moved and times the floor of an op that must move them: half of them copied,
/// on all threads.
pub fn copy(group: &mut BenchmarkGroup<'_, WallTime>, bytes: usize) {
    group.throughput(Throughput::Bytes(bytes as u64));
    let n = bytes / (2 * size_of::<f32>());
    let from = vec![1.0f32; n];
    group.bench_function(format!("floor/{bytes}B"), |b| {
        b.iter(|| {
            let mut to = Tensor::uninit(&Device::Cpu, DType::F32, [n]).unwrap();
            host::par_rows(to.slice_mut::<f32>().unwrap(), 1, |first, to| {
                to.copy_from_slice(&from[first..first + to.len()]);
            });
            black_box(to)
        });
    });
}

/// Times the most floating-point operations that all threads can do: multiply-adds on values in registers. Elements are
/// operations.
pub fn flops(group: &mut BenchmarkGroup<'_, WallTime>) {
    const STEPS: usize = 1 << 16;
    const SUMS: usize = 12;
    const LANES: usize = 16;
    let threads = rayon::current_num_threads();
    group.throughput(Throughput::Elements((threads * STEPS * SUMS * LANES * 2) as u64));
    group.bench_function("floor/multiply_add", |b| {
        b.iter(|| rayon::broadcast(|_| host::vectorize(|| multiply_add::<STEPS, SUMS, LANES>(black_box(0.999)))));
    });
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
