use proptest::prelude::*;
use vicugna::autograd::Tensor;
use vicugna::dtype::DType;
use vicugna::error::Error;
use vicugna::ops::adamw::{AdamWOptions, AdamWUpdate, adamw};
use vicugna::reference;

use crate::harness::*;

/// One element, ragged against any vector width, above one task.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), 1..300usize, Just(40_009)]
}

fn options() -> impl Strategy<Value = AdamWOptions> {
    let betas = (prop_oneof![Just(0.9), 0.0..0.99], prop_oneof![Just(0.999), 0.0..0.9999]);
    (1e-5..1e-1f64, betas, prop_oneof![Just(0.0), 0.0..0.5]).prop_map(
        |(learning_rate, (beta1, beta2), weight_decay)| AdamWOptions {
            learning_rate,
            beta1,
            beta2,
            eps: 1e-8,
            weight_decay,
        },
    )
}

fn options_of_reference(options: AdamWOptions) -> reference::adamw::Options {
    let AdamWOptions { learning_rate, beta1, beta2, eps, weight_decay } = options;
    reference::adamw::Options { learning_rate, beta1, beta2, eps, weight_decay }
}

/// `p`, `m`, `v`, `gradient`, with no negative `v`.
fn operands(seed: u64, n: usize, dtype: DType) -> [Vec<f64>; 4] {
    let [p, m, v] = [0, 1, 2].map(|i| random(seed ^ i, n, DType::F32));
    [p, m, v.iter().map(|v| v.abs()).collect(), random(seed ^ 3, n, dtype)]
}

fn scalar(value: f32) -> Tensor {
    tensor(&[value.into()], DType::F32, [])
}

/// One step of one parameter; `p`, `m`, `v` afterwards.
fn stepped([p, m, v, g]: &[Vec<f64>; 4], dtype: DType, options: AdamWOptions, step: u64, scale: f32) -> [Tensor; 3] {
    let n = p.len();
    let [mut p, mut m, mut v] = [p, m, v].map(|x| tensor(x, DType::F32, [n]));
    let gradient = tensor(g, dtype, [n]);
    let update = AdamWUpdate { name: "w", parameter: &mut p, m: &mut m, v: &mut v, gradient: &gradient };
    adamw(&mut [update], &options, step, &scalar(scale)).unwrap();
    [p, m, v]
}

on_devices! {
    #[test]
    fn step_matches_reference(
        n in lengths(), options in options(), step in 1..10_000u64, scale in 0.01..1.0f32, dtype in float_dtype(), seed: u64,
    ) {
        let x = operands(seed, n, dtype);
        let found = stepped(&x, dtype, options, step, scale);
        for (i, name) in ["p", "m", "v"].into_iter().enumerate() {
            let expected = expected!(R => {
                let x = [&x[0], &x[1], &x[2], &x[3]].map(|x| cast::<R>(x));
                let [p, m, v, g] = &x;
                let stepped = reference::adamw::step([p, m, v, g], options_of_reference(options), step, scale.into());
                stepped[i].clone()
            });
            check(name, &found[i], &expected)?;
        }
    }

    #[test]
    fn properties_hold(n in 1..100usize, options in options(), step in 1..100u64, seed: u64) {
        let x = operands(seed, n, DType::F32);
        // Half the gradient is the gradient halved.
        let [p, m, v, g] = x.clone();
        let halved = [p, m, v, g.iter().map(|g| g / 2.0).collect()];
        let scaled = stepped(&x, DType::F32, options, step, 0.5);
        for (a, b) in scaled.iter().zip(&stepped(&halved, DType::F32, options, step, 1.0)) {
            check_bits("a scaled gradient", a, b)?;
        }
        // A scale that is not finite changes nothing.
        for scale in [f32::NAN, f32::INFINITY] {
            for (i, state) in stepped(&x, DType::F32, options, step, scale).iter().enumerate() {
                check_bits("with no scale", state, &tensor(&x[i], DType::F32, [n]))?;
            }
        }
        // Without a step size the parameter keeps its bits.
        let still = AdamWOptions { learning_rate: 0.0, ..options };
        check_bits("p", &stepped(&x, DType::F32, still, step, 1.0)[0], &tensor(&x[0], DType::F32, [n]))?;
    }

    /// Both means of a constant gradient are unbiased from the first step on, so every step is one of
    /// `learning_rate * g / (|g| + eps)`.
    #[test]
    fn reference_is_unbiased(options in options(), g in 0.01..10.0f64, steps in 1..50u64) {
        let options = reference::adamw::Options { weight_decay: 0.0, ..options_of_reference(options) };
        let mut state = [vec![1.0], vec![0.0], vec![0.0]];
        for step in 1..=steps {
            state = reference::adamw::step([&state[0], &state[1], &state[2], &[g]], options, step, 1.0);
        }
        let expected = 1.0 - steps as f64 * options.learning_rate * g / (g + options.eps);
        prop_assert!((state[0][0] - expected).abs() < 1e-12, "{} is not {expected}", state[0][0]);
    }

    #[test]
    fn runs_are_bit_equal(sizes in prop::collection::vec((lengths(), float_dtype()), 1..5), options in options(), seed: u64) {
        // All parameters in one call, in every way, and each alone.
        let dtypes: Vec<DType> = sizes.iter().map(|(_, dtype)| *dtype).collect();
        let operands: Vec<_> = sizes.iter().map(|&(n, dtype)| operands(seed ^ n as u64, n, dtype)).collect();
        let run = || {
            let mut state: Vec<[Tensor; 3]> =
                operands.iter().map(|x| [0, 1, 2].map(|i| tensor(&x[i], DType::F32, [x[i].len()]))).collect();
            let gradients: Vec<Tensor> = operands.iter().zip(&dtypes).map(|(x, dtype)| tensor(&x[3], *dtype, [x[3].len()])).collect();
            let mut updates: Vec<_> = state.iter_mut().zip(&gradients).map(|([parameter, m, v], gradient)| {
                AdamWUpdate { name: "w", parameter, m, v, gradient }
            }).collect();
            adamw(&mut updates, &options, 3, &scalar(0.7)).unwrap();
            state
        };
        let singles: Vec<_> = operands.iter().zip(&dtypes).map(|(x, dtype)| stepped(x, *dtype, options, 3, 0.7)).collect();
        for all in every_way(run) {
            for (all, single) in all.iter().flatten().zip(singles.iter().flatten()) {
                check_bits("in one call and in many", all, single)?;
            }
        }
    }
}

on_devices! {
    #[test]
    fn rejects_bad_inputs() {
        let (good, short) = (tensor(&[1.0; 4], DType::F32, [4]), tensor(&[1.0; 3], DType::F32, [3]));
        let ids = Tensor::from_slice(&device(), [4], &[1u32; 4]).unwrap();
        let refused = |m: &Tensor, gradient: &Tensor, options: AdamWOptions, step| {
            let [mut first, mut second] = [&good, &good].map(Tensor::clone);
            let [mut m1, mut v1, mut m2, mut v2] = [&good, &good, m, &good].map(Tensor::clone);
            let error = adamw(
                &mut [
                    AdamWUpdate { name: "a", parameter: &mut first, m: &mut m1, v: &mut v1, gradient: &good },
                    AdamWUpdate { name: "b", parameter: &mut second, m: &mut m2, v: &mut v2, gradient },
                ],
                &options,
                step,
                &scalar(1.0),
            )
            .unwrap_err();
            assert_eq!(values(&first), [1.0; 4], "a was changed although b was refused");
            error
        };
        let defaults = AdamWOptions::default();
        assert_eq!(refused(&short, &good, defaults, 1).to_string(), "adamw: m of b must be [4], got [3]");
        assert_eq!(refused(&good, &short, defaults, 1).to_string(), "adamw: gradient of b must be [4], got [3]");
        let error = refused(&good, &ids, defaults, 1);
        assert_eq!(error.to_string(), "adamw: gradient of b must be f32 or bf16, got u32");
        assert!(matches!(error, Error::DType { .. }));
        let error = adamw(&mut [], &defaults, 1, &good).unwrap_err();
        assert_eq!(error.to_string(), "adamw: gradient_scale must be [], got [4]");
        assert_eq!(refused(&good, &good, defaults, 0).to_string(), "adamw: step counts from 1, got 0");
        let options = AdamWOptions { beta2: 1.0, ..defaults };
        assert_eq!(refused(&good, &good, options, 1).to_string(), "adamw: beta2 must be in [0, 1), got 1");
        let options = AdamWOptions { learning_rate: f64::NAN, ..defaults };
        assert_eq!(refused(&good, &good, options, 1).to_string(), "adamw: learning_rate must be in [0, inf), got NaN");
    }
}
