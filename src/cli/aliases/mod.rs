//! Options of `finetune` under other names: with underscores, as SageMaker JumpStart, llama-recipes, transformers, TRL
//! and LLaMA-Factory call them, and from a `--config` file.

mod parts;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use clap::{ArgAction, Command};

use crate::error::{Error, Result};
use crate::io::text;
use crate::train;
use table::Meaning::{Inert, Is, Maps, Not, Only};
use table::meaning;

/// What may stand before a name of llama-recipes and a dot.
const SECTIONS: &[&str] = &[
    "train_config",
    "fsdp_config",
    "lora_config",
    "llama_adapter_config",
    "prefix_config",
    "quantization_config",
    "alpaca_dataset",
];

/// An option as it was written, without its dashes, with its value.
type Pair = (String, Option<String>);

/// The options of a command line that is being put together.
struct Options<'a> {
    command: &'a Command,
    /// Their values, by name; those of a later source win.
    values: BTreeMap<String, Option<String>>,
    /// What the current source, a file or the command line, has given: the name of each option, as it was written.
    given: BTreeMap<String, String>,
}

/// `arguments` after the word `finetune`, as the parser of `command` takes them.
///
/// # Errors
/// [`Error::Input`] for a name whose value cannot be honoured, or an option with two values; [`Error::File`] for a
/// `--config` that cannot be used.
pub(super) fn translate(command: &Command, arguments: &[&str]) -> Result<Vec<String>> {
    let mut options = Options { command, values: BTreeMap::new(), given: BTreeMap::new() };
    let (given, rest) = options.pairs(arguments);
    let (configs, given): (Vec<Pair>, Vec<Pair>) = given.into_iter().partition(|(name, _)| name == "config");
    let config = match &configs[..] {
        [] => None,
        [(_, Some(path))] => Some(Path::new(path)),
        [_] => return Err(Error::input("--config", "needs a file")),
        _ => return Err(twice("config", "config")),
    };
    if let Some(path) = config {
        options.read(path)?;
    }
    options.take(&given)?;
    if let Some(path) = config {
        options.refuse_moved(path)?;
    }
    options.clip();
    options.choose_scheme()?;
    options.choose_strategy()?;
    Ok(options.arguments().into_iter().chain(rest).collect())
}

impl Options<'_> {
    /// The options in `arguments` with their values, and all that is neither.
    fn pairs(&self, arguments: &[&str]) -> (Vec<Pair>, Vec<String>) {
        let (mut pairs, mut rest) = (Vec::new(), Vec::new());
        let mut arguments = arguments.iter().peekable();
        while let Some(argument) = arguments.next() {
            let Some(option) = argument.strip_prefix("--").filter(|option| !option.is_empty()) else {
                rest.push(argument.to_string());
                continue;
            };
            if let Some((name, value)) = option.split_once('=') {
                pairs.push((name.to_string(), Some(value.to_string())));
                continue;
            }
            let is_flag = self.is_flag(&canonical(option));
            let is_value = |next: &&&str| match is_flag {
                true => truth(option, &next.to_lowercase()).is_ok(),
                false => !next.starts_with("--") && **next != "-h",
            };
            let mut values: Vec<&str> = arguments.next_if(is_value).into_iter().copied().collect();
            while self.is_list(option) {
                let Some(value) = arguments.next_if(is_value) else { break };
                values.push(value);
            }
            pairs.push((option.to_string(), (!values.is_empty()).then(|| values.join(","))));
        }
        (pairs, rest)
    }

    /// Takes what a TOML file says. One that a run wrote tells where the run was: it goes on where the file is.
    fn read(&mut self, path: &Path) -> Result<()> {
        let text = text::read(path)?;
        let table: toml::Table = toml::from_str(&text).map_err(|e| Error::file(path, e.to_string().trim_end()))?;
        let mut pairs = Vec::new();
        for (name, value) in table {
            let text =
                plain(&value).ok_or_else(|| Error::file(path, format!("{name} must be a value or a list of them")))?;
            if !self.is_known(&canonical(&name)) {
                return Err(Error::file(path, format!("{name} is no option of finetune")));
            }
            pairs.push((name, Some(text)));
        }
        self.take(&pairs).map_err(|e| match e.hint() {
            Some(hint) => Error::file(path, e.to_string()).with_hint(hint),
            None => Error::file(path, e.to_string()),
        })?;
        self.follow(path);
        Ok(())
    }

    /// Takes the options of one source, each once.
    fn take(&mut self, pairs: &[Pair]) -> Result<()> {
        self.given.clear();
        let mut written = BTreeSet::new();
        for (name, value) in pairs {
            if !written.insert(canonical(name)) && !self.is_list(name) {
                return Err(twice(name, name));
            }
            self.set(name, value.clone())?;
        }
        self.join_parts(pairs)
    }

    /// Puts a run's folder, and the template in it, where its `config` is now.
    fn follow(&mut self, config: &Path) {
        let folder =
            config.parent().map_or(Path::new("."), |folder| if folder == "" { Path::new(".") } else { folder });
        if !config.ends_with(train::CONFIG) || !folder.join(train::METRICS).exists() {
            return;
        }
        for (name, now) in [("out", folder.to_path_buf()), ("template", folder.join(train::TEMPLATE))] {
            if let Some(now) = now.to_str().filter(|_| self.values.contains_key(name) && now.exists()) {
                self.values.insert(name.into(), Some(now.into()));
            }
        }
    }

    /// Refuses data that `config` names and that is not there any more.
    fn refuse_moved(&self, config: &Path) -> Result<()> {
        for name in ["train", "eval", "template"].into_iter().filter(|name| !self.given.contains_key(*name)) {
            if let Some(Some(path)) = self.values.get(name)
                && !Path::new(path).exists()
            {
                let hint = format!("if it was moved, name its place with --{name}");
                return Err(Error::file(config, format!("{name}: {path} is not there")).with_hint(hint));
            }
        }
        Ok(())
    }

    fn is_known(&self, name: &str) -> bool {
        self.is_ours(name) || parts::NAMES.contains(&name) || meaning(name).is_some()
    }

    fn is_ours(&self, name: &str) -> bool {
        self.argument(name).is_some() || GLOBAL.contains(&name)
    }

    fn argument(&self, name: &str) -> Option<&clap::Arg> {
        let long = name.replace('_', "-");
        self.command.get_arguments().find(|argument| argument.get_long() == Some(&long))
    }

    fn is_flag(&self, name: &str) -> bool {
        GLOBAL.contains(&name) || self.argument(name).is_some_and(|a| matches!(a.get_action(), ArgAction::SetTrue))
    }

    /// Whether an option, under any of its names, has several values.
    fn is_list(&self, written: &str) -> bool {
        let name = canonical(written);
        let name = if let Some(Is(ours)) = meaning(&name) { ours } else { name.as_str() };
        self.argument(name).is_some_and(|argument| argument.get_value_delimiter().is_some())
    }

    /// Takes an option under any of its names.
    fn set(&mut self, written: &str, value: Option<String>) -> Result<()> {
        let name = canonical(written);
        let lower = value.as_deref().unwrap_or("true").to_lowercase();
        let refuse = |reason: &str| refuse(written, value.as_deref().unwrap_or("true"), reason);
        if self.is_ours(&name) || parts::NAMES.contains(&name.as_str()) {
            return self.put(&name, written, value);
        }
        match meaning(&name) {
            None => self.put(written, written, value),
            Some(Inert) => Ok(()),
            Some(Is(option)) => self.put(option, written, value),
            Some(Not(_)) if is_default(&lower) => Ok(()),
            Some(Not(option)) => self.put(option, written, Some((!truth(written, &lower)?).to_string())),
            Some(Only(values, reason)) => match values.iter().any(|value| is_alike(value, &lower)) {
                true => Ok(()),
                false => Err(refuse(reason)),
            },
            Some(Maps(option, values)) => match values.iter().find(|(theirs, _)| *theirs == lower) {
                Some((_, "")) => Ok(()),
                Some((_, ours)) => self.put(option, written, Some(ours.to_string())),
                None => Err(refuse(&one_of(values.iter().map(|(theirs, _)| *theirs)))),
            },
        }
    }

    /// Takes one of our options. None, an empty text and -1 ask for its default; of --quantize, none is a value.
    fn put(&mut self, name: &str, written: &str, value: Option<String>) -> Result<()> {
        let value = match value {
            value if self.is_flag(name) || parts::TRUTHS.contains(&name) => {
                Some(truth(written, &value.as_deref().unwrap_or("true").to_lowercase())?.to_string())
            }
            Some(value) if name == "quantize" => Some(value.to_lowercase()),
            value => value,
        };
        let is_default = |value: &str| is_default(value) && (name, value) != ("quantize", "none");
        let before = self.values.get(name).cloned().flatten();
        if let Some(other) = self.given.insert(name.into(), written.into()) {
            return match (before, value) {
                // Two names of a flag may agree.
                (before, value) if self.is_flag(name) && before == value => Ok(()),
                (Some(before), Some(value)) if self.is_list(name) => {
                    self.values.insert(name.into(), Some(format!("{before},{value}")));
                    Ok(())
                }
                _ => Err(twice(written, &other)),
            };
        }
        match value {
            Some(value) if !self.is_flag(name) && is_default(&value) => self.values.remove(name),
            value => self.values.insert(name.to_string(), value),
        };
        Ok(())
    }

    fn arguments(self) -> Vec<String> {
        let argument = |(name, value): (&String, &Option<String>)| {
            let long = if self.is_ours(name) { name.replace('_', "-") } else { name.clone() };
            match value {
                Some(value) if self.is_flag(name) => (value == "true").then(|| format!("--{long}")),
                Some(value) => Some(format!("--{long}={value}")),
                None => Some(format!("--{long}")),
            }
        };
        self.values.iter().filter_map(argument).collect()
    }
}

/// The options of every command.
const GLOBAL: &[&str] = &["json", "quiet", "help"];

/// A name in lower case with underscores, without the config that it is of.
fn canonical(written: &str) -> String {
    let name = written.replace('-', "_").to_lowercase();
    match name.split_once('.') {
        Some((section, name)) if SECTIONS.contains(&section) => name.to_string(),
        _ => name,
    }
}

fn truth(written: &str, lower: &str) -> Result<bool> {
    match lower {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" | "none" => Ok(false),
        _ => Err(Error::input(format!("--{written}"), format!("must be true or false, got {lower:?}"))),
    }
}

/// Whether a value asks for the default.
fn is_default(value: &str) -> bool {
    ["none", "", "-1"].contains(&value.to_lowercase().as_str())
}

/// Whether two values are the same text or the same number.
fn is_alike(a: &str, b: &str) -> bool {
    a == b || a.parse::<f64>().is_ok_and(|a| b.parse() == Ok(a))
}

fn refuse(written: &str, value: &str, reason: &str) -> Error {
    Error::input(format!("--{written}"), format!("{value} cannot be honoured: {reason}"))
}

/// The values that an option may have, where it has none of them.
fn one_of<'a>(values: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = values.filter(|value| !value.is_empty()).collect();
    format!("it is {}", known.join(" or "))
}

/// The error of an option that has two values in one place.
fn twice(written: &str, other: &str) -> Error {
    let detail = match canonical(written) == canonical(other) {
        true => "is given twice".into(),
        false => format!("is given twice, as --{other} too"),
    };
    Error::input(format!("--{written}"), detail).with_hint("give it once")
}

/// A value of a TOML file as a command line has it.
fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => Some(value.to_string()),
        toml::Value::Array(values) => values.iter().map(plain).collect::<Option<Vec<_>>>().map(|v| v.join(",")),
        _ => None,
    }
}
