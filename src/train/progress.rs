//! What a person sees of long work: a bar on a terminal, and where there is none a line every few seconds.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// The time between two lines where there is no bar: less than the ten seconds after which a log looks dead.
const PAUSE: Duration = Duration::from_secs(8);

/// The time between two looks of a bar that nothing else moves.
const FRAME: Duration = Duration::from_millis(500);

/// Messages and progress on stderr.
pub struct Progress {
    /// `None` where nothing at all is said.
    screen: Option<Arc<Screen>>,
}

/// What is shown, shared with the thread that writes the lines.
#[derive(Default)]
struct Screen {
    shown: Mutex<Shown>,
    ended: Condvar,
}

#[derive(Default)]
struct Shown {
    work: Option<Work>,
    bar: Option<ProgressBar>,
    ended: bool,
}

/// Where work stands.
struct Work {
    what: String,
    /// How many pieces of how many are done, where they can be counted.
    count: Option<(u64, u64)>,
    /// What the last piece has found.
    found: Option<String>,
    begun: Instant,
    /// How long all of it still takes, where that is known.
    left: Option<Duration>,
}

impl Work {
    /// A line that tells all of it.
    fn line(&self) -> String {
        let count = self.count.map_or_else(String::new, |(done, total)| format!(" {done}/{total}"));
        let found = self.found.as_ref().map_or_else(String::new, |found| format!(": {found}"));
        format!("{}{count}{found}, {}", self.what, self.time())
    }

    /// What stands beside a bar.
    fn message(&self) -> String {
        format!("{}, {}", self.found.as_ref().unwrap_or(&self.what), self.time())
    }

    fn time(&self) -> String {
        match self.left {
            Some(left) => format!("{} left", HumanDuration(left)),
            None => format!("{} so far", HumanDuration(self.begun.elapsed())),
        }
    }
}

impl Shown {
    /// Shows where work stands: on the bar, or where there is none in a line.
    fn tell(&mut self) {
        match &self.work {
            Some(_) if self.bar.is_some() => self.refresh(),
            Some(work) => say(work.line()),
            None => {}
        }
    }

    fn refresh(&mut self) {
        if let (Some(work), Some(bar)) = (&self.work, &self.bar) {
            bar.set_position(work.count.map_or_else(|| bar.position() + 1, |(done, _)| done));
            bar.set_message(work.message());
        }
    }
}

impl Screen {
    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows where work stands every so often, until all of it ends.
    fn keep_telling(&self) {
        let pause = if std::io::stderr().is_terminal() { FRAME } else { PAUSE };
        let mut shown = self.shown();
        while !shown.ended {
            let (guard, wait) = self.ended.wait_timeout(shown, pause).unwrap_or_else(PoisonError::into_inner);
            shown = guard;
            if wait.timed_out() {
                shown.tell();
            }
        }
    }
}

impl Progress {
    /// Says nothing at all if `quiet`.
    pub fn new(quiet: bool) -> Self {
        let screen = (!quiet).then(Arc::<Screen>::default);
        if let Some(screen) = screen.clone() {
            // Without the thread there are fewer lines, and nothing else is missing.
            let _ = std::thread::Builder::new().name("progress".into()).spawn(move || screen.keep_telling());
        }
        Self { screen }
    }

    /// Says `message`.
    pub fn note(&self, message: impl Display) {
        self.with(|shown| match &shown.bar {
            Some(bar) => bar.suspend(|| say(message)),
            None => say(message),
        });
    }

    /// Does `work`, and shows meanwhile that `what` is being done.
    pub fn during<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        self.begin(what, None);
        let done = work();
        self.finish();
        done
    }

    /// Does `work` of `total` pieces, which tells how many are behind it.
    pub fn counting<T>(&self, what: &str, total: usize, work: impl FnOnce(&(dyn Fn(usize) + Sync)) -> T) -> T {
        let (total, begun) = (total as u64, Instant::now());
        self.begin(what, Some((0, total)));
        let done = work(&|behind| {
            let behind = behind as u64;
            let left = begun.elapsed().mul_f64(total.saturating_sub(behind) as f64 / behind.max(1) as f64);
            self.update(Some((behind, total)), None, Some(left));
        });
        self.finish();
        done
    }

    /// Steps begin, `first` of `total` behind them.
    pub(super) fn start(&self, first: u64, total: u64) {
        self.begin("step", Some((first, total)));
    }

    /// Step number `step` of `total` is done, and so much time is left.
    pub(super) fn step(&self, step: u64, total: u64, found: String, left: Duration) {
        let is_first = self.update(Some((step, total)), Some(found), Some(left));
        if is_first == Some(true) || step == total {
            self.with(Shown::tell);
        }
    }

    /// An evaluation between steps has `behind` of `all` sequences behind it.
    pub(super) fn evaluating(&self, behind: usize, all: usize) {
        self.update(None, Some(format!("evaluating, {behind} of {all} sequences")), None);
    }

    /// Work is over, or stops here.
    pub(super) fn finish(&self) {
        self.with(|shown| {
            shown.work = None;
            if let Some(bar) = shown.bar.take() {
                bar.finish_and_clear();
            }
        });
    }

    fn begin(&self, what: &str, count: Option<(u64, u64)>) {
        self.with(|shown| {
            if std::io::stderr().is_terminal() {
                let bar = count.map_or_else(ProgressBar::new_spinner, |(_, total)| ProgressBar::new(total));
                shown.bar =
                    Some(bar.with_style(style(count.is_some())).with_position(count.map_or(0, |(first, _)| first)));
            }
            shown.work = Some(Work { what: what.into(), count, found: None, begun: Instant::now(), left: None });
            shown.refresh();
        });
    }

    /// Takes what is new about the work. Whether it is the first that it has found.
    fn update(&self, count: Option<(u64, u64)>, found: Option<String>, left: Option<Duration>) -> Option<bool> {
        self.with(|shown| {
            let work = shown.work.as_mut()?;
            let is_first = work.found.is_none();
            work.count = count.or(work.count);
            work.found = found.or(work.found.take());
            work.left = left.or(work.left);
            shown.refresh();
            Some(is_first)
        })?
    }

    fn with<T>(&self, change: impl FnOnce(&mut Shown) -> T) -> Option<T> {
        self.screen.as_ref().map(|screen| change(&mut screen.shown()))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
        self.with(|shown| shown.ended = true);
        if let Some(screen) = &self.screen {
            screen.ended.notify_all();
        }
    }
}

fn say(message: impl Display) {
    let _ = writeln!(std::io::stderr(), "{message}");
}

fn style(is_counted: bool) -> ProgressStyle {
    let template = if is_counted { "{pos}/{len} [{wide_bar}] {msg}" } else { "{spinner} {msg}" };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
