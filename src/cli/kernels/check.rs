//! One random case of each op: its results on a device, and what its specification says they are.

use std::sync::Arc;

use half::bf16;
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

use crate::autograd::{Tensor, backward_from};
use crate::device::Device;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::expected;
use crate::ops;
use crate::ops::adamw::{AdamWOptions, AdamWUpdate};
use crate::ops::dropout::Dropout;
use crate::ops::int8_matmul::{Backward, Int8, Method};
use crate::ops::lora::{Operands, Projection};
use crate::ops::weight::{Quantized, Weight};
use crate::reference::lora::Lora;
use crate::reference::tolerance::{Errors, Expected};
use crate::reference::{self, Real};

/// A result and its specification.
pub(super) struct Found {
    what: &'static str,
    values: Vec<f64>,
    dtype: DType,
    expected: Expected,
}

/// Runs one case.
pub(super) type Case = fn(&mut Draw<'_>) -> Result<Vec<Found>>;

/// Where a case runs, and its random numbers.
pub(super) struct Draw<'a> {
    pub(super) device: &'a Device,
    pub(super) dtype: DType,
    pub(super) random: ChaCha8Rng,
}

/// The largest share of its bound that an error takes, or the first result that is wrong, in words.
pub(super) fn judge(found: &[Found]) -> std::result::Result<f64, String> {
    let mut largest = 0f64;
    for Found { what, values, dtype, expected } in found {
        let Errors { worst, bound } = expected.errors(values, |v| round(v, *dtype), digits(*dtype));
        if values.len() != expected.exact.len() || worst.is_nan() || worst > bound {
            return Err(format!("{what}: error {worst:e} above the bound {bound:e} ({dtype})"));
        }
        if worst > 0.0 {
            largest = largest.max(worst / bound);
        }
    }
    Ok(largest)
}

fn round(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::Bf16 => f64::from(bf16::from_f64(value).to_f32()),
        _ => f64::from(value as f32),
    }
}

fn digits(dtype: DType) -> i32 {
    if dtype == DType::Bf16 { 7 } else { 23 }
}

fn cast<R: Real>(values: &[f64]) -> Vec<R> {
    values.iter().map(|&v| R::from_f64(v)).collect()
}

impl Draw<'_> {
    /// A size from 1 to about `most`, often small, often no multiple of anything.
    fn size(&mut self, most: usize) -> usize {
        let most = if self.random.random() { most } else { most.min(70) };
        self.random.random_range(1..=most)
    }

    /// Values of about unit size, as the dtype stores them.
    fn values(&mut self, n: usize, dtype: DType) -> Vec<f64> {
        let mut unit = || self.random.random_range(-1.0..1.0f64);
        (0..n).map(|_| round(unit() + unit() + unit(), dtype)).collect()
    }

    fn tensor(&self, values: &[f64], dtype: DType, shape: impl Into<crate::shape::Shape>) -> Result<Tensor> {
        match dtype {
            DType::Bf16 => {
                let values: Vec<bf16> = values.iter().map(|&v| Float::from_f32(v as f32)).collect();
                Tensor::from_slice(self.device, shape, &values)
            }
            _ => Tensor::from_slice(self.device, shape, &values.iter().map(|&v| v as f32).collect::<Vec<_>>()),
        }
    }

    fn ids(&mut self, n: usize, end: usize) -> Vec<u32> {
        (0..n).map(|_| self.random.random_range(0..end as u32)).collect()
    }
}

fn found(what: &'static str, tensor: &Tensor, expected: Expected) -> Result<Found> {
    let dtype = tensor.dtype();
    let values = match dtype {
        DType::Bf16 => tensor.to_vec::<bf16>()?.iter().map(|v| f64::from(v.to_f32())).collect(),
        _ => tensor.to_vec::<f32>()?.into_iter().map(f64::from).collect(),
    };
    Ok(Found { what, values, dtype, expected })
}

/// The gradient of a leaf, which must have arrived there.
fn gradient(what: &'static str, gradient: Option<&Tensor>, expected: Expected) -> Result<Found> {
    let missing = || Error::input("kernels check", format!("{what}: the backward pass gave no gradient"));
    found(what, gradient.ok_or_else(missing)?, expected)
}

pub(super) fn rmsnorm(draw: &mut Draw<'_>) -> Result<Vec<Found>> {
    const EPS: f64 = 1e-5;
    let (dtype, rows, h) = (draw.dtype, draw.size(100), draw.size(2000));
    let [x, dy] = [0, 1].map(|_| draw.values(rows * h, dtype));
    let w = draw.values(h, dtype);
    let tx = draw.tensor(&x, dtype, [rows, h])?.with_grad();
    let tw = draw.tensor(&w, dtype, [h])?.with_grad();
    let y = ops::rmsnorm::rmsnorm(&tx, &tw, EPS as f32)?;
    let gradients = backward_from([(&y, draw.tensor(&dy, dtype, [rows, h])?)])?;
    let mut results =
        vec![found("y", &y, expected!(R => reference::rmsnorm::forward::<R>(&cast(&x), &cast(&w), EPS).0))?];
    let backward = expected!(R => reference::rmsnorm::backward::<R>(&cast(&dy), &cast(&x), &cast(&w), EPS).0);
    results.push(gradient("dx", gradients.get(&tx), backward)?);
    let backward = expected!(R => reference::rmsnorm::backward::<R>(&cast(&dy), &cast(&x), &cast(&w), EPS).1);
    results.push(gradient("dweight", gradients.get(&tw), backward)?);
    Ok(results)
}

pub(super) fn rope(draw: &mut Draw<'_>) -> Result<Vec<Found>> {
    let (dtype, rows, d) = (draw.dtype, draw.size(100), 2 * draw.size(64));
    let [heads, kv_heads] = [draw.size(8), draw.size(4)];
    let angles = reference::rope::frequencies(d, 1e4);
    let table = ops::rope::RopeTable::new(draw.device, d, 1000, 1e4, None)?;
    let at = draw.ids(rows, 1000);
    let positions = Tensor::from_slice(draw.device, [rows], &at)?;
    let [q, dq] = [0, 1].map(|_| draw.values(rows * heads * d, dtype));
    let k = draw.values(rows * kv_heads * d, dtype);
    let tq = draw.tensor(&q, dtype, [rows, heads * d])?.with_grad();
    let tk = draw.tensor(&k, dtype, [rows, kv_heads * d])?;
    let (yq, yk) = ops::rope::rope(tq.clone(), tk, &table, &positions)?;
    let gradients = backward_from([(&yq, draw.tensor(&dq, dtype, [rows, heads * d])?)])?;
    let mut results = vec![
        found("q", &yq, expected!(R => reference::rope::forward::<R>(&cast(&q), &at, &angles)))?,
        found("k", &yk, expected!(R => reference::rope::forward::<R>(&cast(&k), &at, &angles)))?,
    ];
    let backward = expected!(R => reference::rope::backward::<R>(&cast(&dq), &at, &angles));
    results.push(gradient("dq", gradients.get(&tq), backward)?);
    Ok(results)
}

pub(super) fn swiglu(draw: &mut Draw<'_>) -> Result<Vec<Found>> {
    let (dtype, n) = (draw.dtype, draw.size(20_000));
    let [gate, up, dy] = [4.0, 1.0, 1.0].map(|scale| {
        let values = draw.values(n, dtype);
        values.iter().map(|v| scale * v).collect::<Vec<f64>>()
    });
    let [tgate, tup] = [draw.tensor(&gate, dtype, [n])?.with_grad(), draw.tensor(&up, dtype, [n])?.with_grad()];
    let y = ops::swiglu::swiglu(&tgate, &tup)?;
    let gradients = backward_from([(&y, draw.tensor(&dy, dtype, [n])?)])?;
    let mut results = vec![found("y", &y, expected!(R => reference::swiglu::forward::<R>(&cast(&gate), &cast(&up))))?];
    let backward = expected!(R => reference::swiglu::backward::<R>(&cast(&dy), &cast(&gate), &cast(&up)).0);
    results.push(gradient("dgate", gradients.get(&tgate), backward)?);
    let backward = expected!(R => reference::swiglu::backward::<R>(&cast(&dy), &cast(&gate), &cast(&up)).1);
    results.push(gradient("dup", gradients.get(&tup), backward)?);
    Ok(results)
}

pub(super) fn matmul(draw: &mut Draw<'_>) -> Result<Vec<Found>> {
    let (dtype, rows, n, k) = (draw.dtype, draw.size(200), draw.size(200), draw.size(1500));
    let (x, w, dy) = (draw.values(rows * k, dtype), draw.values(n * k, dtype), draw.values(rows * n, dtype));
    let tx = draw.tensor(&x, dtype, [rows, k])?.with_grad();
    let tw = draw.tensor(&w, dtype, [n, k])?.with_grad();
    let y = ops::matmul::matmul(&tx, &tw)?;
    let gradients = backward_from([(&y, draw.tensor(&dy, dtype, [rows, n])?)])?;
    let mut results = vec![found("y", &y, expected!(R => reference::matmul::forward::<R>(&cast(&x), &cast(&w), k)))?];
    let backward = expected!(R => reference::matmul::backward::<R>(&cast(&dy), &cast(&x), &cast(&w), k).0);
    results.push(gradient("dx", gradients.get(&tx), backward)?);
    let backward = expected!(R => reference::matmul::backward::<R>(&cast(&dy), &cast(&x), &cast(&w), k).1);
    results.push(gradient("dweight", gradients.get(&tw), backward)?);
    Ok(results)
}

pub(super) fn lora(draw: &mut Draw<'_>) -> Result<Vec<Found>> {
    const SCALING: f64 = 2.0;
    let (dtype, rows, n, k, r) = (draw.dtype, draw.size(200), draw.size(200), draw.size(1500), draw.size(40));
    let [x, w, dy] = [rows * k, n * k, rows * n].map(|n| draw.values(n, dtype));
    let [a, b] = [r * k, n * r].map(|n| draw.values(n, DType::F32));
    let leaves = [
        ("dx", draw.tensor(&x, dtype, [rows, k])?.with_grad()),
        ("dweight", draw.tensor(&w, dtype, [n, k])?.with_grad()),
        ("dlora_a", draw.tensor(&a, DType::F32, [r, k])?.with_grad()),
        ("dlora_b", draw.tensor(&b, DType::F32, [n, r])?.with_grad()),
    ];
    let [tx, tw, ta, tb] = leaves.each_ref().map(|(_, leaf)| leaf);
    let y = ops::lora::lora(tx, tw, ta, tb, SCALING as f32, None, None)?;
    let gradients = backward_from([(&y, draw.tensor(&dy, dtype, [rows, n])?)])?;
    let ones = vec![1.0; rows * k];
    let layer = Lora { w, a, b, scaling: SCALING, mask: ones };
    let mut results = vec![found("y", &y, expected!(R => cast_layer::<R>(&layer).forward(&cast(&x), k)))?];
    for (i, (name, leaf)) in leaves.iter().enumerate() {
        let backward = expected!(R => {
            let gradients = cast_layer::<R>(&layer).backward(&cast(&dy), &cast(&x), k);
            gradients.into_iter().nth(i).unwrap_or_default()
        });
        // The adapter's side is rounded as x is.
        results.push(Found { dtype, ..gradient(name, gradients.get(leaf), backward)? });
    }
    Ok(results)
}

/// Activations of which one in fifty is an outlier, and every way of the gradient.
pub(super) fn int8_matmul(draw: &mut Draw<'_>) -> Result<Vec<Found>> {
    let (dtype, rows, n, k) = (draw.dtype, draw.size(200), draw.size(200), draw.size(1500));
    let (mut x, w, dy) = (draw.values(rows * k, dtype), draw.values(n * k, DType::F32), draw.values(rows * n, dtype));
    let first = draw.size(50) - 1;
    x.iter_mut().skip(first).step_by(50).for_each(|x| *x = round(*x + 8f64.copysign(*x), dtype));
    let backward = if draw.random.random() { Backward::Int8 } else { Backward::Dequant };
    let method = Method { backward, ..Method::default() };
    let on_cpu = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<_>>();
    let weight = Int8::quantize(&Tensor::from_slice(&Device::Cpu, [n, k], &on_cpu(&w))?, method)?;
    let tx = draw.tensor(&x, dtype, [rows, k])?.with_grad();
    let y = ops::int8_matmul::int8_matmul(&tx, &weight.to_device(draw.device)?)?;
    let gradients = backward_from([(&y, draw.tensor(&dy, dtype, [rows, n])?)])?;
    let rows_of = |values: &[f64], threshold| reference::int8_matmul::quantize(&on_cpu(values), k, threshold);
    let (qx, qw) = (rows_of(&x, method.threshold), rows_of(&w, 0.0));
    let forward = expected!(R => reference::int8_matmul::forward::<R>(&qx, &qw));
    let qdy = reference::int8_matmul::quantize_gradient(&on_cpu(&dy), &qw);
    let floats = reference::int8_matmul::dequantize::<f64>(&qw).iter().map(|w| round(*w, dtype)).collect::<Vec<_>>();
    let backward = expected!(R => match backward {
        Backward::Int8 => reference::int8_matmul::backward::<R>(&qdy, &qw, k),
        Backward::Dequant => reference::matmul::backward::<R>(&cast(&dy), &cast(&x), &cast(&floats), k).0,
    });
    Ok(vec![found("y", &y, forward)?, gradient("dx", gradients.get(&tx), backward)?])
}

/// A layer of either kind, with nested scales or plain.
pub(super) fn nf4(draw: &mut Draw<'_>) -> Result<Vec<Found>> {
    let (dtype, rows, n, k) = (draw.dtype, draw.size(200), draw.size(200), draw.size(1500));
    let (x, w, dy) = (draw.values(rows * k, dtype), draw.values(n * k, DType::F32), draw.values(rows * n, dtype));
    let kind = if draw.random.random() { ops::nf4::Kind::Nf4 } else { ops::nf4::Kind::Fp4 };
    let w: Vec<f32> = w.iter().map(|&w| w as f32).collect();
    let weight = ops::nf4::quantize(&Tensor::from_slice(&Device::Cpu, [n, k], &w)?, kind, 64, draw.random.random())?;
    let floats: Vec<f64> =
        weight.dequantize(DType::F32)?.to_vec::<f32>()?.iter().map(|&w| round(w.into(), dtype)).collect();
    let weight = Arc::new(Quantized::FourBit(weight.to_device(draw.device)?));
    let tx = draw.tensor(&x, dtype, [rows, k])?.with_grad();
    let layer = Projection { weight: Weight::Quantized(&weight), adapter: None, residual: None };
    let operands = Operands::of_groups(draw.device, dtype, &[vec![None]])?;
    let none = || Error::input("kernels check", "a layer without output");
    let y = ops::lora::linears(&tx, &[layer], operands.first().ok_or_else(none)?, None)?.pop().ok_or_else(none)?;
    let gradients = backward_from([(&y, draw.tensor(&dy, dtype, [rows, n])?)])?;
    let forward = expected!(R => reference::matmul::forward::<R>(&cast(&x), &cast(&floats), k));
    let backward = expected!(R => reference::matmul::backward::<R>(&cast(&dy), &cast(&x), &cast(&floats), k).0);
    Ok(vec![found("y", &y, forward)?, gradient("dx", gradients.get(&tx), backward)?])
}

fn cast_layer<R: Real>(Lora { w, a, b, scaling, mask }: &Lora<f64>) -> Lora<R> {
    Lora { w: cast(w), a: cast(a), b: cast(b), scaling: R::from_f64(*scaling), mask: cast(mask) }
}

pub(super) fn attention(draw: &mut Draw<'_>) -> Result<Vec<Found>> {
    let (nkv, group, d) = (draw.size(3), draw.size(4), 8 * draw.size(16));
    let (nh, scale) = (nkv * group, f64::from(1.0 / (d as f32).sqrt()));
    let mut segments = Vec::new();
    let (mut rows, mut key_rows) = (0, 0);
    for _ in 0..draw.size(2) {
        let (queries, earlier) = (draw.size(80), draw.size(80) - 1);
        segments.push((rows..rows + queries, key_rows..key_rows + earlier + queries));
        (rows, key_rows) = (rows + queries, key_rows + earlier + queries);
    }
    let (dtype, heads) = (draw.dtype, [nh, nkv, d]);
    let [q, dout] = [0, 1].map(|_| draw.values(rows * nh * d, dtype));
    let [k, v] = [0, 1].map(|_| draw.values(key_rows * nkv * d, dtype));
    let tq = draw.tensor(&q, dtype, [rows, nh * d])?.with_grad();
    let [tk, tv] = [
        draw.tensor(&k, dtype, [key_rows, nkv * d])?.with_grad(),
        draw.tensor(&v, dtype, [key_rows, nkv * d])?.with_grad(),
    ];
    let sequences = segments.iter().map(|(queries, keys)| (queries.len(), keys.clone()));
    let sequences = ops::attention::Segments::caches(sequences);
    let shape = ops::attention::Heads { num_attention_heads: nh, num_key_value_heads: nkv, head_dim: d };
    let out = ops::attention::attention(&tq, &tk, &tv, &sequences, shape, scale as f32)?;
    let gradients = backward_from([(&out, draw.tensor(&dout, dtype, [rows, nh * d])?)])?;
    let forward = expected!(R => {
        reference::attention::forward::<R>(&cast(&q), &cast(&k), &cast(&v), &segments, heads, scale)
    });
    let mut results = vec![found("out", &out, forward)?];
    for (i, (name, x)) in [("dq", &tq), ("dk", &tk), ("dv", &tv)].into_iter().enumerate() {
        let backward = expected!(R => {
            let [dout, q, k, v] = [&dout, &q, &k, &v].map(|x| cast::<R>(x));
            let gradients = reference::attention::backward(&dout, &q, &k, &v, &segments, heads, scale);
            gradients.into_iter().nth(i).unwrap_or_default()
        });
        results.push(gradient(name, gradients.get(x), backward)?);
    }
    Ok(results)
}

pub(super) fn embedding(draw: &mut Draw<'_>) -> Result<Vec<Found>> {
    let (dtype, rows, v, h) = (draw.dtype, draw.size(300), draw.size(100), draw.size(600));
    let ids = draw.ids(rows, v);
    let (weight, dy) = (draw.values(v * h, dtype), draw.values(rows * h, dtype));
    let tweight = draw.tensor(&weight, dtype, [v, h])?.with_grad();
    let y = ops::embedding::embedding(&Tensor::from_slice(draw.device, [rows], &ids)?, &tweight)?;
    let gradients = backward_from([(&y, draw.tensor(&dy, dtype, [rows, h])?)])?;
    let forward = expected!(R => reference::embedding::forward::<R>(&ids, &cast(&weight), h));
    let mut results = vec![found("y", &y, forward)?];
    let backward = expected!(R => reference::embedding::backward::<R>(&cast(&dy), &ids, v, h));
    results.push(gradient("dweight", gradients.get(&tweight), backward)?);
    Ok(results)
}

pub(super) fn elementwise(draw: &mut Draw<'_>) -> Result<Vec<Found>> {
    let (dtype, n) = (draw.dtype, draw.size(20_000));
    let [a, b] = [0, 1].map(|_| draw.values(n, dtype));
    let sum = ops::elementwise::add(&draw.tensor(&a, dtype, [n])?, &draw.tensor(&b, dtype, [n])?)?;
    let other = if dtype == DType::F32 { DType::Bf16 } else { DType::F32 };
    let changed = ops::elementwise::cast(&draw.tensor(&a, dtype, [n])?, other)?;
    Ok(vec![
        found("a + b", &sum, expected!(R => reference::elementwise::add::<R>(&cast(&a), &cast(&b))))?,
        found("cast", &changed, expected!(R => cast::<R>(&a)))?,
    ])
}

pub(super) fn dropout(draw: &mut Draw<'_>) -> Result<Vec<Found>> {
    let (dtype, n) = (draw.dtype, draw.size(20_000));
    let x = draw.values(n, dtype);
    let (p, seed, step, site) =
        (draw.random.random(), draw.random.next_u64(), draw.random.next_u32(), draw.random.next_u32());
    let first_element = u64::from(draw.random.next_u32()) << draw.random.random_range(0..16);
    let key = Dropout { p, seed, step: step.into(), site, first_element };
    let y = ops::dropout::dropout(&draw.tensor(&x, dtype, [n])?, key)?;
    let key = reference::dropout::Key { p: p.into(), seed, step, site, first_element };
    Ok(vec![found("y", &y, expected!(R => reference::dropout::forward::<R>(&cast(&x), key)))?])
}

pub(super) fn cross_entropy(draw: &mut Draw<'_>) -> Result<Vec<Found>> {
    const NORMALIZER: f64 = 3.0;
    let (dtype, rows, v, h) = (draw.dtype, draw.size(100), draw.size(2000), draw.size(200));
    let (x, w) = (draw.values(rows * h, dtype), draw.values(v * h, dtype));
    let targets: Vec<i32> =
        draw.ids(rows, v).into_iter().map(|id| if id % 4 == 0 { -100 } else { id as i32 }).collect();
    let tx = draw.tensor(&x, dtype, [rows, h])?.with_grad();
    let tw = draw.tensor(&w, dtype, [v, h])?.with_grad();
    let on_cpu = Tensor::from_slice(&Device::Cpu, [rows], &targets)?;
    let loss = ops::cross_entropy::cross_entropy(&tx, &tw, &on_cpu, NORMALIZER as f32)?;
    let dy = draw.values(1, DType::F32);
    let gradients = backward_from([(&loss, draw.tensor(&dy, DType::F32, [])?)])?;
    let forward =
        expected!(R => vec![reference::cross_entropy::forward::<R>(&cast(&x), &cast(&w), &targets, NORMALIZER)]);
    let mut results = vec![found("loss", &loss, forward)?];
    let backward = expected!(R => {
        reference::cross_entropy::backward::<R>(R::from_f64(dy[0]), &cast(&x), &cast(&w), &targets, NORMALIZER).0
    });
    results.push(gradient("dhidden", gradients.get(&tx), backward)?);
    let backward = expected!(R => {
        reference::cross_entropy::backward::<R>(R::from_f64(dy[0]), &cast(&x), &cast(&w), &targets, NORMALIZER).1
    });
    results.push(gradient("dlm_head", gradients.get(&tw), backward)?);
    Ok(results)
}

pub(super) fn adamw(draw: &mut Draw<'_>) -> Result<Vec<Found>> {
    let (dtype, n) = (draw.dtype, draw.size(20_000));
    let [p, m, v] = [0, 1, 2].map(|_| draw.values(n, DType::F32));
    let (v, g): (Vec<f64>, _) = (v.iter().map(|v| v.abs()).collect(), draw.values(n, dtype));
    let [mut parameter, mut tm, mut tv] =
        [draw.tensor(&p, DType::F32, [n])?, draw.tensor(&m, DType::F32, [n])?, draw.tensor(&v, DType::F32, [n])?];
    let gradient = draw.tensor(&g, dtype, [n])?;
    let update = AdamWUpdate { name: "w", parameter: &mut parameter, m: &mut tm, v: &mut tv, gradient: &gradient };
    let (options, step) = (AdamWOptions::default(), draw.random.random_range(1..1000));
    ops::adamw::adamw(&mut [update], &options, step, &Tensor::from_slice(draw.device, [], &[0.5f32])?)?;
    let AdamWOptions { learning_rate, beta1, beta2, eps, weight_decay } = options;
    let options = reference::adamw::Options { learning_rate, beta1, beta2, eps, weight_decay };
    let expected = |i: usize| {
        expected!(R => {
            let [p, m, v, g] = [&p, &m, &v, &g].map(|x| cast::<R>(x));
            let stepped = reference::adamw::step([&p, &m, &v, &g], options, step, 0.5);
            stepped.into_iter().nth(i).unwrap_or_default()
        })
    };
    Ok(vec![found("p", &parameter, expected(0))?, found("m", &tm, expected(1))?, found("v", &tv, expected(2))?])
}

pub(super) fn grad_norm(draw: &mut Draw<'_>) -> Result<Vec<Found>> {
    let dtype = draw.dtype;
    let sizes = [draw.size(20_000), draw.size(20_000)];
    let gradients = sizes.map(|n| draw.values(n, dtype));
    let tensors = [draw.tensor(&gradients[0], dtype, [sizes[0]])?, draw.tensor(&gradients[1], dtype, [sizes[1]])?];
    let norm = ops::grad_norm::grad_norm(&[&tensors[0], &tensors[1]])?;
    let total = expected!(R => vec![reference::grad_norm::norm::<R>(&gradients.each_ref().map(|g| cast(g)))]);
    let clipped = expected!(R => {
        let norm = reference::grad_norm::norm::<R>(&gradients.each_ref().map(|g| cast(g)));
        vec![reference::grad_norm::clip_scale(norm, 1.0)]
    });
    Ok(vec![
        Found { what: "norm", values: vec![norm.read()?.total], dtype: DType::F32, expected: total },
        found("scale", &norm.clip_scale(1.0)?, clipped)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::{Expected, gradient};

    #[test]
    fn a_gradient_that_never_came_is_an_error() {
        let expected = Expected { exact: vec![], rounded: vec![], terms: vec![] };
        let error = gradient("dweight", None, expected).err().unwrap();
        assert_eq!(error.to_string(), "kernels check: dweight: the backward pass gave no gradient");
    }
}
