//! What one forward pass runs on: sequences laid end to end, without padding.

use std::sync::Arc;

use crate::autograd::Tensor;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::attention::Segments;
use crate::ops::cross_entropy::IGNORE_INDEX;
use crate::ops::dropout::Dropout;
use crate::ops::rope::RopeTable;

/// Token ids and their labels, aligned: the model does the shift.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct Sequence {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// For each token its id if it counts in the loss, else -100.
    pub labels: Vec<i32>,
}

impl Sequence {
    /// How many of its tokens have a target.
    pub fn supervised(&self) -> usize {
        self.labels.iter().skip(1).filter(|&&label| label != IGNORE_INDEX).count()
    }
}

/// A packed batch: attention never crosses from one sequence to another, and positions restart in each.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token ids, u32 `[rows]`.
    pub input_ids: Tensor,
    /// Positions within the sequences, u32 `[rows]`.
    pub positions: Tensor,
    /// For each row the id that must follow it, else -100; i32 `[rows]`, on the CPU.
    pub targets: Tensor,
    /// Where the sequences begin and end.
    pub segments: Segments,
    /// How many rows have a target.
    pub supervised: usize,
}

impl Batch {
    /// Lays `sequences` end to end on `device`.
    ///
    /// # Errors
    /// [`Error::Shape`] if a sequence has labels, but not one for each token.
    pub fn new<'a>(sequences: impl IntoIterator<Item = &'a Sequence>, device: &Device) -> Result<Self> {
        let (mut ids, mut positions, mut targets, mut lengths) = (vec![], vec![], vec![], vec![]);
        for sequence in sequences {
            let length = sequence.input_ids.len();
            if sequence.labels.len() != length {
                let detail = format!("{length} input_ids, but {} labels", sequence.labels.len());
                return Err(Error::shape("batch", detail));
            }
            ids.extend_from_slice(&sequence.input_ids);
            positions.extend((0..length).map(|i| i as u32));
            targets.extend(sequence.labels.iter().copied().skip(1).chain([IGNORE_INDEX]).take(length));
            lengths.push(length);
        }
        let rows = ids.len();
        Ok(Self {
            input_ids: Tensor::from_slice(device, [rows], &ids)?,
            positions: Tensor::from_slice(device, [rows], &positions)?,
            supervised: targets.iter().filter(|&&t| t != IGNORE_INDEX).count(),
            targets: Tensor::from_slice(&Device::Cpu, [rows], &targets)?,
            segments: Segments::packed(&lengths),
        })
    }

    /// The error of the first label that a model with `classes` tokens cannot be asked for, if there is one.
    pub fn bad_label(&self, classes: usize) -> Option<Error> {
        let (targets, positions) = (self.targets.slice::<i32>().ok()?, self.positions.to_vec::<u32>().ok()?);
        let is_bad = |target: i32| target != IGNORE_INDEX && usize::try_from(target).map_or(true, |id| id >= classes);
        let row = targets.iter().position(|&target| is_bad(target))?;
        let behind = positions.get(..=row)?;
        let sequence = behind.iter().filter(|&&position| position == 0).count();
        // What must follow a row is the label of the token after it.
        let (label, found) = (behind.last()? + 1, targets.get(row)?);
        let detail =
            format!("label {label} of sequence {sequence} must be in 0..{classes} or {IGNORE_INDEX}, got {found}");
        Some(Error::input("labels", detail))
    }
}

/// Where a training run stands, as far as dropout is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutSeed {
    /// The run's seed.
    pub seed: u64,
    /// The optimizer step.
    pub step: u64,
    /// The number of rows of this step that came before this batch (accumulation, other ranks).
    pub first_row: u64,
}

impl DropoutSeed {
    /// The key of one layer's mask over rows of `width` elements.
    pub fn key(self, p: f32, site: u32, width: usize) -> Dropout {
        let Self { seed, step, first_row } = self;
        Dropout { p, seed, step, site, first_element: first_row * width as u64 }
    }
}

/// What all blocks of one forward pass share.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Where the sequences begin and end.
    pub segments: Segments,
    /// Each row's place in the rotary table, u32 `[rows]`.
    pub positions: Tensor,
    /// Rotary cosines and sines.
    pub rope: Arc<RopeTable>,
    /// `[rows, 1]` of ones in the dtype of the activations, which biases are multiplied by; none where no layer has one.
    pub ones: Option<Tensor>,
    /// The dropout of training; `None` leaves everything in.
    pub dropout: Option<DropoutSeed>,
}
