//! Files to read: PyTorch's fixtures, copies of them to spoil, and safetensors files made byte by byte.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Error;
use vicugna::io::WeightSource;

/// A folder of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A copy of a fixture, free to be spoilt.
pub fn copy_of(name: &str) -> TempDir {
    let copy = TempDir::new().unwrap();
    for entry in std::fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    copy
}

/// Sets a key of a JSON file; a null removes it.
pub fn set(path: &Path, key: &str, value: Value) {
    let mut json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    json[key] = value;
    std::fs::write(path, json.to_string()).unwrap();
}

/// A safetensors file: its header as given, then its data.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A tensor as it is stored, in f32.
pub fn load(source: &dyn WeightSource, name: &str) -> Tensor {
    source.load(name, source.shape(name).unwrap(), DType::F32, &Device::Cpu).unwrap()
}

/// The message without the folder, and the hint.
#[track_caller]
pub fn assert_refused<T>(result: Result<T, Error>, folder: &Path, message: &str, hint: Option<&str>) {
    let Err(error) = result else { panic!("not refused: {message}") };
    let text = error.to_string().replace(&format!("{}/", folder.display()), "");
    assert_eq!((text.as_str(), error.hint()), (message, hint));
}

/// The names of all entries of a folder, sorted.
pub fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
