//! What a training run can be told. The names are those of the command line and of `config.toml`.

use std::path::PathBuf;

use jiff::civil::DateTime;
use serde::{Deserialize, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::io::adapter::{AdapterConfig, Modules};
use crate::models::llama::LlamaConfig;
use crate::parallel::Strategy;
use crate::parallel::launch::Kind;

/// How the learning rate changes after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrSchedule {
    /// Not at all.
    Constant,
    /// Times `gamma` after each epoch.
    Step,
    /// In a line to zero after the last step.
    Linear,
    /// Along half a cosine to zero after the last step.
    Cosine,
}

/// How records become sequences; [`Options`] has it, and evaluation on its own.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct DataOptions {
    /// Records are cut to this many tokens [default: 1024, or the model's context if that is shorter]
    #[arg(long, value_name = "N")]
    pub max_input_length: Option<usize>,
    /// A file like JumpStart's template.json: {"prompt": "… {field} …", "completion": "…"}
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// A chat template, a file of Jinja, in place of the model's or the adapter's
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Put no "\n\n### Response:\n" between prompt and completion
    #[arg(long)]
    #[serde(default)]
    pub no_demarcation: bool,
    /// Learn the prompts too, not only the responses
    #[arg(long)]
    #[serde(default)]
    pub train_on_prompt: bool,
    /// What chat templates take for now, like 2026-11-30T09:30:00 [default: the time at the start]
    #[arg(long, value_name = "DATE")]
    pub date: Option<DateTime>,
}

impl DataOptions {
    /// These options, and where they are silent, `other`'s.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            max_input_length: self.max_input_length.or(other.max_input_length),
            template: self.template.or(other.template),
            chat_template: self.chat_template.or(other.chat_template),
            no_demarcation: self.no_demarcation || other.no_demarcation,
            train_on_prompt: self.train_on_prompt || other.train_on_prompt,
            date: self.date.or(other.date),
        }
    }

    /// The most tokens of a sequence for a model with a context of so many.
    ///
    /// # Errors
    /// [`Error::Input`] if more are asked for than the model takes.
    pub fn length(&self, model: &LlamaConfig) -> Result<usize> {
        const LONGEST: usize = 1024;
        match self.max_input_length {
            Some(length) if length > model.context() => {
                let detail = format!("{length} tokens are more than the model's {}", model.limit());
                Err(Error::input("--max-input-length", detail))
            }
            given => Ok(given.unwrap_or(LONGEST.min(model.context()))),
        }
    }
}

/// PEFT's word for every linear layer of the blocks; `all` is LLaMA-Factory's.
const ALL_LINEAR: &str = "all-linear";

/// Writes a number without a fraction as a whole one.
fn whole_if_it_is<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match *number {
        Some(number) if number.fract() == 0.0 && number < 1e15 => serializer.serialize_u64(number as u64),
        number => number.serialize(serializer),
    }
}

fn ten_minutes() -> u64 {
    600
}

/// The options of a training run that its result depends on, and how often it saves.
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct Options {
    /// Passes over the training data, of which the last may be a part [default: 3]
    #[arg(long, value_name = "X")]
    #[serde(serialize_with = "whole_if_it_is", skip_serializing_if = "Option::is_none", default)]
    pub epochs: Option<f64>,
    /// Train for this many steps, however many epochs they take; 0: for --epochs
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_steps: u64,
    /// AdamW's, after warm-up
    #[arg(long, value_name = "X", default_value_t = 1e-4)]
    pub learning_rate: f64,
    /// How the learning rate changes [default: constant, or step if --gamma is given]
    #[arg(long, value_name = "HOW")]
    pub lr_schedule: Option<LrSchedule>,
    /// What schedule "step" multiplies the learning rate by after each epoch [default: 0.85]
    #[arg(long, value_name = "X")]
    pub gamma: Option<f64>,
    /// Steps in which the learning rate grows from zero
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub warmup_steps: u64,
    /// The share of all steps in which it does so, where --warmup-steps is 0
    #[arg(long, value_name = "X")]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub warmup_ratio: Option<f64>,
    /// AdamW's, of all that is trained
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub weight_decay: f64,
    /// Rows of a batch: with packing each takes records up to --max-input-length tokens, without one record
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub batch_size: usize,
    /// Batches of a step
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub gradient_accumulation_steps: usize,
    /// Scale gradients down to this norm; 0: never
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub max_grad_norm: f64,
    /// How records become sequences
    #[command(flatten)]
    #[serde(flatten)]
    pub data: DataOptions,
    /// Give a record a row of its own [default: --packing, which fills rows; records never see each other]
    #[arg(long)]
    #[serde(default)]
    pub no_packing: bool,
    /// Take the records in their order
    #[arg(long)]
    #[serde(default)]
    pub no_shuffle: bool,
    /// The share of the records that is kept for evaluation where there is no --eval
    #[arg(long, value_name = "X", default_value_t = 0.2)]
    pub validation_split_ratio: f64,
    /// What the choice of those records depends on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub train_data_split_seed: u64,
    /// Train on the first N sequences; 0: on all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_train_samples: usize,
    /// Evaluate on the first N sequences; 0: on all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_eval_samples: usize,
    /// The adapter's rank
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub lora_r: usize,
    /// The adapter's strength: it is scaled by alpha / r
    #[arg(long, value_name = "X", default_value_t = 32.0)]
    pub lora_alpha: f64,
    /// The share of the adapter's inputs that training drops
    #[arg(long, value_name = "X", default_value_t = 0.05)]
    pub lora_dropout: f64,
    /// Layers with an adapter: q_proj k_proj v_proj o_proj gate_proj up_proj down_proj lm_head, or all-linear: the seven
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_values = ["q_proj", "v_proj"])]
    pub target_modules: Vec<String>,
    /// Scale the adapter by alpha / sqrt(r)
    #[arg(long)]
    #[serde(default)]
    pub use_rslora: bool,
    /// Start from this adapter, with its rank and strength
    #[arg(long, value_name = "DIR|NAME")]
    pub init_adapter: Option<String>,
    /// Train all weights, without an adapter
    #[arg(long, conflicts_with = "init_adapter")]
    #[serde(default)]
    pub full: bool,
    /// What of weights, gradients and optimizer each rank holds only a part of
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    #[serde(default)]
    pub shard: Strategy,
    /// Train on so many ranks, threads of this process [default: one, or as many as mpirun or srun started]: a step has a
    /// batch of each and ends in the bits of --gradient-accumulation-steps as many
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ranks: Option<usize>,
    /// How ranks reach each other [default: mpi where mpirun or srun started several processes]
    #[arg(long, value_name = "HOW")]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub communicator: Option<Kind>,
    /// The batches of a step, once a run has begun: a resumed one may have other ranks
    #[arg(long, hide = true)]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub batches_per_step: Option<usize>,
    /// Seconds that a rank waits for another
    #[arg(long, value_name = "S", default_value_t = 600)]
    #[serde(default = "ten_minutes")]
    pub timeout: u64,
    /// Keep only each block's input and run the block again for its gradient: slower, smaller, the same bits
    #[arg(long)]
    #[serde(default)]
    pub activation_checkpointing: bool,
    /// Launch a step whose shape recurs, as plain text's do, as one CUDA graph: less work between kernels, the same bits
    #[arg(long)]
    #[serde(default)]
    pub cuda_graphs: bool,
    /// Steps between checkpoints; 0: one each epoch
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub save_every: u64,
    /// Steps between evaluations; 0: one each epoch
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub eval_every: u64,
}

impl Options {
    /// Puts in what is left to choose for this model.
    ///
    /// # Errors
    /// [`Error::Input`] naming the option that cannot be as it is.
    pub fn resolve(&mut self, model: &LlamaConfig) -> Result<()> {
        self.refuse_odd()?;
        self.ranks = self.ranks.filter(|&ranks| ranks > 1);
        self.warmup_ratio = self.warmup_ratio.filter(|&ratio| ratio > 0.0 && self.warmup_steps == 0);
        self.epochs = (self.max_steps == 0).then_some(self.epochs.unwrap_or(3.0));
        if !self.full && self.init_adapter.is_none() {
            self.resolve_targets(model)?;
        }
        self.data.max_input_length = Some(self.data.length(model)?);
        let schedule = if self.gamma.is_some() { LrSchedule::Step } else { LrSchedule::Constant };
        self.lr_schedule.get_or_insert(schedule);
        self.gamma.get_or_insert(0.85);
        Ok(())
    }

    /// Takes the blanks around the names of target modules away.
    ///
    /// # Errors
    /// [`Error::Input`] naming the one that matches nothing.
    fn resolve_targets(&mut self, model: &LlamaConfig) -> Result<()> {
        for name in &mut self.target_modules {
            *name = name.trim().into();
            if name.is_empty() {
                return Err(Error::input("--target-modules", "has an empty name").with_hint("leave no comma too many"));
            }
        }
        if let [all] = &mut self.target_modules[..]
            && all == "all"
        {
            *all = ALL_LINEAR.into();
        }
        let adapter = self.adapter("");
        let check = |target_modules| AdapterConfig { target_modules, ..adapter.clone() }.modules(model).map(drop);
        match adapter.target_modules.clone() {
            Modules::Names(names) => names.into_iter().try_for_each(|name| check(Modules::Names(vec![name]))),
            pattern => check(pattern),
        }
    }

    fn refuse_odd(&self) -> Result<()> {
        if let Some(epochs) = self.epochs.filter(|epochs| !(*epochs > 0.0 && epochs.is_finite())) {
            return Err(Error::input("--epochs", format!("must be a number above 0, got {epochs}")));
        }
        let positive = [
            ("--batch-size", self.batch_size as u64),
            ("--gradient-accumulation-steps", self.gradient_accumulation_steps as u64),
            ("--lora-r", self.lora_r as u64),
            ("--ranks", self.ranks.unwrap_or(1) as u64),
            ("--timeout", self.timeout),
        ];
        if let Some((name, _)) = positive.into_iter().find(|&(_, value)| value == 0) {
            return Err(Error::input(name, "must be at least 1"));
        }
        let numbers = [
            ("--learning-rate", self.learning_rate),
            ("--gamma", self.gamma.unwrap_or(0.0)),
            ("--weight-decay", self.weight_decay),
            ("--max-grad-norm", self.max_grad_norm),
        ];
        if let Some((name, value)) = numbers.into_iter().find(|(_, value)| !(*value >= 0.0 && value.is_finite())) {
            return Err(Error::input(name, format!("must be a number from 0 on, got {value}")));
        }
        let shares = [
            ("--validation-split-ratio", self.validation_split_ratio),
            ("--lora-dropout", self.lora_dropout),
            ("--warmup-ratio", self.warmup_ratio.unwrap_or(0.0)),
        ];
        match shares.into_iter().find(|(_, share)| !(0.0..1.0).contains(share)) {
            Some((name, share)) => Err(Error::input(name, format!("must be from 0 to below 1, got {share}"))),
            None => Ok(()),
        }
    }

    /// The adapter that is asked for, of the base model that is called so.
    pub fn adapter(&self, base: &str) -> AdapterConfig {
        let target_modules = match &self.target_modules[..] {
            [one] if one == ALL_LINEAR => Modules::Pattern(one.clone()),
            names => Modules::Names(names.to_vec()),
        };
        AdapterConfig {
            r: self.lora_r,
            lora_alpha: self.lora_alpha,
            lora_dropout: self.lora_dropout,
            use_rslora: self.use_rslora,
            target_modules,
            base_model_name_or_path: Some(base.to_string()),
            ..AdapterConfig::default()
        }
    }

    /// The batches of a step, which are fixed when a run begins.
    pub(super) fn step_batches(&self) -> usize {
        self.batches_per_step.unwrap_or(self.gradient_accumulation_steps)
    }

    /// How many tokens or sequences a batch takes.
    pub(super) fn capacity(&self) -> crate::data::packing::Capacity {
        use crate::data::packing::Capacity::{Sequences, Tokens};
        match self.no_packing {
            true => Sequences(self.batch_size),
            false => Tokens(self.batch_size.saturating_mul(self.data.max_input_length.unwrap_or(usize::MAX))),
        }
    }
}
