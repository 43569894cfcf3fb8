//! Writing in full or not at all: beside the goal first, synced to disk, then renamed into place.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::missing;
use crate::error::{Error, Result};

/// Writes the file `path`, or the one it links to. If `write` or the disk fails, what was there before is still there,
/// and nothing else is.
///
/// # Errors
/// What `write` returns, and [`Error::File`] if `path` is a folder or a device, or the file cannot be created, synced or
/// renamed.
pub fn write_file(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let goal = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    if goal.exists() && !goal.is_file() {
        return Err(Error::file(path, "is there already, and not a file"));
    }
    let beside = Beside::new(&goal, parent(&goal))?;
    let file = File::create(&beside.path).map_err(|e| Error::io(path, e))?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    write(&mut writer)?;
    writer.flush().and_then(|()| writer.get_ref().sync_all()).map_err(|e| Error::io(path, e))?;
    beside.rename()
}

/// Writes the folder `path`, which must not exist or be empty, by calling `fill` with a folder beside it. Folders above
/// it are made once it is whole.
///
/// # Errors
/// What `fill` returns, and [`Error::File`] if `path` holds anything or the folder cannot be created or renamed.
pub fn write_folder(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    missing::refuse_tilde(path)?;
    refuse_occupied(path)?;
    let mut folder = parent(path);
    while !folder.exists() {
        folder = parent(folder);
    }
    let beside = Beside::new(path, folder)?;
    fs::create_dir(&beside.path).map_err(|e| Error::io(path, e))?;
    fill(&beside.path)?;
    for entry in fs::read_dir(&beside.path).map_err(|e| Error::io(path, e))? {
        let entry = entry.map_err(|e| Error::io(path, e))?;
        File::open(entry.path()).and_then(|file| file.sync_all()).map_err(|e| Error::io(path, e))?;
    }
    sync_folder(&beside.path)?;
    fs::create_dir_all(parent(path)).map_err(|e| Error::io(path, e))?;
    beside.rename()
}

fn refuse_occupied(path: &Path) -> Result<()> {
    let occupied = match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(Error::io(path, e)),
    };
    if !occupied {
        return Ok(());
    }
    Err(Error::file(path, "is there already and not empty").with_hint("name a new folder, or remove this one first"))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

/// The unfinished file or folder, hidden in `folder` under a name of this process' own. Dropped before it is renamed, it
/// is removed.
struct Beside {
    path: PathBuf,
    goal: PathBuf,
}

impl Beside {
    fn new(goal: &Path, folder: &Path) -> Result<Self> {
        let Some(name) = goal.file_name() else {
            return Err(Error::file(goal, "is not the name of a file or folder"));
        };
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.partial", std::process::id()));
        Ok(Self { path: folder.join(hidden), goal: goal.into() })
    }

    fn rename(self) -> Result<()> {
        fs::rename(&self.path, &self.goal).map_err(|e| Error::io(&self.goal, e))?;
        sync_folder(parent(&self.goal))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Makes the names in a folder last; only Unix has a way to.
fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(path).and_then(|folder| folder.sync_all()).map_err(|e| Error::io(path, e))?;
    }
    Ok(())
}
