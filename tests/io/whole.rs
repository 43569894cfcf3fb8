//! Weights that an adapter has whole: as PEFT reads, merges and writes them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Result;
use vicugna::io::WeightSource;
use vicugna::io::adapter::{Adapter, CONFIG, WEIGHTS};
use vicugna::io::config::{read_config, write_config};
use vicugna::io::folder::{Output, merge};
use vicugna::io::model::ModelFiles;
use vicugna::io::safetensors::{Checkpoint, MODEL, write_tensors};
use vicugna::nn::{Batch, Plain, Sequence};

use crate::files::{assert_refused, copy_of, fixture, load, set};

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";
const STORED_HEAD: &str = "base_model.model.lm_head.weight";
const STORED_EMBEDDING: &str = "base_model.model.model.embed_tokens.weight";

/// The adapter of a fixture with keys of its config and its tensors changed.
fn changed(case: &str, keys: &[(&str, Value)], change: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> TempDir {
    let folder = copy_of(&format!("{case}/adapter"));
    for (key, value) in keys {
        set(&folder.path().join(CONFIG), key, value.clone());
    }
    let path = folder.path().join(WEIGHTS);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let mut tensors = checkpoint.names().into_iter().map(|name| (name.clone(), load(&checkpoint, &name))).collect();
    change(&mut tensors);
    write_tensors(&path, &tensors).unwrap();
    folder
}

fn read(case: &str, folder: &Path) -> Result<Adapter> {
    Adapter::read(folder, &read_config(&fixture(case)).unwrap())
}

fn own(case: &str) -> Adapter {
    read(case, &fixture(case).join("adapter")).unwrap()
}

/// Values that are those of no other weight.
fn values(rows: usize, seed: usize) -> Tensor {
    let values: Vec<f32> = (0..rows * 32).map(|i| ((i * 37 + seed * 101) % 211) as f32 / 500.0 - 0.2).collect();
    Tensor::from_slice(&Device::Cpu, [rows, 32], &values).unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.to_vec().unwrap()
}

fn logits(files: &ModelFiles) -> Vec<f32> {
    let model = files.load(DType::F32, &Device::Cpu).unwrap();
    let input_ids: Vec<u32> = (0..20).map(|i| i * i % 41).collect();
    let labels = vec![-100; input_ids.len()];
    let batch = Batch::new(&[Sequence { input_ids, labels }], &Device::Cpu).unwrap();
    floats(&model.logits(&model.hidden(&batch, None, &Plain).unwrap()).unwrap())
}

/// Merges an adapter into the base model of a fixture, and holds the logits of both against each other.
fn merged(case: &str, adapter: &Path) -> (TempDir, Checkpoint) {
    let out = TempDir::new().unwrap();
    let files = ModelFiles::open(&fixture(case)).unwrap().with_adapter(adapter).unwrap();
    let path = out.path().join(MODEL);
    let output = Output { dtype: DType::F32, quantization: None };
    let (config, _) = merge(&files.weights(), files.adapter(), files.base(), output, &path).unwrap();
    write_config(out.path(), &config, DType::F32, None).unwrap();
    let (adapted, merged) = (logits(&files), logits(&ModelFiles::open(out.path()).unwrap()));
    assert_eq!(adapted.len(), merged.len(), "{case}");
    let largest = adapted.iter().map(|v| v.abs()).fold(0.0, f32::max);
    let is_near = adapted.iter().zip(&merged).all(|(a, m)| (a - m).abs() <= 1e-5 * largest);
    assert!(largest > 0.1 && is_near, "{case}: merged weights compute something else");
    let checkpoint = Checkpoint::open(out.path()).unwrap();
    (out, checkpoint)
}

#[test]
fn what_peft_saves_is_read_and_written_again() {
    for (case, vocabulary, is_tied, whole) in [
        ("lora_saved", 67, false, vec![HEAD, EMBEDDING, "model.norm.weight"]),
        ("lora_saved_tied", 61, false, vec![HEAD]),
        ("lora_head", 59, true, vec![EMBEDDING]),
    ] {
        let adapter = own(case);
        assert_eq!(adapter.whole.keys().collect::<Vec<_>>(), whole, "{case}");
        let model = adapter.model(&read_config(&fixture(case)).unwrap());
        assert_eq!((model.vocab_size, model.tie_word_embeddings), (vocabulary, is_tied), "{case}");
        let out = TempDir::new().unwrap();
        adapter.write(out.path()).unwrap();
        let [ours, theirs] = [out.path(), &fixture(case).join("adapter")]
            .map(|folder| std::fs::read_to_string(folder.join(CONFIG)).unwrap());
        assert_eq!(ours.trim_end(), theirs.trim_end(), "{case}");
        let again = read(case, out.path()).unwrap();
        assert_eq!(again.whole.keys().collect::<Vec<_>>(), whole, "{case}");
        for (name, tensor) in &again.whole {
            assert_eq!(floats(tensor), floats(&adapter.whole[name]), "{case}: {name}");
        }
        assert_eq!(again.tensors.len(), adapter.tensors.len(), "{case}");
    }
    let out = TempDir::new().unwrap();
    own("lora_saved").write(out.path()).unwrap();
    let names = Checkpoint::open(&out.path().join(WEIGHTS)).unwrap().names();
    let whole: Vec<&String> = names.iter().filter(|name| !name.contains("lora_")).collect();
    assert_eq!(whole, [STORED_HEAD, STORED_EMBEDDING, "base_model.model.model.norm.weight"]);
}

#[test]
fn embeddings_that_no_key_names_are_said() {
    let whole = |tensors: &mut BTreeMap<String, Tensor>| {
        tensors.insert(STORED_EMBEDDING.into(), values(61, 1));
    };
    let folder = changed("lora_saved_tied", &[("modules_to_save", json!(null))], |tensors| {
        tensors.remove(STORED_HEAD);
        whole(tensors);
    });
    let adapter = read("lora_saved_tied", folder.path()).unwrap();
    assert_eq!(adapter.notes, [format!("has weights of its own, which it did not train: {EMBEDDING}")]);
    assert_eq!(adapter.frozen().unwrap().keys().collect::<Vec<_>>(), [EMBEDDING]);
    assert!(own("lora_saved").notes.is_empty() && own("lora_saved").frozen().unwrap().is_empty());
}

#[test]
fn a_tied_head_follows_as_in_peft() {
    let base = load(&Checkpoint::open(&fixture("lora_saved_tied")).unwrap(), EMBEDDING);
    let check = |modules: Value, ensure: bool, own: &[(&str, usize)], embedding: &Tensor, head: Option<&Tensor>| {
        let keys = [("modules_to_save", modules.clone()), ("ensure_weight_tying", json!(ensure))];
        let folder = changed("lora_saved_tied", &keys, |tensors| {
            tensors.remove(STORED_HEAD);
            tensors.extend(own.iter().map(|(name, seed)| (name.to_string(), values(61, *seed))));
        });
        let (out, merged) = merged("lora_saved_tied", folder.path());
        assert_eq!(read_config(out.path()).unwrap().tie_word_embeddings, head.is_none(), "{modules}");
        assert_eq!(floats(&load(&merged, EMBEDDING)), floats(embedding), "{modules} {own:?}");
        let found = merged.names().contains(&HEAD.to_string()).then(|| floats(&load(&merged, HEAD)));
        assert_eq!(found, head.map(floats), "{modules} {own:?}");
    };
    let (one, two) = (values(61, 1), values(61, 2));
    // Saved unasked, either stands for both.
    check(json!(null), false, &[(STORED_EMBEDDING, 1)], &one, None);
    check(json!(null), false, &[(STORED_HEAD, 1)], &one, None);
    check(json!(null), false, &[(STORED_HEAD, 1), (STORED_EMBEDDING, 1)], &one, None);
    // What was trained is one by itself, and the other stays the base model's.
    check(json!(["embed_tokens"]), false, &[(STORED_EMBEDDING, 1)], &one, Some(&base));
    check(json!(["lm_head"]), false, &[(STORED_HEAD, 1)], &base, Some(&one));
    check(json!(["lm_head", "embed_tokens"]), false, &[(STORED_HEAD, 1), (STORED_EMBEDDING, 2)], &two, Some(&one));
    check(json!(["model.embed_tokens"]), true, &[(STORED_HEAD, 1), (STORED_EMBEDDING, 1)], &one, None);
    check(json!(["lm_head"]), true, &[(STORED_EMBEDDING, 1)], &one, None);
}

#[test]
fn merged_models_have_what_the_adapter_has() {
    for (case, vocabulary) in [("lora_saved", 67), ("lora_saved_tied", 61), ("lora_head", 59)] {
        let (out, merged) = merged(case, &fixture(case).join("adapter"));
        let config = read_config(out.path()).unwrap();
        assert_eq!((config.vocab_size, config.tie_word_embeddings), (vocabulary, false), "{case}");
        let adapter = own(case);
        for (name, tensor) in adapter.whole.iter().filter(|(name, _)| !adapter.tensors.contains_key(&name[..7])) {
            assert_eq!(floats(&load(&merged, name)), floats(tensor), "{case}: {name}");
        }
    }
    // The adapter of a tied head is on the head alone.
    let (_, merged) = merged("lora_head", &fixture("lora_head/adapter"));
    assert_ne!(floats(&load(&merged, HEAD)), floats(&load(&merged, EMBEDDING)));
}

#[test]
fn biases_take_the_place_of_the_models() {
    let bias = |values: f32| Tensor::from_slice(&Device::Cpu, [24], &[values; 24]).unwrap();
    let (name, stored) = ("model.layers.0.self_attn.q_proj.bias", "base_model.model.model.layers.0.self_attn.q_proj");
    for (key, trains) in [("all", true), ("lora_only", true), ("none", false)] {
        let folder = changed("bias_lora", &[("bias", json!(key))], |tensors| {
            tensors.insert(format!("{stored}.base_layer.bias"), bias(0.5));
        });
        let adapter = read("bias_lora", folder.path()).unwrap();
        assert_eq!(floats(&adapter.whole[name]), [0.5; 24]);
        assert_eq!(
            (adapter.config.trains(name).unwrap(), adapter.frozen().unwrap().is_empty()),
            (trains, trains),
            "{key}"
        );
        let (_, merged) = merged("bias_lora", folder.path());
        assert_eq!(floats(&load(&merged, name)), [0.5; 24], "{key}");
        let out = TempDir::new().unwrap();
        adapter.write(out.path()).unwrap();
        let again = read("bias_lora", out.path()).unwrap();
        assert_eq!((again.config.bias.as_str(), floats(&again.whole[name])), (key, vec![0.5; 24]));
    }
    // No bias is in the file: the model's own stay.
    let adapter = read("bias_lora", changed("bias_lora", &[("bias", json!("all"))], |_| {}).path()).unwrap();
    assert!(adapter.whole.is_empty() && adapter.config.bias == "none" && adapter.notes.len() == 1);
}

#[test]
fn names_of_other_tools_are_read() {
    let wanted = own("lora_saved");
    for (from, to) in [
        ("lm_head.weight", "lm_head.modules_to_save.default.weight"),
        ("lm_head.weight", "lm_head.modules_to_save.weight"),
        ("lm_head.weight", "lm_head.base_layer.weight"),
        ("base_model.model.lm_head.weight", "lm_head.weight"),
        ("base_model.model.model.embed_tokens.weight", "model.embed_tokens.weight"),
        ("base_model.model.model.", "base_model.model._orig_mod.model."),
    ] {
        let folder = changed("lora_saved", &[], |tensors| {
            let named = std::mem::take(tensors).into_iter();
            tensors.extend(named.map(|(name, tensor)| (name.replace(from, to), tensor)));
        });
        let found = read("lora_saved", folder.path()).unwrap();
        for (name, tensor) in &wanted.whole {
            assert_eq!(floats(&found.whole[name]), floats(tensor), "{to}: {name}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    #[track_caller]
    fn refused(case: &str, folder: &TempDir, message: &str, hint: &str) {
        assert_refused(read(case, folder.path()), folder.path(), &format!("{WEIGHTS}: {message}"), Some(hint));
    }
    let without = |tensors: &mut BTreeMap<String, Tensor>| tensors.retain(|name, _| !name.contains("lm_head"));
    let missing = format!("has no tensor {STORED_HEAD}");
    refused(
        "lora_saved",
        &changed("lora_saved", &[], without),
        &missing,
        &format!("modules_to_save of {CONFIG} names it"),
    );
    let rows = changed("lora_saved", &[("modules_to_save", json!(["embed_tokens", "model.norm"]))], without);
    let message = format!("{EMBEDDING} has 67 rows and {HEAD} 61");
    refused("lora_saved", &rows, &message, "an adapter that changes the number of one has both whole");
    let none = changed("lora_saved", &[], |tensors| {
        tensors.retain(|name, _| !name.contains("_to_save") && !name.contains("original"));
        tensors.insert(STORED_EMBEDDING.into(), values(0, 1));
        tensors.insert(STORED_HEAD.into(), values(0, 1));
    });
    let error = read("lora_saved", none.path()).unwrap_err().to_string();
    assert!(error.ends_with(&format!("{WEIGHTS}: vocab_size must be from 1 to 268435456, got 0")), "{error}");
    let both = changed("lora_saved_tied", &[("modules_to_save", json!(null))], |tensors| {
        tensors.insert(STORED_EMBEDDING.into(), values(61, 1));
    });
    let message = format!("{HEAD} differs from {EMBEDDING}, to which the base model ties it");
    refused("lora_saved_tied", &both, &message, "if each was trained by itself, name both in modules_to_save");
    let twice = changed("lora_saved", &[], |tensors| {
        tensors.insert(STORED_HEAD.into(), values(67, 1));
    });
    let other = STORED_HEAD.replace("weight", "modules_to_save.weight");
    let message = format!("tensors {other} and {STORED_HEAD} are for one place, {HEAD}");
    refused("lora_saved", &twice, &message, "keep the one that counts");
    let wide = changed("lora_saved_tied", &[], |tensors| {
        tensors.insert(STORED_HEAD.into(), Tensor::zeros(&Device::Cpu, DType::F32, [61, 33]).unwrap());
    });
    let base = r#"the adapter was made for base model "lora_saved_tied": is this one like it?"#;
    refused("lora_saved_tied", &wide, &format!("tensor {STORED_HEAD} must be [61, 32], got [61, 33]"), base);
}
