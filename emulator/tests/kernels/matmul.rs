//! The kernels of matrix multiplication: a tile and one row or column more, with and without an extension of K.

use crate::case::Arg::{F32 as Float, I64, U32 as Int};
use crate::case::{Bf16, Case, F32, Kind};
use crate::catalogue::{draw, philox};
use crate::gemm::{self, Added, Output, tile_size};

pub const MATMUL: &str = include_str!("../../../ptx/matmul.ptx");
pub const LORA: &str = include_str!("../../../ptx/lora.ptx");

const ALPHA: f64 = 0.5;

/// What is multiplied, and how it is launched.
#[derive(Clone, Copy)]
struct Product {
    layout: &'static str,
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
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kind, tile) in [(Bf16, "256"), (Bf16, "128"), (Bf16, "64"), (Bf16, "any"), (F32, "64"), (F32, "any")] {
        for layout in ["nt", "nn", "tn"] {
            cases.extend(products(layout, kind, tile).into_iter().map(Product::case));
        }
    }
    for (kind, tile) in [(Bf16, "256"), (Bf16, "128"), (Bf16, "64"), (Bf16, "any"), (F32, "64"), (F32, "any")] {
        for layout in ["xa", "da", "dx"] {
            if layout == "dx" || matches!(tile, "64" | "any") {
                cases.extend(dropping(layout, kind, tile).into_iter().map(Product::case));
            }
        }
    }
    let rows = |sizes: [usize; 4], gap, out, added| {
        Product { layout: "rows", kind: Bf16, tile: "rows", sizes, out, added, depth: sizes[2], gap }.case()
    };
    cases.extend([
        rows([16, 24, 1096, 8], 8, F32, Added::Nothing),
        rows([9, 17, 1047, 9], 0, Bf16, Added::Other),
        rows([3, 17, 1096, 5], 0, Bf16, Added::Nothing),
        rows([7, 8, 43, 0], 3, F32, Added::Itself),
    ]);
    let sums = [
        (F32, Added::Other, 7, 0),
        (F32, Added::Nothing, 3, 0),
        (Bf16, Added::Other, 6, 0),
        (Bf16, Added::Nothing, 5, 24),
    ];
    cases.extend(sums.map(|(out, added, slices, gap)| sum(out, added, slices, gap)));
    cases
}

/// A tile and a row and a column more, a pipeline that is filled and one that is not, one term and two, slices of K,
/// results that lie among others.
fn products(layout: &'static str, kind: Kind, tile: &'static str) -> Vec<Product> {
    let [m, n] = tile_size(tile);
    let pipeline = 64 / kind.bytes() * 5;
    let product = |sizes, out, added, depth| Product { layout, kind, tile, sizes, out, added, depth, gap: 0 };
    let mut products = vec![
        product([m + 8, n + 8, pipeline + 8, 8], Bf16, Added::Nothing, 512),
        product([m + 8, n + 8, 40, 0], F32, Added::Itself, 512),
        product([m + 8, 8, 136, 8], F32, Added::Nothing, 64),
        product([9 * m, 8, 8, 0], Bf16, Added::Other, 32),
        product([m + 1, n + 3, 72, 8], Bf16, Added::Other, 512),
        product([m + 1, n + 1, 40, 0], F32, Added::Itself, 512),
        product([9, 5, 40, 0], Bf16, Added::Nothing, 512),
        product([9, 5, 40, 0], F32, Added::Nothing, 512),
        Product { gap: 8, ..product([24, 16, 72, 40], Bf16, Added::Other, 512) },
    ];
    if tile == "any" {
        products.extend([
            product([m + 1, n + 1, pipeline + 3, 3], Bf16, Added::Other, 512),
            product([5, 7, 35, 1], F32, Added::Other, 64),
            product([6, 5, 9, 0], F32, Added::Nothing, 32),
            product([6, 5, 9, 0], Bf16, Added::Nothing, 32),
        ]);
    }
    products
}

/// Products that drop elements, over the borders of tiles, stages and slices.
fn dropping(layout: &'static str, kind: Kind, tile: &'static str) -> Vec<Product> {
    let [m, n] = tile_size(tile);
    let k2 = if layout == "dx" { 72 } else { 0 };
    let product = |sizes, out, added, depth| Product { layout, kind, tile, sizes, out, added, depth, gap: 0 };
    let mut products = vec![
        product([m + 8, n + 8, 200, k2], Bf16, Added::Nothing, 512),
        product([m + 8, n + 4, 136, k2 / 9], F32, Added::Other, 512),
        product([m + 8, n + 4, 40, k2 / 9], Bf16, Added::Other, 512),
        product([8, 24, 136, k2 / 3], F32, Added::Nothing, 64),
        Product { gap: 1, ..product([m + 1, n + 4, 40, k2 / 9], Bf16, Added::Itself, 512) },
        Product { gap: 1, ..product([m + 1, n + 4, 40, k2 / 9], F32, Added::Itself, 512) },
        Product { gap: 1, ..product([9, 4, 40, k2 / 9], Bf16, Added::Nothing, 512) },
        Product { gap: 1, ..product([9, 4, 40, k2 / 9], F32, Added::Nothing, 512) },
    ];
    if tile == "any" {
        products.push(product([m + 1, n + 1, 75, k2 / 8], Bf16, Added::Other, 512));
    }
    products
}

/// The mask's key: p = 1/4.
const FIRST: u64 = 1 << 33;
const SEED: u64 = 0x1234_5678_9abc_def0;
const STEP: u32 = 7;
const SITE: u32 = 3;
const SCALE: f64 = 4.0 / 3.0;
const THRESHOLD: u32 = 1 << 30;

/// What element `e` of a tensor is multiplied by.
fn kept(e: usize) -> f64 {
    let e = FIRST + e as u64;
    let counter = [(e / 4) as u32, ((e / 4) >> 32) as u32, STEP, SITE];
    let word = philox(counter, [SEED as u32, (SEED >> 32) as u32])[(e % 4) as usize];
    if word >= THRESHOLD { f64::from(SCALE as f32) } else { 0.0 }
}

impl Product {
    fn case(self) -> Case {
        let Self { kind, sizes: [m, n, k, k2], out, added, depth, gap, .. } = self;
        let slices = k.div_ceil(depth);
        let [a, b, a2, b2] = self.operands();
        let sums = |[i, j, slice]: [usize; 3]| {
            let part = (slice * depth..k.min((slice + 1) * depth)).map(|l| self.term(&a, &b, k, [i, j, l]));
            let rest = (0..if slice + 1 == slices { k2 } else { 0 }).map(|l| self.term(&a2, &b2, k2, [i, j, l]));
            let dropped = if self.layout == "dx" { kept(i * n + j) } else { 1.0 };
            ALPHA * (part.sum::<f64>() + dropped * rest.sum::<f64>())
        };
        let output = Output { sizes: [m, n, slices], kind: out, added, gap };
        let mut case = output.add(self.launch(slices), sums);
        case = case.input(kind, &a).input(kind, &b);
        case = if k2 == 0 { case.scalar(I64(0)).scalar(I64(0)) } else { case.input(kind, &a2).input(kind, &b2) };
        let [lda, ldb] = self.leading(k);
        let [lda2, ldb2] = self.leading(k2);
        for size in [m, n, k, k2, output.ld(), lda, ldb, lda2, ldb2] {
            case = case.scalar(Int(size as u32));
        }
        case = case.scalar(Float(ALPHA as f32)).scalar(Int((out == F32).into()));
        case = if self.layout == "rows" { case } else { case.scalar(Int(depth as u32)) };
        if !self.drops() {
            return case;
        }
        case = case.scalar(I64(FIRST as i64)).scalar(I64(SEED as i64));
        [STEP, SITE, THRESHOLD].into_iter().fold(case, |case, word| case.scalar(Int(word))).scalar(Float(SCALE as f32))
    }

    fn launch(self, slices: usize) -> Case {
        let Self { layout, kind, tile, sizes: [m, n, k, k2], gap, .. } = self;
        let shape = format!("{m} x {n} x {k} + {k2}, {gap} apart");
        if layout == "rows" {
            return Case::new(MATMUL, "matmul_rows_bf16", &shape, [n.div_ceil(16) as u32, 1, 1], 256);
        }
        let suffix = if kind == F32 { "f32" } else { "bf16" };
        let (ptx, op) = if self.drops() { (LORA, "lora") } else { (MATMUL, "matmul") };
        gemm::launch(ptx, &format!("{op}_{layout}_{suffix}_{tile}"), &shape, tile, [m, n, slices])
    }

    fn drops(self) -> bool {
        matches!(self.layout, "xa" | "da" | "dx")
    }

    /// Whether K is the inner dimension of each operand.
    fn inner(self) -> [bool; 2] {
        [!matches!(self.layout, "tn" | "da"), matches!(self.layout, "nt" | "rows" | "xa")]
    }

    /// Elements from row to row of each operand of a term.
    fn leading(self, k: usize) -> [usize; 2] {
        let [m, n, ..] = self.sizes;
        let [a, b] = self.inner();
        let of = |width: usize| match self.tile {
            _ if k == 0 => 0,
            "any" | "rows" => width + self.gap,
            _ => (width + self.gap).next_multiple_of(16 / self.kind.bytes()),
        };
        [if a { k } else { m }, if b { k } else { n }].map(of)
    }

    fn operands(self) -> [Vec<f64>; 4] {
        let Self { kind, sizes: [m, n, k, k2], .. } = self;
        let [a_inner, b_inner] = self.inner();
        let matrix = |seed, rows: usize, columns: usize, ld: usize, is_inner| {
            let (rows, columns) = if is_inner { (rows, columns) } else { (columns, rows) };
            let pack = if matches!(self.tile, "any" | "rows") { 1 } else { 16 / kind.bytes() };
            draw(kind, seed, (rows - 1) * ld + columns.next_multiple_of(pack))
        };
        let pair = |seed, k: usize| {
            let [lda, ldb] = self.leading(k);
            [matrix(seed, m, k, lda, a_inner), matrix(seed + 1, n, k, ldb, b_inner)]
        };
        let ([a, b], [a2, b2]) = (pair(1, k), if k2 == 0 { [vec![], vec![]] } else { pair(3, k2) });
        [a, b, a2, b2]
    }

    /// The product of elements `(i, l)` and `(l, j)` where the layout has them.
    fn term(self, a: &[f64], b: &[f64], k: usize, [i, j, l]: [usize; 3]) -> f64 {
        let ([lda, ldb], [a_inner, b_inner]) = (self.leading(k), self.inner());
        let (a_at, b_at) =
            (if a_inner { i * lda + l } else { l * lda + i }, if b_inner { j * ldb + l } else { l * ldb + j });
        match self.layout {
            "xa" => self.kind.rounded(a[a_at] * kept(a_at)) * b[b_at],
            "da" => a[a_at] * self.kind.rounded(b[b_at] * kept(b_at)),
            _ => a[a_at] * b[b_at],
        }
    }
}

fn sum(out: Kind, added: Added, slices: usize, gap: usize) -> Case {
    let columns = 24;
    let (n, stride) = if gap == 0 { (2048 + 4 + 3, 2048 + 8) } else { (columns * 80, columns * 80) };
    let ld = columns + gap;
    let at = |i: usize| if gap == 0 { i } else { i / columns * ld + i % columns };
    let (sums, addend) = (draw(F32, 1, (slices - 1) * stride + n), draw(out, 2, at(n - 1) + 1));
    let more = |i: usize| if added == Added::Nothing { 0.0 } else { addend[at(i)] };
    let total = |i: usize| ALPHA * (0..slices).map(|slice| sums[slice * stride + i]).sum::<f64>() + more(i);
    let (rows, columns) = if gap == 0 { (1, n) } else { (n / columns, columns) };
    let case = Case::new(MATMUL, "matmul_sum", &format!("{slices} x {n}, {gap} apart"), [2, rows as u32, 1], 256);
    let case = match gap {
        0 => case.close_to(out, (out, 4.0), (0..n).map(total).collect()),
        _ => {
            let mut expected = addend.clone();
            (0..n).for_each(|i| expected[at(i)] = total(i));
            case.changed(out, &addend, expected)
        }
    };
    let case = if added == Added::Nothing { case.scalar(I64(0)) } else { case.input(out, &addend) };
    case.input(F32, &sums)
        .scalar(I64(columns as i64))
        .scalar(Int(slices as u32))
        .scalar(I64(stride as i64))
        .scalar(Int(ld as u32))
        .scalar(Float(ALPHA as f32))
        .scalar(Int((out == F32).into()))
}

/// Warp instructions of all kinds for each mma of one tile, 4096 deep: the main loop's, and an epilogue's share.
#[test]
fn a_warp_does_little_beside_mma() {
    for tile in ["128", "256"] {
        for layout in ["nt", "nn", "tn"] {
            let [m, n] = tile_size(tile);
            let sizes = [m, n, 4096, 0];
            let case =
                Product { layout, kind: Bf16, tile, sizes, out: Bf16, added: Added::Nothing, depth: 4096, gap: 0 };
            let case = case.case();
            let (_, counters) = case.run(&case.ptx, 0, None).unwrap_or_else(|failure| panic!("{failure}"));
            let each = counters.total_instructions() as f64 / counters.mma as f64;
            assert!(each <= 3.5, "{}: {each:.2} instructions for each mma", case.name);
            assert_eq!(counters.shared_excess_wavefronts, 0, "{}", case.name);
        }
    }
}
