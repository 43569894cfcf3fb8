//! A run of `vicugna finetune` in a folder of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::command::{Ran, vicugna};

/// A tokenized record.
#[derive(Clone, Serialize, serde::Deserialize)]
pub struct Sequence {
    pub input_ids: Vec<u32>,
    pub labels: Vec<i32>,
}

/// A temporary folder with what a run needs and leaves.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_string()
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, content: &str) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.text(name)
    }

    /// Writes records, one a line.
    pub fn records<R: Serialize>(&self, name: &str, records: &[R]) -> String {
        let lines: Vec<String> = records.iter().map(|record| serde_json::to_string(record).unwrap()).collect();
        self.write(name, &(lines.join("\n") + "\n"))
    }

    /// Some random records for a vocabulary of 97 or more, of 3 to 20 tokens; the first few of some have no label.
    pub fn random_records(&self, name: &str, count: u32) -> String {
        let mut x = 12345u32;
        let mut random = move |bound: u32| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 16) % bound
        };
        let mut record = |_| {
            let input_ids: Vec<u32> = (0..3 + random(18)).map(|_| random(97)).collect();
            let masked = random(3) as usize;
            let labels = input_ids.iter().enumerate().map(|(i, &id)| if i < masked { -100 } else { id as i32 });
            Sequence { labels: labels.collect(), input_ids }
        };
        let records: Vec<Sequence> = (0..count).map(&mut record).collect();
        self.records(name, &records)
    }

    /// `finetune` into the folder `out`.
    pub fn finetune(&self, model: &str, train: &str, out: &str, extra: &[&str]) -> Ran {
        let out = self.text(out);
        vicugna(&[&["finetune", "--model", model, "--train", train, "--out", &out, "--json"], extra].concat())
    }

    /// The lines of `metrics.jsonl` in the folder `out`.
    pub fn metrics(&self, out: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(out).join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The values of one key in `metrics.jsonl`, of the lines that have it.
    pub fn column(&self, out: &str, key: &str) -> Vec<f64> {
        self.metrics(out).iter().filter_map(|line| line[key].as_f64()).collect()
    }
}

/// Every file of a folder that tells of the result, with its bytes.
pub fn results(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = ["adapter_model.safetensors", "adapter_config.json", "model.safetensors", "config.json"];
    let read = |name: &str| Some((name.to_string(), std::fs::read(out.join(name)).ok()?));
    let found: BTreeMap<_, _> = names.into_iter().filter_map(read).collect();
    assert!(!found.is_empty(), "{} has no results", out.display());
    found
}

/// All f32 tensors of a safetensors file.
pub fn tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let f32s = file.iter().filter(|(_, view)| view.dtype() == safetensors::Dtype::F32);
    f32s.map(|(name, view)| (name.to_string(), values(view.data()))).collect()
}
