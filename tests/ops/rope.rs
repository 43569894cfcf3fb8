use proptest::prelude::*;
use vicugna::autograd::{Tensor, backward_from};
use vicugna::dtype::DType;
use vicugna::error::Error;
use vicugna::ops::rope::{RopeScaling, RopeTable, rope};
use vicugna::reference;

use crate::harness::*;

/// rows, NH, NKV, D: one pair, an odd number of pairs, grouped queries, above one task, SmolLM2-135M and Llama 3.
fn shapes() -> impl Strategy<Value = (usize, usize, usize, usize)> {
    let ragged =
        (1..6usize, 1..4usize, 1..3usize, 1..20usize).prop_map(|(rows, nh, nkv, pairs)| (rows, nh, nkv, 2 * pairs));
    prop_oneof![ragged, Just((1, 1, 1, 2)), Just((300, 2, 1, 62)), Just((40, 9, 3, 64)), Just((3, 32, 8, 128))]
}

const POSITIONS: usize = 1 << 12;

fn positions(seed: u64, rows: usize) -> Vec<u32> {
    random(seed, rows, DType::F32).iter().map(|v| (v.abs() * 1300.0) as u32).collect()
}

fn scalings() -> impl Strategy<Value = Option<RopeScaling>> {
    let scalings = [RopeScaling::Linear { factor: 4.0 }, LLAMA3, DYNAMIC, yarn(1.0)];
    prop_oneof![Just(None), prop::sample::select(scalings.to_vec()).prop_map(Some)]
}

const DYNAMIC: RopeScaling = RopeScaling::Dynamic { factor: 4.0, original_max_position_embeddings: 1000 };

fn yarn(attention_factor: f64) -> RopeScaling {
    RopeScaling::Yarn {
        factor: 16.0,
        attention_factor,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
        original_max_position_embeddings: 256,
    }
}

const LLAMA3: RopeScaling = RopeScaling::Llama3 {
    factor: 8.0,
    low_freq_factor: 1.0,
    high_freq_factor: 4.0,
    original_max_position_embeddings: 8192,
};

fn table(head_dim: usize, scaling: Option<RopeScaling>) -> RopeTable {
    RopeTable::new(&device(), head_dim, POSITIONS, 500_000.0, scaling).unwrap()
}

fn frequencies(head_dim: usize, scaling: Option<RopeScaling>) -> Vec<f64> {
    let theta = 500_000.0;
    let plain = reference::rope::frequencies(head_dim, theta);
    match scaling {
        Some(RopeScaling::Dynamic { .. }) => {
            let theta = reference::rope::dynamic_theta(head_dim, theta, 4.0, 1000.0, POSITIONS as f64);
            reference::rope::frequencies(head_dim, theta)
        }
        Some(RopeScaling::Yarn { .. }) => reference::rope::yarn(&plain, theta, 16.0, [32.0, 1.0], 256.0),
        Some(RopeScaling::Linear { factor }) => plain.iter().map(|frequency| frequency / factor).collect(),
        Some(_) => reference::rope::llama3(&plain, 8.0, 1.0, 4.0, 8192.0),
        None => plain,
    }
}

fn ids(positions: &[u32]) -> Tensor {
    Tensor::from_slice(&device(), [positions.len()], positions).unwrap()
}

/// Rows of one head in f32, turned.
fn turned(x: &[f64], table: &RopeTable, positions: &[u32]) -> Vec<f64> {
    let x = tensor(x, DType::F32, [positions.len(), x.len() / positions.len()]);
    values(&rope(x.clone(), x, table, &ids(positions)).unwrap().0)
}

on_devices! {
    #[test]
    fn forward_matches_reference((rows, nh, nkv, d) in shapes(), scaling in scalings(), dtype in float_dtype(), seed: u64) {
        let (q, k) = (random(seed, rows * nh * d, dtype), random(seed ^ 1, rows * nkv * d, dtype));
        let (at, angles) = (positions(seed ^ 2, rows), frequencies(d, scaling));
        let [tq, tk] = [(&q, nh), (&k, nkv)].map(|(x, heads)| tensor(x, dtype, [rows, heads * d]));
        let (tq, tk) = rope(tq, tk, &table(d, scaling), &ids(&at)).unwrap();
        check("q", &tq, &expected!(R => reference::rope::forward::<R>(&cast(&q), &at, &angles)))?;
        check("k", &tk, &expected!(R => reference::rope::forward::<R>(&cast(&k), &at, &angles)))?;
    }

    #[test]
    fn backward_matches_reference((rows, nh, nkv, d) in shapes(), scaling in scalings(), dtype in float_dtype(), seed: u64) {
        let [q, dq] = [0, 1].map(|i| random(seed ^ i, rows * nh * d, dtype));
        let [k, dk] = [2, 3].map(|i| random(seed ^ i, rows * nkv * d, dtype));
        let (at, angles) = (positions(seed ^ 4, rows), frequencies(d, scaling));
        let [q, tdq] = [&q, &dq].map(|x| tensor(x, dtype, [rows, nh * d]));
        let [k, tdk] = [&k, &dk].map(|x| tensor(x, dtype, [rows, nkv * d]));
        let (q, k) = (q.with_grad(), k.with_grad());
        let (tq, tk) = rope(q.clone(), k.clone(), &table(d, scaling), &ids(&at)).unwrap();
        let gradients = backward_from([(&tq, tdq), (&tk, tdk)]).unwrap();
        let backward = expected!(R => reference::rope::backward::<R>(&cast(&dq), &at, &angles));
        check("dq", gradients.get(&q).unwrap(), &backward)?;
        let backward = expected!(R => reference::rope::backward::<R>(&cast(&dk), &at, &angles));
        check("dk", gradients.get(&k).unwrap(), &backward)?;
    }

    #[test]
    fn properties_hold(pairs in 1..40usize, scaling in scalings(), at in 0..1300u32, apart in 0..1300u32, by in 0..1300u32, seed: u64) {
        // Each element has an error of at most 4 half-ulps of |a| + |b|: two of the table, one product each, one sum.
        let (d, unit) = (2 * pairs, f64::from(f32::EPSILON) / 2.0);
        let (q, k) = (random(seed, d, DType::F32), random(seed ^ 1, d, DType::F32));
        let table = table(d, scaling);
        let size = |x: &[f64]| -> Vec<f64> { (0..pairs).map(|i| x[i].abs() + x[i + pairs].abs()).collect() };

        let y = turned(&q, &table, &[at]);
        for (i, size) in size(&q).iter().enumerate() {
            let [norm, turned] = [&q, &y].map(|x| (x[i] * x[i] + x[i + pairs] * x[i + pairs]).sqrt());
            prop_assert!((norm - turned).abs() <= 4.0 * 2f64.sqrt() * unit * size, "norm {norm} became {turned}");
        }

        // q at m and k at n attend to each other as q at m + s and k at n + s do.
        let score = |m, n| -> f64 { turned(&q, &table, &[m]).iter().zip(turned(&k, &table, &[n])).map(|(q, k)| q * k).sum() };
        let (here, there) = (score(at, at + apart), score(at + by, at + apart + by));
        let terms: f64 = size(&q).iter().zip(size(&k)).map(|(q, k)| q * k).sum();
        prop_assert!((here - there).abs() <= 2.0 * 16.0 * unit * terms, "{here} is not {there}");

        // At position 0 nothing turns.
        prop_assert_eq!(turned(&q, &table, &[0]), q);
    }

    #[test]
    fn runs_are_bit_equal((rows, nh, nkv, d) in shapes(), dtype in float_dtype(), seed: u64) {
        let table = || table(d, Some(LLAMA3));
        let run = || {
            let q = tensor(&random(seed, rows * nh * d, dtype), dtype, [rows, nh * d]);
            let k = tensor(&random(seed ^ 1, rows * nkv * d, dtype), dtype, [rows, nkv * d]);
            let (q, k) = rope(q, k, &table(), &ids(&positions(seed ^ 2, rows))).unwrap();
            [q, k]
        };
        check_runs(run)?;
    }
}

on_devices! {
    #[test]
    fn yarn_scales_what_it_turns_both_ways() {
        let (x, dy, at) = (random(1, 80, DType::F32), random(2, 80, DType::F32), positions(3, 4));
        let angles = frequencies(10, Some(yarn(1.0)));
        let table = RopeTable::new(&device(), 10, POSITIONS, 500_000.0, Some(yarn(1.25))).unwrap();
        let [tx, tk] = [0, 1].map(|_| tensor(&x, DType::F32, [4, 20]).with_grad());
        let (y, _) = rope(tx.clone(), tk, &table, &ids(&at)).unwrap();
        let gradients = backward_from([(&y, tensor(&dy, DType::F32, [4, 20]))]).unwrap();
        let forward = reference::rope::forward(&x, &at, &angles);
        let backward = reference::rope::backward(&dy, &at, &angles);
        for (found, expected) in [(values(&y), forward), (values(gradients.get(&tx).unwrap()), backward)] {
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - 1.25 * expected).abs() < 1e-6, "{found} is not 1.25 times {expected}");
            }
        }
    }
}

on_devices! {
    #[test]
    fn texts_in_one_table_are_what_they_are_alone() {
        let texts = [0..5, 1990..2000, 0..1500, 3..3];
        let table = RopeTable::of_texts(&device(), 6, &texts, 500_000.0, Some(DYNAMIC)).unwrap();
        assert_eq!(table.positions(), 1515);
        let mut first = 0;
        for text in texts {
            let x = random(1, 6 * text.len(), DType::F32);
            let rows: Vec<u32> = (first..first + text.len() as u32).collect();
            let alone = RopeTable::new(&device(), 6, text.end, 500_000.0, Some(DYNAMIC)).unwrap();
            first += text.len() as u32;
            if !text.is_empty() {
                let at: Vec<u32> = text.map(|position| position as u32).collect();
                assert_eq!(turned(&x, &table, &rows), turned(&x, &alone, &at));
            }
        }
    }
}

#[test]
fn reference_passes_gradcheck() {
    let ([x, dy], at) = ([0, 1].map(|seed| random(seed, 3 * 2 * 6, DType::F32)), [0, 5, 1000]);
    let angles = frequencies(6, Some(LLAMA3));
    let dx = reference::rope::backward(&dy, &at, &angles);
    gradcheck("dx", &x, &dy, &dx, |x| reference::rope::forward(x, &at, &angles));
}

on_devices! {
    #[test]
    fn unshared_memory_is_turned_in_place() {
        let (x, table) = (random(0, 8, DType::F32), table(4, None));
        let (q, k) = (tensor(&x, DType::F32, [2, 4]), tensor(&x, DType::F32, [2, 4]));
        let (kept, place) = (k.clone(), std::ptr::from_ref(q.buffer().unwrap()));
        let (q, k) = rope(q.with_grad(), k, &table, &ids(&[1, 2])).unwrap();
        assert!(std::ptr::eq(q.buffer().unwrap(), place), "q was copied");
        assert_eq!(values(&q), values(&k));
        assert_eq!(values(&kept), x, "a shared k was overwritten");
    }
}

on_devices! {
    #[test]
    fn rejects_bad_inputs() {
        let (x, table) = (tensor(&[0.0; 8], DType::F32, [2, 4]), table(4, None));
        let refused = |q: &Tensor, k: &Tensor, at: &Tensor| rope(q.clone(), k.clone(), &table, at).unwrap_err();
        let error = refused(&x, &x, &ids(&[0, POSITIONS as u32]));
        assert_eq!(error.to_string(), "rope: position 4096 of row 1 is beyond the table of 4096");
        assert_eq!(refused(&x, &x, &ids(&[0])).to_string(), "rope: positions must be [2], got [1]");
        let error = refused(&x, &tensor(&[0.0; 6], DType::F32, [2, 3]), &ids(&[0, 1]));
        assert_eq!(error.to_string(), "rope: k must be [2, a multiple of 4], got [2, 3]");
        assert_eq!(refused(&x, &x, &x).to_string(), "rope: positions must be u32, got f32");
        let error = refused(&x, &tensor(&[0.0; 8], DType::Bf16, [2, 4]), &ids(&[0, 1]));
        assert!(matches!(error, Error::DType { .. }), "{error}");
    }
}

on_devices! {
    #[test]
    fn rejects_bad_tables() {
        let refused =
            |head_dim, theta, scaling| RopeTable::new(&device(), head_dim, 1, theta, scaling).unwrap_err().to_string();
        assert_eq!(refused(3, 1e4, None), "rope: head_dim must be even, got 3");
        assert_eq!(refused(4, -1.0, None), "rope: theta must be positive, got -1");
        let scaling = RopeScaling::Linear { factor: 0.5 };
        assert_eq!(refused(4, 1e4, Some(scaling)), "rope: the factor of the rope scaling must be at least 1, got 0.5");
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 4.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        assert_eq!(
            refused(4, 1e4, Some(scaling)),
            "rope: high_freq_factor 4 must be above low_freq_factor 4, and both above 0"
        );
        assert_eq!(refused(4, 1e4, Some(yarn(-1.0))), "rope: attention_factor must be positive, got -1");
        let expected = "rope: theta 1 with its scaling gives frequencies that are no numbers";
        assert_eq!(refused(4, 1.0, Some(yarn(1.0))), expected);
        let scaling = RopeScaling::Dynamic { factor: 2.0, original_max_position_embeddings: 0 };
        let expected = "rope: original_max_position_embeddings must be positive, got 0";
        assert_eq!(refused(4, 1e4, Some(scaling)), expected);
    }
}
