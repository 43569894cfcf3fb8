//! A whole run: from files to a folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::config;
use super::dead::Pulse;
use super::examples::{Examples, tokens};
use super::fingerprint::fingerprint;
use super::folder::{CHECKPOINTS, LOCK, METRICS, RunFolder};
use super::metrics::{Metrics, peak_rss_bytes};
use super::options::Options;
use super::pace::Pace;
use super::plan::Plan;
use super::progress::Progress;
use super::session::{Session, State};
use super::weights::{Frozen, Trained};
use crate::device::{Device, Graphs, host};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::adapter::Modules;
use crate::io::checkpoint::Checkpoints;
use crate::io::model::{ModelFiles, attach_new_adapter};
use crate::io::tokenizer::now;
use crate::models::llama::Llama;
use crate::ops::Instructions;
use crate::optim::{AdamW, AdamWOptions};
use crate::parallel::{Communicator, Sharded};

/// A fine-tuning run.
#[derive(Clone)]
pub struct Run<'a> {
    /// What the model is called.
    pub model: String,
    /// Where it is, with the adapter to start from.
    pub files: &'a ModelFiles,
    /// Where it is computed.
    pub device: Device,
    /// How weights and activations are stored; what is trained is f32 all the same.
    pub dtype: DType,
    /// What all random choices depend on.
    pub seed: u64,
    /// The training data.
    pub train: PathBuf,
    /// The evaluation data; else a part of the training data.
    pub eval: Option<PathBuf>,
    /// The folder of the results.
    pub out: PathBuf,
    /// Whether to go on with what is in `out`.
    pub resume: bool,
    /// The rest.
    pub options: Options,
    /// The way to the other ranks, if there are some.
    pub communicator: Option<Arc<dyn Communicator>>,
}

/// What a run came to.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The folder of the results.
    pub out: PathBuf,
    /// Optimizer steps.
    pub steps: u64,
    /// The mean over all supervised tokens of all steps.
    pub train_loss: f64,
    /// The loss of the weights that were kept, if anything was evaluated.
    pub eval_loss: Option<f64>,
    /// `exp(eval_loss)`.
    pub eval_perplexity: Option<f64>,
    /// All tokens over the time that their steps took.
    pub tokens_per_second: f64,
    /// The time that the steps took.
    pub seconds: f64,
    /// The most memory that the process ever had, where the system tells.
    pub peak_rss_bytes: Option<u64>,
    /// The most that tensors held on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_device_bytes: Option<usize>,
    /// Steps that were one launch, with `--cuda-graphs` on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph_launches: Option<u64>,
    /// Numbers that were trained.
    pub trainable_parameters: usize,
    /// All numbers of the model, adapter included.
    pub all_parameters: usize,
}

impl Run<'_> {
    /// Trains, and leaves the best weights in `out`, or the last ones if nothing was evaluated.
    ///
    /// Sets out only when options, data and model have been found good. A run that ends early, by `stop` or in an error,
    /// leaves its checkpoints, and one with `resume` goes on from them to the bits that it would have come to.
    ///
    /// # Errors
    /// [`Error::Input`] naming an option; [`Error::File`] naming what cannot be read or written, or that the run was
    /// stopped; [`Error::Input`] where a loss or a gradient is not finite, naming the step and the tensor.
    pub fn finetune(self, stop: &AtomicBool, progress: Progress) -> Result<Summary> {
        host::in_pool(|| self.finetune_here(stop, progress))
    }

    fn finetune_here(mut self, stop: &AtomicBool, progress: Progress) -> Result<Summary> {
        let note = |text: &str| progress.note(text);
        if let (Some(epochs), steps @ 1..) = (self.options.epochs, self.options.max_steps) {
            note(&format!("--max-steps {steps} decides, not --epochs {epochs}"));
        }
        if self.options.full && self.files.quantization().is_some() {
            let detail = format!("weights in {} are frozen", self.files.quantization().in_words());
            return Err(Error::input("--full", detail).with_hint("train an adapter, or use --quantize none"));
        }
        self.options.resolve(self.files.config())?;
        let (folder, begun) = self.open()?;
        self.options.data.date = begun.date;
        self.options.batches_per_step = begun.batches_per_step;
        if let Some(batches) = begun.batches_per_step.filter(|batches| *batches != self.asked_batches()) {
            note(&format!("a step has {batches} batches, as when the run began, not {}", self.asked_batches()));
        }
        let examples = progress.during("reading the records", || {
            Examples::read(&self.train, self.eval.as_deref(), &self.options, self.files, &note)
        })?;
        let sharded = self.sharded();
        let model = progress.during("loading the model", || match (&sharded, self.options.full) {
            (Some(sharded), trains) => {
                let mut keep = |name: &str, weight| sharded.keep(name, weight, trains);
                self.files.load_kept(self.dtype, &self.device, trains, &mut keep)
            }
            (None, true) => self.files.load(self.dtype, &self.device),
            (None, false) => self.files.load_frozen(self.dtype, &self.device),
        })?;
        let adapter = self.attach(&model)?;
        let trained = Trained::new(&model, adapter, sharded)?;
        let (trainable_parameters, all_parameters) = trained.count();
        note(&trainable(trainable_parameters, all_parameters));
        let text = match (self.options.cuda_graphs, &self.communicator) {
            (true, None) => self.device.use_graphs(),
            (true, Some(_)) => Some("note: ranks exchange gradients within a step, so kernels run one by one".into()),
            (false, _) => None,
        };
        text.iter().for_each(|text| note(text));
        let (state, graph_launches) = self.train(&folder, &examples, trained, stop, &progress)?;
        let eval_loss = state.best.map(|(_, best)| best.loss);
        Ok(Summary {
            out: self.out,
            steps: state.step,
            train_loss: state.loss_sum / state.supervised as f64,
            eval_loss,
            eval_perplexity: eval_loss.map(f64::exp),
            tokens_per_second: state.tokens as f64 / state.seconds,
            seconds: state.seconds,
            peak_rss_bytes: peak_rss_bytes(),
            peak_device_bytes: self.device.peak_bytes(),
            graph_launches,
            trainable_parameters,
            all_parameters,
        })
    }

    /// Whether this process, or thread, is the one that writes.
    fn writes(&self) -> bool {
        self.communicator.as_ref().is_none_or(|communicator| communicator.rank() == 0)
    }

    /// The batches of a step, where none were fixed before.
    fn asked_batches(&self) -> usize {
        let ranks = self.communicator.as_ref().map_or(1, |communicator| communicator.world_size());
        self.options.gradient_accumulation_steps.saturating_mul(ranks)
    }

    /// Opens the folder, if that is this rank's to do, and tells all what was fixed when the run began, or is now.
    fn open(&self) -> Result<(RunFolder, config::Begun)> {
        let (mut folder, mut begun) = (None, None);
        if self.writes() {
            let opened = RunFolder::open(&self.out, self.resume)?;
            let was = config::begun(&opened)?;
            let date = self.options.data.date.or(was.date).unwrap_or_else(now);
            let batches = was.batches_per_step.filter(|_| self.resume).unwrap_or(self.asked_batches());
            begun = Some(config::Begun { date: Some(date), batches_per_step: Some(batches), ..was });
            folder = Some(opened);
        }
        if let Some(communicator) = &self.communicator {
            begun = Some(communicator.broadcast("the beginning", begun.as_ref())?);
            self.greet(&**communicator)?;
        }
        Ok((folder.unwrap_or_else(|| RunFolder::of_another(&self.out)), begun.unwrap_or_default()))
    }

    /// Refuses ranks that are not of this run: of another version, with other options, or with another --out in its place.
    fn greet(&self, communicator: &dyn Communicator) -> Result<()> {
        let options = serde_json::to_value(&self.options).map_err(|e| Error::input("options", e.to_string()))?;
        let token = std::fs::read_to_string(self.out.join(LOCK)).unwrap_or_else(|e| e.to_string());
        let mut mine = BTreeMap::from([
            ("the version".to_string(), json!(env!("CARGO_PKG_VERSION"))),
            ("the process that holds --out".into(), json!(token)),
            ("--model".into(), json!(self.model)),
            ("--dtype".into(), json!(self.dtype.to_string())),
            ("--seed".into(), json!(self.seed)),
            ("the CPU's instructions".into(), json!(Instructions::of_this_cpu().to_string())),
            ("the device".into(), json!(self.device.model()?)),
        ]);
        if let Value::Object(options) = options {
            mine.extend(options.into_iter().map(|(name, value)| (format!("--{}", name.replace('_', "-")), value)));
        }
        alike(communicator, "the greeting", &mine)
    }

    fn sharded(&self) -> Option<Arc<Sharded>> {
        let (communicator, options) = (self.communicator.clone()?, &self.options);
        let config = self.files.config();
        let shape = (config.num_hidden_layers, config.tie_word_embeddings);
        let checkpoints = options.activation_checkpointing;
        Some(Arc::new(Sharded::new(communicator, options.shard, &self.device, shape, checkpoints)))
    }

    /// What rank 0 has found, in all ranks.
    fn agreed<T: Serialize + DeserializeOwned>(&self, what: &str, find: impl FnOnce() -> Result<T>) -> Result<T> {
        match &self.communicator {
            None => find(),
            Some(communicator) if communicator.rank() == 0 => communicator.broadcast(what, Some(&find()?)),
            Some(communicator) => communicator.broadcast(what, None),
        }
    }

    /// Makes what is to be trained trainable. Options that an adapter brings with it become its own.
    fn attach(&mut self, model: &Llama) -> Result<Option<Frozen>> {
        if self.options.full {
            model.train_weights()?;
            return Ok(None);
        }
        let Some(adapter) = self.files.adapter() else {
            let adapter = self.options.adapter(&self.model);
            attach_new_adapter(model, &adapter, self.seed)?;
            return Ok(Some(Frozen { config: adapter, whole: BTreeMap::new() }));
        };
        let (mut adapter, whole) = (adapter.config.clone(), adapter.frozen()?);
        adapter.base_model_name_or_path = Some(self.model.clone());
        let options = &mut self.options;
        (options.lora_r, options.lora_alpha) = (adapter.r, adapter.lora_alpha);
        (options.lora_dropout, options.use_rslora) = (adapter.lora_dropout, adapter.use_rslora);
        options.target_modules = match &adapter.target_modules {
            Modules::Names(names) => names.clone(),
            Modules::Pattern(pattern) => vec![pattern.clone()],
        };
        Ok(Some(Frozen { config: adapter, whole }))
    }

    /// Trains from the last checkpoint, or from the beginning, to the end, and writes the results. Where the run stands
    /// then, and how many steps were one launch.
    fn train(
        &self,
        folder: &RunFolder,
        examples: &Examples,
        trained: Trained<'_>,
        stop: &AtomicBool,
        progress: &Progress,
    ) -> Result<(State, Option<u64>)> {
        let fingerprint = progress.during("taking the fingerprint of the run", || {
            let sharded = trained.sharded.as_deref();
            fingerprint(&self.options, self.files.quantization(), self.seed, examples, trained.model, sharded)
        })?;
        if let Some(communicator) = &self.communicator {
            alike(&**communicator, "the fingerprint of the run", &fingerprint)?;
        }
        let checkpoints = Checkpoints::new(folder.join(CHECKPOINTS), fingerprint);
        let plan = Plan::new(&examples.training, &self.options, self.seed);
        let (found, is_result) = self.agreed("the checkpoint to go on from", || {
            let found = checkpoints.newest::<State>(|error| progress.note(format_args!("refused: {error}")))?;
            Ok((found, trained.is_result(folder.path())))
        })?;
        if is_result {
            return Ok((finished(found, plan.total(), folder.path(), progress)?, None));
        }
        let adamw = AdamWOptions { weight_decay: self.options.weight_decay, ..AdamWOptions::default() };
        let instructions = matches!(self.device, Device::Cpu).then(|| Instructions::of_this_cpu().to_string());
        let (optimizer, state) = match found {
            Some((step, mut state)) => {
                if state.instructions.is_some() && state.instructions != instructions {
                    let [was, is] = [&state.instructions, &instructions].map(|of| of.as_deref().unwrap_or("none"));
                    progress
                        .note(format_args!("the CPU had {was}, has {is}: the run goes on, but not to the same bits"));
                }
                state.instructions = instructions;
                let checkpoint = checkpoints.path(step);
                progress.note(format_args!("going on from {}", checkpoint.display()));
                trained.read(&checkpoint)?;
                if self.writes() {
                    config::write(self, folder)?;
                }
                (trained.read_optimizer(&checkpoint, step, adamw)?, state)
            }
            None => {
                if self.resume {
                    progress.note(format_args!("{}: no checkpoint to go on from, starting anew", self.out.display()));
                }
                if self.writes() {
                    let checkpoints = folder.join(CHECKPOINTS);
                    std::fs::create_dir_all(&checkpoints).map_err(|e| Error::io(&checkpoints, e))?;
                    config::write(self, folder)?;
                }
                (AdamW::new(adamw), State { instructions, ..State::default() })
            }
        };
        let open = || Metrics::open(folder.join(METRICS), state.step);
        let metrics = self.writes().then(open).transpose()?;
        let (options, seed, evaluation) = (&self.options, self.seed, &examples.evaluation[..]);
        let step_tokens = tokens(&examples.training) as f64 / plan.epoch(0).len().max(1) as f64;
        let mut session = Session {
            trained,
            optimizer,
            options,
            seed,
            plan,
            evaluation,
            state,
            checkpoints,
            metrics,
            folder,
            progress,
            pace: Pace::new(step_tokens, tokens(&examples.evaluation)),
            pulse: Pulse::default(),
            stop,
            stops: false,
            graphs: Graphs::new(&self.device),
        };
        session.run()?;
        session.take_best()?;
        progress
            .during("writing the results", || session.trained.write_result(folder.path(), self.files, self.dtype))?;
        Ok((session.state, session.graphs.launches()))
    }
}

/// Refuses ranks of which one says something else of anything than rank 0.
fn alike(communicator: &dyn Communicator, what: &str, mine: &BTreeMap<String, Value>) -> Result<()> {
    let said = communicator.gather(what, mine)?;
    let Some(first) = said.first() else { return Ok(()) };
    for (rank, said) in said.iter().enumerate() {
        let names = first.keys().chain(said.keys());
        if let Some(name) = names.into_iter().find(|name| first.get(*name) != said.get(*name)) {
            let [ours, theirs] = [first, said].map(|said| said.get(name).map_or("none".into(), Value::to_string));
            let detail = format!("{name} is {ours} on rank 0, {theirs} on rank {rank}");
            return Err(
                Error::input("--ranks", detail).with_hint("start all ranks with the same command and the same files")
            );
        }
    }
    Ok(())
}

/// What became of a run whose results are there.
fn finished(found: Option<(u64, State)>, total: u64, out: &Path, progress: &Progress) -> Result<State> {
    match found {
        Some((step, state)) if step == total => {
            progress.note(format_args!("{}: finished already, nothing to do", out.display()));
            Ok(state)
        }
        _ => {
            Err(Error::file(out, "holds results, but not the checkpoint they came with").with_hint("name a new --out"))
        }
    }
}

/// The line that PEFT prints.
fn trainable(trained: usize, all: usize) -> String {
    let percent = 100.0 * trained as f64 / all as f64;
    format!("trainable params: {} || all params: {} || trainable%: {percent:.4}", grouped(trained), grouped(all))
}

/// A number with a comma before every three digits.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
