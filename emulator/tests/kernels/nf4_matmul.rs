//! The products with a weight of 4 bits: nf4 and fp4, scales as floats and as codes, blocks that end anywhere in a row.

use crate::case::Arg::{F32 as Float, U32 as Int};
use crate::case::{Bf16, Case, F32, Kind, U8};
use crate::catalogue::draw;
use crate::gemm::{self, Added, Output, tile_size};
use crate::harness::Random;

pub const NF4_MATMUL: &str = include_str!("../../../ptx/nf4_matmul.ptx");

const OFFSET: f32 = 0.125;

/// The quantiles of the normal distribution that nf4's codes stand for.
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];
/// Twelve times the magnitudes of fp4's lower three bits; the fourth is the sign.
const FP4: [f32; 8] = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];

/// What is multiplied, and how it is launched.
#[derive(Clone, Copy)]
struct Product {
    /// Whether the weight is [N, K].
    is_forward: bool,
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
    codes: Codes,
}

#[derive(Clone, Copy)]
struct Codes {
    is_fp4: bool,
    is_nested: bool,
    /// A scale is one of 2^shift elements.
    shift: usize,
}

const fn codes(is_fp4: bool, is_nested: bool, shift: usize) -> Codes {
    Codes { is_fp4, is_nested, shift }
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kind, tile) in [(Bf16, "256"), (Bf16, "128"), (Bf16, "64"), (Bf16, "any"), (F32, "any")] {
        for is_forward in [true, false] {
            cases.extend(products(is_forward, kind, tile).into_iter().map(Product::case));
        }
    }
    cases.extend(few_rows().into_iter().map(Product::case));
    cases
}

/// A tile and a row and a column more, a pipeline that is filled and one that is not, slices of K, results among others.
fn products(is_forward: bool, kind: Kind, tile: &'static str) -> Vec<Product> {
    let [m, n] = tile_size(tile);
    let pipeline = 64 / kind.bytes() * 5;
    let product = |[m, n, k, k2]: [usize; 4], out, added, depth, codes: Codes| {
        // Rows of the weight are whole runs of 32, which have one scale.
        let whole = |width: usize| if tile == "any" { width } else { width.next_multiple_of(32) };
        let sizes = if is_forward { [m, n, whole(k), k2] } else { [m, whole(n), k, 0] };
        let codes = if tile == "any" { codes } else { Codes { shift: codes.shift.max(5), ..codes } };
        Product { is_forward, kind, tile, sizes, out, added, depth, gap: 0, codes }
    };
    let long = pipeline + 8;
    let mut products = vec![
        product([m + 8, n + 8, long, 8], Bf16, Added::Nothing, 512, codes(false, true, 3)),
        product([m + 1, n + 8, 40, 8], F32, Added::Itself, 512, codes(true, false, 6)),
    ];
    if matches!(tile, "64" | "any") {
        let gap = |gap, product| Product { gap, ..product };
        products.extend([
            product([m + 8, 8, 136, 8], F32, Added::Nothing, 64, codes(false, false, 6)),
            product([m, n, long, long], Bf16, Added::Other, 512, codes(true, false, 6)),
            product([9 * m, 8, 8, 0], Bf16, Added::Other, 32, codes(true, true, 4)),
            gap(8, product([24, 16, pipeline / 5, long], Bf16, Added::Other, 512, codes(false, true, 5))),
            gap(1, product([m + 1, n + 8, 16, 0], F32, Added::Itself, 512, codes(false, false, 6))),
            gap(1, product([9, 8, 16, 0], Bf16, Added::Nothing, 512, codes(true, true, 3))),
            gap(1, product([9, 8, 16, 0], F32, Added::Nothing, 512, codes(true, true, 3))),
            gap(1, product([9, 8, 16, 0], Bf16, Added::Other, 512, codes(true, true, 3))),
        ]);
    }
    if tile == "any" {
        // The last chunk has one element, and no byte is half a row's.
        let ragged = |m, [n, k]: [usize; 2], k2| if is_forward { [m, n + 1, k, k2] } else { [m, n, k + 1, k2] };
        products.extend([
            product(ragged(m + 1, [n + 1, pipeline + 1], long + 3), Bf16, Added::Other, 512, codes(false, true, 3)),
            product(ragged(9, [n + 1, pipeline + 1], 1), F32, Added::Other, 512, codes(false, false, 3)),
            product(ragged(6, [9, 9], 0), F32, Added::Nothing, 512, codes(false, true, 3)),
            product(ragged(6, [9, 9], 0), Bf16, Added::Nothing, 512, codes(false, false, 4)),
            product([5, 7, 35, 1], F32, Added::Other, 64, codes(true, false, 6)),
            product([6, 5, 73, 0], F32, Added::Nothing, 32, codes(false, false, 3)),
        ]);
    }
    products
}

/// Up to 16 rows, in packs and alone, K and K2 within a warp's stretch and over a round of all warps.
fn few_rows() -> Vec<Product> {
    let product = |sizes: [usize; 4], gap, out, added, codes| Product {
        is_forward: true,
        kind: Bf16,
        tile: "rows",
        sizes,
        out,
        added,
        depth: sizes[2],
        gap,
        codes,
    };
    vec![
        product([16, 24, 1032, 1032], 8, F32, Added::Nothing, codes(false, true, 3)),
        product([3, 13, 104, 1032], 0, Bf16, Added::Other, codes(true, false, 6)),
        // The last chunk has one element, and no byte is half a row's; the last row is of either half of a block's.
        product([9, 26, 297, 299], 0, Bf16, Added::Nothing, codes(false, false, 6)),
        product([5, 6, 41, 0], 0, F32, Added::Other, codes(false, false, 3)),
        product([7, 8, 41, 0], 2, F32, Added::Itself, codes(true, true, 4)),
        product([5, 10, 41, 0], 0, F32, Added::Nothing, codes(true, true, 3)),
    ]
}

impl Codes {
    /// What a code stands for.
    fn value(self, code: usize) -> f32 {
        let sign = if code < 8 { 1.0 } else { -1.0 };
        if self.is_fp4 { sign * FP4[code % 8] / 12.0 } else { NF4[code] }
    }
}

/// A weight of 4 bits in the parts that a kernel takes.
struct Weight {
    codes: Codes,
    /// The code of each element.
    elements: Vec<usize>,
    absmax: Vec<f64>,
    nested: Vec<f64>,
    map: Vec<f64>,
}

impl Weight {
    fn new(codes: Codes, length: usize) -> Self {
        let mut random = Random::new(2);
        let elements = (0..length).map(|_| (random.bits() % 16) as usize).collect();
        let blocks = length.div_ceil(1 << codes.shift);
        let count = if codes.is_nested { blocks } else { 0 };
        // The last byte is the last of the map.
        let nested = (0..count).map(|i| if i + 1 == count { 255.0 } else { (random.bits() % 256) as f64 }).collect();
        let map = if codes.is_nested { draw(F32, 3, 256) } else { Vec::new() };
        let absmax = draw(F32, 4, if codes.is_nested { blocks.div_ceil(256) } else { blocks });
        Self { codes, elements, absmax, nested, map }
    }

    /// Two codes a byte, the first in the upper half.
    fn bytes(&self) -> Vec<f64> {
        let byte = |pair: &[usize]| (pair[0] * 16 + pair.get(1).unwrap_or(&0)) as f64;
        self.elements.chunks(2).map(byte).collect()
    }

    fn scale(&self, block: usize) -> f32 {
        if !self.codes.is_nested {
            return self.absmax[block] as f32;
        }
        self.map[self.nested[block] as usize] as f32 * self.absmax[block / 256] as f32 + OFFSET
    }

    /// Every element as the kernel's dtype has it.
    fn floats(&self, kind: Kind) -> Vec<f64> {
        let scale = |at: usize| self.scale(at >> self.codes.shift);
        let element = |(at, &code)| kind.rounded((self.codes.value(code) * scale(at)).into());
        self.elements.iter().enumerate().map(element).collect()
    }
}

impl Product {
    /// From row to row of an operand.
    fn ld(self, width: usize, multiple: usize) -> usize {
        match self.tile {
            _ if width == 0 => 0,
            "any" | "rows" => width + self.gap,
            _ => (width + self.gap).next_multiple_of(multiple),
        }
    }

    fn case(self) -> Case {
        let Self { is_forward, kind, sizes: [m, n, k, k2], out, added, depth, gap, codes, .. } = self;
        let slices = k.div_ceil(depth);
        let (rows, width) = if is_forward { (n, k) } else { (k, n) };
        let (lda, ldb, ld2) = (self.ld(k, 8), self.ld(width, 32), self.ld(k2, 8));
        let weight = Weight::new(codes, (rows - 1) * ldb + width);
        let b = weight.floats(kind);
        let a = draw(kind, 1, (m - 1) * lda + k);
        let [xa, b2] =
            [(7, m), (8, n)].map(|(seed, rows)| if k2 == 0 { vec![] } else { draw(kind, seed, (rows - 1) * ld2 + k2) });
        let sum = |[i, j, slice]: [usize; 3]| {
            let term = |l: usize| a[i * lda + l] * b[if is_forward { j * ldb + l } else { l * ldb + j }];
            let base: f64 = (slice * depth..k.min((slice + 1) * depth)).map(term).sum();
            let adapter = |l: usize| xa[i * ld2 + l] * b2[j * ld2 + l];
            base + (0..if slice + 1 == slices { k2 } else { 0 }).map(adapter).sum::<f64>()
        };
        let output = Output { sizes: [m, n, slices], kind: out, added, gap };
        let mut case = output.add(self.launch(slices), sum).input(kind, &a).input(U8, &weight.bytes());
        case = case.input(F32, &weight.absmax).given(U8, &weight.nested).given(F32, &weight.map);
        let sizes = if is_forward {
            case = case.given(kind, &xa).given(kind, &b2);
            vec![m, n, k, k2, output.ld(), lda, ldb, ld2, ld2]
        } else {
            vec![m, n, k, output.ld(), lda, ldb]
        };
        case = sizes.into_iter().fold(case, |case, size| case.scalar(Int(size as u32))).scalar(Float(OFFSET));
        let mut flags = vec![codes.shift, codes.is_fp4.into(), (out == F32).into()];
        flags.extend((self.tile != "rows").then_some(depth));
        flags.into_iter().fold(case, |case, flag| case.scalar(Int(flag as u32)))
    }

    fn launch(self, slices: usize) -> Case {
        let Self { is_forward, kind, tile, sizes: [m, n, k, k2], gap, codes, .. } = self;
        let layout = if is_forward { "nt" } else { "nn" };
        let kind = if kind == F32 { "f32" } else { "bf16" };
        let nested = if codes.is_nested { "nested" } else { "plain" };
        let format = if codes.is_fp4 { "fp4" } else { "nf4" };
        let shape = format!("{m} x {n} x {k} + {k2}, {gap} apart, {format}, {nested}, blocks of {}", 1 << codes.shift);
        if tile == "rows" {
            return Case::new(NF4_MATMUL, "nf4_matmul_rows_bf16", &shape, [n.div_ceil(16) as u32, 1, 1], 256);
        }
        let entry = format!("nf4_matmul_{layout}_{kind}_{tile}");
        gemm::launch(NF4_MATMUL, &entry, &shape, tile, [m, n, slices])
    }
}
