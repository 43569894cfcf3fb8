use proptest::prelude::*;
use vicugna::autograd::Tensor;
use vicugna::dtype::DType;
use vicugna::error::Error;
use vicugna::ops::grad_norm::grad_norm;
use vicugna::reference;

use crate::harness::*;

/// Some gradients of each dtype: one element, ragged lengths, above one task.
fn gradients() -> impl Strategy<Value = Vec<Tensor>> {
    let length = prop_oneof![Just(1), 1..300usize, Just(40_009)];
    let gradient = (length, float_dtype(), any::<u64>(), -20..20);
    let gradient = gradient.prop_map(|(n, dtype, seed, exponent)| {
        let x: Vec<f64> = random(seed, n, dtype).iter().map(|x| x * 2f64.powi(exponent)).collect();
        tensor(&x, dtype, [n])
    });
    prop::collection::vec(gradient, 0..6)
}

fn all(gradients: &[Tensor]) -> Vec<&Tensor> {
    gradients.iter().collect()
}

proptest! {
    #[test]
    fn norms_match_reference(gradients in gradients(), max_norm in 1e-3..1e3f64) {
        let found = grad_norm(&all(&gradients)).unwrap();
        let exact: Vec<_> = gradients.iter().map(values).collect();
        let total = reference::grad_norm::norm(&exact);
        // Squares do not cancel: each of the two sums is off by at most half an epsilon for every term.
        let close = |n: usize, a: f64, b: f64| (a - b).abs() <= n as f64 * f64::EPSILON * b;
        let n = exact.iter().map(Vec::len).sum();
        prop_assert!(close(n, found.total, total), "{} is not {total}", found.total);
        for (found, gradient) in found.each.iter().zip(&exact) {
            let norm = reference::grad_norm::norm(std::slice::from_ref(gradient));
            prop_assert!(close(gradient.len(), *found, norm), "{found} is not {norm}");
        }
        let scale = reference::grad_norm::clip_scale(found.total, max_norm);
        prop_assert_eq!(found.clip_scale(max_norm), scale as f32);
        prop_assert!(found.total * scale <= max_norm);
        prop_assert_eq!(found.first_not_finite(), None);
    }

    #[test]
    fn the_first_gradient_that_is_not_finite_is_found(
        n in 1..40_000usize, at: prop::sample::Index, dtype in float_dtype(), bad in prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY)],
    ) {
        // The largest finite values are none of it: their squares do not overflow.
        let large = match dtype { DType::Bf16 => 3.3895313892515355e38, _ => f64::from(f32::MAX) };
        let mut x = vec![large; n];
        prop_assert_eq!(grad_norm(&[&tensor(&x, dtype, [n])]).unwrap().first_not_finite(), None);
        x[at.index(n)] = bad;
        let (good, bad) = (tensor(&[1.0], DType::F32, [1]), tensor(&x, dtype, [n]));
        prop_assert_eq!(grad_norm(&[&good, &bad, &good, &bad]).unwrap().first_not_finite(), Some(1));
    }

    #[test]
    fn runs_are_bit_equal(gradients in gradients()) {
        let run = || grad_norm(&all(&gradients)).unwrap();
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(run);
        prop_assert_eq!(run(), alone);
    }
}

#[test]
fn clipping_is_pytorchs() {
    let norm = grad_norm(&[&tensor(&[3.0, 4.0], DType::F32, [2])]).unwrap();
    assert_eq!(norm.total, 5.0);
    assert_eq!(norm.clip_scale(1.0), (1.0 / 5.000001) as f32);
    assert_eq!(norm.clip_scale(5.0), (5.0 / 5.000001) as f32);
    assert_eq!(norm.clip_scale(5.1), 1.0);
}

#[test]
fn rejects_bad_inputs() {
    let ids = Tensor::from_slice(&device(), [1], &[7u32]).unwrap();
    let error = grad_norm(&[&ids]).unwrap_err();
    assert!(matches!(error, Error::DType { .. }), "{error}");
}
