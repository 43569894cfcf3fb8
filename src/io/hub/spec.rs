//! `ORG/NAME[@revision]`.

use std::fmt;
use std::path::Path;

use hf_hub::{Repo, RepoType};

use super::Kind;
use crate::error::{Error, Result};
use crate::io::missing;

/// A repository on the hub at one of its revisions.
#[derive(Clone, Copy, Debug)]
pub struct Spec<'a> {
    /// `ORG/NAME`.
    pub name: &'a str,
    /// A branch, tag or commit.
    pub revision: &'a str,
}

impl<'a> Spec<'a> {
    /// Reads `text`, which is known to name no existing path. Both parts end up in paths and addresses, so nothing
    /// but the hub's own characters is let through. What can only be the name of a file is none of a repository.
    pub fn parse(text: &'a str, kind: Kind) -> Result<Self> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let is_name = name.split('/').count() == 2 && name.split('/').all(is_word);
        if is_name && !is_file(name) && revision.split('/').all(is_word) {
            return Ok(Self { name, revision });
        }
        Err(no_such_model(text, kind))
    }

    /// The repository as hf-hub takes it, at this revision.
    pub fn repo(&self) -> Repo {
        self.repo_at(self.revision)
    }

    /// The repository at another revision.
    pub fn repo_at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.name.to_owned(), RepoType::Model, revision.to_owned())
    }
}

impl fmt::Display for Spec<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.revision)
    }
}

/// Whether `text` is a commit, which never names anything else.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether `text` is one word of a name or revision, so neither empty nor `..`.
fn is_word(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_edged = text.starts_with(['.', '-']) || text.ends_with(['.', '-']);
    !text.is_empty() && !is_edged && !text.contains("..") && text.chars().all(is_allowed)
}

fn is_file(name: &str) -> bool {
    [".gguf", ".safetensors", ".bin", ".pt", ".git"].iter().any(|ending| name.ends_with(ending))
}

/// The error of a name that stands for nothing here and for no repository.
fn no_such_model(text: &str, kind: Kind) -> Error {
    let names = match kind {
        Kind::Model => "a folder, a .gguf file, ORG/NAME[@revision] on the Hugging Face hub, or smollm2-135m",
        Kind::Adapter => "a folder or ORG/NAME[@revision] on the Hugging Face hub",
    };
    let option = match kind {
        Kind::Model => "--model",
        Kind::Adapter => "--adapter",
    };
    let address = text.contains("://").then(|| format!("of an address, {option} takes ORG/NAME alone"));
    let nearby = address.or_else(|| missing::hint(Path::new(text)));
    if text.contains(['/', '\\']) || is_file(text) || nearby.is_some() {
        let hint = nearby.unwrap_or_else(|| format!("{option} takes {names}"));
        return Error::file(text, "no such file or folder").with_hint(hint);
    }
    Error::input(option, format!("{text:?} is neither a path nor a name")).with_hint(format!("give {names}"))
}
