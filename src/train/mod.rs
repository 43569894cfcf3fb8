//! Fine-tuning: options, data, the loop, and what a run leaves in its folder.
//!
//! [`Run::finetune`] is `vicugna finetune`; [`evaluate`] and [`read`] are what `vicugna eval` is made of.

mod config;
mod dead;
mod evaluate;
mod examples;
mod fingerprint;
mod folder;
mod metrics;
mod nonfinite;
mod options;
mod pace;
mod plan;
mod plot;
mod progress;
mod ranks;
mod run;
mod schedule;
mod session;
mod step;
mod stored;
mod weights;

pub use config::scheme;
pub use evaluate::{Evaluation, evaluate};
pub use examples::{Examples, read};
pub use folder::{CONFIG, METRICS, TEMPLATE, run_folder};
pub use metrics::{Line, peak_rss_bytes};
pub use options::{DataOptions, LrSchedule, Options};
pub use progress::Progress;
pub use ranks::finetune_on_threads;
pub use run::{Run, Summary};
