//! The kernels, over shapes at and beyond their tiles, and what they compute, in f64.

use crate::attention::{self, ATTENTION};
use crate::case::Arg::{F32 as Float, I64, U32 as Int};
use crate::case::{Bf16, Case, F32, Kind, U32};
use crate::cross_entropy::{self, CROSS_ENTROPY};
use crate::harness::Random;
use crate::int8_matmul::{self, INT8_MATMUL};
use crate::lora;
use crate::matmul::{self, LORA, MATMUL};
use crate::nf4_matmul::{self, NF4_MATMUL};
use crate::quantize::{self, QUANTIZE};
use crate::tensors::{ADAMW, GRAD_NORM, adamw, grad_norm};

const DROPOUT: &str = include_str!("../../../ptx/dropout.ptx");
const ELEMENTWISE: &str = include_str!("../../../ptx/elementwise.ptx");
const EMBEDDING: &str = include_str!("../../../ptx/embedding.ptx");
pub const RMSNORM: &str = include_str!("../../../ptx/rmsnorm.ptx");
const ROPE: &str = include_str!("../../../ptx/rope.ptx");
pub const SWIGLU: &str = include_str!("../../../ptx/swiglu.ptx");
pub const FILES: [&str; 15] = [
    ADAMW,
    ATTENTION,
    CROSS_ENTROPY,
    DROPOUT,
    ELEMENTWISE,
    EMBEDDING,
    GRAD_NORM,
    INT8_MATMUL,
    LORA,
    MATMUL,
    NF4_MATMUL,
    QUANTIZE,
    RMSNORM,
    ROPE,
    SWIGLU,
];

pub fn all() -> Vec<Case> {
    let (attention, cross_entropy) = (attention::cases(), cross_entropy::cases());
    let products = [matmul::cases(), lora::cases(), quantize::cases(), int8_matmul::cases(), nf4_matmul::cases()];
    let others = [adamw(), dropout(), elementwise(), embedding(), grad_norm(), rmsnorm(), rope(), swiglu()];
    [attention, cross_entropy].into_iter().chain(products).chain(others).collect::<Vec<_>>().concat()
}

/// Numbers of a kind between -1 and 1.
pub fn draw(kind: Kind, seed: u64, length: usize) -> Vec<f64> {
    let mut random = Random::new(seed);
    (0..length).map(|_| kind.rounded((random.float() + 0.05).into())).collect()
}

pub fn name(op: &str, kind: Kind) -> String {
    format!("{op}_{}", if kind == F32 { "f32" } else { "bf16" })
}

pub fn map2(a: &[f64], b: &[f64], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect()
}

/// Philox 4x32-10 as Salmon et al. 2011 write it.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for _ in 0..10 {
        let (a, b) = (u64::from(c[0]) * 0xd251_1f53, u64::from(c[2]) * 0xcd9e_8d57);
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(0x9e37_79b9), k[1].wrapping_add(0xbb67_ae85)];
    }
    c
}

fn dropout() -> Vec<Case> {
    let (seed, step, site, threshold) = (0x1234_5678_9abc_def1u64, 3u32, 7u32, 0x4000_0000u32);
    let mut cases = Vec::new();
    for kind in [F32, Bf16] {
        let pack = 16 / kind.bytes();
        for (first, n) in [(0u64, 512 * pack + pack + 3), (6, 512 + 65), (6, 100), (8, 5)] {
            let x = draw(kind, 4, n);
            let keep = |i: usize| {
                let e = first + i as u64;
                let words =
                    philox([(e / 4) as u32, ((e / 4) >> 32) as u32, step, site], [seed as u32, (seed >> 32) as u32]);
                words[(e % 4) as usize] >= threshold
            };
            let y = x.iter().enumerate().map(|(i, x)| if keep(i) { x / 0.75 } else { 0.0 }).collect();
            cases.push(
                Case::new(DROPOUT, &name("dropout", kind), &format!("{n} from {first}"), [2, 1, 1], 256)
                    .output(kind, y)
                    .input(kind, &x)
                    .scalar(I64(n as i64))
                    .scalar(I64(first as i64))
                    .scalar(I64(seed as i64))
                    .scalar(Int(step))
                    .scalar(Int(site))
                    .scalar(Int(threshold))
                    .scalar(Float(1.0 / 0.75)),
            );
        }
    }
    cases
}

fn elementwise() -> Vec<Case> {
    let mut cases = Vec::new();
    let grid = [2, 1, 1];
    for n in [512 * 8 + 8 + 7, 512 * 4 + 4 + 1, 3] {
        let shape = format!("{n}");
        for kind in [F32, Bf16] {
            let (a, b) = (draw(kind, 1, n), draw(kind, 2, n));
            cases.push(
                Case::new(ELEMENTWISE, &name("add", kind), &shape, grid, 256)
                    .output(kind, map2(&a, &b, |a, b| a + b))
                    .input(kind, &a)
                    .input(kind, &b)
                    .scalar(I64(n as i64)),
            );
            cases.push(
                Case::new(ELEMENTWISE, &name("scale", kind), &shape, grid, 256)
                    .output(kind, a.iter().map(|x| x * 1.5).collect())
                    .input(kind, &a)
                    .scalar(I64(n as i64))
                    .scalar(Float(1.5)),
            );
        }
        for (entry, from, to) in [("cast_f32_bf16", F32, Bf16), ("cast_bf16_f32", Bf16, F32)] {
            let x = draw(from, 5, n);
            cases.push(
                Case::new(ELEMENTWISE, entry, &shape, grid, 256)
                    .output(to, x.clone())
                    .input(from, &x)
                    .scalar(I64(n as i64)),
            );
        }
    }
    cases
}

fn embedding() -> Vec<Case> {
    let vocabulary = 41;
    let mut cases = Vec::new();
    for rows in [257, 300, 5] {
        let mut random = Random::new(rows as u64);
        let ids: Vec<usize> = (0..rows).map(|_| (random.bits() % vocabulary) as usize).collect();
        let (order, runs) = sorted(&ids);
        let id_values: Vec<f64> = ids.iter().map(|&id| id as f64).collect();
        cases.push(
            Case::new(EMBEDDING, "embedding_sort", &format!("{rows} rows"), [(rows as u32).div_ceil(256), 1, 1], 256)
                .output(U32, order.clone())
                .output(U32, runs.clone())
                .input(U32, &id_values)
                .scalar(Int(rows as u32)),
        );
    }
    for kind in [F32, Bf16] {
        let pack = 16 / kind.bytes();
        let shapes =
            [(64 * pack + pack, 64), (2 * pack, 64), (3, 32), (65, 64), (65, 64), (65, 64), (65, 64), (31 * pack, 32)];
        for (variant, (h, block)) in shapes.into_iter().enumerate() {
            // One id takes more rows than a warp has lanes, and the last takes a few, the last row among them.
            let rows = 77;
            let mut random = Random::new(2);
            let last = vocabulary as usize - 1;
            let ids: Vec<usize> = (0..rows as usize)
                .map(|row| match row {
                    _ if row >= 76 - variant => last,
                    _ if row % 2 == 0 => 7,
                    _ => (random.bits() % (vocabulary - 1)) as usize,
                })
                .collect();
            let (order, runs) = sorted(&ids);
            let id_values: Vec<f64> = ids.iter().map(|&id| id as f64).collect();
            let weight = draw(kind, 6, vocabulary as usize * h);
            let y = ids.iter().flat_map(|&id| weight[id * h..(id + 1) * h].to_vec()).collect();
            let shape = format!("H {h}, last id {} times", variant + 1);
            cases.push(
                Case::new(EMBEDDING, &name("embedding_fwd", kind), &shape, [rows, 1, 1], block)
                    .output(kind, y)
                    .input(U32, &id_values)
                    .input(kind, &weight)
                    .scalar(Int(h as u32)),
            );
            let dy = draw(kind, 7, rows as usize * h);
            let mut dweight = vec![0.0; weight.len()];
            for (row, &id) in ids.iter().enumerate() {
                (0..h).for_each(|c| dweight[id * h + c] += dy[row * h + c]);
            }
            cases.push(
                Case::new(EMBEDDING, &name("embedding_bwd", kind), &shape, [rows, 1, 1], block)
                    .changed(kind, &vec![0.0; weight.len()], dweight)
                    .input(kind, &dy)
                    .input(U32, &id_values)
                    .input(U32, &order)
                    .input(U32, &runs)
                    .scalar(Int(h as u32)),
            );
        }
    }
    cases
}

/// Rows by their id, and the lengths of runs of equal ids.
fn sorted(ids: &[usize]) -> (Vec<f64>, Vec<f64>) {
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|&row| ids[row]);
    let runs = (0..order.len()).map(|at| {
        let id = ids[order[at]];
        let begins = at == 0 || ids[order[at - 1]] != id;
        if begins { ids.iter().filter(|&&other| other == id).count() as f64 } else { 0.0 }
    });
    (order.iter().map(|&row| row as f64).collect(), runs.collect())
}

fn rmsnorm() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [F32, Bf16] {
        let pack = 16 / kind.bytes();
        // A block of 64 holds 1024 columns in packs, 64 alone: within one span, in two, and in three.
        for (rows, h) in [(3, 1024 + pack), (2, 65 * pack), (2, 161 * pack), (3, 2 * 64 + 1), (2, 5)] {
            let (x, residual, weight, dy) =
                (draw(kind, 1, rows * h), draw(kind, 2, rows * h), draw(kind, 3, h), draw(kind, 4, rows * h));
            let shape = format!("{rows} x {h}");
            let sum: Vec<f64> = map2(&x, &residual, |a, b| kind.rounded(a + b));
            for (entry, input) in [("rmsnorm_fwd", &x), ("rmsnorm_residual_fwd", &sum)] {
                let rstd = inverse_rms(input, h);
                let y = (0..rows * h).map(|i| input[i] * rstd[i / h] * weight[i % h]).collect();
                let mut case = Case::new(RMSNORM, &name(entry, kind), &shape, [rows as u32, 1, 1], 64).output(kind, y);
                if entry == "rmsnorm_fwd" {
                    case = case.output(F32, rstd).input(kind, &x);
                } else {
                    case = case.output(kind, sum.clone()).output(F32, rstd).input(kind, &x).input(kind, &residual);
                }
                cases.push(case.input(kind, &weight).scalar(Int(h as u32)).scalar(Float(1e-5)));
            }
            let rstd: Vec<f64> = inverse_rms(&x, h).iter().map(|&r| F32.rounded(r)).collect();
            let dx: Vec<f64> = (0..rows)
                .flat_map(|row| {
                    let at = |c: usize| row * h + c;
                    let r = rstd[row];
                    let mean = (0..h).map(|c| dy[at(c)] * weight[c] * x[at(c)]).sum::<f64>() / h as f64;
                    (0..h).map(|c| r * (dy[at(c)] * weight[c] - x[at(c)] * r * r * mean)).collect::<Vec<_>>()
                })
                .collect();
            let grid = [rows as u32, 1, 1];
            cases.push(
                Case::new(RMSNORM, &name("rmsnorm_bwd_x", kind), &shape, grid, 64)
                    .output(kind, dx.clone())
                    .input(kind, &dy)
                    .input(kind, &x)
                    .input(kind, &weight)
                    .input(F32, &rstd)
                    .scalar(Int(h as u32)),
            );
            // The other gradient is not small, so that the sum does not cancel.
            let dsum: Vec<f64> = draw(kind, 5, rows * h).iter().map(|d| kind.rounded(d + 4.0)).collect();
            cases.push(
                Case::new(RMSNORM, &name("rmsnorm_residual_bwd_x", kind), &shape, grid, 64)
                    .output(kind, map2(&dx, &dsum, |a, b| kind.rounded(a) + b))
                    .input(kind, &dy)
                    .input(kind, &dsum)
                    .input(kind, &x)
                    .input(kind, &weight)
                    .input(F32, &rstd)
                    .scalar(Int(h as u32)),
            );
        }
        for (rows, h, slice) in [(13, 32 * pack + pack, 10), (21, 32 + 1, 9), (2, 3, 1)] {
            let (dy, x) = (draw(kind, 1, rows * h), draw(kind, 2, rows * h));
            let rstd: Vec<f64> = draw(F32, 3, rows).iter().map(|r| r.abs() + 0.5).map(|r| F32.rounded(r)).collect();
            let slices = rows.div_ceil(slice);
            let partial: Vec<f64> = (0..slices * h)
                .map(|at| {
                    let (first, c) = (at / h * slice, at % h);
                    (first..rows.min(first + slice)).map(|row| dy[row * h + c] * x[row * h + c] * rstd[row]).sum()
                })
                .collect();
            let width = if h % pack == 0 { 32 * pack } else { 32 };
            let grid = [h.div_ceil(width) as u32, slices as u32, 1];
            cases.push(
                Case::new(RMSNORM, &name("rmsnorm_bwd_weight", kind), &format!("{rows} x {h}"), grid, 256)
                    .output(F32, partial)
                    .input(kind, &dy)
                    .input(kind, &x)
                    .input(F32, &rstd)
                    .scalar(Int(rows as u32))
                    .scalar(Int(h as u32))
                    .scalar(Int(slice as u32)),
            );
        }
        for (slices, h) in [(7, 257), (1, 255)] {
            let partial = draw(F32, 9, slices * h);
            let total = (0..h).map(|c| (0..slices).map(|s| partial[s * h + c]).sum()).collect();
            cases.push(
                Case::new(
                    RMSNORM,
                    &name("rmsnorm_bwd_weight_sum", kind),
                    &format!("{slices} x {h}"),
                    [(h as u32).div_ceil(256), 1, 1],
                    256,
                )
                .output(kind, total)
                .input(F32, &partial)
                .scalar(Int(slices as u32))
                .scalar(Int(h as u32)),
            );
        }
    }
    cases
}

fn inverse_rms(x: &[f64], h: usize) -> Vec<f64> {
    x.chunks_exact(h).map(|row| 1.0 / (row.iter().map(|x| x * x).sum::<f64>() / h as f64 + 1e-5).sqrt()).collect()
}

fn rope() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [F32, Bf16] {
        for (rows, heads, kv_heads, d, block) in
            [(3, 17, 2, 64, 64), (2, 5, 1, 66, 64), (2, 1, 0, 16, 32), (2, 33, 1, 6, 32)]
        {
            let table = draw(F32, 1, 7 * d);
            let positions = [5.0, 0.0, 2.0];
            for direction in [1.0, -1.0] {
                let turn = |x: &[f64], heads: usize| {
                    let mut out = x.to_vec();
                    for pair in 0..rows * heads * (d / 2) {
                        let (row, head, i) = (pair / (d / 2) / heads, pair / (d / 2) % heads, pair % (d / 2));
                        let at = (row * heads + head) * d + i;
                        let angles = positions[row] as usize * d;
                        let (c, s) = (table[angles + i], direction * table[angles + d / 2 + i]);
                        (out[at], out[at + d / 2]) = (x[at] * c - x[at + d / 2] * s, x[at + d / 2] * c + x[at] * s);
                    }
                    out
                };
                let (q, k) = (draw(kind, 2, rows * heads * d), draw(kind, 3, rows * kv_heads * d));
                let k_out = turn(&k, kv_heads);
                cases.push(
                    Case::new(
                        ROPE,
                        &name("rope", kind),
                        &format!("{rows} rows, {heads}+{kv_heads} heads of {d}"),
                        [rows as u32, 1, 1],
                        block,
                    )
                    .changed(kind, &q, turn(&q, heads))
                    .changed(kind, &k, k_out)
                    .input(F32, &table[..6 * d])
                    .input(U32, &positions[..rows])
                    .scalar(Int(heads as u32))
                    .scalar(Int(kv_heads as u32))
                    .scalar(Int(d as u32))
                    .scalar(Float(direction as f32)),
                );
            }
        }
    }
    cases
}

fn swiglu() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [F32, Bf16] {
        let pack = 16 / kind.bytes();
        for n in [512 * pack + pack + 3, 512 * pack + 1, 3] {
            let [gate, up, dy] = [1, 2, 3].map(|seed| draw(kind, seed, n));
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            let shape = format!("{n}");
            cases.push(
                Case::new(SWIGLU, &name("swiglu_fwd", kind), &shape, [2, 1, 1], 256)
                    .output(kind, map2(&gate, &up, |g, u| g * sigmoid(g) * u))
                    .input(kind, &gate)
                    .input(kind, &up)
                    .scalar(I64(n as i64)),
            );
            let slope = |g: f64| sigmoid(g) * (1.0 + g * (1.0 - sigmoid(g)));
            cases.push(
                Case::new(SWIGLU, &name("swiglu_bwd", kind), &shape, [2, 1, 1], 256)
                    .output(kind, map2(&map2(&dy, &up, |d, u| d * u), &gate, |x, g| x * slope(g)))
                    .output(kind, map2(&dy, &gate, |d, g| d * g * sigmoid(g)))
                    .input(kind, &dy)
                    .input(kind, &gate)
                    .input(kind, &up)
                    .scalar(I64(n as i64)),
            );
        }
    }
    cases
}

const MATRIX: &str = include_str!("../fixtures/matrix.ptx");

/// Kernels with copies in flight and matrix fragments, from `tests/fixtures`.
pub fn pipelines() -> Vec<Case> {
    let shapes = [[65, 65, 104], [40, 8, 136]];
    shapes
        .into_iter()
        .map(|[m, n, k]| {
            let (a, b) = (draw(Bf16, 1, m * k), draw(Bf16, 2, n * k));
            let entry = |at: usize| (0..k).map(|i| a[at / n * k + i] * b[at % n * k + i]).sum();
            Case::new(
                MATRIX,
                "gemm_bf16",
                &format!("{m} x {n} x {k}"),
                [(n as u32).div_ceil(64), (m as u32).div_ceil(64), 1],
                128,
            )
            .output(F32, (0..m * n).map(entry).collect())
            .input(Bf16, &a)
            .input(Bf16, &b)
            .scalar(Int(m as u32))
            .scalar(Int(n as u32))
            .scalar(Int(k as u32))
        })
        .collect()
}
