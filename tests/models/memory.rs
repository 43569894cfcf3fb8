//! Device memory: what a step leaves, and what happens where it does not suffice.

use std::sync::Arc;

use vicugna::autograd::backward;
use vicugna::device::{Device, Emulated, Emulation};
use vicugna::dtype::DType;
use vicugna::io::model::ModelFiles;
use vicugna::models::llama::Llama;
use vicugna::nn::{Batch, BlockHook, Checkpoint, Plain, Sequence};

use crate::fixture;

fn with_memory(memory: usize) -> (Device, Llama) {
    let device = Device::new(Arc::new(Emulated::new(Emulation { memory, ..Emulation::default() })));
    let model = ModelFiles::open(&fixture::folder("gqa")).unwrap().load(DType::Bf16, &device).unwrap();
    model.train_weights().unwrap();
    (device, model)
}

/// Bytes in use and the most there were.
fn memory_use(device: &Device) -> [usize; 2] {
    let Device::Cuda(cuda) = device else { panic!("{device} is no GPU") };
    [cuda.memory_use().used, cuda.memory_use().peak]
}

/// Forward and backward over `count` sequences of 100 tokens.
fn step(model: &Llama, count: u32, hook: &dyn BlockHook) -> vicugna::error::Result<()> {
    let sequence = |i: u32| {
        let input_ids: Vec<u32> = (0..100).map(|t| (i * 53 + t * 29) % 101).collect();
        Sequence { labels: input_ids.iter().map(|&id| id as i32).collect(), input_ids }
    };
    let sequences: Vec<Sequence> = (0..count).map(sequence).collect();
    let batch = Batch::new(&sequences, &model.device())?;
    backward(&model.loss(&batch, batch.supervised as f32, None, hook)?).map(|_| ())
}

#[test]
fn a_step_too_large_for_the_device_costs_nothing() {
    let (device, model) = with_memory(2 << 20);
    step(&model, 1, &Plain).unwrap();
    let [used, peak] = memory_use(&device);
    assert!(used < peak && peak < 2 << 20);
    let error = step(&model, 20, &Plain).unwrap_err();
    assert!(error.to_string().starts_with("emulated: out of memory: asked "), "{error}");
    assert!(error.hint().unwrap().contains("--batch-size"));
    assert_eq!(memory_use(&device)[0], used, "what the step had taken is free again");
    step(&model, 1, &Plain).unwrap();
}

#[test]
fn checkpointing_needs_less_of_it() {
    let peak = |hook: &dyn BlockHook| {
        let (device, model) = with_memory(1 << 30);
        step(&model, 8, hook).unwrap();
        memory_use(&device)[1]
    };
    let (plain, recomputed) = (peak(&Plain), peak(&Checkpoint));
    println!("peak {plain} bytes, with activation checkpointing {recomputed}");
    assert!(4 * recomputed < 3 * plain);
}
