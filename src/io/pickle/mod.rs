//! PyTorch's `.bin`, `.pt` and `.pth` files: what torch.save makes of a dict of tensors.
//!
//! They are pickles, programs for a virtual machine that can call anything. This one knows the opcodes and the classes
//! that plain weights need; it refuses all others by name, and calls nothing. A file of hostile bytes costs no more
//! memory than a few times its length.

mod opcode;
mod storage;
mod unpickle;
mod value;
mod zip;

use std::collections::BTreeMap;
use std::path::Path;

use storage::Saved;
use value::Value;

use super::convert::Strides;
use super::shard::Stored;
use super::text;
use crate::error::{Error, Result};

/// The name of an unsharded model in its folder.
pub(super) const MODEL: &str = "pytorch_model.bin";
/// The name of the list of shards of a sharded one.
pub(super) const INDEX: &str = "pytorch_model.bin.index.json";
/// The name of an adapter's tensors in its folder.
pub(super) const ADAPTER: &str = "adapter_model.bin";

const SAVE_AGAIN: &str = "load it where you trust it, and save the tensors alone: torch.save(model.state_dict(), FILE)";
const TRUNCATED: &str = "the file is incomplete: get it again";

/// Whether a file is one of these by its name.
pub(super) fn is_pickle(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ["bin", "pt", "pth"].iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

/// The tensors of a file: of the dict that it holds, or of the one dict of tensors in that.
///
/// # Errors
/// [`Error::File`] naming what is refused: another format, a class or an opcode that weights do not need, a tensor
/// beyond its storage, a storage beyond the file.
pub(super) fn read_tensors(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Stored>> {
    let saved = match bytes {
        _ if is_safetensors(bytes) => return Err(foreign(path, bytes)),
        [0x80, ..] => storage::legacy(path, bytes)?,
        _ if bytes.starts_with(zip::MAGIC) => storage::zipped(path, bytes)?,
        _ => return Err(foreign(path, bytes)),
    };
    let mut tensors = BTreeMap::new();
    for &(key, value) in state_dict(path, &saved)? {
        let (Value::Text(name), Value::Tensor(tensor)) = (key, value) else {
            let name = if let Value::Text(name) = key { name } else { "of no name" };
            return Err(
                Error::file(path, format!("entry {name:.80} of its weights is {}", value.kind())).with_hint(SAVE_AGAIN)
            );
        };
        if name.len() > MAX_NAME || tensors.insert(name.to_owned(), stored(&saved, tensor)).is_some() {
            return Err(Error::file(path, format!("tensor {name:.80} is there twice, or its name is too long")));
        }
    }
    Ok(tensors)
}

/// Longer names are no tensor's, and each is kept several times.
const MAX_NAME: usize = 512;

/// What to do about files in `folder` that have not the names of a model's weights.
pub(super) fn unnamed(folder: &Path) -> Option<String> {
    /// What trainers leave beside the weights.
    const STATES: [&str; 5] = ["optimizer", "scheduler", "training_args", "rng_state", "random_states"];
    let names = std::fs::read_dir(folder).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let names: Vec<String> = names.collect();
    if names.iter().any(|name| name == "zero_to_fp32.py") {
        return Some("DeepSpeed's zero_to_fp32.py, which is in it, makes whole weights of its shards".into());
    }
    if names.iter().any(|name| name.starts_with("pytorch_model_fsdp_") || name.ends_with(".distcp")) {
        return Some("`accelerate merge-weights` makes whole weights of FSDP's shards, which it holds".into());
    }
    let is_state = |name: &str| STATES.iter().any(|state| name.starts_with(state));
    let first = names.iter().filter(|name| is_pickle(Path::new(name)) && !is_state(name)).min()?;
    Some(if first.starts_with("consolidated.") {
        format!(
            "{first} is Meta's own release: transformers' convert_llama_weights_to_hf.py makes a model folder of it"
        )
    } else if first.contains("-of-") {
        format!("{first} is one of several shards: get {INDEX}, which lists them")
    } else {
        format!("if {first} holds the model's weights, name it {MODEL}")
    })
}

type Entries<'s, 'a> = &'s [(Value<'a>, Value<'a>)];

/// The dict of tensors: the whole, or the only one among the entries of the whole, as in a training checkpoint.
fn state_dict<'s, 'a>(path: &Path, saved: &'s Saved<'a>) -> Result<Entries<'s, 'a>> {
    let refuse = |detail: String| Error::file(path, detail).with_hint(SAVE_AGAIN);
    let Value::Dict(root) = saved.root else {
        return Err(refuse(format!("holds {}, not a dict of tensors", saved.root.kind())));
    };
    let entries = saved.heap.dict(root);
    if begins_with_tensor(entries) {
        return Ok(entries);
    }
    let nested = entries.iter().filter_map(|&(key, value)| match (key, value) {
        (Value::Text(key), Value::Dict(at)) => Some((key, saved.heap.dict(at))),
        _ => None,
    });
    let nested: Vec<_> = nested.filter(|(_, entries)| begins_with_tensor(entries)).collect();
    match nested.as_slice() {
        [(_, only)] => Ok(only),
        [(first, _), (second, _), ..] => {
            Err(refuse(format!("holds several dicts of tensors: {first:.80}, {second:.80}")))
        }
        [] => Err(refuse("holds a dict without tensors".into())),
    }
}

fn begins_with_tensor(entries: Entries) -> bool {
    matches!(entries.first(), Some((_, Value::Tensor(_))))
}

/// The place of tensor number `at` in the file.
fn stored(saved: &Saved, at: usize) -> Stored {
    let tensor = saved.heap.tensor(at);
    let storage = &saved.heap.storages()[tensor.storage];
    let element = storage.element();
    let start = saved.starts[tensor.storage];
    let bytes = match (tensor.shape.numel(), tensor.last()) {
        (1.., Some(last)) => start + tensor.offset * element..start + (last + 1) * element,
        _ => start..start, // an empty tensor is at no place
    };
    let strides = (!tensor.is_contiguous()).then(|| Strides::new(tensor.shape.dims(), tensor.strides()));
    Stored { dtype: storage.dtype, dims: tensor.shape.dims().to_vec(), bytes, strides }
}

/// The error of a file that is neither of the forms of torch.save.
fn foreign(path: &Path, bytes: &[u8]) -> Error {
    if bytes.is_empty() {
        return Error::file(path, "is empty").with_hint(TRUNCATED);
    }
    if is_safetensors(bytes) {
        return Error::file(path, "is a safetensors file under another name").with_hint("name it *.safetensors");
    }
    let unknown = || Error::file(path, "is not a file of torch.save: neither a zip archive nor a pickle");
    text::other_format(path, bytes).unwrap_or_else(unknown)
}

/// Whether there is a header of JSON behind its length. That begins with any byte, so also with one of a pickle.
fn is_safetensors(bytes: &[u8]) -> bool {
    let Some((length, [b'{', ..])) = bytes.split_first_chunk::<8>() else { return false };
    u64::from_le_bytes(*length) <= bytes.len() as u64
}
