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
    /// The number of steps of each epoch; the last one may be cut short.
    epochs: Vec<u64>,
}

impl<'a> Plan<'a> {
    /// The steps over `sequences`.
    pub(super) fn new(sequences: &'a [Sequence], options: &Options, seed: u64) -> Self {
        let mut plan = Self {
            sequences,
            capacity: options.capacity(),
            accumulation: options.gradient_accumulation_steps,
            seed: (!options.no_shuffle).then_some(seed),
            epochs: Vec::new(),
        };
        let mut left = if options.max_steps == 0 { u64::MAX } else { options.max_steps };
        for epoch in 0..options.epochs {
            let steps = (plan.epoch(epoch).len() as u64).min(left);
            left -= steps;
            plan.epochs.push(steps);
            if left == 0 {
                break;
            }
        }
        plan
    }

    /// The number of steps of all epochs.
    pub(super) fn total(&self) -> u64 {
        self.epochs.iter().sum()
    }

    /// The epoch that step number `step` is in, the step's number within it, and the number of steps there.
    pub(super) fn place(&self, step: u64) -> (u64, u64, u64) {
        let (mut within, mut last) = (step, (0, 0, 0));
        for (epoch, &steps) in self.epochs.iter().enumerate() {
            last = (epoch as u64, within, steps);
            if within < steps {
                break;
            }
            within -= steps;
        }
        last
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
