//! Files of text as people write, save and download them.
//!
//! Every such file is read by [`read`] or [`read_if_there`], and its JSON by [`json`]. They pass over a byte order mark
//! and name what is not the file that it seems to be: a Git LFS pointer, UTF-16, an archive, Python's NaN.

use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;

use super::missing;
use crate::error::{Error, Result};

/// The text of the file `path`, without the byte order mark that some editors put before it.
///
/// # Errors
/// [`Error::File`] if it cannot be opened, is a Git LFS pointer or of a format that is no text, which is named, or is
/// not UTF-8.
pub(crate) fn read(path: &Path) -> Result<String> {
    decode(path, std::fs::read(path).map_err(|e| missing::unopened(path, e))?)
}

/// The text of the file `path` as [`read`] gives it; `None` if there is no such file.
///
/// # Errors
/// Those of [`read`].
pub(crate) fn read_if_there(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => decode(path, bytes).map(Some),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path, e)),
    }
}

fn decode(path: &Path, mut bytes: Vec<u8>) -> Result<String> {
    refuse_pointer(path, &bytes)?;
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let (valid, bytes) = (e.utf8_error().valid_up_to(), e.into_bytes());
        other_format(path, &bytes).unwrap_or_else(|| not_utf8(path, &bytes, valid))
    })?;
    match text.contains('\0').then(|| other_format(path, text.as_bytes())).flatten() {
        Some(error) => Err(error),
        None => Ok(text),
    }
}

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

fn not_utf8(path: &Path, bytes: &[u8], valid: usize) -> Error {
    let line = 1 + bytes.iter().take(valid).filter(|&&byte| byte == b'\n').count();
    Error::file(path, format!("line {line}: not UTF-8 text")).with_hint("save it as UTF-8")
}

/// Refuses what stands in for a file whose download was left out: a Git LFS pointer.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn refuse_pointer(path: &Path, bytes: &[u8]) -> Result<()> {
    if !bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Ok(());
    }
    Err(Error::file(path, "is a Git LFS pointer, not the file itself")
        .with_hint("get the file: `git lfs install`, then `git lfs pull` in its repository; or download it by itself"))
}

/// The error of content that is not what was asked for, if its first bytes show what it is: the format and the way out.
/// Ask only once it is known to be wrong: any text may begin with `GGUF`.
pub(crate) fn other_format(path: &Path, bytes: &[u8]) -> Option<Error> {
    format(bytes).map(|(what, hint)| Error::file(path, format!("is {what}")).with_hint(hint))
}

/// The format that the first bytes show, and what to do about it.
fn format(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let is_utf16 = matches!(bytes, [a, 0, b, 0, ..] | [0, a, 0, b, ..] if *a > 0 && *b > 0);
    let is_page =
        |page: &&[u8]| bytes.trim_ascii_start().get(..page.len()).is_some_and(|b| b.eq_ignore_ascii_case(page));
    let is_zip_with = |name: &[u8]| bytes.starts_with(b"PK\x03\x04") && bytes.windows(name.len()).any(|w| w == name);
    if is_utf16 {
        Some(UTF16)
    } else if [b"<!doctype html".as_slice(), b"<html"].iter().any(is_page) {
        Some(("a web page", "get the file itself: on the hub its address has /resolve/ where the page's has /blob/"))
    } else if matches!(bytes, [0x80, 2..=5, ..]) || is_zip_with(b"/data.pkl") {
        Some((
            "a Python pickle",
            "PyTorch's weights are read under their own names: pytorch_model.bin, adapter_model.bin",
        ))
    } else if is_zip_with(b"xl/workbook.") {
        Some(("an Excel workbook", "save it as \"CSV UTF-8\""))
    } else {
        let known = FORMATS.iter().find(|(magic, ..)| bytes.starts_with(magic));
        known.map(|&(_, what, hint)| (what, hint))
    }
}

const UTF16: (&str, &str) = ("UTF-16 text", "save it as UTF-8, or: iconv -f UTF-16 -t UTF-8 FILE > NEW");
const TABLE: &str = "write it as JSON lines: pandas' to_json(\"train.jsonl\", orient=\"records\", lines=True), \
    or `datasets`' to_json(\"train.jsonl\")";
const UNPACK: &str = "unpack it";

/// How a format's files begin, its name, and the way out.
const FORMATS: &[(&[u8], &str, &str)] = &[
    (b"\xff\xfe\0\0", "UTF-32 text", "save it as UTF-8"),
    (b"\xff\xfe", UTF16.0, UTF16.1),
    (b"\xfe\xff", UTF16.0, UTF16.1),
    (b"\x1f\x8b", "compressed by gzip", "unpack it: gunzip FILE"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it: unzstd FILE"),
    (b"\xfd7zXZ\0", "compressed by xz", "unpack it: unxz FILE"),
    (b"BZh", "compressed by bzip2", "unpack it: bunzip2 FILE"),
    (b"PK\x03\x04", "a zip archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", UNPACK),
    (b"\xd0\xcf\x11\xe0", "an old Office document", "save it as \"CSV UTF-8\""),
    (b"PAR1", "a Parquet file", TABLE),
    (b"ARROW1", "an Arrow file", TABLE),
    (b"\xff\xff\xff\xff", "an Arrow stream", TABLE),
    (b"GGUF", "a GGUF file", "a model in a .gguf file is given as --model"),
    (b"%PDF", "a PDF", "save its text"),
    (b"\0\0\0\0\0\0\0\0", "zeros at its beginning, as a broken download leaves them", "get it again"),
];

/// The JSON in `text`, which begins `skipped` lines into the file `path`.
///
/// # Errors
/// [`Error::File`], which names line and column, and what Python writes that is no JSON.
pub(crate) fn json<'de, T: Deserialize<'de>>(path: &Path, text: &'de str, skipped: usize) -> Result<T> {
    serde_json::from_str(text).map_err(|e| {
        if let Some(error) = other_format(path, text.as_bytes()) {
            return error;
        }
        let place = format!("line {}, column {}", skipped + e.line(), e.column());
        let line = text.split('\n').nth(e.line().saturating_sub(1)).unwrap_or_default();
        if let Some((culprit, hint)) = culprit(line, e.column().saturating_sub(1)) {
            return Error::file(path, format!("{place}: {culprit}")).with_hint(hint);
        }
        let message = e.to_string();
        let reason = message.rsplit_once(" at line ").map_or(message.as_str(), |(reason, _)| reason);
        Error::file(path, format!("{place}: {reason}"))
    })
}

/// What stands at byte `at` of a line, if it is something that is often taken for JSON, and the way out.
fn culprit(line: &str, at: usize) -> Option<(String, &'static str)> {
    if line.contains('\0') {
        return Some(("a NUL byte".into(), "the file was not written to its end: get it again"));
    }
    let (before, after) = (line.get(..at)?, line.get(at..)?);
    let is_letter = |c: char| c.is_ascii_alphabetic();
    let rest = after.trim_start_matches(is_letter);
    let start = before.trim_end_matches(is_letter).len();
    let word = if rest.len() < after.len() { line.get(start..line.len() - rest.len())? } else { "" };
    match word {
        "NaN" | "Infinity" | "nan" | "inf" => Some((
            format!("{word} is not a number in JSON"),
            "write null or a number; Python's json.dump(…, allow_nan=False) finds where it comes from",
        )),
        "None" | "True" | "False" => Some((format!("{word} is Python, not JSON"), "write the file with json.dump")),
        _ if after.starts_with('\'') => {
            Some(("JSON quotes with \", not with '".into(), "write the file with json.dump"))
        }
        _ => None,
    }
}
