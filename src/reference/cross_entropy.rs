//! `loss = sum over rows of -log softmax(hidden · lm_headᵀ)[target] / normalizer`; rows with target -100 do not count.

use super::Real;

/// `hidden` `[rows, H]`, `lm_head` `[V, H]`, `targets` `[rows]` → the loss.
pub fn forward<R: Real>(hidden: &[R], lm_head: &[R], targets: &[i32], normalizer: f64) -> R {
    let mut sum = R::zero();
    for (row, target) in counted(hidden, targets) {
        let logits = logits(row, lm_head);
        let (max, total) = max_and_total(&logits);
        sum = sum + total.ln() - (logits[target] - max);
    }
    sum / R::from_f64(normalizer)
}

/// `dy` a scalar → `dhidden` `[rows, H]`, `dlm_head` `[V, H]`, through `dlogits = dy * (softmax - onehot) / normalizer`.
pub fn backward<R: Real>(dy: R, hidden: &[R], lm_head: &[R], targets: &[i32], normalizer: f64) -> (Vec<R>, Vec<R>) {
    let h = hidden.len() / targets.len();
    let (mut dhidden, mut dlm_head) = (Vec::new(), vec![R::zero(); lm_head.len()]);
    for (row, &target) in hidden.chunks(h).zip(targets) {
        let mut drow = vec![R::zero(); h];
        if target != -100 {
            let logits = logits(row, lm_head);
            let (max, total) = max_and_total(&logits);
            for (class, &logit) in logits.iter().enumerate() {
                let onehot = if class == target as usize { R::one() } else { R::zero() };
                let dlogit = dy * ((logit - max).exp() / total - onehot) / R::from_f64(normalizer);
                for i in 0..h {
                    drow[i] = drow[i] + dlogit * lm_head[class * h + i];
                    dlm_head[class * h + i] = dlm_head[class * h + i] + dlogit * row[i];
                }
            }
        }
        dhidden.extend(drow);
    }
    (dhidden, dlm_head)
}

fn counted<'a, R>(hidden: &'a [R], targets: &'a [i32]) -> impl Iterator<Item = (&'a [R], usize)> {
    let rows = hidden.chunks(hidden.len() / targets.len()).zip(targets);
    rows.filter(|(_, target)| **target != -100).map(|(row, target)| (row, *target as usize))
}

fn logits<R: Real>(row: &[R], lm_head: &[R]) -> Vec<R> {
    let dot = |w: &[R]| row.iter().zip(w).fold(R::zero(), |sum, (&x, &w)| sum + x * w);
    lm_head.chunks(row.len()).map(dot).collect()
}

fn max_and_total<R: Real>(logits: &[R]) -> (R, R) {
    let max = logits.iter().fold(logits[0], |max, &logit| if logit > max { logit } else { max });
    (max, logits.iter().fold(R::zero(), |sum, &logit| sum + (logit - max).exp()))
}
