use vicugna::device::Device;
use vicugna::ops::int8_matmul::{Backward, Int8, Method, int8_matmul};

use crate::device::{Bench, Cost, backward_of};

/// A layer's products, activations quantized on the way, with both ways to the gradient; and of one row, which reads the
/// weight.
pub fn bench(bench: &mut Bench) {
    if !bench.device.is_same(&Device::Cpu) {
        return; // it has no kernels yet
    }
    let (rows, h, i) = (bench.model.rows, bench.model.h, bench.model.i);
    for (k, n) in [(h, h), (h, i), (i, h)] {
        let (x, weight) = (bench.tensor([rows, k]), bench.tensor([n, k]));
        let (product, size) = (2 * rows * k * n, format!("{rows}x{k}x{n}"));
        let quantized = Int8::quantize(&weight, Method::default()).unwrap();
        bench.measure("fwd", &size, Cost::Operations(product), || int8_matmul(&x, &quantized).unwrap());
        let tracked = x.with_grad();
        for (name, backward) in [("int8", Backward::Int8), ("dequant", Backward::Dequant)] {
            let weight = Int8::quantize(&weight, Method { backward, ..Method::default() }).unwrap();
            bench.measure(&format!("fwd+dx_{name}"), &size, Cost::Operations(2 * product), || {
                backward_of(&int8_matmul(&tracked, &weight).unwrap())
            });
        }
    }
    let (row, weight) = (bench.tensor([1, h]), bench.tensor([i, h]));
    let weight = Int8::quantize(&weight, Method::default()).unwrap();
    bench.measure("fwd", format!("1x{h}x{i}"), bench.bytes(i * h), || int8_matmul(&row, &weight).unwrap());
}
