//! The progress of one file's download on stderr: a bar on a terminal, else a line at its start and at every tenth.

use std::io::{IsTerminal, Write};

use hf_hub::api::Progress;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// Files smaller than this get no lines of their own.
const LINES_FROM: u64 = 16 << 20;

/// Takes hf-hub's reports of one file.
pub enum FileProgress {
    Silent,
    Bar(ProgressBar),
    Lines { name: String, size: u64, done: u64 },
}

impl FileProgress {
    pub fn new(quiet: bool) -> Self {
        match quiet {
            true => Self::Silent,
            false if std::io::stderr().is_terminal() => Self::Bar(ProgressBar::no_length().with_style(style())),
            false => Self::Lines { name: String::new(), size: 0, done: 0 },
        }
    }
}

impl Progress for FileProgress {
    /// Called again, from zero, when the transfer itself begins.
    fn init(&mut self, total: usize, filename: &str) {
        match self {
            Self::Silent => {}
            Self::Bar(bar) => {
                bar.set_message(filename.to_owned());
                bar.set_length(total as u64);
                bar.set_position(0);
            }
            Self::Lines { name, size, done } => {
                if name.is_empty() {
                    say(&format!("fetching {filename} ({})", HumanBytes(total as u64)));
                }
                (*name, *size, *done) = (filename.to_owned(), total as u64, 0);
            }
        }
    }

    fn update(&mut self, count: usize) {
        match self {
            Self::Silent => {}
            Self::Bar(bar) => bar.inc(count as u64),
            Self::Lines { name, size, done } => {
                let tenth = |bytes: u64| (bytes * 10).checked_div(*size).unwrap_or(0);
                let (before, after) = (tenth(*done), tenth(*done + count as u64));
                *done += count as u64;
                if after > before && *size >= LINES_FROM {
                    say(&format!("fetching {name}: {after}0 %"));
                }
            }
        }
    }

    fn finish(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish();
        }
    }
}

/// A line on stderr. One that cannot be written is not missed.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} ({eta})")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
