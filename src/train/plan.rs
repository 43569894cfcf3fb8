//! Which sequences each step trains on: a function of the options and the data, so that a resumed run needs the number
//! of its step and nothing else.

use super::options::Options;
use crate::data::packing::{Capacity, pack};
use crate::data::shuffle::order;
use crate::nn::Sequence;

/// The batches of one optimizer step.
pub(super) type StepBatches<'a> = Vec<Vec<&'a Sequence>>;

/// All steps of a run.
pub(super) struct Plan<'a> {
    sequences: &'a [Sequence],
    capacity: Capacity,
    accumulation: usize,
    /// What the orders depend on; `None` keeps the data's.
    seed: Option<u64>,
    total: u64,
}

impl<'a> Plan<'a> {
    /// The steps over `sequences`: as many as the options say, or as make the epochs.
    pub(super) fn new(sequences: &'a [Sequence], options: &Options, seed: u64) -> Self {
        let mut plan = Self {
            sequences,
            capacity: options.capacity(),
            accumulation: options.step_batches(),
            seed: (!options.no_shuffle).then_some(seed),
            total: 0,
        };
        plan.total = match (options.max_steps, sequences) {
            (_, []) => 0,
            (0, _) => plan.steps_of(options.epochs.unwrap_or(0.0)),
            (steps, _) => steps,
        };
        plan
    }

    /// The steps of so many epochs; a part of one is rounded up to whole steps, but for what `epochs` was rounded itself.
    fn steps_of(&self, epochs: f64) -> u64 {
        let steps = |epoch: u64| self.epoch(epoch).len() as u64;
        let (whole, part) = (epochs.floor() as u64, epochs.fract());
        let last = if part > 0.0 { (steps(whole) as f64 * part - 1e-6).ceil() as u64 } else { 0 };
        (0..whole).map(steps).sum::<u64>() + last
    }

    /// The number of all steps.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The epoch that step number `step` is in, and the step's number within it.
    pub(super) fn place(&self, step: u64) -> (u64, u64) {
        let (mut epoch, mut within) = (0, step);
        loop {
            let steps = self.epoch(epoch).len() as u64;
            if steps == 0 || within < steps {
                return (epoch, within);
            }
            (epoch, within) = (epoch + 1, within - steps);
        }
    }

    /// The steps of one epoch, all of them.
    pub(super) fn epoch(&self, epoch: u64) -> Vec<StepBatches<'a>> {
        let sequences = self.sequences;
        let order = match self.seed {
            Some(seed) => order(sequences.len(), seed, epoch),
            None => (0..sequences.len()).collect(),
        };
        let batches = pack(order.into_iter().filter_map(|i| sequences.get(i)), self.capacity);
        batches.chunks(self.accumulation.max(1)).map(<[_]>::to_vec).collect()
    }
}
