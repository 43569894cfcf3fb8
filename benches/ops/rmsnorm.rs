use criterion::{Criterion, Throughput};
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::ops::rmsnorm::rmsnorm;

/// SmolLM2-135M, 4 x 256 tokens; the floor is one read and one write of the rows.
pub fn bench(c: &mut Criterion) {
    let (rows, h) = (1024, 576);
    let x = Tensor::from_slice(&Device::Cpu, [rows, h], &vec![0.5f32; rows * h]).unwrap();
    let w = Tensor::from_slice(&Device::Cpu, [h], &vec![1.0f32; h]).unwrap();
    let mut group = c.benchmark_group("rmsnorm");
    group.throughput(Throughput::Bytes((2 * rows * h * size_of::<f32>()) as u64));
    group.bench_function("fwd_f32/1024x576", |b| b.iter(|| rmsnorm(&x, &w, 1e-5).unwrap()));
    group.finish();
}
