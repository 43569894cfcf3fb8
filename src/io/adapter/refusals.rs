//! What in adapter_config.json changes the result and is not supported, each with its way out; and what is inert.

use serde_json::{Value, json};

use crate::error::Result;
use crate::io::json::Object;

/// The way out of what PEFT can fold into the weights.
pub(super) const MERGE: &str = "merge it with PEFT's merge_and_unload, and use the merged model";
const NO_MERGE: &str = "it cannot be merged: PEFT alone runs it";

/// Keys of what has a merged form.
const MERGEABLE: [&str; 9] = [
    "use_dora",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "use_bdlora",
    "use_qalora",
    "kasa_config",
    "monteclora_config",
    "velora_config",
];
/// Keys of what has none.
const NOT_MERGEABLE: [&str; 2] = ["alora_invocation_tokens", "arrow_config"];
/// Methods that have none.
const PROMPTS: [&str; 7] =
    ["PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "POLY"];

/// Initialisations that change the base model's weights, so that the adapter fits only those.
const CHANGES_BASE: [&str; 5] = ["pissa", "olora", "loftq", "corda", "lora_ga"];

/// Refuses what changes the result and is not supported; what is not named here and not read is inert.
pub(super) fn refuse_unsupported(object: &Object) -> Result<()> {
    refuse_other_methods(object)?;
    object.refuse_any(&MERGEABLE).map_err(|e| e.with_hint(MERGE))?;
    object.refuse_any(&NOT_MERGEABLE).map_err(|e| e.with_hint(NO_MERGE))?;
    let bias: Option<String> = object.optional("bias", "a name")?;
    if let Some(bias) = bias.filter(|bias| !["none", "all", "lora_only"].contains(&bias.as_str())) {
        return Err(object.refuse("bias", format!("must be \"none\", \"all\" or \"lora_only\", got {bias:?}")));
    }
    let init: Option<Value> = object.optional("init_lora_weights", "a name or true or false")?;
    match init.as_ref().and_then(Value::as_str) {
        Some(init) if CHANGES_BASE.iter().any(|name| init.starts_with(name)) => {
            let detail = format!("is {init:?}, which changes the base model as well");
            let hint = "save it with PEFT's path_initial_model_for_weight_conversion, which makes it a plain LoRA";
            Err(object.refuse("init_lora_weights", detail).with_hint(hint))
        }
        _ => Ok(()),
    }
}

fn refuse_other_methods(object: &Object) -> Result<()> {
    let method: Option<String> = object.optional("peft_type", "a name")?;
    let error = object.refuse("peft_type", format!("must be \"LORA\", got {}", json!(method)));
    match method.as_deref() {
        Some("LORA") => Ok(()),
        Some(method) => Err(error.with_hint(if PROMPTS.contains(&method) { NO_MERGE } else { MERGE })),
        None => Err(error),
    }
}

/// Keys that ask for something which changes nothing here, in words; `has_biases` if the adapter does.
pub(super) fn inert(object: &Object, has_biases: bool) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    if object.optional("fan_in_fan_out", "true or false")? == Some(true) {
        notes.push("fan_in_fan_out is true, and counts for nothing: Llama's layers are no Conv1D".into());
    }
    let bias: Option<String> = object.optional("bias", "a name")?;
    if let Some(bias) = bias.filter(|bias| bias != "none" && !has_biases) {
        notes.push(format!("bias is {bias:?}, and counts for nothing: the adapter has no biases"));
    }
    if object.optional("lora_bias", "true or false")? == Some(true) && !has_biases {
        notes.push("lora_bias is true, and counts for nothing: the adapter has no biases".into());
    }
    Ok(notes)
}
