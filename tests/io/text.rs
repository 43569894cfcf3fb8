//! Files that are not what their names say, whoever reads them.

use std::path::Path;

use tempfile::TempDir;
use vicugna::data::records::{Prompting, read};
use vicugna::error::{Error, Result};
use vicugna::io::config::read_config;
use vicugna::io::gguf::Gguf;
use vicugna::io::safetensors::Checkpoint;
use vicugna::io::tokenizer::Tokenizer;

const POINTER: &[u8] =
    b"version https://git-lfs.github.com/spec/v1\noid sha256:5d5cfac81a6a71bf8b2a0a7e0e7a3a4c\nsize 9\n";

type Reader = fn(&Path) -> Result<()>;

/// One reader of each kind, and the file of a folder that it opens.
const READERS: [(&str, Reader); 7] = [
    ("config.json", |folder| read_config(folder).map(drop)),
    ("model.safetensors", |folder| Checkpoint::open(folder).map(drop)),
    ("model.safetensors.index.json", |folder| Checkpoint::open(folder).map(drop)),
    ("model.gguf", |folder| Gguf::open(folder.join("model.gguf")).map(drop)),
    ("tokenizer.json", |folder| Tokenizer::from_folder(folder).map(drop)),
    ("train.jsonl", |folder| read(folder, &Prompting::default()).map(drop)),
    ("template.json", |folder| {
        std::fs::write(folder.join("train.jsonl"), "{}").unwrap();
        read(folder, &Prompting::default()).map(drop)
    }),
];

/// What `read` says of a file `name` with this content, in which it must be named.
fn refusal(name: &str, content: &[u8], read: Reader) -> (String, String) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, content).unwrap();
    let error = read(folder.path()).unwrap_err();
    assert!(matches!(&error, Error::File { path, .. } if *path == file), "{error}");
    (error.to_string(), error.hint().unwrap_or_default().to_owned())
}

#[test]
fn a_pointer_of_git_lfs_is_named_by_every_reader() {
    for (name, read) in READERS {
        let (message, hint) = refusal(name, POINTER, read);
        assert!(message.ends_with(&format!("{name}: is a Git LFS pointer, not the file itself")), "{message}");
        assert!(hint.contains("git lfs pull"), "{name}: {hint}");
    }
}

#[test]
fn other_formats_are_named_by_their_first_bytes() {
    let formats: [(&[u8], &str, &str); 18] = [
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "is compressed by gzip", "gunzip"),
        (b"\x28\xb5\x2f\xfd\x24\0\x01\0\0", "is compressed by zstd", "unzstd"),
        (b"\xfd7zXZ\0\0\x04", "is compressed by xz", "unxz"),
        (b"BZh91AY&SY\xd2\xa1", "is compressed by bzip2", "bunzip2"),
        (b"PK\x03\x04\x14\0\0\0a.jsonl\0", "is a zip archive", "unpack"),
        (b"PK\x03\x04\x14\0\0\0[Content_Types].xml\0xl/workbook.xml", "is an Excel workbook", "CSV UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old Office document", "CSV UTF-8"),
        (b"PAR1\x15\x04\x15\0\0", "is a Parquet file", "to_json"),
        (b"ARROW1\0\0\xff\xff", "is an Arrow file", "to_json"),
        (b"\xff\xff\xff\xff\x38\0\0\0", "is an Arrow stream", "to_json"),
        (b"\xff\xfe{\0\"\0", "is UTF-16 text", "UTF-8"),
        (b"\xfe\xff\0{\0\"", "is UTF-16 text", "UTF-8"),
        (b"{\0\"\0a\0\"\0", "is UTF-16 text", "UTF-8"),
        (b"\0{\0\"\0a\0\"", "is UTF-16 text", "UTF-8"),
        (b"\0\0\0\0\0\0\0\0\0\0", "is zeros at its beginning", "get it again"),
        (b"\x80\x02}q\0.\0\0\0", "is a Python pickle", "pytorch_model.bin"),
        (b"PK\x03\x04\0\0model/data.pkl\0", "is a Python pickle", "pytorch_model.bin"),
        (b"<!DOCTYPE html>\n<html class=\"\">", "is a web page", "/resolve/"),
    ];
    for (content, says, way_out) in formats {
        for (name, read) in READERS {
            let (message, hint) = refusal(name, content, read);
            assert!(message.contains(says), "{name}, {content:?}: {message}");
            assert!(hint.contains(way_out), "{name}, {content:?}: {hint}");
        }
    }
    let read = READERS[5].1;
    assert!(refusal("train.jsonl", b"GGUF\x03\0\0\0\xff", read).0.ends_with("is a GGUF file"));
}

/// Text may begin as a format does.
#[test]
fn words_are_no_format() {
    for text in
        ["GGUF is a format.", "PAR1 was a tee.", "BZh, he said.", "<html>\nA page to learn.", "%PDF is how it begins"]
    {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("a.txt");
        std::fs::write(&file, text).unwrap();
        assert_eq!(read(&file, &Prompting::default()).unwrap().0.len(), 1, "{text}");
    }
}

#[test]
fn what_is_no_json_is_told_by_its_word() {
    for (line, says, way_out) in [
        (r#"{"instruction": "a", "context": NaN, "response": "b"}"#, "column 33: NaN is not a number in JSON", "null"),
        (r#"{"a": [1.0, -Infinity]}"#, "column 14: Infinity is not a number in JSON", "null"),
        (r#"{"a": nan}"#, "nan is not a number in JSON", "null"),
        (r#"{"a": None}"#, "column 7: None is Python, not JSON", "json.dump"),
        (r#"{"a": True}"#, "column 7: True is Python, not JSON", "json.dump"),
        ("{'a': 1}", "column 2: JSON quotes with \", not with '", "json.dump"),
        ("{\"a\": 1}\0\0\0", "column 9: a NUL byte", "get it again"),
        ("\0\0\0", "column 1: a NUL byte", "get it again"),
        ("{\"a\": \"b\0\0", ": a NUL byte", "get it again"),
        ("{\"a\": \"énone None\t\"}", "control character", "one JSON object a line"),
        (r#"{"a": 1,}"#, "column 9: trailing comma", "one JSON object a line"),
    ] {
        let content = format!("{{\"text\": \"fine\"}}\n{line}\n");
        let (message, hint) = refusal("train.jsonl", content.as_bytes(), READERS[5].1);
        assert!(message.contains("train.jsonl: line 2, column ") && message.contains(says), "{line}: {message}");
        assert!(hint.contains(way_out), "{line}: {hint}");
    }
    for number in ["Infinity", "NaN", "-Infinity"] {
        let config = format!("{{\n  \"rope_theta\": {number}\n}}");
        let (message, hint) = refusal("config.json", config.as_bytes(), READERS[0].1);
        assert!(message.contains(&format!("line 2, column {}", 17 + number.starts_with('-') as u8)), "{message}");
        assert!(message.ends_with(&format!("{} is not a number in JSON", number.trim_start_matches('-'))), "{message}");
        assert!(hint.contains("null or a number"), "{hint}");
    }
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), format!("\u{feff}{text}")).unwrap();
    write("train.jsonl", "{\"q\": \"a\", \"a\": \"b\"}\n");
    write("template.json", r#"{"prompt": "{q}", "completion": "{a}"}"#);
    write("config.json", r#"{"model_type": "llama"}"#);
    assert_eq!(read(folder.path(), &Prompting::default()).unwrap().0.len(), 1);
    assert_eq!(read_config(folder.path()).unwrap().hidden_size, 4096);
}
