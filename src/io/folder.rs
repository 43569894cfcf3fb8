//! Whole model folders: an adapter merged into its base, and the files that go with the weights.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use super::adapter::Adapter;
use super::quantized::{Parts, Quantization, located, parts};
use super::{WeightSource, refuse_leftovers, safetensors};
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::models::llama::LlamaConfig;
use crate::ops::weight::Quantized;
use crate::shape::Shape;

const OP: &str = "merge";

/// What a folder's weights become.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// The dtype of floats.
    pub dtype: DType,
    /// How linear layers are stored, if not as floats.
    pub quantization: Option<&'a Quantization>,
}

/// What rounding to fewer bits did to a layer.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Change {
    /// The layer's weight.
    pub name: String,
    /// The largest change of an element, as a share of the largest element.
    pub largest: f64,
    /// The mean change, as a share of the mean magnitude.
    pub mean: f64,
}

/// Writes the safetensors file `path` with the weights of `source`, of the model `base`, as `output` says; with an `adapter`
/// each adapted one is `W + scaling · B·A`, summed in f64 and rounded at the end. Holds one tensor of floats at a time.
/// Returns the model's configuration: with more tokens, or an output layer of its own, where the adapter has them; and what
/// was lost with bits.
///
/// # Errors
/// [`Error::File`] if `source` is not of `base` or the disk fails; [`Error::Input`] if a weight to be quantized is not finite.
pub fn merge(
    source: &dyn WeightSource,
    adapter: Option<&Adapter>,
    base: &LlamaConfig,
    output: Output<'_>,
    path: &Path,
) -> Result<(LlamaConfig, Vec<Change>)> {
    refuse_leftovers(source, &base.parameters().into_iter().map(|(name, _)| name).collect::<HashSet<_>>())?;
    let mut model = adapter.map_or_else(|| base.clone(), |adapter| adapter.model(base));
    model.tie_word_embeddings &= !adapter.is_some_and(|adapter| adapter.tensors.contains_key("lm_head"));
    let shapes: BTreeMap<String, Shape> = model.parameters().into_iter().collect();
    let mut modules = adapter.iter().flat_map(|adapter| adapter.tensors.keys());
    if let Some(module) = modules.find(|module| !shapes.contains_key(&format!("{module}.weight"))) {
        return Err(Error::shape(OP, format!("the adapter's {module} is not in the model")));
    }
    let weight = |name: &str, dtype| match adapter {
        Some(adapter) => adapted(source, adapter, base, name, shapes[name], dtype),
        None => source.load(name, shapes[name], dtype, &Device::Cpu),
    };
    let (mut codes, mut changes) = (Parts::new(), Vec::new());
    let mut layout: BTreeMap<String, (DType, Shape)> = BTreeMap::new();
    for (name, shape) in &shapes {
        match output.quantization.filter(|_| LlamaConfig::is_block_linear(name)) {
            Some(quantization) => {
                let floats = weight(name, DType::F32)?;
                let quantized = quantization.quantize(&floats).map_err(|error| located(source, name, &error))?;
                let quantized = quantized.ok_or_else(|| Error::input(OP, "no scheme of quantization"))?;
                let (stored, change) = (parts(name, &quantized, output.dtype)?, change(name, &floats, &quantized)?);
                layout.extend(stored.iter().map(|(name, part)| (name.clone(), (part.dtype(), part.shape()))));
                codes.extend(stored);
                changes.push(change);
            }
            None => drop(layout.insert(name.clone(), (output.dtype, *shape))),
        }
    }
    safetensors::write(path, &layout, |name| match codes.remove(name) {
        Some(part) => Ok(part),
        None => weight(name, output.dtype),
    })?;
    Ok((model, changes))
}

/// The weight `name` with its adapter's part.
fn adapted(
    source: &dyn WeightSource,
    adapter: &Adapter,
    base: &LlamaConfig,
    name: &str,
    shape: Shape,
    dtype: DType,
) -> Result<Tensor> {
    let load = |dtype| adapter.weight(source, base, name, shape, dtype, &Device::Cpu);
    let module = name.strip_suffix(".weight").unwrap_or(name);
    match adapter.tensors.get(module) {
        Some((a, b)) => merged(&load(DType::F32)?, a, b, adapter.config.scaling(module)?, dtype),
        None => load(dtype),
    }
}

/// What `quantized` is off `weight`.
fn change(name: &str, weight: &Tensor, quantized: &Quantized) -> Result<Change> {
    let rounded = quantized.dequantize(DType::F32)?;
    let (mut largest, mut mean) = ([0f64; 2], [0f64; 2]);
    for (&exact, &rounded) in weight.slice::<f32>()?.iter().zip(rounded.slice::<f32>()?) {
        let [change, magnitude] = [f64::from(exact) - f64::from(rounded), f64::from(exact)].map(f64::abs);
        largest = [largest[0].max(change), largest[1].max(magnitude)];
        mean = [mean[0] + change, mean[1] + magnitude];
    }
    let share = |[change, of]: [f64; 2]| if of > 0.0 { change / of } else { 0.0 };
    Ok(Change { name: name.into(), largest: share(largest), mean: share(mean) })
}

fn merged(base: &Tensor, a: &Tensor, b: &Tensor, scaling: f64, dtype: DType) -> Result<Tensor> {
    let (output, input, rank) = (base.shape().rows(), base.shape().last(), a.shape().rows());
    if rank == 0 || a.shape() != [rank, input].into() || b.shape() != [output, rank].into() {
        let found = format!("{} and {}", a.shape(), b.shape());
        return Err(Error::shape(OP, format!("a weight {} takes no lora_A and lora_B {found}", base.shape())));
    }
    let mut out = Tensor::uninit(&Device::Cpu, dtype, base.shape())?;
    let (base, a, b) = (base.slice::<f32>()?, a.to_vec::<f32>()?, b.to_vec::<f32>()?);
    dispatch_float!(OP, dtype, T => {
        host::par_rows(out.slice_mut::<T>()?, input, |first, out| {
            let rows = base[first * input..].chunks(input).zip(b[first * rank..].chunks(rank));
            let mut sums = vec![0.0; input];
            for (out, (base, b)) in out.chunks_mut(input).zip(rows) {
                merge_row(out, base, &a, b, scaling, &mut sums);
            }
        });
        Ok(())
    })?;
    Ok(out)
}

#[inline(always)]
fn merge_row<T: Float>(out: &mut [T], base: &[f32], a: &[f32], b: &[f32], scaling: f64, sums: &mut [f64]) {
    for (sum, base) in sums.iter_mut().zip(base) {
        *sum = f64::from(*base);
    }
    for (a, b) in a.chunks(base.len()).zip(b) {
        let factor = scaling * f64::from(*b);
        for (sum, a) in sums.iter_mut().zip(a) {
            *sum += factor * f64::from(*a);
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = T::from_f32(*sum as f32);
    }
}

/// What stands beside the weights in a Hugging Face folder and stays true when they change: the tokenizer, how to
/// generate, and the licence, which Llama's asks to hand on.
const COMPANIONS: [&str; 14] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
    "USE_POLICY.md",
];

/// Copies the tokenizer, the generation config and the licence of the model folder `from`, as far as they are there.
///
/// # Errors
/// [`Error::File`] if one cannot be copied.
pub fn copy_companions(from: &Path, to: &Path) -> Result<()> {
    for name in COMPANIONS {
        let (from, to) = (from.join(name), to.join(name));
        if from.is_file() {
            std::fs::copy(&from, &to).map_err(|e| Error::io(&from, e))?;
        }
    }
    Ok(())
}
