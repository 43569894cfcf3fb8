use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::*;
use vicugna::autograd::{Tensor, backward_from};
use vicugna::device::{Device, Emulated, Emulation, Profiled};
use vicugna::dtype::DType;
use vicugna::ops::attention::{Heads, Segments, attention};
use vicugna::reference::attention as reference;

use crate::harness::*;

/// Sequences of a batch, and how their rows divide into heads.
#[derive(Clone, Debug)]
struct Case {
    /// Of each sequence: query rows, keys before the first query's own, rows of the cache that no sequence has.
    sequences: Vec<[usize; 3]>,
    heads: [usize; 3],
    dtype: DType,
    seed: u64,
}

impl Case {
    fn heads(&self) -> Heads {
        let [num_attention_heads, num_key_value_heads, head_dim] = self.heads;
        Heads { num_attention_heads, num_key_value_heads, head_dim }
    }

    fn scale(&self) -> f64 {
        f64::from(1.0 / (self.heads[2] as f32).sqrt())
    }

    /// Query and key rows of each sequence.
    fn segments(&self) -> Vec<(Range<usize>, Range<usize>)> {
        let ends = self.sequences.iter().scan([0, 0], |[query, key], &[queries, earlier, skipped]| {
            let first = *key + skipped;
            *query += queries;
            *key = first + earlier + queries;
            Some((*query - queries..*query, first..*key))
        });
        ends.collect()
    }

    /// Rows and columns of q, k, v and dout.
    fn shapes(&self) -> [[usize; 2]; 4] {
        let [nh, nkv, d] = self.heads;
        let (queries, keys) = self.segments().pop().map_or((0, 0), |(queries, keys)| (queries.end, keys.end));
        [[queries, nh * d], [keys, nkv * d], [keys, nkv * d], [queries, nh * d]]
    }

    /// q, k, v and dout.
    fn values(&self) -> [Vec<f64>; 4] {
        let mut seed = self.seed;
        self.shapes().map(|[rows, width]| {
            seed ^= 1 << 62 | width as u64;
            seed = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
            random(seed, rows * width, self.dtype)
        })
    }

    /// q, k, v (leaves of the tape) and dout.
    fn tensors(&self) -> [Tensor; 4] {
        let mut shapes = self.shapes().into_iter();
        self.values().map(|x| tensor(&x, self.dtype, shapes.next().unwrap()).with_grad())
    }

    fn forward(&self, [q, k, v]: [&Tensor; 3]) -> Tensor {
        let sequences = self.segments().into_iter().map(|(queries, keys)| (queries.len(), keys));
        attention(q, k, v, &Segments::caches(sequences), self.heads(), self.scale() as f32).unwrap()
    }

    /// out, dq, dk and dv.
    fn run(&self) -> [Tensor; 4] {
        let [q, k, v, dout] = self.tensors();
        let out = self.forward([&q, &k, &v]);
        let mut gradients = backward_from([(&out, dout.detach())]).unwrap();
        let [dq, dk, dv] = [q, k, v].map(|x| gradients.take(&x).unwrap());
        [out.detach(), dq, dk, dv]
    }
}

/// Tile edges, several sequences, keys from a cache, shared and unshared heads, head dims around the vector width and a
/// real Llama's.
fn cases() -> impl Strategy<Value = Case> {
    let short = prop_oneof![Just(1), Just(2), Just(31), Just(63), Just(64), Just(65), 1..40usize];
    let packed = |length| [length, 0, 0];
    let sequences = prop_oneof![
        5 => prop::collection::vec(short.prop_map(packed), 1..4),
        2 => prop::collection::vec((1..20usize, 0..70usize, 0..3usize).prop_map(<[usize; 3]>::from), 1..4),
        1 => prop_oneof![Just(127), Just(129), Just(257)].prop_map(move |length| vec![packed(length)]),
        1 => Just([3, 130, 1].map(packed).into()),
    ];
    let heads = prop_oneof![Just([1, 1]), Just([4, 2]), Just([9, 3]), Just([3, 1]), Just([4, 1]), Just([8, 1])];
    let any_dim = if device().to_string() == "cpu" { 5 } else { 48 };
    let head_dim =
        prop_oneof![Just(8), Just(16), Just(24), Just(40), Just(64), Just(80), Just(128), Just(256), Just(any_dim)];
    (sequences, heads, head_dim, float_dtype(), any::<u64>()).prop_map(|(sequences, [nh, nkv], d, dtype, seed)| Case {
        sequences,
        heads: [nh, nkv, d],
        dtype,
        seed,
    })
}

on_devices! {
    #[test]
    fn forward_matches_reference(case in cases()) {
        let [q, k, v, _] = case.values();
        let segments = case.segments();
        let forward = expected!(R => {
            reference::forward::<R>(&cast(&q), &cast(&k), &cast(&v), &segments, case.heads, case.scale())
        });
        let [q, k, v, _] = case.tensors();
        check("out", &case.forward([&q, &k, &v]), &forward)?;
    }

    #[test]
    fn backward_matches_reference(case in cases()) {
        let [q, k, v, dout] = case.values();
        let segments = case.segments();
        let heads = case.heads;
        macro_rules! backward { ($R:ty) => {
            reference::backward::<$R>(&cast(&dout), &cast(&q), &cast(&k), &cast(&v), &segments, heads, case.scale())
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
        check_runs(|| case.run())?;
    }
}

/// What a case on bf16 launches, forward and, where it is `whole`, backward.
fn launches(sequence: [usize; 3], heads: [usize; 3], whole: bool) -> Vec<Profiled> {
    let case = Case { sequences: vec![sequence], heads, dtype: DType::Bf16, seed: 1 };
    let emulated = Arc::new(Emulated::new(Emulation { profile: true, ..Emulation::default() }));
    on(&Device::new(emulated.clone()), || {
        let [q, k, v, dout] = case.tensors();
        let out = case.forward([&q, &k, &v]);
        if whole {
            backward_from([(&out, dout.detach())]).unwrap();
        }
    });
    emulated.take_profile()
}

/// Whole sectors, and no bank twice. A list's item, of which a warp asks for half a sector, and a part's sums are the
/// exceptions.
fn check_accesses(launch: &Profiled) {
    let (kernel, counted) = (&launch.kernel, &launch.counters);
    assert_eq!(counted.shared_excess_wavefronts, 0, "{kernel}: wavefronts in excess");
    let (loads, stores) = (32 * counted.global_load_sectors, 32 * counted.global_store_sectors);
    assert!(stores <= counted.global_store_bytes * 65 / 64, "{kernel}: {stores} bytes in sectors stored");
    assert!(loads <= counted.global_load_bytes + 16 * counted.warps, "{kernel}: {loads} bytes in sectors loaded");
}

fn bytes(launch: &Profiled) -> u64 {
    launch.counters.global_load_bytes + launch.counters.global_store_bytes
}

/// The widths of Llama-3-8B and of Llama-3.2-1B at 1024 tokens: two products over half the square of the tokens forward,
/// five backward, at most 1.15 times. Backward, each 128 keys read q and dout of the queries that see them and store a
/// slice of dq, which is read once.
#[test]
fn products_that_no_query_sees_are_skipped() {
    for d in [128, 64] {
        let product = 2 * 4 * 1024 * 1024 / 2 * d as u64;
        let found = launches([1024, 0, 0], [4, 1, d], true);
        let names: Vec<&str> = found.iter().map(|launch| launch.kernel.as_str()).collect();
        let (fwd, bwd) = (format!("attention_fwd_d{d}_bf16"), format!("attention_bwd_d{d}_bf16"));
        assert_eq!(names, [&fwd, "attention_bwd_delta_bf16", &bwd, "attention_bwd_q_bf16"]);
        for (launch, products) in found.iter().zip([2, 0, 5, 0]) {
            let share = launch.counters.mma_operations as f64 / (products * product).max(1) as f64;
            assert!(share <= 1.15, "{}: {share} of the products", launch.kernel);
            assert!(products == 0 || share >= 1.0, "{}: {share} of the products", launch.kernel);
            check_accesses(launch);
        }
        let seen: usize = (128..=1024).step_by(128).sum();
        let once = 4 * 1024 * 2 * d + 4 * 1024 * 2 * d; // k, v, dk, dv; dq of four heads
        let share = (bytes(&found[2]) + bytes(&found[3])) as f64 / (4 * d * seen * (2 + 2 + 4 + 4) + once) as f64;
        assert!((1.0..=1.02).contains(&share), "{share} of the bytes");
    }
}

/// A token over a cache reads keys and values once for the heads of a group.
#[test]
fn decoding_reads_the_cache_once() {
    let found = launches([1, 4095, 0], [8, 2, 128], false);
    let [decode, sum] = &found[..] else { panic!("{found:?}") };
    assert_eq!([&decode.kernel, &sum.kernel], ["attention_decode_d128_bf16", "attention_decode_sum_bf16"]);
    let cache = 2 * 4096 * 2 * 128 * 2;
    let share = (bytes(decode) + bytes(sum)) as f64 / cache as f64;
    assert!(share <= 1.1, "{share} of the cache");
    check_accesses(decode);
}

#[test]
fn reference_passes_gradcheck() {
    let case = Case { sequences: vec![[3, 0, 0], [1, 2, 1], [2, 1, 0]], heads: [4, 2, 3], dtype: DType::F32, seed: 1 };
    let [q, k, v, dout] = case.values();
    let segments = &case.segments()[..];
    let forward = |q: &[f64], k: &[f64], v: &[f64]| reference::forward(q, k, v, segments, case.heads, case.scale());
    let [dq, dk, dv] = reference::backward(&dout, &q, &k, &v, segments, case.heads, case.scale());
    gradcheck("dq", &q, &dout, &dq, |q| forward(q, &k, &v));
    gradcheck("dk", &k, &dout, &dk, |k| forward(&q, k, &v));
    gradcheck("dv", &v, &dout, &dv, |v| forward(&q, &k, v));
}

on_devices! {
    #[test]
    fn rejects_bad_inputs() {
        let heads = |[num_attention_heads, num_key_value_heads, head_dim]: [usize; 3]| {
            Heads { num_attention_heads, num_key_value_heads, head_dim }
        };
        let zeros = |dtype, [rows, columns]: [usize; 2]| tensor(&vec![0.0; rows * columns], dtype, [rows, columns]);
        let [q, k] = [[3, 16], [3, 8]].map(|shape| zeros(DType::F32, shape));
        let run = |k: &Tensor, segments: Segments, scale| attention(&q, k, &k.detach(), &segments, heads([2, 1, 8]), scale);
        let error = |found: vicugna::error::Result<Tensor>| found.unwrap_err().to_string();
        assert!(run(&k, Segments::packed(&[1, 2]), 1.0).is_ok());
        assert_eq!(error(run(&k, Segments::packed(&[4]), 1.0)), "attention: the segments cover 4 query rows, q has 3");
        assert_eq!(error(run(&k, Segments::cached(3, 2), 1.0)), "attention: segment 0 has 3 queries but 2 keys");
        assert_eq!(error(run(&q, Segments::packed(&[3]), 1.0)), "attention: k must be [3, 8], got [3, 16]");
        assert_eq!(error(run(&k, Segments::packed(&[3]), -1.0)), "scale: attention: it must be above 0, got -1");
        let found = run(&zeros(DType::Bf16, [3, 8]), Segments::packed(&[3]), 1.0).unwrap_err();
        assert!(matches!(found, vicugna::error::Error::DType { .. }), "{found}");
        for d in [12, 264] {
            let x = zeros(DType::F32, [3, d]);
            let found = attention(&x, &x, &x, &Segments::packed(&[3]), heads([1, 1, d]), 1.0);
            match device().to_string().as_str() {
                "cpu" => assert!(found.is_ok()),
                _ => assert_eq!(
                    error(found),
                    format!("attention: on a GPU head_dim must be a multiple of 8 up to 256, got {d}")
                ),
            }
        }
    }
}
