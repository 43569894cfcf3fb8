use std::ops::Range;

use proptest::prelude::*;
use vicugna::autograd::{Tensor, backward_from};
use vicugna::dtype::DType;
use vicugna::ops::attention::{Heads, Segments, attention};
use vicugna::reference::attention as reference;

use crate::harness::*;

/// Sequences of a packed batch, and how their rows divide into heads.
#[derive(Clone, Debug)]
struct Case {
    lengths: Vec<usize>,
    heads: [usize; 3],
    dtype: DType,
    seed: u64,
}

impl Case {
    fn rows(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn heads(&self) -> Heads {
        let [num_attention_heads, num_key_value_heads, head_dim] = self.heads;
        Heads { num_attention_heads, num_key_value_heads, head_dim }
    }

    fn scale(&self) -> f64 {
        f64::from(1.0 / (self.heads[2] as f32).sqrt())
    }

    /// Query and key rows of each sequence.
    fn segments(&self) -> Vec<(Range<usize>, Range<usize>)> {
        let ends = self.lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end - length..*end)
        });
        ends.map(|rows| (rows.clone(), rows)).collect()
    }

    /// Columns of q, k, v and dout.
    fn widths(&self) -> [usize; 4] {
        let [nh, nkv, d] = self.heads;
        [nh * d, nkv * d, nkv * d, nh * d]
    }

    /// q, k, v and dout.
    fn values(&self) -> [Vec<f64>; 4] {
        let mut seed = self.seed;
        self.widths().map(|width| {
            seed ^= 1 << 62 | width as u64;
            seed = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
            random(seed, self.rows() * width, self.dtype)
        })
    }

    /// q, k, v (leaves of the tape) and dout.
    fn tensors(&self) -> [Tensor; 4] {
        let mut widths = self.widths().into_iter();
        self.values().map(|x| tensor(&x, self.dtype, [self.rows(), widths.next().unwrap()]).with_grad())
    }

    /// out, dq, dk and dv.
    fn run(&self) -> [Tensor; 4] {
        let [q, k, v, dout] = self.tensors();
        let out = attention(&q, &k, &v, &Segments::packed(&self.lengths), self.heads(), self.scale() as f32).unwrap();
        let mut gradients = backward_from([(&out, dout.detach())]).unwrap();
        let [dq, dk, dv] = [q, k, v].map(|x| gradients.take(&x).unwrap());
        [out.detach(), dq, dk, dv]
    }
}

/// Tile edges, several sequences, shared and unshared heads, head dims around the vector width and a real Llama's.
fn cases() -> impl Strategy<Value = Case> {
    let short = prop_oneof![Just(1), Just(2), Just(31), Just(63), Just(64), Just(65), 1..40usize];
    let lengths = prop_oneof![
        6 => prop::collection::vec(short, 1..4),
        1 => Just(vec![257]),
        1 => Just(vec![3, 130, 1]),
    ];
    let heads = prop_oneof![Just([1, 1]), Just([4, 2]), Just([9, 3]), Just([3, 1])];
    let head_dim = prop_oneof![Just(8), Just(16), Just(24), Just(64), Just(80), Just(128), Just(5)];
    (lengths, heads, head_dim, float_dtype(), any::<u64>()).prop_map(|(lengths, [nh, nkv], d, dtype, seed)| Case {
        lengths,
        heads: [nh, nkv, d],
        dtype,
        seed,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(std::env::var("N").map_or(64, |n| n.parse().unwrap())))]

    #[test]
    fn forward_matches_reference(case in cases()) {
        let [q, k, v, _] = case.values();
        let segments = case.segments();
        let forward = expected!(R => {
            reference::forward::<R>(&cast(&q), &cast(&k), &cast(&v), &segments, case.heads, case.scale())
        });
        check("out", &case.run()[0], &forward)?;
    }

    #[test]
    fn backward_matches_reference(case in cases()) {
        let [q, k, v, dout] = case.values();
        let segments = case.segments();
        macro_rules! backward { ($R:ty) => {
            reference::backward::<$R>(&cast(&dout), &cast(&q), &cast(&k), &cast(&v), &segments, case.heads, case.scale())
        } }
        let (exact, rounded, terms) = (backward!(f64), backward!(f32), backward!(vicugna::reference::Terms));
        let [_, found @ ..] = case.run();
        let names = ["dq", "dk", "dv"].into_iter().zip(&found);
        for ((((name, found), exact), rounded), terms) in names.zip(exact).zip(rounded).zip(terms) {
            check(name, found, &Expected { exact, rounded, terms })?;
        }
    }

    #[test]
    fn runs_are_bit_equal(case in cases()) {
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(|| case.run());
        for (a, b) in case.run().iter().zip(&alone) {
            check_bits("on one thread and on all", a, b)?;
        }
    }
}

#[test]
fn reference_passes_gradcheck() {
    let case = Case { lengths: vec![3, 1, 2], heads: [4, 2, 3], dtype: DType::F32, seed: 1 };
    let [q, k, v, dout] = case.values();
    let segments = &case.segments()[..];
    let forward = |q: &[f64], k: &[f64], v: &[f64]| reference::forward(q, k, v, segments, case.heads, case.scale());
    let [dq, dk, dv] = reference::backward(&dout, &q, &k, &v, segments, case.heads, case.scale());
    gradcheck("dq", &q, &dout, &dq, |q| forward(q, &k, &v));
    gradcheck("dk", &k, &dout, &dk, |k| forward(&q, k, &v));
    gradcheck("dv", &v, &dout, &dv, |v| forward(&q, &k, v));
}
