//! How many kernels a layer launches in a training step: what is step-wide or the head's cancels out between a model of
//! two layers and one of three. No product here is deep enough for split-K, which would be one launch more each.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use vicugna::autograd::{Tensor, backward};
use vicugna::device::{Device, Emulated, Emulation};
use vicugna::dtype::DType;
use vicugna::io::adapter::{AdapterConfig, Modules};
use vicugna::io::model::attach_new_adapter;
use vicugna::models::llama::{Llama, LlamaConfig, ModelType};
use vicugna::nn::{Batch, DropoutSeed, Plain, Sequence};
use vicugna::ops::elementwise::cast;
use vicugna::shape::Shape;

/// The most that a layer may launch, forward and backward, with adapters on the query and value projections.
const QUERY_AND_VALUE: i64 = 33;
/// The same on all seven linear layers.
const ALL_LINEAR: i64 = 49;

/// Launches by the kernel's name, forward and backward.
type Launches = BTreeMap<String, [i64; 2]>;

fn config(num_hidden_layers: usize) -> LlamaConfig {
    LlamaConfig {
        model_type: ModelType::default(),
        hidden_size: 128,
        intermediate_size: 256,
        num_hidden_layers,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 64,
        vocab_size: 96,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        tie_word_embeddings: false,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
    }
}

/// Forward and backward of a model in bf16 over two sequences of 20 tokens.
fn launches(layers: usize, target_modules: &str) -> Launches {
    let emulated = Arc::new(Emulated::new(Emulation { profile: true, ..Emulation::default() }));
    let device = Device::new(emulated.clone());
    let model = Llama::new(config(layers), DType::Bf16, &mut |_: &str, shape: Shape| {
        let values: Vec<f32> = (0..shape.numel()).map(|i| (i % 97) as f32 / 970.0 - 0.05).collect();
        cast(&Tensor::from_slice(&Device::Cpu, shape, &values)?, DType::Bf16)?.to_device(&device)
    });
    let model = model.unwrap();
    let target_modules = match target_modules {
        "all-linear" => Modules::Pattern("all-linear".into()),
        names => Modules::Names(names.split(',').map(String::from).collect()),
    };
    let adapter = AdapterConfig { r: 8, lora_dropout: 0.05, target_modules, ..AdapterConfig::default() };
    attach_new_adapter(&model, &adapter, 1).unwrap();
    let sequence = |first: u32| {
        let input_ids: Vec<u32> = (first..first + 20).collect();
        Sequence { labels: input_ids.iter().map(|&id| id as i32).collect(), input_ids }
    };
    let batch = Batch::new(&[sequence(3), sequence(40)], &device).unwrap();
    emulated.take_profile();
    let dropout = DropoutSeed { seed: 5, step: 3, first_row: 0 };
    let loss = model.loss(&batch, batch.supervised as f32, Some(dropout), &Plain).unwrap();
    let mut counts = Launches::new();
    let mut count = |pass: usize| {
        for launch in emulated.take_profile() {
            counts.entry(launch.kernel).or_default()[pass] += 1;
        }
    };
    count(0);
    let gradients = backward(&loss).unwrap();
    count(1);
    assert!(model.trained().iter().all(|(_, parameter)| gradients.get(&parameter.get()).is_some()));
    counts
}

/// Those of one layer.
fn of_a_layer(target_modules: &str) -> Launches {
    let mut more = launches(3, target_modules);
    for (kernel, counts) in launches(2, target_modules) {
        let of = more.entry(kernel).or_default();
        *of = [of[0] - counts[0], of[1] - counts[1]];
    }
    more.retain(|_, counts| *counts != [0, 0]);
    more
}

fn holds(target_modules: &str, most: i64) {
    let launches = of_a_layer(target_modules);
    let [forward, backward] = [0, 1].map(|pass| launches.values().map(|counts| counts[pass]).sum::<i64>());
    let mut table = format!("{:<32}{:>8}{:>9}\n", "kernel", "forward", "backward");
    for (kernel, [forward, backward]) in launches {
        writeln!(table, "{kernel:<32}{forward:>8}{backward:>9}").unwrap();
    }
    println!("{target_modules}: {forward} + {backward}");
    assert!(forward > 0 && backward > 0, "{table}");
    let all = forward + backward;
    assert!(all <= most, "{target_modules}: a layer launches {all} kernels, more than {most}\n{table}");
}

#[test]
fn of_a_layer_with_adapters_on_q_and_v() {
    holds("q_proj,v_proj", QUERY_AND_VALUE);
}

#[test]
fn of_a_layer_with_adapters_on_all_seven() {
    holds("all-linear", ALL_LINEAR);
}
