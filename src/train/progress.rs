//! What a person at the terminal sees of a run: a bar with loss, tokens per second and time left, or lines without one.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// Between two lines where there is no bar.
const PAUSE: Duration = Duration::from_secs(10);

/// Messages and progress on stderr.
pub struct Progress {
    quiet: bool,
    bar: Option<ProgressBar>,
    begun: Instant,
    told: Option<Instant>,
    first: u64,
    total: u64,
}

impl Progress {
    /// Says nothing at all if `quiet`.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, bar: None, begun: Instant::now(), told: None, first: 0, total: 0 }
    }

    /// A message.
    pub fn note(&self, message: impl Display) {
        let say = || {
            let _ = writeln!(std::io::stderr(), "{message}");
        };
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }

    /// Steps begin, `first` of `total` behind them.
    pub(super) fn start(&mut self, first: u64, total: u64) {
        (self.begun, self.first, self.total) = (Instant::now(), first, total);
        if !self.quiet && std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(total).with_style(style()).with_position(first);
            bar.reset_eta();
            self.bar = Some(bar);
        }
    }

    /// Step number `step` is done.
    pub(super) fn step(&mut self, step: u64, loss: f64, tokens_per_second: f64) {
        let message = format!("loss {loss:.4}, {tokens_per_second:.0} tokens/s");
        if let Some(bar) = &self.bar {
            bar.set_position(step);
            bar.set_message(message);
        } else if step == self.total || self.told.is_none_or(|told| told.elapsed() >= PAUSE) {
            self.told = Some(Instant::now());
            self.note(format_args!("step {step}/{}: {message}, {} left", self.total, self.left(step)));
        }
    }

    /// An evaluation has `behind` of `all` sequences behind it.
    pub(super) fn evaluating(&self, behind: usize, all: usize) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("evaluating, {behind} of {all}"));
        }
    }

    /// Steps are over, or stop here.
    pub(super) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn left(&self, step: u64) -> HumanDuration {
        let (done, left) = (step.saturating_sub(self.first).max(1), self.total.saturating_sub(step));
        HumanDuration(self.begun.elapsed().mul_f64(left as f64 / done as f64))
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{pos}/{len} [{wide_bar}] {msg}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
