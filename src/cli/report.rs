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
            say(message);
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

    /// Text on stdout, at once. Where nobody reads it any more, the process has nothing left to do.
    pub(super) fn print(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
            Err(e) => Err(Error::io("stdout", e)),
        }
    }
}

/// A line on stderr. One that cannot be written is not missed.
pub(super) fn say(message: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{message}");
}
