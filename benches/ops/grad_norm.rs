use vicugna::autograd::Tensor;
use vicugna::ops::grad_norm::grad_norm;

use crate::device::Bench;

/// LoRA of rank 8 on q and v, many small tensors, and one layer trained in full: one read, of which a copy moves the same
/// bytes as half read, half written.
pub fn bench(bench: &mut Bench) {
    for (name, sizes) in [("lora", bench.model.lora()), ("layer", bench.model.layer())] {
        let gradients: Vec<Tensor> = sizes.iter().map(|n| bench.tensor([*n])).collect();
        let gradients: Vec<&Tensor> = gradients.iter().collect();
        let read = bench.bytes(sizes.iter().sum());
        bench.measure("norm", format!("{}_of_{name}", sizes.len()), read, || {
            grad_norm(&gradients).unwrap().clip_scale(1.0).unwrap()
        });
    }
}
