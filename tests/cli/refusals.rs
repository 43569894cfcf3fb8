//! Bad input gets one clear line.

use crate::command::{copy, fixture, vicugna};

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
    vicugna(&["inspect", "--model", &model, "--input-ids", "1,2", "--labels", "-100,-100"])
        .refused("--labels: no token has a label that the model can be asked for");
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
fn numbers_that_cannot_be_are_named() {
    let model = fixture("mha");
    let ran = vicugna(&["inspect", "--model", &model, "--input-ids", "-1,2"]);
    ran.refused("--input-ids: \"-1\" is not a token id");
    let ran = vicugna(&["inspect", "--model", &model, "--input-ids", "1,2", "--threads", "100000"]);
    ran.refused("--threads: must be from 1 to 4096, got 100000");
}

#[test]
fn one_file_cannot_hold_logits_and_gradients() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f.safetensors");
    let file = file.to_str().unwrap();
    let model = fixture("mha");
    vicugna(&["inspect", "--model", &model, "--input-ids", "1,2", "--logits", file, "--grads", file])
        .refused("--grads: is the file of --logits");
}
