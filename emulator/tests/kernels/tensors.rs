//! What the kernels over many tensors compute.

use crate::case::Arg::{F32 as Float, U32 as Int};
use crate::case::{Bf16, Case, F32, Kind, U32, Word};
use crate::catalogue::{draw, map2};

pub const ADAMW: &str = include_str!("../../../ptx/adamw.ptx");
pub const GRAD_NORM: &str = include_str!("../../../ptx/grad_norm.ptx");

/// Elements of a tensor that one block handles.
const CHUNK: usize = 8192;

/// The lengths of the tensors of `grad_norm` and `adamw`.
const LENGTHS: [usize; 3] = [CHUNK + 9, 37, 4];

/// Each chunk's tensor and number.
fn chunks() -> Vec<(usize, usize)> {
    LENGTHS.iter().enumerate().flat_map(|(t, n)| (0..n.div_ceil(CHUNK)).map(move |c| (t, c))).collect()
}

/// Each chunk's tensor.
fn chunk_words() -> Vec<f64> {
    chunks().iter().map(|&(t, _)| t as f64).collect()
}

/// A tensor's entry in the table: four buffers, its length, its first chunk and its gradient's kind.
fn entry(t: usize, buffers: [usize; 4], kind: Kind) -> Vec<Word> {
    let first = chunks().iter().position(|(tensor, _)| *tensor == t).unwrap_or(0) as u64;
    let numbers = [LENGTHS[t] as u64, first | u64::from(kind == Bf16) << 32];
    buffers.map(Word::Address).into_iter().chain(numbers.map(Word::Value)).collect()
}

/// The kinds of three tensors' gradients.
const KINDS: [[Kind; 3]; 2] = [[F32, Bf16, F32], [Bf16, F32, Bf16]];

/// The sum of squares as two numbers.
fn pair_of_squares(values: &[f64]) -> [f64; 2] {
    let (large, small): (Vec<f64>, Vec<f64>) = values.iter().partition(|g| g.abs() > 2f64.powi(44));
    [small.iter().map(|g| g * g).sum(), large.iter().map(|g| (g * 2f64.powi(-84)).powi(2)).sum()]
}

pub fn grad_norm() -> Vec<Case> {
    let mut cases = Vec::new();
    for kinds in KINDS {
        let mut grads: Vec<Vec<f64>> = (0..3).map(|t| draw(kinds[t], t as u64, LENGTHS[t])).collect();
        // One element is too large for its square.
        grads[0][77] = kinds[0].rounded(2f64.powi(90));
        let partial = chunks().into_iter().flat_map(|(t, c)| {
            let part = &grads[t][c * CHUNK..LENGTHS[t].min((c + 1) * CHUNK)];
            pair_of_squares(part)
        });
        let grid = [chunks().len() as u32, 1, 1];
        let mut case = Case::new(GRAD_NORM, "grad_norm", "three tensors", grid, 256);
        let mut tensors = Vec::new();
        for (t, grad) in grads.iter().enumerate() {
            let at = case.hidden(kinds[t], grad, None);
            let other = case.hidden(F32, &vec![0.5; grad.len() + 1], None);
            tensors.extend(entry(t, [other, at, other, other], kinds[t]));
        }
        cases.push(case.output(F32, partial.collect()).table(tensors).input(U32, &chunk_words()));
    }
    // A tensor of many chunks, of which the table alone tells, and one of few.
    let lengths = [600 * CHUNK - 5, 3 * CHUNK];
    let partial = draw(F32, 3, 2 * 603);
    let pair = |from: usize, to: usize| [0, 1].map(|i| (from..to).map(|chunk| partial[2 * chunk + i]).sum::<f64>());
    let tables = [(lengths[0], 0), (lengths[1], 600)];
    let words = tables.map(|(n, first)| [0, 0, 0, 0, n as u64, first].map(Word::Value)).concat();
    cases.push(
        Case::new(GRAD_NORM, "grad_norm_sum", "two tensors", [2, 1, 1], 256)
            .output(F32, [pair(0, 600), pair(600, 603)].concat())
            .table(words)
            .input(F32, &partial),
    );
    let inf = f64::INFINITY;
    for (tensors, plain, large, max_norm) in
        [(300, 1.0, 0.0, 2.0), (3, 1.0, 0.0, 1e9), (257, 1.0, 0.25, 2.0), (2, 1.0, inf, 2.0), (2, inf, 0.0, 2.0)]
    {
        let plain: Vec<f64> = draw(F32, 8, tensors).iter().map(|x| F32.rounded(x.abs() * plain)).collect();
        let squares: Vec<f64> = plain.iter().flat_map(|&x| [x, large]).collect();
        let norm = (plain.iter().sum::<f64>() + tensors as f64 * large * 2f64.powi(168)).sqrt();
        let scale = if norm.is_finite() { (max_norm / (norm + 1e-6)).min(1.0) } else { f64::NAN };
        cases.push(
            Case::new(GRAD_NORM, "grad_norm_clip", &format!("{tensors} tensors, {large}"), [1, 1, 1], 256)
                .output(F32, vec![scale])
                .input(F32, &squares)
                .scalar(Int(tensors as u32))
                .scalar(Float(max_norm as f32)),
        );
    }
    cases
}

pub fn adamw() -> Vec<Case> {
    let [decay, one_minus_beta1, beta2, one_minus_beta2, sqrt_c2, eps, step_size] =
        [0.999, 0.1, 0.95, 0.05, 0.377, 1e-8, 0.037].map(|x: f64| F32.rounded(x));
    let mut cases = Vec::new();
    for (kinds, scale) in [(KINDS[0], 0.5), (KINDS[1], 0.5), (KINDS[0], f64::INFINITY)] {
        let mut case = Case::new(ADAMW, "adamw", &format!("scale {scale}"), [chunks().len() as u32, 1, 1], 256);
        let mut tensors = Vec::new();
        for (t, n) in LENGTHS.into_iter().enumerate() {
            let grad = draw(kinds[t], t as u64, n);
            let [p, m, v] = [10, 20, 30].map(|seed| draw(F32, seed + t as u64, n));
            let v: Vec<f64> = v.iter().map(|x| F32.rounded(x * x)).collect();
            let mut new_m = map2(&m, &grad, |m, g| m + one_minus_beta1 * (scale * g - m));
            let mut new_v = map2(&v, &grad, |v, g| beta2 * v + one_minus_beta2 * (scale * g).powi(2));
            let change = map2(&new_m, &new_v, |m, v| step_size * m / (v.sqrt() / sqrt_c2 + eps));
            let mut new_p = map2(&p, &change, |p, change| decay * p - change);
            if !scale.is_finite() {
                (new_p, new_m, new_v) = (p.clone(), m.clone(), v.clone());
            }
            let p = case.hidden(F32, &p, Some(new_p));
            let g = case.hidden(kinds[t], &grad, None);
            let m = case.hidden(F32, &m, Some(new_m));
            let v = case.hidden(F32, &v, Some(new_v));
            tensors.extend(entry(t, [p, g, m, v], kinds[t]));
        }
        let mut case = case.table(tensors).input(U32, &chunk_words()).input(F32, &[scale]);
        let factors = [decay, one_minus_beta1, beta2, one_minus_beta2, sqrt_c2, eps, step_size];
        case.args.extend(factors.map(|x| Float(x as f32)));
        cases.push(case);
    }
    cases
}
