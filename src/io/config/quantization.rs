//! `quantization_config`: weights that were compressed by another tool.

use super::super::json::Object;
use crate::error::Result;

/// Refuses a `quantization_config` that asks for something, naming its method and the way out.
pub(super) fn refuse(object: &Object) -> Result<()> {
    const KEY: &str = "quantization_config";
    let Some(config) = object.nested(KEY)? else { return Ok(()) };
    let asks = |key| Ok(config.optional::<bool>(key, "true or false")?.unwrap_or(false));
    let method: Option<String> = config.optional("quant_method", "a name")?;
    let of_bitsandbytes = matches!(method.as_deref(), None | Some("bitsandbytes"));
    let bits = if asks("load_in_4bit")? { "4" } else { "8" };
    let detail = match (method.as_deref(), asks("load_in_4bit")? || asks("load_in_8bit")?) {
        (_, true) if of_bitsandbytes => format!("bitsandbytes in {bits} bits"),
        (Some("bitsandbytes"), false) => return Ok(()),
        (Some(method), _) => method.to_string(),
        (None, _) if config.has("load_in_4bit") || config.has("load_in_8bit") || !config.asks() => return Ok(()),
        (None, _) => "a method that it does not name".into(),
    };
    let error = object.refuse(KEY, format!("says that the weights are quantised by {detail}, which is not supported"));
    Err(error.with_hint(
        "use the model it was made from, or have transformers dequantize() and save it; if its weights are whole, remove the key",
    ))
}
