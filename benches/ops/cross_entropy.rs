use vicugna::autograd::{Tensor, backward, no_grad};
use vicugna::device::Device;
use vicugna::ops::cross_entropy::cross_entropy;

use crate::device::{Bench, Cost};

/// A sequence's loss, and with it the gradient of the hidden states.
pub fn bench(bench: &mut Bench) {
    let (rows, h, v) = (bench.model.t, bench.model.h, bench.model.v);
    let (hidden, lm_head) = (bench.tensor([rows, h]).with_grad(), bench.tensor([v, h]));
    let targets: Vec<i32> = (0..rows).map(|i| (i * 191 % v) as i32).collect();
    let targets = Tensor::from_slice(&Device::Cpu, [rows], &targets).unwrap();
    let (product, size) = (2 * rows * h * v, format!("{rows}x{h}x{v}"));
    let loss = || cross_entropy(&hidden, &lm_head, &targets, rows as f32).unwrap();
    bench.measure("fwd", &size, Cost::Operations(product), || no_grad(loss));
    bench.measure("fwd+bwd", &size, Cost::Operations(2 * product), || backward(&loss()).unwrap());
}
