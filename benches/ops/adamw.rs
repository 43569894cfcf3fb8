use criterion::Criterion;
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::ops::adamw::{AdamWOptions, AdamWUpdate, adamw};

use crate::floor;

/// One parameter with its state and gradient.
type Operands = [Tensor; 4];

/// SmolLM2-135M: LoRA of rank 8 on q and v (120 small tensors), and one layer trained in full; the floor is four reads
/// and three writes.
pub fn bench(c: &mut Criterion) {
    let lora = (0..30).flat_map(|_| [8 * 576, 576 * 8, 8 * 576, 192 * 8]).collect();
    let layer = vec![576 * 576, 192 * 576, 192 * 576, 576 * 576, 1536 * 576, 1536 * 576, 576 * 1536];
    let mut group = c.benchmark_group("adamw");
    for (name, sizes) in [("120xlora", lora), ("layer", layer)] {
        let n: usize = sizes.iter().sum();
        floor::copy(&mut group, 7 * n * size_of::<f32>());
        let mut state: Vec<Operands> = sizes.into_iter().map(operands).collect();
        let scale = Tensor::from_slice(&Device::Cpu, [], &[1.0f32]).unwrap();
        group.bench_function(format!("step_f32/{name}"), |b| b.iter(|| step(&mut state, &scale)));
    }
    group.finish();
}

fn operands(n: usize) -> Operands {
    [0.1f32, 0.0, 0.0, 0.01].map(|value| Tensor::from_slice(&Device::Cpu, [n], &vec![value; n]).unwrap())
}

fn step(state: &mut [Operands], scale: &Tensor) {
    let updates = state.iter_mut().map(|[parameter, m, v, gradient]| {
        let (name, gradient) = ("w", &*gradient);
        AdamWUpdate { name, parameter, m, v, gradient }
    });
    adamw(&mut updates.collect::<Vec<_>>(), &AdamWOptions::default(), 10, scale).unwrap();
}
