//! Safetensors files as the bytes that they are made of, whatever their dtypes.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};

/// A tensor's dtype, its shape and its bytes.
pub type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// The tensors of a file by their names.
#[derive(Clone)]
pub struct Raw(pub BTreeMap<String, Tensor>);

impl Raw {
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |view: &TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        Self(file.iter().map(|(name, view)| (name.to_string(), tensor(&view))).collect())
    }

    pub fn write(&self, path: &Path) {
        let view = |(dtype, shape, bytes)| TensorView::new(dtype, shape, bytes).unwrap();
        let views = self.0.iter().map(|(name, (dtype, shape, bytes))| (name, view((*dtype, shape.clone(), bytes))));
        serialize_to_file(views, None, path).unwrap();
    }

    pub fn remove(&mut self, name: &str) {
        assert!(self.0.remove(name).is_some(), "{name}");
    }

    pub fn set_f32(&mut self, name: &str, values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.0.insert(name.into(), (Dtype::F32, vec![values.len()], bytes));
    }

    pub fn set_u8(&mut self, name: &str, values: &[u8]) {
        self.0.insert(name.into(), (Dtype::U8, vec![values.len()], values.to_vec()));
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.0[name].2.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    /// Changes the JSON in the bytes of a tensor.
    pub fn set_json(&mut self, name: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let mut json = serde_json::from_slice(&self.0[name].2).unwrap();
        change(&mut json);
        self.set_u8(name, json.to_string().as_bytes());
    }
}
