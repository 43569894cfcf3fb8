//! From files of records to batches of tokens.

mod batches;
mod chat;
mod records;
mod tokenize;
mod whole_text;

use std::path::PathBuf;

use tempfile::TempDir;

/// A folder with these files.
fn folder<const N: usize>(files: [(&str, &str); N]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

/// A folder and the one file in it.
fn file(name: &str, content: &str) -> (TempDir, PathBuf) {
    let folder = folder([(name, content)]);
    let path = folder.path().join(name);
    (folder, path)
}
