//! The kernels that make int8 of floats, and norms and gates that do: rows within a block's registers and beyond them, with outliers and without.

use crate::case::Arg::{F32 as Float, I64, U32 as Int};
use crate::case::{Bf16, Case, F32, I8, Kind, U32};
use crate::catalogue::{RMSNORM, SWIGLU, draw, map2, name};
use crate::harness::Random;

pub const QUANTIZE: &str = include_str!("../../../ptx/quantize.ptx");

const BLOCK: usize = 64;
const LIMIT: f32 = 2.0;
/// The smallest absmax that a row has a scale of.
const LEAST: f32 = 127.0 / f32::MAX;

/// The columns of 16 neighbours in the order in which `int8_matmul_nn` takes them.
pub const TURNED: [usize; 16] = [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [F32, Bf16] {
        let pack = 16 / kind.bytes();
        // A block of 64 holds 1024 columns in packs, 64 alone: within one span, in two, and in three.
        // In packs a thread's last one may be any of those that it holds.
        let packed = [2 * 1024 + pack, 1024 + 5 * pack, (2 * BLOCK + 5) * pack, (3 * BLOCK + 5) * pack, 3 * pack, 16];
        for columns in packed.into_iter().chain([2 * BLOCK + 3, BLOCK + 33, 5]) {
            let x = Rows::new(kind, columns);
            cases.extend([x.rows(LIMIT), x.rows(f32::INFINITY), x.gradient()]);
        }
        let x = Rows::with_peaks(kind);
        cases.extend([x.rows(LIMIT), x.gradient()]);
    }
    for kind in [F32, Bf16] {
        cases.extend(within_a_span(kind).flat_map(|columns| [norms(kind, columns), gates(kind, columns)].concat()));
        cases.push(ordinary_gates(kind, 69 * 16 / kind.bytes()));
    }
    cases.extend([(5, 1), (1000, 3), (33 * 32 + 5, 4), (32 * 32, 1), (64, 100)].map(|(k, each)| outliers(k, each)));
    cases
}

/// Rows of `columns` floats: ordinary ones and those that a scale makes trouble with.
struct Rows {
    kind: Kind,
    columns: usize,
    x: Vec<Vec<f32>>,
}

impl Rows {
    fn new(kind: Kind, columns: usize) -> Self {
        let ordinary = |seed| draw(kind, seed, columns);
        let scaled = |seed, size: f64| ordinary(seed).iter().map(|x| kind.rounded(x * size)).collect::<Vec<_>>();
        let with = |seed, values: &[f64]| {
            let mut row = ordinary(seed);
            values.iter().enumerate().for_each(|(i, &value)| row[(i * columns / values.len() + 1) % columns] = value);
            row
        };
        let tiny = |seed, most: f32| {
            let mut row = scaled(seed, 2e-37);
            row[0] = kind.rounded(most.into());
            row
        };
        // With a scale of 1 / 64 every element lies between two integers.
        let mut ties: Vec<f64> = (0..columns).map(|c| (2.0 * (c % 126) as f64 + 1.0) / 128.0).collect();
        ties[columns - 1] = -127.0 / 64.0;
        let limit = f64::from(LIMIT);
        let rows = [
            ordinary(1),
            with(2, &[limit, -limit, 1.0 - limit, 3.0]),
            with(3, &[f64::NAN]),
            with(4, &[7.0, f64::INFINITY]),
            vec![0.0; columns],
            tiny(5, LEAST.next_down()),
            tiny(6, if kind == F32 { LEAST } else { 2f32.powi(-121) }),
            scaled(7, 1e30).iter().map(|x| if *x == 0.0 { 1e30 } else { *x }).collect(),
            ties,
        ];
        Self { kind, columns, x: rows.iter().map(|row| row.iter().map(|&x| x as f32).collect()).collect() }
    }

    /// Rows beyond a span, each with its largest element and its outlier at other places of those that a thread holds.
    fn with_peaks(kind: Kind) -> Self {
        let pack = 16 / kind.bytes();
        let columns = 1024 + 5 * pack;
        let at = |thread: usize, place: usize| (place % 16 / pack * BLOCK + thread) * pack + place % pack;
        let row = |place: usize| {
            let mut row: Vec<f32> = draw(kind, place as u64, columns).iter().map(|&x| x as f32 / 4.0).collect();
            row[at(9, place)] = -1.875;
            row[at(40, place + 1)] = 3.0;
            row
        };
        let mut x: Vec<Vec<f32>> = (0..17).map(row).collect();
        x[16][columns - 1] = 3.0;
        Self { kind, columns, x }
    }

    fn case(&self, op: &str) -> Case {
        let shape = format!("{} x {}", self.x.len(), self.columns);
        Case::new(QUANTIZE, &name(op, self.kind), &shape, [self.x.len() as u32, 1, 1], BLOCK as u32)
    }

    fn stride(&self) -> usize {
        self.columns.next_multiple_of(16)
    }

    fn values(&self) -> Vec<f64> {
        self.x.concat().iter().map(|&x| x.into()).collect()
    }

    fn rows(&self, limit: f32) -> Case {
        add_int8(self.case("quantize_rows"), &self.x.concat(), self.columns, limit)
            .input(self.kind, &self.values())
            .scalar(Int(self.columns as u32))
            .scalar(Int(self.stride() as u32))
            .scalar(Float(limit))
    }

    fn gradient(&self) -> Case {
        let factors: Vec<f64> = draw(F32, 8, self.columns).iter().map(|x| F32.rounded(x.abs() + 0.5)).collect();
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for row in &self.x {
            let products: Vec<f32> = row.iter().zip(&factors).map(|(x, &factor)| x * factor as f32).collect();
            let (q, scale) = quantized(&products, f32::INFINITY);
            let q = padded(&q, self.stride());
            codes.extend((0..self.stride()).map(|at| q[at / 16 * 16 + TURNED[at % 16]]));
            scales.push(scale);
        }
        self.case("quantize_gradient")
            .output(I8, codes)
            .close_to(F32, (U32, 0.0), scales)
            .input(self.kind, &self.values())
            .input(F32, &factors)
            .scalar(Int(self.columns as u32))
            .scalar(Int(self.stride() as u32))
    }
}

/// Adds to a case the codes of rows, their scales and the flags of their columns.
pub fn add_int8(case: Case, x: &[f32], columns: usize, limit: f32) -> Case {
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    let mut flags = vec![0u32; columns.div_ceil(32)];
    for row in x.chunks_exact(columns) {
        let (q, scale) = quantized(row, limit);
        codes.extend(padded(&q, columns.next_multiple_of(16)));
        scales.push(scale);
        let outliers = row.iter().enumerate().filter(|(_, x)| !below(**x, limit));
        outliers.for_each(|(c, _)| flags[c / 32] |= 1 << (c % 32));
    }
    let case = case.output(I8, codes).close_to(F32, (U32, 0.0), scales);
    let flags: Vec<f64> = flags.into_iter().map(f64::from).collect();
    match limit.is_finite() {
        true => case.changed(U32, &vec![0.0; flags.len()], flags),
        false => case.scalar(I64(0)),
    }
}

fn below(x: f32, limit: f32) -> bool {
    x.abs() < limit
}

/// A row's codes and its scale.
fn quantized(x: &[f32], limit: f32) -> (Vec<f64>, f64) {
    if limit.is_infinite() && !x.iter().all(|&x| below(x, limit)) {
        return (vec![0.0; x.len()], f64::NAN);
    }
    let absmax = x.iter().filter(|x| below(**x, limit)).fold(0.0f32, |most, x| most.max(x.abs()));
    if absmax < LEAST {
        return (vec![0.0; x.len()], 0.0);
    }
    let code = |x: f32| if below(x, limit) { (x * (127.0 / absmax)).round_ties_even() } else { 0.0 };
    (x.iter().map(|&x| code(x).into()).collect(), (absmax / 127.0).into())
}

fn padded(row: &[f64], length: usize) -> Vec<f64> {
    row.iter().copied().chain(std::iter::repeat(0.0)).take(length).collect()
}

/// Flags of which about one in `each` is set.
fn outliers(columns: usize, each: u64) -> Case {
    let mut random = Random::new(columns as u64);
    let flagged: Vec<usize> =
        (0..columns).filter(|&c| c + 1 == columns || random.bits().is_multiple_of(each)).collect();
    let mut flags = vec![0u32; columns.div_ceil(32)];
    flagged.iter().for_each(|&c| flags[c / 32] |= 1 << (c % 32));
    let (list, flags): (Vec<f64>, Vec<f64>) =
        (flagged.iter().map(|&c| c as f64).collect(), flags.into_iter().map(f64::from).collect());
    let count = vec![list.len() as f64];
    Case::new(QUANTIZE, "outlier_columns", &format!("{} of {columns}", list.len()), [1, 1, 1], 32)
        .output(U32, list)
        .output(U32, count)
        .input(U32, &flags)
        .scalar(Int(columns as u32))
}

/// Widths of rows that a block of 64 holds, ending in each of the packs that a thread has.
fn within_a_span(kind: Kind) -> impl Iterator<Item = usize> {
    let pack = 16 / kind.bytes();
    [1024, 197 * pack, 133 * pack, 69 * pack, 3 * pack].into_iter().filter(|&columns| columns <= 1024)
}

/// Multiples of 1 / 64 below 2 in magnitude, which have 7 bits.
fn few_bits(seed: u64, count: usize) -> Vec<f64> {
    let mut random = Random::new(seed);
    (0..count).map(|_| ((random.bits() % 255) as f64 - 127.0) / 64.0).collect()
}

fn singles(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// How many rows norms and gates have here.
const ROWS: usize = 3;

/// Norms that make integers too, of rows with an rstd of 1 / 2: y has but one rounding, so the integers are exact.
fn norms(kind: Kind, h: usize) -> Vec<Case> {
    // Rows of the same numbers have the same norm.
    let numbers = few_bits(h as u64, h);
    let sum: Vec<f64> = (0..ROWS * h).map(|at| numbers[(at + at / h * 5) % h]).collect();
    let eps = 4.0 - numbers.iter().map(|x| x * x).sum::<f64>() as f32 / h as f32;
    let (residual, mut weight) = (few_bits(2, ROWS * h), draw(Bf16, 3, h));
    weight[h - 1] = 4.0;
    let x = map2(&sum, &residual, |sum, residual| sum - residual);
    let y: Vec<f64> = (0..ROWS * h).map(|i| kind.rounded(sum[i] * 0.5 * weight[i % h])).collect();
    let norm = |is_residual, limit: f32| {
        let entry = if is_residual { "rmsnorm_residual_fwd_int8" } else { "rmsnorm_fwd_int8" };
        let shape = format!("{ROWS} x {h}, limit {limit}");
        let mut case = Case::new(RMSNORM, &name(entry, kind), &shape, [ROWS as u32, 1, 1], BLOCK as u32);
        case = case.close_to(kind, (U32, 0.0), y.clone());
        case = if is_residual { case.output(kind, sum.clone()) } else { case };
        case = add_int8(case.output(F32, vec![0.5; ROWS]), &singles(&y), h, limit);
        case = if is_residual { case.input(kind, &x).input(kind, &residual) } else { case.input(kind, &sum) };
        case = case.input(kind, &weight).scalar(Int(h as u32)).scalar(Float(eps));
        case.scalar(Int(h.next_multiple_of(16) as u32)).scalar(Float(limit))
    };
    vec![norm(false, 0.75), norm(false, f32::INFINITY), norm(true, 0.75), norm(true, f32::INFINITY)]
}

/// Gates that make integers too, so large that y has but one rounding, or zero.
fn gates(kind: Kind, columns: usize) -> Vec<Case> {
    let mut random = Random::new(columns as u64);
    let mut gate = |_| if random.bits().is_multiple_of(32) { 0.0 } else { (random.bits() % 32 + 32) as f64 };
    let gate: Vec<f64> = (0..ROWS * columns).map(&mut gate).collect();
    let up = few_bits(2, ROWS * columns);
    let y = map2(&gate, &up, |gate, up| kind.rounded(gate * up));
    let gated = |limit: f32| {
        let case = gate_case(kind, columns, limit).close_to(kind, (U32, 0.0), y.clone());
        gate_tail(add_int8(case, &singles(&y), columns, limit), kind, [&gate, &up], limit)
    };
    vec![gated(64.0), gated(f32::INFINITY)]
}

/// SwiGLU that makes integers, of gates between -1 and 1: an integer may be one off where y lies between two.
fn ordinary_gates(kind: Kind, columns: usize) -> Case {
    let [gate, up] = [1, 2].map(|seed| draw(kind, seed, ROWS * columns));
    let y = map2(&gate, &up, |gate, up| kind.rounded(gate * up / (1.0 + (-gate).exp())));
    let rows = singles(&y).chunks_exact(columns).map(|row| quantized(row, f32::INFINITY)).collect::<Vec<_>>();
    let codes = rows.iter().flat_map(|(q, _)| padded(q, columns.next_multiple_of(16))).collect();
    let case = gate_case(kind, columns, f32::INFINITY).output(kind, y).close_to(I8, (Bf16, 64.0), codes);
    let case = case.close_to(F32, (kind, 0.0), rows.iter().map(|(_, scale)| *scale).collect()).scalar(I64(0));
    gate_tail(case, kind, [&gate, &up], f32::INFINITY)
}

fn gate_case(kind: Kind, columns: usize, limit: f32) -> Case {
    let shape = format!("{ROWS} x {columns}, limit {limit}");
    Case::new(SWIGLU, &name("swiglu_fwd_int8", kind), &shape, [ROWS as u32, 1, 1], BLOCK as u32)
}

fn gate_tail(case: Case, kind: Kind, [gate, up]: [&[f64]; 2], limit: f32) -> Case {
    let columns = gate.len() / ROWS;
    let case = case.input(kind, gate).input(kind, up).scalar(Int(columns as u32));
    case.scalar(Int(columns.next_multiple_of(16) as u32)).scalar(Float(limit))
}
