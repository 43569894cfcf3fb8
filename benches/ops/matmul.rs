use vicugna::ops::matmul::matmul;

use crate::device::{Bench, Cost, backward_of};

/// A layer's products, with one gradient at a time; and of one row, which reads the weight.
pub fn bench(bench: &mut Bench) {
    let (rows, h, i) = (bench.model.rows, bench.model.h, bench.model.i);
    for (k, n) in [(h, h), (h, i), (i, h)] {
        let (x, weight) = (bench.tensor([rows, k]), bench.tensor([n, k]));
        let (product, size) = (2 * rows * k * n, format!("{rows}x{k}x{n}"));
        bench.measure("fwd", &size, Cost::Operations(product), || matmul(&x, &weight).unwrap());
        let tracked = x.clone().with_grad();
        bench.measure("fwd+dx", &size, Cost::Operations(2 * product), || {
            backward_of(&matmul(&tracked, &weight).unwrap())
        });
        let tracked = weight.clone().with_grad();
        bench.measure("fwd+dw", &size, Cost::Operations(2 * product), || backward_of(&matmul(&x, &tracked).unwrap()));
    }
    let (row, weight) = (bench.tensor([1, h]), bench.tensor([i, h]));
    bench.measure("fwd", format!("1x{h}x{i}"), bench.bytes(i * h), || matmul(&row, &weight).unwrap());
}
