//! Weights under a wrapper's names, and weights of other models than language models.

use std::collections::BTreeMap;

use serde_json::json;
use tempfile::TempDir;
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::io::WeightSource;
use vicugna::io::model::ModelFiles;
use vicugna::io::safetensors::{Checkpoint, MODEL, write_tensors};

use crate::files::{copy_of, fixture, load, set};

/// A copy of a fixture whose tensors have other names, or none where there is none.
fn renamed(case: &str, rename: impl Fn(&str) -> Option<String>, more: &[&str]) -> TempDir {
    let (copy, source) = (copy_of(case), Checkpoint::open(&fixture(case)).unwrap());
    let named = source.names().into_iter().filter_map(|name| Some((rename(&name)?, load(&source, &name))));
    let more = more.iter().map(|name| (name.to_string(), Tensor::zeros(&Device::Cpu, DType::F32, [2, 32]).unwrap()));
    write_tensors(&copy.path().join(MODEL), &named.chain(more).collect::<BTreeMap<_, _>>()).unwrap();
    copy
}

#[track_caller]
fn assert_same_weights(case: &str, folder: &TempDir) {
    let [found, expected] = [folder.path(), &fixture(case)].map(|path| ModelFiles::open(path).unwrap());
    assert_eq!(found.weights().names(), expected.weights().names());
    for name in expected.weights().names() {
        let [found, expected] = [&found, &expected].map(|files| load(&files.weights(), &name).to_vec::<f32>().unwrap());
        assert!(found == expected, "{name} differs");
    }
    found.load(DType::F32, &Device::Cpu).unwrap();
    assert_eq!(found.notes().unwrap().len(), 1);
}

#[test]
fn a_wrappers_prefix_is_passed_over() {
    for case in ["mha", "gqa"] {
        for prefix in ["base_model.model.", "_orig_mod.", "module.", "pretrained_model."] {
            assert_same_weights(case, &renamed(case, |name| Some(format!("{prefix}{name}")), &[]));
        }
    }
    let inner = |name: &str| Some(name.replace("model.", "model._orig_mod."));
    assert_same_weights("mha", &renamed("mha", inner, &[]));
}

#[test]
fn a_bare_model_is_read_where_its_output_layer_is_the_embedding() {
    let bare = |name: &str| Some(name.strip_prefix("model.").unwrap_or(name).to_string());
    assert_same_weights("gqa", &renamed("gqa", bare, &[]));
    assert_same_weights("mha", &renamed("mha", bare, &[]));
    let folder = renamed("mha", |name| Some(name.strip_prefix("model.")?.to_string()), &[]);
    set(&folder.path().join("config.json"), "architectures", json!(["LlamaModel"]));
    let message = "has no output layer for tokens: it is a bare LlamaModel, which makes embeddings of texts";
    let error = ModelFiles::open(folder.path()).err().unwrap();
    assert!(error.to_string().ends_with(message), "{error}");
    assert_eq!(error.hint(), Some("name a causal language model"));
}

#[test]
fn heads_of_other_models_are_refused_by_name() {
    for head in ["score.weight", "v_head.summary.weight", "base_model.model.score.modules_to_save.weight"] {
        let folder = renamed("gqa", |name| Some(name.into()), &[head]);
        let message = format!("holds {head}, the head of a classifier or reward model, which scores texts");
        let error = ModelFiles::open(folder.path()).err().unwrap();
        assert!(error.to_string().ends_with(&message), "{error}");
        assert_eq!(error.hint(), Some("name a causal language model, such as the one this was made from"));
    }
}

#[test]
fn an_adapter_among_the_weights_is_refused() {
    let wrapped = |name: &str| {
        let base = name.replace("q_proj.weight", "q_proj.base_layer.weight");
        Some(format!("base_model.model.{base}"))
    };
    let lora = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight";
    let error = ModelFiles::open(renamed("gqa", wrapped, &[lora]).path()).err().unwrap();
    assert!(
        error.to_string().contains("holds an adapter that is not merged, with tensor base_model.model."),
        "{error}"
    );
    assert!(error.hint().unwrap().starts_with("merge it with PEFT's merge_and_unload()"));
}

#[test]
fn what_stays_without_a_place_is_still_refused() {
    let folder = renamed("gqa", |name| Some(format!("module.{name}")), &["vision_tower.weight"]);
    let loaded = ModelFiles::open(folder.path()).unwrap().load(DType::F32, &Device::Cpu);
    let message = "the config has no place for tensor vision_tower.weight (1 such tensors)";
    assert!(loaded.unwrap_err().to_string().ends_with(message));
}
