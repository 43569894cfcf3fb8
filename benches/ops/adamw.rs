use vicugna::autograd::Tensor;
use vicugna::dtype::DType;
use vicugna::ops::adamw::{AdamWOptions, AdamWUpdate, adamw};

use crate::device::{Bench, Cost};

/// One parameter with its state and gradient.
type Operands = [Tensor; 4];

/// LoRA of rank 8 on q and v, many small tensors, and one layer trained in full: parameter and state are read and
/// written, the gradient is read.
pub fn bench(bench: &mut Bench) {
    let scale = bench.tensor_of(DType::F32, []);
    for (name, sizes) in [("lora", bench.model.lora()), ("layer", bench.model.layer())] {
        let bytes = sizes.iter().sum::<usize>() * (6 * size_of::<f32>() + bench.dtype.size());
        let mut state: Vec<Operands> = sizes.iter().map(|n| operands(bench, *n)).collect();
        bench.measure("step", format!("{}_of_{name}", sizes.len()), Cost::Bytes(bytes), || step(&mut state, &scale));
    }
}

fn operands(bench: &Bench, n: usize) -> Operands {
    let [parameter, m] = [0, 1].map(|_| bench.tensor_of(DType::F32, [n]));
    [parameter, m, Tensor::zeros(&bench.device, DType::F32, [n]).unwrap(), bench.tensor([n])]
}

fn step(state: &mut [Operands], scale: &Tensor) {
    let updates = state.iter_mut().map(|[parameter, m, v, gradient]| {
        let (name, gradient) = ("w", &*gradient);
        AdamWUpdate { name, parameter, m, v, gradient }
    });
    adamw(&mut updates.collect::<Vec<_>>(), &AdamWOptions::default(), 10, scale).unwrap();
}
