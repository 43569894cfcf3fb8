//! The launches of a training step of a real model, on a device that runs a few blocks of each.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::synthetic::train;
use super::time::Work;
use crate::autograd::Tensor;
use crate::device::{Device, Sampled, SampledLaunch};
use crate::dtype::DType;
use crate::error::Result;
use crate::io::adapter::AdapterConfig;
use crate::io::model::attach_new_adapter;
use crate::models::llama::{Llama, LlamaConfig};
use crate::nn::{Batch, Checkpoint, Plain, Sequence, UnitHook};
use crate::ops::adamw::AdamWOptions;
use crate::optim::AdamW;

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
        let model = Llama::new(self.model.clone(), DType::Bf16, &mut |_: &str, shape| {
            Tensor::uninit(&device, DType::Bf16, shape)
        })?;
        attach_new_adapter(&model, &self.adapter, 0)?;
        let vocabulary = self.model.vocab_size;
        let sequence = |(i, &length): (usize, &usize)| {
            let input_ids: Vec<u32> = (0..length).map(|t| ((i * 53 + t * 29) % vocabulary) as u32).collect();
            Sequence { labels: input_ids.iter().map(|&id| id as i32).collect(), input_ids }
        };
        let sequences: Vec<Sequence> = self.lengths.iter().enumerate().map(sequence).collect();
        sampled.take_launches();
        let hook: &dyn UnitHook = if self.activation_checkpointing { &Checkpoint } else { &Plain };
        let mut optimizer = AdamW::new(AdamWOptions::default());
        train(&model, &Batch::new(&sequences, &device)?, &mut optimizer, 0, hook)?;
        Ok(Launches { work: group(&sampled.take_launches()), peak_bytes: device.peak_bytes().unwrap_or(0) })
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
