//! PEFT's two runs on SmolLM2-135M, where the model is in the cache (`--model smollm2-135m` fetches it).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::io::adapter::{Adapter, AdapterConfig, tensor_name};
use vicugna::io::hub::{Hub, Kind};
use vicugna::io::model::ModelFiles;
use vicugna::shape::Shape;

use crate::command::{command, vicugna};
use crate::run::Place;
use crate::trajectory::{Trajectory, expected, follow};

/// The model's file, or `None` with the reason printed. Never asks the network.
fn model() -> Option<PathBuf> {
    let hub = Hub { offline: true, quiet: true, ..Hub::from_env() };
    match hub.resolve("smollm2-135m", Kind::Model) {
        Ok(path) => Some(path),
        Err(error) => {
            assert!(std::env::var_os("VICUGNA_NO_SKIP").is_none(), "{error}");
            println!(
                "SKIPPED: SmolLM2-135M is not in the cache ({error}); `vicugna generate --model smollm2-135m` fetches it"
            );
            None
        }
    }
}

fn check(run: usize, within: f64) {
    let Some(model) = model() else { return };
    let lora = &expected("smollm2")["lora"];
    let mut trajectory = lora["trajectories"][run].clone();
    trajectory["sequences"] = lora["sequences"].clone();
    let place = Place::new();
    write_adapter(&place.path("adapter"), &model, lora, &trajectory);
    let trajectory: Trajectory = serde_json::from_value(trajectory).unwrap();
    let adapter = place.text("adapter");
    let (losses, norms) = follow(&place, &trajectory, model.to_str().unwrap(), &["--init-adapter", &adapter]);
    println!("losses {losses:.1e}, gradient norms {norms:.1e}");
    assert!(losses < within && norms < 10.0 * within, "losses {losses:e}, gradient norms {norms:e}");
}

#[test]
fn a_gentle_run_follows_peft() {
    check(0, 1e-4);
}

#[test]
fn a_run_with_decay_and_clipping_follows_peft() {
    check(1, 1e-3);
}

/// Of a conversation in the model's own template the answers count, each with its end.
#[test]
fn a_conversation_is_written_in_the_models_template() {
    let Some(model) = model() else { return };
    let (place, answers) = (Place::new(), ["Hello there, 42!", " Four llamas\nand one vicuña."]);
    let tokenizer = ModelFiles::open(&model).unwrap().tokenizer().unwrap();
    let wanted: usize = answers.map(|answer| tokenizer.encode(answer, false).unwrap().len() + 1).iter().sum();
    let message = |role: &str, content: &str| serde_json::json!({ "role": role, "content": content });
    let [first, second] = answers.map(|answer| message("assistant", answer));
    let messages = [message("user", "Hi"), first, message("user", "Who is there?"), second];
    let data = place.records("chat.jsonl", &[serde_json::json!({ "messages": messages })]);
    let eval = ["eval", "--model", model.to_str().unwrap(), "--data", &data, "--json"];
    assert_eq!(vicugna(&eval).json()["tokens"], wanted);
}

/// The first step is long enough to be interrupted.
#[cfg(unix)]
#[test]
fn a_second_signal_does_not_wait_for_the_step() {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    let Some(model) = model() else { return };
    let place = Place::new();
    let ids: Vec<u32> = (0..1024).map(|i| 3 + i * 37 % 49_000).collect();
    let record = serde_json::json!({ "input_ids": ids });
    let data = place.records("data.jsonl", &vec![record; 200]);
    let out = place.text("out");
    let mut child = command(&["finetune", "--model", model.to_str().unwrap(), "--train", &data, "--out", &out])
        .args(["--batch-size", "200"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let id = child.id().to_string();
    let terminate = || {
        std::thread::sleep(Duration::from_millis(1200));
        Command::new("kill").arg(&id).status().unwrap();
    };
    while !place.path("out/config.toml").exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(20));
    }
    terminate();
    terminate();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(130) && stderr.contains("stopping after this step"), "{stderr}");
}

/// The adapter of the fixtures' README.
fn write_adapter(folder: &Path, model: &Path, lora: &Value, trajectory: &Value) {
    let model = ModelFiles::open(model).unwrap();
    let (r, lora_alpha) = (lora["r"].as_u64().unwrap() as usize, lora["alpha"].as_f64().unwrap());
    let config = AdapterConfig { r, lora_alpha, ..AdapterConfig::default() };
    let modules = config.modules(model.config()).unwrap();
    let mut shapes: BTreeMap<String, Shape> = BTreeMap::new();
    for (module, shape) in &modules {
        let &[out, inner] = shape.dims() else { panic!("{module} is {shape}") };
        shapes.insert(tensor_name(module, "lora_A"), [r, inner].into());
        shapes.insert(tensor_name(module, "lora_B"), [out, r].into());
    }
    let [scale_a, scale_b] = ["scale_a", "scale_b"].map(|key| trajectory[key].as_f64().unwrap());
    let filled = shapes.into_iter().enumerate().map(|(t, (name, shape))| {
        let scale = if name.contains("lora_A") { scale_a } else { scale_b };
        let value = |i| ((f64::from(mix(i as u32 + ((t as u32) << 20))) / 2f64.powi(32) - 0.5) * scale) as f32;
        let values: Vec<f32> = (0..shape.numel()).map(value).collect();
        (name, Tensor::from_slice(&Device::Cpu, shape, &values).unwrap())
    });
    let filled: BTreeMap<String, Tensor> = filled.collect();
    let pair = |module: &str| ["lora_A", "lora_B"].map(|which| filled[&tensor_name(module, which)].clone());
    let tensors = modules.iter().map(|(module, _)| (module.clone(), pair(module).into()));
    std::fs::create_dir(folder).unwrap();
    Adapter { tensors: tensors.collect(), config, ..Adapter::default() }.write(folder).unwrap();
}

fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x85eb_ca6b);
    x ^= x >> 13;
    x = x.wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}
