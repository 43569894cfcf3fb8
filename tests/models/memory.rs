//! Device memory: what a step leaves, and what happens where it does not suffice.

use std::sync::Arc;

use vicugna::autograd::{Tensor, backward};
use vicugna::device::{Device, Emulated, Emulation};
use vicugna::dtype::DType;
use vicugna::error::Result;
use vicugna::io::adapter::{AdapterConfig, Modules};
use vicugna::io::model::{ModelFiles, attach_new_adapter};
use vicugna::models::llama::{Llama, LlamaConfig, Load, ModelType};
use vicugna::nn::{Batch, Checkpoint, Plain, Sequence, UnitHook, Weight};
use vicugna::ops::elementwise::cast;
use vicugna::ops::int8_matmul::{Backward, Int8, Method};
use vicugna::ops::nf4::{self, Kind};
use vicugna::ops::weight::Quantized;
use vicugna::shape::Shape;

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
fn step(model: &Llama, count: u32, hook: &dyn UnitHook) -> Result<()> {
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
    let peak = |hook: &dyn UnitHook| {
        let (device, model) = with_memory(1 << 30);
        step(&model, 8, hook).unwrap();
        memory_use(&device)[1]
    };
    let (plain, recomputed) = (peak(&Plain), peak(&Checkpoint));
    println!("peak {plain} bytes, with activation checkpointing {recomputed}");
    assert!(4 * recomputed < 3 * plain);
}

/// How linear layers are held.
#[derive(Clone, Copy, Debug)]
enum Held {
    Bf16,
    Int8(Backward),
    Nf4,
}

/// Weights that differ, on a device.
struct Made<'a> {
    device: &'a Device,
    held: Held,
}

impl Made<'_> {
    fn floats(shape: Shape) -> Result<Tensor> {
        let values: Vec<f32> = (0..shape.numel()).map(|i| (i * 31 % 97) as f32 / 970.0 - 0.05).collect();
        Tensor::from_slice(&Device::Cpu, shape, &values)
    }
}

impl Load for Made<'_> {
    fn tensor(&mut self, _: &str, shape: Shape) -> Result<Tensor> {
        cast(&Self::floats(shape)?, DType::Bf16)?.to_device(self.device)
    }

    fn linear(&mut self, name: &str, shape: Shape) -> Result<Weight> {
        let quantized = match self.held {
            Held::Bf16 => return self.tensor(name, shape).map(Weight::from),
            Held::Int8(backward) => {
                Quantized::Int8(Int8::quantize(&Self::floats(shape)?, Method { backward, ..Method::default() })?)
            }
            Held::Nf4 => Quantized::FourBit(nf4::quantize(&Self::floats(shape)?, Kind::Nf4, 64, true)?),
        };
        quantized.to_device(self.device).map(Weight::from)
    }
}

/// Bytes that the linear layers hold, and the most that there were while adapters on all of them were trained.
fn quantized_use(held: Held) -> [usize; 2] {
    let config = LlamaConfig {
        model_type: ModelType::default(),
        hidden_size: 256,
        intermediate_size: 704,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 64,
        vocab_size: 101,
        max_position_embeddings: 128,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        tie_word_embeddings: false,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
    };
    let device = Device::new(Arc::new(Emulated::new(Emulation::default())));
    let model = Llama::new(config, DType::Bf16, &mut Made { device: &device, held }).unwrap();
    let bytes = |weight: &Weight| match weight {
        Weight::Dense(parameter) => parameter.get().bytes(),
        Weight::Quantized(weight) => weight.bytes(),
        Weight::Packed(_) => panic!("packed on {device}"),
    };
    let layers = model.linears().into_iter().filter(|(name, _)| name.contains("layers."));
    let linears = layers.map(|(_, linear)| bytes(&linear.weight)).sum();
    let target_modules = Modules::Pattern("all-linear".into());
    let adapter = AdapterConfig { r: 8, lora_dropout: 0.05, target_modules, ..AdapterConfig::default() };
    attach_new_adapter(&model, &adapter, 1).unwrap();
    step(&model, 1, &Plain).unwrap();
    [linears, memory_use(&device)[1]]
}

/// Codes are never a matrix of floats, and what is made of activations takes no more than they save.
#[test]
fn codes_need_less_of_it() {
    let [floats, peak] = quantized_use(Held::Bf16);
    for (held, share) in [(Held::Int8(Backward::Int8), 0.52), (Held::Int8(Backward::Dequant), 0.52), (Held::Nf4, 0.27)]
    {
        let [codes, quantized_peak] = quantized_use(held);
        println!("{held:?}: {codes} of {floats} bytes of linear layers; peak {quantized_peak} of {peak}");
        assert!(codes as f64 <= share * floats as f64, "{held:?}: {codes} of {floats}");
        let allowed = 1.02 * (peak - (floats - codes)) as f64;
        assert!(quantized_peak as f64 <= allowed, "{held:?}: a peak of {quantized_peak} bytes, {allowed} are allowed");
    }
}
