//! Whole model folders: an adapter merged into its base, and the files that go with the weights.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use super::adapter::Adapter;
use super::{WeightSource, refuse_leftovers, safetensors};
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::models::llama::LlamaConfig;
use crate::shape::Shape;

const OP: &str = "merge";

/// Writes the safetensors file `path` with the weights of `source`, of the model `base`, in `dtype`, each adapted one being
/// `W + scaling · B·A`, summed in f64 and rounded at the end. Holds one tensor at a time. Returns the merged model's
/// configuration: with more tokens, or an output layer of its own, where the adapter has them.
///
/// # Errors
/// [`Error::File`] if `source` is not of `base` or the disk fails.
pub fn merge(
    source: &dyn WeightSource,
    adapter: &Adapter,
    base: &LlamaConfig,
    dtype: DType,
    path: &Path,
) -> Result<LlamaConfig> {
    refuse_leftovers(source, &base.parameters().into_iter().map(|(name, _)| name).collect::<HashSet<_>>())?;
    let mut model = adapter.model(base);
    model.tie_word_embeddings &= !adapter.tensors.contains_key("lm_head");
    let layout: BTreeMap<String, (DType, Shape)> =
        model.parameters().into_iter().map(|(name, shape)| (name, (dtype, shape))).collect();
    if let Some(module) = adapter.tensors.keys().find(|module| !layout.contains_key(&format!("{module}.weight"))) {
        return Err(Error::shape(OP, format!("the adapter's {module} is not in the model")));
    }
    safetensors::write(path, &layout, |name| {
        let load = |dtype| adapter.weight(source, base, name, layout[name].1, dtype, &Device::Cpu);
        let module = name.strip_suffix(".weight").unwrap_or(name);
        match adapter.tensors.get(module) {
            Some((a, b)) => merged(&load(DType::F32)?, a, b, adapter.config.scaling(module)?, dtype),
            None => load(dtype),
        }
    })?;
    Ok(model)
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
