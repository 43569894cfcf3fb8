//! Twenty steps of AdamW beside PyTorch's in float64 (`tests/fixtures/README.md`).

use std::path::Path;

use serde::Deserialize;
use vicugna::reference::tolerance::largest;

use crate::command::fixture;
use crate::run::{Place, Sequence, tensors};

#[derive(Deserialize)]
pub struct Trajectory {
    sequences: Vec<Sequence>,
    batches: Vec<Vec<usize>>,
    lr: f64,
    weight_decay: f64,
    clip: Option<f64>,
    losses: Vec<f64>,
    grad_norms: Vec<f64>,
    #[serde(default)]
    final_norms: std::collections::BTreeMap<String, f64>,
}

pub fn expected(case: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(Path::new(&fixture(case)).join("expected.json")).unwrap()).unwrap()
}

fn furthest(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    largest(found.iter().zip(expected).map(|(f, e)| (f / e - 1.0).abs()))
}

/// Trains as `trajectory` did; returns how far losses and gradient norms are from it at most.
pub fn follow(place: &Place, trajectory: &Trajectory, model: &str, extra: &[&str]) -> (f64, f64) {
    let records: Vec<&Sequence> = trajectory.batches.iter().flatten().map(|&i| &trajectory.sequences[i]).collect();
    let data = place.records("data.jsonl", &records);
    let [lr, weight_decay, clip] =
        [trajectory.lr, trajectory.weight_decay, trajectory.clip.unwrap_or(0.0)].map(|value| value.to_string());
    let options = [
        "--learning-rate",
        &lr,
        "--weight-decay",
        &weight_decay,
        "--max-grad-norm",
        &clip,
        "--batch-size",
        "2",
        "--epochs",
        "1",
        "--no-packing",
        "--no-shuffle",
        "--validation-split-ratio",
        "0",
    ];
    let summary = place.finetune(model, &data, "out", &[&options, extra].concat()).json();
    assert_eq!(summary["steps"], trajectory.losses.len());
    let losses = furthest(&place.column("out", "loss"), &trajectory.losses);
    (losses, furthest(&place.column("out", "grad_norm"), &trajectory.grad_norms))
}

#[test]
fn an_adapter_on_all_layers_follows_pytorch() {
    follows_peft("lora");
}

#[test]
fn layers_that_an_adapter_has_whole_follow_pytorch() {
    follows_peft("lora_saved");
}

fn follows_peft(case: &str) {
    let place = Place::new();
    let trajectory: Trajectory = serde_json::from_value(expected(case)["trajectory_lora"].clone()).unwrap();
    let adapter = fixture(&format!("{case}/adapter"));
    let (losses, norms) = follow(&place, &trajectory, &fixture(case), &["--init-adapter", &adapter]);
    println!("{case}: losses {losses:.1e}, gradient norms {norms:.1e}");
    assert!(losses < 1e-4 && norms < 1e-3, "{case}: losses {losses:e}, gradient norms {norms:e}");
    let wanted = tensors(&Path::new(&fixture(case)).join("expected.safetensors"));
    let found = tensors(&place.path("out/adapter_model.safetensors"));
    for (name, values) in &found {
        let wanted = &wanted[&format!("final.{name}")];
        assert_eq!(values.len(), wanted.len(), "{case}: {name}");
        let furthest = largest(values.iter().zip(wanted).map(|(f, w)| f64::from((f - w).abs())));
        assert!(furthest < 2e-4, "{case}: {name} is {furthest:e} away after 20 steps");
    }
    assert_eq!(found.len(), wanted.keys().filter(|name| name.starts_with("final.")).count());
}

#[test]
fn full_training_follows_pytorch() {
    let place = Place::new();
    let trajectory: Trajectory = serde_json::from_value(expected("gqa")["trajectory_full"].clone()).unwrap();
    let (losses, norms) = follow(&place, &trajectory, &fixture("gqa"), &["--full"]);
    println!("losses {losses:.1e}, gradient norms {norms:.1e}");
    assert!(losses < 1e-4 && norms < 1e-3, "losses {losses:e}, gradient norms {norms:e}");
    let found = tensors(&place.path("out/model.safetensors"));
    for (name, wanted) in &trajectory.final_norms {
        let norm = found[name].iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        assert!((norm / wanted - 1.0).abs() < 1e-4, "the norm of {name} is {norm}, not {wanted}");
    }
}
