//! What the kernels do at the widths of Llama-3-8B, counted on the emulated device beside what they must do.

use std::sync::Arc;

use super::{DTYPES, Op};
use crate::autograd::{Tensor, backward_from, no_grad};
use crate::cli::report::Report;
use crate::device::{Device, Emulated, Emulation, Profiled};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::adamw::{AdamWOptions, AdamWUpdate};
use crate::ops::attention::{Heads, Segments};
use crate::ops::cross_entropy::IGNORE_INDEX;
use crate::ops::dropout::Dropout;
use crate::ops::int8_matmul::{Backward, Int8, Method};
use crate::ops::lora::{Operands, Projection};
use crate::ops::matmul::SplitK;
use crate::ops::weight::{Quantized, Weight};

/// Runs an op on a device; the bytes that each of its launches must ask for, in their order: every operand once, and what
/// all rows share once for each block.
pub(super) type Work = fn(&Device, DType) -> Result<Vec<usize>>;

/// Tokens that the emulated device is given.
const ROWS: usize = 64;
/// Tokens where more of them change what a kernel does: of a sequence, and of a product.
const LONG: usize = 2048;
const WIDE: usize = 4096;
/// Llama-3-8B's hidden and intermediate sizes, heads, key/value heads and head_dim.
const H: usize = 4096;
const I: usize = 14_336;
const NH: usize = 32;
const NKV: usize = 8;
const D: usize = 128;
/// Elements below it become integers.
const THRESHOLD: f32 = 6.0;
/// Tokens of a product that has a kernel for few.
const FEW: usize = 8;
/// A cut of its vocabulary.
const V: usize = 1024;

pub(super) fn run(ops: &[&Op], report: &Report) -> Result<()> {
    let mut rows = Vec::new();
    for op in ops {
        for dtype in DTYPES {
            let emulated = Arc::new(Emulated::new(Emulation { profile: true, ..Emulation::default() }));
            let costs = (op.profile)(&Device::new(emulated.clone()), dtype)?;
            let mut launches = emulated.take_profile();
            // Those of other ops that it uses are theirs.
            let is_own = |kernel: &str| op.kernels.iter().any(|own| own.ptx.contains(&format!(".entry {kernel}(")));
            launches.retain(|launch| is_own(&launch.kernel));
            refuse_uncounted(op.name, launches.len(), costs.len())?;
            rows.extend(launches.into_iter().zip(costs).map(|(launch, cost)| (op.name, launch, cost)));
        }
    }
    let json = rows.iter().map(|(op, launch, bytes)| json(op, launch, *bytes)).collect::<Result<Vec<_>>>()?;
    report.result(&serde_json::json!({ "launches": json }), || {
        let lines = rows.iter().map(|(_, launch, bytes)| line(launch, *bytes));
        std::iter::once(HEAD.to_string()).chain(lines).collect::<Vec<_>>().join("\n")
    })
}

/// Refuses a launch without a cost, and a cost without a launch.
fn refuse_uncounted(op: &str, launches: usize, costs: usize) -> Result<()> {
    match launches == costs {
        true => Ok(()),
        false => Err(Error::input("kernels profile", format!("{op}: {launches} launches, but costs of {costs}"))),
    }
}

const HEAD: &str =
    "kernel                         blocks threads  warp inst.       bytes  x compulsory  x sectors  excess wavefronts";

fn asked(launch: &Profiled) -> u64 {
    launch.counters.global_load_bytes + launch.counters.global_store_bytes
}

fn sectors(launch: &Profiled) -> u64 {
    launch.counters.global_load_sectors + launch.counters.global_store_sectors
}

/// `x compulsory`: bytes asked for each that must be moved; `x sectors`: bytes moved, in sectors of 32, for each asked.
fn line(launch: &Profiled, compulsory: usize) -> String {
    let (bytes, counters) = (asked(launch), &launch.counters);
    format!(
        "{:<30}{:>7} {:>7} {:>11} {bytes:>11} {:>13.3} {:>10.3} {:>18}",
        launch.kernel,
        launch.grid.iter().product::<u32>(),
        launch.block,
        counters.total_instructions(),
        bytes as f64 / compulsory as f64,
        (32 * sectors(launch)) as f64 / bytes as f64,
        counters.shared_excess_wavefronts,
    )
}

fn json(op: &str, launch: &Profiled, compulsory: usize) -> Result<serde_json::Value> {
    let counters: serde_json::Value =
        serde_json::from_str(&launch.counters.to_json()).map_err(|e| Error::input("--json", e.to_string()))?;
    let Profiled { kernel, grid, block, .. } = launch;
    Ok(serde_json::json!({
        "op": op, "kernel": kernel, "grid": grid, "block": block, "compulsory_bytes": compulsory, "counters": counters,
    }))
}

/// Small values that differ.
fn tensor(device: &Device, dtype: DType, shape: [usize; 2]) -> Result<Tensor> {
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect();
    ops::elementwise::cast(&Tensor::from_slice(&Device::Cpu, shape, &values)?, dtype)?.to_device(device)
}

/// Ids or positions: `i * stride` below `end`.
fn ids(device: &Device, stride: usize, end: usize) -> Result<Tensor> {
    let ids: Vec<u32> = (0..ROWS).map(|i| (i * stride % end) as u32).collect();
    Tensor::from_slice(device, [ROWS], &ids)
}

pub(super) fn rmsnorm(device: &Device, dtype: DType) -> Result<Vec<usize>> {
    let (x, residual) = (tensor(device, dtype, [ROWS, H])?.with_grad(), tensor(device, dtype, [ROWS, H])?);
    let weight = tensor(device, dtype, [1, H])?.reshape([H])?.with_grad();
    let y = ops::rmsnorm::rmsnorm(&x, &weight, 1e-5)?;
    backward_from([(&y, y.detach())])?;
    let (y, sum) = ops::rmsnorm::rmsnorm_residual(&x, &residual, &weight.detach(), 1e-5)?;
    backward_from([(&y, y.detach()), (&sum, sum.detach())])?;
    let (x, weight) = (x.detach(), weight.detach());
    ops::rmsnorm::rmsnorm_int8(&x, &weight, 1e-5, Some(THRESHOLD))?;
    ops::rmsnorm::rmsnorm_residual_int8(&x, &residual, &weight, 1e-5, Some(THRESHOLD))?;
    // Every block reads the weight; each slice of 64 rows makes a row of partial sums.
    let (tensor, weights, rstd) = (ROWS * H * dtype.size(), ROWS * H * dtype.size(), ROWS * 4);
    let (column_blocks, partial) = (H / (32 * 16 / dtype.size()), ROWS.div_ceil(64) * H * 4);
    let by_row = |tensors: usize| tensors * tensor + rstd + weights;
    let bwd_weight = 2 * tensor + column_blocks * rstd + partial;
    let int8 = ROWS * (H + 4);
    let forward = [by_row(2), by_row(3), bwd_weight, partial + H * dtype.size(), by_row(4), by_row(4)];
    Ok([&forward[..], &[by_row(2) + int8, by_row(4) + int8]].concat())
}

pub(super) fn rope(device: &Device, dtype: DType) -> Result<Vec<usize>> {
    let table = ops::rope::RopeTable::new(device, D, 8192, 500_000.0, None)?;
    let (q, k) = (tensor(device, dtype, [ROWS, NH * D])?, tensor(device, dtype, [ROWS, NKV * D])?);
    ops::rope::rope(q, k, &table, &ids(device, 100, 8192)?)?;
    // One lane of each of a block's 8 warps reads the position.
    Ok(vec![ROWS * (2 * (NH + NKV) * D * dtype.size() + D * 4 + 8 * 4)])
}

pub(super) fn swiglu(device: &Device, dtype: DType) -> Result<Vec<usize>> {
    let [gate, up] = [tensor(device, dtype, [ROWS, I])?.with_grad(), tensor(device, dtype, [ROWS, I])?.with_grad()];
    let y = ops::swiglu::swiglu(&gate, &up)?;
    backward_from([(&y, y.detach())])?;
    ops::swiglu::swiglu_int8(&gate.detach(), &up.detach(), Some(THRESHOLD))?;
    let [fwd, bwd] = [3, 5].map(|tensors| tensors * ROWS * I * dtype.size());
    Ok(vec![fwd, bwd, fwd + ROWS * (I + 4)])
}

/// A layer's product with its weight and both gradients, then the product of a few rows, then as many rows as make tiles
/// of 128 without slices of K.
pub(super) fn matmul(device: &Device, dtype: DType) -> Result<Vec<usize>> {
    let (n, k) = (NKV * D, H);
    let mut costs = layer(device, dtype, [ROWS, n, k])?;
    ops::matmul::matmul(&tensor(device, dtype, [FEW, k])?, &tensor(device, dtype, [n, k])?)?;
    costs.extend(match dtype {
        DType::Bf16 => vec![(n / 16 * FEW * k + n * k + FEW * n) * 2],
        _ => product([dtype; 2], FEW, n, [k, 0]),
    });
    if dtype == DType::Bf16 {
        costs.extend(layer(device, dtype, [WIDE, NKV * D / 4, H / 8])?);
    }
    Ok(costs)
}

/// The product of `[m, k]` with a weight `[n, k]`, and both gradients.
fn layer(device: &Device, dtype: DType, [m, n, k]: [usize; 3]) -> Result<Vec<usize>> {
    let (x, weight) = (tensor(device, dtype, [m, k])?.with_grad(), tensor(device, dtype, [n, k])?.with_grad());
    let y = ops::matmul::matmul(&x, &weight)?;
    backward_from([(&y, y.detach())])?;
    let product = |m, n, k| product([dtype; 2], m, n, [k, 0]);
    Ok([product(m, n, k), product(m, k, n), product(n, k, m)].concat())
}

/// A layer's product with an adapter, and the gradients of what goes in and of the adapter.
pub(super) fn lora(device: &Device, dtype: DType) -> Result<Vec<usize>> {
    let (n, k, r) = (NKV * D, H, 16);
    let (x, weight) = (tensor(device, dtype, [ROWS, k])?.with_grad(), tensor(device, dtype, [n, k])?);
    let [a, b] = [tensor(device, DType::F32, [r, k])?.with_grad(), tensor(device, DType::F32, [n, r])?.with_grad()];
    let key = Dropout { p: 0.1, seed: 1, step: 1, site: 0, first_element: 0 };
    let y = ops::lora::lora(&x, &weight, &a, &b, 2.0, Some(key), None)?;
    backward_from([(&y, y.detach())])?;
    let [alike, in_f32] = [[dtype; 2], [dtype, DType::F32]];
    // Each block of a matrix, one for 2048 elements of the largest, reads its 40 bytes of the table.
    let operands = vec![(r * k + n * r) * (4 + dtype.size()) + 2 * (r * k).div_ceil(2048) * 40];
    let forward = [product(alike, ROWS, r, [k, 0]), product(alike, ROWS, n, [k, r])];
    let backward = [product(alike, ROWS, r, [n, 0]), product(alike, ROWS, k, [n, r])];
    let of_adapter = [product(in_f32, r, k, [ROWS, 0]), product(in_f32, n, r, [ROWS, 0])];
    Ok([&[operands][..], &forward, &backward, &of_adapter].concat().concat())
}

/// A layer's product in int8, and its input's gradient in int8 and as floats; then the product of a few rows.
pub(super) fn int8_matmul(device: &Device, dtype: DType) -> Result<Vec<usize>> {
    let ([m, n, k], mut costs) = ([ROWS, NKV * D, H], Vec::new());
    for backward in [Backward::Int8, Backward::Dequant] {
        let method = Method { backward, ..Method::default() };
        let weight = Int8::quantize(&tensor(&Device::Cpu, DType::F32, [n, k])?, method)?.to_device(device)?;
        let x = tensor(device, dtype, [m, k])?.with_grad();
        let y = ops::int8_matmul::int8_matmul(&x, &weight)?;
        backward_from([(&y, y.detach())])?;
        // Rows are read and made once; the flags of no column are read, and that there is none is stored.
        let rows = |width: usize| m * width * (dtype.size() + 1) + m * 4;
        costs.extend([rows(k), k / 8 + 4]);
        let split = SplitK::of_int8(dtype, m, n, k);
        costs.push(tiles(split, [m, n, k], [8, 8], dtype) + split.tiles * split.slices * scales(split));
        let split = match backward {
            Backward::Int8 => {
                costs.push(rows(n) + m * n * 4); // each row by the scales of the columns
                SplitK::of_int8(DType::Bf16, m, k, n)
            }
            Backward::Dequant => SplitK::of_codes(dtype, true, [m, k, n]),
        };
        let left = if backward == Backward::Int8 { 8 } else { 8 * dtype.size() };
        costs.push(tiles(split, [m, k, n], [left, 8], dtype));
    }
    let weight = Int8::quantize(&tensor(&Device::Cpu, DType::F32, [n, k])?, Method::default())?.to_device(device)?;
    ops::int8_matmul::int8_matmul(&tensor(device, dtype, [FEW, k])?, &weight)?;
    let rows = n / 16 * FEW * k + n * k + FEW * n * (dtype.size() + 8); // with both scales of each result
    costs.extend([FEW * k * (dtype.size() + 1) + FEW * 4, k / 8 + 4, rows]);
    Ok(costs)
}

/// Bytes of the scales of a tile's rows and columns.
fn scales(split: SplitK) -> usize {
    split.tile.size().iter().sum::<usize>() * 4
}

/// A layer's product with a weight of 4 bits, and its input's gradient; then the product of a few rows.
pub(super) fn nf4(device: &Device, dtype: DType) -> Result<Vec<usize>> {
    let (m, n, k) = (ROWS, NKV * D, H);
    let weight = ops::nf4::quantize(&tensor(&Device::Cpu, DType::F32, [n, k])?, ops::nf4::Kind::Nf4, 64, false)?;
    let weight = Arc::new(Quantized::FourBit(weight.to_device(device)?));
    let x = tensor(device, dtype, [m, k])?.with_grad();
    let layer = Projection { weight: Weight::Quantized(&weight), adapter: None, residual: None };
    let operands = Operands::of_groups(device, dtype, &[vec![None]])?;
    for operands in &operands {
        for y in ops::lora::linears(&x, &[layer], operands, None)? {
            backward_from([(&y, y.detach())])?;
        }
        ops::lora::linears(&tensor(device, dtype, [FEW, k])?, &[layer], operands, None)?;
    }
    // Half a byte an element, and of 64 the scale.
    let cost = |m, n, k| {
        tiles(SplitK::of_codes(dtype, true, [m, n, k]), [m, n, k], [8 * dtype.size(), 4], dtype)
            + n * k * m.div_ceil(64) * 4 / 64
    };
    let few = match dtype {
        DType::Bf16 => (n / 16 * FEW * k + FEW * n) * 2 + n * k / 2 + n * k / 64 * 4,
        _ => cost(FEW, n, k),
    };
    Ok(vec![cost(m, n, k), cost(m, k, n), few])
}

/// The bytes of a launch of `[m, k]` by `[k, n]`, whose elements are of so many bits, in tiles.
fn tiles(split: SplitK, [m, n, k]: [usize; 3], bits: [usize; 2], out: DType) -> usize {
    let [rows, columns] = split.tile.size();
    let results = if split.slices == 1 { out.size() } else { 4 * split.slices };
    (m * n.div_ceil(columns) * bits[0] + n * m.div_ceil(rows) * bits[1]) * k / 8 + m * n * results
}

/// The bytes of each launch of `[m, k]` by `[k, n]`, and `[m, k2]` by `[k2, n]` on top, in tiles: each reads its rows and its columns; slices of K
/// are stored apart, then added.
fn product([dtype, out]: [DType; 2], m: usize, n: usize, [k, k2]: [usize; 2]) -> Vec<usize> {
    let split = SplitK::new(dtype, true, m, n, k);
    let [rows, columns] = split.tile.size();
    let (out, sums) = (m * n * out.size(), split.slices * m * n * 4);
    let operands = (m * n.div_ceil(columns) + n * m.div_ceil(rows)) * (k + k2) * dtype.size();
    if split.slices == 1 { vec![operands + out] } else { vec![operands + sums, sums + out] }
}

/// One sequence, and a token after it; in bf16 a long sequence of few heads too.
pub(super) fn attention(device: &Device, dtype: DType) -> Result<Vec<usize>> {
    let heads = |nh, nkv| Heads { num_attention_heads: nh, num_key_value_heads: nkv, head_dim: D };
    let [mut costs, decode] = [sequence(device, dtype, heads(NH, NKV), ROWS)?, decode(device, dtype, heads(NH, NKV))?];
    costs.extend(decode);
    if dtype == DType::Bf16 {
        costs.extend(sequence(device, dtype, heads(2, 1), LONG)?);
    }
    Ok(costs)
}

fn keys(device: &Device, dtype: DType, heads: Heads, rows: usize) -> Result<[Tensor; 2]> {
    let keys = || Ok(tensor(device, dtype, [rows, heads.num_key_value_heads * D])?.with_grad());
    Ok([keys()?, keys()?])
}

/// A sequence, forward and backward.
fn sequence(device: &Device, dtype: DType, heads: Heads, rows: usize) -> Result<Vec<usize>> {
    /// Into how many slices a sequence's keys are cut at most, each with a sum of dq of its own.
    const MOST_SLICES: usize = 8;
    let slice_keys = ops::attention::BackwardTile::new(D).keys;
    let (width, [k, v]) = (heads.num_attention_heads * D, keys(device, dtype, heads, rows)?);
    let q = tensor(device, dtype, [rows, width])?.with_grad();
    let out = ops::attention::attention(&q, &k, &v, &Segments::packed(&[rows]), heads, 0.088)?;
    backward_from([(&out, out.detach())])?;
    let [q, kv] = [width, heads.num_key_value_heads * D].map(|width| rows * width * dtype.size());
    let sums = rows * heads.num_attention_heads * 4;
    let (fwd, delta) = (2 * q + 2 * kv + sums, 2 * q + sums);
    let (dq, dkv) = (3 * q + 2 * kv + 2 * sums, 2 * q + 4 * kv + 2 * sums);
    if dtype == DType::F32 {
        return Ok(vec![fwd, delta, dq, dkv]);
    }
    // A row has a sum of dq in each slice of the keys that it sees.
    let slices: usize = (1..=rows).map(|seen| seen.div_ceil(slice_keys).min(MOST_SLICES) * width * 4).sum();
    Ok(vec![fwd, delta, dkv + slices, slices + q])
}

/// One query over a cache.
fn decode(device: &Device, dtype: DType, heads: Heads) -> Result<Vec<usize>> {
    let (nh, [k, v]) = (heads.num_attention_heads, keys(device, dtype, heads, ROWS)?);
    let q = tensor(device, dtype, [1, nh * D])?;
    ops::attention::attention(&q, &k, &v, &Segments::cached(1, ROWS), heads, 0.088)?;
    let (one, kv) = (nh * D * dtype.size(), ROWS * heads.num_key_value_heads * D * dtype.size());
    if dtype == DType::F32 {
        return Ok(vec![2 * one + 2 * kv + nh * 4]);
    }
    let parts = nh * (D + 1) * 4; // of one part of the keys
    Ok(vec![one + 2 * kv + parts, parts + one + nh * 4])
}

pub(super) fn embedding(device: &Device, dtype: DType) -> Result<Vec<usize>> {
    let weight = tensor(device, dtype, [V, H])?.with_grad();
    let y = ops::embedding::embedding(&ids(device, 7, 40)?, &weight)?;
    backward_from([(&y, y.detach())])?;
    let (row, warps) = (H * dtype.size(), (H * dtype.size() / 16).min(256) / 32);
    // 40 different ids: so many rows are read, so many sums stored. A row's warps each read its id; backward, a run's
    // warps each read its length, its id and its rows' numbers.
    let fwd = 2 * ROWS * row + ROWS * 4 * warps;
    let bwd = ROWS * row + 40 * row + (2 * ROWS * 4 + 40 * 8) * warps;
    Ok(vec![fwd, ROWS * 4 * 3, bwd])
}

pub(super) fn elementwise(device: &Device, dtype: DType) -> Result<Vec<usize>> {
    let x = tensor(device, dtype, [ROWS, H])?;
    ops::elementwise::add(&x, &x)?;
    let other = if dtype == DType::F32 { DType::Bf16 } else { DType::F32 };
    ops::elementwise::cast(&x, other)?;
    Ok(vec![3 * ROWS * H * dtype.size(), ROWS * H * (4 + 2)])
}

pub(super) fn dropout(device: &Device, dtype: DType) -> Result<Vec<usize>> {
    let key = Dropout { p: 0.1, seed: 1, step: 1, site: 0, first_element: 0 };
    ops::dropout::dropout(&tensor(device, dtype, [ROWS, H])?, key)?;
    Ok(vec![2 * ROWS * H * dtype.size()])
}

/// A quarter of the vocabulary and a sixteenth of the width: the products count as matmul's.
pub(super) fn cross_entropy(device: &Device, dtype: DType) -> Result<Vec<usize>> {
    const V: usize = 128_256 / 4;
    const H: usize = 4096 / 16;
    let (hidden, lm_head) = (tensor(device, dtype, [ROWS, H])?.with_grad(), tensor(device, dtype, [V, H])?);
    let target = |row: usize| if row.is_multiple_of(4) { IGNORE_INDEX } else { (row * 2003 % V) as i32 };
    let targets = Tensor::from_slice(&Device::Cpu, [ROWS], &(0..ROWS).map(target).collect::<Vec<_>>())?;
    no_grad(|| ops::cross_entropy::cross_entropy(&hidden, &lm_head, &targets, 1.0))?;
    let loss = ops::cross_entropy::cross_entropy(&hidden, &lm_head, &targets, 1.0)?;
    backward_from([(&loss, Tensor::from_slice(device, [], &[2f32])?)])?;
    // One thread of a row reads its target and that logit. Of what registers cannot hold, all but the last 8192 logits
    // or less, the gradient is a second read.
    let counted = ROWS - ROWS.div_ceil(4);
    let (again, row) = (counted * (V / 8192 * 8192) * 4, counted * (V * 4 + 4 + 4 + 4));
    let (row_bytes, sum) = (H * dtype.size(), counted * 4 + 4);
    let warps = (row_bytes / 16).div_ceil(32);
    Ok(vec![
        row,
        sum,
        row + counted * V * dtype.size() + again,
        (ROWS + counted) * row_bytes + ROWS * 4 * warps,
        sum,
        2 * ROWS * row_bytes + ROWS * row_bytes / 16 / 32 * 8,
    ])
}

pub(super) fn adamw(device: &Device, dtype: DType) -> Result<Vec<usize>> {
    let [mut parameter, mut m] = [tensor(device, DType::F32, [ROWS, H])?, tensor(device, DType::F32, [ROWS, H])?];
    let (mut v, gradient) = (Tensor::zeros(device, DType::F32, [ROWS, H])?, tensor(device, dtype, [ROWS, H])?);
    let update = AdamWUpdate { name: "w", parameter: &mut parameter, m: &mut m, v: &mut v, gradient: &gradient };
    ops::adamw::adamw(&mut [update], &AdamWOptions::default(), 1, &Tensor::from_slice(device, [], &[1f32])?)?;
    // Every block reads its places in the tables, 4 and 48 bytes, and one lane of each of its 8 warps the scale.
    let (chunks, places) = (ROWS * H / 8192, 4 + 48);
    Ok(vec![ROWS * H * (6 * 4 + dtype.size()) + chunks * (places + 8 * 4)])
}

pub(super) fn grad_norm(device: &Device, dtype: DType) -> Result<Vec<usize>> {
    ops::grad_norm::grad_norm(&[&tensor(device, dtype, [ROWS, H])?])?.clip_scale(1.0)?;
    let (chunks, pair) = (ROWS * H / 8192, 8);
    let partial = ROWS * H * dtype.size() + chunks * (4 + 48 + pair);
    Ok(vec![partial, 4 + 8 + chunks * pair + pair, pair + 4])
}

#[cfg(test)]
mod tests {
    use super::refuse_uncounted;

    #[test]
    fn a_launch_without_a_cost_is_an_error() {
        assert!(refuse_uncounted("rope", 2, 2).is_ok());
        let error = refuse_uncounted("rope", 3, 2).unwrap_err();
        assert_eq!(error.to_string(), "kernels profile: rope: 3 launches, but costs of 2");
    }
}
