//! The products of int8 matrices: with outliers and adapters, slices of K, and gradients of codes and of floats.

use crate::case::Arg::{F32 as Float, U32 as Int};
use crate::case::{Bf16, Case, F32, I8, Kind, U32};
use crate::catalogue::draw;
use crate::gemm::{self, Added, Output, tile_size};
use crate::harness::Random;
use crate::quantize::TURNED;

pub const INT8_MATMUL: &str = include_str!("../../../ptx/int8_matmul.ptx");

const LIMIT: f32 = 0.5;

#[derive(Clone, Copy, PartialEq)]
enum Op {
    Nt,
    Rows,
    Nn,
    FloatsNn,
}

/// What is multiplied, and how it is launched.
#[derive(Clone, Copy)]
struct Product {
    op: Op,
    kind: Kind,
    tile: &'static str,
    /// M, N, K, K2.
    sizes: [usize; 4],
    out: Kind,
    added: Added,
    /// How much of K a slice takes.
    depth: usize,
    /// How many elements lie between rows of the result and of the operands, beside theirs.
    gap: usize,
    /// How many columns have outliers, if any are told.
    outliers: Option<usize>,
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kind, tile) in [(Bf16, "256"), (Bf16, "128"), (Bf16, "64"), (F32, "64")] {
        cases.extend(forward(kind, tile).into_iter().map(Product::case));
    }
    for kind in [Bf16, F32] {
        cases.extend(few_rows(kind).into_iter().map(Product::case));
    }
    for tile in ["256", "128", "64"] {
        cases.extend(backward(Op::Nn, Bf16, tile).into_iter().map(Product::case));
    }
    for (kind, tile) in [(Bf16, "256"), (Bf16, "128"), (Bf16, "64"), (Bf16, "any"), (F32, "any")] {
        cases.extend(backward(Op::FloatsNn, kind, tile).into_iter().map(Product::case));
    }
    cases
}

/// A tile and a row and a column more, lists of outliers around a stage's width, slices of K, results among others.
fn forward(kind: Kind, tile: &'static str) -> Vec<Product> {
    let [m, n] = tile_size(tile);
    let long = 64 / kind.bytes() * 5 + 8;
    let product = |sizes: [usize; 4], out, added, outliers| {
        let depth = if sizes[2] > 128 && out == F32 { 64 } else { 512 };
        Product { op: Op::Nt, kind, tile, sizes, out, added, depth, gap: 0, outliers }
    };
    let mut products = vec![
        product([m + 8, n + 8, 328, 8], Bf16, Added::Nothing, None),
        product([m + 1, n + 3, 37, 8], Bf16, Added::Other, Some(33)),
    ];
    if tile == "64" {
        products.extend([
            product([m + 8, n + 8, 40, 0], F32, Added::Itself, Some(31)),
            product([m + 8, 8, 200, 8], F32, Added::Nothing, Some(200)),
            product([9, 5, 139, 40], F32, Added::Nothing, Some(32)),
            Product { gap: 8, ..product([8 * m + 24, 8, 16, 0], Bf16, Added::Other, Some(1)) },
            product([m + 1, n + 1, 40, 0], F32, Added::Itself, Some(40)),
            product([9, 5, 72, 0], Bf16, Added::Nothing, Some(0)),
            product([9, 5, 15, 0], F32, Added::Nothing, None),
            Product { gap: 8, ..product([m, n, 40, long], Bf16, Added::Other, None) },
        ]);
    }
    products
}

/// Up to 16 rows, K within a warp's stretch and over a round of all warps.
fn few_rows(kind: Kind) -> Vec<Product> {
    let product = |sizes: [usize; 4], out, added, outliers| Product {
        op: Op::Rows,
        kind,
        tile: "rows",
        sizes,
        out,
        added,
        depth: sizes[2],
        gap: 0,
        outliers,
    };
    vec![
        Product { gap: 8, ..product([16, 24, 2064, 8], F32, Added::Nothing, Some(33)) },
        product([9, 17, 2053, 9], Bf16, Added::Other, Some(5)),
        product([3, 5, 40, 0], Bf16, Added::Nothing, None),
        product([7, 8, 1047, 1], F32, Added::Itself, Some(0)),
    ]
}

/// Products for the gradient of what goes in, which have no outliers and no adapter.
fn backward(op: Op, kind: Kind, tile: &'static str) -> Vec<Product> {
    let [m, n] = tile_size(tile);
    let product =
        |sizes, out, added, depth| Product { op, kind, tile, sizes, out, added, depth, gap: 0, outliers: None };
    let k = if op == Op::Nn { 37 } else { 40 };
    let mut products = vec![
        product([m + 8, n + 8, 328, 0], Bf16, Added::Nothing, 512),
        product([m + 1, n + 3, k, 0], Bf16, Added::Other, 512),
    ];
    if matches!(tile, "64" | "any") {
        products.extend([
            product([m + 8, n + 8, k, 0], F32, Added::Itself, 512),
            product([m + 8, 8, 136, 0], F32, Added::Nothing, 64),
            product([9, 5, 128, 0], F32, Added::Nothing, 64),
            product([9 * m, 8, 16, 0], Bf16, Added::Other, 64),
            product([m + 1, n + 1, k, 0], F32, Added::Itself, 512),
            product([9, 5, 72, 0], Bf16, Added::Nothing, 512),
            product([9, 5, 16, 0], F32, Added::Nothing, 512),
            Product { gap: 8, ..product([24, 16, 72, 0], Bf16, Added::Other, 512) },
        ]);
    }
    if tile == "any" {
        products.extend([
            product([m + 1, n + 1, 195, 0], Bf16, Added::Other, 512),
            product([5, 7, 35, 0], F32, Added::Other, 64),
        ]);
    }
    products
}

/// A matrix of codes, its rows `ld` bytes apart, zeros between them; the last row has `last` bytes.
fn codes(seed: u64, [rows, columns]: [usize; 2], ld: usize, last: usize) -> Vec<f64> {
    let mut random = Random::new(seed);
    let mut code = |at: usize| if at % ld < columns { (random.bits() % 255) as f64 - 127.0 } else { 0.0 };
    (0..(rows - 1) * ld + last).map(&mut code).collect()
}

/// Scales of rows or columns that make codes numbers up to 1 or so.
fn scales(seed: u64, count: usize) -> Vec<f64> {
    draw(F32, seed, count).iter().map(|x| F32.rounded((x.abs() + 0.5) / 127.0)).collect()
}

impl Product {
    fn case(self) -> Case {
        match self.op {
            Op::Nt | Op::Rows => self.nt(),
            Op::Nn => self.nn(),
            Op::FloatsNn => self.floats_nn(),
        }
    }

    fn launch(self) -> Case {
        let Self { op, kind, tile, sizes: [m, n, k, k2], gap, outliers, .. } = self;
        let kind = if kind == F32 { "f32" } else { "bf16" };
        let entry = match op {
            Op::Nt => format!("int8_matmul_nt_{kind}_{tile}"),
            Op::Rows => format!("int8_matmul_rows_{kind}"),
            Op::Nn => format!("int8_matmul_nn_{tile}"),
            Op::FloatsNn => format!("int8_matmul_floats_nn_{kind}_{tile}"),
        };
        let shape = format!("{m} x {n} x {k} + {k2}, {gap} apart, outliers {outliers:?}");
        if op == Op::Rows {
            return Case::new(INT8_MATMUL, &entry, &shape, [n.div_ceil(16) as u32, 1, 1], 256);
        }
        gemm::launch(INT8_MATMUL, &entry, &shape, tile, self.output().sizes)
    }

    fn output(self) -> Output {
        let Self { sizes: [m, n, k, _], out, added, gap, depth, .. } = self;
        Output { sizes: [m, n, k.div_ceil(depth)], kind: out, added, gap }
    }

    /// The part of K that a slice takes.
    fn of_slice(self, slice: usize) -> std::ops::Range<usize> {
        slice * self.depth..self.sizes[2].min((slice + 1) * self.depth)
    }

    /// From row to row of codes.
    fn ld(self, columns: usize) -> usize {
        (columns + self.gap).next_multiple_of(16)
    }

    fn nt(self) -> Case {
        let Self { kind, sizes: [m, n, k, k2], .. } = self;
        let (ld, slices) = (self.ld(k), self.output().sizes[2]);
        let whole = k.next_multiple_of(16);
        let [a, b] = [(1, m), (2, n)].map(|(seed, rows)| codes(seed, [rows, k], ld, whole));
        let (a_scale, b_scale) = (scales(3, m), scales(4, n));
        let (listed, ldx) = (self.listed(), k + self.gap);
        let x = self.floats(&listed, ldx);
        let ld2 = if k2 == 0 { 0 } else { k2 + self.gap };
        let [xa, b2] =
            [(7, m), (8, n)].map(|(seed, rows)| draw(kind, seed, if k2 == 0 { 0 } else { (rows - 1) * ld2 + k2 }));
        let sum = |[i, j, slice]: [usize; 3]| {
            let integers: f64 = self.of_slice(slice).map(|l| a[i * ld + l] * b[j * ld + l]).sum();
            if slice + 1 < slices {
                return b_scale[j] * a_scale[i] * integers;
            }
            let is_outlier = |c: &&usize| x[i * ldx + **c].abs() >= LIMIT.into();
            let outliers: f64 = listed.iter().filter(is_outlier).map(|c| x[i * ldx + c] * b[j * ld + c]).sum();
            let adapter: f64 = (0..k2).map(|l| xa[i * ld2 + l] * b2[j * ld2 + l]).sum();
            b_scale[j] * (a_scale[i] * integers + outliers) + adapter
        };
        let case = self.output().add(self.launch(), sum);
        let case = case.input(I8, &a).input(I8, &b).input(F32, &a_scale).input(F32, &b_scale);
        let columns: Vec<f64> = listed.iter().map(|&c| c as f64).collect();
        let count: Vec<f64> = self.outliers.iter().map(|&count| count as f64).collect();
        let case = case.given(kind, &x).given(U32, &columns).given(U32, &count).given(kind, &xa).given(kind, &b2);
        let sizes = [m, n, k, k2, self.output().ld(), ld, ld, ld2, ld2, ldx];
        self.tail(sizes.into_iter().fold(case, |case, size| case.scalar(Int(size as u32))).scalar(Float(LIMIT)))
    }

    /// The columns that have outliers.
    fn listed(self) -> Vec<usize> {
        let (k, count) = (self.sizes[2], self.outliers.unwrap_or(0));
        (0..count).map(|i| (i + 1) * k / count - 1).collect()
    }

    /// The floats of which codes were made, as far as the list of columns goes.
    fn floats(self, listed: &[usize], ld: usize) -> Vec<f64> {
        let Some(last) = listed.last() else { return Vec::new() };
        let mut x = draw(self.kind, 6, (self.sizes[0] - 1) * ld + last + 1);
        x[listed[0]] = LIMIT.into();
        x
    }

    fn nn(self) -> Case {
        let Self { sizes: [m, n, k, _], .. } = self;
        let (lda, ldb) = (self.ld(k), self.ld(n));
        let a = codes(1, [m, k], lda, k.next_multiple_of(16));
        let b = codes(2, [k, n], ldb, n.next_multiple_of(16));
        let a_scale: Vec<f64> = scales(3, m).iter().map(|scale| F32.rounded(scale / 127.0)).collect();
        let sum = |[i, j, slice]: [usize; 3]| {
            let products = self.of_slice(slice).map(|l| a[i * lda + l] * b[l * ldb + j]);
            a_scale[i] * products.sum::<f64>()
        };
        let turned: Vec<f64> = (0..a.len()).map(|at| a[at / 16 * 16 + TURNED[at % 16]]).collect();
        let case = self.output().add(self.launch(), sum);
        let case = case.input(I8, &turned).input(I8, &b).input(F32, &a_scale);
        let sizes = [m, n, k, self.output().ld(), lda, ldb];
        self.tail(sizes.into_iter().fold(case, |case, size| case.scalar(Int(size as u32))))
    }

    fn floats_nn(self) -> Case {
        let Self { kind, sizes: [m, n, k, _], .. } = self;
        let (lda, ldb, pack) = (k + self.gap, self.ld(n), 16 / kind.bytes());
        let a = draw(kind, 1, (m - 1) * lda + k);
        // The last row ends with the last chunk that is read.
        let b = codes(2, [k, n], ldb, n.next_multiple_of(pack));
        let b_scale = scales(3, k);
        let weight = |l: usize, j: usize| kind.rounded((b[l * ldb + j] as f32 * b_scale[l] as f32).into());
        let sum = |[i, j, slice]: [usize; 3]| self.of_slice(slice).map(|l| a[i * lda + l] * weight(l, j)).sum();
        let case = self.output().add(self.launch(), sum);
        let case = case.input(kind, &a).input(I8, &b).input(F32, &b_scale);
        let sizes = [m, n, k, self.output().ld(), lda, ldb];
        self.tail(sizes.into_iter().fold(case, |case, size| case.scalar(Int(size as u32))))
    }

    fn tail(self, case: Case) -> Case {
        let case = case.scalar(Int((self.out == F32).into()));
        if self.op == Op::Rows { case } else { case.scalar(Int(self.depth as u32)) }
    }
}
