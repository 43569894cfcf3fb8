use proptest::prelude::*;
use vicugna::autograd::{Tensor, backward, backward_from, no_grad};
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Error;
use vicugna::ops::cross_entropy::{cross_entropy, cross_entropy_low_rank};
use vicugna::reference;

use crate::harness::*;

/// rows, V, H: one of each, primes, V ragged against any vector, V above a run of the sum.
fn shapes() -> impl Strategy<Value = (usize, usize, usize)> {
    prop_oneof![
        (1..9usize, 1..70usize, 1..40usize),
        Just((1, 1, 1)),
        Just((3, 1031, 7)),
        Just((17, 257, 64)),
        Just((30, 131, 576)),
    ]
}

/// Targets below `classes`, about one in four ignored.
fn random_targets(seed: u64, rows: usize, classes: usize) -> Vec<i32> {
    let draw = random(seed ^ 0x7a, 2 * rows, DType::F32);
    let target = |pair: &[f64]| {
        if pair[0] > 0.5 { -100 } else { ((pair[1] + 3.0) / 6.0 * classes as f64) as i32 % classes as i32 }
    };
    draw.chunks(2).map(target).collect()
}

fn ids(targets: &[i32]) -> Tensor {
    Tensor::from_slice(&Device::Cpu, [targets.len()], targets).unwrap()
}

const NORMALIZER: f64 = 3.0;

on_devices! {
    #[test]
    fn forward_matches_reference((rows, v, h) in shapes(), dtypes in [float_dtype(), float_dtype()], seed: u64) {
        let (x, w) = (random(seed, rows * h, dtypes[0]), random(seed ^ 1, v * h, dtypes[1]));
        let targets = random_targets(seed, rows, v);
        let (tx, tw) = (tensor(&x, dtypes[0], [rows, h]), tensor(&w, dtypes[1], [v, h]));
        let loss = cross_entropy(&tx, &tw, &ids(&targets), NORMALIZER as f32).unwrap();
        prop_assert!(loss.dims().is_empty() && loss.dtype() == DType::F32);
        let forward = expected!(R => {
            vec![reference::cross_entropy::forward::<R>(&cast(&x), &cast(&w), &targets, NORMALIZER)]
        });
        check("loss", &loss, &forward)?;
    }

    #[test]
    fn backward_matches_reference((rows, v, h) in shapes(), dtypes in [float_dtype(), float_dtype()], seed: u64) {
        let (x, w) = (random(seed, rows * h, dtypes[0]), random(seed ^ 1, v * h, dtypes[1]));
        let (targets, dy) = (random_targets(seed, rows, v), random(seed ^ 2, 1, DType::F32));
        let tx = tensor(&x, dtypes[0], [rows, h]).with_grad();
        let tw = tensor(&w, dtypes[1], [v, h]).with_grad();
        let loss = cross_entropy(&tx, &tw, &ids(&targets), NORMALIZER as f32).unwrap();
        let gradients = backward_from([(&loss, tensor(&dy, DType::F32, []))]).unwrap();
        macro_rules! expected_gradient {
            ($i:tt) => {
                expected!(R => {
                    let dy = R::from_f64(dy[0]);
                    reference::cross_entropy::backward::<R>(dy, &cast(&x), &cast(&w), &targets, NORMALIZER).$i
                })
            };
        }
        use vicugna::reference::Real;
        check("dhidden", gradients.get(&tx).unwrap(), &expected_gradient!(0))?;
        check("dlm_head", gradients.get(&tw).unwrap(), &expected_gradient!(1))?;
    }

    /// A head with an adapter is one whose operands stand side by side, `[x | xa]` and `[w | b]`.
    #[test]
    fn low_rank_matches_reference(
        (rows, v, h) in shapes(), r in 1..9usize, dtypes in [float_dtype(), float_dtype()], seed: u64
    ) {
        let (x, w) = (random(seed, rows * h, dtypes[0]), random(seed ^ 1, v * h, dtypes[0]));
        let (xa, b) = (random(seed ^ 3, rows * r, dtypes[1]), random(seed ^ 4, v * r, dtypes[1]));
        let (targets, dy) = (random_targets(seed, rows, v), random(seed ^ 2, 1, DType::F32));
        let [tx, tw] = [(&x, rows), (&w, v)].map(|(values, n)| tensor(values, dtypes[0], [n, h]).with_grad());
        let [txa, tb] = [(&xa, rows), (&b, v)].map(|(values, n)| tensor(values, dtypes[1], [n, r]).with_grad());
        let loss = cross_entropy_low_rank(&tx, &tw, Some([&txa, &tb]), &ids(&targets), NORMALIZER as f32).unwrap();
        let gradients = backward_from([(&loss, tensor(&dy, DType::F32, []))]).unwrap();

        let joined = |a: &[f64], b: &[f64]| -> Vec<f64> {
            a.chunks(h).zip(b.chunks(r)).flat_map(|(a, b)| a.iter().chain(b).copied().collect::<Vec<_>>()).collect()
        };
        let (wide_x, wide_w) = (joined(&x, &xa), joined(&w, &b));
        let forward = expected!(R => {
            vec![reference::cross_entropy::forward::<R>(&cast(&wide_x), &cast(&wide_w), &targets, NORMALIZER)]
        });
        check("loss", &loss, &forward)?;
        macro_rules! expected_gradient {
            ($i:tt, $columns:expr) => {
                expected!(R => {
                    let (dy, columns) = (R::from_f64(dy[0]), $columns);
                    let wide = reference::cross_entropy::backward::<R>(
                        dy, &cast(&wide_x), &cast(&wide_w), &targets, NORMALIZER).$i;
                    wide.chunks(h + r).flat_map(|row| row[columns.clone()].to_vec()).collect::<Vec<_>>()
                })
            };
        }
        use vicugna::reference::Real;
        check("dhidden", gradients.get(&tx).unwrap(), &expected_gradient!(0, 0..h))?;
        check("dlm_head", gradients.get(&tw).unwrap(), &expected_gradient!(1, 0..h))?;
        check("dxa", gradients.get(&txa).unwrap(), &expected_gradient!(0, h..h + r))?;
        check("db", gradients.get(&tb).unwrap(), &expected_gradient!(1, h..h + r))?;
    }

    #[test]
    fn properties_hold((rows, v, h) in shapes(), dtype in float_dtype(), seed: u64) {
        let tx = tensor(&random(seed, rows * h, dtype), dtype, [rows, h]).with_grad();
        let tw = tensor(&random(seed ^ 1, v * h, dtype), dtype, [v, h]).with_grad();
        let targets = random_targets(seed, rows, v);
        let loss = cross_entropy(&tx, &tw, &ids(&targets), NORMALIZER as f32).unwrap();
        let gradients = backward(&loss).unwrap();

        // Not recording changes no bit; a frozen head gets no gradient and changes none of the other's.
        let quiet = no_grad(|| cross_entropy(&tx, &tw, &ids(&targets), NORMALIZER as f32)).unwrap();
        check_bits("loss", &loss, &quiet)?;
        let frozen = cross_entropy(&tx, &tw.detach(), &ids(&targets), NORMALIZER as f32).unwrap();
        let without = backward(&frozen).unwrap();
        check_bits("dhidden", gradients.get(&tx).unwrap(), without.get(&tx).unwrap())?;
        prop_assert!(without.get(&tw).is_none());

        // An ignored row gets zeros, and a loss without counted rows is zero.
        let dhidden = values(gradients.get(&tx).unwrap());
        for (dhidden, target) in dhidden.chunks(h).zip(&targets) {
            prop_assert!(*target != -100 || dhidden.iter().all(|&d| d == 0.0));
        }
        // A loss that is not finite has gradients that are not, although those of the formula are.
        let (far, one) = (tensor(&[-1e30, 0.0], DType::F32, [2, 1]), tensor(&[1e30], DType::F32, [1, 1]).with_grad());
        let infinite = cross_entropy(&one, &far, &ids(&[0]), 1.0).unwrap();
        prop_assert_eq!(values(&infinite), [f64::INFINITY]);
        prop_assert!(values(backward(&infinite).unwrap().get(&one).unwrap())[0].is_nan());

        let none = cross_entropy(&tx, &tw, &ids(&vec![-100; rows]), NORMALIZER as f32).unwrap();
        prop_assert_eq!(values(&none), [0.0]);
    }

    #[test]
    fn runs_are_bit_equal((rows, v, h) in shapes(), dtype in float_dtype(), seed: u64) {
        let run = || {
            let x = tensor(&random(seed, rows * h, dtype), dtype, [rows, h]).with_grad();
            let w = tensor(&random(seed ^ 1, v * h, dtype), dtype, [v, h]).with_grad();
            let loss = cross_entropy(&x, &w, &ids(&random_targets(seed, rows, v)), NORMALIZER as f32).unwrap();
            let gradients = backward(&loss).unwrap();
            [loss, gradients.get(&x).unwrap().clone(), gradients.get(&w).unwrap().clone()]
        };
        check_runs(run)?;
    }
}

on_devices! {
    #[test]
    fn a_large_vocabulary_keeps_the_loss_within_1e_6() {
    for v in [49152, 128_256] {
        let (rows, h) = (4, 64);
        let (x, w) = (random(1, rows * h, DType::F32), random(2, v * h, DType::F32));
        let targets = [0, 17, v as i32 - 1, 4095];
        let loss = cross_entropy(
            &tensor(&x, DType::F32, [rows, h]),
            &tensor(&w, DType::F32, [v, h]),
            &ids(&targets),
            rows as f32,
        );
        let exact: f64 = reference::cross_entropy::forward(&x, &w, &targets, rows as f64);
        let found = values(&loss.unwrap())[0];
        assert!((found / exact - 1.0).abs() < 1e-6, "V = {v}: {found} is not {exact}");
    }
}

/// 1025 counted rows are two chunks of such a vocabulary, on the CPU and on a GPU.
#[test]
fn chunks_add_up() {
    let (rows, v, h) = (1027, 32_769, 3);
    let dtype = DType::Bf16;
    let (x, w) = (random(1, rows * h, dtype), random(2, v * h, dtype));
    let mut targets: Vec<i32> = (0..rows).map(|row| (row * 997 % v) as i32).collect();
    (targets[0], targets[128]) = (-100, -100);
    let [tx, tw] = [(&x, rows), (&w, v)].map(|(values, n)| tensor(values, dtype, [n, h]).with_grad());
    let loss = cross_entropy(&tx, &tw, &ids(&targets), NORMALIZER as f32).unwrap();
    let gradients = backward(&loss).unwrap();
    let (dx, dw) = (gradients.get(&tx).unwrap(), gradients.get(&tw).unwrap());
    let exact = reference::cross_entropy::forward(&x, &w, &targets, NORMALIZER);
    assert!((values(&loss)[0] / exact - 1.0).abs() < 1e-6);
    let (exact_dx, exact_dw) = reference::cross_entropy::backward(1.0, &x, &w, &targets, NORMALIZER);
    for (what, found, exact) in [("dhidden", dx, exact_dx), ("dlm_head", dw, exact_dw)] {
        let largest = reference::tolerance::largest(exact.iter().map(|value| value.abs()));
        for (i, (found, exact)) in values(found).iter().zip(&exact).enumerate() {
            assert!((found - exact).abs() <= largest / 64.0, "{what}[{i}]: {found} is not {exact}");
        }
    }
}
}

#[test]
fn reference_passes_gradcheck() {
    let (rows, v, h) = (3, 7, 5);
    let [x, w, dy] = [(0, rows * h), (1, v * h), (2, 1)].map(|(seed, n)| random(seed, n, DType::F32));
    let targets = [6, -100, 2];
    let (dx, dw) = reference::cross_entropy::backward(dy[0], &x, &w, &targets, NORMALIZER);
    gradcheck("dhidden", &x, &dy, &dx, |x| vec![reference::cross_entropy::forward(x, &w, &targets, NORMALIZER)]);
    gradcheck("dlm_head", &w, &dy, &dw, |w| vec![reference::cross_entropy::forward(&x, w, &targets, NORMALIZER)]);
}

on_devices! {
    #[test]
    fn rejects_bad_inputs() {
    let (x, w) = (tensor(&[0.0; 8], DType::F32, [2, 4]), tensor(&[0.0; 12], DType::F32, [3, 4]));
    let refusal = |x: &Tensor, w: &Tensor, targets: &[i32], normalizer| {
        cross_entropy(x, w, &ids(targets), normalizer).unwrap_err()
    };
    let error = refusal(&x, &w, &[0, 3], 1.0);
    assert_eq!(error.to_string(), "cross_entropy: the target of row 1 must be in 0..3 or -100, got 3");
    let error = refusal(&x, &w, &[-1, 0], 1.0);
    assert_eq!(error.to_string(), "cross_entropy: the target of row 0 must be in 0..3 or -100, got -1");
    let error = refusal(&x, &w, &[0], 1.0);
    assert_eq!(error.to_string(), "cross_entropy: targets must be [2], got [1]");
    let error = refusal(&x, &tensor(&[0.0; 6], DType::F32, [3, 2]), &[0, 0], 1.0);
    assert_eq!(error.to_string(), "cross_entropy: lm_head must be [V, 4], got [3, 2]");
    assert!(matches!(refusal(&x, &w, &[0, 0], 0.0), Error::Input { .. }));
    let low_rank = |rows, classes, r| {
        let (xa, b) = (tensor(&vec![0.0; rows * 2], DType::F32, [rows, 2]), tensor(&vec![0.0; classes * r], DType::F32, [classes, r]));
        cross_entropy_low_rank(&x, &w, Some([&xa, &b]), &ids(&[0, 0]), 1.0).unwrap_err().to_string()
    };
    assert_eq!(low_rank(1, 3, 2), "cross_entropy: xa must be [2, 2], got [1, 2]");
    assert_eq!(low_rank(2, 4, 2), "cross_entropy: b must be [3, 2], got [4, 2]");
    assert_eq!(low_rank(2, 3, 1), "cross_entropy: b must be [3, 2], got [3, 1]");
    let error = cross_entropy(&x, &w, &tensor(&[0.0; 2], DType::F32, [2]), 1.0).unwrap_err();
    assert!(matches!(error, Error::DType { .. }), "{error}");
    if !matches!(device(), Device::Cpu) {
        let error = cross_entropy(&x, &w, &ids(&[0, 0]).to_device(&device()).unwrap(), 1.0).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: cross_entropy: targets must be on cpu", device()));
    }
}
}
