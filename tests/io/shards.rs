//! Sharded folders: what the model asks for must be there, once or equal. Nothing else matters.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Result;
use vicugna::io::config::read_config;
use vicugna::io::safetensors::{Checkpoint, write_tensors};
use vicugna::io::{WeightSource, refuse_leftovers};

use crate::files::{assert_refused, fixture, load, set};

const INDEX: &str = "model.safetensors.index.json";
const HEAD: &str = "lm_head.weight";
const INV_FREQ: &str = "model.layers.1.self_attn.rotary_emb.inv_freq";
const NORM: &str = "model.norm.weight";
const INCOMPLETE: Option<&str> = Some("the folder is incomplete: get the file again");

/// A model in two shards, free to be spoilt.
struct Model {
    folder: TempDir,
    shards: [BTreeMap<String, Tensor>; 2],
    index: BTreeMap<String, String>,
}

fn file(number: usize) -> String {
    format!("model-{number:05}-of-00002.safetensors")
}

impl Model {
    /// A fixture whose head is its embedding, with tensors in turn in either shard.
    fn tied() -> Self {
        let original = Checkpoint::open(&fixture("gqa")).unwrap();
        let folder = TempDir::new().unwrap();
        std::fs::copy(fixture("gqa").join("config.json"), folder.path().join("config.json")).unwrap();
        let (mut shards, mut index) = ([BTreeMap::new(), BTreeMap::new()], BTreeMap::new());
        for (i, name) in original.names().into_iter().enumerate() {
            shards[i % 2].insert(name.clone(), load(&original, &name));
            index.insert(name, file(i % 2 + 1));
        }
        Self { folder, shards, index }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self) -> &Self {
        for (number, tensors) in (1..).zip(&self.shards) {
            write_tensors(&self.path().join(file(number)), tensors).unwrap();
        }
        std::fs::write(self.path().join(INDEX), json!({"weight_map": self.index}).to_string()).unwrap();
        self
    }

    /// What the config asks for, in bytes.
    fn load(&self) -> Result<Vec<Vec<u8>>> {
        load_all(self.path())
    }
}

fn load_all(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let checkpoint = Checkpoint::open(folder)?;
    let parameters = read_config(folder)?.parameters();
    refuse_leftovers(&checkpoint, &parameters.iter().map(|(name, _)| name.clone()).collect::<HashSet<_>>())?;
    let load = |(name, shape): &(String, _)| checkpoint.load(name, *shape, DType::F32, &Device::Cpu);
    parameters.iter().map(|parameter| Ok(load(parameter)?.buffer()?.host()?.to_vec())).collect()
}

fn zeros(size: usize) -> Tensor {
    Tensor::zeros(&Device::Cpu, DType::F32, [size]).unwrap()
}

/// The shard that holds `name`, 0 or 1.
fn shard_of(model: &Model, name: &str) -> usize {
    model.shards.iter().position(|shard| shard.contains_key(name)).unwrap()
}

#[test]
fn what_the_model_does_not_ask_for_does_not_matter() {
    let original = load_all(&fixture("gqa")).unwrap();
    type Change = fn(&mut Model);
    let cases: [(&str, Change); 7] = [
        ("as it is", |_| {}),
        ("a tensor that the index does not list", |model| drop(model.shards[1].insert(INV_FREQ.into(), zeros(4)))),
        ("listed, in no shard", |model| drop(model.index.insert(INV_FREQ.into(), file(2)))),
        ("the head that is the embedding, in no shard", |model| drop(model.index.insert(HEAD.into(), file(2)))),
        ("the head that is the embedding, in a shard that is not there", |model| {
            model.index.insert(HEAD.into(), "model-00003-of-00003.safetensors".into());
        }),
        ("a tensor of another model, in no shard", |model| drop(model.index.insert("model.extra".into(), file(1)))),
        ("unequal repeats of what follows from the config", |model| {
            model.shards[0].insert(INV_FREQ.into(), zeros(4));
            model.shards[1].insert(INV_FREQ.into(), zeros(5));
        }),
    ];
    for (case, change) in cases {
        let mut model = Model::tied();
        change(&mut model);
        assert!(model.write().load().unwrap() == original, "{case}");
    }
}

#[test]
fn a_tensor_is_read_where_it_is() {
    let original = load_all(&fixture("gqa")).unwrap();
    let mut model = Model::tied();
    let other = file(2 - shard_of(&model, NORM));
    model.index.insert(NORM.into(), other);
    assert!(model.write().load().unwrap() == original);
    let mut model = Model::tied();
    model.index.remove(NORM);
    assert!(model.write().load().unwrap() == original);
    let model = Model::tied();
    model.write();
    std::fs::remove_file(model.path().join(INDEX)).unwrap();
    assert!(model.load().unwrap() == original, "without an index");
    assert_eq!(Checkpoint::open(model.path()).unwrap().names(), Checkpoint::open(&fixture("gqa")).unwrap().names());
}

#[test]
fn a_repeated_tensor_must_be_the_same() {
    let mut model = Model::tied();
    let (norm, at) = (model.shards[shard_of(&model, NORM)][NORM].clone(), shard_of(&model, NORM));
    model.shards[1 - at].insert(NORM.into(), norm.clone());
    assert!(model.write().load().unwrap() == load_all(&fixture("gqa")).unwrap());
    let mut values = norm.to_vec::<f32>().unwrap();
    values[3] += 1e-3;
    model.shards[1].insert(NORM.into(), Tensor::from_slice(&Device::Cpu, norm.shape(), &values).unwrap());
    model.shards[0].insert(NORM.into(), norm);
    let first = model.path().join(file(1));
    let message = format!("{}: tensor {NORM} is another than that in {}", file(2), file(1));
    assert_refused(model.write().load(), model.path(), &message, Some("remove the file that is not of this model"));
    // A shape of its own is named as for any tensor.
    model.shards[1].insert(NORM.into(), zeros(5));
    let message = format!("{}: tensor {NORM} must be [32], got [5]", file(2));
    assert_refused(model.write().load(), model.path(), &message, None);
    assert!(first.exists());
}

#[test]
fn what_the_model_asks_for_is_missed_by_name() {
    let mut model = Model::tied();
    let at = shard_of(&model, NORM);
    model.shards[at].remove(NORM);
    let message = format!("{}: has no tensor {NORM}, though {INDEX} lists it here", file(at + 1));
    assert_refused(model.write().load(), model.path(), &message, None);
    model.index.remove(NORM);
    let error = model.write().load().unwrap_err().to_string();
    assert_eq!(error, format!("{}: has no tensor {NORM}", model.path().display()));
    for indexed in [true, false] {
        let model = Model::tied();
        model.write();
        std::fs::remove_file(model.path().join(file(2))).unwrap();
        if !indexed {
            std::fs::remove_file(model.path().join(INDEX)).unwrap();
        }
        let why = if indexed { format!("though {INDEX} lists it") } else { "though there are other shards".into() };
        let message = format!("{}: is missing, {why}", file(2));
        assert_refused(Checkpoint::open(model.path()), model.path(), &message, INCOMPLETE);
    }
    let mut model = Model::tied();
    model.index.insert(HEAD.into(), "model-00003-of-00003.safetensors".into());
    set(&model.write().path().join("config.json"), "tie_word_embeddings", json!(false));
    let message = format!("model-00003-of-00003.safetensors: is missing, though {INDEX} lists it");
    assert_refused(model.load(), model.path(), &message, INCOMPLETE);
}

#[test]
fn an_index_that_is_none_is_refused() {
    let model = Model::tied();
    let index = model.write().path().join(INDEX);
    let refused = |message: &str| {
        assert_refused(Checkpoint::open(model.path()), model.path(), &format!("{INDEX}: {message}"), None);
    };
    set(&index, "weight_map", json!({"a": "../elsewhere.safetensors"}));
    refused(r#"weight_map: "../elsewhere.safetensors" is not the name of a file in this folder"#);
    set(&index, "weight_map", json!(null));
    refused("weight_map must be an object from tensors to files, and is missing");
}
