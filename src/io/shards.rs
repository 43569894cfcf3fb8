//! Which of a model's files holds a tensor: the only one, or one of its shards.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::json::Object;
use super::shard::{Shard, Stored};
use super::{LM_HEAD, is_derived};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::Shape;

const INCOMPLETE: &str = "the folder is incomplete: get the file again";

/// The files of a model's weights. What an index says of a tensor's place only helps to say what is missing.
#[derive(Debug)]
pub(super) struct Shards {
    files: Vec<Shard>,
    /// The files that hold a tensor: more than one if it is repeated.
    holders: BTreeMap<String, Vec<usize>>,
    /// The name of the index, if there is one.
    index: String,
    /// Where the index sees a tensor that no file holds.
    absent: BTreeMap<String, PathBuf>,
}

impl Shards {
    /// The tensors of `files`.
    pub fn new(files: Vec<Shard>) -> Self {
        let mut holders: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            file.names().for_each(|name| holders.entry(name.clone()).or_default().push(i));
        }
        Self { files, holders, index: String::new(), absent: BTreeMap::new() }
    }

    /// The files that the index `path` lists. One with nothing that a model needs may be missing.
    pub fn listed(path: &Path) -> Result<Self> {
        let listed = read_index(path)?;
        let files: BTreeSet<PathBuf> = listed.values().map(|file| path.with_file_name(file)).collect();
        let there = files.into_iter().filter(|file| file.exists()).map(Shard::open).collect::<Result<_>>()?;
        let mut shards = Self::new(there);
        shards.index = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let absent = listed.into_iter().filter(|(name, _)| !shards.holders.contains_key(name));
        shards.absent = absent.map(|(name, file)| (name, path.with_file_name(file))).collect();
        let mut needed = shards.absent.iter().filter(|(name, _)| !is_derived(name) && *name != LM_HEAD);
        match needed.find(|(_, file)| !file.exists()) {
            Some((name, _)) => Err(shards.missing(path, name)),
            None => Ok(shards),
        }
    }

    /// The numbered files of `folder` that are together what a file `whole` would be; `None` if there are none.
    pub fn numbered(folder: &Path, whole: &str) -> Result<Option<Self>> {
        let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
        let names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        let names = shard_names(names.iter().map(String::as_str), whole);
        let open = |name: &String| {
            let path = folder.join(name);
            if path.exists() {
                return Shard::open(path);
            }
            Err(Error::file(path, "is missing, though there are other shards").with_hint(INCOMPLETE))
        };
        let files = names.iter().map(open).collect::<Result<Vec<_>>>()?;
        Ok((!files.is_empty()).then(|| Self::new(files)))
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.holders.keys()
    }

    /// The file that holds the tensor `name`, and how it is stored there. `path` is the model, for messages.
    pub fn find(&self, path: &Path, name: &str) -> Result<(&Shard, &Stored)> {
        self.holding(name).next().ok_or_else(|| self.missing(path, name))
    }

    /// The tensor `name` of the model `path`, converted to `dtype` while it is copied to `device`. All files that hold
    /// it must hold the same.
    pub fn load(&self, path: &Path, name: &str, shape: Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        let (file, stored) = self.find(path, name)?;
        for (other, again) in self.holding(name).skip(1) {
            let load = |shard: &Shard, stored| shard.load(name, stored, shape, dtype, &Device::Cpu);
            if load(file, stored)?.buffer()?.host()? != load(other, again)?.buffer()?.host()? {
                let detail = format!("tensor {name} is another than that in {}", file.path().display());
                return Err(Error::file(other.path(), detail).with_hint("remove the file that is not of this model"));
            }
        }
        file.load(name, stored, shape, dtype, device)
    }

    fn holding(&self, name: &str) -> impl Iterator<Item = (&Shard, &Stored)> {
        let files = self.holders.get(name).into_iter().flatten().filter_map(|&i| self.files.get(i));
        files.filter_map(move |file| Some((file, file.stored(name)?)))
    }

    /// The error of a tensor that no file of the model `path` holds.
    fn missing(&self, path: &Path, name: &str) -> Error {
        let error = match (self.absent.get(name), self.files.as_slice()) {
            (Some(file), _) if !file.exists() => {
                return Error::file(file, format!("is missing, though {} lists it", self.index)).with_hint(INCOMPLETE);
            }
            (Some(file), _) => Error::file(file, format!("has no tensor {name}, though {} lists it here", self.index)),
            (None, [only]) => Error::file(only.path(), format!("has no tensor {name}")),
            (None, _) => Error::file(path, format!("has no tensor {name}")),
        };
        if let Some(other) = self.renamed(name) {
            return error.with_hint(format!("it has {other}: give its tensors the names that transformers gives them"));
        }
        if name != LM_HEAD {
            return error;
        }
        error.with_hint("if the output layer is the embedding, set tie_word_embeddings to true in config.json")
    }

    /// The tensor that is `name` behind a prefix, as wrappers of a model save it, or without `model.` before it.
    fn renamed(&self, name: &str) -> Option<&String> {
        let prefixed = format!(".{name}");
        self.names().find(|other| other.ends_with(&prefixed) || name.strip_prefix("model.") == Some(other))
    }
}

/// The names of all shards of what `whole` would be that one of `names` is a shard of:
/// `model-00001-of-00002.safetensors` is one of two of `model.safetensors`.
pub(super) fn shard_names<'a>(names: impl Iterator<Item = &'a str>, whole: &str) -> BTreeSet<String> {
    let (stem, extension) = whole.rsplit_once('.').unwrap_or((whole, ""));
    let count = |name: &str| {
        let name = name.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(extension)?.strip_suffix('.')?;
        let (number, count) =
            name.split_once("-of-").filter(|(number, count)| [number.len(), count.len()] == [5, 5])?;
        let (number, count): (u32, u32) = (number.parse().ok()?, count.parse().ok()?);
        (1..=count).contains(&number).then_some(count)
    };
    let counts: BTreeSet<u32> = names.filter_map(count).collect();
    let of = |count| (1..=count).map(move |number| format!("{stem}-{number:05}-of-{count:05}.{extension}"));
    counts.into_iter().flat_map(of).collect()
}

/// The file of every tensor.
pub(super) fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    let listed: HashMap<String, String> =
        Object::read(path)?.required("weight_map", "an object from tensors to files")?;
    let is_plain = |file: &String| Path::new(file).file_name() == Some(file.as_ref());
    if let Some(file) = listed.values().find(|file| !is_plain(file)) {
        return Err(Error::file(path, format!("weight_map: {file:?} is not the name of a file in this folder")));
    }
    Ok(listed.into_iter().collect())
}
