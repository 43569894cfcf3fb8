//! What a command says, and where.

use std::io::Write;

use serde::Serialize;

use crate::error::{Error, Result};

/// The global options on output.
pub(super) struct Report {
    pub(super) json: bool,
    pub(super) quiet: bool,
}

impl Report {
    /// A message for the person at the terminal.
    pub(super) fn note(&self, message: impl std::fmt::Display) {
        if !self.quiet {
            eprintln!("{message}");
        }
    }

    /// A command's result: as JSON, or as `text`.
    pub(super) fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        let line = match self.json {
            true => serde_json::to_string(value).map_err(|e| Error::input("--json", e.to_string()))?,
            false => text(),
        };
        self.print(&line)?;
        self.print("\n")
    }

    /// Text on stdout, at once. A reader that has gone away is not an error.
    pub(super) fn print(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("stdout", e)),
            _ => Ok(()),
        }
    }
}
