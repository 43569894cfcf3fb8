//! The folder of a run: one run at a time writes into it, and none over what another left.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::io::companions::TOKENIZER;
use crate::io::missing;

/// The resolved configuration.
pub const CONFIG: &str = "config.toml";
/// One line a step, one an evaluation.
pub const METRICS: &str = "metrics.jsonl";
/// The curves of both.
pub const LOSS: &str = "loss.svg";
/// Folders `step-N`.
pub const CHECKPOINTS: &str = "checkpoints";
/// The template of the run's data, where it had one.
pub const TEMPLATE: &str = "template.json";

/// What the process that writes there holds locked; its number is in it.
pub(super) const LOCK: &str = ".lock";

/// The folder of the run that left `folder`, which is that folder itself or one of its checkpoints. A run that was moved is
/// found where it is.
pub fn run_folder(folder: &Path) -> Option<PathBuf> {
    let is_run = |folder: &Path| folder.join(CONFIG).is_file();
    if is_run(folder) {
        return Some(folder.into());
    }
    let whole = fs::canonicalize(folder).ok()?;
    let checkpoints = whole.parent().filter(|parent| parent.ends_with(CHECKPOINTS))?;
    checkpoints.parent().filter(|run| is_run(run)).map(Path::to_path_buf)
}

/// What is copied there before a run begins.
fn copies() -> impl Iterator<Item = &'static str> {
    TOKENIZER.into_iter().chain([TEMPLATE])
}

/// A run's folder, locked as long as this lives. One that no run came to begin in is removed again.
#[derive(Debug)]
pub(super) struct RunFolder {
    path: PathBuf,
    is_new: bool,
    /// The lock that rank 0 holds, whose folder it is.
    lock: Option<File>,
}

impl RunFolder {
    /// Makes and locks the folder. With `resume` it may hold a run, else it must hold nothing.
    pub(super) fn open(path: &Path, resume: bool) -> Result<Self> {
        missing::refuse_tilde(path)?;
        fs::create_dir_all(path).map_err(|e| Error::io(path, e))?;
        let was_locked = path.join(LOCK).exists();
        let mut folder = Self { path: path.into(), is_new: false, lock: Some(lock(path)?) };
        folder.remove_leftovers()?;
        let mut names = folder.names()?;
        let has_run = names.iter().any(|name| name == CONFIG);
        if was_locked && !has_run {
            // A run that was cut off before it began had come no further than this.
            names.retain(|name| !copies().any(|copy| copy == name));
        }
        folder.is_new = names.is_empty();
        let Some(first) = names.first() else { return Ok(folder) };
        if !resume {
            return Err(Error::file(path, "is there already and not empty")
                .with_hint("go on with the run in it by --resume, or name a new --out"));
        }
        if !has_run {
            let detail = format!("is not the folder of a run: it holds {first}, but no {CONFIG}");
            return Err(Error::file(path, detail).with_hint("name a new --out"));
        }
        Ok(folder)
    }

    /// The folder that rank 0 has opened, as another rank reads it.
    pub(super) fn of_another(path: &Path) -> Self {
        Self { path: path.into(), is_new: false, lock: None }
    }

    /// The place of a file in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it, without what is hidden, and without a folder of no checkpoints.
    fn names(&self) -> Result<Vec<String>> {
        let mut names = list(&self.path)?;
        let is_empty = list(&self.join(CHECKPOINTS)).is_ok_and(|checkpoints| checkpoints.is_empty());
        names.retain(|name| name != LOCK && !is_leftover(name) && !(name == CHECKPOINTS && is_empty));
        Ok(names)
    }

    /// Removes what a killed run did not finish writing.
    fn remove_leftovers(&self) -> Result<()> {
        for folder in [self.path.clone(), self.join(CHECKPOINTS)] {
            for name in list(&folder)?.into_iter().filter(|name| is_leftover(name)) {
                let path = folder.join(name);
                let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(|e| Error::io(&path, e))?;
            }
        }
        Ok(())
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if self.lock.is_none() || self.join(CONFIG).exists() {
            return;
        }
        if self.is_new {
            copies().for_each(|copy| drop(fs::remove_file(self.join(copy))));
            let _ = fs::remove_dir(self.join(CHECKPOINTS));
        }
        let _ = fs::remove_file(self.join(LOCK));
        let _ = fs::remove_dir(&self.path);
    }
}

fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
    let mut file = file.map_err(|e| Error::io(&path, e))?;
    match file.try_lock() {
        Ok(()) => {
            let written = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
            written.map_err(|e| Error::io(&path, e))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            Err(Error::file(folder, format!("another run is writing here (process {holder})"))
                .with_hint("wait for it, or name another --out"))
        }
        Err(TryLockError::Error(e)) => Err(Error::io(&path, e)),
    }
}

/// What [`crate::io::atomic`] left of a process that died.
fn is_leftover(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".partial")
}

/// The names in a folder, sorted; none where there is no folder.
fn list(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries.collect::<std::io::Result<Vec<_>>>(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => Err(e),
    };
    let entries = entries.map_err(|e| Error::io(folder, e))?;
    let mut names: Vec<String> = entries.iter().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}
