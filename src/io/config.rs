//! A Llama's config.json, as transformers 4 and 5 write it.

mod kind;
mod quantization;
mod rope;

pub use kind::window_note;

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::atomic;
use super::json::Object;
use super::quantized::Quantization;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::models::llama::{LlamaConfig, ModelType};

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const EOS: &str = "eos_token_id";
const SIZE: &str = "a whole number";
const NUMBER: &str = "a number";
const IDS: &str = "a token id or a list of them";

/// Reads `config.json` in `folder`, with transformers' defaults for absent keys; token ids that end a text are those
/// of `generation_config.json`, then those of `config.json`, and none where neither names any.
///
/// Keys that change nothing are passed over. Those that change the model in a way that is not supported are refused.
///
/// # Errors
/// [`Error::File`] naming the key: a model that does not compute as Llama does, a wrong type, an unsupported feature, or sizes that contradict
/// each other.
pub fn read_config(folder: &Path) -> Result<LlamaConfig> {
    let path = folder.join(CONFIG);
    let object = Object::read(&path)?;
    let model_type = kind::read(&object)?;
    quantization::read(&object)?;
    kind::refuse_unsupported(&object)?;
    let size = |key, llama| match (object.optional(key, SIZE)?, model_type) {
        (Some(given), _) => Ok::<usize, Error>(given),
        (None, ModelType::Llama { .. }) => Ok(llama),
        (None, _) => object.required(key, SIZE), // other defaults are theirs
    };
    let num_attention_heads = size("num_attention_heads", 32)?;
    let hidden_size = size("hidden_size", 4096)?;
    let max_position_embeddings = size("max_position_embeddings", 2048)?;
    let (rope_theta, rope_scaling) = rope::read(&object, max_position_embeddings)?;
    let config = LlamaConfig {
        model_type,
        hidden_size,
        intermediate_size: size("intermediate_size", 11008)?,
        num_hidden_layers: size("num_hidden_layers", 32)?,
        num_attention_heads,
        num_key_value_heads: size("num_key_value_heads", num_attention_heads)?,
        head_dim: head_dim(&object, hidden_size, num_attention_heads)?,
        vocab_size: size("vocab_size", 32000)?,
        max_position_embeddings,
        rms_norm_eps: object.optional("rms_norm_eps", NUMBER)?.unwrap_or(1e-6),
        rope_theta,
        rope_scaling,
        tie_word_embeddings: object.optional("tie_word_embeddings", "true or false")?.unwrap_or(false),
        bos_token_id: bos_token_id(&object)?,
        eos_token_ids: eos_token_ids(folder, &object)?,
    };
    if let Some(detail) = config.contradiction() {
        return Err(Error::file(&path, detail));
    }
    kind::refuse_window(&object, &config)?;
    Ok(config)
}

/// How the `config.json` in `folder` says that the weights of its linear layers are stored, if not as floats.
///
/// # Errors
/// As [`read_config`].
pub fn read_quantization(folder: &Path) -> Result<Option<Quantization>> {
    quantization::read(&Object::read(&folder.join(CONFIG))?)
}

/// What a person should know of the `config.json` in `folder`, which is read as `config`: keys that are passed over though
/// they look as if they changed something, and what limits the context.
///
/// # Errors
/// As [`read_config`].
pub fn notes(folder: &Path, config: &LlamaConfig) -> Result<Vec<String>> {
    Ok(kind::notes(&Object::read(&folder.join(CONFIG))?, config))
}

fn head_dim(object: &Object, hidden_size: usize, num_attention_heads: usize) -> Result<usize> {
    if let Some(given) = object.optional("head_dim", SIZE)? {
        return Ok(given);
    }
    if num_attention_heads > 0 && !hidden_size.is_multiple_of(num_attention_heads) {
        let detail = format!("{hidden_size} is not a multiple of num_attention_heads {num_attention_heads}");
        return Err(object.refuse("hidden_size", format!("{detail}, and head_dim is not given")));
    }
    Ok(hidden_size.checked_div(num_attention_heads).unwrap_or(0))
}

/// Absent is not null here: null is no token, absent is transformers' default.
fn bos_token_id(object: &Object) -> Result<Option<u32>> {
    const KEY: &str = "bos_token_id";
    let absent = if object.has(KEY) { vec![] } else { vec![1] };
    Ok(object.one_or_many(KEY, IDS)?.unwrap_or(absent).first().copied())
}

/// Transformers' default, 2, is left out: in most vocabularies that is no end, and where it is the tokenizer says so.
fn eos_token_ids(folder: &Path, object: &Object) -> Result<Vec<u32>> {
    let path = folder.join(GENERATION_CONFIG);
    let generation = path.exists().then(|| Object::read(&path)).transpose()?;
    let mut ids: Vec<u32> = Vec::new();
    for object in generation.iter().chain([object]) {
        let named: Vec<u32> = object.one_or_many(EOS, IDS)?.unwrap_or_default();
        let new: Vec<u32> = named.into_iter().filter(|id| !ids.contains(id)).collect();
        ids.extend(new);
    }
    Ok(ids)
}

/// Writes `config.json` into `folder`, with transformers 4's keys, which transformers 5 reads as well; `dtype` is that
/// of the weights beside it, but for those that are stored as `quantization` says. A `generation_config.json` that is
/// there gets the same ends of a text.
///
/// # Errors
/// [`Error::File`] if a file cannot be written, or a `generation_config.json` not read.
pub fn write_config(
    folder: &Path,
    config: &LlamaConfig,
    dtype: DType,
    quantization: Option<&Quantization>,
) -> Result<()> {
    let eos = match config.eos_token_ids.as_slice() {
        [] => Value::Null,
        [id] => json!(id),
        ids => json!(ids),
    };
    let mut fields = json!({
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos.clone(),
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": config.rope_scaling.map(rope::write),
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": if dtype == DType::Bf16 { "bfloat16" } else { "float32" },
        "vocab_size": config.vocab_size,
    });
    for (key, value) in kind::write(config.model_type).into_iter().chain(quantization.map(quantization::write)) {
        fields[key] = value;
    }
    let generation = folder.join(GENERATION_CONFIG);
    if generation.exists() {
        write(&generation, &Object::read(&generation)?.with(EOS, eos))?;
    }
    write(&folder.join(CONFIG), &fields)
}

fn write(path: &Path, fields: &Value) -> Result<()> {
    atomic::write_file(path, |file| writeln!(file, "{fields:#}").map_err(|e| Error::io(path, e)))
}
