//! `metrics.jsonl`: one object a line, of a step or of an evaluation.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::io::atomic;

/// A line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// What a step did.
    Step {
        /// Steps so far, this one included.
        step: u64,
        /// Passes over the data so far.
        epoch: f64,
        /// The mean over the step's supervised tokens, before its update.
        loss: f64,
        /// What the update was made with.
        learning_rate: f64,
        /// The norm of all gradients, before it was clipped.
        grad_norm: f64,
        /// All tokens of the step.
        tokens: usize,
        /// Over the time that the step took.
        tokens_per_second: f64,
        /// The most memory that the process ever had, where the system tells.
        peak_rss_bytes: Option<u64>,
        /// The most that tensors held on a GPU so far.
        #[serde(skip_serializing_if = "Option::is_none")]
        peak_device_bytes: Option<usize>,
    },
    /// What an evaluation found after a step.
    Evaluation {
        /// Steps so far.
        step: u64,
        /// The mean over all supervised tokens.
        eval_loss: f64,
        /// `exp(eval_loss)`.
        eval_perplexity: f64,
        /// Supervised tokens.
        eval_tokens: usize,
    },
}

impl Line {
    /// Steps so far.
    pub fn step(&self) -> u64 {
        match self {
            Self::Step { step, .. } | Self::Evaluation { step, .. } => *step,
        }
    }
}

/// The file, open for more lines.
pub(super) struct Metrics {
    path: PathBuf,
    file: File,
    /// What is in it.
    pub(super) lines: Vec<Line>,
}

impl Metrics {
    /// Opens the file after its lines up to `step`; what a run wrote after its last checkpoint goes.
    pub(super) fn open(path: PathBuf, step: u64) -> Result<Self> {
        let text = match std::fs::read_to_string(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&path, e)),
            text => text.unwrap_or_default(),
        };
        let lines = text.lines().map_while(|line| serde_json::from_str::<Line>(line).ok());
        let lines: Vec<Line> = lines.take_while(|line| line.step() <= step).collect();
        let kept: String = text.split_inclusive('\n').take(lines.len()).collect();
        atomic::write_file(&path, |file| file.write_all(kept.as_bytes()).map_err(|e| Error::io(&path, e)))?;
        let file = File::options().append(true).open(&path).map_err(|e| Error::io(&path, e))?;
        Ok(Self { path, file, lines })
    }

    /// Appends a line.
    pub(super) fn write(&mut self, line: Line) -> Result<()> {
        let mut text = serde_json::to_string(&line).map_err(|e| Error::file(&self.path, e.to_string()))?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(|e| Error::io(&self.path, e))?;
        self.lines.push(line);
        Ok(())
    }

    /// Returns when all lines are on the disk.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(&self.path, e))
    }
}

/// The most memory that this process ever had, where the system tells.
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
