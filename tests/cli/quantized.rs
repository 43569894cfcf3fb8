//! Weights of 4 and 8 bits as the commands take, write and refuse them.

use serde_json::Value;

use crate::command::{copy, fixture, vicugna};

const IDS: [&str; 3] = ["--input-ids", "1,2,3,4,5,6,7", "--json"];

fn inspect(model: &str, extra: &[&str]) -> Value {
    vicugna(&[&["inspect", "--model", model], &IDS[..], extra].concat()).json()
}

#[test]
fn every_command_takes_a_scheme() {
    let (model, gguf) = (fixture("gqa"), fixture("gguf_llama_spm/tiny.gguf"));
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data.jsonl");
    std::fs::write(&data, "{\"text\": \"the quick brown fox\"}\n").unwrap();
    let data = data.to_str().unwrap();
    let loss = |json: Value| json["loss"].as_f64().unwrap();
    let (whole, evaluated) =
        (loss(inspect(&model, &[])), loss(vicugna(&["eval", "--model", &gguf, "--data", data, "--json"]).json()));
    for (options, tolerance) in [
        (vec!["--quantize", "int8"], 0.02),
        (vec!["--quantize", "int8", "--int8-threshold", "0"], 0.02),
        (vec!["--quantize", "int8", "--int8-backward", "dequant"], 0.02),
        (vec!["--quantize", "nf4"], 0.3),
        (vec!["--quantize", "nf4", "--double-quant"], 0.3),
        (vec!["--quantize", "fp4"], 0.3),
    ] {
        let inspected = inspect(&model, &options);
        let norms = inspected["grad_norms"].as_object().unwrap().clone();
        assert!(norms.contains_key("model.embed_tokens.weight") && !norms.keys().any(|name| name.contains("_proj")));
        let found = loss(inspected);
        assert!(found != whole && (found - whole).abs() < tolerance, "{options:?}: {found}, {whole}");
        let emulated = loss(inspect(&model, &[&options[..], &["--device", "emulated", "--dtype", "f32"]].concat()));
        assert!((emulated - found).abs() < 1e-3, "{options:?}: {emulated} emulated, {found} on the cpu");
        let run = |args: &[&str]| vicugna(&[args, &options[..], &["--json"]].concat()).json();
        let found = loss(run(&["eval", "--model", &gguf, "--data", data]));
        assert!((found - evaluated).abs() < tolerance, "{options:?}: {found}, {evaluated}");
        let generated = run(&["generate", "--model", &gguf, "--prompt", "the quick", "--max-new-tokens", "5"]);
        assert_eq!(generated["token_ids"].as_array().unwrap().len(), 5);
    }
}

#[test]
fn merge_writes_what_is_then_read() {
    let (model, folder) = (fixture("gqa"), tempfile::tempdir().unwrap());
    for (i, options) in [
        vec!["--quantize", "int8"],
        vec!["--quantize", "nf4"],
        vec!["--quantize", "nf4", "--double-quant"],
        vec!["--quantize", "fp4"],
    ]
    .into_iter()
    .enumerate()
    {
        let out = folder.path().join(format!("out-{i}"));
        let out = out.to_str().unwrap();
        let ran = vicugna(&[&["merge", "--model", &model, "--out", out, "--json"], &options[..]].concat());
        let json = ran.json();
        assert_eq!((&json["merged"], &json["quantize"]), (&0.into(), &options[1].into()));
        let changes = json["changes"].as_array().unwrap();
        assert!(changes.len() == 14 && changes.iter().all(|change| change["mean"].as_f64().unwrap() < 0.2), "{json}");
        let told = ran.stderr.lines().filter(|line| line.contains("_proj.weight: rounding changed it by ")).count();
        assert_eq!(told, 14, "{}", ran.stderr);
        assert_eq!(inspect(out, &[]), inspect(&model, &options), "{options:?}");
        assert_eq!(inspect(out, &options), inspect(out, &[]));
        let floats = format!("{out}-floats");
        vicugna(&["merge", "--model", out, "--quantize", "none", "--out", &floats, "--json"]).json();
        assert_eq!(inspect(&floats, &[]), inspect(out, &["--quantize", "none"]), "{options:?}");
    }
}

#[test]
fn merge_onto_a_quantized_base_writes_floats_unless_told_otherwise() {
    let (model, adapter) = (fixture("quantized/nf4"), fixture("lora_qv_rslora/adapter"));
    let folder = tempfile::tempdir().unwrap();
    let merge = |name: &str, extra: &[&str]| {
        let out = folder.path().join(name).to_str().unwrap().to_string();
        let args = ["merge", "--model", &model, "--adapter", &adapter, "--out", &out, "--json"];
        let json = vicugna(&[&args[..], extra].concat()).json();
        (out, json)
    };
    let (floats, json) = merge("floats", &[]);
    assert_eq!((json["merged"].as_u64(), json["changes"].as_array().unwrap().len()), (Some(4), 0));
    let (again, json) = merge("again", &["--quantize", "nf4"]);
    assert_eq!((json["merged"].as_u64(), json["changes"].as_array().unwrap().len()), (Some(4), 14));
    let loss = |json: Value| json["loss"].as_f64().unwrap();
    let adapted = loss(inspect(&model, &["--quantize", "none", "--adapter", &adapter]));
    assert!((loss(inspect(&floats, &[])) - adapted).abs() < 1e-5);
    assert!((loss(inspect(&again, &[])) - adapted).abs() < 0.1);
}

#[test]
fn what_cannot_go_together_is_a_usage_error() {
    let (model, int8, nf4) = (fixture("gqa"), fixture("quantized/int8"), fixture("quantized/nf4"));
    let used = |args: &[&str], says: &str| {
        let ran = vicugna(args);
        assert!(ran.code == 2 && ran.stderr.contains(says), "{args:?}: {} {}", ran.code, ran.stderr);
        assert_eq!(ran.stdout, "");
    };
    let inspected = |model: &str, options: &[&str], says: &str| {
        used(&[&["inspect", "--model", model], &IDS[..2], options].concat(), says);
    };
    inspected(&model, &["--double-quant"], "--double-quant is of --quantize nf4 and fp4, not none");
    inspected(
        &model,
        &["--double-quant", "--quantize", "int8"],
        "--double-quant is of --quantize nf4 and fp4, not int8",
    );
    inspected(&int8, &["--double-quant"], "--double-quant is of --quantize nf4 and fp4, not int8");
    inspected(&model, &["--int8-threshold", "5"], "--int8-threshold is of --quantize int8, not none");
    inspected(&model, &["--int8-backward", "dequant"], "--int8-backward is of --quantize int8, not none");
    inspected(&nf4, &["--int8-threshold", "5"], "--int8-threshold is of --quantize int8, not nf4");
    inspected(
        &int8,
        &["--quantize", "none", "--int8-threshold", "5"],
        "--int8-threshold is of --quantize int8, not none",
    );
    for bad in ["-1", "NaN", "inf"] {
        let options = ["--quantize", "int8", "--int8-threshold", bad];
        inspected(&model, &options, &format!("--int8-threshold must be a number from 0 on, got {bad}"));
    }
    inspected(&model, &["--quantize", "int4"], "invalid value 'int4' for '--quantize <SCHEME>'");
    inspect(&int8, &["--int8-threshold", "5", "--int8-backward", "dequant"]);
    inspect(&int8, &["--quantize", "int8"]);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    used(&["merge", "--model", &model, "--out", out], "merge needs --adapter, --quantize, or both");
    let data = folder.path().join("data.jsonl");
    std::fs::write(&data, "{\"input_ids\": [1, 2, 3, 4]}\n").unwrap();
    let full = ["finetune", "--train", data.to_str().unwrap(), "--out", out, "--full"];
    let frozen = |scheme: &str| format!("--full trains all weights, and those in {scheme} are frozen");
    used(&[&full[..], &["--model", &model, "--quantize", "int8"]].concat(), &frozen("int8"));
    used(&[&full[..], &["--model", &nf4]].concat(), &frozen("nf4"));
    assert!(!std::path::Path::new(out).exists());
    let none =
        [&full[..], &["--model", &nf4, "--quantize", "none", "--validation-split-ratio", "0", "--json"]].concat();
    vicugna(&none).json();
}

#[test]
fn what_is_not_whole_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("quantized")).unwrap();
    let broken = copy("quantized/int8", folder.path());
    let weights = broken.join("model.safetensors");
    // The layout of the last module is the file's last byte.
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() = 2;
    std::fs::write(&weights, bytes).unwrap();
    let ran = vicugna(&[&["inspect", "--model", broken.to_str().unwrap()], &IDS[..]].concat());
    ran.refused(&format!(
        "{}: tensor model.layers.1.self_attn.v_proj.weight_format is 2 (col_turing), and only 0, row by row, is read: \
         save it again with bitsandbytes >= 0.45",
        weights.display()
    ));
    let nf4 = fixture("quantized/nf4");
    let ran = vicugna(&[&["inspect", "--model", &nf4, "--quantize", "int8"], &IDS[..]].concat());
    ran.refused(&format!("{nf4}: holds its weights in nf4, not int8"));
    let model = copy("gqa", folder.path());
    let config = std::fs::read_to_string(model.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["quantization_config"] = serde_json::json!({"quant_method": "gptq", "bits": 4});
    std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    let ran = vicugna(&[&["inspect", "--model", model.to_str().unwrap()], &IDS[..]].concat());
    let line = "quantization_config says that the weights are quantised by gptq: only bitsandbytes is read";
    ran.refused(&format!("{}: {line}", model.join("config.json").display()));
}
