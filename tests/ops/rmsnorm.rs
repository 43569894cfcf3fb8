use proptest::prelude::*;
use vicugna::autograd::backward_from;
use vicugna::dtype::DType;
use vicugna::error::Error;
use vicugna::ops::rmsnorm::{rmsnorm, rmsnorm_residual};
use vicugna::reference;

use crate::harness::*;

const EPS: f64 = 1e-5;

/// rows, H: one row, H = 1, a prime, ragged against any vector width, above a block of threads, a real Llama.
fn shapes() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![
        (1..5usize, 1..70usize),
        Just((1, 1)),
        Just((3, 31)),
        Just((70, 257)),
        Just((2, 1025)),
        Just((40, 576)),
        Just((2, 4096))
    ]
}

on_devices! {
    #[test]
    fn forward_matches_reference((rows, h) in shapes(), dtype in float_dtype(), seed: u64) {
        let (x, w) = (random(seed, rows * h, dtype), random(seed ^ 1, h, dtype));
        let y = rmsnorm(&tensor(&x, dtype, [rows, h]), &tensor(&w, dtype, [h]), EPS as f32).unwrap();
        check("y", &y, &expected!(R => reference::rmsnorm::forward::<R>(&cast(&x), &cast(&w), EPS).0))?;
    }

    #[test]
    fn backward_matches_reference((rows, h) in shapes(), dtype in float_dtype(), seed: u64) {
        let (x, w, dy) = (random(seed, rows * h, dtype), random(seed ^ 1, h, dtype), random(seed ^ 2, rows * h, dtype));
        let (tx, tw) = (tensor(&x, dtype, [rows, h]).with_grad(), tensor(&w, dtype, [h]).with_grad());
        let y = rmsnorm(&tx, &tw, EPS as f32).unwrap();
        let gradients = backward_from([(&y, tensor(&dy, dtype, [rows, h]))]).unwrap();
        let backward = expected!(R => reference::rmsnorm::backward::<R>(&cast(&dy), &cast(&x), &cast(&w), EPS).0);
        check("dx", gradients.get(&tx).unwrap(), &backward)?;
        let backward = expected!(R => reference::rmsnorm::backward::<R>(&cast(&dy), &cast(&x), &cast(&w), EPS).1);
        check("dw", gradients.get(&tw).unwrap(), &backward)?;
    }

    #[test]
    fn residual_is_the_sum_then_rmsnorm((rows, h) in shapes(), dtype in float_dtype(), seed: u64) {
        let [x, residual, dy, dsum] = [0, 1, 2, 3].map(|i| tensor(&random(seed ^ i, rows * h, dtype), dtype, [rows, h]));
        let w = tensor(&random(seed ^ 4, h, dtype), dtype, [h]);
        let (x, residual) = (x.with_grad(), residual.with_grad());
        let (y, sum) = rmsnorm_residual(&x, &residual, &w, EPS as f32).unwrap();
        let plain_sum = sum.detach().with_grad();
        let plain = rmsnorm(&plain_sum, &w, EPS as f32).unwrap();
        check_bits("y", &y, &plain)?;
        let fused = backward_from([(&y, dy.clone()), (&sum, dsum.clone())]).unwrap();
        let unfused = backward_from([(&plain, dy), (&plain_sum, dsum)]).unwrap();
        check_bits("dx", fused.get(&x).unwrap(), unfused.get(&plain_sum).unwrap())?;
        check_bits("dresidual", fused.get(&residual).unwrap(), fused.get(&x).unwrap())?;
    }

    #[test]
    fn properties_hold((rows, h) in shapes(), seed: u64) {
        // Doubling x halves rstd exactly when eps is 0: the output keeps its bits.
        let x = random(seed, rows * h, DType::F32);
        let doubled: Vec<f64> = x.iter().map(|v| 2.0 * v).collect();
        let w = tensor(&random(seed ^ 1, h, DType::F32), DType::F32, [h]);
        let [y, z] = [x, doubled].map(|x| rmsnorm(&tensor(&x, DType::F32, [rows, h]), &w, 0.0).unwrap());
        check_bits("rmsnorm(2x) = rmsnorm(x)", &y, &z)?;
    }

    #[test]
    fn runs_are_bit_equal((rows, h) in shapes(), dtype in float_dtype(), seed: u64) {
        let run = || {
            let x = tensor(&random(seed, rows * h, dtype), dtype, [rows, h]).with_grad();
            let w = tensor(&random(seed ^ 1, h, dtype), dtype, [h]).with_grad();
            let y = rmsnorm(&x, &w, EPS as f32).unwrap();
            let gradients = backward_from([(&y, y.detach())]).unwrap();
            [y.clone(), gradients.get(&x).unwrap().clone(), gradients.get(&w).unwrap().clone()]
        };
        check_runs(run)?;
    }
}

#[test]
fn reference_passes_gradcheck() {
    let (rows, h) = (3, 5);
    let [x, w, dy] = [(0, rows * h), (1, h), (2, rows * h)].map(|(seed, n)| random(seed, n, DType::F32));
    let (dx, dw) = reference::rmsnorm::backward(&dy, &x, &w, EPS);
    gradcheck("dx", &x, &dy, &dx, |x| reference::rmsnorm::forward(x, &w, EPS).0);
    gradcheck("dw", &w, &dy, &dw, |w| reference::rmsnorm::forward(&x, w, EPS).0);
}

on_devices! {
    #[test]
    fn rejects_bad_inputs() {
        let x = tensor(&[0.0; 8], DType::F32, [2, 4]);
        let error = rmsnorm(&x, &tensor(&[0.0; 3], DType::F32, [3]), 0.0).unwrap_err();
        assert_eq!(error.to_string(), "rmsnorm: weight must be [4], got [3]");
        let error = rmsnorm(&x, &tensor(&[0.0; 4], DType::Bf16, [4]), 0.0).unwrap_err();
        assert!(matches!(error, Error::DType { .. }), "{error}");
        let error = rmsnorm(&tensor(&[], DType::F32, [2, 0]), &tensor(&[], DType::F32, [0]), 0.0).unwrap_err();
        assert_eq!(error.to_string(), "rmsnorm: a row of x must have elements, got [2, 0]");
    }
}
