//! Which modules of a model an adapter's configuration chooses.

use fancy_regex::Regex;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::config::AdapterConfig;
use super::refusals::MERGE;
use crate::error::{Error, Result};
use crate::io::LM_HEAD;
use crate::models::llama::LlamaConfig;
use crate::shape::Shape;

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
            Self::Pattern(pattern) => {
                let regex = PythonRegex::new(key, "^(?:", pattern, ")$")?;
                regex.is_match(module)
            }
        }
    }

    /// Whether the whole path of `module` is among the names.
    fn names_whole(&self, module: &str) -> bool {
        matches!(self, Self::Names(names) if names.iter().any(|name| name == module))
    }
}

fn is_end_of(name: &str, module: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn is_linear_of_block(module: &str) -> bool {
    module.ends_with("_proj")
}

/// A regular expression of the config, in Python's dialect.
struct PythonRegex<'a> {
    key: &'a str,
    text: &'a str,
    regex: Regex,
}

impl<'a> PythonRegex<'a> {
    /// `text`, a part of the config's `key`, between two parts that PEFT puts around it.
    fn new(key: &'a str, before: &str, text: &'a str, after: &str) -> Result<Self> {
        match Regex::new(&format!("{before}{text}{after}")) {
            Ok(regex) => Ok(Self { key, text, regex }),
            Err(_) => Err(Error::input(key, format!("{text:?} is not a regular expression"))),
        }
    }

    fn is_match(&self, module: &str) -> Result<bool> {
        self.regex.is_match(module).map_err(|_| self.endless(module))
    }

    /// The group called `layer`.
    fn layer(&self, module: &str) -> Result<Option<usize>> {
        let captures = self.regex.captures(module).map_err(|_| self.endless(module))?;
        let layer = captures.as_ref().and_then(|captures| captures.name("layer"));
        Ok(layer.and_then(|layer| layer.as_str().parse().ok()))
    }

    fn endless(&self, module: &str) -> Error {
        let detail = format!("{:?} takes too many steps to match against {module}", self.text);
        Error::input(self.key, detail).with_hint("write it without one repetition inside another")
    }
}

impl AdapterConfig {
    /// The modules of `model` that have an adapter, in the order of the computation, each with its weight's shape
    /// `[out, in]`.
    ///
    /// # Errors
    /// [`Error::Input`] if none has, if one is no linear layer, or if something in this config is not a
    /// regular expression.
    pub fn modules(&self, model: &LlamaConfig) -> Result<Vec<(String, Shape)>> {
        let mut modules = Vec::new();
        let head = (LM_HEAD.into(), Shape::from([model.vocab_size, model.hidden_size]));
        let others = model.parameters().into_iter().filter(|(name, _)| name != LM_HEAD);
        for (name, shape) in others.chain([head]) {
            let Some(module) = name.strip_suffix(".weight") else { continue }; // a bias
            match self.targets(module)? {
                true if is_linear_of_block(module) || module == "lm_head" => modules.push((module.to_string(), shape)),
                true => return Err(refuse_target(format!("{module} cannot have an adapter; if it has one, {MERGE}"))),
                false => {}
            }
        }
        if modules.is_empty() {
            let detail = format!("{} matches no linear layer of the model", json!(self.target_modules));
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
        // What is whole in the adapter has no LoRA, whatever else chooses it.
        let path = format!(".{module}.");
        if self.modules_to_save.iter().any(|saved| path.contains(&format!(".{saved}."))) {
            return Ok(false);
        }
        // PEFT holds a module that is named by its whole path to no list of layers.
        Ok(self.target_modules.names_whole(module)
            || self.target_modules.matches("target_modules", module)? && self.has_layer(module)?)
    }

    /// Whether `modules_to_save` names the module of a weight, or one that holds it, by the end of its path.
    pub(super) fn saves(&self, weight: &str) -> bool {
        let modules = weight.match_indices('.').filter_map(|(dot, _)| weight.get(..dot));
        let mut modules = modules.filter(|module| !module.is_empty());
        modules.any(|module| self.modules_to_save.iter().any(|saved| module.ends_with(saved)))
    }

    /// Whether training the adapter trains a weight of the model that it has whole.
    ///
    /// # Errors
    /// [`Error::Input`] as [`AdapterConfig::modules`].
    pub fn trains(&self, weight: &str) -> Result<bool> {
        let Some(module) = weight.strip_suffix(".bias") else { return Ok(self.saves(weight)) };
        Ok(self.saves(weight) || self.bias == "all" || self.bias == "lora_only" && self.targets(module)?)
    }

    fn has_layer(&self, module: &str) -> Result<bool> {
        let Some(layers) = self.layers_to_transform.as_ref().filter(|layers| !layers.is_empty()) else {
            return Ok(true);
        };
        let anything = [String::from("[^.]*")];
        let patterns = self.layers_pattern.as_deref().filter(|patterns| !patterns.is_empty()).unwrap_or(&anything);
        for pattern in patterns {
            let pattern = PythonRegex::new("layers_pattern", r"^(?:.*?\.)??(?:", pattern, r")\.(?<layer>\d+)\.")?;
            if let Some(layer) = pattern.layer(module)? {
                return Ok(layers.contains(&layer));
            }
        }
        Ok(false)
    }
}

fn refuse_target(detail: String) -> Error {
    let hint = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj and lm_head can have one";
    Error::input("target_modules", detail).with_hint(hint)
}

/// The value of the first of the config's patterns, in its order, that matches the end of a module's path.
pub(super) fn by_pattern<T: Copy>(key: &str, patterns: &IndexMap<String, T>, module: &str, default: T) -> Result<T> {
    for (pattern, &value) in patterns {
        if PythonRegex::new(key, r"^(.*\.)?(", pattern, ")$")?.is_match(module)? {
            return Ok(value);
        }
    }
    Ok(default)
}
