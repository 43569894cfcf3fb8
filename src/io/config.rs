//! A Llama's config.json, as transformers 4 and 5 write it.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::atomic;
use super::json::Object;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::models::llama::LlamaConfig;
use crate::ops::rope::RopeScaling;

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const SIZE: &str = "a whole number";
const NUMBER: &str = "a number";
const IDS: &str = "a token id or a list of them";

/// Reads `config.json` in `folder`, with transformers' defaults for absent keys; token ids that end a text are those
/// of `generation_config.json` where it has any, as in transformers.
///
/// Keys that change nothing are passed over. Those that change the model in a way that is not supported are refused.
///
/// # Errors
/// [`Error::File`] naming the key: not a Llama, a wrong type, an unsupported feature, or sizes that contradict
/// each other.
pub fn read_config(folder: &Path) -> Result<LlamaConfig> {
    let path = folder.join(CONFIG);
    let object = Object::read(&path)?;
    refuse_unsupported(&object)?;
    let size = |key, default| Ok::<usize, Error>(object.optional(key, SIZE)?.unwrap_or(default));
    let num_attention_heads = size("num_attention_heads", 32)?;
    let hidden_size = size("hidden_size", 4096)?;
    let max_position_embeddings = size("max_position_embeddings", 2048)?;
    let (rope_theta, rope_scaling) = rope(&object, max_position_embeddings)?;
    let config = LlamaConfig {
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
        bos_token_id: token_ids(&object, "bos_token_id", 1)?.first().copied(),
        eos_token_ids: eos_token_ids(folder, &object)?,
    };
    config.contradiction().map_or(Ok(config), |detail| Err(Error::file(&path, detail)))
}

/// `pretraining_tp` is not among what is refused: it splits the same products into parts.
fn refuse_unsupported(object: &Object) -> Result<()> {
    let model_type: Option<String> = object.optional("model_type", "a name")?;
    let architectures: Vec<String> = object.optional("architectures", "a list of names")?.unwrap_or_default();
    match model_type {
        Some(other) if other != "llama" => {
            return Err(object.refuse("model_type", format!("is {other:?}: only \"llama\" is supported")));
        }
        None if !architectures.iter().any(|name| name == "LlamaForCausalLM") => {
            return Err(object.refuse("model_type", "must be \"llama\", and is missing"));
        }
        _ => {}
    }
    object.refuse_any(&["attention_bias", "mlp_bias", "quantization_config", "sliding_window"])?;
    let hidden_act: Option<String> = object.optional("hidden_act", "a name")?;
    if let Some(other) = hidden_act.filter(|name| name != "silu" && name != "swish") {
        return Err(object.unsupported("hidden_act", &json!(other)));
    }
    refuse_other_than(object, "attention_dropout", 0.0)?;
    refuse_other_than(object, "partial_rotary_factor", 1.0)
}

fn refuse_other_than(object: &Object, key: &str, supported: f64) -> Result<()> {
    match object.optional::<f64>(key, NUMBER)? {
        Some(other) if other != supported => Err(object.unsupported(key, &json!(other))),
        _ => Ok(()),
    }
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

/// Theta and scaling. As in transformers a `rope_scaling` with anything in it comes before `rope_parameters`, and
/// what stands inside before what stands beside it.
fn rope(object: &Object, max_position_embeddings: usize) -> Result<(f64, Option<RopeScaling>)> {
    let scaling = object.nested("rope_scaling")?.filter(|scaling| !scaling.is_empty());
    let outer_theta = object.optional("rope_theta", NUMBER)?.unwrap_or(10_000.0);
    let Some(rope) = scaling.map_or_else(|| object.nested("rope_parameters"), |scaling| Ok(Some(scaling)))? else {
        return Ok((outer_theta, None));
    };
    let theta = rope.optional("rope_theta", NUMBER)?.unwrap_or(outer_theta);
    refuse_other_than(&rope, "partial_rotary_factor", 1.0)?;
    let key = if rope.has("rope_type") { "rope_type" } else { "type" };
    let rope_type: Option<String> = rope.optional(key, "a name")?;
    let scaling = match rope_type.as_deref().unwrap_or("default") {
        "default" => None,
        "linear" => Some(RopeScaling::Linear { factor: rope.required("factor", NUMBER)? }),
        "llama3" => Some(llama3_scaling(object, &rope, max_position_embeddings)?),
        other => return Err(rope.unsupported(key, &json!(other))),
    };
    Ok((theta, scaling))
}

fn llama3_scaling(object: &Object, rope: &Object, max_position_embeddings: usize) -> Result<RopeScaling> {
    const ORIGINAL: &str = "original_max_position_embeddings";
    let outer = object.optional(ORIGINAL, SIZE)?;
    let original = outer.map_or_else(|| rope.optional(ORIGINAL, SIZE), |outer| Ok(Some(outer)))?;
    Ok(RopeScaling::Llama3 {
        factor: rope.required("factor", NUMBER)?,
        low_freq_factor: rope.required("low_freq_factor", NUMBER)?,
        high_freq_factor: rope.required("high_freq_factor", NUMBER)?,
        original_max_position_embeddings: original.unwrap_or(max_position_embeddings),
    })
}

/// Absent is not null here: null is no token, absent is transformers' default.
fn token_ids(object: &Object, key: &str, default: u32) -> Result<Vec<u32>> {
    let absent = if object.has(key) { vec![] } else { vec![default] };
    Ok(object.one_or_many(key, IDS)?.unwrap_or(absent))
}

fn eos_token_ids(folder: &Path, object: &Object) -> Result<Vec<u32>> {
    const KEY: &str = "eos_token_id";
    let path = folder.join(GENERATION_CONFIG);
    if path.exists() {
        let generation = Object::read(&path)?;
        if generation.has(KEY) {
            return token_ids(&generation, KEY, 2);
        }
    }
    token_ids(object, KEY, 2)
}

/// Writes `config.json` into `folder`, with transformers 4's keys, which transformers 5 reads as well; `dtype` is that
/// of the weights beside it.
///
/// # Errors
/// [`Error::File`] if the file cannot be written.
pub fn write_config(folder: &Path, config: &LlamaConfig, dtype: DType) -> Result<()> {
    let eos = match config.eos_token_ids.as_slice() {
        [] => Value::Null,
        [id] => json!(id),
        ids => json!(ids),
    };
    let fields = json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": config.rope_scaling.map(rope_scaling),
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": if dtype == DType::Bf16 { "bfloat16" } else { "float32" },
        "vocab_size": config.vocab_size,
    });
    let path = folder.join(CONFIG);
    atomic::write_file(&path, |file| writeln!(file, "{fields:#}").map_err(|e| Error::io(&path, e)))
}

fn rope_scaling(scaling: RopeScaling) -> Value {
    match scaling {
        RopeScaling::Linear { factor } => json!({ "factor": factor, "rope_type": "linear" }),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
            "factor": factor,
            "high_freq_factor": high_freq_factor,
            "low_freq_factor": low_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
            "rope_type": "llama3",
        }),
    }
}
