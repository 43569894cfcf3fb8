//! What a training run can be told. The names are those of the command line and of `config.toml`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::io::adapter::{AdapterConfig, Modules};
use crate::models::llama::LlamaConfig;

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
    /// Put no "\n\n### Response:\n" between prompt and completion
    #[arg(long)]
    #[serde(default)]
    pub no_demarcation: bool,
    /// Learn the prompts too, not only the responses
    #[arg(long)]
    #[serde(default)]
    pub train_on_prompt: bool,
}

impl DataOptions {
    /// These options, and where they are silent, `other`'s.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            max_input_length: self.max_input_length.or(other.max_input_length),
            template: self.template.or(other.template),
            no_demarcation: self.no_demarcation || other.no_demarcation,
            train_on_prompt: self.train_on_prompt || other.train_on_prompt,
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

/// The options of a training run that its result depends on, and how often it saves.
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct Options {
    /// Passes over the training data
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub epochs: u64,
    /// Stop after this many steps; 0: after the last epoch
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
    /// Layers with an adapter: q_proj k_proj v_proj o_proj gate_proj up_proj down_proj, or all-linear
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
        if !self.full && self.init_adapter.is_none() {
            self.adapter("").modules(model)?;
        }
        self.data.max_input_length = Some(self.data.length(model)?);
        let schedule = if self.gamma.is_some() { LrSchedule::Step } else { LrSchedule::Constant };
        self.lr_schedule.get_or_insert(schedule);
        self.gamma.get_or_insert(0.85);
        Ok(())
    }

    fn refuse_odd(&self) -> Result<()> {
        let positive = [
            ("--epochs", self.epochs),
            ("--batch-size", self.batch_size as u64),
            ("--gradient-accumulation-steps", self.gradient_accumulation_steps as u64),
            ("--lora-r", self.lora_r as u64),
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
        let shares = [("--validation-split-ratio", self.validation_split_ratio), ("--lora-dropout", self.lora_dropout)];
        match shares.into_iter().find(|(_, share)| !(0.0..1.0).contains(share)) {
            Some((name, share)) => Err(Error::input(name, format!("must be from 0 to below 1, got {share}"))),
            None => Ok(()),
        }
    }

    /// The adapter that is asked for, of the base model that is called so.
    pub fn adapter(&self, base: &str) -> AdapterConfig {
        let target_modules = match &self.target_modules[..] {
            [one] if one == "all-linear" => Modules::Pattern(one.clone()),
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

    /// How many tokens or sequences a batch takes.
    pub(super) fn capacity(&self) -> crate::data::packing::Capacity {
        use crate::data::packing::Capacity::{Sequences, Tokens};
        match self.no_packing {
            true => Sequences(self.batch_size),
            false => Tokens(self.batch_size.saturating_mul(self.data.max_input_length.unwrap_or(usize::MAX))),
        }
    }
}
