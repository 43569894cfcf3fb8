//! What a run's result depends on, in few bytes: a checkpoint of anything else is of another run.

use serde_json::{Value, json};

use super::config::Quantized;
use super::examples::Examples;
use super::options::Options;
use crate::autograd::Tensor;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::io::checkpoint::Fingerprint;
use crate::io::quantized::Quantization;
use crate::models::llama::Llama;
use crate::nn::{Parameter, Sequence};

/// Options that change no bit of the result, or whose effect is in the data or the weights.
const WITHOUT_EFFECT: [&str; 7] =
    ["activation_checkpointing", "chat_template", "cuda_graphs", "date", "init_adapter", "save_every", "template"];

/// The options, and checksums of the sequences and of all weights before the first step.
pub(super) fn fingerprint(
    options: &Options,
    quantization: &Quantization,
    seed: u64,
    examples: &Examples,
    model: &Llama,
) -> Result<Fingerprint> {
    let options = serde_json::to_value(options).map_err(|e| Error::input("options", e.to_string()))?;
    let mut fingerprint: Fingerprint = match options {
        Value::Object(options) => options.into_iter().collect(),
        _ => Fingerprint::new(),
    };
    fingerprint.retain(|name, _| !WITHOUT_EFFECT.contains(&name.as_str()));
    if quantization.is_some() {
        let quantized = serde_json::to_value(Quantized::of(quantization));
        fingerprint.insert("frozen weights".into(), quantized.map_err(|e| Error::input("--quantize", e.to_string()))?);
    }
    fingerprint.insert("seed".into(), json!(seed));
    fingerprint.insert("device".into(), json!(model.device().to_string()));
    fingerprint.insert("training data".into(), of_sequences(&examples.training));
    fingerprint.insert("evaluation data".into(), of_sequences(&examples.evaluation));
    fingerprint.insert("model".into(), of_weights(model)?);
    Ok(fingerprint)
}

fn of_sequences(sequences: &[Sequence]) -> Value {
    let mut checksum = crc32fast::Hasher::new();
    for Sequence { input_ids, labels } in sequences {
        checksum.update(&(input_ids.len() as u64).to_le_bytes());
        checksum.update(bytemuck::cast_slice(input_ids));
        checksum.update(bytemuck::cast_slice(labels));
    }
    json!(format!("{} sequences, {:08x}", sequences.len(), checksum.finalize()))
}

/// Depends on the dtype too.
fn of_weights(model: &Llama) -> Result<Value> {
    let mut checksum = crc32fast::Hasher::new();
    let mut update = |name: &str, weight: &Tensor| -> Result<()> {
        checksum.update(name.as_bytes());
        checksum.update(weight.to_device(&Device::Cpu)?.buffer().host()?);
        Ok(())
    };
    model.each_weight(&mut update)?;
    let mut adapters: Vec<(String, &Parameter)> = Vec::new();
    model.visit_adapters(&mut |name, parameter| adapters.push((name, parameter)));
    adapters.iter().try_for_each(|(name, parameter)| update(name, &parameter.get()))?;
    for (name, linear) in model.linears() {
        for part in linear.weight.quantized().iter().flat_map(|weight| weight.parts()) {
            update(&name, part)?;
        }
    }
    Ok(json!(format!("{:08x}", checksum.finalize())))
}
