//! A model of real size on a small machine. Ignored by default, since it writes 2.5 GB and takes minutes:
//!
//!     cargo test --release --test scale -- --ignored --nocapture

use std::collections::BTreeMap;
use std::path::Path;

use half::bf16;
use vicugna::autograd::{Tensor, backward};
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::generate::{Sampling, continue_tokens};
use vicugna::io::adapter::AdapterConfig;
use vicugna::io::config::write_config;
use vicugna::io::model::{ModelFiles, attach_new_adapter};
use vicugna::io::safetensors;
use vicugna::models::llama::{LlamaConfig, ModelType};
use vicugna::nn::{Batch, Plain, Sequence};
use vicugna::ops::rope::RopeScaling;
use vicugna::shape::Shape;

/// Llama-3.2-1B's shape.
fn config() -> LlamaConfig {
    LlamaConfig {
        model_type: ModelType::default(),
        hidden_size: 2048,
        intermediate_size: 8192,
        num_hidden_layers: 16,
        num_attention_heads: 32,
        num_key_value_heads: 8,
        head_dim: 64,
        vocab_size: 128_256,
        max_position_embeddings: 131_072,
        rms_norm_eps: 1e-5,
        rope_theta: 500_000.0,
        rope_scaling: Some(RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        }),
        tie_word_embeddings: true,
        bos_token_id: Some(128_000),
        eos_token_ids: vec![128_001],
    }
}

/// Weights of about the size that training leaves.
fn random(shape: Shape) -> Tensor {
    let mut state = shape.numel() as u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bf16::from_f32((state >> 8) as f32 / (1 << 24) as f32 * 0.08 - 0.04)
    };
    let values: Vec<bf16> = (0..shape.numel()).map(|_| next()).collect();
    Tensor::from_slice(&Device::Cpu, shape, &values).unwrap()
}

fn write_model(folder: &Path) {
    let config = config();
    let layout: BTreeMap<String, (DType, Shape)> =
        config.parameters().into_iter().map(|(name, shape)| (name, (DType::Bf16, shape))).collect();
    let weights = folder.join("model.safetensors");
    safetensors::write(&weights, &layout, |name| Ok(random(layout[name].1))).unwrap();
    write_config(folder, &config, DType::Bf16, None).unwrap();
}

/// The most memory that this process ever held, in GiB.
fn peak_gib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / f64::from(1 << 20)
}

#[test]
#[ignore = "writes 2.5 GB and takes minutes; run with --ignored"]
fn llama_3_2_1b_trains_within_6_gib() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    println!("written, peak {:.2} GiB", peak_gib());
    let model = ModelFiles::open(folder.path()).unwrap().load(DType::Bf16, &Device::Cpu).unwrap();
    println!("loaded, peak {:.2} GiB", peak_gib());
    let tokens = continue_tokens(&model, &[128_000, 9906, 1917], 8, Sampling::GREEDY).unwrap();
    assert_eq!(tokens.len(), 8);
    println!("generated {tokens:?}, peak {:.2} GiB", peak_gib());
    attach_new_adapter(&model, &AdapterConfig::default(), 1).unwrap();
    let input_ids: Vec<u32> = (0..512).map(|i| i * 250 % 128_256).collect();
    let labels = input_ids.iter().map(|&id| id as i32).collect();
    let batch = Batch::new([&Sequence { input_ids, labels }], &Device::Cpu).unwrap();
    let start = std::time::Instant::now();
    let loss = model.loss(&batch, batch.supervised as f32, None, &Plain).unwrap();
    let gradients = backward(&loss).unwrap();
    assert!(model.trained().iter().all(|(_, parameter)| gradients.get(&parameter.get()).is_some()));
    println!("forward and backward at T = 512 in {:.1} s, peak {:.2} GiB", start.elapsed().as_secs_f64(), peak_gib());
    assert!(peak_gib() < 6.0);
}
