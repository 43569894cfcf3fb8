use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::ops::nf4::{Kind, quantize};

use crate::device::Bench;

/// Quantizing reads the weight and writes half a byte an element, dequantizing the reverse; scales are an eighth of that or
/// less. Both are of the CPU.
pub fn bench(bench: &mut Bench) {
    if !bench.device.is_same(&Device::Cpu) {
        return;
    }
    let (n, k) = (bench.model.i, bench.model.h);
    let (weight, size) = (bench.tensor([n, k]), format!("{n}x{k}"));
    let bytes = |dtype: DType| crate::device::Cost::Bytes(n * k * dtype.size() + n * k / 2);
    for (name, kind, double) in [("nf4", Kind::Nf4, false), ("double", Kind::Nf4, true), ("fp4", Kind::Fp4, false)] {
        bench.measure(name, &size, bytes(bench.dtype), || quantize(&weight, kind, 64, double).unwrap());
    }
    let quantized = quantize(&weight, Kind::Nf4, 64, true).unwrap();
    for dtype in [DType::F32, DType::Bf16] {
        bench.measure(&format!("to_{dtype}"), &size, bytes(dtype), || quantized.dequantize(dtype).unwrap());
    }
}
