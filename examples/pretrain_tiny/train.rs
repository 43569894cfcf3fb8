//! The tiny Llama's weights: from random ones to those that it ships with.

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::path::Path;
use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vicugna::autograd::{Gradients, Tensor, backward};
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Result;
use vicugna::generate::{GenerateOptions, Sampling, generate};
use vicugna::io::config::write_config;
use vicugna::io::safetensors::{MODEL, write_tensors};
use vicugna::io::tokenizer::Tokenizer;
use vicugna::models::llama::{Llama, LlamaConfig, ModelType};
use vicugna::nn::{Batch, Plain, Sequence};
use vicugna::ops::elementwise::cast;
use vicugna::ops::grad_norm::grad_norm;
use vicugna::optim::{AdamW, AdamWOptions, Trained};
use vicugna::shape::Shape;

use crate::corpus::Corpus;

/// What the steps of a stage read.
struct Stage {
    text: fn(&mut Corpus) -> String,
    /// Tokens of a sequence.
    length: usize,
    /// Sequences of a step.
    sequences: usize,
}

/// First names over and over: it learns to copy there, which it had not after 900 steps of texts.
const CHANTS: Stage = Stage { text: Corpus::chant, length: 64, sequences: 24 };
const CHANT_STEPS: u64 = 600;
/// Then language.
const TEXTS: Stage = Stage { text: Corpus::text, length: 256, sequences: 16 };

const LEARNING_RATE: f64 = 4e-3;
const WARMUP_STEPS: u64 = 100;

/// Trains a model on `corpus` and leaves it in `folder`.
pub fn pretrain(corpus: &mut Corpus, tokenizer: &Tokenizer, steps: u64, seed: u64, folder: &Path) -> Result<()> {
    let model = random(config(tokenizer), seed)?;
    let count: usize = model.config().parameters().iter().map(|(_, shape)| shape.numel()).sum();
    println!("{count} parameters, {steps} steps");
    let options = AdamWOptions { beta2: 0.98, weight_decay: 0.05, ..AdamWOptions::default() };
    let (mut optimizer, begun) = (AdamW::new(options), Instant::now());
    let mut mean = 0.0;
    for step in 0..steps {
        let stage = if step < CHANT_STEPS { CHANTS } else { TEXTS };
        let sequences = (0..stage.sequences).map(|_| sequence(&stage, corpus, tokenizer));
        let sequences = sequences.collect::<Result<Vec<_>>>()?;
        let batch = Batch::new(&sequences, &Device::Cpu)?;
        let loss = model.loss(&batch, batch.supervised as f32, None, &Plain)?;
        mean += f64::from(loss.to_vec::<f32>()?[0]) / 50.0;
        optimizer.options.learning_rate = learning_rate(step, steps);
        update(&model, &mut optimizer, &backward(&loss)?)?;
        if (step + 1) % 50 == 0 {
            let right = if (step + 1) % 200 == 0 { exam(&model, tokenizer)? } else { String::new() };
            write(&model, folder)?;
            println!("step {}: loss {mean:.3}, {:.0} s{right}", step + 1, begun.elapsed().as_secs_f64());
            mean = 0.0;
        }
    }
    write(&model, folder)
}

/// A small Llama: grouped queries, tied embeddings.
fn config(tokenizer: &Tokenizer) -> LlamaConfig {
    LlamaConfig {
        model_type: ModelType::default(),
        hidden_size: 128,
        intermediate_size: 384,
        num_hidden_layers: 5,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        vocab_size: tokenizer.vocab_size(),
        max_position_embeddings: 512,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: None,
        tie_word_embeddings: true,
        bos_token_id: tokenizer.bos(),
        eos_token_ids: tokenizer.eos().into_iter().collect(),
    }
}

/// Norms of one, projections uniform, those into the residual stream smaller by its additions.
fn random(config: LlamaConfig, seed: u64) -> Result<Llama> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let additions = (2.0 * config.num_hidden_layers as f32).sqrt();
    let model = Llama::new(config, DType::F32, &mut |name: &str, shape: Shape| {
        let bound = match name {
            _ if name.ends_with("norm.weight") => {
                return Tensor::from_slice(&Device::Cpu, shape, &vec![1f32; shape.numel()]);
            }
            _ if name.contains("embed") => return embeddings(shape, &mut rng),
            _ if name.contains("o_proj") || name.contains("down_proj") => {
                (shape.last() as f32).sqrt().recip() / additions
            }
            _ => (shape.last() as f32).sqrt().recip(),
        };
        let values: Vec<f32> = (0..shape.numel()).map(|_| bound * (2.0 * rng.random::<f32>() - 1.0)).collect();
        Tensor::from_slice(&Device::Cpu, shape, &values)
    })?;
    model.train_weights()?;
    Ok(model)
}

/// Texts, one after the other, all of it supervised; the last one is cut.
fn sequence(stage: &Stage, corpus: &mut Corpus, tokenizer: &Tokenizer) -> Result<Sequence> {
    let mut input_ids = Vec::with_capacity(2 * stage.length);
    while input_ids.len() < stage.length {
        input_ids.extend(tokenizer.encode(&(stage.text)(corpus), true)?);
        input_ids.extend(tokenizer.eos());
    }
    input_ids.truncate(stage.length);
    Ok(Sequence { labels: input_ids.iter().map(|&id| id as i32).collect(), input_ids })
}

/// Up in a line, then down along half a cosine.
fn learning_rate(step: u64, steps: u64) -> f64 {
    let warmup = ((step + 1) as f64 / WARMUP_STEPS as f64).min(1.0);
    LEARNING_RATE * warmup * (0.02 + 0.49 * (1.0 + (PI * step as f64 / steps as f64).cos()))
}

fn update(model: &Llama, optimizer: &mut AdamW, gradients: &Gradients) -> Result<()> {
    let trained = model.trained();
    let mut weights: Vec<_> = trained.iter().map(|(name, parameter)| (name, parameter.lock())).collect();
    let found: Vec<&Tensor> = weights.iter().filter_map(|(_, weight)| gradients.get(weight)).collect();
    let scale = grad_norm(&found)?.clip_scale(1.0)?;
    let pairs = weights.iter_mut().zip(found);
    let trained = pairs.map(|((name, weight), gradient)| Trained { name, parameter: weight, gradient }).collect();
    optimizer.step(trained, &scale)
}

/// How many questions about texts that it never saw the model answers.
fn exam(model: &Llama, tokenizer: &Tokenizer) -> Result<String> {
    const QUESTIONS: usize = 60;
    let (mut corpus, mut right) = (Corpus::new(0), 0);
    let options =
        GenerateOptions { max_new_tokens: 16, sampling: Sampling::GREEDY, stop: vec![".".into(), "?".into()] };
    for _ in 0..QUESTIONS {
        let (prompt, answer) = corpus.exam();
        let said = generate(model, tokenizer, &tokenizer.encode(&prompt, true)?, &options, &mut |_| {})?.text;
        right += usize::from(said.to_lowercase().contains(&answer.to_lowercase()));
    }
    Ok(format!(", {right} of {QUESTIONS} questions answered"))
}

/// Writes weights in bf16 and the config.
fn write(model: &Llama, folder: &Path) -> Result<()> {
    let mut tensors = BTreeMap::new();
    for (name, parameter) in model.trained() {
        tensors.insert(name, cast(&parameter.get().detach(), DType::Bf16)?);
    }
    write_tensors(&folder.join(MODEL), &tensors)?;
    write_config(folder, model.config(), DType::Bf16, None)
}

/// Not around zero: what all tokens have in common is what a head finds the previous token by, whatever the two are.
fn embeddings(shape: Shape, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let values: Vec<f32> = (0..shape.numel()).map(|_| 0.08 * rng.random::<f32>() - 0.02).collect();
    Tensor::from_slice(&Device::Cpu, shape, &values)
}
