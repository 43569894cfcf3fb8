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
    Adapter::read(folder, &model(), &Device::Cpu)
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
    let adapter = Adapter::read(&folder.join("adapter"), &read_config(&folder).unwrap(), &Device::Cpu).unwrap();
    assert_eq!(adapter.config.scaling("model.layers.0.self_attn.q_proj").unwrap(), 32.0 / 8f64.sqrt());
    assert!(adapter.tensors.keys().all(|module| module.ends_with("q_proj") || module.ends_with("v_proj")));
}

#[test]
fn adapters_are_written_byte_for_byte_as_peft_writes_them() {
    for name in ["lora", "lora_qv_rslora"] {
        let original = fixture(name).join("adapter");
        let adapter = Adapter::read(&original, &read_config(&fixture(name)).unwrap(), &Device::Cpu).unwrap();
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
    let adapter = Adapter { tensors: tensors.collect(), config };
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
}

#[test]
fn other_spellings_of_the_config_are_read() {
    // Only peft_type is required, what is inert is passed over.
    let folder = copy_of("lora_qv_rslora/adapter");
    let minimal = json!({"peft_type": "LORA", "lora_alpha": 32.0, "use_rslora": true, "somebody_elses_key": [1]});
    std::fs::write(folder.path().join(CONFIG), minimal.to_string()).unwrap();
    let base = read_config(&fixture("lora_qv_rslora")).unwrap();
    let adapter = Adapter::read(folder.path(), &base, &Device::Cpu).unwrap();
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
fn what_changes_the_math_is_refused() {
    for (key, value, shown) in [
        ("use_dora", json!(true), "true"),
        ("bias", json!("all"), "\"all\""),
        ("lora_bias", json!(true), "true"),
        ("modules_to_save", json!(["lm_head"]), "[\"lm_head\"]"),
        ("fan_in_fan_out", json!(true), "true"),
        ("trainable_token_indices", json!([1, 2]), "[1,2]"),
        ("layer_replication", json!([[0, 1]]), "[[0,1]]"),
        ("alora_invocation_tokens", json!([7]), "[7]"),
        ("kasa_config", json!({"beta": 1}), "{\"beta\":1}"),
    ] {
        refused(&changed(key, value), &format!("{CONFIG}: {key} is {shown}, which is not supported"), None);
    }
    refused(&changed("peft_type", json!("IA3")), &format!("{CONFIG}: peft_type must be \"LORA\", got \"IA3\""), None);
    refused(&changed("peft_type", json!(null)), &format!("{CONFIG}: peft_type must be \"LORA\", got null"), None);
    let message = "init_lora_weights is \"pissa_niter_4\", which changes the base model as well";
    let hint = "save it with PEFT's path_initial_model_for_weight_conversion, which makes it a plain LoRA";
    refused(&changed("init_lora_weights", json!("pissa_niter_4")), &format!("{CONFIG}: {message}"), Some(hint));
}

#[test]
fn nonsense_in_the_config_is_refused() {
    refused(&changed("r", json!(0)), &format!("{CONFIG}: r must be at least 1"), None);
    refused(&changed("r", json!("4")), &format!("{CONFIG}: r must be a whole number, got \"4\""), None);
    let message = format!("{CONFIG}: lora_dropout must be at least 0 and below 1, got 1.5");
    refused(&changed("lora_dropout", json!(1.5)), &message, None);
    let message = format!("{CONFIG}: rank_pattern must be an object of whole numbers, got {{\"q_proj\":\"x\"}}");
    refused(&changed("rank_pattern", json!({"q_proj": "x"})), &message, None);
    let message = format!("{CONFIG}: alpha_pattern: \"(q\" is not a regular expression (look-around is not supported)");
    refused(&changed("alpha_pattern", json!({"(q": 1})), &message, None);
    let message = format!("{CONFIG}: lora_alpha: ");
    let error = read(changed("lora_alpha", json!(1e308)).path()).unwrap_err().to_string();
    assert!(error.contains(&message) && error.ends_with("by more than a number can hold"), "{error}");
    let message = format!("{CONFIG}: target_modules: [\"c_attn\"] matches no linear layer of the model's blocks");
    let hint = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj can have one";
    refused(&changed("target_modules", json!(["c_attn"])), &message, Some(hint));
    let message = |module| format!("{CONFIG}: target_modules: {module} cannot have an adapter");
    refused(&changed("target_modules", json!(["q_proj", "lm_head"])), &message("lm_head"), Some(hint));
    refused(&changed("target_modules", json!(".*")), &message("model.embed_tokens"), Some(hint));
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let q_b = format!("{PREFIX}.0.self_attn.q_proj.lora_B.weight");
    let missing = with_tensors(|tensors| drop(tensors.remove(&q_b)));
    refused(&missing, &format!("{WEIGHTS}: has no tensor {q_b}"), Some(BASE_HINT));
    let wrong = with_tensors(|tensors| {
        tensors.insert(q_b.clone(), Tensor::zeros(&Device::Cpu, DType::F32, [31, 4]).unwrap());
    });
    refused(&wrong, &format!("{WEIGHTS}: tensor {q_b} must be [32, 4], got [31, 4]"), Some(BASE_HINT));
    let q_a = format!("{PREFIX}.0.self_attn.q_proj.lora_A.weight");
    let message = format!("{WEIGHTS}: tensor {q_a} must be [8, 32], got [4, 32]");
    refused(&changed("r", json!(8)), &message, Some(BASE_HINT));
    let dora = format!("{PREFIX}.0.self_attn.q_proj.lora_magnitude_vector");
    let extra = with_tensors(|tensors| {
        tensors.insert(dora.clone(), Tensor::zeros(&Device::Cpu, DType::F32, [32]).unwrap());
    });
    let message = |name: &str| format!("{WEIGHTS}: {CONFIG} and the base model have no place for tensor {name}");
    refused(&extra, &message(&dora), Some(BASE_HINT));
    let untargeted = format!("{PREFIX}.0.mlp.down_proj.lora_A.weight");
    refused(&changed("target_modules", json!(["q_proj"])), &message(&untargeted), Some(BASE_HINT));
    let bases = LlamaConfig { num_hidden_layers: 1, ..model() };
    let folder = fixture("lora/adapter");
    let beyond = message(&format!("{PREFIX}.1.mlp.down_proj.lora_A.weight"));
    assert_refused(Adapter::read(&folder, &bases, &Device::Cpu), &folder, &beyond, Some(BASE_HINT));
}

#[test]
fn other_names_and_dtypes_of_the_tensors_are_read() {
    let folder = with_tensors(|tensors| {
        let renamed = std::mem::take(tensors).into_iter();
        let default = |name: String| name.replace("lora_A.weight", "lora_A.default.weight");
        tensors.extend(renamed.map(|(name, tensor)| (default(name), tensor)));
    });
    assert_eq!(read(folder.path()).unwrap().tensors.len(), 14);

    let exact = read(&fixture("lora/adapter")).unwrap();
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
fn pickles_and_absent_files_are_refused() {
    let folder = copy_of("lora/adapter");
    std::fs::rename(folder.path().join(WEIGHTS), folder.path().join("adapter_model.bin")).unwrap();
    let message = format!("{WEIGHTS}: is missing; adapter_model.bin is a pickle, which is not read");
    let hint = "load the adapter with PEFT and save it again with safe_serialization=True";
    refused(&folder, &message, Some(hint));
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
