//! The kernels of attention: a tile of queries or of keys and one more, heads as wide as the kernel's and narrower.

use crate::case::Arg::{F32 as Float, I64, U32 as Int};
use crate::case::{Bf16, Case, F32, Kind, U32};
use crate::catalogue::draw;

pub const ATTENTION: &str = include_str!("../../../ptx/attention.ptx");

const NH: usize = 2;
const NKV: usize = 1;
const SCALE: f64 = 0.25;

/// Sequences, as queries and keys, and what the backward pass makes of them, one head at a time.
struct Batch {
    kind: Kind,
    d: usize,
    /// First query row, queries, first key row, keys.
    sequences: Vec<[usize; 4]>,
    rows: usize,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    dout: Vec<f64>,
}

impl Batch {
    fn new(kind: Kind, d: usize, lengths: &[[usize; 2]]) -> Self {
        let (mut rows, mut key_rows, mut sequences) = (0, 0, Vec::new());
        for &[queries, keys] in lengths {
            sequences.push([rows, queries, key_rows, keys]);
            (rows, key_rows) = (rows + queries, key_rows + keys);
        }
        let [q, dout] = [1, 4].map(|seed| draw(kind, seed, rows * NH * d));
        let [k, v] = [2, 3].map(|seed| draw(kind, seed, key_rows * NKV * d));
        Self { kind, d, sequences, rows, q, k, v, dout }
    }

    fn name(&self) -> String {
        format!("{:?} of {}", self.sequences, self.d)
    }

    /// Items of at most so many query rows: first query row, their number, first key row, keys that the first sees.
    fn list(&self, most: usize) -> Vec<[usize; 4]> {
        let mut list = Vec::new();
        for &[first, queries, key, keys] in &self.sequences {
            for start in (0..queries).step_by(most) {
                list.push([first + start, most.min(queries - start), key, keys + 1 + start - queries]);
            }
        }
        list
    }

    /// Items of at most 16 keys, with the queries that see any.
    fn key_list(&self) -> Vec<[usize; 4]> {
        let mut list = Vec::new();
        for &[first, queries, key, keys] in &self.sequences {
            for start in (0..keys).step_by(16) {
                let skipped = start.saturating_sub(keys - queries);
                list.push([first + skipped, queries - skipped, key + start, keys - queries + 1 + skipped - start]);
            }
        }
        list
    }

    /// Every query row with the rows of the keys that it sees.
    fn seen(&self) -> Vec<std::ops::Range<usize>> {
        let seen = |&[_, queries, key, keys]: &[usize; 4]| (0..queries).map(move |i| key..key + keys + 1 + i - queries);
        self.sequences.iter().flat_map(seen).collect()
    }

    fn dot(&self, a: &[f64], row: usize, head: usize, b: &[f64], key: usize) -> f64 {
        let d = self.d;
        (0..d).map(|i| a[(row * NH + head) * d + i] * b[key * d + i]).sum()
    }

    fn score(&self, row: usize, head: usize, key: usize) -> f64 {
        SCALE * self.dot(&self.q, row, head, &self.k, key)
    }

    /// out and lse over some of the keys; `[rows, NH, D]` and `[rows, NH]`.
    fn forward(&self, keys: impl Fn(usize) -> std::ops::Range<usize>) -> [Vec<f64>; 2] {
        let (mut out, mut lse) = (vec![0.0; self.q.len()], Vec::new());
        for (row, head) in (0..self.rows * NH).map(|at| (at / NH, at % NH)) {
            let total: f64 = keys(row).map(|key| self.score(row, head, key).exp()).sum();
            lse.push(total.ln());
            for key in keys(row) {
                let weight = self.score(row, head, key).exp() / total;
                (0..self.d).for_each(|i| out[(row * NH + head) * self.d + i] += weight * self.v[key * self.d + i]);
            }
        }
        [out, lse]
    }

    /// delta, `[rows, NH]`.
    fn delta(&self, out: &[f64]) -> Vec<f64> {
        let products: Vec<f64> = out.iter().zip(&self.dout).map(|(a, b)| a * b).collect();
        products.chunks_exact(self.d).map(|head| head.iter().sum()).collect()
    }

    /// dq of each of some slices of keys without the scale, dk and dv.
    fn backward(
        &self,
        lse: &[f64],
        delta: &[f64],
        slices: usize,
        slice: impl Fn(usize, usize) -> usize,
    ) -> [Vec<f64>; 3] {
        let d = self.d;
        let (mut dq, mut dk, mut dv) =
            (vec![0.0; slices * self.q.len()], vec![0.0; self.k.len()], vec![0.0; self.k.len()]);
        for (row, keys) in self.seen().into_iter().enumerate() {
            for (head, key) in (0..NH).flat_map(|head| keys.clone().map(move |key| (head, key))) {
                let at = row * NH + head;
                let p = (self.score(row, head, key) - lse[at]).exp();
                let ds = p * (self.dot(&self.dout, row, head, &self.v, key) - delta[at]);
                let place = (slice(row, key) * self.rows * NH + at) * d;
                for i in 0..d {
                    dq[place + i] += ds * self.k[key * d + i];
                    dk[key * d + i] += SCALE * ds * self.q[at * d + i];
                    dv[key * d + i] += p * self.dout[at * d + i];
                }
            }
        }
        [dq, dk, dv]
    }

    /// `[rows, NH]` as `[NH, rows]`.
    fn by_head(&self, x: &[f64]) -> Vec<f64> {
        (0..NH * self.rows).map(|at| x[at % self.rows * NH + at / self.rows]).collect()
    }

    /// How exact results are: sums of weights that were rounded.
    fn rounding(&self) -> (Kind, f64) {
        (self.kind, if self.kind == F32 { 1.0 } else { 0.5 })
    }

    fn case(&self, entry: &str, grid: [u32; 3], block: u32, shared: usize) -> Case {
        let mut case = Case::new(ATTENTION, entry, &self.name(), grid, block);
        case.shared_bytes = shared as u64;
        case
    }

    fn inputs(&self, case: Case) -> Case {
        case.input(self.kind, &self.q).input(self.kind, &self.k).input(self.kind, &self.v)
    }

    fn sizes(&self, case: Case) -> Case {
        let case = case.scalar(I64(self.rows as i64)).scalar(Int(NH as u32));
        case.scalar(Int(NKV as u32)).scalar(Int(self.d as u32))
    }

    fn forward_case(&self, entry: &str, tile: usize, block: u32, shared: usize) -> Case {
        let (list, seen) = (self.list(tile), self.seen());
        let [out, lse] = self.forward(|row| seen[row].clone());
        let case = self.case(entry, [(list.len() * NH) as u32, 1, 1], block, shared);
        let case = case.close_to(self.kind, self.rounding(), out).output(F32, self.by_head(&lse));
        self.sizes(words(self.inputs(case), &list)).scalar(Float(SCALE as f32))
    }

    fn backward_inputs(&self, case: Case, lse: &[f64], delta: &[f64], list: &[[usize; 4]]) -> Case {
        let case = self.inputs(case.input(self.kind, &self.dout));
        let case = case.input(F32, &self.by_head(lse)).input(F32, &self.by_head(delta));
        self.sizes(words(case, list)).scalar(Float(SCALE as f32))
    }

    /// The saved sums, as they are stored.
    fn saved(&self) -> [Vec<f64>; 2] {
        let seen = self.seen();
        let [out, lse] = self.forward(|row| seen[row].clone());
        [lse, self.delta(&out)].map(|x| x.iter().map(|&x| F32.rounded(x)).collect())
    }
}

fn words(case: Case, list: &[[usize; 4]]) -> Case {
    case.input(U32, &list.iter().flatten().map(|&word| word as f64).collect::<Vec<_>>())
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Batch::new(F32, 136, &[[33, 33], [2, 5]]).forward_case("attention_fwd_f32", 32, 256, 96 * 140 * 4),
        Batch::new(F32, 8, &[[33, 33]]).forward_case("attention_fwd_f32", 32, 256, 96 * 12 * 4),
        Batch::new(Bf16, 64, &[[129, 129]]).forward_case("attention_fwd_d64_bf16", 128, 128, 49152),
        Batch::new(Bf16, 40, &[[1, 65], [33, 40]]).forward_case("attention_fwd_d64_bf16", 128, 128, 49152),
        Batch::new(Bf16, 128, &[[129, 129]]).forward_case("attention_fwd_d128_bf16", 128, 128, 65536),
        Batch::new(Bf16, 72, &[[1, 33], [33, 40]]).forward_case("attention_fwd_d128_bf16", 128, 128, 65536),
        Batch::new(Bf16, 256, &[[65, 65]]).forward_case("attention_fwd_d256_bf16", 64, 128, 98304),
        Batch::new(Bf16, 136, &[[1, 33], [17, 20]]).forward_case("attention_fwd_d256_bf16", 64, 128, 98304),
    ];
    for (d, full, warps) in [(8, 64, 4), (64, 64, 4), (8, 128, 4), (128, 128, 4), (8, 256, 2), (256, 256, 2)] {
        cases.push(decode(d, full, warps));
    }
    // Fewer columns than a block takes, and more.
    cases.extend([8, 520].map(sum_parts));
    for kind in [F32, Bf16] {
        // A warp takes four rows: the last has one, two, three.
        cases.extend([(8, 33), (136, 34), (8, 35)].map(|(d, rows)| delta(kind, d, rows)));
    }
    for (full, tile, keys) in [(64, 64, 128), (128, 32, 128), (256, 16, 64)] {
        // Narrower than the kernel's width, by part of what a warp has of dq.
        cases.extend([full, full / 2 + 8].map(|d| backward(d, full, tile, keys)));
    }
    cases.push(sum_slices());
    cases.extend([8, 136].into_iter().flat_map(backward_f32));
    cases
}

const PARTS: usize = 5;

/// Parts of one tile and of three; a part of the keys that some queries do not see, of the last rows of a tile too; parts
/// beyond the keys, of which nothing is written.
fn parts(d: usize) -> (Batch, [Vec<f64>; 2]) {
    let batch = Batch::new(Bf16, d, &[[7, 33], [1, 230]]);
    let seen = batch.seen();
    let (mut out, mut lse) = (Vec::new(), Vec::new());
    for part in 0..PARTS {
        let bound = |row: usize, part: usize| {
            let size = if row < 7 { 16 } else { 48 };
            seen[row].end.min(seen[row].start + part * size)
        };
        let [mut part_out, mut part_lse] = batch.forward(|row| bound(row, part)..bound(row, part + 1));
        if part >= 3 {
            part_out[..7 * NH * d].fill(7.0);
            part_lse[..7 * NH].fill(7.0);
        }
        out.extend(part_out);
        lse.extend(part_lse);
    }
    (batch, [out, lse])
}

fn decode(d: usize, full: usize, warps: usize) -> Case {
    let (batch, [out, lse]) = parts(d);
    let list = batch.list(usize::MAX);
    let grid = [(list.len() * NKV) as u32, PARTS.div_ceil(warps) as u32, 1];
    let shared = 2 * full * 16 * (1 + 4 * warps);
    let case = batch.case(&format!("attention_decode_d{full}_bf16"), grid, 32 * warps as u32, shared);
    let case = case.changed(F32, &vec![7.0; out.len()], out).rounded_as(batch.rounding());
    let case = case.changed(F32, &vec![7.0; lse.len()], lse);
    batch.sizes(words(batch.inputs(case), &list)).scalar(Int(PARTS as u32)).scalar(Float(SCALE as f32))
}

/// Makes parts of heads whose sums are so far apart that no weight is left of one relative to the other's maximum.
fn sum_parts(d: usize) -> Case {
    let (batch, [out, mut lse]) = parts(d);
    let (list, seen) = (batch.list(usize::MAX), batch.seen());
    let [whole, mut whole_lse] = batch.forward(|row| seen[row].clone());
    [&mut lse, &mut whole_lse].into_iter().for_each(|lse| lse.iter_mut().skip(1).step_by(NH).for_each(|x| *x += 200.0));
    let grid = [list.len() as u32, (NH * d).div_ceil(1024) as u32, 1];
    let case = batch.case("attention_decode_sum_bf16", grid, 256, 0);
    let case = case.output(Bf16, whole).output(F32, batch.by_head(&whole_lse)).input(F32, &out).input(F32, &lse);
    let case = words(case, &list).scalar(I64(batch.rows as i64)).scalar(Int(NH as u32));
    case.scalar(Int(d as u32)).scalar(Int(PARTS as u32))
}

fn delta(kind: Kind, d: usize, rows: usize) -> Case {
    let batch = Batch::new(kind, d, &[[rows, rows]]);
    let entry = format!("attention_bwd_delta_{}", if kind == F32 { "f32" } else { "bf16" });
    batch
        .case(&entry, [2 * NH as u32, 1, 1], 256, 0)
        .output(F32, batch.by_head(&batch.delta(&batch.q)))
        .input(kind, &batch.dout)
        .input(kind, &batch.q)
        .scalar(I64(batch.rows as i64))
        .scalar(Int(NH as u32))
        .scalar(Int(d as u32))
}

/// Two blocks of keys; four in two slices, there and back; one, which leaves the second slice nothing; one and a key.
fn backward(d: usize, full: usize, tile: usize, block: usize) -> Case {
    let batch = Batch::new(Bf16, d, &[[2, block + 6], [3 * block + 3, 3 * block + 3], [1, block], [1, block + 1]]);
    let ([lse, delta], list, seen) = (batch.saved(), batch.list(usize::MAX), batch.seen());
    let slice_of = |row: usize, key: usize| [0, 1, 1, 0][(key - seen[row].start) / block];
    let [mut slices, dk, dv] = batch.backward(&lse, &delta, 2, slice_of);
    // The second slice has the rows of the long sequence from the tile on that sees the second block, and the last.
    let row_length = NH * d;
    for untouched in [2..2 + block / tile * tile, batch.rows - 2..batch.rows - 1] {
        slices[(batch.rows + untouched.start) * row_length..(batch.rows + untouched.end) * row_length].fill(7.0);
    }
    let shared = 4 * full * (block + tile) + 2 * block * tile + 8 * tile + 16;
    let entry = format!("attention_bwd_d{full}_bf16");
    let case = batch.case(&entry, [(list.len() * NKV) as u32, 2, 1], 256, shared);
    let case = case.changed(F32, &vec![7.0; slices.len()], slices).rounded_as(batch.rounding());
    let case = case.close_to(Bf16, batch.rounding(), dk).close_to(Bf16, batch.rounding(), dv);
    batch.backward_inputs(case, &lse, &delta, &list)
}

fn sum_slices() -> Case {
    let batch = Batch::new(Bf16, 520, &[[2, 3], [1, 150], [70, 400]]);
    let (most, columns, list, slice_keys) = (6, NH * 520, batch.list(32), 64);
    let slices = draw(F32, 9, most * batch.q.len());
    let seen = batch.seen();
    let dq = (0..batch.q.len()).map(|at| {
        let count = seen[at / columns].len().div_ceil(slice_keys).min(most);
        (0..count).map(|slice| SCALE * slices[slice * batch.q.len() + at]).sum()
    });
    let case = batch.case("attention_bwd_q_bf16", [list.len() as u32, 2, 1], 256, 0).output(Bf16, dq.collect());
    let case = words(case.input(F32, &slices), &list).scalar(I64(batch.rows as i64));
    let case = case.scalar(Int(columns as u32)).scalar(Int(most as u32)).scalar(Int(slice_keys as u32));
    case.scalar(Float(SCALE as f32))
}

fn backward_f32(d: usize) -> Vec<Case> {
    let batch = Batch::new(F32, d, &[[17, 33], [33, 33]]);
    let [lse, delta] = batch.saved();
    let [dq, dk, dv] = batch.backward(&lse, &delta, 1, |_, _| 0);
    let shared = 2 * 48 * (d + 4) * 4;
    let (list, key_list) = (batch.list(16), batch.key_list());
    let case = batch.case("attention_bwd_q_f32", [(list.len() * NH) as u32, 1, 1], 128, shared);
    let case = case.close_to(F32, batch.rounding(), dq.iter().map(|dq| SCALE * dq).collect());
    let keys = batch.case("attention_bwd_kv_f32", [(key_list.len() * NKV) as u32, 1, 1], 128, shared);
    let keys = keys.close_to(F32, batch.rounding(), dk).close_to(F32, batch.rounding(), dv);
    vec![batch.backward_inputs(case, &lse, &delta, &list), batch.backward_inputs(keys, &lse, &delta, &key_list)]
}
