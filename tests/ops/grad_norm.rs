use proptest::prelude::*;
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Error;
use vicugna::ops::grad_norm::grad_norm;
use vicugna::reference;

use crate::harness::*;

#[derive(Clone, Debug)]
struct Gradient {
    n: usize,
    dtype: DType,
    seed: u64,
    exponent: i32,
}

impl Gradient {
    fn tensor(&self) -> Tensor {
        let x = random(self.seed, self.n, self.dtype);
        let scaled: Vec<f64> = x.iter().map(|x| x * 2f64.powi(self.exponent)).collect();
        tensor(&scaled, self.dtype, [self.n])
    }
}

/// Some gradients of each dtype: one element, ragged lengths, above one task.
fn gradients() -> impl Strategy<Value = Vec<Gradient>> {
    let length = prop_oneof![Just(1), 1..300usize, Just(40_009)];
    let gradient = (length, float_dtype(), any::<u64>(), -20..20);
    let gradient = gradient.prop_map(|(n, dtype, seed, exponent)| Gradient { n, dtype, seed, exponent });
    prop::collection::vec(gradient, 0..6)
}

/// On the CPU sums are in f64, on a GPU in f32.
fn check_norm(found: f64, gradients: &[Vec<f64>]) -> Result<(), TestCaseError> {
    if !matches!(device(), Device::Cpu) {
        let norm = expected!(R => vec![reference::grad_norm::norm::<R>(&gradients.iter().map(|g| cast(g)).collect::<Vec<_>>())]);
        return check("norm", &tensor(&[found], DType::F32, [1]), &norm);
    }
    // Squares do not cancel: each of the two sums is off by at most half an epsilon for every term.
    let (n, norm) = (gradients.iter().map(Vec::len).sum::<usize>(), reference::grad_norm::norm(gradients));
    prop_assert!((found - norm).abs() <= n as f64 * f64::EPSILON * norm, "{found} is not {norm}");
    Ok(())
}

fn all(gradients: &[Tensor]) -> Vec<&Tensor> {
    gradients.iter().collect()
}

on_devices! {
    #[test]
    fn norms_match_reference(gradients in gradients(), max_norm in 1e-3..1e3f64) {
        let gradients: Vec<Tensor> = gradients.iter().map(Gradient::tensor).collect();
        let norm = grad_norm(&all(&gradients)).unwrap();
        let found = norm.read().unwrap();
        let exact: Vec<_> = gradients.iter().map(values).collect();
        check_norm(found.total, &exact)?;
        for (found, gradient) in found.each.iter().zip(&exact) {
            check_norm(*found, std::slice::from_ref(gradient))?;
        }
        let scale = norm.clip_scale(max_norm).unwrap();
        prop_assert!(scale.dims().is_empty());
        check("scale", &scale, &expected!(R => {
            let norm = reference::grad_norm::norm::<R>(&exact.iter().map(|g| cast(g)).collect::<Vec<_>>());
            vec![reference::grad_norm::clip_scale(norm, max_norm)]
        }))?;
        prop_assert!(found.total * values(&scale)[0] <= max_norm * (1.0 + 1e-6));
        prop_assert_eq!(found.first_not_finite(), None);
    }

    #[test]
    fn the_first_gradient_that_is_not_finite_is_found(
        n in 1..40_000usize, at: prop::sample::Index, dtype in float_dtype(), bad in prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY)],
    ) {
        // The largest finite values are none of it: their squares do not overflow.
        let large = match dtype { DType::Bf16 => 3.3895313892515355e38, _ => f64::from(f32::MAX) };
        let mut x = vec![large; n];
        let norm = grad_norm(&[&tensor(&x, dtype, [n])]).unwrap();
        prop_assert_eq!(norm.read().unwrap().first_not_finite(), None);
        let clipped = values(&norm.clip_scale(1.0).unwrap())[0] * large * (n as f64).sqrt();
        prop_assert!((0.99..1.01).contains(&clipped), "clipped to {}", clipped);
        x[at.index(n)] = bad;
        let (good, bad) = (tensor(&[1.0], DType::F32, [1]), tensor(&x, dtype, [n]));
        let norm = grad_norm(&[&good, &bad, &good, &bad]).unwrap();
        prop_assert_eq!(norm.read().unwrap().first_not_finite(), Some(1));
        prop_assert!([1.0, f64::INFINITY].iter().all(|max| values(&norm.clip_scale(*max).unwrap())[0].is_nan()));
    }

    #[test]
    fn runs_are_bit_equal(gradients in gradients()) {
        let run = || {
            let norm = grad_norm(&all(&gradients.iter().map(Gradient::tensor).collect::<Vec<_>>())).unwrap();
            (norm.read().unwrap(), values(&norm.clip_scale(1.0).unwrap()))
        };
        let norms = every_way(run);
        prop_assert!(norms.iter().all(|norm| *norm == norms[0]), "{:?}", norms);
    }
}

on_devices! {
    #[test]
    fn clipping_is_pytorchs() {
        let norm = grad_norm(&[&tensor(&[3.0, 4.0], DType::F32, [2])]).unwrap();
        assert_eq!(norm.read().unwrap().total, 5.0);
        for (max_norm, scale) in [(1.0, 1.0 / 5.000001), (5.0, 5.0 / 5.000001), (5.1, 1.0), (f64::INFINITY, 1.0)] {
            let found = values(&norm.clip_scale(max_norm).unwrap())[0];
            assert!((found - scale).abs() <= scale * f64::from(f32::EPSILON), "{found} is not {scale}");
        }
    }
}

on_devices! {
    #[test]
    fn rejects_bad_inputs() {
        let ids = Tensor::from_slice(&device(), [1], &[7u32]).unwrap();
        let error = grad_norm(&[&ids]).unwrap_err();
        assert!(matches!(error, Error::DType { .. }), "{error}");
    }
}
