//! Reading `tests/fixtures`, and the distances that the numbers are held to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use vicugna::autograd::{Gradients, Tensor, backward};
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::io::model::ModelFiles;
use vicugna::models::llama::Llama;
use vicugna::nn::{Batch, Plain, Sequence};
use vicugna::reference::tolerance::largest;

/// `expected.json` of a tiny model.
#[derive(Deserialize)]
pub struct Expected {
    pub sequences: Vec<Sequence>,
    pub supervised_tokens: usize,
    pub loss: f64,
    pub greedy: Option<Greedy>,
    pub cached: Option<Cached>,
}

/// A sequence that was run with a cache: its first `prompt` tokens at once, then one at a time.
#[derive(Deserialize)]
pub struct Cached {
    pub sequence: usize,
    pub prompt: usize,
}

/// A greedy continuation and the distance of the two most likely tokens at each step.
#[derive(Deserialize)]
pub struct Greedy {
    #[serde(default)]
    pub prompt_ids: Vec<u32>,
    pub ids: Vec<u32>,
    pub margins: Vec<f64>,
}

/// The folder of a case.
pub fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(case)
}

/// A JSON file of a case.
pub fn json<T: for<'de> Deserialize<'de>>(case: &str) -> T {
    let path = folder(case).join("expected.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All f32 tensors of a case's `expected.safetensors`.
pub fn tensors(case: &str) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(folder(case).join("expected.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |view: &safetensors::tensor::TensorView<'_>| {
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let f32s = file.iter().filter(|(_, view)| view.dtype() == safetensors::Dtype::F32);
    f32s.map(|(name, view)| (name.to_string(), values(&view))).collect()
}

/// A case's model in f32 on the CPU, with its adapter where it has one.
pub fn model(case: &str) -> Llama {
    model_on(case, &Device::Cpu)
}

/// The same on `device`.
pub fn model_on(case: &str, device: &Device) -> Llama {
    let (files, adapter) = (ModelFiles::open(&folder(case)).unwrap(), folder(case).join("adapter"));
    if adapter.exists() {
        return files.with_adapter(&adapter).unwrap().load(DType::F32, device).unwrap();
    }
    let model = files.load(DType::F32, device).unwrap();
    model.train_weights().unwrap();
    model
}

/// Loss and gradients of a batch.
pub fn differentiate(model: &Llama, batch: &Batch) -> (f64, Gradients) {
    let loss = model.loss(batch, batch.supervised as f32, None, &Plain).unwrap();
    (f64::from(loss.to_vec::<f32>().unwrap()[0]), backward(&loss).unwrap())
}

/// The gradients of all that is trained, by name.
pub fn named(model: &Llama, gradients: &Gradients) -> BTreeMap<String, Tensor> {
    let named = |(name, parameter): (String, &vicugna::nn::Parameter)| {
        let gradient = gradients.get(&parameter.get()).unwrap_or_else(|| panic!("{name} has no gradient"));
        (name, gradient.clone())
    };
    model.trained().into_iter().map(named).collect()
}

/// `|found - expected| / |expected|`.
pub fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "number of elements");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(&f, &e)| f64::from(f) - f64::from(e)));
    difference / norm(&mut expected.iter().map(|&e| f64::from(e))).max(f64::MIN_POSITIVE)
}

/// The largest `|found - expected|`.
pub fn furthest(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "number of elements");
    largest(found.iter().zip(expected).map(|(&f, &e)| (f64::from(f) - f64::from(e)).abs()))
}
