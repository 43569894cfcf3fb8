//! Writes small GGUF files, right and wrong ones.

use std::path::PathBuf;

use tempfile::TempDir;

/// Types of metadata values.
pub const U8: u32 = 0;
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;

/// A GGUF file in the making.
#[derive(Clone)]
pub struct GgufFile {
    pub version: u32,
    /// How many entries and tensors the header claims beyond those that are there.
    pub excess: [u64; 2],
    metadata: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

/// A string as stored.
pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// An array as stored.
pub fn array(kind: u32, elements: &[Vec<u8>]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &(elements.len() as u64).to_le_bytes(), &elements.concat()].concat()
}

impl GgufFile {
    /// Nothing but the architecture.
    pub fn new(architecture: &str) -> Self {
        let file = Self { version: 3, excess: [0; 2], metadata: Vec::new(), tensors: Vec::new() };
        file.string("general.architecture", architecture)
    }

    /// A whole model: 1 block, hidden_size and intermediate_size 32, 2 heads of 16 sharing keys and values, 8 tokens.
    pub fn tiny() -> Self {
        let mut file = Self::new("llama");
        for (key, value) in [
            ("embedding_length", 32),
            ("feed_forward_length", 32),
            ("block_count", 1),
            ("context_length", 64),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ] {
            file = file.u32(&format!("llama.{key}"), value);
        }
        file = file.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
        file = file.tensor("token_embd.weight", &[32, 8], 8, &[7; 8 * 34]).ones("output_norm.weight", 32);
        for (name, rows) in [("attn_q", 32), ("attn_k", 16), ("attn_v", 16), ("attn_output", 32)] {
            file = file.tensor(&format!("blk.0.{name}.weight"), &[32, rows], 2, &vec![9; rows as usize * 18]);
        }
        for name in ["ffn_gate", "ffn_up", "ffn_down"] {
            file = file.tensor(&format!("blk.0.{name}.weight"), &[32, 32], 3, &[5; 32 * 20]);
        }
        file.ones("blk.0.attn_norm.weight", 32).ones("blk.0.ffn_norm.weight", 32)
    }

    pub fn raw(mut self, key: &str, kind: u32, value: Vec<u8>) -> Self {
        self.metadata.push((key.to_owned(), kind, value));
        self
    }

    pub fn string(self, key: &str, value: &str) -> Self {
        self.raw(key, STRING, string(value))
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, U32, value.to_le_bytes().to_vec())
    }

    pub fn f32(self, key: &str, value: f32) -> Self {
        self.raw(key, F32, value.to_le_bytes().to_vec())
    }

    pub fn bool(self, key: &str, value: bool) -> Self {
        self.raw(key, BOOL, vec![value.into()])
    }

    pub fn strings<S: AsRef<str>>(self, key: &str, values: &[S]) -> Self {
        let values: Vec<_> = values.iter().map(|value| string(value.as_ref())).collect();
        self.raw(key, ARRAY, array(STRING, &values))
    }

    pub fn i32s(self, key: &str, values: &[i32]) -> Self {
        let values: Vec<_> = values.iter().map(|value| value.to_le_bytes().to_vec()).collect();
        self.raw(key, ARRAY, array(I32, &values))
    }

    pub fn f32s(self, key: &str, values: &[f32]) -> Self {
        let values: Vec<_> = values.iter().map(|value| value.to_le_bytes().to_vec()).collect();
        self.raw(key, ARRAY, array(F32, &values))
    }

    /// A tensor with its sizes innermost first, as GGUF has them.
    pub fn tensor(mut self, name: &str, sizes: &[u64], encoding: u32, data: &[u8]) -> Self {
        self.tensors.push((name.to_owned(), sizes.to_vec(), encoding, data.to_vec()));
        self
    }

    /// The names of its tensors, in their order.
    pub fn tensor_names(&self) -> Vec<&str> {
        self.tensors.iter().map(|(name, ..)| name.as_str()).collect()
    }

    /// The file cut after `counts[0]` tensors and again after `counts[1]` more. Only the first part has the metadata.
    pub fn split(mut self, counts: [usize; 2]) -> [Self; 3] {
        let part = |tensors| Self { version: 3, excess: [0; 2], metadata: Vec::new(), tensors };
        let mut rest = self.tensors.split_off(counts[0]);
        let last = rest.split_off(counts[1]);
        [self, part(rest), part(last)]
    }

    fn ones(self, name: &str, size: usize) -> Self {
        self.tensor(name, &[size as u64], 0, &1f32.to_le_bytes().repeat(size))
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).wrapping_add(self.excess[1]).to_le_bytes());
        file.extend((self.metadata.len() as u64).wrapping_add(self.excess[0]).to_le_bytes());
        for (key, kind, value) in &self.metadata {
            file.extend([&string(key)[..], &kind.to_le_bytes(), value].concat());
        }
        let mut data = Vec::new();
        for (name, sizes, encoding, bytes) in &self.tensors {
            file.extend([&string(name)[..], &(sizes.len() as u32).to_le_bytes()].concat());
            sizes.iter().for_each(|size| file.extend(size.to_le_bytes()));
            file.extend([&encoding.to_le_bytes()[..], &(data.len() as u64).to_le_bytes()].concat());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        file.resize(file.len().next_multiple_of(32), 0);
        [file, data].concat()
    }

    /// The file in a folder of its own.
    pub fn write(&self) -> Written {
        write(&self.bytes())
    }
}

/// A file that is removed when dropped.
pub struct Written {
    pub path: PathBuf,
    _folder: TempDir,
}

/// Writes any bytes as `model.gguf`.
pub fn write(bytes: &[u8]) -> Written {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    Written { path, _folder: folder }
}
