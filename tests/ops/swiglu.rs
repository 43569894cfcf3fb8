use proptest::prelude::*;
use vicugna::autograd::backward_from;
use vicugna::dtype::DType;
use vicugna::error::Error;
use vicugna::ops::swiglu::swiglu;
use vicugna::reference;

use crate::harness::*;

/// rows, I: one element, ragged against any vector width, a prime, above one task, SmolLM2-135M and Llama 2.
fn shapes() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![(1..5usize, 1..70usize), Just((1, 1)), Just((70, 257)), Just((20, 1536)), Just((2, 11008))]
}

/// Values up to 12 in size, so that the sigmoid is met near 0 and near 1.
fn gates(seed: u64, n: usize, dtype: DType) -> Vec<f64> {
    random(seed, n, dtype).iter().map(|v| 4.0 * v).collect()
}

on_devices! {
    #[test]
    fn forward_matches_reference((rows, i) in shapes(), dtype in float_dtype(), seed: u64) {
        let (gate, up) = (gates(seed, rows * i, dtype), random(seed ^ 1, rows * i, dtype));
        let y = swiglu(&tensor(&gate, dtype, [rows, i]), &tensor(&up, dtype, [rows, i])).unwrap();
        check("y", &y, &expected!(R => reference::swiglu::forward::<R>(&cast(&gate), &cast(&up))))?;
    }

    #[test]
    fn backward_matches_reference((rows, i) in shapes(), dtype in float_dtype(), seed: u64) {
        let (gate, up, dy) = (gates(seed, rows * i, dtype), random(seed ^ 1, rows * i, dtype), random(seed ^ 2, rows * i, dtype));
        let [tgate, tup] = [&gate, &up].map(|x| tensor(x, dtype, [rows, i]).with_grad());
        let y = swiglu(&tgate, &tup).unwrap();
        let gradients = backward_from([(&y, tensor(&dy, dtype, [rows, i]))]).unwrap();
        let backward = expected!(R => reference::swiglu::backward::<R>(&cast(&dy), &cast(&gate), &cast(&up)).0);
        check("dgate", gradients.get(&tgate).unwrap(), &backward)?;
        let backward = expected!(R => reference::swiglu::backward::<R>(&cast(&dy), &cast(&gate), &cast(&up)).1);
        check("dup", gradients.get(&tup).unwrap(), &backward)?;
    }

    #[test]
    fn properties_hold((rows, i) in shapes(), seed: u64) {
        let n = rows * i;
        let on = |gate: &[f64], up: &[f64]| swiglu(&tensor(gate, DType::F32, [n]), &tensor(up, DType::F32, [n])).unwrap();
        let (gate, up) = (gates(seed, n, DType::F32), random(seed ^ 1, n, DType::F32));
        // Linear in up, exactly for a power of two.
        let doubled: Vec<f64> = up.iter().map(|v| 2.0 * v).collect();
        let twice: Vec<f64> = values(&on(&gate, &up)).iter().map(|v| 2.0 * v).collect();
        check_bits("swiglu(g, 2u) = 2 swiglu(g, u)", &on(&gate, &doubled), &tensor(&twice, DType::F32, [n]))?;
        // A wide open gate multiplies, a closed one gives 0, whatever the size.
        prop_assert_eq!(values(&on(&vec![256.0; n], &up)), up.iter().map(|v| 256.0 * v).collect::<Vec<_>>());
        prop_assert!(values(&on(&vec![-f64::from(f32::MAX); n], &up)).iter().all(|y| *y == 0.0));
    }

    #[test]
    fn runs_are_bit_equal((rows, i) in shapes(), dtype in float_dtype(), seed: u64) {
        let run = || {
            let gate = tensor(&gates(seed, rows * i, dtype), dtype, [rows, i]).with_grad();
            let up = tensor(&random(seed ^ 1, rows * i, dtype), dtype, [rows, i]).with_grad();
            let y = swiglu(&gate, &up).unwrap();
            let gradients = backward_from([(&y, y.detach())]).unwrap();
            [y, gradients.get(&gate).unwrap().clone(), gradients.get(&up).unwrap().clone()]
        };
        check_runs(run)?;
    }
}

#[test]
fn reference_passes_gradcheck() {
    let [gate, up, dy] = [0, 1, 2].map(|seed| random(seed, 17, DType::F32));
    let (dgate, dup) = reference::swiglu::backward(&dy, &gate, &up);
    gradcheck("dgate", &gate, &dy, &dgate, |gate| reference::swiglu::forward(gate, &up));
    gradcheck("dup", &up, &dy, &dup, |up| reference::swiglu::forward(&gate, up));
}

on_devices! {
    #[test]
    fn rejects_bad_inputs() {
        let gate = tensor(&[0.0; 8], DType::F32, [2, 4]);
        let error = swiglu(&gate, &tensor(&[0.0; 8], DType::F32, [4, 2])).unwrap_err();
        assert_eq!(error.to_string(), "swiglu: up must be [2, 4], got [4, 2]");
        let error = swiglu(&gate, &tensor(&[0.0; 8], DType::Bf16, [2, 4])).unwrap_err();
        assert!(matches!(error, Error::DType { .. }), "{error}");
    }
}
