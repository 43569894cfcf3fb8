//! The kernels of matrix multiplication: a tile and one row or column more, with and without an extension of K.

use crate::case::Arg::{F32 as Float, I64, U32 as Int};
use crate::case::{Bf16, Case, F32, Kind};
use crate::catalogue::draw;

pub const MATMUL: &str = include_str!("../../../ptx/matmul.ptx");

const ALPHA: f64 = 0.5;

/// What is multiplied, and how it is launched.
#[derive(Clone, Copy)]
struct Product {
    layout: &'static str,
    kind: Kind,
    tile: usize,
    /// M, N, K, K2.
    sizes: [usize; 4],
    out: Kind,
    added: Added,
    /// How much of K a slice takes.
    depth: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Added {
    Nothing,
    Other,
    /// To what out holds.
    Itself,
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kind, tile) in [(Bf16, 128), (Bf16, 64), (F32, 64)] {
        for layout in ["nt", "nn", "tn"] {
            let product = |sizes, out, added, depth| Product { layout, kind, tile, sizes, out, added, depth };
            let pipeline = 64 / kind.bytes() * 5 + 8;
            cases.extend([
                product([tile + 8, tile + 8, pipeline, 8], Bf16, Added::Nothing, 512).case(),
                product([tile + 1, tile + 1, pipeline + 3, 3], Bf16, Added::Other, 512).case(),
                product([8, tile + 4, 40, 0], F32, Added::Itself, 64).case(),
                product([tile + 8, 8, 136, 8], F32, Added::Nothing, 64).case(),
                product([9 * tile, 8, 8, 0], Bf16, Added::Other, 32).case(),
                product([5, 7, 35, 1], F32, Added::Other, 64).case(),
                product([6, 5, 9, 0], F32, Added::Nothing, 32).case(),
                product([6, 5, 9, 0], Bf16, Added::Nothing, 32).case(),
            ]);
        }
    }
    let rows = |sizes: [usize; 4], out, added| {
        Product { layout: "rows", kind: Bf16, tile: 0, sizes, out, added, depth: sizes[2] }.case()
    };
    cases.extend([
        rows([16, 24, 1096, 8], F32, Added::Nothing),
        rows([9, 17, 1047, 9], Bf16, Added::Other),
        rows([3, 17, 1096, 5], Bf16, Added::Nothing),
        rows([7, 8, 43, 0], F32, Added::Itself),
    ]);
    let sums = [(F32, Added::Other, 7), (F32, Added::Nothing, 3), (Bf16, Added::Other, 6), (Bf16, Added::Nothing, 5)];
    cases.extend(sums.map(|(out, added, slices)| sum(out, added, slices)));
    cases
}

impl Product {
    fn case(self) -> Case {
        let Self { layout, kind, tile, sizes: [m, n, k, k2], out, added, depth } = self;
        let slices = k.div_ceil(depth);
        let (a, b) = (draw(kind, 1, m * k), draw(kind, 2, k * n));
        let (a2, b2) = (draw(kind, 3, m * k2), draw(kind, 4, k2 * n));
        let addend = draw(out, 5, m * n);
        let sums = |i: usize, j: usize, slice: usize| {
            let part = (slice * depth..k.min((slice + 1) * depth)).map(|l| self.term(&a, &b, k, [i, j, l]));
            let rest = (0..if slice + 1 == slices { k2 } else { 0 }).map(|l| self.term(&a2, &b2, k2, [i, j, l]));
            part.chain(rest).sum::<f64>()
        };
        let element = |at: usize| {
            let more = if added == Added::Nothing { 0.0 } else { addend[at] };
            ALPHA * sums(at / n % m, at % n, at / (m * n)) + more
        };
        let expected: Vec<f64> = (0..slices * m * n).map(element).collect();
        let (name, grid, block) = match layout {
            "rows" => ("matmul_rows_bf16".into(), [n.div_ceil(16), 1, 1], 256),
            _ => {
                let suffix = if kind == F32 { "f32" } else { "bf16" };
                let tiles = m.div_ceil(tile) * n.div_ceil(tile);
                (format!("matmul_{layout}_{suffix}_{tile}"), [tiles, slices, 1], 128)
            }
        };
        let shape = format!("{m} x {n} x {k} + {k2}");
        let case = Case::new(MATMUL, &name, &shape, grid.map(|blocks| blocks as u32), block);
        let mut case = match added {
            Added::Nothing => case.close_to(out, (out, 4.0), expected).scalar(I64(0)),
            Added::Other => case.close_to(out, (out, 4.0), expected).input(out, &addend),
            Added::Itself => case.changed(out, &addend, expected).again(),
        };
        case = case.input(kind, &a).input(kind, &b);
        case = if k2 == 0 { case.scalar(I64(0)).scalar(I64(0)) } else { case.input(kind, &a2).input(kind, &b2) };
        for size in [m, n, k, k2] {
            case = case.scalar(Int(size as u32));
        }
        case = case.scalar(Float(ALPHA as f32)).scalar(Int((out == F32).into()));
        if layout == "rows" { case } else { case.scalar(Int(depth as u32)) }
    }

    /// The product of elements `(i, l)` and `(l, j)` where the layout has them.
    fn term(self, a: &[f64], b: &[f64], k: usize, [i, j, l]: [usize; 3]) -> f64 {
        let [m, n, ..] = self.sizes;
        let a = if self.layout == "tn" { a[l * m + i] } else { a[i * k + l] };
        let b = if matches!(self.layout, "nt" | "rows") { b[j * k + l] } else { b[l * n + j] };
        a * b
    }
}

fn sum(out: Kind, added: Added, slices: usize) -> Case {
    let (n, stride) = (2048 + 4 + 3, 2048 + 8);
    let (sums, addend) = (draw(F32, 1, (slices - 1) * stride + n), draw(out, 2, n));
    let more = |i: usize| if added == Added::Nothing { 0.0 } else { addend[i] };
    let total = |i: usize| ALPHA * (0..slices).map(|slice| sums[slice * stride + i]).sum::<f64>() + more(i);
    let case = Case::new(MATMUL, "matmul_sum", &format!("{slices} x {n}"), [2, 1, 1], 256);
    let case = case.close_to(out, (out, 4.0), (0..n).map(total).collect());
    let case = if added == Added::Nothing { case.scalar(I64(0)) } else { case.input(out, &addend) };
    case.input(F32, &sums)
        .scalar(I64(n as i64))
        .scalar(Int(slices as u32))
        .scalar(Float(ALPHA as f32))
        .scalar(Int((out == F32).into()))
}
