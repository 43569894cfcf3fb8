//! Options of `finetune` under other names: with underscores, as SageMaker JumpStart and llama-recipes call them, and
//! from a `--config` file.

use std::collections::BTreeMap;
use std::path::Path;

use clap::{ArgAction, Command};

use crate::error::{Error, Result};
use crate::io::text;

/// What another name means here.
enum Meaning {
    /// Our option of that name.
    Is(&'static str),
    /// The opposite of our option of that name.
    Not(&'static str),
    /// One of our options has one value for each of its values.
    Maps(&'static str, &'static [(&'static str, &'static str)]),
    /// Nothing: whatever its value is, the result is the same here.
    Inert,
    /// Nothing with one of these values; no other can be honoured, for the reason given.
    Only(&'static [&'static str], &'static str),
}

use Meaning::{Inert, Is, Maps, Not, Only};

const OFF: &[&str] = &["false"];
const NONE: &[&str] = &["none", "", "false"];

/// Names in lower case with underscores. Where a value is compared, that is in lower case.
const TABLE: &[(&str, Meaning)] = &[
    // Ours, the other way round, and what comes in a later version.
    ("packing", Not("no_packing")),
    ("shuffle", Not("no_shuffle")),
    ("adapter", Is("init_adapter")),
    ("shard", Only(&["none"], "sharded training is not in this version")),
    ("ranks", Only(&["1"], "sharded training is not in this version")),
    ("communicator", Only(&[], "sharded training is not in this version")),
    ("cpu_offload", Only(OFF, "sharded training is not in this version")),
    // JumpStart.
    ("epoch", Is("epochs")),
    ("instruction_tuned", Inert), // records tell by their fields what they are
    ("chat_dataset", Inert),
    ("per_device_train_batch_size", Is("batch_size")),
    ("per_device_eval_batch_size", Inert), // every token weighs the same, whatever its batch
    ("max_val_samples", Is("max_eval_samples")),
    ("preprocessing_num_workers", Inert),
    ("add_input_output_demarcation_key", Not("no_demarcation")),
    ("int8_quantization", Only(OFF, "quantized training is not in this version")),
    ("enable_fsdp", Only(OFF, "sharded training is not in this version")),
    // llama-recipes, train_config.
    ("model_name", Is("model")),
    ("tokenizer_name", Only(NONE, "a model is used with its own tokenizer")),
    ("low_cpu_fsdp", Inert),
    ("run_validation", Maps("validation_split_ratio", &[("true", ""), ("false", "0")])),
    ("batch_size_training", Is("batch_size")),
    ("batching_strategy", Maps("no_packing", &[("packing", "false"), ("padding", "true")])),
    ("context_length", Is("max_input_length")),
    ("num_epochs", Is("epochs")),
    ("max_train_step", Is("max_steps")),
    ("max_eval_step", Only(&["0"], "use --max-eval-samples")),
    ("num_workers_dataloader", Inert),
    ("lr", Is("learning_rate")),
    ("use_fp16", Only(OFF, "use --dtype bf16 or --dtype f32")),
    ("mixed_precision", Inert), // of FSDP
    ("val_batch_size", Inert),
    ("dataset", Only(&["alpaca_dataset"], "name your records with --train")),
    ("data_path", Is("train")),
    ("peft_method", Only(&["lora"], "LoRA is the one method here")),
    ("use_peft", Not("full")),
    ("from_peft_checkpoint", Is("init_adapter")),
    ("output_dir", Is("out")),
    ("freeze_layers", Only(OFF, "train an adapter instead")),
    ("num_freeze_layers", Inert),
    ("freeze_llm_only", Only(OFF, "there are no vision models here")),
    ("quantization", Only(NONE, "quantized training is not in this version")),
    ("one_gpu", Inert),
    ("save_model", Only(&["true"], "the results are always saved")),
    ("dist_checkpoint_root_folder", Inert),
    ("dist_checkpoint_folder", Inert),
    ("save_optimizer", Inert), // checkpoints always hold it
    ("use_fast_kernels", Inert),
    ("use_wandb", Only(OFF, "metrics.jsonl and loss.svg have the curves")),
    ("save_metrics", Inert), // metrics.jsonl is always there
    ("flop_counter", Only(OFF, "there is none")),
    ("flop_counter_start", Inert),
    ("use_profiler", Only(OFF, "use perf, or vicugna's benches")),
    ("profiler_dir", Inert),
    ("micro_batch_size", Only(&[], "use --batch-size and --gradient-accumulation-steps")),
    // llama-recipes, fsdp_config.
    ("use_fsdp", Only(OFF, "sharded training is not in this version")),
    ("sharding_strategy", Inert), // without enable_fsdp
    ("hsdp", Only(OFF, "sharded training is not in this version")),
    ("sharding_group_size", Inert),
    ("replica_group_size", Inert),
    ("checkpoint_type", Inert),
    ("fsdp_activation_checkpointing", Is("activation_checkpointing")),
    ("fsdp_cpu_offload", Only(OFF, "sharded training is not in this version")),
    ("pure_bf16", Maps("dtype", &[("true", "bf16"), ("false", "")])),
    ("optimizer", Only(&["adamw"], "AdamW is the one optimizer here")),
    // llama-recipes, lora_config and the other methods' configs.
    ("r", Is("lora_r")),
    ("bias", Only(&["none"], "biases are not trained")),
    ("task_type", Only(&["causal_lm"], "only causal language models are trained")),
    ("inference_mode", Only(OFF, "this is training")),
    ("adapter_len", Inert),
    ("adapter_layers", Inert),
    ("num_virtual_tokens", Inert),
    // llama-recipes, quantization_config.
    ("quant_type", Inert),
    ("compute_dtype", Inert),
    ("use_double_quant", Inert),
    ("quant_storage", Inert),
];

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

/// Two names of llama-recipes that make one option: whether gradients are clipped, and to what norm.
const CLIPPING: [&str; 2] = ["gradient_clipping", "gradient_clipping_threshold"];

/// The options of a command line that is being put together, by name; the last value of each wins.
struct Options<'a> {
    command: &'a Command,
    values: BTreeMap<String, Option<String>>,
}

/// `arguments` after the word `finetune`, as the parser of `command` takes them.
///
/// # Errors
/// [`Error::Input`] for a name whose value cannot be honoured; [`Error::File`] for a `--config` that cannot be used.
pub(super) fn translate(command: &Command, arguments: &[&str]) -> Result<Vec<String>> {
    let mut options = Options { command, values: BTreeMap::new() };
    let (given, rest) = options.pairs(arguments);
    let config = given.iter().rev().find(|(name, _)| name == "config");
    if let Some((_, path)) = config {
        let path = path.as_deref().ok_or_else(|| Error::input("--config", "needs a file"))?;
        options.read(Path::new(path))?;
    }
    for (name, value) in given.iter().filter(|(name, _)| name != "config") {
        options.set(name, value.clone())?;
    }
    options.clip();
    Ok(options.arguments().into_iter().chain(rest).collect())
}

type Pair = (String, Option<String>);

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
            pairs.push((option.to_string(), arguments.next_if(is_value).map(|value| value.to_string())));
        }
        (pairs, rest)
    }

    /// Takes what a TOML file says.
    fn read(&mut self, path: &Path) -> Result<()> {
        let text = text::read(path)?;
        let table: toml::Table = toml::from_str(&text).map_err(|e| Error::file(path, e.to_string().trim_end()))?;
        for (name, value) in table {
            let text =
                plain(&value).ok_or_else(|| Error::file(path, format!("{name} must be a value or a list of them")))?;
            if !self.is_known(&canonical(&name)) {
                return Err(Error::file(path, format!("{name} is no option of finetune")));
            }
            self.set(&name, Some(text)).map_err(|e| match e.hint() {
                Some(hint) => Error::file(path, e.to_string()).with_hint(hint),
                None => Error::file(path, e.to_string()),
            })?;
        }
        Ok(())
    }

    fn is_known(&self, name: &str) -> bool {
        self.is_ours(name) || CLIPPING.contains(&name) || meaning(name).is_some()
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

    /// Takes an option under any of its names.
    fn set(&mut self, written: &str, value: Option<String>) -> Result<()> {
        let name = canonical(written);
        let lower = value.as_deref().unwrap_or("true").to_lowercase();
        let refuse = |reason: &str| {
            let value = value.as_deref().unwrap_or("true");
            Error::input(format!("--{written}"), format!("{value} cannot be honoured: {reason}"))
        };
        if self.is_ours(&name) || CLIPPING.contains(&name.as_str()) {
            return self.put(&name, written, value);
        }
        match meaning(&name) {
            None => self.put(written, written, value),
            Some(Inert) => Ok(()),
            Some(Is(option)) => self.put(option, written, value),
            Some(Not(option)) => self.put(option, written, Some((!truth(written, &lower)?).to_string())),
            Some(Only(values, reason)) => match values.contains(&lower.as_str()) {
                true => Ok(()),
                false => Err(refuse(reason)),
            },
            Some(Maps(option, values)) => match values.iter().find(|(theirs, _)| *theirs == lower) {
                Some((_, "")) => Ok(()),
                Some((_, ours)) => self.put(option, written, Some(ours.to_string())),
                None => {
                    let known: Vec<&str> = values.iter().map(|(theirs, _)| *theirs).collect();
                    Err(refuse(&format!("it is {}", known.join(" or "))))
                }
            },
        }
    }

    /// Takes one of our options. None, an empty text and -1 ask for its default.
    fn put(&mut self, name: &str, written: &str, value: Option<String>) -> Result<()> {
        let is_default = |value: &str| ["none", "", "-1"].contains(&value.to_lowercase().as_str());
        let value = match value {
            value if self.is_flag(name) || name == CLIPPING[0] => {
                Some(truth(written, &value.as_deref().unwrap_or("true").to_lowercase())?.to_string())
            }
            Some(value) if is_default(&value) => {
                self.values.remove(name);
                return Ok(());
            }
            value => value,
        };
        self.values.insert(name.to_string(), value);
        Ok(())
    }

    /// Makes one option of llama-recipes' two.
    fn clip(&mut self) {
        let [clips, threshold] = CLIPPING.map(|name| self.values.remove(name).flatten());
        if clips.as_deref() == Some("true") {
            self.values.entry("max_grad_norm".into()).or_insert(threshold.or_else(|| Some("1".into())));
        }
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

fn meaning(name: &str) -> Option<&'static Meaning> {
    TABLE.iter().find(|(theirs, _)| *theirs == name).map(|(_, meaning)| meaning)
}

fn truth(written: &str, lower: &str) -> Result<bool> {
    match lower {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" | "none" => Ok(false),
        _ => Err(Error::input(format!("--{written}"), format!("must be true or false, got {lower:?}"))),
    }
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
