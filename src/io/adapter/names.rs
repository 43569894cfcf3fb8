//! The names of an adapter's tensors: those that PEFT gives, and what other tools make of them.

/// What PEFT puts before a module's path.
const PREFIX: &str = "base_model.model.";

/// The name in PEFT's files of what is at `place`: a weight of the model or of a module's LoRA.
pub(super) fn stored_name(place: &str) -> String {
    format!("{PREFIX}{place}")
}

/// The name of a module's `lora_A` or `lora_B` in PEFT's files.
pub fn tensor_name(module: &str, which: &str) -> String {
    stored_name(&lora(module, which))
}

/// The place of a module's `lora_A` or `lora_B`.
pub(super) fn lora(module: &str, which: &str) -> String {
    format!("{module}.{which}.weight")
}

/// The place that a tensor is for, by its name: `model.layers.0.self_attn.q_proj.lora_A.weight`, `lm_head.weight`. What
/// wrappers add to names is left out, as is the adapter's own name. A name without any of a Llama's parts stays as it is.
pub(super) fn place(name: &str) -> String {
    /// What torch.compile and FSDP put anywhere, and PEFT around a module of its own.
    const WRAPPERS: [&str; 5] =
        ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer", "modules_to_save"];
    let mut parts: Vec<&str> = name.split('.').collect();
    for holder in ["lora_A", "lora_B", "modules_to_save"] {
        // Between what holds adapters and the weight stands the adapter's name, or nothing.
        let found = parts.iter().position(|part| *part == holder);
        if let Some(at) = found.filter(|at| at + 2 < parts.len()) {
            parts.remove(at + 1);
        }
    }
    parts.retain(|part| !WRAPPERS.contains(part));
    let outer = parts.iter().take_while(|part| ["base_model", "model", "module"].contains(part)).count();
    let inner = parts.split_off(outer);
    match inner.first() {
        Some(&"lm_head") => inner.join("."),
        Some(&("layers" | "embed_tokens" | "norm")) => format!("model.{}", inner.join(".")),
        _ => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{place, stored_name};

    #[test]
    fn names_of_many_tools_are_of_one_place() {
        let q = "model.layers.0.self_attn.q_proj.lora_A.weight";
        for name in [
            &stored_name(q),
            q,
            "layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.my_adapter.weight",
            "base_model.model._orig_mod.model.layers.0.self_attn.q_proj.lora_A.default.weight",
            "_orig_mod.base_model.model.model.layers.0._orig_mod.self_attn.q_proj.lora_A.weight",
            "module.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model._fsdp_wrapped_module.model.layers.0._checkpoint_wrapped_module.self_attn.q_proj.lora_A.weight",
        ] {
            assert_eq!(place(name), q, "{name}");
        }
        for name in [
            "base_model.model.lm_head.weight",
            "base_model.model.lm_head.base_layer.weight",
            "base_model.model.lm_head.modules_to_save.weight",
            "base_model.model.lm_head.modules_to_save.default.weight",
            "lm_head.weight",
        ] {
            assert_eq!(place(name), "lm_head.weight", "{name}");
        }
        let others = [
            "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight",
            "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
            "base_model.model.score.weight",
            "lora_A.weight",
            "",
        ];
        assert_eq!(others.map(place), others);
    }
}
