//! Models in several GGUF files.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vicugna::error::Error;
use vicugna::io::WeightSource;
use vicugna::io::gguf::Gguf;
use vicugna::io::model::ModelFiles;

use super::files::{assert_refused, load};
use super::gguf_file::GgufFile;

const U16: u32 = 2;

fn u16(file: GgufFile, key: &str, value: u16) -> GgufFile {
    file.raw(key, U16, value.to_le_bytes().to_vec())
}

/// The tiny model in three files, the second with nothing but a tensor, as llama-gguf-split writes them.
fn split() -> [GgufFile; 3] {
    let count = GgufFile::tiny().tensor_names().len() as u32;
    let part = |file: GgufFile, number| u16(u16(file, "split.no", number), "split.count", 3);
    let [first, second, third] = GgufFile::tiny().split([4, 1]);
    [part(first, 0).u32("split.tensors.count", count), part(second, 1), part(third, 2)]
}

fn path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("tiny-Q4_0-{number:05}-of-00003.gguf"))
}

fn write(parts: &[GgufFile; 3]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (number, part) in (1..).zip(parts) {
        std::fs::write(path(folder.path(), number), part.bytes()).unwrap();
    }
    folder
}

#[test]
fn any_part_opens_the_whole() {
    let folder = write(&split());
    let whole = GgufFile::tiny().write();
    let whole = Gguf::open(&whole.path).unwrap();
    for number in 1..=3 {
        let set = Gguf::open(path(folder.path(), number)).unwrap();
        assert_eq!(set.path(), path(folder.path(), 1));
        assert_eq!(set.names(), whole.names());
        assert_eq!(set.config().unwrap().hidden_size, whole.config().unwrap().hidden_size);
        for name in set.names() {
            let [a, b] = [&set, &whole].map(|gguf| load(gguf, &name).to_vec::<f32>().unwrap());
            assert!(a == b, "{name}");
        }
        assert_eq!(ModelFiles::open(&path(folder.path(), number)).unwrap().weights().names(), whole.names());
    }
}

#[test]
fn a_missing_part_is_named() {
    let hint = Some("get all of them, and keep them beside each other");
    for (missing, given) in [(1, 2), (2, 1), (3, 2)] {
        let folder = write(&split());
        std::fs::remove_file(path(folder.path(), missing)).unwrap();
        let message = format!("tiny-Q4_0-{missing:05}-of-00003.gguf: is missing: the model is in 3 files");
        assert_refused(Gguf::open(path(folder.path(), given)), folder.path(), &message, hint);
    }
}

#[test]
fn parts_that_contradict_each_other_are_refused_by_key() {
    let refused = |change: &dyn Fn(&mut [GgufFile; 3]), message: &str| {
        let mut parts = split();
        change(&mut parts);
        let folder = write(&parts);
        assert_refused(Gguf::open(path(folder.path(), 1)), folder.path(), message, None);
    };
    let [_, second, third] = GgufFile::tiny().split([4, 1]);
    let numbered = |file: &GgufFile, number, count| u16(u16(file.clone(), "split.no", number), "split.count", count);
    let file = |number| format!("tiny-Q4_0-{number:05}-of-00003.gguf");
    refused(
        &|parts| parts[1] = numbered(&second, 2, 3),
        &format!("{}: metadata key \"split.no\": must be 1 in this file, is 2", file(2)),
    );
    refused(
        &|parts| parts[2] = numbered(&third, 2, 4),
        &format!("{}: metadata key \"split.count\": must be 3 in this file, is 4", file(3)),
    );
    refused(&|parts| parts[2] = third.clone(), &format!("{}: metadata key \"split.no\": is missing", file(3)));
    refused(
        &|parts| parts[2] = numbered(&second, 2, 3),
        &format!("{}: tensor blk.0.attn_v.weight: is in a file before this one too", file(3)),
    );
    refused(
        &|parts| parts[2] = numbered(&GgufFile::tiny().split([9, 1])[2], 2, 3),
        &format!("{}: metadata key \"split.tensors.count\": is 11, but the 3 files hold 6", file(1)),
    );
    let folder = write(&split());
    let renamed = folder.path().join("renamed.gguf");
    std::fs::rename(path(folder.path(), 2), &renamed).unwrap();
    let message = "renamed.gguf: metadata key \"split.count\": the model is in 3 files, but the name of this one does \
                   not end in -00002-of-00003.gguf";
    let hint = Some("give the files the names back that they had");
    assert_refused(Gguf::open(&renamed), folder.path(), message, hint);
}

/// A part of a damaged number of parts is an error at once.
#[test]
fn an_absurd_count_is_refused() {
    let folder = TempDir::new().unwrap();
    let file = GgufFile::tiny().u32("split.no", u32::MAX).u32("split.count", u32::MAX);
    let name = folder.path().join("m-4294967296-of-4294967295.gguf");
    std::fs::write(&name, file.bytes()).unwrap();
    assert!(matches!(Gguf::open(&name), Err(Error::File { .. })));
    let one = GgufFile::tiny().u32("split.no", 0).u32("split.count", 1).write();
    assert!(Gguf::open(&one.path).is_ok());
}
