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
