//! Paths at which nothing is, and what may be meant by them.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The error of a path that cannot be opened; where nothing is there, with what may be meant.
pub(crate) fn unopened(path: &Path, source: io::Error) -> Error {
    let is_missing = source.kind() == io::ErrorKind::NotFound;
    let error = Error::io(path, source);
    match is_missing.then(|| hint(path)).flatten() {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// What may be meant by `path`, at which nothing is.
pub(crate) fn hint(path: &Path) -> Option<String> {
    written_out(path).or_else(|| Some(format!("did you mean {}?", nearby(path)?.display())))
}

/// Refuses to write to a path that begins with `~`, which would make a folder of that name.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn refuse_tilde(path: &Path) -> Result<()> {
    let refuse = |hint: String| Error::file(path, "begins with ~, which is no folder").with_hint(hint);
    written_out(path).filter(|_| !Path::new("~").exists()).map_or(Ok(()), |hint| Err(refuse(hint)))
}

/// The way out for a path that begins with `~`.
fn written_out(path: &Path) -> Option<String> {
    let whole = std::env::home_dir()?.join(path.strip_prefix("~").ok()?);
    Some(format!("a shell replaces ~ only outside of quotes: write {}", whole.display()))
}

/// The path that exists and differs from `path` in the spelling of its first component that does not exist.
pub(crate) fn nearby(path: &Path) -> Option<PathBuf> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing = path.ancestors().take_while(is_missing).last()?;
    let rest = path.strip_prefix(missing).ok()?;
    let name = missing.file_name()?.to_str()?;
    let folder = missing.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = std::fs::read_dir(folder).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let near = found.filter_map(|other| Some((distance(name, &other)?, other)));
    let whole = near.map(|(distance, other)| {
        let other = missing.with_file_name(&other);
        (distance, if rest.as_os_str().is_empty() { other } else { other.join(rest) })
    });
    whole.filter(|(_, path)| path.exists()).min().map(|(_, path)| path)
}

/// How many slips lie between two names, if they are few. Capitals and kinds of dashes are none; names whose numbers
/// differ name different things.
fn distance(a: &str, b: &str) -> Option<usize> {
    const MOST: usize = 2;
    let [a, b] = [a, b].map(|name| name.to_lowercase().replace('_', "-"));
    let digits = |name: &str| name.chars().filter(char::is_ascii_digit).collect::<String>();
    let lacks_ending = Path::new(&b).file_stem() == Some(a.as_ref());
    let distance = if lacks_ending { MOST } else { strsim::damerau_levenshtein(&a, &b) };
    let is_near = lacks_ending || distance <= MOST && 2 * distance < a.len().min(b.len());
    (is_near && digits(&a) == digits(&b)).then_some(distance)
}
