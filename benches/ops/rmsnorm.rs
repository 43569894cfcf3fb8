use vicugna::ops::rmsnorm::{rmsnorm, rmsnorm_residual};

use crate::device::{Bench, backward_of};

/// One read and one write of the rows, and with a residual two of each; backward reads dy and x for each of two gradients
/// and writes dx.
pub fn bench(bench: &mut Bench) {
    let (rows, h) = (bench.model.rows, bench.model.h);
    let (x, weight, size) = (bench.tensor([rows, h]), bench.tensor([h]), format!("{rows}x{h}"));
    bench.measure("fwd", &size, bench.bytes(2 * rows * h), || rmsnorm(&x, &weight, 1e-5).unwrap());
    bench.measure("residual", &size, bench.bytes(4 * rows * h), || rmsnorm_residual(&x, &x, &weight, 1e-5).unwrap());
    let (x, weight) = (x.with_grad(), weight.with_grad());
    bench.measure("fwd+bwd", &size, bench.bytes(7 * rows * h), || backward_of(&rmsnorm(&x, &weight, 1e-5).unwrap()));
}
