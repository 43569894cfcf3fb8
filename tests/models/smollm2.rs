//! SmolLM2-135M-Instruct against PyTorch, where the model is in the cache (`--model smollm2-135m` fetches it).

use std::collections::BTreeMap;

use serde::Deserialize;
use vicugna::autograd::{Tensor, no_grad};
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::generate::{Sampling, argmax, continue_tokens};
use vicugna::io::adapter::{AdapterConfig, Modules};
use vicugna::io::hub::{Hub, Kind};
use vicugna::io::model::{ModelFiles, attach_new_adapter};
use vicugna::io::tokenizer::Conversation;
use vicugna::models::llama::Llama;
use vicugna::nn::{Batch, Plain, Sequence};
use vicugna::ops::elementwise::cast;

use crate::fixture::{self, Greedy};

#[derive(Deserialize)]
struct Expected {
    prompts: Vec<Prompt>,
    tokenizer: Vec<TokenizerCase>,
    chat: Chat,
    lora: LoraCase,
}

#[derive(Deserialize)]
struct Prompt {
    name: String,
    text: String,
    ids: Vec<u32>,
    loss: f64,
    greedy: Greedy,
}

#[derive(Deserialize)]
struct TokenizerCase {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Chat {
    messages: serde_json::Value,
    prompt: usize,
}

#[derive(Deserialize)]
struct LoraCase {
    r: usize,
    alpha: f64,
    target_modules: Vec<String>,
    sequences: Vec<Sequence>,
    gradient: Gradient,
}

#[derive(Deserialize)]
struct Gradient {
    scale_a: f64,
    scale_b: f64,
    sequences: Vec<usize>,
    supervised_tokens: usize,
    loss: f64,
    grad_norms: BTreeMap<String, f64>,
}

/// The model, or `None` with the reason printed. Never asks the network.
fn files() -> Option<ModelFiles> {
    let hub = Hub { offline: true, quiet: true, ..Hub::from_env() };
    match hub.resolve("smollm2-135m", Kind::Model) {
        Ok(path) => Some(ModelFiles::open(&path).unwrap()),
        Err(error) => {
            assert!(std::env::var_os("VICUGNA_NO_SKIP").is_none(), "{error}");
            println!(
                "SKIPPED: SmolLM2-135M is not in the cache ({error}); `vicugna generate --model smollm2-135m` fetches it"
            );
            None
        }
    }
}

fn load(files: &ModelFiles) -> Llama {
    files.load(DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn tokens_and_chat_template_match() {
    let Some(files) = files() else { return };
    let (expected, tokenizer): (Expected, _) = (fixture::json("smollm2"), files.tokenizer().unwrap());
    let prompts = expected.prompts.iter().map(|p| (&p.text, &p.ids));
    for (text, ids) in expected.tokenizer.iter().map(|c| (&c.text, &c.ids)).chain(prompts) {
        assert_eq!(&tokenizer.encode(text, true).unwrap(), ids, "{text:?}");
        assert_eq!(&tokenizer.decode(ids, false).unwrap(), text);
    }
    let conversation = Conversation::from_json(expected.chat.messages).unwrap();
    let chat = tokenizer.apply_chat_template(&conversation, true).unwrap();
    assert_eq!(chat.text, expected.prompts[expected.chat.prompt].text);
}

#[test]
fn greedy_tokens_match_pytorch() {
    let Some(files) = files() else { return };
    let (expected, model): (Expected, _) = (fixture::json("smollm2"), load(&files));
    for prompt in expected.prompts {
        let found = continue_tokens(&model, &prompt.ids, prompt.greedy.ids.len(), Sampling::GREEDY).unwrap();
        let sure = prompt.greedy.margins.iter().take_while(|&&margin| margin > 0.02).count();
        assert_eq!(found[..sure], prompt.greedy.ids[..sure], "{}", prompt.name);
        println!("{}: {sure} tokens identical", prompt.name);
    }
}

#[test]
fn logits_and_losses_match_float64() {
    let Some(files) = files() else { return };
    let (expected, tensors): (Expected, _) = (fixture::json("smollm2"), fixture::tensors("smollm2"));
    let (model, vocabulary) = (load(&files), vocabulary_ids());
    for (i, prompt) in expected.prompts.into_iter().enumerate() {
        let labels = prompt.ids.iter().map(|&id| id as i32).collect();
        let sequence = Sequence { input_ids: prompt.ids, labels };
        let batch = Batch::new([&sequence], &model.device()).unwrap();
        let (logits, loss) = no_grad(|| {
            let logits = model.logits(&model.hidden(&batch, None, &Plain).unwrap()).unwrap();
            (logits, model.loss(&batch, batch.supervised as f32, None, &Plain).unwrap())
        });
        let rows = logits.to_vec::<f32>().unwrap();
        let sampled = rows.chunks(logits.shape().last()).flat_map(|row| vocabulary.iter().map(|&id| row[id]));
        let distance = fixture::furthest(&sampled.collect::<Vec<_>>(), &tensors[&format!("logits.{i}")]);
        assert!(distance < 5e-4, "{}: logits differ by {distance:e}", prompt.name);
        let loss = (f64::from(loss.to_vec::<f32>().unwrap()[0]) / prompt.loss - 1.0).abs();
        assert!(loss < 1e-5, "{}: the loss differs by {loss:e}", prompt.name);
        println!("{}: logits {distance:.1e}, loss {loss:.1e}", prompt.name);
    }
}

#[test]
fn lora_gradients_match_float64() {
    let Some(files) = files() else { return };
    let (expected, tensors): (Expected, _) = (fixture::json("smollm2"), fixture::tensors("smollm2"));
    let (case, model) = (expected.lora, load(&files));
    let target_modules = Modules::Names(case.target_modules);
    let config = AdapterConfig { r: case.r, lora_alpha: case.alpha, target_modules, ..AdapterConfig::default() };
    attach_new_adapter(&model, &config, 0).unwrap();
    fill_adapter(&model, case.gradient.scale_a, case.gradient.scale_b);
    let batch = case.gradient.sequences.iter().map(|&i| &case.sequences[i]);
    let batch = Batch::new(batch, &model.device()).unwrap();
    assert_eq!(batch.supervised, case.gradient.supervised_tokens);
    let (loss, gradients) = fixture::differentiate(&model, &batch);
    let loss = (loss / case.gradient.loss - 1.0).abs();
    assert!(loss < 1e-5, "the loss differs by {loss:e}");
    let gradients = fixture::named(&model, &gradients);
    let mut worst = (0.0, 0.0);
    for (name, gradient) in &gradients {
        let gradient = gradient.to_vec::<f32>().unwrap();
        let norm = gradient.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let distance = (norm / case.gradient.grad_norms[name] - 1.0).abs();
        assert!(distance < 1e-3, "the norm of the gradient of {name} differs by {distance:e}");
        worst.0 = if distance > worst.0 { distance } else { worst.0 };
        let Some(whole) = tensors.get(&format!("grad.{name}")) else { continue };
        let distance = fixture::relative(&gradient, whole);
        assert!(distance < 1e-3, "the gradient of {name} differs by {distance:e}");
        worst.1 = if distance > worst.1 { distance } else { worst.1 };
    }
    assert_eq!(gradients.len(), case.gradient.grad_norms.len());
    println!("loss {loss:.1e}, gradient norms {:.1e}, gradients {:.1e}", worst.0, worst.1);
}

/// The ids at which the fixture has logits.
fn vocabulary_ids() -> Vec<usize> {
    let bytes = std::fs::read(fixture::folder("smollm2").join("expected.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ids = file.tensor("vocabulary_ids").unwrap();
    ids.data().chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()) as usize).collect()
}

/// The adapter of the fixtures' README.
fn fill_adapter(model: &Llama, scale_a: f64, scale_b: f64) {
    let mut parameters = Vec::new();
    model.visit_adapters(&mut |name, parameter| parameters.push((name, parameter)));
    parameters.sort_by(|a, b| a.0.cmp(&b.0));
    for (t, (name, parameter)) in parameters.into_iter().enumerate() {
        let scale = if name.contains("lora_A") { scale_a } else { scale_b };
        let fill = |tensor: &mut vicugna::autograd::Tensor| {
            let values = tensor.slice_mut::<f32>()?.iter_mut().enumerate();
            values.for_each(|(i, v)| {
                *v = ((f64::from(mix(i as u32 + (t as u32) * (1 << 20))) / 2f64.powi(32) - 0.5) * scale) as f32
            });
            Ok(())
        };
        parameter.update(fill).unwrap();
    }
}

fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x85eb_ca6b);
    x ^= x >> 13;
    x = x.wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

/// The token that the logits of each row favour, and by how much.
fn favourites(logits: &Tensor) -> Vec<(usize, f32)> {
    let width = logits.shape().last();
    let rows = cast(logits, DType::F32).unwrap().to_vec::<f32>().unwrap();
    assert!(rows.iter().all(|logit| logit.is_finite()));
    let favourite = |row: &[f32]| {
        let token = argmax(row) as usize;
        let best_other = row.iter().enumerate().filter(|(i, _)| *i != token).map(|(_, &v)| v).fold(f32::MIN, f32::max);
        (token, row[token] - best_other)
    };
    rows.chunks(width).map(favourite).collect()
}

/// 32 tokens in bf16 through the kernels: at each the token that the CPU favours, but where the two best logits are nearer
/// than a step of bf16 at their size, 0.125, which is what its hidden states decide.
#[test]
fn the_kernels_choose_the_cpus_tokens() {
    let Some(files) = files() else { return };
    let expected: Expected = fixture::json("smollm2");
    let ids: Vec<u32> = expected.prompts.iter().flat_map(|prompt| prompt.ids.clone()).take(32).collect();
    assert_eq!(ids.len(), 32);
    let begun = std::time::Instant::now();
    let [cpu, emulated] = [Device::Cpu, Device::emulated()].map(|device| {
        let model = files.load(DType::Bf16, &device).unwrap();
        let sequence = Sequence { labels: vec![-100; ids.len()], input_ids: ids.clone() };
        let batch = Batch::new([&sequence], &device).unwrap();
        favourites(&no_grad(|| model.logits(&model.hidden(&batch, None, &Plain).unwrap())).unwrap())
    });
    let differ = cpu.iter().zip(&emulated).filter(|(a, b)| a.0 != b.0).map(|(a, b)| a.1.max(b.1));
    let differ: Vec<f32> = differ.collect();
    println!("{} of 32 tokens differ, by margins of {differ:?}; {:?}", differ.len(), begun.elapsed());
    assert!(differ.iter().all(|&margin| margin <= 0.125), "{differ:?}");
}
