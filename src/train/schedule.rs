//! The learning rate of each step, as transformers' `get_scheduler` and llama-recipes' `StepLR` have it.

use super::options::{LrSchedule, Options};
use super::plan::Plan;

/// The learning rate of step number `step`, counted from 0, in epoch number `epoch`.
pub(super) fn learning_rate(options: &Options, plan: &Plan, step: u64, epoch: u64) -> f64 {
    let warmup = match (options.warmup_steps, options.warmup_ratio) {
        (0, Some(ratio)) => (plan.total() as f64 * ratio).ceil() as u64,
        (steps, _) => steps,
    };
    if step < warmup {
        return options.learning_rate * step as f64 / warmup as f64;
    }
    let left = 1.0 - (step - warmup) as f64 / plan.total().saturating_sub(warmup).max(1) as f64;
    let factor = match options.lr_schedule.unwrap_or(LrSchedule::Constant) {
        LrSchedule::Constant => 1.0,
        LrSchedule::Step => options.gamma.unwrap_or(1.0).powi(i32::try_from(epoch).unwrap_or(i32::MAX)),
        LrSchedule::Linear => left,
        LrSchedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * (1.0 - left)).cos()),
    };
    options.learning_rate * factor
}
