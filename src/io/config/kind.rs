//! Which model config.json is of, and what in it changes the computation.

use serde_json::{Value, json};

use super::super::json::Object;
use super::{NUMBER, SIZE};
use crate::error::Result;
use crate::models::llama::{LlamaConfig, ModelType};

const WINDOW: &str = "sliding_window";
const BOOL: &str = "true or false";
/// transformers runs the last two with Llama's own code.
const SUPPORTED: &str = "llama, mistral, qwen2, iquestcoder and internlm3";

/// The type of the model.
///
/// # Errors
/// [`crate::error::Error::File`] if it does not compute as Llama does, or is no causal language model.
pub(super) fn read(object: &Object) -> Result<ModelType> {
    let model_type: Option<String> = object.optional("model_type", "a name")?;
    let architectures: Vec<String> = object.optional("architectures", "a list of names")?.unwrap_or_default();
    refuse_heads(object, &architectures)?;
    let name = match &model_type {
        Some(name) => name.as_str(),
        None if architectures.iter().any(|name| name == "LlamaForCausalLM") => "llama",
        None => return Err(object.refuse("model_type", format!("must be one of {SUPPORTED}, and is missing"))),
    };
    let has = |key| Ok(object.optional::<bool>(key, BOOL)?.unwrap_or(false));
    match name {
        "llama" | "iquestcoder" => {
            Ok(ModelType::Llama { attention_bias: has("attention_bias")?, mlp_bias: has("mlp_bias")? })
        }
        "internlm3" => Ok(ModelType::Llama {
            attention_bias: has("attention_bias")? || has("qkv_bias")?,
            mlp_bias: has("mlp_bias")? || has("bias")?,
        }),
        // An absent window is transformers' default, a null one is none.
        "mistral" if object.has(WINDOW) => Ok(ModelType::Mistral { sliding_window: object.optional(WINDOW, SIZE)? }),
        "mistral" => Ok(ModelType::Mistral { sliding_window: Some(4096) }),
        "qwen2" => Ok(ModelType::Qwen2),
        other => {
            let error = object.refuse("model_type", format!("is {other:?}, which does not compute as Llama does"));
            Err(error.with_hint(format!("the model types that are read are {SUPPORTED}")))
        }
    }
}

/// Refuses a model with another output layer than that of a language model. One without any, `LlamaModel`, is told by
/// its weights.
fn refuse_heads(object: &Object, architectures: &[String]) -> Result<()> {
    let is_language_model =
        |name: &String| ["ForCausalLM", "LMHeadModel"].iter().any(|end| name.ends_with(end)) || !name.contains("For");
    if architectures.is_empty() || architectures.iter().any(is_language_model) {
        return Ok(());
    }
    let what = ["SequenceClassification", "Reward", "TokenClassification", "QuestionAnswering"];
    let what = match what.iter().position(|what| architectures.iter().any(|name| name.contains(what))) {
        Some(0 | 1) => "a classifier or reward model, which scores texts",
        Some(2) => "a classifier of tokens",
        Some(_) => "a model that marks answers in texts",
        None => "no causal language model",
    };
    let error = object
        .refuse("architectures", format!("is {}: {what} and has no output layer for tokens", json!(architectures)));
    Err(error.with_hint("name a causal language model, such as the one this was made from"))
}

/// `pretraining_tp` is not among what is refused: it splits the same products into parts.
pub(super) fn refuse_unsupported(object: &Object) -> Result<()> {
    let hidden_act: Option<String> = object.optional("hidden_act", "a name")?;
    if let Some(other) = hidden_act.filter(|name| name != "silu" && name != "swish") {
        return Err(object.unsupported("hidden_act", &json!(other)));
    }
    refuse_other_than(object, "attention_dropout", 0.0)?;
    refuse_other_than(object, "partial_rotary_factor", 1.0)
}

pub(super) fn refuse_other_than(object: &Object, key: &str, supported: f64) -> Result<()> {
    match object.optional::<f64>(key, NUMBER)? {
        Some(other) if other != supported => Err(object.unsupported(key, &json!(other))),
        _ => Ok(()),
    }
}

/// Refuses a Qwen 2 some of whose layers see less than the context.
pub(super) fn refuse_window(object: &Object, config: &LlamaConfig) -> Result<()> {
    let is_used = object.optional("use_sliding_window", BOOL)?.unwrap_or(false);
    if config.model_type != ModelType::Qwen2 || !is_used {
        return Ok(());
    }
    let (window, context) = (object.optional(WINDOW, SIZE)?.unwrap_or(4096), config.context());
    if window >= context {
        return Ok(());
    }
    let error =
        object.refuse(WINDOW, format!("is {window}, less than the context of {context}, which is not supported"));
    Err(error.with_hint(format!(
        "for texts of up to {window} tokens nothing changes without it: set use_sliding_window to false and \
         max_position_embeddings to {window}"
    )))
}

/// What of a window is passed over, or limits the context.
pub(super) fn notes(object: &Object, config: &LlamaConfig) -> Vec<String> {
    match config.model_type {
        ModelType::Llama { .. } if object.asks_for(WINDOW) => {
            vec![format!("{WINDOW} in config.json is passed over, as in transformers: Llama's attention has none")]
        }
        _ => window_note(config).into_iter().collect(),
    }
}

/// What a person should know of a window that limits the context; `None` where none does.
pub fn window_note(config: &LlamaConfig) -> Option<String> {
    let max = config.max_position_embeddings;
    let unlimited = config.rope_scaling.map_or(max, |scaling| scaling.context(max));
    let ModelType::Mistral { sliding_window: Some(window) } = config.model_type else { return None };
    let note = "within it attention sees all, and longer texts are not supported";
    (window < unlimited).then(|| format!("the context is {window} tokens, the attention's {WINDOW}: {note}"))
}

/// The keys of config.json that tell the model's type.
pub(super) fn write(model_type: ModelType) -> Vec<(&'static str, Value)> {
    let named = |architecture, name| vec![("architectures", json!([architecture])), ("model_type", json!(name))];
    let (mut keys, own) = match model_type {
        ModelType::Llama { attention_bias, mlp_bias } => (
            named("LlamaForCausalLM", "llama"),
            vec![("attention_bias", json!(attention_bias)), ("mlp_bias", json!(mlp_bias))],
        ),
        ModelType::Mistral { sliding_window } => {
            (named("MistralForCausalLM", "mistral"), vec![(WINDOW, json!(sliding_window))])
        }
        ModelType::Qwen2 => (named("Qwen2ForCausalLM", "qwen2"), vec![("use_sliding_window", json!(false))]),
    };
    keys.extend(own);
    keys
}
