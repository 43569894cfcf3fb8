//! Rotary frequencies in config.json: `rope_theta` and `rope_scaling`, or `rope_parameters` with both.

use serde_json::{Value, json};

use super::super::json::Object;
use super::kind::refuse_other_than;
use super::{NUMBER, SIZE};
use crate::error::Result;
use crate::ops::rope::RopeScaling;

/// Theta and scaling. As in transformers a `rope_scaling` with anything in it comes before `rope_parameters`, and
/// what stands inside before what stands beside it.
pub(super) fn read(object: &Object, max_position_embeddings: usize) -> Result<(f64, Option<RopeScaling>)> {
    let scaling = object.nested("rope_scaling")?.filter(|scaling| !scaling.is_empty());
    let outer_theta = object.optional("rope_theta", NUMBER)?.unwrap_or(10_000.0);
    let Some(rope) = scaling.map_or_else(|| object.nested("rope_parameters"), |scaling| Ok(Some(scaling)))? else {
        return Ok((outer_theta, None));
    };
    let theta = rope.optional("rope_theta", NUMBER)?.unwrap_or(outer_theta);
    refuse_other_than(&rope, "partial_rotary_factor", 1.0)?;
    let key = if rope.has("rope_type") { "rope_type" } else { "type" };
    let rope_type: Option<String> = rope.optional(key, "a name")?;
    let factor = || rope.required("factor", NUMBER);
    let scaling = match rope_type.as_deref().unwrap_or("default") {
        "default" => None,
        "linear" => Some(RopeScaling::Linear { factor: factor()? }),
        "dynamic" => {
            Some(RopeScaling::Dynamic { factor: factor()?, original_max_position_embeddings: max_position_embeddings })
        }
        "yarn" => Some(yarn(object, &rope, max_position_embeddings)?),
        "llama3" => Some(RopeScaling::Llama3 {
            factor: factor()?,
            low_freq_factor: rope.required("low_freq_factor", NUMBER)?,
            high_freq_factor: rope.required("high_freq_factor", NUMBER)?,
            original_max_position_embeddings: original(object, &rope, max_position_embeddings)?,
        }),
        other => {
            let supported = "linear, dynamic, yarn and llama3 are";
            return Err(rope
                .unsupported(key, &json!(other))
                .with_hint(format!("of the changes of rotary frequencies {supported}")));
        }
    };
    Ok((theta, scaling))
}

/// The context that the model was first trained on; as in transformers what stands outside comes first.
fn original(object: &Object, rope: &Object, max_position_embeddings: usize) -> Result<usize> {
    const ORIGINAL: &str = "original_max_position_embeddings";
    let outer = object.optional(ORIGINAL, SIZE)?;
    let original = outer.map_or_else(|| rope.optional(ORIGINAL, SIZE), |outer| Ok(Some(outer)))?;
    Ok(original.unwrap_or(max_position_embeddings))
}

/// Keys of YaRN's first implementations, which transformers does not know, are refused where they ask for something.
fn yarn(object: &Object, rope: &Object, max_position_embeddings: usize) -> Result<RopeScaling> {
    refuse_other_than(rope, "attn_factor", 1.0)?;
    refuse_other_than(rope, "extrapolation_factor", 1.0)?;
    let original_max_position_embeddings = original(object, rope, max_position_embeddings)?;
    let number = |key| rope.optional::<f64>(key, NUMBER);
    let implied = max_position_embeddings as f64 / original_max_position_embeddings as f64;
    let factor = number("factor")?.unwrap_or(implied);
    // As in transformers, zeros are as good as absent.
    let [mscale, mscale_all_dim, beta_fast, beta_slow] = ["mscale", "mscale_all_dim", "beta_fast", "beta_slow"]
        .map(|key| number(key).map(|value| value.filter(|&value| value != 0.0)));
    let inferred = match (mscale?, mscale_all_dim?) {
        (Some(mscale), Some(all)) => RopeScaling::mscale(factor, mscale) / RopeScaling::mscale(factor, all),
        _ => RopeScaling::mscale(factor, 1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        attention_factor: number("attention_factor")?.unwrap_or(inferred),
        beta_fast: beta_fast?.unwrap_or(32.0),
        beta_slow: beta_slow?.unwrap_or(1.0),
        truncate: rope.optional("truncate", "true or false")?.unwrap_or(true),
        original_max_position_embeddings,
    })
}

/// `rope_scaling`, as [`read`] takes it.
pub(super) fn write(scaling: RopeScaling) -> Value {
    match scaling {
        RopeScaling::Linear { factor } => json!({ "factor": factor, "rope_type": "linear" }),
        RopeScaling::Dynamic { factor, .. } => json!({ "factor": factor, "rope_type": "dynamic" }),
        RopeScaling::Yarn {
            factor,
            attention_factor,
            beta_fast,
            beta_slow,
            truncate,
            original_max_position_embeddings,
        } => json!({
            "attention_factor": attention_factor,
            "beta_fast": beta_fast,
            "beta_slow": beta_slow,
            "factor": factor,
            "original_max_position_embeddings": original_max_position_embeddings,
            "rope_type": "yarn",
            "truncate": truncate,
        }),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
            "factor": factor,
            "high_freq_factor": high_freq_factor,
            "low_freq_factor": low_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
            "rope_type": "llama3",
        }),
    }
}
