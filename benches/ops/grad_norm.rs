use criterion::Criterion;
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::ops::grad_norm::grad_norm;

use crate::floor;

/// SmolLM2-135M, LoRA of rank 8 on q and v (120 small tensors), and one layer trained in full; the floor is one read,
/// of which a copy moves the same bytes as half read, half written.
pub fn bench(c: &mut Criterion) {
    let lora = (0..30).flat_map(|_| [8 * 576, 576 * 8, 8 * 576, 192 * 8]).collect();
    let layer = vec![576 * 576, 192 * 576, 192 * 576, 576 * 576, 1536 * 576, 1536 * 576, 576 * 1536];
    let mut group = c.benchmark_group("grad_norm");
    for (name, sizes) in [("120xlora", lora), ("layer", layer)] {
        let sizes: Vec<usize> = sizes;
        floor::copy(&mut group, sizes.iter().sum::<usize>() * size_of::<f32>());
        let filled = |n: &usize| Tensor::from_slice(&Device::Cpu, [*n], &vec![0.01f32; *n]).unwrap();
        let gradients: Vec<Tensor> = sizes.iter().map(filled).collect();
        let gradients: Vec<&Tensor> = gradients.iter().collect();
        group.bench_function(format!("f32/{name}"), |b| {
            b.iter(|| grad_norm(&gradients).unwrap().clip_scale(1.0).unwrap())
        });
    }
    group.finish();
}
