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
use crate::parallel::Sharded;

/// Options that change no bit of the result, or whose effect is in the data or the weights.
const WITHOUT_EFFECT: [&str; 12] = [
    "activation_checkpointing",
    "batches_per_step",
    "chat_template",
    "communicator",
    "cuda_graphs",
    "date",
    "init_adapter",
    "ranks",
    "save_every",
    "shard",
    "template",
    "timeout",
];

/// The options, and checksums of the sequences and of all weights before the first step.
pub(super) fn fingerprint(
    options: &Options,
    quantization: &Quantization,
    seed: u64,
    examples: &Examples,
    model: &Llama,
    sharded: Option<&Sharded>,
) -> Result<Fingerprint> {
    // Whose batches they are makes no difference.
    let options = &Options { gradient_accumulation_steps: options.step_batches(), ..options.clone() };
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
    fingerprint.insert("device".into(), json!(kind(&model.device())));
    fingerprint.insert("training data".into(), of_sequences(&examples.training));
    fingerprint.insert("evaluation data".into(), of_sequences(&examples.evaluation));
    fingerprint.insert("model".into(), of_weights(model, sharded)?);
    Ok(fingerprint)
}

/// The device without its number.
fn kind(device: &Device) -> String {
    let name = device.to_string();
    if name.starts_with("cuda") { "cuda:0".into() } else { name }
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
fn of_weights(model: &Llama, sharded: Option<&Sharded>) -> Result<Value> {
    let mut checksum = crc32fast::Hasher::new();
    let mut update = |name: &str, parts: &dyn Fn() -> Result<Vec<Tensor>>| -> Result<()> {
        if let Some(known) = sharded.and_then(|sharded| sharded.checksums(name)) {
            known.iter().for_each(|part| {
                checksum.update(name.as_bytes());
                checksum.combine(part);
            });
            return Ok(());
        }
        parts()?.iter().try_for_each(|part| {
            checksum.update(name.as_bytes());
            checksum.update(part.to_device(&Device::Cpu)?.buffer()?.host()?);
            Ok(())
        })
    };
    model.each_weight(&mut |name, weight| update(name, &|| Ok(vec![weight()?])))?;
    let mut adapters: Vec<(String, &Parameter)> = Vec::new();
    model.visit_adapters(&mut |name, parameter| adapters.push((name, parameter)));
    adapters.iter().try_for_each(|(name, parameter)| update(name, &|| Ok(vec![parameter.get()])))?;
    for (name, linear) in model.linears() {
        if let Some(weight) = linear.weight.quantized() {
            update(&name, &|| Ok(weight.parts().into_iter().cloned().collect()))?;
        }
    }
    Ok(json!(format!("{:08x}", checksum.finalize())))
}
