//! What is timed: each op at the widths of Llama-3-8B. `scripts/gpu_check.py` does the same with PyTorch, by the same names.

use std::sync::Arc;

use super::{Bench, Cost, random};
use crate::autograd::{Tensor, backward, backward_from, no_grad};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops;
use crate::ops::adamw::{AdamWOptions, AdamWUpdate};
use crate::ops::attention::{Heads, Segments};
use crate::ops::dropout::Dropout;
use crate::ops::int8_matmul::{Int8, Method};
use crate::ops::lora::{Operands, Projection};
use crate::ops::weight::{Quantized, Weight};

type Work = fn(&mut Bench) -> Result<()>;

pub(super) const OPS: &[(&str, Work)] = &[
    ("rmsnorm", rmsnorm),
    ("rope", rope),
    ("swiglu", swiglu),
    ("attention", attention),
    ("matmul", matmul),
    ("lora", lora),
    ("int8_matmul", int8_matmul),
    ("nf4", nf4),
    ("cross_entropy", cross_entropy),
    ("embedding", embedding),
    ("elementwise", elementwise),
    ("dropout", dropout),
    ("adamw", adamw),
    ("grad_norm", grad_norm),
];

/// Hidden and intermediate sizes, heads, key/value heads, head_dim and a cut of the vocabulary.
const H: usize = 4096;
const I: usize = 14_336;
const NH: usize = 32;
const NKV: usize = 8;
const D: usize = 128;
const V: usize = 1024;

fn rmsnorm(bench: &mut Bench) -> Result<()> {
    let (x, weight) = (bench.tensor([bench.rows, H])?.with_grad(), bench.tensor([H])?.with_grad());
    let y = bench.step("rmsnorm forward", bench.bytes(2 * H), || ops::rmsnorm::rmsnorm(&x, &weight, 1e-5))?;
    // dx of x and dy, then dweight of both.
    bench.step("rmsnorm backward", bench.bytes(5 * H), || backward_from([(&y, y.detach())]))?;
    let (x, weight) = (x.detach(), weight.detach());
    bench.step("rmsnorm residual", bench.bytes(4 * H), || {
        ops::rmsnorm::rmsnorm_residual(&x, &y.detach(), &weight, 1e-5)
    })?;
    Ok(())
}

fn rope(bench: &mut Bench) -> Result<()> {
    let table = ops::rope::RopeTable::new(&bench.device, D, 8192, 500_000.0, None)?;
    let (q, k) = (bench.tensor([bench.rows, NH * D])?, bench.tensor([bench.rows, NKV * D])?);
    let positions = bench.ids(1, 8192)?;
    bench.step("rope", bench.bytes(2 * (NH + NKV) * D), || ops::rope::rope(q, k, &table, &positions))?;
    Ok(())
}

fn swiglu(bench: &mut Bench) -> Result<()> {
    let [gate, up] = [bench.tensor([bench.rows, I])?.with_grad(), bench.tensor([bench.rows, I])?.with_grad()];
    let y = bench.step("swiglu forward", bench.bytes(3 * I), || ops::swiglu::swiglu(&gate, &up))?;
    bench.step("swiglu backward", bench.bytes(5 * I), || backward_from([(&y, y.detach())]))?;
    Ok(())
}

/// Causal, of sequences of 2048 tokens; and one query over a cache of all tokens. Operations are those of what a query sees.
fn attention(bench: &mut Bench) -> Result<()> {
    let heads = Heads { num_attention_heads: NH, num_key_value_heads: NKV, head_dim: D };
    let scale = (D as f32).sqrt().recip();
    let lengths: Vec<usize> = (0..bench.rows).step_by(2048).map(|first| (bench.rows - first).min(2048)).collect();
    let segments = Segments::packed(&lengths);
    let shapes = [[bench.rows, NH * D], [bench.rows, NKV * D], [bench.rows, NKV * D]];
    let [q, k, v] = shapes.map(|shape| bench.tensor(shape).map(Tensor::with_grad));
    let (q, k, v) = (q?, k?, v?);
    let product = lengths.iter().map(|length| length * (length + 1)).sum::<usize>() * NH * D;
    let run = || ops::attention::attention(&q, &k, &v, &segments, heads, scale);
    let out = bench.step("attention forward", Cost::Operations(2 * product), run)?;
    bench.step("attention backward", Cost::Operations(5 * product), || backward_from([(&out, out.detach())]))?;
    let (query, cache) = (bench.tensor([1, NH * D])?, Segments::cached(1, bench.rows));
    bench.step("attention one query", bench.bytes(2 * NKV * D), || {
        ops::attention::attention(&query, &k.detach(), &v.detach(), &cache, heads, scale)
    })?;
    Ok(())
}

/// A layer's product and its gradients, of all tokens, and the product of one.
fn matmul(bench: &mut Bench) -> Result<()> {
    for (k, n) in [(H, H), (H, I), (I, H)].map(|(k, n)| (bench.width(k), bench.width(n))) {
        let operations = Cost::Operations(2 * bench.rows * n * k);
        let (x, weight) = (bench.tensor([bench.rows, k])?.with_grad(), bench.tensor([n, k])?);
        let y = bench.step(format!("matmul {k} to {n}"), operations, || ops::matmul::matmul(&x, &weight))?;
        bench.step(format!("matmul {k} to {n} dx"), operations, || backward_from([(&y, y.detach())]))?;
        let (x, weight) = (x.detach(), weight.with_grad());
        let y = ops::matmul::matmul(&x, &weight)?;
        bench.step(format!("matmul {k} to {n} dw"), operations, || backward_from([(&y, y.detach())]))?;
        let row = bench.tensor([1, k])?;
        let bytes = Cost::Bytes(n * k * bench.dtype.size());
        bench.step(format!("matmul {k} to {n} one row"), bytes, || ops::matmul::matmul(&row, &weight.detach()))?;
    }
    Ok(())
}

/// A frozen base with an adapter of rank 16.
fn lora(bench: &mut Bench) -> Result<()> {
    let (h, r) = (bench.width(H), 16);
    let (x, weight) = (bench.tensor([bench.rows, h])?.with_grad(), bench.tensor([h, h])?);
    let [a, b] = [bench.tensor_of(DType::F32, [r, h])?.with_grad(), bench.tensor_of(DType::F32, [h, r])?.with_grad()];
    let (base, adapter) = (2 * bench.rows * h * h, 4 * bench.rows * h * r);
    let forward = Cost::Operations(base + adapter);
    let y = bench.step("lora forward", forward, || ops::lora::lora(&x, &weight, &a, &b, 2.0, None, None))?;
    bench.step("lora backward", Cost::Operations(base + 2 * adapter), || backward_from([(&y, y.detach())]))?;
    Ok(())
}

/// A frozen layer in int8, without outliers, and with them in one column of a hundred and in one of ten.
fn int8_matmul(bench: &mut Bench) -> Result<()> {
    let (k, n) = (bench.width(H), bench.width(I));
    let floats = random(&Device::Cpu, DType::F32, [n, k].into(), 1.0, 1)?;
    let weight = Int8::quantize(&floats, Method::default())?.to_device(&bench.device)?;
    let operations = Cost::Operations(2 * bench.rows * n * k);
    for (name, every) in [("", None), (" 1% outliers", Some(100)), (" 10% outliers", Some(10))] {
        let scale = |column: usize| if every.is_some_and(|every| column.is_multiple_of(every)) { 20.0 } else { 1.0 };
        let x = with_columns(bench, &(0..k).map(scale).collect::<Vec<_>>())?.with_grad();
        let y = bench
            .step(format!("int8_matmul {k} to {n}{name}"), operations, || ops::int8_matmul::int8_matmul(&x, &weight))?;
        if name.is_empty() {
            bench.step(format!("int8_matmul {k} to {n} dx"), operations, || backward_from([(&y, y.detach())]))?;
        }
    }
    let (row, bytes) = (bench.tensor([1, k])?, Cost::Bytes(n * k));
    bench.step(format!("int8_matmul {k} to {n} one row"), bytes, || ops::int8_matmul::int8_matmul(&row, &weight))?;
    Ok(())
}

/// Random rows, each column times its scale.
fn with_columns(bench: &Bench, scale: &[f32]) -> Result<Tensor> {
    const OWN: usize = 64;
    let k = scale.len();
    let mut values = random(&Device::Cpu, DType::F32, [OWN, k].into(), 1.0, 2)?;
    for row in values.slice_mut::<f32>()?.chunks_mut(k) {
        row.iter_mut().zip(scale).for_each(|(x, scale)| *x *= scale);
    }
    let own = ops::elementwise::cast(&values, bench.dtype)?.to_device(&bench.device)?;
    let mut x = Tensor::uninit(&bench.device, bench.dtype, [bench.rows, k])?;
    for first in (0..bench.rows).step_by(OWN) {
        x.write_rows(first, &own.copy_rows(0..OWN.min(bench.rows - first))?)?;
    }
    Ok(x)
}

/// A frozen layer in 4 bits.
fn nf4(bench: &mut Bench) -> Result<()> {
    let (k, n) = (bench.width(H), bench.width(I));
    let floats = random(&Device::Cpu, DType::F32, [n, k].into(), 1.0, 1)?;
    let weight = ops::nf4::quantize(&floats, ops::nf4::Kind::Nf4, 64, false)?.to_device(&bench.device)?;
    let weight = Arc::new(Quantized::FourBit(weight));
    let layer = [Projection { weight: Weight::Quantized(&weight), adapter: None, residual: None }];
    let operands = Operands::of_groups(&bench.device, bench.dtype, &[vec![None]])?;
    let Some(operands) = operands.first() else { return Ok(()) };
    let operations = Cost::Operations(2 * bench.rows * n * k);
    let x = bench.tensor([bench.rows, k])?.with_grad();
    let run = || ops::lora::linears(&x, &layer, operands, None);
    for y in bench.step(format!("nf4 {k} to {n}"), operations, run)? {
        bench.step(format!("nf4 {k} to {n} dx"), operations, || backward_from([(&y, y.detach())]))?;
    }
    let (row, bytes) = (bench.tensor([1, k])?, Cost::Bytes(n * k / 2));
    bench.step(format!("nf4 {k} to {n} one row"), bytes, || ops::lora::linears(&row, &layer, operands, None))?;
    Ok(())
}

/// The loss of all tokens over the whole vocabulary, and as in training with the gradient of what goes in.
fn cross_entropy(bench: &mut Bench) -> Result<()> {
    let (rows, h, v) = (bench.rows, bench.width(H), bench.width(128_256));
    let (hidden, lm_head) = (bench.tensor([rows, h])?.with_grad(), bench.tensor([v, h])?);
    let targets: Vec<i32> = (0..rows).map(|row| (row * 7 % v) as i32).collect();
    let targets = Tensor::from_slice(&Device::Cpu, [rows], &targets)?;
    let loss = || ops::cross_entropy::cross_entropy(&hidden, &lm_head, &targets, rows as f32);
    let product = 2 * rows * h * v;
    bench.step("cross_entropy", Cost::Operations(product), || no_grad(loss))?;
    bench.step("cross_entropy and dhidden", Cost::Operations(2 * product), || backward(&loss()?).map(|_| ()))
}

fn embedding(bench: &mut Bench) -> Result<()> {
    let (ids, weight) = (bench.ids(7, 997)?, bench.tensor([V, H])?.with_grad());
    let y = bench.step("embedding forward", bench.bytes(2 * H), || ops::embedding::embedding(&ids, &weight))?;
    bench.step("embedding backward", bench.bytes(H), || backward_from([(&y, y.detach())]))?;
    Ok(())
}

fn elementwise(bench: &mut Bench) -> Result<()> {
    let x = bench.tensor([bench.rows, H])?;
    bench.step("add", bench.bytes(3 * H), || ops::elementwise::add(&x, &x))?;
    let other = if bench.dtype == DType::F32 { DType::Bf16 } else { DType::F32 };
    bench.step("cast", Cost::Bytes(bench.rows * H * (4 + 2)), || ops::elementwise::cast(&x, other))?;
    Ok(())
}

fn dropout(bench: &mut Bench) -> Result<()> {
    let x = bench.tensor([bench.rows, H])?;
    let key = Dropout { p: 0.1, seed: 1, step: 1, site: 0, first_element: 0 };
    bench.step("dropout", bench.bytes(2 * H), || ops::dropout::dropout(&x, key))?;
    Ok(())
}

/// A parameter in f32 whose gradient has the dtype.
fn adamw(bench: &mut Bench) -> Result<()> {
    let shape = [bench.rows, H];
    let [mut parameter, mut m, mut v] =
        [bench.tensor_of(DType::F32, shape)?, zeros(bench, shape)?, zeros(bench, shape)?];
    let (gradient, scale) = (bench.tensor(shape)?, Tensor::from_slice(&bench.device, [], &[1f32])?);
    let cost = Cost::Bytes(bench.rows * H * (6 * 4 + bench.dtype.size()));
    bench.step("adamw", cost, || {
        let update = AdamWUpdate { name: "w", parameter: &mut parameter, m: &mut m, v: &mut v, gradient: &gradient };
        ops::adamw::adamw(&mut [update], &AdamWOptions::default(), 1, &scale)
    })
}

fn zeros(bench: &Bench, shape: [usize; 2]) -> Result<Tensor> {
    Tensor::zeros(&bench.device, DType::F32, shape)
}

fn grad_norm(bench: &mut Bench) -> Result<()> {
    let x = bench.tensor([bench.rows, H])?;
    bench.step("grad_norm", bench.bytes(H), || ops::grad_norm::grad_norm(&[&x]))?;
    Ok(())
}
