use vicugna::ops::swiglu::swiglu;

use crate::device::{Bench, backward_of};

/// Two reads and one write, and with backward three reads, two writes and a copy of dy more.
pub fn bench(bench: &mut Bench) {
    let (rows, i) = (bench.model.rows, bench.model.i);
    let ([gate, up], size) = ([0, 1].map(|_| bench.tensor([rows, i]).with_grad()), format!("{rows}x{i}"));
    bench.measure("fwd", &size, bench.bytes(3 * rows * i), || swiglu(&gate.detach(), &up.detach()).unwrap());
    bench.measure("fwd+bwd", &size, bench.bytes(10 * rows * i), || backward_of(&swiglu(&gate, &up).unwrap()));
}
