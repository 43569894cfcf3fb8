//! The launches of a training step of a real model, on a device that runs a few blocks of each.

use std::collections::HashMap;
use std::sync::Arc;

use super::time::Work;
use crate::autograd::{Tensor, backward};
use crate::device::{Device, Sampled, SampledLaunch};
use crate::dtype::DType;
use crate::error::Result;
use crate::io::adapter::AdapterConfig;
use crate::io::model::attach_new_adapter;
use crate::models::llama::{Llama, LlamaConfig};
use crate::nn::{Batch, BlockHook, Checkpoint, DropoutSeed, Plain, Sequence};
use crate::ops::adamw::AdamWOptions;
use crate::ops::grad_norm::grad_norm;
use crate::optim::{AdamW, Trained};

/// Blocks of each launch that run. Those of one launch do alike, but for attention's, whose work falls evenly over a grid.
const BLOCKS: u64 = 4;

/// What one step trains on what.
pub(super) struct Step {
    pub model: LlamaConfig,
    pub adapter: AdapterConfig,
    /// The lengths of its sequences.
    pub lengths: Vec<usize>,
    pub activation_checkpointing: bool,
}

/// What a step launches, equal launches as one, and the most bytes that it holds.
pub(super) struct Launches {
    pub work: Vec<Work>,
    pub peak_bytes: usize,
}

impl Step {
    /// Runs it in bf16 as a training run does.
    pub(super) fn launches(&self) -> Result<Launches> {
        let sampled = Arc::new(Sampled::new(BLOCKS));
        let device = Device::new(sampled.clone());
        let model = Llama::new(self.model.clone(), &mut |_, shape| Tensor::uninit(&device, DType::Bf16, shape))?;
        attach_new_adapter(&model, &self.adapter, 0)?;
        let vocabulary = self.model.vocab_size;
        let sequence = |(i, &length): (usize, &usize)| {
            let input_ids: Vec<u32> = (0..length).map(|t| ((i * 53 + t * 29) % vocabulary) as u32).collect();
            Sequence { labels: input_ids.iter().map(|&id| id as i32).collect(), input_ids }
        };
        let sequences: Vec<Sequence> = self.lengths.iter().enumerate().map(sequence).collect();
        sampled.take_launches();
        self.run(&model, &Batch::new(&sequences, &device)?)?;
        Ok(Launches { work: group(&sampled.take_launches()), peak_bytes: device.peak_bytes().unwrap_or(0) })
    }

    fn run(&self, model: &Llama, batch: &Batch) -> Result<()> {
        let hook: &dyn BlockHook = if self.activation_checkpointing { &Checkpoint } else { &Plain };
        let dropout = DropoutSeed { seed: 0, step: 0, first_row: 0 };
        let loss = model.loss(batch, batch.supervised as f32, Some(dropout), hook)?;
        let mut found = backward(&loss)?;
        let trained = model.trained();
        let gradients: Vec<Tensor> = trained.iter().filter_map(|(_, weight)| found.take(&weight.get())).collect();
        let scale = grad_norm(&gradients.iter().collect::<Vec<_>>())?.clip_scale(1.0)?;
        let mut weights: Vec<_> = trained.iter().map(|(_, weight)| weight.lock()).collect();
        let updates = trained.iter().zip(&mut weights).zip(&gradients);
        let updates = updates.map(|(((name, _), parameter), gradient)| Trained { name, parameter, gradient });
        AdamW::new(AdamWOptions::default()).step(updates.collect(), &scale)
    }
}

/// Equal launches as one, in the order of their first.
fn group(launches: &[SampledLaunch]) -> Vec<Work> {
    let (mut work, mut places): (Vec<Work>, HashMap<String, usize>) = (Vec::new(), HashMap::new());
    for one in launches.iter().map(Work::new) {
        let place = *places.entry(format!("{one:?}")).or_insert(work.len());
        match work.get_mut(place) {
            Some(alike) => alike.launches += 1,
            None => work.push(one),
        }
    }
    work
}
