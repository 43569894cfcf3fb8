//! How long a run still takes.

use std::time::Duration;

/// How long its steps and its evaluations took so far.
#[derive(Debug, Default)]
pub(super) struct Pace {
    steps: Mean,
    evaluations: Mean,
    /// What an evaluation costs, in training steps, as long as none was made.
    evaluation_in_steps: f64,
}

#[derive(Debug, Default)]
struct Mean {
    seconds: f64,
    count: u32,
}

impl Mean {
    fn add(&mut self, time: Duration) {
        self.seconds += time.as_secs_f64();
        self.count += 1;
    }

    fn get(&self) -> Option<f64> {
        (self.count > 0).then(|| self.seconds / f64::from(self.count))
    }
}

impl Pace {
    /// The pace of a run whose steps have `step_tokens` on average, and whose evaluations have `evaluation_tokens`. Of a
    /// step's time the forward pass, which an evaluation is, takes a third.
    pub(super) fn new(step_tokens: f64, evaluation_tokens: usize) -> Self {
        Self { evaluation_in_steps: evaluation_tokens as f64 / step_tokens.max(1.0) / 3.0, ..Self::default() }
    }

    /// A step took so long.
    pub(super) fn step(&mut self, time: Duration) {
        self.steps.add(time);
    }

    /// An evaluation took so long.
    pub(super) fn evaluation(&mut self, time: Duration) {
        self.evaluations.add(time);
    }

    /// How long so many more steps and evaluations take.
    pub(super) fn left(&self, steps: u64, evaluations: u64) -> Duration {
        let step = self.steps.get().unwrap_or(0.0);
        let evaluation = self.evaluations.get().unwrap_or(step * self.evaluation_in_steps);
        let seconds = steps as f64 * step + evaluations as f64 * evaluation;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// How many evaluations or the like come in the steps after `step` up to `total`: one every so many steps, or where that is
/// 0 one an epoch of `steps_in_epoch`, and one at the end.
pub(super) fn times_left(step: u64, total: u64, every: u64, steps_in_epoch: u64) -> u64 {
    match every {
        _ if step >= total => 0,
        0 => total.saturating_sub(step).div_ceil(steps_in_epoch.max(1)),
        every => total.div_ceil(every).saturating_sub(step / every),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_left_are_those_that_come() {
        for (total, every) in [(10, 1), (10, 3), (10, 5), (10, 10), (10, 20), (1, 1), (7, 2)] {
            for step in 0..=total {
                let come = (step + 1..=total).filter(|step| step % every == 0 || *step == total).count() as u64;
                assert_eq!(times_left(step, total, every, 4), come, "after {step} of {total}, every {every}");
            }
        }
        assert_eq!([0, 4, 5, 8, 12].map(|step| times_left(step, 12, 0, 4)), [3, 2, 2, 1, 0]);
    }

    #[test]
    fn time_left_counts_evaluations() {
        let mut pace = Pace::new(100.0, 600);
        pace.step(Duration::from_secs(1));
        pace.step(Duration::from_secs(3));
        assert_eq!(
            pace.left(5, 2),
            Duration::from_secs(5 * 2 + 2 * 4),
            "an evaluation is two steps' time, by its tokens"
        );
        pace.evaluation(Duration::from_secs(10));
        assert_eq!(pace.left(5, 2), Duration::from_secs(5 * 2 + 2 * 10));
        assert_eq!(pace.left(0, 0), Duration::ZERO);
    }
}
