//! Training what is more than LoRA on a block's layers: an adapter of the output layer, and weights that one has whole.

use std::path::Path;

use crate::command::{fixture, vicugna};
use crate::run::{Place, Sequence, tensors};

const EMBEDDING: &str = "base_model.model.model.embed_tokens.weight";

fn records(place: &Place, largest: u32) -> String {
    let record = |i: u32| {
        let input_ids: Vec<u32> = (0..12).map(|t| (i * 7 + t * 5) % largest).chain([largest]).collect();
        Sequence { labels: input_ids.iter().map(|&id| id as i32).collect(), input_ids }
    };
    place.records("data.jsonl", &(0..8).map(record).collect::<Vec<_>>())
}

#[test]
fn an_adapter_of_a_tied_head_learns() {
    let place = Place::new();
    let data = records(&place, 90);
    let model = fixture("gqa");
    let options =
        ["--target-modules", "q_proj,lm_head", "--lora-dropout", "0.2", "--learning-rate", "1e-2", "--epochs", "6"];
    place.finetune(&model, &data, "out", &options).json();
    let losses = place.column("out", "loss");
    assert!(losses.last() < losses.first(), "{losses:?}");
    let found = tensors(&place.path("out/adapter_model.safetensors"));
    let b = &found["base_model.model.lm_head.lora_B.weight"];
    assert!(b.iter().any(|&b| b != 0.0) && b.iter().all(|b| b.is_finite()));
    assert!(found.keys().all(|name| name.contains(".lora_")), "the base model's weights are not the adapter's");

    let loss = |model: &[&str]| {
        let json = vicugna(&[&["eval", "--data", &data, "--json", "--model"], model].concat()).json();
        json["loss"].as_f64().unwrap()
    };
    let (out, merged) = (place.text("out"), place.text("merged"));
    let adapted = loss(&[&model, "--adapter", &out]);
    assert!(adapted < loss(&[&model]) - 0.01);
    vicugna(&["merge", "--model", &model, "--adapter", &out, "--out", &merged, "--json"]).json();
    assert!((loss(&[&merged]) / adapted - 1.0).abs() < 1e-5);
}

#[test]
fn what_an_adapter_has_whole_and_does_not_train_is_kept() {
    let place = Place::new();
    let data = records(&place, 58);
    let (model, adapter) = (fixture("lora_head"), fixture("lora_head/adapter"));
    let options = ["--init-adapter", &adapter, "--epochs", "1", "--save-every", "1"];
    let ran = place.finetune(&model, &data, "out", &options);
    ran.json();
    let given = tensors(&Path::new(&adapter).join("adapter_model.safetensors"));
    let last =
        std::fs::read_dir(place.path("out/checkpoints")).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    for folder in [place.path("out"), last] {
        let found = tensors(&folder.join("adapter_model.safetensors"));
        assert_eq!(found[EMBEDDING], given["base_model.model.lm_head.base_layer.weight"]);
        assert_ne!(found["base_model.model.lm_head.lora_A.weight"], given["base_model.model.lm_head.lora_A.weight"]);
        assert_eq!(found.len(), given.len());
    }
    // The adapter's embedding has two rows less than the base model's.
    let beyond = records(&place, 59);
    let ran = place.finetune(&model, &beyond, "beyond", &["--init-adapter", &adapter]);
    assert!(ran.stderr.contains("59 is outside the model's vocabulary of 59"), "{}", ran.stderr);
}
