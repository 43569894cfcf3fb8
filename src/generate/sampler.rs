//! The choice of a token from logits.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};

/// How a token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 chooses the largest.
    pub temperature: f32,
    /// Only the most likely tokens that together reach this probability.
    pub top_p: f32,
    /// Only the `top_k` most likely tokens; 0 is all.
    pub top_k: usize,
    /// What the choices depend on.
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, top_k: 0, seed: 0 };
}

/// [`Sampling`] with the state of its random numbers.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// A sampler at its first token.
    ///
    /// # Errors
    /// [`Error::Input`] if the temperature is negative or `top_p` is outside (0, 1].
    pub fn new(sampling: Sampling) -> Result<Self> {
        if !(sampling.temperature >= 0.0 && sampling.temperature.is_finite()) {
            return Err(Error::input("--temperature", format!("must be at least 0, got {}", sampling.temperature)));
        }
        if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
            return Err(Error::input("--top-p", format!("must be above 0 and at most 1, got {}", sampling.top_p)));
        }
        Ok(Self { sampling, rng: ChaCha8Rng::seed_from_u64(sampling.seed) })
    }

    /// Chooses from the logits of all tokens; among equals the first.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        if self.sampling.temperature == 0.0 {
            return argmax(logits);
        }
        let candidates = self.candidates(logits);
        let total: f64 = candidates.iter().map(|&(_, p)| p).sum();
        let mut left = self.rng.random::<f64>() * total;
        for &(id, p) in &candidates {
            left -= p;
            if left < 0.0 {
                return id;
            }
        }
        candidates.last().map_or(0, |&(id, _)| id)
    }

    /// The tokens that may be chosen, most likely first, with unnormalised probabilities.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let Sampling { temperature, top_p, top_k, .. } = self.sampling;
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let by_logit = |&a: &u32, &b: &u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
        if top_k > 0 && top_k < order.len() {
            order.select_nth_unstable_by(top_k - 1, by_logit);
            order.truncate(top_k);
        }
        order.sort_unstable_by(by_logit);
        let largest = order.first().map_or(0.0, |&id| logits[id as usize]);
        let weight = |id: u32| f64::from((logits[id as usize] - largest) / temperature).exp();
        let mut candidates: Vec<(u32, f64)> = order.into_iter().map(|id| (id, weight(id))).collect();
        let enough = f64::from(top_p) * candidates.iter().map(|&(_, p)| p).sum::<f64>();
        let before = candidates.iter().scan(0.0, |sum, &(_, p)| {
            *sum += p;
            Some(*sum - p)
        });
        let kept = before.take_while(|&sum| sum < enough).count();
        candidates.truncate(kept.max(1));
        candidates
    }
}

/// The index of the largest value; among equals the first.
pub fn argmax(values: &[f32]) -> u32 {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
        let mut sampler = Sampler::new(sampling).unwrap();
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            counts[sampler.choose(logits) as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    /// Five standard deviations of a frequency over 20,000 draws are below 0.018.
    fn assert_close(found: &[f64], expected: &[f64]) {
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 0.018, "{found:?} is not {expected:?}");
        }
    }

    #[test]
    fn draws_follow_the_softmax_at_the_temperature() {
        let logits = [0.0, 4f32.ln(), 2f32.ln(), f32::NEG_INFINITY];
        let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, seed: 7 };
        assert_close(&frequencies(sampling, &logits), &[1.0 / 7.0, 4.0 / 7.0, 2.0 / 7.0, 0.0]);
        let cold = Sampling { temperature: 0.5, ..sampling };
        assert_close(&frequencies(cold, &logits), &[1.0 / 21.0, 16.0 / 21.0, 4.0 / 21.0, 0.0]);
    }

    #[test]
    fn top_k_and_top_p_keep_the_most_likely() {
        let logits = [0.0, 4f32.ln(), 2f32.ln(), 3f32.ln()];
        let all = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, seed: 7 };
        assert_close(&frequencies(Sampling { top_k: 2, ..all }, &logits), &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        // 0.4 + 0.3 reach 0.65; 0.4 alone reaches 0.35.
        assert_close(&frequencies(Sampling { top_p: 0.65, ..all }, &logits), &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        assert_close(&frequencies(Sampling { top_p: 0.35, ..all }, &logits), &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn equal_seeds_draw_equal_tokens() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 * 0.3).collect();
        let draw = |seed| {
            let mut sampler = Sampler::new(Sampling { temperature: 1.0, top_p: 0.9, top_k: 20, seed }).unwrap();
            (0..50).map(|_| sampler.choose(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn bad_options_are_named() {
        let error = Sampler::new(Sampling { temperature: -1.0, ..Sampling::GREEDY }).unwrap_err();
        assert_eq!(error.to_string(), "--temperature: must be at least 0, got -1");
        let error = Sampler::new(Sampling { top_p: 0.0, ..Sampling::GREEDY }).unwrap_err();
        assert_eq!(error.to_string(), "--top-p: must be above 0 and at most 1, got 0");
    }
}
