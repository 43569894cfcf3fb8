//! A tokenizer's chat templates, made ready.

use std::fs;
use std::path::Path;

use minijinja::Environment;
use serde_json::{Map, Value, json};

use super::marks::Unmarked;
use super::{generation, jinja, percent};
use crate::error::Result;
use crate::io::text;
use crate::io::tokenizer::Tokenizer;

/// Tokens that templates may name.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The templates of a tokenizer, and what it tells them.
#[derive(Debug)]
pub(in crate::io::tokenizer) struct Templates {
    environment: Environment<'static>,
    named: Vec<Named>,
    /// The special tokens that the config names.
    values: Map<String, Value>,
    /// All tokens that are flagged special.
    pub special_tokens: Vec<String>,
}

#[derive(Debug)]
struct Named {
    name: String,
    has_generation: bool,
    /// Why it is no template.
    error: Option<String>,
}

impl Templates {
    /// Those of the config's `chat_template`: one text, or a list with names.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let named = match tokenizer.config.get("chat_template") {
            Some(Value::String(source)) => vec![(DEFAULT.to_owned(), source.clone())],
            Some(Value::Array(named)) => {
                named.iter().filter_map(|each| text(each.get("name")).zip(text(each.get("template")))).collect()
            }
            _ => Vec::new(),
        };
        let mut environment = jinja::environment(tokenizer.date);
        let mut add = |(name, source): (String, String)| {
            let source = percent::rewrite(&source.replace("\r\n", "\n").replace('\r', "\n"));
            let (source, has_generation) = generation::enclose(&source);
            let added = environment.add_template_owned(name.clone(), source.into_owned());
            Named { name, has_generation, error: added.err().map(|e| format!("{e:#}")) }
        };
        let named = named.into_iter().map(&mut add).collect();
        let special = |name: &str| Some((name.to_owned(), tokenizer.special(name)?.into()));
        let added = tokenizer.inner.get_added_tokens_decoder().into_values();
        let special_tokens =
            added.filter(|token| token.special && !token.content.is_empty()).map(|token| token.content);
        Self {
            environment,
            named,
            values: SPECIAL_TOKENS.into_iter().filter_map(special).collect(),
            special_tokens: special_tokens.collect(),
        }
    }

    /// The template for conversations with or without tools.
    ///
    /// # Errors
    /// What is wrong with it, or that there is none.
    pub fn choose(&self, has_tools: bool) -> Result<Template<'_>, String> {
        let find = |name: &str| self.named.iter().find(|template| template.name == name);
        let chosen = has_tools.then(|| find("tool_use")).flatten().or_else(|| find(DEFAULT));
        match chosen {
            Some(Named { error: Some(error), .. }) => Err(format!("chat template: {error}")),
            Some(named) => Ok(Template { templates: self, named }),
            None if self.named.is_empty() => Err("has no chat template".to_owned()),
            None => {
                let names: Vec<&str> = self.named.iter().map(|template| template.name.as_str()).collect();
                Err(format!("has chat templates [{}], of which none is the default", names.join(", ")))
            }
        }
    }
}

const DEFAULT: &str = "default";

/// The chat templates that are files of a folder: one alone, or a list with names. They replace what the config has.
pub(in crate::io::tokenizer) fn of_folder(folder: &Path) -> Result<Option<Value>> {
    let mut files = vec![("default".to_owned(), folder.join("chat_template.jinja"))];
    let entries = fs::read_dir(folder.join("additional_chat_templates")).into_iter().flatten().flatten();
    let mut others: Vec<_> = entries.map(|entry| entry.path()).collect();
    others.retain(|path| path.extension().is_some_and(|extension| extension == "jinja"));
    others.sort();
    files.extend(others.into_iter().filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path.clone()))));
    let mut named = Vec::new();
    for (name, path) in files {
        named.extend(text::read_if_there(&path)?.map(|template| (name, template)));
    }
    Ok(match &named[..] {
        [] => None,
        [(name, template)] if name == "default" => Some(Value::String(template.clone())),
        _ => Some(named.iter().map(|(name, template)| json!({"name": name, "template": template})).collect()),
    })
}

/// One of [`Templates`].
pub(in crate::io::tokenizer) struct Template<'a> {
    templates: &'a Templates,
    named: &'a Named,
}

impl Template<'_> {
    /// Whether the template has the tag `{% generation %}`.
    pub(super) fn has_generation(&self) -> bool {
        self.named.has_generation
    }

    /// Returns what the template makes of `given`.
    ///
    /// # Errors
    /// What the template refuses, and where.
    pub(super) fn render(&self, given: &Map<String, Value>, add_generation_prompt: bool) -> Result<Unmarked, String> {
        let mut values = self.templates.values.clone();
        values.extend(given.iter().map(|(name, value)| (name.clone(), value.clone())));
        values.insert("add_generation_prompt".to_owned(), add_generation_prompt.into());
        let template = self.templates.environment.get_template(&self.named.name);
        let text = template
            .and_then(|template| template.render(minijinja::value::Serde(values)))
            .map_err(|e| format!("chat template: {e:#}"))?;
        Unmarked::new(&text).ok_or_else(|| "chat template: it takes apart what it marks by {% generation %}".to_owned())
    }
}
