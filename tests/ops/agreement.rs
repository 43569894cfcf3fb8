//! The CPU and the emulated GPU give the same results: to the bit where an op only moves, adds or rounds, else as close as
//! the specification allows them to be to each other.

use proptest::prelude::*;
use vicugna::autograd::{Tensor, backward_from};
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::ops::dropout::{Dropout, dropout};
use vicugna::ops::elementwise::{add, cast};
use vicugna::ops::embedding::embedding;
use vicugna::ops::rmsnorm::rmsnorm;
use vicugna::ops::swiglu::swiglu;
use vicugna::reference;

use crate::harness::*;

/// What `run` gives on the CPU and on the emulated GPU.
fn both<R>(run: impl Fn() -> R) -> [R; 2] {
    [Device::Cpu, Device::emulated()].map(|device| on(&device, &run))
}

fn check_both_bits<const N: usize>(run: impl Fn() -> [Tensor; N]) -> Result<(), TestCaseError> {
    let [cpu, emulated] = both(run);
    cpu.iter().zip(&emulated).try_for_each(|(a, b)| check_bits("cpu and emulated", a, b))
}

/// Each is at most the bound away from the specification, so both are at most twice that from each other.
fn check_close(what: &str, [a, b]: [&Tensor; 2], expected: &Expected) -> Result<(), TestCaseError> {
    let digits = if a.dtype() == DType::Bf16 { 7 } else { 23 };
    let bound = expected.errors(&values(a), |v| round(v, a.dtype()), digits).bound;
    for (i, (a, b)) in values(a).iter().zip(values(b)).enumerate() {
        prop_assert!((a - b).abs() <= 2.0 * bound, "{}[{}]: {} on the cpu, {} emulated", what, i, a, b);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn exact_ops_agree_to_the_bit(rows in 1..40usize, h in 1..150usize, dtype in float_dtype(), seed: u64) {
        let x = |seed| tensor(&random(seed, rows * h, dtype), dtype, [rows, h]);
        let key = Dropout { p: 0.3, seed, step: 3, site: 1, first_element: seed % 9 };
        check_both_bits(|| [add(&x(seed), &x(seed ^ 1)).unwrap(), dropout(&x(seed), key).unwrap()])?;
        check_both_bits(|| [cast(&x(seed), DType::F32).unwrap(), cast(&x(seed), DType::Bf16).unwrap()])?;
        check_both_bits(|| {
            let ids: Vec<u32> = (0..50).map(|i| (i * i) % rows as u32).collect();
            let weight = x(seed).with_grad();
            let y = embedding(&Tensor::from_slice(&device(), [50], &ids).unwrap(), &weight).unwrap();
            let gradients = backward_from([(&y, y.detach())]).unwrap();
            [y, gradients.get(&weight).unwrap().clone()]
        })?;
    }

    #[test]
    fn rounding_ops_agree_within_the_bound(rows in 1..40usize, h in 1..400usize, dtype in float_dtype(), seed: u64) {
        let [x, z, w] = [(0, rows * h), (1, rows * h), (2, h)].map(|(i, n)| random(seed ^ i, n, dtype));
        let [cpu, emulated] = both(|| {
            let [x, z] = [&x, &z].map(|x| tensor(x, dtype, [rows, h]));
            [rmsnorm(&x, &tensor(&w, dtype, [h]), 1e-5).unwrap(), swiglu(&x, &z).unwrap()]
        });
        let expected = expected!(R => reference::rmsnorm::forward::<R>(&cast_all(&x), &cast_all(&w), 1e-5).0);
        check_close("rmsnorm", [&cpu[0], &emulated[0]], &expected)?;
        let expected = expected!(R => reference::swiglu::forward::<R>(&cast_all(&x), &cast_all(&z)));
        check_close("swiglu", [&cpu[1], &emulated[1]], &expected)?;
    }
}

fn cast_all<R: reference::Real>(values: &[f64]) -> Vec<R> {
    crate::harness::cast(values)
}
