//! Adapters that are trained on frozen layers of 4 and 8 bits.

use serde_json::{Value, json};

use crate::command::{fixture, vicugna};
use crate::resume::Setting;
use crate::run::{Place, Sequence, results};

/// Options, and what `config.toml` says of them.
fn schemes() -> [(&'static str, Vec<&'static str>, Value); 4] {
    let int8 =
        |threshold: f32, backward| json!({"quantize": "int8", "int8_threshold": threshold, "int8_backward": backward});
    [
        ("int8", vec!["--quantize", "int8"], int8(6.0, "int8")),
        (
            "dequant",
            vec!["--quantize", "int8", "--int8-backward", "dequant", "--int8-threshold", "2.5"],
            int8(2.5, "dequant"),
        ),
        ("nf4", vec!["--quantize", "nf4"], json!({"quantize": "nf4"})),
        ("fp4", vec!["--quantize", "fp4", "--double-quant"], json!({"quantize": "fp4", "double_quant": true})),
    ]
}

/// What the `config.toml` of a run says of frozen layers.
fn said(place: &Place, out: &str) -> Value {
    let config = std::fs::read_to_string(place.path(out).join("config.toml")).unwrap();
    let mut config: serde_json::Map<String, Value> =
        serde_json::to_value(config.parse::<toml::Table>().unwrap()).unwrap().as_object().unwrap().clone();
    config.retain(|key, _| ["quantize", "int8_threshold", "int8_backward", "double_quant"].contains(&key.as_str()));
    config.into()
}

#[test]
fn every_scheme_learns_and_goes_on_to_the_same_bits() {
    let setting = Setting::new();
    let floats = setting.run("floats", &[]).json();
    assert_eq!(said(&setting.place, "floats"), json!({"quantize": "none"}));
    let mut seen = vec![results(&setting.place.path("floats"))];
    for (name, options, expected) in schemes() {
        let whole = setting.run(name, &options).json();
        assert_eq!(said(&setting.place, name), expected);
        for count in ["all_parameters", "trainable_parameters"] {
            assert_eq!(whole[count], floats[count], "{name}");
        }
        let result = results(&setting.place.path(name));
        assert!(!seen.contains(&result), "{name} gives what another scheme gives");
        let again = format!("{name}-again");
        setting.run(&again, &[&options[..], &["--threads", "1", "--activation-checkpointing"]].concat()).json();
        assert!(results(&setting.place.path(&again)) == result, "a second run of {name} differs");
        let cut = format!("{name}-cut");
        setting.cut_off(name, &cut, &[10]);
        let resumed = setting.run(&cut, &[&options[..], &["--resume"]].concat()).json();
        assert_eq!(resumed["train_loss"], whole["train_loss"]);
        assert!(results(&setting.place.path(&cut)) == result, "the resumed run of {name} differs");
        seen.push(result);
    }
}

#[test]
fn the_loss_falls() {
    let place = Place::new();
    let ids: Vec<u32> = (0..24).map(|i| i * i % 89 + 3).collect();
    let record = Sequence { labels: ids.iter().map(|&id| id as i32).collect(), input_ids: ids };
    let data = place.records("data.jsonl", &vec![record; 8]);
    let options = ["--max-steps", "30", "--learning-rate", "0.02", "--target-modules", "all-linear"];
    let options = [&options[..], &["--validation-split-ratio", "0", "--batch-size", "4"]].concat();
    for (name, scheme, _) in schemes() {
        place.finetune(&fixture("gqa"), &data, name, &[&options[..], &scheme].concat()).json();
        let losses = place.column(name, "loss");
        assert!(losses[29] < losses[0] - 1.0, "{name}: {losses:?}");
    }
}

#[test]
fn another_scheme_is_another_run() {
    let setting = Setting::new();
    setting.run("out", &["--quantize", "int8"]).json();
    let before = results(&setting.place.path("out"));
    let was = r#"{"quantize":"int8","int8_threshold":6.0,"int8_backward":"int8"}"#;
    for (options, is) in [
        (vec![], "absent"),
        (vec!["--quantize", "nf4"], r#"{"quantize":"nf4"}"#),
        (vec!["--quantize", "nf4", "--double-quant"], r#"{"quantize":"nf4","double_quant":true}"#),
        (
            vec!["--quantize", "int8", "--int8-threshold", "5"],
            r#"{"quantize":"int8","int8_threshold":5.0,"int8_backward":"int8"}"#,
        ),
        (
            vec!["--quantize", "int8", "--int8-backward", "dequant"],
            r#"{"quantize":"int8","int8_threshold":6.0,"int8_backward":"dequant"}"#,
        ),
    ] {
        let ran = setting.run("out", &[&options[..], &["--resume"]].concat());
        let step = setting.place.path("out/checkpoints/step-12");
        let line = ran.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        let expected = format!("error: {}: is of another run: frozen weights was {was}, is {is}", step.display());
        assert!(ran.code == 1 && line.starts_with(&expected), "{}", ran.stderr);
    }
    assert!(results(&setting.place.path("out")) == before);
}

/// A folder that is quantized is trained on as it is, and resumed by the config that the run wrote.
#[test]
fn a_quantized_folder_needs_no_option() {
    for (folder, expected) in [
        ("quantized/int8", json!({"quantize": "int8", "int8_threshold": 6.0, "int8_backward": "int8"})),
        ("quantized/nf4_double", json!({"quantize": "nf4", "double_quant": true})),
    ] {
        let setting = Setting { model: fixture(folder), ..Setting::new() };
        setting.run("whole", &[]).json();
        assert_eq!(said(&setting.place, "whole"), expected);
        setting.cut_off("whole", "cut", &[10]);
        let config = setting.place.path("cut/config.toml");
        vicugna(&["finetune", "--config", config.to_str().unwrap(), "--resume", "--json"]).json();
        assert!(results(&setting.place.path("cut")) == results(&setting.place.path("whole")), "{folder}");
        setting.run("none", &["--quantize", "none"]).json();
        assert_eq!(said(&setting.place, "none"), json!({"quantize": "none"}));
        setting.cut_off("none", "cut-none", &[10]);
        let config = setting.place.path("cut-none/config.toml");
        vicugna(&["finetune", "--config", config.to_str().unwrap(), "--resume", "--json"]).json();
        assert!(results(&setting.place.path("cut-none")) == results(&setting.place.path("none")), "{folder}");
    }
}

#[test]
fn an_adapter_is_used_on_another_scheme_with_a_note() {
    let setting = Setting::new();
    let out = setting.place.text("out");
    setting.run("out", &["--quantize", "nf4"]).json();
    let note = |adapter: &str, scheme: &str| {
        let args = ["eval", "--model", &setting.model, "--adapter", adapter, "--data", &setting.data, "--json"];
        let ran = vicugna(&[&args[..], &["--quantize", scheme]].concat());
        assert!(ran.json()["loss"].as_f64().unwrap().is_finite());
        ran.stderr.lines().find(|line| line.contains("trained on weights")).map(str::to_string)
    };
    let said = |adapter: &str, scheme: &str| {
        Some(format!("{adapter}: trained on weights held as --quantize nf4 says, used on {scheme}"))
    };
    assert_eq!(note(&out, "nf4"), None);
    assert_eq!(note(&out, "none"), said(&out, "none"));
    assert_eq!(note(&out, "int8"), said(&out, "int8"));
    let step = format!("{out}/checkpoints/step-12");
    assert_eq!(note(&step, "none"), said(&step, "none"));
    assert_eq!(note(&fixture("lora_qv_rslora/adapter"), "int8"), None);
}
