//! Checkpoints of a training run: folders `step-N`, each there in full or not at all, and each checked before it is used.
//!
//! A checkpoint is written beside its place, synced to disk, and renamed; its `manifest.json`, with the length and the
//! checksum of every other file, is written last. What the files hold is the caller's business.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::atomic;
use crate::error::{Error, Result};

/// The file that vouches for the others.
pub const MANIFEST: &str = "manifest.json";
/// What this version writes. Older ones must stay readable; newer ones are refused.
pub const VERSION: u32 = 1;

/// What a run's result depends on, by name: a checkpoint of other values belongs to another run.
pub type Fingerprint = BTreeMap<String, Value>;

/// The checkpoints of one run, in one folder.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    fingerprint: Fingerprint,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    version: u32,
    step: u64,
    state: Value,
    fingerprint: Fingerprint,
    files: Stamps,
}

/// What each of some files must be, by name.
pub type Stamps = BTreeMap<String, Stamp>;

/// What a file must be: its length, and the checksum of its bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stamp {
    bytes: u64,
    crc32: u32,
}

impl Checkpoints {
    /// The checkpoints in `folder`, which need not be there yet, of the run that `fingerprint` tells from others.
    pub fn new(folder: PathBuf, fingerprint: Fingerprint) -> Self {
        Self { folder, fingerprint }
    }

    /// The folder that they are in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the checkpoint of a step is.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step}"))
    }

    /// The steps that have a checkpoint, be it good or not, in their order.
    ///
    /// # Errors
    /// [`Error::File`] if the folder cannot be read.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries.collect::<std::io::Result<Vec<_>>>(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
        };
        let entries = entries.map_err(|e| Error::io(&self.folder, e))?;
        let step = |name: &str| name.strip_prefix("step-")?.parse().ok();
        let mut steps: Vec<u64> = entries.iter().filter_map(|entry| step(entry.file_name().to_str()?)).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Writes the checkpoint of `step`: `state`, and the files that `fill` puts into the folder it is given, or finds there and
    /// knows what they must be.
    ///
    /// # Errors
    /// What `fill` returns; [`Error::File`] if the disk fails. The checkpoints that were there still are.
    pub fn write(&self, step: u64, state: &impl Serialize, fill: impl FnOnce(&Path) -> Result<Stamps>) -> Result<()> {
        let path = self.path(step);
        let state = serde_json::to_value(state).map_err(|e| Error::file(&path, e.to_string()))?;
        self.remove(step)?;
        atomic::write_folder(&path, |folder| {
            let (files, fingerprint) = (stamps(folder, fill(folder)?)?, self.fingerprint.clone());
            let manifest = Manifest { version: VERSION, step, state, fingerprint, files };
            let path = folder.join(MANIFEST);
            let text = serde_json::to_string_pretty(&manifest).map_err(|e| Error::file(&path, e.to_string()))?;
            atomic::write_file(&path, |file| file.write_all(text.as_bytes()).map_err(|e| Error::io(&path, e)))
        })
    }

    /// The state in the checkpoint of `step`, once all of its files are found to be what was written.
    ///
    /// # Errors
    /// [`Error::File`] naming the checkpoint if it is torn, of another run, or of a newer version.
    pub fn open<S: DeserializeOwned>(&self, step: u64) -> Result<S> {
        let path = self.path(step);
        let manifest = read_manifest(&path)?;
        for (name, wanted) in &manifest.files {
            let file = path.join(name);
            match file.exists() {
                false => return Err(Error::file(&path, format!("torn: {name} is missing"))),
                true if stamp(&file)? != *wanted => {
                    return Err(Error::file(&path, format!("torn: {name} is not what was written")));
                }
                true => {}
            }
        }
        if let Some(difference) = difference(&manifest.fingerprint, &self.fingerprint) {
            return Err(Error::file(&path, format!("is of another run: {difference}"))
                .with_hint("go on with that run's options and data (config.toml has them), or name another --out"));
        }
        serde_json::from_value(manifest.state).map_err(|e| Error::file(&path, format!("torn: its state: {e}")))
    }

    /// The newest good checkpoint: its step and its state. Newer ones that are not good are handed to `refused`.
    ///
    /// # Errors
    /// [`Error::File`] if there are checkpoints, but none is good.
    pub fn newest<S: DeserializeOwned>(&self, mut refused: impl FnMut(&Error)) -> Result<Option<(u64, S)>> {
        let mut last = None;
        for step in self.steps()?.into_iter().rev() {
            match self.open(step) {
                Ok(state) => return Ok(Some((step, state))),
                Err(error) => {
                    refused(&error);
                    last.get_or_insert(error);
                }
            }
        }
        last.map_or(Ok(None), Err)
    }

    /// Removes the checkpoints of all other steps.
    ///
    /// # Errors
    /// [`Error::File`] if one cannot be removed.
    pub fn keep(&self, steps: &[u64]) -> Result<()> {
        self.steps()?.into_iter().filter(|step| !steps.contains(step)).try_for_each(|step| self.remove(step))
    }

    /// Removes a checkpoint, if it is there, by a rename first: what is left after a crash is not taken for one.
    fn remove(&self, step: u64) -> Result<()> {
        let path = self.path(step);
        if !path.exists() {
            return Ok(());
        }
        let hidden = self.folder.join(format!(".step-{step}.removed.partial"));
        let _ = fs::remove_dir_all(&hidden);
        fs::rename(&path, &hidden).and_then(|()| fs::remove_dir_all(&hidden)).map_err(|e| Error::io(&path, e))
    }
}

fn read_manifest(checkpoint: &Path) -> Result<Manifest> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let torn = |detail: String| Error::file(checkpoint, format!("torn: {MANIFEST} {detail}"));
    let text = fs::read(checkpoint.join(MANIFEST)).map_err(|e| torn(format!("cannot be read: {e}")))?;
    let Version { version } = serde_json::from_slice(&text).map_err(|e| torn(format!("is no manifest: {e}")))?;
    if version > VERSION {
        let detail = format!("has version {version}; this vicugna reads up to {VERSION}");
        return Err(Error::file(checkpoint, detail).with_hint("go on with the vicugna that wrote it, or a newer one"));
    }
    serde_json::from_slice(&text).map_err(|e| torn(format!("is no manifest: {e}")))
}

/// What `saved` and `current` have first that is not alike.
fn difference(saved: &Fingerprint, current: &Fingerprint) -> Option<String> {
    let key = saved.keys().chain(current.keys()).find(|key| saved.get(*key) != current.get(*key))?;
    let value = |of: &Fingerprint| of.get(key).map_or("absent".into(), Value::to_string);
    Some(format!("{key} was {}, is {}", value(saved), value(current)))
}

/// What each file of a folder is, be it among the `known` ones or not.
fn stamps(folder: &Path, mut known: Stamps) -> Result<Stamps> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        if let Entry::Vacant(unknown) = known.entry(entry.file_name().to_string_lossy().into_owned()) {
            unknown.insert(stamp(&entry.path())?);
        }
    }
    Ok(known)
}

/// What the file `path` is.
///
/// # Errors
/// [`Error::File`] if it cannot be read.
pub fn stamp(path: &Path) -> Result<Stamp> {
    let (mut checksum, mut bytes, mut buffer) = (crc32fast::Hasher::new(), 0, vec![0; 1 << 20]);
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    loop {
        match file.read(&mut buffer).map_err(|e| Error::io(path, e))? {
            0 => return Ok(Stamp { bytes, crc32: checksum.finalize() }),
            n => {
                checksum.update(buffer.get(..n).unwrap_or_default());
                bytes += n as u64;
            }
        }
    }
}
