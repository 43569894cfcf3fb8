use proptest::prelude::*;
use vicugna::autograd::{Tensor, backward_from};
use vicugna::dtype::DType;
use vicugna::error::Error;
use vicugna::ops::dropout::{Dropout, dropout};
use vicugna::reference;

use crate::harness::*;

/// Keys whose first element is unaligned, beyond 32 bits and beyond 32 bits of blocks.
fn keys() -> impl Strategy<Value = Dropout> {
    let p = prop_oneof![Just(0.05f32), Just(0.5), Just(1.0 - f32::EPSILON / 2.0), Just(1e-9), 0.0..1.0f32];
    let first = prop_oneof![Just(0), 0..9u64, Just((1 << 34) - 3), any::<u32>().prop_map(|v| u64::from(v) << 20)];
    (p, any::<u64>(), any::<u32>(), any::<u32>(), first).prop_map(|(p, seed, step, site, first_element)| Dropout {
        p,
        seed,
        step: step.into(),
        site,
        first_element,
    })
}

/// One element, fewer than a counter's four, ragged against 64, above one task of 16 Ki elements.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), Just(3), 1..300usize, Just(16 * 1024 + 1), Just(40_009)]
}

fn key_of_reference(key: Dropout) -> reference::dropout::Key {
    let Dropout { p, seed, step, site, first_element } = key;
    reference::dropout::Key { p: p.into(), seed, step: step as u32, site, first_element }
}

on_devices! {
    #[test]
    fn forward_matches_reference(n in lengths(), key in keys(), dtype in float_dtype(), seed: u64) {
        let x = random(seed, n, dtype);
        let y = dropout(&tensor(&x, dtype, [n]), key).unwrap();
        check("y", &y, &expected!(R => reference::dropout::forward::<R>(&cast(&x), key_of_reference(key))))?;
    }

    #[test]
    fn backward_matches_reference(n in lengths(), key in keys(), dtype in float_dtype(), seed: u64) {
        let dy = random(seed, n, dtype);
        let x = tensor(&random(seed ^ 1, n, dtype), dtype, [n]).with_grad();
        let y = dropout(&x, key).unwrap();
        let gradients = backward_from([(&y, tensor(&dy, dtype, [n]))]).unwrap();
        let backward = expected!(R => reference::dropout::forward::<R>(&cast(&dy), key_of_reference(key)));
        check("dx", gradients.get(&x).unwrap(), &backward)?;
    }

    #[test]
    fn properties_hold(key in keys(), rows in 1..20usize, width in 1..70usize, cut in 0..20usize) {
        // Two shards draw what the whole draws, and another site, step or seed draws something else.
        let (cut, kept) = (cut.min(rows), |key, rows| values(&dropout(&ones(rows * width), key).unwrap()));
        let tail = Dropout { first_element: key.first_element + (cut * width) as u64, ..key };
        prop_assert_eq!([kept(key, cut), kept(tail, rows - cut)].concat(), kept(key, rows));
        let half = Dropout { p: 0.5, ..key };
        let drawn = kept(half, 100);
        let others = [
            Dropout { site: key.site ^ 1, ..half },
            Dropout { step: key.step ^ 1, ..half },
            Dropout { seed: key.seed ^ (1 << 63), ..half },
        ];
        for other in others {
            prop_assert!(kept(other, 100) != drawn, "{other:?} draws the same");
        }
    }

    #[test]
    fn keep_rate_is_one_minus_p(key in keys()) {
        // Six standard deviations: one run in a billion fails by chance.
        let (n, p) = (1 << 16, f64::from(key.p));
        let kept = values(&dropout(&ones(n), key).unwrap()).iter().filter(|y| **y != 0.0).count() as f64;
        let expected = n as f64 * (1.0 - p);
        prop_assert!((kept - expected).abs() <= 6.0 * (expected * p).sqrt() + 1.0, "{kept} of {n} kept, not {expected}");
    }

    #[test]
    fn runs_are_bit_equal(n in lengths(), key in keys(), dtype in float_dtype(), seed: u64) {
        check_runs(|| [dropout(&tensor(&random(seed, n, dtype), dtype, [n]), key).unwrap()])?;
    }
}

fn ones(n: usize) -> Tensor {
    tensor(&vec![1.0; n], DType::F32, [n])
}

const KEY: Dropout = Dropout { p: 0.3, seed: 1, step: 2, site: 3, first_element: 4 };

#[test]
fn reference_passes_gradcheck() {
    let [x, dy] = [0, 1].map(|seed| random(seed, 23, DType::F32));
    let key = key_of_reference(KEY);
    gradcheck("dx", &x, &dy, &reference::dropout::forward(&dy, key), |x| reference::dropout::forward(x, key));
}

/// Random123's `kat_vectors`.
#[test]
fn reference_gives_the_known_answers() {
    let philox = reference::dropout::philox4x32_10;
    assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
    let answer = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
    assert_eq!(philox(counter, [0xa409_3822, 0x299f_31d0]), answer);
}

on_devices! {
    #[test]
    fn without_dropout_memory_is_shared() {
        let x = ones(5).with_grad();
        let y = dropout(&x, Dropout { p: 0.0, ..KEY }).unwrap();
        assert!(std::ptr::eq(x.buffer().unwrap(), y.buffer().unwrap()));
        let gradients = backward_from([(&y, ones(5))]).unwrap();
        assert!(gradients.get(&x).is_some());
    }
}

on_devices! {
    #[test]
    fn rejects_bad_inputs() {
        for p in [-0.1, 1.0, f32::NAN] {
            let error = dropout(&ones(1), Dropout { p, ..KEY }).unwrap_err();
            assert_eq!(error.to_string(), format!("dropout: p must be in [0, 1), got {p}"));
        }
        let error = dropout(&ones(1), Dropout { step: 1 << 32, ..KEY }).unwrap_err();
        assert_eq!(error.to_string(), "dropout: step must be below 2^32, got 4294967296");
        let ids = Tensor::from_slice(&device(), [1], &[7u32]).unwrap();
        let error = dropout(&ids, KEY).unwrap_err();
        assert!(matches!(error, Error::DType { .. }), "{error}");
    }
}
