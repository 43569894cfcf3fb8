use proptest::prelude::*;
use vicugna::autograd::{Tensor, backward_from};
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Error;
use vicugna::ops::int8_matmul::{Backward, Int8, Method, int8_matmul};
use vicugna::ops::lora::{Operands, Projection, linears};
use vicugna::ops::weight::{Quantized, Weight};
use vicugna::reference::int8_matmul::{self as reference, Row};

use crate::harness::*;

/// rows, N, K: few rows and many, one column, a K that no lane divides, ragged against any tile, a real Llama.
fn shapes() -> impl Strategy<Value = (usize, usize, usize)> {
    prop_oneof![
        (1..40usize, 1..70usize, 1..80usize),
        Just((1, 1, 1)),
        Just((17, 1, 131)),
        Just((1, 577, 131)),
        Just((16, 31, 1030)),
        Just((67, 193, 2)),
        Just((130, 61, 1031)),
        Just((33, 127, 65)),
        Just((40, 192, 576))
    ]
}

/// What a row is like.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Ordinary,
    Zeros,
    Outliers,
    OneHuge,
    Tiny,
}

fn kinds() -> impl Strategy<Value = Vec<Kind>> {
    use Kind::*;
    prop::collection::vec(prop::sample::select(vec![Ordinary, Ordinary, Zeros, Outliers, OneHuge, Tiny]), 1..9)
}

/// Activations, of which about one in a hundred reaches a threshold of 6, as `dtype` stores them.
fn activations(seed: u64, [rows, k]: [usize; 2], kinds: &[Kind], dtype: DType) -> Vec<f64> {
    let mut x = random(seed, rows * k, dtype);
    for (r, row) in x.chunks_mut(k).enumerate() {
        for (i, x) in row.iter_mut().enumerate() {
            let value = match kinds[r % kinds.len()] {
                Kind::Ordinary if (i + r) % 101 == 100 => *x * 20.0,
                Kind::Ordinary => *x,
                Kind::Zeros => 0.0,
                Kind::Outliers => *x + 10f64.copysign(*x),
                Kind::OneHuge if i == r % k => 1e30,
                Kind::OneHuge => *x,
                Kind::Tiny => *x * 1e-30,
            };
            *x = round(value, dtype);
        }
    }
    x
}

fn f32s(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// A weight on the tested device, and what the specification makes of it.
fn weight(seed: u64, [n, k]: [usize; 2], method: Method) -> (Int8, Vec<Row>) {
    let mut w = random(seed, n * k, DType::F32);
    w[..k].iter_mut().for_each(|w| *w *= f64::from(seed.is_multiple_of(2)));
    let rows = reference::quantize(&f32s(&w), k, 0.0);
    (quantize(&w, [n, k], method), rows)
}

fn quantize(w: &[f64], shape: [usize; 2], method: Method) -> Int8 {
    let w = on(&Device::Cpu, || tensor(w, DType::F32, shape));
    Int8::quantize(&w, method).unwrap().to_device(&device()).unwrap()
}

fn method(threshold: f32, backward: Backward) -> Method {
    Method { threshold, backward }
}

fn thresholds() -> impl Strategy<Value = f32> {
    prop_oneof![Just(6.0f32), Just(0.0), Just(1.5)]
}

/// The largest error within each row, held against that row's bound: the rows' sizes are far apart.
fn check_rows(what: &str, found: &Tensor, expected: &Expected) -> Result<(), TestCaseError> {
    let (n, all) = (found.shape().last(), values(found));
    for (r, found_row) in all.chunks(n).enumerate() {
        let of = |from: usize| from * n..(from + 1) * n;
        let expected = Expected {
            exact: expected.exact[of(r)].to_vec(),
            rounded: expected.rounded[of(r)].to_vec(),
            terms: expected.terms[of(r)].to_vec(),
        };
        check(&format!("{what}, row {r}"), &tensor(found_row, found.dtype(), [n]), &expected)?;
    }
    Ok(())
}

proptest! {
    #[test]
    fn weights_are_quantized_to_the_bit((_, n, k) in shapes(), seed: u64) {
        let (weight, rows) = weight(seed, [n, k], Method::default());
        let codes: Vec<i32> = weight.codes().to_vec::<i8>().unwrap().into_iter().map(i32::from).collect();
        prop_assert_eq!(codes, rows.iter().flat_map(|row| row.codes.clone()).collect::<Vec<_>>());
        let absmax: Vec<f32> = rows.iter().map(|row| row.absmax).collect();
        prop_assert_eq!(weight.absmax().to_vec::<f32>().unwrap(), absmax);
        check("floats", &weight.dequantize(DType::F32).unwrap(), &expected!(R => reference::dequantize::<R>(&rows)))?;
    }

}

on_devices! {
    #[test]
    fn forward_matches_reference(
        (rows, n, k) in shapes(), kinds in kinds(), threshold in thresholds(), dtype in float_dtype(), seed: u64,
    ) {
        let x = activations(seed, [rows, k], &kinds, dtype);
        let (weight, w) = weight(seed ^ 1, [n, k], method(threshold, Backward::Int8));
        let y = int8_matmul(&tensor(&x, dtype, [rows, k]), &weight).unwrap();
        let x = reference::quantize(&f32s(&x), k, threshold);
        check_rows("y", &y, &expected!(R => reference::forward::<R>(&x, &w)))?;
    }

    #[test]
    fn backward_matches_reference(
        (rows, n, k) in shapes(), kinds in kinds(), dtype in float_dtype(), seed: u64,
    ) {
        let dy = activations(seed, [rows, n], &kinds, dtype);
        let x = random(seed ^ 2, rows * k, dtype);
        let dx = |backward| {
            let (weight, w) = weight(seed ^ 1, [n, k], method(6.0, backward));
            let x = tensor(&x, dtype, [rows, k]).with_grad();
            let y = int8_matmul(&x, &weight).unwrap();
            let mut gradients = backward_from([(&y, tensor(&dy, dtype, [rows, n]))]).unwrap();
            (gradients.take(&x).unwrap(), w)
        };
        let (found, w) = dx(Backward::Int8);
        let quantized = reference::quantize_gradient(&f32s(&dy), &w);
        check_rows("dx", &found, &expected!(R => reference::backward::<R>(&quantized, &w, k)))?;
        let (found, w) = dx(Backward::Dequant);
        let expected = expected!(R => {
            vicugna::reference::matmul::backward::<R>(&cast(&dy), &cast(&x), &reference::dequantize(&w), k).0
        });
        check_rows("dx from floats", &found, &expected)?;
    }

    /// On a GPU among as many others, which are zeros: how a product is cut depends on their number.
    #[test]
    fn a_row_has_the_same_bits_whatever_is_beside_it(
        (rows, n, k) in shapes(), kinds in kinds(), dtype in float_dtype(), seed: u64,
    ) {
        let x = activations(seed, [rows, k], &kinds, dtype);
        let (weight, _) = weight(seed ^ 1, [n, k], Method::default());
        let product = |x: &[f64]| int8_matmul(&tensor(x, dtype, [x.len() / k, k]), &weight).unwrap();
        let together = product(&x);
        for r in 0..rows {
            let own = r * k..(r + 1) * k;
            let alone = if device().to_string() == "cpu" {
                product(&x[own])
            } else {
                let mut others = vec![0.0; x.len()];
                others[own.clone()].copy_from_slice(&x[own]);
                product(&others).copy_rows(r..r + 1).unwrap()
            };
            check_bits(&format!("row {r}"), &together.copy_rows(r..r + 1).unwrap(), &alone)?;
            if r % 7 == 6 && device().to_string() != "cpu" {
                break;
            }
        }
    }

    #[test]
    fn runs_are_bit_equal((rows, n, k) in shapes(), dtype in float_dtype(), seed: u64) {
        let run = || {
            let x = tensor(&random(seed, rows * k, dtype), dtype, [rows, k]).with_grad();
            let y = int8_matmul(&x, &weight(seed ^ 1, [n, k], Method::default()).0).unwrap();
            let gradients = backward_from([(&y, y.detach())]).unwrap();
            [y.clone(), gradients.get(&x).unwrap().clone()]
        };
        check_runs(run)?;
    }
}

on_devices! {
    /// What is not finite reaches the result: as an outlier through its own products, without outliers in all of its row.
    #[test]
    fn infinities_and_nans_reach_the_result() {
        for rows in [2, 40] {
            let w = [1.0, -2.0, 0.5, 1.0, 0.0, 1.0];
            for bad in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
                let mut x = vec![1.0; 3 * rows];
                x[0] = bad;
                let x = tensor(&x, DType::F32, [rows, 3]).with_grad();
                for threshold in [6.0, 0.0] {
                    let y = int8_matmul(&x, &quantize(&w, [2, 3], method(threshold, Backward::Int8))).unwrap();
                    let y_values = values(&y);
                    let is_kept =
                        if threshold > 0.0 && bad.is_infinite() { y_values[0] == bad } else { y_values[0].is_nan() };
                    assert!(is_kept && y_values[2..].iter().all(|y| y.is_finite()), "{bad} at {threshold}: {y_values:?}");
                    let mut dy = vec![1.0; 2 * rows];
                    dy[1] = bad;
                    let dx = backward_from([(&y, tensor(&dy, DType::F32, [rows, 2]))]).unwrap();
                    let dx = values(dx.get(&x).unwrap());
                    assert!(dx[..3].iter().all(|dx| dx.is_nan()) && dx[3..].iter().all(|dx| dx.is_finite()), "{dx:?}");
                }
            }
        }
    }

    #[test]
    fn a_row_of_zeros_or_of_outliers_alone_is_no_nan() {
        let (weight, _) = weight(3, [5, 4], Method::default());
        let y = int8_matmul(&tensor(&[0.0; 8], DType::F32, [2, 4]), &weight).unwrap();
        assert_eq!(values(&y), [0.0; 10]);
        let y = int8_matmul(&tensor(&[8.0; 80], DType::F32, [20, 4]), &weight).unwrap();
        assert!(values(&y).iter().all(|y| y.is_finite()));
    }
}

proptest! {
    /// Rows of integers up to 127 and a weight of such have scales of 1: results are the sums themselves.
    #[test]
    fn sums_of_integers_are_exact_on_every_device((rows, n, k) in shapes(), seed: u64) {
        let integers = |seed: u64, rows: usize, width: usize| {
            let mut values: Vec<f64> = random(seed, rows * width, DType::F32).iter().map(|v| (42.0 * v).round()).collect();
            values.iter_mut().step_by(width).for_each(|first| *first = 127.0);
            values
        };
        let (x, dy, w) = (integers(seed, rows, k), integers(seed ^ 1, rows, n), integers(seed ^ 2, n, k));
        let sum = |terms: &mut dyn Iterator<Item = (f64, f64)>| terms.map(|(a, b)| a * b).sum::<f64>();
        let row = |r: usize, j: usize| sum(&mut (0..k).map(|i| (x[r * k + i], w[j * k + i])));
        let column = |r: usize, i: usize| sum(&mut (0..n).map(|j| (dy[r * n + j], w[j * k + i])));
        let forward: Vec<f64> = (0..rows * n).map(|at| row(at / n, at % n)).collect();
        let backward: Vec<f64> = (0..rows * k).map(|at| column(at / k, at % k)).collect();
        for device in devices() {
            on(&device, || {
                let tx = tensor(&x, DType::F32, [rows, k]).with_grad();
                let y = int8_matmul(&tx, &quantize(&w, [n, k], method(0.0, Backward::Int8))).unwrap();
                let mut gradients = backward_from([(&y, tensor(&dy, DType::F32, [rows, n]))]).unwrap();
                assert_eq!(values(&y), forward, "{device}");
                assert_eq!(values(&gradients.take(&tx).unwrap()), backward, "{device}");
            });
        }
    }
}

#[test]
fn no_rows_give_none_and_a_threshold_is_a_number() {
    for device in devices() {
        on(&device, || {
            let none = tensor(&[], DType::F32, [0, 20]).with_grad();
            let y = int8_matmul(&none, &quantize(&[1.0; 60], [3, 20], Method::default())).unwrap();
            assert_eq!(y.dims(), [0, 3]);
            let gradients = backward_from([(&y, y.detach())]).unwrap();
            assert_eq!(gradients.get(&none).unwrap().dims(), [0, 20]);
            let x = tensor(&[1.0; 40], DType::F32, [2, 20]);
            for threshold in [f32::NAN, -1.0] {
                let weight = quantize(&[1.0; 60], [3, 20], method(threshold, Backward::Int8));
                let error = int8_matmul(&x, &weight).unwrap_err().to_string();
                assert_eq!(error, format!("int8_matmul: the threshold must be 0 or more, got {threshold}"));
                let weight = std::sync::Arc::new(Quantized::Int8(weight));
                let layer = Projection { weight: Weight::Quantized(&weight), adapter: None, residual: None };
                let operands = Operands::of_groups(&device, DType::F32, &[vec![None]]).unwrap();
                assert_eq!(linears(&x, &[layer], &operands[0], None).unwrap_err().to_string(), error);
            }
        });
    }
}

#[test]
fn rejects_bad_inputs() {
    let weight = |w: &[f64]| Int8::quantize(&tensor(w, DType::F32, [1, w.len()]), Method::default());
    for bad in [f64::NAN, f64::INFINITY] {
        assert!(matches!(weight(&[1.0, bad]), Err(Error::Input { detail, .. }) if detail.contains("row 0")));
    }
    let good = weight(&[1.0, 2.0]).unwrap();
    let x = Tensor::zeros(&Device::Cpu, DType::F32, [3, 3]).unwrap();
    assert!(matches!(int8_matmul(&x, &good), Err(Error::Shape { .. })));
    let x = Tensor::zeros(&Device::Cpu, DType::U32, [3, 2]).unwrap();
    assert!(matches!(int8_matmul(&x, &good), Err(Error::DType { .. })));
    let new = |absmax: &[f32]| {
        let absmax = Tensor::from_slice(&Device::Cpu, [absmax.len()], absmax).unwrap();
        Int8::new(good.codes().clone(), absmax, Method::default())
    };
    assert!(new(&[2.0]).is_ok());
    assert!(matches!(new(&[2.0, 2.0]), Err(Error::Shape { .. })));
    for bad in [-1.0, f32::NAN, f32::INFINITY] {
        assert!(matches!(new(&[bad]), Err(Error::Input { .. })));
    }
}

/// One case of `tests/fixtures/make_quantized.py`: what bitsandbytes' CPU functions make of rows, one at a time.
#[test]
fn rows_are_those_of_bitsandbytes() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantized/int8.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        let (elements, _) = file.tensor(name).unwrap().data().as_chunks::<4>();
        elements.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let codes =
        |name: &str| file.tensor(name).unwrap().data().iter().map(|b| i32::from(b.cast_signed())).collect::<Vec<_>>();
    for case in ["ragged", "one", "single", "lanes", "llama"] {
        let &[n, k] = file.tensor(&format!("{case}.w")).unwrap().shape() else { panic!("{case}") };
        let x = floats(&format!("{case}.x"));
        for threshold in [0u8, 6] {
            let w = Tensor::from_slice(&Device::Cpu, [n, k], &floats(&format!("{case}.w"))).unwrap();
            let weight = Int8::quantize(&w, method(f32::from(threshold), Backward::Int8)).unwrap();
            let found: Vec<i32> = weight.codes().to_vec::<i8>().unwrap().into_iter().map(i32::from).collect();
            assert_eq!(found, codes(&format!("{case}.CB")), "{case}: the weight");
            assert_eq!(weight.absmax().to_vec::<f32>().unwrap(), floats(&format!("{case}.SCB")), "{case}: its scales");
            let rows = reference::quantize(&x, k, f32::from(threshold));
            let found: Vec<i32> = rows.iter().flat_map(|row| row.codes.clone()).collect();
            assert_eq!(found, codes(&format!("{case}.codes.threshold{threshold}")), "{case}: rows at {threshold}");
            let y = int8_matmul(&Tensor::from_slice(&Device::Cpu, [x.len() / k, k], &x).unwrap(), &weight).unwrap();
            let wanted = floats(&format!("{case}.y.threshold{threshold}"));
            for (r, (y, wanted)) in y.to_vec::<f32>().unwrap().chunks(n).zip(wanted.chunks(n)).enumerate() {
                let largest = wanted.iter().fold(0f32, |largest, y| if y.abs() > largest { y.abs() } else { largest });
                for (y, wanted) in y.iter().zip(wanted) {
                    // Its constant is 1.8e-5 too large.
                    assert!((y - wanted).abs() <= 3e-5 * largest, "{case}, row {r} at {threshold}: {y}, not {wanted}");
                }
            }
        }
    }
}
