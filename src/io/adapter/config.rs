//! adapter_config.json: which modules have an adapter, and how strong it is.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::CONFIG;
use crate::error::{Error, Result};
use crate::io::atomic;
use crate::io::json::Object;
use crate::models::llama::LlamaConfig;
use crate::shape::Shape;

/// The part of PEFT's `LoraConfig` that says what a LoRA computes; its [`Default`] is PEFT's.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// R, the rank.
    pub r: usize,
    /// The strength: the adapter is scaled by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// The share of the adapter's inputs that training drops.
    pub lora_dropout: f64,
    /// Whether it is scaled by `lora_alpha / sqrt(r)` instead.
    pub use_rslora: bool,
    /// The modules that have an adapter.
    pub target_modules: Modules,
    /// Modules that have none though `target_modules` matches.
    pub exclude_modules: Option<Modules>,
    /// The only layers that have adapters, if not all.
    pub layers_to_transform: Option<Vec<usize>>,
    /// What the list of layers is called, as regular expressions; by default anything.
    pub layers_pattern: Option<Vec<String>>,
    /// Ranks of modules that match a regular expression.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Strengths of modules that match a regular expression.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Where the base model was, for information.
    pub base_model_name_or_path: Option<String>,
}

/// A choice of modules, as PEFT spells it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Modules {
    /// Their whole paths, or ends of them that begin after a dot: `q_proj`.
    Names(Vec<String>),
    /// A regular expression of the whole path, or `all-linear`.
    Pattern(String),
}

impl Modules {
    /// Whether `module` is among them; `key` is where in the config they are chosen.
    fn matches(&self, key: &str, module: &str) -> Result<bool> {
        match self {
            Self::Names(names) => Ok(names.iter().any(|name| is_end_of(name, module))),
            Self::Pattern(shorthand) if shorthand.eq_ignore_ascii_case("all-linear") => Ok(is_linear_of_block(module)),
            Self::Pattern(pattern) => Ok(regex(key, "^(?:", pattern, ")$")?.is_match(module)),
        }
    }
}

fn is_end_of(name: &str, module: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn is_linear_of_block(module: &str) -> bool {
    module.ends_with("_proj")
}

/// `pattern`, a part of the config's `key`, between two parts that PEFT puts around it.
fn regex(key: &str, before: &str, pattern: &str, after: &str) -> Result<Regex> {
    let detail = format!("{pattern:?} is not a regular expression (look-around is not supported)");
    Regex::new(&format!("{before}{pattern}{after}")).map_err(|_| Error::input(key, detail))
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            use_rslora: false,
            target_modules: Modules::Names(vec!["q_proj".into(), "v_proj".into()]),
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            base_model_name_or_path: None,
        }
    }
}

impl AdapterConfig {
    /// The modules of `model` that have an adapter, in the order of the computation, each with its weight's shape
    /// `[out, in]`.
    ///
    /// # Errors
    /// [`Error::Input`] if none has, if one is no linear layer of a block, or if something in this config is not a
    /// regular expression.
    pub fn modules(&self, model: &LlamaConfig) -> Result<Vec<(String, Shape)>> {
        let mut modules = Vec::new();
        let tied_head = ("lm_head.weight".into(), Shape::from([model.vocab_size, model.hidden_size]));
        for (name, shape) in model.parameters().into_iter().chain([tied_head]) {
            let module = name.strip_suffix(".weight").unwrap_or(&name);
            match (self.targets(module)?, is_linear_of_block(module)) {
                (true, true) => modules.push((module.to_string(), shape)),
                (true, false) => return Err(refuse_target(format!("{module} cannot have an adapter"))),
                (false, _) => {}
            }
        }
        if modules.is_empty() {
            let detail = format!("{} matches no linear layer of the model's blocks", json!(self.target_modules));
            return Err(refuse_target(detail));
        }
        Ok(modules)
    }

    fn targets(&self, module: &str) -> Result<bool> {
        if let Some(excluded) = &self.exclude_modules
            && excluded.matches("exclude_modules", module)?
        {
            return Ok(false);
        }
        Ok(self.target_modules.matches("target_modules", module)? && self.has_layer(module)?)
    }

    fn has_layer(&self, module: &str) -> Result<bool> {
        let Some(layers) = self.layers_to_transform.as_ref().filter(|layers| !layers.is_empty()) else {
            return Ok(true);
        };
        let anything = [String::from("[^.]*")];
        let patterns = self.layers_pattern.as_deref().filter(|patterns| !patterns.is_empty()).unwrap_or(&anything);
        for pattern in patterns {
            if let Some(found) =
                regex("layers_pattern", r"^(?:.*?\.)??(?:", pattern, r")\.(?<layer>\d+)\.")?.captures(module)
            {
                let layer = found.name("layer").and_then(|layer| layer.as_str().parse().ok());
                return Ok(layer.is_some_and(|layer| layers.contains(&layer)));
            }
        }
        Ok(false)
    }

    /// The rank of `module`.
    ///
    /// # Errors
    /// [`Error::Input`] if a key of `rank_pattern` is not a regular expression.
    pub fn rank(&self, module: &str) -> Result<usize> {
        by_pattern("rank_pattern", &self.rank_pattern, module, self.r)
    }

    /// What B·A is multiplied by in `module`.
    ///
    /// # Errors
    /// [`Error::Input`] if a key of `rank_pattern` or `alpha_pattern` is not a regular expression, or if it is beyond f32.
    pub fn scaling(&self, module: &str) -> Result<f64> {
        let rank = self.rank(module)? as f64;
        let alpha = by_pattern("alpha_pattern", &self.alpha_pattern, module, self.lora_alpha)?;
        let scaling = alpha / if self.use_rslora { rank.sqrt() } else { rank };
        if !(scaling as f32).is_finite() {
            return Err(Error::input("lora_alpha", format!("{alpha} scales {module} by more than a number can hold")));
        }
        Ok(scaling)
    }
}

fn refuse_target(detail: String) -> Error {
    let hint = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj can have one";
    Error::input("target_modules", detail).with_hint(hint)
}

/// The value of the first pattern that matches the end of a module's path.
fn by_pattern<T: Copy>(key: &str, patterns: &BTreeMap<String, T>, module: &str, default: T) -> Result<T> {
    for (pattern, &value) in patterns {
        if regex(key, r"^(.*\.)?(", pattern, ")$")?.is_match(module) {
            return Ok(value);
        }
    }
    Ok(default)
}

/// What changes the result of an adapter and is not supported; what is not here and not read is inert.
const UNSUPPORTED: [&str; 14] = [
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
];

/// Initialisations that change the base model's weights, so that the adapter fits only those.
const CHANGES_BASE: [&str; 5] = ["pissa", "olora", "loftq", "corda", "lora_ga"];

impl AdapterConfig {
    /// Reads `adapter_config.json` in `folder`.
    ///
    /// # Errors
    /// [`Error::File`] naming the key: not a LoRA, a wrong type, or a feature that changes the result and is not
    /// supported.
    pub fn read(folder: &Path) -> Result<Self> {
        let object = Object::read(&folder.join(CONFIG))?;
        refuse_unsupported(&object)?;
        let default = Self::default();
        let modules = |key| object.optional(key, "a list of names or a regular expression");
        let config = Self {
            r: object.optional("r", "a whole number")?.unwrap_or(default.r),
            lora_alpha: object.optional("lora_alpha", "a number")?.unwrap_or(default.lora_alpha),
            lora_dropout: object.optional("lora_dropout", "a number")?.unwrap_or(default.lora_dropout),
            use_rslora: object.optional("use_rslora", "true or false")?.unwrap_or(default.use_rslora),
            target_modules: modules("target_modules")?.unwrap_or(default.target_modules),
            exclude_modules: modules("exclude_modules")?,
            layers_to_transform: object.one_or_many("layers_to_transform", "a layer or a list of them")?,
            layers_pattern: object.one_or_many("layers_pattern", "a name or a list of them")?,
            rank_pattern: object.optional("rank_pattern", "an object of whole numbers")?.unwrap_or_default(),
            alpha_pattern: object.optional("alpha_pattern", "an object of numbers")?.unwrap_or_default(),
            base_model_name_or_path: object.optional("base_model_name_or_path", "a name")?,
        };
        config.refuse_contradictions(&object)?;
        Ok(config)
    }

    fn refuse_contradictions(&self, object: &Object) -> Result<()> {
        if self.r == 0 || self.rank_pattern.values().any(|&r| r == 0) {
            return Err(object.refuse("r", "must be at least 1"));
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Err(
                object.refuse("lora_dropout", format!("must be at least 0 and below 1, got {}", self.lora_dropout))
            );
        }
        Ok(())
    }

    /// Writes `adapter_config.json` into `folder`, byte for byte as PEFT 0.21 does.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let alphas: BTreeMap<_, _> = self.alpha_pattern.iter().map(|(key, &alpha)| (key, number(alpha))).collect();
        let mut fields = json!({
            "alpha_pattern": alphas,
            "base_model_name_or_path": self.base_model_name_or_path,
            "bias": "none",
            "ensure_weight_tying": false,
            "exclude_modules": self.exclude_modules,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": self.layers_pattern,
            "layers_to_transform": self.layers_to_transform,
            "loftq_config": {},
            "lora_alpha": number(self.lora_alpha),
            "lora_dropout": self.lora_dropout,
            "megatron_core": "megatron.core",
            "peft_type": "LORA",
            "peft_version": "0.21.2",
            "qalora_group_size": 16,
            "r": self.r,
            "rank_pattern": self.rank_pattern,
            "target_modules": self.target_modules,
            "task_type": "CAUSAL_LM",
            "use_rslora": self.use_rslora,
        });
        let off = ["fan_in_fan_out", "lora_bias", "use_dora", "use_qalora"].map(|key| (key, Value::Bool(false)));
        for (key, value) in off.into_iter().chain(NULLS.map(|key| (key, Value::Null))) {
            fields[key] = value;
        }
        let path = folder.join(CONFIG);
        atomic::write_file(&path, |file| write!(file, "{fields:#}").map_err(|e| Error::io(&path, e)))
    }
}

/// Keys that PEFT writes though they ask for nothing.
const NULLS: [&str; 16] = [
    "alora_invocation_tokens",
    "arrow_config",
    "auto_mapping",
    "corda_config",
    "eva_config",
    "kasa_config",
    "layer_replication",
    "lora_ga_config",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "revision",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "velora_config",
];

/// Whole numbers as such, as PEFT's users give them.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

fn refuse_unsupported(object: &Object) -> Result<()> {
    let name = |key| object.optional::<String>(key, "a name");
    match name("peft_type")?.as_deref() {
        Some("LORA") => {}
        other => return Err(object.refuse("peft_type", format!("must be \"LORA\", got {}", json!(other)))),
    }
    if let Some(bias) = name("bias")?.filter(|bias| bias != "none") {
        return Err(object.unsupported("bias", &json!(bias)));
    }
    object.refuse_any(&UNSUPPORTED)?;
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
