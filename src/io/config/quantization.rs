//! `quantization_config`: weights that were compressed by another tool.

use serde_json::{Value, json};

use super::super::json::Object;
use super::super::quantized::{Quantization, Scheme};
use crate::error::Result;

const KEY: &str = "quantization_config";

/// What a `quantization_config` of bitsandbytes says; `None` where there is none, or it asks for nothing.
///
/// # Errors
/// [`Error::File`](crate::error::Error::File) naming another tool's method, or what bitsandbytes does not have.
pub(super) fn read(object: &Object) -> Result<Option<Quantization>> {
    let Some(config) = object.nested(KEY)? else { return Ok(None) };
    let asks = |key| Ok::<_, crate::error::Error>(config.optional::<bool>(key, "true or false")?.unwrap_or(false));
    let method: Option<String> = config.optional("quant_method", "a name")?;
    let names_bits = config.has("load_in_4bit") || config.has("load_in_8bit");
    match method.as_deref() {
        Some("bitsandbytes") => {}
        None if names_bits || !config.asks() => {}
        other => {
            let method = other.unwrap_or("a method that it does not name");
            let detail = format!("says that the weights are quantised by {method}: only bitsandbytes is read");
            return Err(object.refuse(KEY, detail).with_hint(
                "use the model it was made from, or have transformers dequantize() and save it; if its weights are whole, remove the key",
            ));
        }
    }
    let mut quantization = Quantization::default();
    if asks("load_in_4bit")? {
        let kind: Option<String> = config.optional("bnb_4bit_quant_type", "nf4 or fp4")?;
        quantization.scheme = match kind.as_deref() {
            None | Some("fp4") => Scheme::Fp4,
            Some("nf4") => Scheme::Nf4,
            Some(other) => {
                return Err(config.refuse("bnb_4bit_quant_type", format!("must be nf4 or fp4, got {other:?}")));
            }
        };
        quantization.double = asks("bnb_4bit_use_double_quant")?;
    } else if asks("load_in_8bit")? {
        quantization.scheme = Scheme::Int8;
        if let Some(threshold) = config.optional("llm_int8_threshold", "a number")? {
            if !(f32::is_finite(threshold) && threshold >= 0.0) {
                let detail = format!("must be a number from 0 on, got {threshold}");
                return Err(config.refuse("llm_int8_threshold", detail));
            }
            quantization.method.threshold = threshold;
        }
    }
    Ok(quantization.is_some().then_some(quantization))
}

/// The key and its value for weights stored in that way, as transformers 5 writes them.
pub(super) fn write(quantization: &Quantization) -> (&'static str, Value) {
    let is_int8 = quantization.scheme == Scheme::Int8;
    let kind = if quantization.scheme == Scheme::Nf4 { "nf4" } else { "fp4" };
    (
        KEY,
        json!({
            "quant_method": "bitsandbytes",
            "load_in_8bit": is_int8,
            "load_in_4bit": !is_int8,
            "llm_int8_threshold": f64::from(quantization.method.threshold),
            "llm_int8_skip_modules": Value::Null,
            "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_has_fp16_weight": false,
            "bnb_4bit_quant_type": kind,
            "bnb_4bit_use_double_quant": quantization.double,
            "bnb_4bit_compute_dtype": "float32",
            "bnb_4bit_quant_storage": "uint8",
        }),
    )
}
