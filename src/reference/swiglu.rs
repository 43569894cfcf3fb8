//! `y = gate * sigmoid(gate) * up`. Shazeer 2020, arXiv:2002.05202.

use super::Real;

fn sigmoid<R: Real>(x: R) -> R {
    R::one() / (R::one() + (-x).exp())
}

/// `gate`, `up` `[n]` → `y` `[n]`.
pub fn forward<R: Real>(gate: &[R], up: &[R]) -> Vec<R> {
    gate.iter().zip(up).map(|(&gate, &up)| gate * sigmoid(gate) * up).collect()
}

/// `dy`, `gate`, `up` `[n]` → `dgate`, `dup` `[n]`.
///
/// `dgate = dy * up * s * (1 + gate * (1 - s))`, `dup = dy * gate * s`, where `s = sigmoid(gate)`.
pub fn backward<R: Real>(dy: &[R], gate: &[R], up: &[R]) -> (Vec<R>, Vec<R>) {
    let (mut dgate, mut dup) = (Vec::new(), Vec::new());
    for ((&dy, &gate), &up) in dy.iter().zip(gate).zip(up) {
        let s = sigmoid(gate);
        dgate.push(dy * up * s * (R::one() + gate * (R::one() - s)));
        dup.push(dy * gate * s);
    }
    (dgate, dup)
}
