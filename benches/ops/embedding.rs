use vicugna::ops::embedding::embedding;

use crate::device::{Bench, backward_of};

/// One read and one write of the rows; backward one read of theirs and one write of the table.
pub fn bench(bench: &mut Bench) {
    let (rows, v, h) = (bench.model.rows, bench.model.v, bench.model.h);
    let (ids, weight) = (bench.ids(7919, v), bench.tensor([v, h]).with_grad());
    let size = format!("{rows}x{v}x{h}");
    bench.measure("fwd", &size, bench.bytes(2 * rows * h), || embedding(&ids, &weight.detach()).unwrap());
    bench
        .measure("fwd+bwd", &size, bench.bytes((3 * rows + v) * h), || backward_of(&embedding(&ids, &weight).unwrap()));
}
