//! A model in several files, as `llama-gguf-split` makes them: the first has the metadata, each has some of the tensors.

use std::path::{Path, PathBuf};

use super::Gguf;
use super::header::TensorInfo;
use crate::error::{Error, Result};

/// The number of a part, from 0.
const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

impl Gguf {
    /// The whole model of which this file may be a part.
    ///
    /// # Errors
    /// [`Error::File`] if a part is missing, or if the parts contradict each other.
    pub(super) fn with_all_parts(self) -> Result<Self> {
        let Some(count) = self.unsigned(COUNT)?.filter(|&count| count > 1) else { return Ok(self) };
        let number = self.require(NUMBER, self.unsigned(NUMBER)?)?;
        let ending = ending(number, count);
        let name = self.path.file_name().and_then(|name| name.to_str()?.strip_suffix(&ending));
        let name = name.ok_or_else(|| {
            let detail = format!("the model is in {count} files, but the name of this one does not end in {ending}");
            self.key_error(COUNT, detail).with_hint("give the files the names back that they had")
        })?;
        let part = |number| open_part(&self.path, name, number, count);
        let mut whole = part(0)?;
        (1..count).try_for_each(|number| whole.append(part(number)?))?;
        let (held, wanted) = (whole.header.tensors.len(), whole.unsigned(TENSORS)?);
        match wanted.filter(|&wanted| wanted != held) {
            Some(wanted) => Err(whole.key_error(TENSORS, format!("is {wanted}, but the {count} files hold {held}"))),
            None => Ok(whole),
        }
    }

    fn append(&mut self, part: Self) -> Result<()> {
        let file = self.files.len();
        for (name, info) in part.header.tensors {
            if self.header.tensors.contains_key(&name) {
                return Err(Error::file(&part.path, format!("tensor {name}: is in a file before this one too")));
            }
            self.header.tensors.insert(name, TensorInfo { file, ..info });
        }
        self.files.extend(part.files);
        Ok(())
    }
}

/// How the name of part `number` of `count` ends.
fn ending(number: usize, count: usize) -> String {
    format!("-{:05}-of-{count:05}.gguf", number.saturating_add(1))
}

fn open_part(beside: &Path, name: &str, number: usize, count: usize) -> Result<Gguf> {
    let path: PathBuf = beside.with_file_name(format!("{name}{}", ending(number, count)));
    if !path.exists() {
        return Err(Error::file(path, format!("is missing: the model is in {count} files"))
            .with_hint("get all of them, and keep them beside each other"));
    }
    let part = Gguf::open_file(&path)?;
    for (key, expected) in [(NUMBER, number), (COUNT, count)] {
        let found = part.require(key, part.unsigned(key)?)?;
        if found != expected {
            return Err(part.key_error(key, format!("must be {expected} in this file, is {found}")));
        }
    }
    Ok(part)
}
