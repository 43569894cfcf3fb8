use vicugna::dtype::DType;
use vicugna::ops::elementwise::{add, cast};

use crate::device::{Bench, Cost};

/// Two reads and one write; for the cast, to the other dtype, one of each.
pub fn bench(bench: &mut Bench) {
    let (rows, h) = (bench.model.rows, bench.model.h);
    let (x, size) = (bench.tensor([rows, h]), format!("{rows}x{h}"));
    bench.measure("add", &size, bench.bytes(3 * rows * h), || add(&x, &x).unwrap());
    let other = if bench.dtype == DType::F32 { DType::Bf16 } else { DType::F32 };
    bench.measure("cast", &size, Cost::Bytes(rows * h * (4 + 2)), || cast(&x, other).unwrap());
}
