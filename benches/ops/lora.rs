use vicugna::dtype::DType;
use vicugna::ops::lora::lora;

use crate::device::{Bench, Cost, backward_of};

/// The q projection with rank 8, its base frozen. Only the base products are counted, so the distance to the floor shows
/// what the adapter costs.
pub fn bench(bench: &mut Bench) {
    let (rows, k, n, r) = (bench.model.rows, bench.model.h, bench.model.nh * bench.model.d, 8);
    let (x, weight) = (bench.tensor([rows, k]).with_grad(), bench.tensor([n, k]));
    let [a, b] = [[r, k], [n, r]].map(|shape| bench.tensor_of(DType::F32, shape).with_grad());
    let (product, size) = (2 * rows * k * n, format!("{rows}x{k}x{n}_r{r}"));
    let run = || lora(&x, &weight, &a, &b, 4.0, None, None).unwrap();
    bench.measure("fwd", &size, Cost::Operations(product), run);
    bench.measure("fwd+bwd", &size, Cost::Operations(2 * product), || backward_of(&run()));
}
