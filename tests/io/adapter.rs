use std::path::Path;

use half::{bf16, f16};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Result;
use vicugna::io::WeightSource;
use vicugna::io::adapter::{Adapter, AdapterConfig, CONFIG, Modules, WEIGHTS};
use vicugna::io::config::read_config;
use vicugna::io::safetensors::{Checkpoint, write_tensors};
use vicugna::models::llama::LlamaConfig;

use crate::files::{assert_refused, copy_of, fixture, load, safetensors, set};

const PREFIX: &str = "base_model.model.model.layers";
const BASE_HINT: &str = r#"the adapter was made for base model "lora": is this one like it?"#;

fn model() -> LlamaConfig {
    read_config(&fixture("lora")).unwrap()
}

fn read(folder: &Path) -> Result<Adapter> {
    Adapter::read(folder, &model())
}

#[track_caller]
fn assert_same_tensors(found: &Adapter, exact: &Adapter) {
    assert_eq!(found.tensors.keys().collect::<Vec<_>>(), exact.tensors.keys().collect::<Vec<_>>());
    for ((module, found), exact) in found.tensors.iter().zip(exact.tensors.values()) {
        let values = |tensor: &Tensor| tensor.to_vec::<f32>().unwrap();
        assert_eq!([values(&found.0), values(&found.1)], [values(&exact.0), values(&exact.1)], "{module}");
    }
}

#[track_caller]
fn refused(folder: &TempDir, message: &str, hint: Option<&str>) {
    assert_refused(read(folder.path()), folder.path(), message, hint);
}

/// The adapter of a fixture with one key of its config changed.
fn changed(key: &str, value: Value) -> TempDir {
    let folder = copy_of("lora/adapter");
    set(&folder.path().join(CONFIG), key, value);
    folder
}

/// The adapter of a fixture with its tensors changed.
fn with_tensors(change: impl FnOnce(&mut std::collections::BTreeMap<String, Tensor>)) -> TempDir {
    let folder = copy_of("lora/adapter");
    let path = folder.path().join(WEIGHTS);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let mut tensors = checkpoint.names().into_iter().map(|name| (name.clone(), load(&checkpoint, &name))).collect();
    change(&mut tensors);
    write_tensors(&path, &tensors).unwrap();
    folder
}

#[test]
fn pefts_adapters_are_read() {
    let adapter = read(&fixture("lora/adapter")).unwrap();
    assert_eq!(adapter.tensors.len(), 14);
    let (a, b) = &adapter.tensors["model.layers.1.mlp.down_proj"];
    assert_eq!((a.dims(), b.dims()), ([4, 88].as_slice(), [32, 4].as_slice()));
    assert_eq!(adapter.config.scaling("model.layers.1.mlp.down_proj").unwrap(), 2.0);
    let folder = fixture("lora_qv_rslora");
    let adapter = Adapter::read(&folder.join("adapter"), &read_config(&folder).unwrap()).unwrap();
    assert_eq!(adapter.config.scaling("model.layers.0.self_attn.q_proj").unwrap(), 32.0 / 8f64.sqrt());
    assert!(adapter.tensors.keys().all(|module| module.ends_with("q_proj") || module.ends_with("v_proj")));
}

#[test]
fn adapters_are_written_byte_for_byte_as_peft_writes_them() {
    for name in ["lora", "lora_qv_rslora"] {
        let original = fixture(name).join("adapter");
        let adapter = Adapter::read(&original, &read_config(&fixture(name)).unwrap()).unwrap();
        let folder = TempDir::new().unwrap();
        adapter.write(folder.path()).unwrap();
        for file in [CONFIG, WEIGHTS] {
            let [ours, theirs] = [folder.path(), &original].map(|folder| std::fs::read(folder.join(file)).unwrap());
            // The fixture's config was given an end of line.
            assert!(
                ours.trim_ascii_end() == theirs.trim_ascii_end(),
                "{name}/{file}:\n{}",
                String::from_utf8_lossy(&ours)
            );
        }
    }
}

#[test]
fn what_is_written_is_read_back() {
    let config = AdapterConfig {
        r: 3,
        lora_alpha: 4.5,
        lora_dropout: 0.05,
        use_rslora: true,
        target_modules: Modules::Pattern(r".*\.(q|down)_proj".into()),
        exclude_modules: Some(Modules::Names(vec!["layers.0.mlp.down_proj".into()])),
        layers_to_transform: None,
        layers_pattern: None,
        rank_pattern: [("1.self_attn.q_proj".to_string(), 5)].into(),
        alpha_pattern: [("down_proj".to_string(), 6.0)].into(),
        base_model_name_or_path: Some("somewhere".into()),
        ..AdapterConfig::default()
    };
    let modules = config.modules(&model()).unwrap();
    let names: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
    let attention = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"];
    assert_eq!(names, [attention[0], attention[1], "model.layers.1.mlp.down_proj"]);
    let tensors = modules.iter().map(|(module, shape)| {
        let (r, dims) = (config.rank(module).unwrap(), shape.dims());
        let pair = [[r, dims[1]], [dims[0], r]].map(|shape| Tensor::zeros(&Device::Cpu, DType::F32, shape).unwrap());
        (module.clone(), pair.into())
    });
    let adapter = Adapter { tensors: tensors.collect(), config, ..Adapter::default() };
    let folder = TempDir::new().unwrap();
    adapter.write(folder.path()).unwrap();
    let found = read(folder.path()).unwrap();
    assert_eq!(found.config, adapter.config);
    assert_eq!(found.tensors.keys().collect::<Vec<_>>(), adapter.tensors.keys().collect::<Vec<_>>());
    assert_eq!(found.tensors[attention[1]].0.dims(), [5, 32]);
    assert_eq!(found.config.scaling(attention[1]).unwrap(), 4.5 / 5f64.sqrt());
    assert_eq!(found.config.scaling("model.layers.1.mlp.down_proj").unwrap(), 6.0 / 3f64.sqrt());
}

#[test]
fn modules_are_chosen_as_peft_chooses_them() {
    let count = |config: AdapterConfig| config.modules(&model()).map_or(0, |modules| modules.len());
    let names = |names: &[&str]| Modules::Names(names.iter().map(|name| name.to_string()).collect());
    let of = |target_modules| count(AdapterConfig { target_modules, ..AdapterConfig::default() });
    assert_eq!(count(AdapterConfig::default()), 4);
    assert_eq!(of(names(&["q_proj", "k_proj", "absent"])), 4);
    assert_eq!(of(names(&["model.layers.1.self_attn.q_proj"])), 1);
    assert_eq!(of(names(&["1.self_attn.q_proj"])), 1);
    assert_eq!(of(names(&["proj"])), 0); // an end, but not after a dot
    assert_eq!(of(Modules::Pattern("All-Linear".into())), 14);
    assert_eq!(of(Modules::Pattern("q_proj".into())), 0); // a pattern is of the whole path
    assert_eq!(of(Modules::Pattern(r"model\.layers\.\d\.mlp\..*".into())), 6);
    let layers = |layers: &[usize], pattern: Option<&str>| {
        count(AdapterConfig {
            layers_to_transform: Some(layers.to_vec()),
            layers_pattern: pattern.map(|pattern| vec![pattern.into()]),
            ..AdapterConfig::default()
        })
    };
    assert_eq!((layers(&[1], None), layers(&[], None), layers(&[1, 7], None), layers(&[7], None)), (2, 4, 2, 0));
    assert_eq!((layers(&[1], Some("layers")), layers(&[1], Some("h"))), (2, 0));
    assert_eq!(layers(&[1], Some("(?!h)[a-z]+(?<=s)")), 2);

    // Look-around and references back, which Python's regular expressions have.
    assert_eq!(of(Modules::Pattern(r"^(?!.*mlp).*_proj".into())), 8);
    assert_eq!(of(Modules::Pattern(r".*(?<=self_attn\.)[qv]_proj".into())), 4);
    assert_eq!(of(Modules::Pattern(r"model\.layers\.(?P<i>\d)\.(?!mlp)\w+\.[kv]_proj".into())), 4);
    assert_eq!(of(Modules::Pattern(r".*\.(\w)\w*_attn\.(?!\1).*_proj".into())), 8);

    // PEFT holds a name that is the whole path to no list of layers.
    let whole = names(&["model.layers.0.self_attn.q_proj", "v_proj"]);
    assert_eq!(
        count(AdapterConfig { target_modules: whole, layers_to_transform: Some(vec![1]), ..AdapterConfig::default() }),
        2
    );
}

#[test]
fn other_spellings_of_the_config_are_read() {
    // Only peft_type is required, what is inert is passed over.
    let folder = copy_of("lora_qv_rslora/adapter");
    let minimal = json!({"peft_type": "LORA", "lora_alpha": 32.0, "use_rslora": true, "somebody_elses_key": [1]});
    std::fs::write(folder.path().join(CONFIG), minimal.to_string()).unwrap();
    let base = read_config(&fixture("lora_qv_rslora")).unwrap();
    let adapter = Adapter::read(folder.path(), &base).unwrap();
    assert_eq!(adapter.config.scaling("model.layers.0.self_attn.q_proj").unwrap(), 32.0 / 8f64.sqrt());
    for (key, value) in [
        ("base_model_name_or_path", json!("/no/such/place")),
        ("base_model_name_or_path", json!(null)),
        ("target_modules", json!("all-linear")),
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!(false)),
        ("modules_to_save", json!([])),
        ("inference_mode", json!(false)),
        ("revision", json!("main")),
        ("megatron_core", json!(null)),
        ("rank_pattern", json!(null)),
    ] {
        read(changed(key, value).path()).unwrap_or_else(|e| panic!("{key}: {e}"));
    }
}

#[test]
fn keys_that_change_nothing_pass_with_a_note() {
    for (key, value, note) in [
        ("fan_in_fan_out", json!(true), "fan_in_fan_out is true, and counts for nothing: Llama's layers are no Conv1D"),
        ("bias", json!("all"), "bias is \"all\", and counts for nothing: the adapter has no biases"),
        ("bias", json!("lora_only"), "bias is \"lora_only\", and counts for nothing: the adapter has no biases"),
        ("lora_bias", json!(true), "lora_bias is true, and counts for nothing: the adapter has no biases"),
    ] {
        let folder = changed(key, value);
        let adapter = read(folder.path()).unwrap();
        assert_eq!(adapter.notes, [note]);
        let exact = read(&fixture("lora/adapter")).unwrap();
        assert!(exact.notes.is_empty());
        assert_same_tensors(&adapter, &exact);
        assert_eq!(adapter.config, exact.config);
    }
}

#[test]
fn what_changes_the_math_is_refused() {
    const MERGE: &str = "merge it with PEFT's merge_and_unload, and use the merged model";
    const ALONE: &str = "it cannot be merged: PEFT alone runs it";
    for (key, value, shown, hint) in [
        ("use_dora", json!(true), "true", MERGE),
        ("trainable_token_indices", json!([1, 2]), "[1,2]", MERGE),
        ("target_parameters", json!(["mlp.weight"]), "[\"mlp.weight\"]", MERGE),
        ("layer_replication", json!([[0, 1]]), "[[0,1]]", MERGE),
        ("alora_invocation_tokens", json!([7]), "[7]", ALONE),
        ("kasa_config", json!({"beta": 1}), "{\"beta\":1}", MERGE),
    ] {
        refused(&changed(key, value), &format!("{CONFIG}: {key} is {shown}, which is not supported"), Some(hint));
    }
    let method = |name: &str| format!("{CONFIG}: peft_type must be \"LORA\", got {name}");
    refused(&changed("peft_type", json!("IA3")), &method("\"IA3\""), Some(MERGE));
    refused(&changed("peft_type", json!("P_TUNING")), &method("\"P_TUNING\""), Some(ALONE));
    refused(&changed("peft_type", json!(null)), &method("null"), None);
    let message = "bias must be \"none\", \"all\" or \"lora_only\", got \"some\"";
    refused(&changed("bias", json!("some")), &format!("{CONFIG}: {message}"), None);
    let message = "init_lora_weights is \"pissa_niter_4\", which changes the base model as well";
    let hint = "save it with PEFT's path_initial_model_for_weight_conversion, which makes it a plain LoRA";
    refused(&changed("init_lora_weights", json!("pissa_niter_4")), &format!("{CONFIG}: {message}"), Some(hint));
}

/// What PEFT's `get_pattern_key` does with keys in this order.
#[test]
fn the_first_pattern_of_the_file_counts() {
    let (module, other) = ("model.layers.1.self_attn.q_proj", "model.layers.0.mlp.down_proj");
    for (keys, scaling) in [
        (["q_proj", "1.self_attn.q_proj"], 7.0 / 4.0),
        (["1.self_attn.q_proj", "q_proj"], 5.0 / 4.0),
        ([r"layers\.1\..*", "q_proj"], 5.0 / 4.0),
        (["proj", "q_proj"], 7.0 / 4.0), // an end, but not after a dot
        ([r"^(?!.*mlp).*", "q_proj"], 5.0 / 4.0),
        ([r"self_attn\.(?=q).*", "q_proj"], 5.0 / 4.0),
    ] {
        let alphas = keys.iter().map(|key| format!("{key:?}: {}", if *key == "q_proj" { 7 } else { 5 }));
        let folder = changed("alpha_pattern", json!(null));
        let path = folder.path().join(CONFIG);
        let text = std::fs::read_to_string(&path).unwrap();
        let pattern = format!("\"alpha_pattern\":{{{}}}", alphas.collect::<Vec<_>>().join(","));
        std::fs::write(&path, text.replace("\"alpha_pattern\":null", &pattern)).unwrap();
        let adapter = read(folder.path()).unwrap();
        assert_eq!(adapter.config.scaling(module).unwrap(), scaling, "{keys:?}");
        assert_eq!(adapter.config.scaling(other).unwrap(), 2.0, "{keys:?}");
        adapter.write(folder.path()).unwrap();
        let again = read(folder.path()).unwrap();
        assert_eq!(again.config.alpha_pattern.keys().collect::<Vec<_>>(), keys, "written in another order");
    }
}

#[test]
fn nonsense_in_the_config_is_refused() {
    let message = format!("{CONFIG}: r: must be at least 1 in model.layers.0.self_attn.q_proj");
    refused(&changed("r", json!(0)), &message, None);
    refused(&changed("r", json!("4")), &format!("{CONFIG}: r must be a whole number, got \"4\""), None);
    let message = format!("{CONFIG}: lora_dropout must be at least 0 and below 1, got 1.5");
    refused(&changed("lora_dropout", json!(1.5)), &message, None);
    let message = format!("{CONFIG}: rank_pattern must be an object of whole numbers, got {{\"q_proj\":\"x\"}}");
    refused(&changed("rank_pattern", json!({"q_proj": "x"})), &message, None);
    let message = format!("{CONFIG}: alpha_pattern: \"(q\" is not a regular expression");
    refused(&changed("alpha_pattern", json!({"(q": 1})), &message, None);
    let endless = r"(?=(\w+\.?)+$)(\w+\.?)+!";
    let error = read(changed("target_modules", json!(endless)).path()).unwrap_err();
    let (message, hint) = (error.to_string(), error.hint());
    assert!(message.contains("target_modules: ") && message.contains("takes too many steps to match"), "{message}");
    assert_eq!(hint, Some("write it without one repetition inside another"));
    let message = format!("{CONFIG}: lora_alpha: ");
    let error = read(changed("lora_alpha", json!(1e308)).path()).unwrap_err().to_string();
    assert!(error.contains(&message) && error.ends_with("by more than a number can hold"), "{error}");
    let message = format!("{CONFIG}: target_modules: [\"c_attn\"] matches no linear layer of the model");
    let hint = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj and lm_head can have one";
    refused(&changed("target_modules", json!(["c_attn"])), &message, Some(hint));
    let merge = "if it has one, merge it with PEFT's merge_and_unload, and use the merged model";
    let message = |module| format!("{CONFIG}: target_modules: {module} cannot have an adapter; {merge}");
    refused(&changed("target_modules", json!(["q_proj", "embed_tokens"])), &message("model.embed_tokens"), Some(hint));
    refused(&changed("target_modules", json!(["q_proj", "model.norm"])), &message("model.norm"), Some(hint));
    refused(&changed("target_modules", json!(".*")), &message("model.embed_tokens"), Some(hint));
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let q_b = format!("{PREFIX}.0.self_attn.q_proj.lora_B.weight");
    let missing = with_tensors(|tensors| drop(tensors.remove(&q_b)));
    let hint = format!("it has others of model.layers.0: is it whole, and {CONFIG} the one beside it?");
    refused(&missing, &format!("{WEIGHTS}: has no tensor {q_b}"), Some(&hint));
    let wrong = with_tensors(|tensors| {
        tensors.insert(q_b.clone(), Tensor::zeros(&Device::Cpu, DType::F32, [31, 4]).unwrap());
    });
    refused(&wrong, &format!("{WEIGHTS}: tensor {q_b} must be [32, 4], got [31, 4]"), Some(BASE_HINT));
    let q_a = format!("{PREFIX}.0.self_attn.q_proj.lora_A.weight");
    let message = format!("{WEIGHTS}: tensor {q_a} must be [8, 32], got [4, 32]");
    refused(&changed("r", json!(8)), &message, Some(BASE_HINT));
    let message = |name: &str| format!("{WEIGHTS}: {CONFIG} and the base model have no place for tensor {name}");
    let foreign = "it is no part of a plain LoRA, which PEFT alone runs: merge it with PEFT's merge_and_unload, and use the \
        merged model";
    let extra = |name: &str| {
        with_tensors(|tensors| {
            drop(tensors.insert(name.into(), Tensor::zeros(&Device::Cpu, DType::F32, [32]).unwrap()))
        })
    };
    for name in ["0.self_attn.q_proj.lora_magnitude_vector", "0.self_attn.q_proj.lora_B.bias", "0.mlp.lora_A"] {
        let name = format!("{PREFIX}.{name}");
        refused(&extra(&name), &message(&name), Some(foreign));
    }
    let bias = format!("{PREFIX}.0.self_attn.q_proj.bias");
    refused(&extra(&bias), &message(&bias), Some(BASE_HINT));
    let untargeted = format!("{PREFIX}.0.mlp.down_proj.lora_A.weight");
    let chosen = changed("target_modules", json!(["q_proj"]));
    refused(&chosen, &message(&untargeted), Some("target_modules does not choose its module"));
    let (folder, beyond) = (fixture("lora/adapter"), message(&format!("{PREFIX}.1.mlp.down_proj.lora_A.weight")));
    let bases = LlamaConfig { num_hidden_layers: 1, ..model() };
    assert_refused(Adapter::read(&folder, &bases), &folder, &beyond, Some(BASE_HINT));
    let bases = LlamaConfig { num_hidden_layers: 3, ..model() };
    let beyond = format!("{WEIGHTS}: has no tensor {PREFIX}.2.self_attn.q_proj.lora_A.weight");
    assert_refused(Adapter::read(&folder, &bases), &folder, &beyond, Some(BASE_HINT));
}

/// The fixture's adapter with other names.
fn renamed(rename: impl Fn(&str) -> String) -> TempDir {
    with_tensors(|tensors| {
        *tensors = std::mem::take(tensors).into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
    })
}

#[test]
fn names_that_do_not_come_from_peft_are_shown() {
    let folder = renamed(|name| name.replace("lora_A.weight", "lora_a").replace("lora_B.weight", "lora_b"));
    let message = format!("{WEIGHTS}: has no tensor {PREFIX}.0.self_attn.q_proj.lora_A.weight");
    let hint = format!("it has {PREFIX}.0.mlp.down_proj.lora_a: give the tensors the names that PEFT gives them");
    refused(&folder, &message, Some(&hint));
    let folder = renamed(|name| name.replace("base_model.model.model", "base_model.model.vision_model"));
    let found = "base_model.model.vision_model.layers.0.mlp.down_proj.lora_A.weight";
    let hint = format!("it has {found}: give the tensors the names that PEFT gives them");
    refused(&folder, &message, Some(&hint));

    let q = format!("{PREFIX}.0.self_attn.q_proj.lora_A");
    let twice = with_tensors(|tensors| {
        tensors.insert(format!("{q}.other.weight"), Tensor::zeros(&Device::Cpu, DType::F32, [4, 32]).unwrap());
    });
    let place = "model.layers.0.self_attn.q_proj.lora_A.weight";
    let message = format!("{WEIGHTS}: tensors {q}.other.weight and {q}.weight are for one place, {place}");
    refused(&twice, &message, Some("keep the one that counts"));
}

#[test]
fn other_names_and_dtypes_of_the_tensors_are_read() {
    let exact = read(&fixture("lora/adapter")).unwrap();
    let renames: [fn(&str) -> String; 7] = [
        |name| name.replace("lora_A.weight", "lora_A.default.weight"),
        |name| name.replace(".weight", ".my_adapter.weight"),
        |name| name.replace("base_model.model.model", "base_model.model._orig_mod.model"),
        |name| format!("_orig_mod.{name}"),
        |name| name.replace("base_model.model.", ""),
        |name| name.replace("base_model.model.", "base_model.model.model."),
        |name| format!("module.{name}"),
    ];
    for rename in renames {
        let folder = renamed(rename);
        assert_same_tensors(&read(folder.path()).unwrap(), &exact);
    }
    for dtype in ["BF16", "F16"] {
        let folder = copy_of("lora/adapter");
        std::fs::write(folder.path().join(WEIGHTS), stored_as(dtype)).unwrap();
        let found = read(folder.path()).unwrap();
        for (module, (a, _)) in &exact.tensors {
            let rounded = a.slice::<f32>().unwrap().iter().map(|&v| narrow(v, dtype).1).collect::<Vec<f32>>();
            assert_eq!(found.tensors[module].0.slice::<f32>().unwrap(), rounded, "{module} {dtype}");
        }
    }
}

/// The bits of a value in a narrower dtype, and what they stand for.
fn narrow(value: f32, dtype: &str) -> ([u8; 2], f32) {
    match dtype {
        "BF16" => (bf16::from_f32(value).to_le_bytes(), bf16::from_f32(value).to_f32()),
        _ => (f16::from_f32(value).to_le_bytes(), f16::from_f32(value).to_f32()),
    }
}

/// The fixture's weights as a file of another dtype.
fn stored_as(dtype: &str) -> Vec<u8> {
    let checkpoint = Checkpoint::open(&fixture("lora/adapter").join(WEIGHTS)).unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for name in checkpoint.names() {
        let (tensor, start) = (load(&checkpoint, &name), data.len());
        data.extend(tensor.slice::<f32>().unwrap().iter().flat_map(|&v| narrow(v, dtype).0));
        header.insert(name, json!({"dtype": dtype, "shape": tensor.dims(), "data_offsets": [start, data.len()]}));
    }
    safetensors(&Value::from(header).to_string(), &data)
}

#[test]
fn absent_and_misnamed_files_are_refused() {
    let folder = copy_of("lora/adapter");
    std::fs::rename(folder.path().join(WEIGHTS), folder.path().join("adapter_model.bin")).unwrap();
    let message = "adapter_model.bin: is a safetensors file under another name";
    refused(&folder, message, Some("name it *.safetensors"));
    std::fs::remove_file(folder.path().join("adapter_model.bin")).unwrap();
    refused(&folder, &format!("{WEIGHTS}: there is no such file or folder"), None);
    std::fs::remove_file(folder.path().join(CONFIG)).unwrap();
    let error = read(folder.path()).unwrap_err();
    assert!(error.to_string().ends_with(&format!(": holds no {CONFIG}")), "{error}");
}

proptest! {
    #[test]
    fn a_truncated_adapter_is_refused(share in 0.0..1.0) {
        let folder = copy_of("lora/adapter");
        let path = folder.path().join(WEIGHTS);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..(whole.len() as f64 * share) as usize]).unwrap();
        let error = read(folder.path()).unwrap_err();
        prop_assert!(error.to_string().contains("adapter_model.safetensors: truncated"), "{}", error);
    }

    #[test]
    fn a_spoilt_config_does_not_panic(at in 0..1000usize, byte: u8) {
        let folder = copy_of("lora/adapter");
        let path = folder.path().join(CONFIG);
        let mut spoilt = std::fs::read(&path).unwrap();
        let at = at % spoilt.len();
        spoilt[at] = byte;
        std::fs::write(&path, spoilt).unwrap();
        let _ = read(folder.path());
    }
}
