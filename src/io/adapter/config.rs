//! adapter_config.json: which modules have an adapter, and how strong it is.

use std::io::Write;
use std::path::Path;

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::CONFIG;
use super::modules::{Modules, by_pattern};
use super::refusals::refuse_unsupported;
use crate::error::{Error, Result};
use crate::io::atomic;
use crate::io::json::Object;

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
    /// Ranks of modules that match a regular expression: the first counts.
    pub rank_pattern: IndexMap<String, usize>,
    /// Strengths of modules that match a regular expression: the first counts.
    pub alpha_pattern: IndexMap<String, f64>,
    /// The ends of the paths of modules that the adapter has whole, trained, in the place of the model's.
    pub modules_to_save: Vec<String>,
    /// Whether an embedding that the adapter has whole is the output layer too, where the model ties them.
    pub ensure_weight_tying: bool,
    /// Which biases are trained: `none`, `all`, or those of the modules with an adapter, `lora_only`.
    pub bias: String,
    /// Where the base model was, for information.
    pub base_model_name_or_path: Option<String>,
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
            rank_pattern: IndexMap::new(),
            alpha_pattern: IndexMap::new(),
            modules_to_save: Vec::new(),
            ensure_weight_tying: false,
            bias: "none".into(),
            base_model_name_or_path: None,
        }
    }
}

impl AdapterConfig {
    /// The rank of `module`.
    ///
    /// # Errors
    /// [`Error::Input`] if a key of `rank_pattern` is not a regular expression, or if the rank is 0.
    pub fn rank(&self, module: &str) -> Result<usize> {
        match by_pattern("rank_pattern", &self.rank_pattern, module, self.r)? {
            0 => Err(Error::input("r", format!("must be at least 1 in {module}"))),
            rank => Ok(rank),
        }
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

impl AdapterConfig {
    /// Reads `adapter_config.json` in `folder`.
    ///
    /// # Errors
    /// [`Error::File`] naming the key: not a LoRA, a wrong type, or a feature that changes the result and is not
    /// supported.
    pub fn read(folder: &Path) -> Result<Self> {
        Self::parse(&Object::read(&folder.join(CONFIG))?)
    }

    /// The configuration in an object that [`AdapterConfig::read`] describes.
    pub(super) fn parse(object: &Object) -> Result<Self> {
        refuse_unsupported(object)?;
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
            modules_to_save: object.optional("modules_to_save", "a list of names")?.unwrap_or_default(),
            ensure_weight_tying: object.optional("ensure_weight_tying", "true or false")?.unwrap_or_default(),
            bias: object.optional("bias", "a name")?.unwrap_or(default.bias),
            base_model_name_or_path: object.optional("base_model_name_or_path", "a name")?,
        };
        if !(0.0..1.0).contains(&config.lora_dropout) {
            let detail = format!("must be at least 0 and below 1, got {}", config.lora_dropout);
            return Err(object.refuse("lora_dropout", detail));
        }
        Ok(config)
    }

    /// Writes `adapter_config.json` into `folder`, byte for byte as PEFT 0.21 does, but for the order of patterns, which
    /// counts and is kept.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let alphas: IndexMap<_, _> = self.alpha_pattern.iter().map(|(key, &alpha)| (key, number(alpha))).collect();
        let mut fields = json!({
            "alpha_pattern": alphas,
            "base_model_name_or_path": self.base_model_name_or_path,
            "bias": self.bias,
            "ensure_weight_tying": self.ensure_weight_tying,
            "exclude_modules": self.exclude_modules,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": self.layers_pattern,
            "layers_to_transform": self.layers_to_transform,
            "loftq_config": {},
            "lora_alpha": number(self.lora_alpha),
            "lora_dropout": self.lora_dropout,
            "megatron_core": "megatron.core",
            "modules_to_save": Some(&self.modules_to_save).filter(|modules| !modules.is_empty()),
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
        fields.as_object_mut().into_iter().for_each(Map::sort_keys);
        let path = folder.join(CONFIG);
        atomic::write_file(&path, |file| write!(file, "{fields:#}").map_err(|e| Error::io(&path, e)))
    }
}

/// Keys that PEFT writes though they ask for nothing.
const NULLS: [&str; 15] = [
    "alora_invocation_tokens",
    "arrow_config",
    "auto_mapping",
    "corda_config",
    "eva_config",
    "kasa_config",
    "layer_replication",
    "lora_ga_config",
    "megatron_config",
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
