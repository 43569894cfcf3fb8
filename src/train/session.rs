//! The loop: steps, evaluations and checkpoints, from wherever the run stands.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::dead::Pulse;
use super::evaluate::{Evaluation, evaluate_among};
use super::folder::{CONFIG, LOSS, RunFolder};
use super::metrics::{Line, Metrics, peak_rss_bytes};
use super::nonfinite;
use super::options::Options;
use super::pace::{Pace, times_left};
use super::plan::{Plan, StepBatches};
use super::plot;
use super::progress::Progress;
use super::schedule::learning_rate;
use super::step::{Differentiated, checksum, differentiate, fold, shape};
use super::weights::Trained;
use crate::device::Graphs;
use crate::error::{Error, Result, command};
use crate::io::checkpoint::Checkpoints;
use crate::nn::{Checkpoint, Plain, Sequence, UnitHook};
use crate::optim::AdamW;
use crate::parallel::Gathered;

/// Where a run stands, apart from its weights and its optimizer. Order, dropout and learning rate are functions of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// Steps behind it.
    pub step: u64,
    /// The sum of the losses of all supervised tokens so far, and their number.
    pub loss_sum: f64,
    pub supervised: u64,
    /// All tokens so far, and the time that their steps took.
    pub tokens: u64,
    pub seconds: f64,
    /// The best evaluation so far, and the step it came after.
    pub best: Option<(u64, Evaluation)>,
    /// What the CPU multiplies with, if it is the CPU that computes: with other instructions come other bits.
    #[serde(default)]
    pub instructions: Option<String>,
}

impl State {
    /// Counts a step and what it has found in so many seconds.
    fn count(&mut self, found: &Differentiated, loss: f64, seconds: f64) {
        self.step += 1;
        self.loss_sum += loss * found.supervised as f64;
        self.supervised += found.supervised as u64;
        self.tokens += found.tokens as u64;
        self.seconds += seconds;
    }
}

/// What a rank says of a step.
#[derive(Serialize, Deserialize)]
struct Word {
    step: u64,
    /// The checksum of its batches, of all ranks.
    batch: u32,
    /// Whether it was told to stop.
    stops: bool,
    /// The bits of the losses of its passes, with their numbers.
    losses: Vec<(usize, u32)>,
}

/// A run in progress.
pub(super) struct Session<'a> {
    pub trained: Trained<'a>,
    pub optimizer: AdamW,
    pub options: &'a Options,
    pub seed: u64,
    pub plan: Plan<'a>,
    pub evaluation: &'a [Sequence],
    pub state: State,
    pub checkpoints: Checkpoints,
    /// What rank 0 writes.
    pub metrics: Option<Metrics>,
    pub folder: &'a RunFolder,
    pub progress: &'a Progress,
    pub pace: Pace,
    pub pulse: Pulse,
    pub stop: &'a AtomicBool,
    /// Whether a rank was told to stop, as all have agreed.
    pub stops: bool,
    /// The CUDA graphs of its steps.
    pub graphs: Graphs,
}

impl Session<'_> {
    /// Goes on to the last step, or until `stop` is set.
    pub(super) fn run(&mut self) -> Result<()> {
        self.progress.start(self.state.step, self.plan.total());
        let done = self.steps();
        self.progress.finish();
        done.map_err(|error| match error {
            Error::Lost { detail } => Error::lost(format!("after step {}: {detail}", self.state.step)),
            other => other,
        })
    }

    fn steps(&mut self) -> Result<()> {
        let stops = self.stop.load(Ordering::Relaxed);
        let word = self.agree(Word { step: self.state.step, batch: 0, stops, losses: vec![] })?;
        if word.stops && self.state.step < self.plan.total() {
            return Err(self.interrupted());
        }
        let (mut epoch, mut behind) = self.plan.place(self.state.step);
        while self.state.step < self.plan.total() {
            self.epoch(epoch, behind)?;
            (epoch, behind) = (epoch + 1, 0);
        }
        Ok(())
    }

    /// The steps of an epoch after the first `behind` ones, or up to the last of all.
    fn epoch(&mut self, epoch: u64, behind: u64) -> Result<()> {
        let (all, left) = (self.plan.epoch(epoch), self.plan.total() - self.state.step);
        let steps = all.len() as u64;
        let batches = all.into_iter().zip(1..=steps).skip(behind as usize);
        for (batches, within) in batches.take(left as usize) {
            self.step(&batches, epoch, within, steps)?;
            let ends_epoch = within == steps;
            let is_better = self.is_due(self.options.eval_every, ends_epoch) && self.evaluate()?;
            // Alone, a rank hears of it at once; among others, when all have.
            let stops = if self.trained.sharded.is_some() { self.stops } else { self.stop.load(Ordering::Relaxed) };
            if is_better || stops || self.is_due(self.options.save_every, ends_epoch) {
                self.save()?;
            }
            if stops && self.state.step < self.plan.total() {
                return Err(self.interrupted());
            }
        }
        Ok(())
    }

    /// Whether it is time for what is done every so many steps, or once an epoch; after the last step it always is.
    fn is_due(&self, every: u64, ends_epoch: bool) -> bool {
        let due = if every == 0 { ends_epoch } else { self.state.step.is_multiple_of(every) };
        due || self.state.step == self.plan.total()
    }

    /// Makes the step that is number `within`, counted from 1, of an epoch of `steps`.
    fn step(&mut self, batches: &StepBatches<'_>, epoch: u64, within: u64, steps: u64) -> Result<()> {
        let (begun, number) = (Instant::now(), self.state.step);
        let gathered = self.trained.sharded.clone().map(Gathered);
        let hook: &dyn UnitHook = match &gathered {
            Some(hook) => hook,
            None if self.options.activation_checkpointing => &Checkpoint,
            None => &Plain,
        };
        let learning_rate = learning_rate(self.options, &self.plan, number, epoch);
        self.optimizer.options.learning_rate = learning_rate;
        let max_norm = if self.options.max_grad_norm > 0.0 { self.options.max_grad_norm } else { f64::INFINITY };
        let Self { graphs, trained, optimizer, seed, .. } = self;
        let (found, norm) = graphs.run(shape(batches), || {
            let mut found = differentiate(trained.model, batches, *seed, number, hook, trained.sharded.as_deref())?;
            let gradients = trained.take_gradients(&mut found.gradients)?;
            let norm = trained.norm(&gradients)?;
            trained.update(optimizer, &gradients, &norm.clip_scale(max_norm)?)?;
            Ok((found, norm))
        })?;
        // A GPU is waited for here and nowhere before. If this is refused, the update has changed nothing.
        let (loss, norm) = (self.loss(&found, number, checksum(batches))?, norm.read()?);
        if !norm.total.is_finite() {
            return Err(nonfinite::of_gradients(&self.trained.names(), &norm.each, number));
        }
        if let Some(note) = self.pulse.feel(norm.total, loss, number)? {
            self.progress.note(note);
        }
        let time = begun.elapsed();
        self.pace.step(time);
        self.state.count(&found, loss, time.as_secs_f64());
        let tokens_per_second = found.tokens as f64 / time.as_secs_f64();
        let (step, total) = (self.state.step, self.plan.total());
        let message = format!("loss {loss:.4}, {tokens_per_second:.0} tokens/s");
        self.progress.step(step, total, message, self.pace.left(total - step, self.evaluations_left(steps)));
        self.log(Line::Step {
            step,
            epoch: epoch as f64 + within as f64 / steps as f64,
            loss,
            learning_rate,
            grad_norm: norm.total,
            tokens: found.tokens,
            tokens_per_second,
            peak_rss_bytes: peak_rss_bytes(),
            peak_device_bytes: self.trained.model.device().peak_bytes(),
        })
    }

    /// The loss of a step, of all ranks; takes from them whether to stop.
    fn loss(&mut self, found: &Differentiated, number: u64, batch: u32) -> Result<f64> {
        let stops = self.stop.load(Ordering::Relaxed);
        let word = self.agree(Word { step: number, batch, stops, losses: found.losses()? })?;
        self.stops = word.stops;
        let (sum, bad) = fold(&word.losses);
        let Some(pass) = bad else { return Ok(sum) };
        let Trained { model, sharded, .. } = &self.trained;
        let culprit = nonfinite::culprit(model, found.batch(pass), pass, sharded.as_ref())?;
        Err(nonfinite::of_loss(sum, number, &culprit))
    }

    /// What all ranks say at a step: the losses of all passes, in their order, and whether one is to stop.
    fn agree(&self, mine: Word) -> Result<Word> {
        let Some(sharded) = &self.trained.sharded else { return Ok(mine) };
        let said = sharded.communicator().gather("what a step found", &mine)?;
        if let Some(rank) = said.iter().position(|word| word.step != mine.step) {
            let (me, step) = (sharded.place().0, mine.step);
            return Err(Error::lost(format!("rank {rank} is at step {}, rank {me} at {step}", said[rank].step)));
        }
        if let Some(rank) = said.iter().position(|word| word.batch != mine.batch) {
            return Err(Error::lost(format!("rank {rank} has other records in step {} than this one", mine.step + 1)));
        }
        let mut losses: Vec<(usize, u32)> = said.iter().flat_map(|word| word.losses.iter().copied()).collect();
        losses.sort_unstable();
        let stops = said.iter().any(|word| word.stops);
        Ok(Word { stops, losses, ..mine })
    }

    /// Writes a line of metrics, if that is this rank's to do.
    fn log(&mut self, line: Line) -> Result<()> {
        self.metrics.as_mut().map_or(Ok(()), |metrics| metrics.write(line))
    }

    /// How many evaluations are still to come, where epochs have so many steps.
    fn evaluations_left(&self, steps_in_epoch: u64) -> u64 {
        let (step, total) = (self.state.step, self.plan.total());
        if self.evaluation.is_empty() { 0 } else { times_left(step, total, self.options.eval_every, steps_in_epoch) }
    }

    /// Evaluates, if there is anything to evaluate on, and tells whether no evaluation before was as good.
    fn evaluate(&mut self) -> Result<bool> {
        if self.evaluation.is_empty() {
            return Ok(false);
        }
        let (begun, step, all) = (Instant::now(), self.state.step, self.evaluation.len());
        self.progress.evaluating(0, all);
        let (model, sharded) = (self.trained.model, self.trained.sharded.as_ref());
        let found = evaluate_among(model, self.evaluation, sharded, |behind| self.progress.evaluating(behind, all));
        let found = found.map_err(|error| nonfinite::after(step, error))?;
        self.pace.evaluation(begun.elapsed());
        let (eval_loss, eval_perplexity) = (found.loss, found.perplexity());
        self.progress
            .note(format_args!("after step {step}: evaluation loss {eval_loss:.4}, perplexity {eval_perplexity:.3}"));
        self.log(Line::Evaluation { step, eval_loss, eval_perplexity, eval_tokens: found.tokens })?;
        let is_better = self.state.best.is_none_or(|(_, best)| found.loss < best.loss);
        if is_better {
            self.state.best = Some((step, found));
        }
        Ok(is_better)
    }

    /// Writes a checkpoint, the metrics before it, and removes those that are neither among the last two nor the best.
    fn save(&mut self) -> Result<()> {
        let (trained, checkpoints, step) = (&self.trained, &self.checkpoints, self.state.step);
        nonfinite::refuse_weights(&trained.names(), trained.weight_norm()?, step)?;
        let part = trained.part(&self.optimizer)?;
        let Some(metrics) = &self.metrics else {
            trained.write(checkpoints.folder(), None, part)?;
            return self.saved();
        };
        metrics.sync()?;
        checkpoints.write(step, &self.state, |folder| trained.write(checkpoints.folder(), Some(folder), part))?;
        let mut kept: Vec<u64> =
            checkpoints.steps()?.into_iter().filter(|&other| other <= step).rev().take(2).collect();
        kept.extend(self.state.best.map(|(best, _)| best));
        checkpoints.keep(&kept)?;
        plot::write(&self.folder.join(LOSS), &metrics.lines)?;
        self.saved()
    }

    /// Returns when rank 0 has saved what it saves.
    fn saved(&self) -> Result<()> {
        let Some(sharded) = &self.trained.sharded else { return Ok(()) };
        sharded.communicator().gather("the checkpoint", &()).map(drop)
    }

    /// Puts the best weights in the place of the last ones.
    pub(super) fn take_best(&mut self) -> Result<()> {
        let Some((best, _)) = self.state.best.filter(|(best, _)| *best != self.state.step) else { return Ok(()) };
        let open = || self.checkpoints.open(best).map(|_: State| ()).map_err(|error| error.to_string());
        let opened: std::result::Result<(), String> = match &self.trained.sharded {
            None => open(),
            Some(sharded) => {
                let mine = (sharded.place().0 == 0).then(open);
                sharded.communicator().broadcast("the best checkpoint", mine.as_ref())?
            }
        };
        match opened {
            Ok(()) => self.trained.read(&self.checkpoints.path(best)),
            Err(error) => {
                self.progress.note(format_args!("refused: {error}; the last weights are kept in place of the best"));
                self.state.best = None;
                Ok(())
            }
        }
    }

    fn interrupted(&self) -> Error {
        let (out, step) = (self.folder.path(), self.state.step);
        let config = self.folder.join(CONFIG).to_string_lossy().into_owned();
        Error::file(out, format!("stopped after step {step} of {}; all of it is saved", self.plan.total()))
            .with_hint(format!("go on with: {}", command(["vicugna", "finetune", "--config", &config, "--resume"])))
    }
}
