use crate::command::{fixture, vicugna};

#[test]
fn prints_loss_argmax_and_gradient_norms() {
    let model = fixture("gqa");
    let folder = tempfile::tempdir().unwrap();
    let (logits, grads) = (folder.path().join("l.safetensors"), folder.path().join("g.safetensors"));
    let ran = vicugna(&[
        "inspect",
        "--model",
        &model,
        "--input-ids",
        "1,2,3,4",
        "--labels",
        "-100,2,3,4",
        "--json",
        "--logits",
        logits.to_str().unwrap(),
        "--grads",
        grads.to_str().unwrap(),
    ]);
    let json = ran.json();
    assert!(json["loss"].as_f64().unwrap() > 0.0);
    assert_eq!(json["argmax"].as_array().unwrap().len(), 4);
    assert!(json["grad_norms"]["model.layers.0.self_attn.q_proj.weight"].as_f64().unwrap() > 0.0);
    let bytes = std::fs::read(&logits).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("logits").unwrap().shape()[0], 4);
    let bytes = std::fs::read(&grads).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), json["grad_norms"].as_object().unwrap().len());
}

#[test]
fn a_batch_is_the_mean_over_all_its_supervised_tokens() {
    let model = fixture("mha");
    let loss = |args: &[&str]| {
        let all = [&["inspect", "--model", &model, "--json"], args].concat();
        vicugna(&all).json()["loss"].as_f64().unwrap()
    };
    let one = loss(&["--input-ids", "5,6,7,8"]);
    let other = loss(&["--input-ids", "9,10"]);
    let both = loss(&["--input-ids", "5,6,7,8", "--input-ids", "9,10"]);
    assert!((both - (3.0 * one + other) / 4.0).abs() < 1e-5, "{one} {other} {both}");
}

#[test]
fn with_an_adapter_only_its_gradients_are_given() {
    let (model, adapter) = (fixture("lora"), fixture("lora/adapter"));
    let json = vicugna(&["inspect", "--model", &model, "--adapter", &adapter, "--input-ids", "1,2,3", "--json"]).json();
    let norms = json["grad_norms"].as_object().unwrap();
    assert!(norms.keys().all(|name| name.starts_with("base_model.model.model.layers.")), "{norms:?}");
    assert!(norms.contains_key("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"));
}

/// Without a label there is no loss: logits are what is asked for.
#[test]
fn tokens_without_labels_have_logits_and_no_loss() {
    let model = fixture("gqa");
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let logits = |name: &str, args: &[&str]| {
        let file = place(name);
        let ran = vicugna(&[&["inspect", "--model", &model, "--json", "--logits", &file], args].concat()).json();
        let bytes = std::fs::read(&file).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        (ran, tensors.tensor("logits").unwrap().data().to_vec())
    };
    let (labelled, wanted) = logits("labelled", &["--input-ids", "1,2,3"]);
    assert!(labelled["loss"].as_f64().unwrap() > 0.0);
    for (name, args) in [
        ("one", &["--input-ids", "1"][..]),
        ("masked", &["--input-ids", "1,2,3", "--labels=-100,-100,-100"]),
        ("first", &["--input-ids", "1,2,3", "--labels=1,-100,-100"]),
        ("batch", &["--input-ids", "1", "--input-ids", "2"]),
    ] {
        let (json, found) = logits(name, args);
        assert!(json["loss"].is_null() && json.as_object().unwrap().contains_key("loss"), "{json}");
        assert_eq!(json["grad_norms"], serde_json::json!({}));
        assert_eq!(json["argmax"][0], labelled["argmax"][0]);
        let row = wanted.len() / 3;
        assert!(found[..row] == wanted[..row], "{name}: the first token's logits differ");
    }
    let ran = vicugna(&["inspect", "--model", &model, "--input-ids", "1"]);
    assert!(
        ran.code == 0 && ran.stdout.starts_with("loss: none, as no token has a label\nargmax: ["),
        "{}",
        ran.stdout
    );
    let grads = place("grads");
    vicugna(&["inspect", "--model", &model, "--input-ids", "1", "--grads", &grads])
        .refused("--grads: no token has a label, so that there is no loss and no gradient");
}

#[test]
fn gradients_of_whole_weights_have_pefts_names() {
    let (model, adapter) = (fixture("lora_saved"), fixture("lora_saved/adapter"));
    // Token 66 is the adapter's alone.
    let json =
        vicugna(&["inspect", "--model", &model, "--adapter", &adapter, "--input-ids", "1,66,3", "--json"]).json();
    let norms = json["grad_norms"].as_object().unwrap();
    for name in ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"] {
        assert!(norms[&format!("base_model.model.{name}")].as_f64().unwrap() > 0.0, "{name}");
    }
    assert!(norms.keys().all(|name| name.starts_with("base_model.model.")) && norms.len() == 11, "{norms:?}");
}
