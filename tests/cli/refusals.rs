//! Bad input gets one clear line.

use crate::command::{command, copy, fixture, vicugna};

#[test]
fn usage_errors_exit_with_2() {
    assert_eq!(vicugna(&["inspect"]).code, 2);
    assert_eq!(vicugna(&["generate", "--model", "x"]).code, 2);
    assert_eq!(vicugna(&["no-such-command"]).code, 2);
}

#[test]
fn token_ids_outside_the_vocabulary_are_named() {
    let ran = vicugna(&["inspect", "--model", &fixture("gqa"), "--input-ids", "1,99999"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("99999"), "{}", ran.stderr);
}

#[test]
fn labels_must_fit_the_ids() {
    let model = fixture("gqa");
    vicugna(&["inspect", "--model", &model, "--input-ids", "1,2", "--labels", "1"])
        .refused("batch: 2 input_ids, but 1 labels");
}

#[test]
fn a_bad_label_is_named_by_its_place() {
    let model = fixture("gqa");
    for (label, bad) in [("500", "500"), ("-3", "-3")] {
        let one = format!("1,{label},3");
        vicugna(&["inspect", "--model", &model, "--input-ids", "1,2,3", "--labels", &one])
            .refused(&format!("labels: label 1 of sequence 1 must be in 0..101 or -100, got {bad}"));
        let two = format!("-100,2,3,{label}");
        let batch = ["--input-ids", "1,2", "--input-ids", "1,2,3,4", "--labels", "-100,-100", "--labels", &two];
        vicugna(&[&["inspect", "--model", &model], &batch[..]].concat())
            .refused(&format!("labels: label 3 of sequence 2 must be in 0..101 or -100, got {bad}"));
    }
}

#[test]
fn a_truncated_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let broken = copy("mha", folder.path());
    let weights = broken.join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let ran = vicugna(&["inspect", "--model", broken.to_str().unwrap(), "--input-ids", "1,2"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.starts_with(&format!("error: {}: ", weights.display())), "{}", ran.stderr);
}

#[test]
fn a_config_that_contradicts_the_weights_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let broken = copy("mha", folder.path());
    let config = std::fs::read_to_string(broken.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["num_hidden_layers"] = 1.into();
    std::fs::write(broken.join("config.json"), config.to_string()).unwrap();
    let ran = vicugna(&["inspect", "--model", broken.to_str().unwrap(), "--input-ids", "1,2"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("model.layers.1."), "{}", ran.stderr);
}

#[test]
fn an_adapter_that_does_not_fit_is_refused() {
    let ran = vicugna(&[
        "inspect",
        "--model",
        &fixture("mha"),
        "--adapter",
        &fixture("lora_qv_rslora/adapter"),
        "--input-ids",
        "1,2",
    ]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("lora_"), "{}", ran.stderr);
}

#[test]
fn a_text_beyond_the_context_is_refused() {
    let ids = ["1"; 1025].join(",");
    let ran = vicugna(&["inspect", "--model", &fixture("mha"), "--input-ids", &ids]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("1025 tokens are more than the model's context of"), "{}", ran.stderr);
}

#[test]
fn an_adapter_and_a_model_in_each_others_place_are_told_apart() {
    let (model, adapter) = (fixture("lora"), fixture("lora/adapter"));
    let ran = vicugna(&["inspect", "--model", &adapter, "--input-ids", "1,2"]);
    ran.refused(&format!("{adapter}: holds none of model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json"));
    assert!(ran.stderr.contains("hint: this is an adapter"), "{}", ran.stderr);
    let ran = vicugna(&["inspect", "--model", &model, "--adapter", &model, "--input-ids", "1,2"]);
    ran.refused(&format!("{model}: holds no adapter_config.json"));
    assert!(ran.stderr.contains("hint: this is a model"), "{}", ran.stderr);
}

#[test]
fn numbers_out_of_range_are_named() {
    let model = fixture("gqa");
    let inspect = |args: &[&str]| vicugna(&[&["inspect", "--model", &model], args].concat());
    inspect(&["--input-ids", "-1,2"]).refused("--input-ids: \"-1\" is not a token id");
    // Starting them all takes minutes.
    inspect(&["--input-ids", "1,2", "--threads", "100000"]).refused("--threads: must be from 1 to 4096, got 100000");
    let ran = inspect(&["--input-ids", "1,2", "--threads", "-1"]);
    assert!(ran.code == 2 && ran.stderr.contains("invalid value '-1' for '--threads"), "{}", ran.stderr);
    let ran = vicugna(&["merge", "--model", &model, "--out", "x"]);
    assert!(ran.code == 2 && ran.stderr.contains("merge needs --adapter, --quantize, or both"), "{}", ran.stderr);
}

#[test]
fn a_loss_that_is_no_number_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy("gqa", folder.path());
    let weights = model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&weights, bytes).unwrap();
    let ran = vicugna(&["inspect", "--json", "--model", model.to_str().unwrap(), "--input-ids", "1,2"]);
    ran.refused("loss: is NaN");
    assert!(ran.stderr.contains("hint: a weight is not finite"), "{}", ran.stderr);
}

#[test]
fn two_results_do_not_share_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.safetensors");
    let file = file.to_str().unwrap();
    vicugna(&["inspect", "--model", &fixture("gqa"), "--input-ids", "1,2", "--logits", file, "--grads", file])
        .refused("--grads: is the file of --logits");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// `println!` and `eprintln!` panic where nobody reads.
#[test]
fn a_reader_that_has_gone_away_is_no_error() {
    let model = fixture("gguf_llama_spm/tiny.gguf");
    let gone = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let run = |model: &str, stdout: std::process::Stdio| {
        let args = ["generate", "--model", model, "--prompt", "a", "--max-new-tokens", "5"];
        command(&args).stdout(stdout).stderr(gone()).output().unwrap().status.code()
    };
    assert_eq!(run(&model, std::process::Stdio::piped()), Some(0));
    assert_eq!(run(&model, gone().into()), Some(0));
    assert_eq!(run("./none", std::process::Stdio::piped()), Some(1));
}

#[test]
fn data_that_is_no_text_is_named_with_its_cure() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("train.jsonl");
    let (model, path) = (fixture("gguf_llama_spm/tiny.gguf"), data.to_str().unwrap());
    let utf16: Vec<u8> = "\u{feff}{\"text\": \"a\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (content, says, way_out) in [
        (utf16.as_slice(), "is UTF-16 text", "hint: save it as UTF-8"),
        (b"\x1f\x8b\x08\0\0\0", "is compressed by gzip", "hint: unpack it: gunzip FILE"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the file itself", "git lfs pull"),
    ] {
        std::fs::write(&data, content).unwrap();
        let ran = vicugna(&["eval", "--model", &model, "--data", path]);
        ran.refused(&format!("{path}: {says}"));
        assert!(ran.stderr.contains(way_out), "{}", ran.stderr);
    }
}

#[test]
fn misspelt_folders_are_told_before_any_network() {
    let folder = tempfile::tempdir().unwrap();
    copy("gqa", folder.path());
    let ran = |args: &[&str]| {
        let mut command = command(args);
        command.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", "http://127.0.0.1:9");
        let output = command.env("HF_HOME", folder.path().join("hub")).current_dir(&folder).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    std::fs::create_dir(folder.path().join("models")).unwrap();
    std::fs::rename(folder.path().join("gqa"), folder.path().join("models/gqa-tiny")).unwrap();
    let inspect = |model: &str| ran(&["inspect", "--model", model, "--input-ids", "1,2"]);
    for (typed, says) in [
        ("models/gqa-tyni", "error: models/gqa-tyni: no such folder\nhint: did you mean models/gqa-tiny? "),
        (
            "./models/gqa-tyni",
            "error: ./models/gqa-tyni: no such file or folder\nhint: did you mean ./models/gqa-tiny?",
        ),
        ("~/gqa", "error: ~/gqa: no such file or folder\nhint: a shell replaces ~ only outside of quotes: write "),
        ("some/model", "error: some/model@main: http://127.0.0.1:9 cannot be reached"),
    ] {
        let stderr = inspect(typed);
        assert!(stderr.starts_with(says), "{typed}: {stderr}");
    }
    assert!(inspect("some/model").contains("; nor is there a folder some/model here\n"));
    let stderr = ran(&["inspect", "--model", "models/gqa-tiny", "--adapter", "models/none/x", "--input-ids", "1,2"]);
    assert!(stderr.starts_with("error: models/none/x: no such file or folder\n"), "{stderr}");
    let finetune = ["finetune", "--model", "models/gqa-tiny", "--train"];
    let stderr = ran(&[&finetune[..], &["model", "--out", "out"]].concat());
    assert!(stderr.contains("error: model: No such file") && stderr.contains("did you mean models?"), "{stderr}");
    std::fs::write(folder.path().join("a.jsonl"), "{\"input_ids\": [1, 2]}\n").unwrap();
    let stderr = ran(&[&finetune[..], &["a.jsonl", "--out", "~/out"]].concat());
    assert!(stderr.contains("error: ~/out: begins with ~, which is no folder\nhint: "), "{stderr}");
    assert!(!folder.path().join("~").exists());
}

#[test]
fn what_a_file_was_taken_for_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("a.csv");
    std::fs::write(&data, "\u{feff}Instruction;Context;Response;Id\r\nSay it;;late;7\r\n").unwrap();
    let model = fixture("gguf_llama_spm/tiny.gguf");
    let ran = vicugna(&["eval", "--model", &model, "--data", data.to_str().unwrap(), "--json"]);
    ran.json();
    let told = "\nread as Dolly records, separated by ;\nfields not read: Id\n\
        fields read whatever their capitals: Instruction, Context, Response\n";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
}

/// Editors on Windows put one before what a person writes.
#[test]
fn a_byte_order_mark_is_passed_over_in_every_file() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("\u{feff}{text}")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let model = fixture("gguf_llama_spm/tiny.gguf");
    let generate = |option: &str, value: &str| {
        let args = ["generate", "--model", &model, option, value, "--max-new-tokens", "3", "--json"];
        vicugna(&args).json()["token_ids"].clone()
    };
    assert_eq!(generate("--prompt-file", &write("prompt.txt", "the quick")), generate("--prompt", "the quick"));
    let train = write("train.csv", "text\nthe quick brown fox\n");
    let out = folder.path().join("out");
    let config =
        format!("model = {model:?}\ntrain = {train:?}\nout = {out:?}\nmax_steps = 1\nvalidation_split_ratio = 0\n");
    let config = write("run.toml", &config);
    vicugna(&["finetune", "--json", "--config", &config]).json();
    let adapter = out.join("adapter_config.json");
    let text = std::fs::read_to_string(&adapter).unwrap();
    write("out/adapter_config.json", &text);
    let args = ["eval", "--model", &model, "--adapter", out.to_str().unwrap(), "--data", &train, "--json"];
    vicugna(&args).json();
}
