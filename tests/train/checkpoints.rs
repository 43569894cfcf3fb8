//! A checkpoint is used as the result is.

use serde_json::json;

use crate::command::{fixture, vicugna};
use crate::run::Place;

/// Records for a model with a tokenizer, and a template that they need.
fn learn(place: &Place, extra: &[&str]) -> String {
    let data = place.records("data.jsonl", &["hello", "hello hello"].map(|text| json!({"q": text, "a": text})));
    let template = place.write("template.json", r#"{"prompt": "{q} hello", "completion": "{a}"}"#);
    let options = ["--template", &template, "--max-input-length", "40", "--max-steps", "1"];
    let common = ["--save-every", "1", "--validation-split-ratio", "0"];
    let model = fixture("gguf_llama_spm/tiny.gguf");
    place.finetune(&model, &data, "out", &[&options, &common[..], extra].concat()).json();
    data
}

#[test]
fn eval_judges_a_checkpoint_as_it_judges_the_result() {
    for extra in [&[][..], &["--train-on-prompt", "--no-demarcation"]] {
        let place = Place::new();
        let data = learn(&place, extra);
        let eval = |folder: &std::path::Path, adapter: &str| {
            let model = fixture("gguf_llama_spm/tiny.gguf");
            let mut command =
                crate::command::command(&["eval", "--model", &model, "--data", &data, "--adapter", adapter]);
            let output = command.arg("--json").current_dir(folder).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(stderr.contains("config.toml"), "{stderr}");
            serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
        };
        let (here, checkpoint) = (place.path(""), place.path("out/checkpoints/step-1"));
        let wanted = eval(&here, "out");
        assert!(wanted["loss"].as_f64().unwrap() > 0.0, "{wanted}");
        assert_eq!(eval(&here, "out/checkpoints/step-1"), wanted);
        assert_eq!(eval(&here, "out/checkpoints/step-1/"), wanted);
        assert_eq!(eval(&checkpoint, "."), wanted);
        std::fs::rename(place.path("out"), place.path("moved")).unwrap();
        assert_eq!(eval(&here, "moved/checkpoints/step-1"), wanted);
    }
}

#[test]
fn generate_takes_a_checkpoint_as_it_takes_the_result() {
    let place = Place::new();
    learn(&place, &["--learning-rate", "0.1"]);
    let model = fixture("gguf_llama_spm/tiny.gguf");
    let say = |adapter: &str| {
        let adapter = place.text(adapter);
        let prompt = ["--prompt", "hello", "--max-new-tokens", "5", "--json"];
        vicugna(&[&["generate", "--model", &model, "--adapter", &adapter], &prompt[..]].concat()).json()["token_ids"]
            .clone()
    };
    assert_eq!(say("out/checkpoints/step-1"), say("out"));
}

/// A model that `--full` has trained is asked with the template that it was trained with.
#[test]
fn eval_judges_a_trained_model_as_its_run_did() {
    let place = Place::new();
    let data = learn(&place, &["--full"]);
    let (model, template) = (place.text("out"), place.text("template.json"));
    let eval =
        |extra: &[&str]| vicugna(&[&["eval", "--model", &model, "--data", &data, "--json"], extra].concat()).json();
    assert_eq!(eval(&[]), eval(&["--template", &template, "--max-input-length", "40"]));
}
