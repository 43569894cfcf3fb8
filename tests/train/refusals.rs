//! Bad data and bad options: one clear line, and nothing is left behind.

use std::path::Path;

use crate::command::{fixture, vicugna};
use crate::run::Place;

#[test]
fn bad_data_is_named_with_its_line() {
    let place = Place::new();
    let good = r#"{"input_ids": [1, 2, 3]}"#;
    for (i, (content, message)) in [
        (format!("{good}\n{{\"input_ids\": [1, 2\n"), "line 2, column 19: EOF while parsing a list"),
        (
            format!("{good}\n\n{{\"input_ids\": [1, 2, 900]}}\n"),
            "line 3: input_ids: 900 is outside the model's vocabulary of 101",
        ),
        (format!("{good}\n{{\"tokens\": [1, 2]}}\n"), "line 2: fields [tokens] make no known record"),
        (
            "{\"input_ids\": [1, 2], \"labels\": [-100]}\n".into(),
            "line 1: field \"labels\" must be as long as \"input_ids\", 2, got 1",
        ),
        (
            "{\"instruction\": \"a\", \"context\": \"b\"}\n".into(),
            "line 1: there is neither \"response\" nor \"output\"; there are fields [instruction, context]",
        ),
        (String::new(), "holds no records"),
        (
            "{\"input_ids\": [1, 2], \"labels\": [-100, -100]}\n".into(),
            "none of 1 records has a supervised token within --max-input-length 128; the longest has 2 tokens",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let path = place.write(&format!("data-{i}.jsonl"), &content);
        place.finetune(&fixture("gqa"), &path, "out", &[]).refused(&format!("{path}: {message}"));
        assert!(!place.path("out").exists(), "{message}");
    }
    let missing = place.text("missing.jsonl");
    place
        .finetune(&fixture("gqa"), &missing, "out", &[])
        .refused(&format!("{missing}: No such file or directory (os error 2)"));
}

#[test]
fn bad_evaluation_data_is_named_too() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 6);
    for (name, content, message) in [
        ("bad.jsonl", "{\"input_ids\": [1, 2]}\n{", "line 2, column 1: EOF while parsing an object"),
        ("masked.jsonl", "{\"input_ids\": [1]}", "none of 1 records has a supervised token"),
    ] {
        let eval = place.write(name, content);
        let ran = place.finetune(&fixture("gqa"), &data, "out", &["--eval", &eval, "--quiet"]);
        assert!(ran.code == 1 && ran.stderr.starts_with(&format!("error: {eval}: {message}")), "{}", ran.stderr);
    }
    let missing = place.text("missing.jsonl");
    let ran = place.finetune(&fixture("gqa"), &data, "out", &["--eval", &missing, "--quiet"]);
    ran.refused(&format!("{missing}: No such file or directory (os error 2)"));
    assert!(!place.path("out").exists());
}

#[test]
fn a_template_that_asks_for_other_fields_is_refused() {
    let place = Place::new();
    let data = place.write("data.jsonl", "{\"question\": \"a\", \"answer\": \"b\"}\n");
    let template = place.write("template.json", r#"{"prompt": "{question} {context}", "completion": "{answer}"}"#);
    place.finetune(&fixture("gqa"), &data, "out", &["--template", &template]).refused(&format!(
        "{data}: line 1: the template's {{context}} is missing; there are fields [question, answer]"
    ));
}

#[test]
fn bad_options_are_named() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 6);
    for (options, message) in [
        (vec!["--epochs", "0"], "--epochs: must be a number above 0, got 0"),
        (vec!["--epochs", "nan"], "--epochs: must be a number above 0, got NaN"),
        (vec!["--lora-r", "0"], "--lora-r: must be at least 1"),
        (vec!["--batch-size", "0"], "--batch-size: must be at least 1"),
        (vec!["--learning-rate", "nan"], "--learning-rate: must be a number from 0 on, got NaN"),
        (vec!["--learning-rate=-0.5"], "--learning-rate: must be a number from 0 on, got -0.5"),
        (vec!["--validation-split-ratio", "1"], "--validation-split-ratio: must be from 0 to below 1, got 1"),
        (vec!["--lora-dropout", "1.5"], "--lora-dropout: must be from 0 to below 1, got 1.5"),
        (vec!["--max-input-length", "129"], "--max-input-length: 129 tokens are more than the model's context of 128"),
        (vec!["--max-input-length", "1"], "--max-input-length: must be at least 2, got 1"),
        (vec!["--target-modules", "w1"], "target_modules: [\"w1\"] matches no linear layer of the model"),
        (vec!["--device", "tpu"], "--device: \"tpu\" is no device"),
    ] {
        place.finetune(&fixture("gqa"), &data, "out", &options).refused(message);
        assert!(!place.path("out").exists(), "{message}");
    }
    for usage in [vec!["--epochs", "many"], vec!["--lr-schedule", "sudden"], vec!["--no-such-option"], vec!["stray"]] {
        let ran = place.finetune(&fixture("gqa"), &data, "out", &usage);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{usage:?} {}", ran.stderr);
    }
    assert_eq!(vicugna(&["finetune", "--train", &data]).code, 2);
}

/// Trains with a learning rate at the edge of f32; the error that ends it.
fn explode(place: &Place, learning_rate: &str, save_every: &str) -> String {
    let data = place.random_records("data.jsonl", 24);
    let options =
        ["--learning-rate", learning_rate, "--save-every", save_every, "--batch-size", "1", "--max-input-length", "24"];
    let ran = place.finetune(&fixture("gqa"), &data, "out", &options);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(!place.path("out/adapter_config.json").exists());
    ran.stderr.lines().find(|line| line.starts_with("error: ")).unwrap().to_string()
}

#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let place = Place::new();
    let error = explode(&place, "3e37", "1");
    let culprit = "the first tensor that is not finite is the output of model.layers.0";
    assert_eq!(error, format!("error: training: the loss is NaN at step 2; {culprit}"));
    assert!(place.path("out/checkpoints/step-1/manifest.json").exists());
}

#[test]
fn weights_that_are_no_numbers_are_not_saved() {
    let place = Place::new();
    let error = explode(&place, "1e39", "1");
    assert!(
        error.starts_with(
            "error: training: the update is not finite at step 1; the first tensor that is not finite is "
        ),
        "{error}"
    );
    assert!(!place.path("out/checkpoints/step-1").exists());
}

/// Makes the first element of a tensor in a safetensors file NaN.
pub fn poison(path: &Path, name: &str) {
    let mut bytes = std::fs::read(path).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let start = 8 + header + metadata.info(name).unwrap().data_offsets.0;
    bytes[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 24);
    let model = crate::command::copy("gqa", &place.path(""));
    let name = "model.layers.1.mlp.up_proj.weight";
    poison(&model.join("model.safetensors"), name);
    let ran = place.finetune(model.to_str().unwrap(), &data, "out", &[]);
    let line = format!("error: training: the loss is NaN at step 1; the first tensor that is not finite is {name}");
    assert!(ran.stderr.lines().any(|found| found == line), "{}", ran.stderr);
    vicugna(&["eval", "--model", model.to_str().unwrap(), "--data", &data, "--json", "--quiet"])
        .refused(&format!("evaluation: the loss is NaN; the first tensor that is not finite is {name}"));
}

#[test]
fn an_evaluation_that_is_no_number_stops_the_run() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 24);
    let options = ["--learning-rate", "3e37", "--save-every", "1", "--eval-every", "1", "--batch-size", "1"];
    let ran = place.finetune(&fixture("gqa"), &data, "out", &[&options[..], &["--max-input-length", "24"]].concat());
    let line = ran.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
    let culprit = "the first tensor that is not finite is the output of model.layers.0";
    assert_eq!(line, format!("error: training: after step 1: evaluation: the loss is NaN; {culprit}"));
    assert!(!place.path("out/adapter_config.json").exists());
}

#[test]
fn nothing_is_generated_from_weights_that_are_no_numbers() {
    let place = Place::new();
    let model = fixture("gguf_llama_spm/tiny.gguf");
    let data = place.write("data.jsonl", "{\"text\": \"hello\"}\n{\"text\": \"hello hello\"}\n");
    place.finetune(&model, &data, "out", &["--max-steps", "1"]).json();
    let name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight";
    poison(&place.path("out/adapter_model.safetensors"), name);
    let out = place.text("out");
    for sampling in [&[][..], &["--temperature", "1"]] {
        let generate = ["generate", "--model", &model, "--adapter", &out, "--prompt", "hello", "--quiet"];
        let ran = vicugna(&[&generate, sampling].concat());
        let line = ran.stderr.lines().next().unwrap();
        assert!(line.starts_with("error: model: after ") && line.contains("is NaN"), "{line}");
        assert!(line.ends_with(&format!("the first weight that is not finite is {name}")), "{line}");
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    }
}
