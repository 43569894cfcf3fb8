//! A whole model: SmolLM2-135M's shape with random weights, 4 sequences of 256 tokens.
//!
//! The peer is PEFT on the same machine: `benches/vs_peft`.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vicugna::autograd::{Tensor, backward, no_grad};
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::generate::{Sampling, continue_tokens};
use vicugna::io::adapter::AdapterConfig;
use vicugna::io::model::attach_new_adapter;
use vicugna::models::llama::{Llama, LlamaConfig, ModelType};
use vicugna::nn::{Batch, Plain, Sequence};

fn model() -> Llama {
    let config = LlamaConfig {
        model_type: ModelType::default(),
        hidden_size: 576,
        intermediate_size: 1536,
        num_hidden_layers: 30,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        head_dim: 64,
        vocab_size: 49152,
        max_position_embeddings: 8192,
        rms_norm_eps: 1e-5,
        rope_theta: 1e5,
        rope_scaling: None,
        tie_word_embeddings: true,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
    };
    let random = |_: &str, shape: vicugna::shape::Shape| {
        let mut state = shape.numel() as u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 * 0.1 - 0.05
        };
        let values: Vec<f32> = (0..shape.numel()).map(|_| next()).collect();
        Tensor::from_slice(&Device::Cpu, shape, &values)
    };
    Llama::new(config, DType::F32, &mut { random }).unwrap()
}

fn bench(c: &mut Criterion) {
    let sequence = |s: u32| {
        let input_ids: Vec<u32> = (0..256).map(|i| (i * 191 + s * 7919) % 49152).collect();
        let labels = input_ids.iter().map(|&id| id as i32).collect();
        Sequence { input_ids, labels }
    };
    let batch = Batch::new(&[0, 1, 2, 3].map(sequence), &Device::Cpu).unwrap();
    let model = model();
    let loss = || model.loss(&batch, batch.supervised as f32, None, &Plain).unwrap();
    let mut group = c.benchmark_group("llama/smollm2_135m_f32");
    group.sample_size(10).warm_up_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(1024));
    group.bench_function("forward_4x256", |b| b.iter(|| no_grad(loss)));
    attach_new_adapter(&model, &AdapterConfig::default(), 1).unwrap();
    group.bench_function("lora_forward_backward_4x256", |b| b.iter(|| backward(&loss()).unwrap()));
    group.throughput(Throughput::Elements(32));
    let prompt: Vec<u32> = (0..64).collect();
    group.bench_function("decode_32_after_64", |b| {
        b.iter(|| continue_tokens(&model, &prompt, 32, Sampling::GREEDY).unwrap());
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
