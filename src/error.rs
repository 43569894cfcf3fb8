//! The one error type. Every variant names where it happened (an op, a file, an option) and what was wrong there.

use std::path::{Path, PathBuf};

/// A boxed cause from another library.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A command of these words as a POSIX shell takes it, for hints. Words that cannot be quoted stand as they are.
pub fn command<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let quoted = |word: &'a str| shlex::try_quote(word).unwrap_or(word.into());
    words.into_iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// What went wrong, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Operands of an op do not fit each other: `rmsnorm: weight must be [4096], got [4095]`.
    #[error("{op}: {detail}")]
    Shape {
        /// The op that refused.
        op: &'static str,
        /// Which operand, what it must be and what it is.
        detail: String,
    },
    /// An operand has a dtype the op does not take.
    #[error("{op}: {detail}")]
    DType {
        /// The op that refused.
        op: &'static str,
        /// Which operand, what it must be and what it is.
        detail: String,
    },
    /// A device is missing, out of memory, or cannot do what was asked.
    #[error("{device}: {detail}")]
    Device {
        /// The device, as `--device` spells it.
        device: String,
        /// What it could not do.
        detail: String,
        /// The way out.
        hint: Option<String>,
    },
    /// A file could not be read or written, or does not hold what it should.
    #[error("{}: {detail}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Which tensor, key or record, and what is wrong with it.
        detail: String,
        /// The way out, where there is one.
        hint: Option<String>,
        /// The underlying error.
        source: Option<Source>,
    },
    /// A model hub or package index refused or could not be reached.
    #[error("{repo}: {detail}")]
    Hub {
        /// The repository or package, with its revision.
        repo: String,
        /// What was refused.
        detail: String,
        /// The way out, where there is one.
        hint: Option<String>,
        /// The underlying error.
        source: Option<Source>,
    },
    /// A value that the user gave cannot be used.
    #[error("{name}: {detail}")]
    Input {
        /// The option or argument.
        name: String,
        /// Why it cannot be used.
        detail: String,
        /// The way out, where there is one.
        hint: Option<String>,
    },
    /// Another rank of the same run is gone, or does something else.
    #[error("{detail}")]
    Lost {
        /// Which rank, and what this one waited for.
        detail: String,
    },
}

impl Error {
    /// [`Error::Lost`], in words.
    pub fn lost(detail: impl Into<String>) -> Self {
        Self::Lost { detail: detail.into() }
    }

    /// [`Error::Shape`] of `op`.
    pub fn shape(op: &'static str, detail: impl Into<String>) -> Self {
        Self::Shape { op, detail: detail.into() }
    }

    /// [`Error::DType`] of `op`.
    pub fn dtype(op: &'static str, detail: impl Into<String>) -> Self {
        Self::DType { op, detail: detail.into() }
    }

    /// [`Error::Device`] of `device`.
    pub fn device(device: impl ToString, detail: impl Into<String>) -> Self {
        Self::Device { device: device.to_string(), detail: detail.into(), hint: None }
    }

    /// [`Error::File`] for a file whose content is wrong.
    pub fn file(path: impl AsRef<Path>, detail: impl Into<String>) -> Self {
        Self::File { path: path.as_ref().into(), detail: detail.into(), hint: None, source: None }
    }

    /// [`Error::File`] for a failed read or write.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        let detail = source.to_string();
        Self::File { path: path.as_ref().into(), detail, hint: None, source: Some(source.into()) }
    }

    /// [`Error::Hub`] of a repository or package.
    pub fn hub(repo: impl ToString, detail: impl Into<String>) -> Self {
        Self::Hub { repo: repo.to_string(), detail: detail.into(), hint: None, source: None }
    }

    /// [`Error::Input`] for the option or argument `name`.
    pub fn input(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Input { name: name.into(), detail: detail.into(), hint: None }
    }

    /// The error with a way out, for the variants that carry one.
    #[must_use]
    pub fn with_hint(mut self, text: impl Into<String>) -> Self {
        match &mut self {
            Self::Device { hint, .. } | Self::File { hint, .. } | Self::Hub { hint, .. } | Self::Input { hint, .. } => {
                *hint = Some(text.into());
            }
            Self::Shape { .. } | Self::DType { .. } | Self::Lost { .. } => {}
        }
        self
    }

    /// The error with this way out, unless it has one.
    #[must_use]
    pub fn or_hint(self, text: impl Into<String>) -> Self {
        if self.hint().is_some() { self } else { self.with_hint(text) }
    }

    /// The way out, where there is one.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Device { hint, .. } | Self::File { hint, .. } | Self::Hub { hint, .. } | Self::Input { hint, .. } => {
                hint.as_deref()
            }
            Self::Shape { .. } | Self::DType { .. } | Self::Lost { .. } => None,
        }
    }
}
