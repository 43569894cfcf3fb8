//! How far from its specification a result may be.

use super::Terms;

/// One result of a specification, evaluated three ways, as [`expected!`](crate::expected) does.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The right answer.
    pub exact: Vec<f64>,
    /// The formula in f32, from left to right.
    pub rounded: Vec<f32>,
    /// With the sums of |terms|.
    pub terms: Vec<Terms>,
}

/// The largest error of a result, and the largest that is allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Errors {
    /// The error of the result.
    pub worst: f64,
    /// Twice the largest error of `rounded`, stored as the result is, plus 2 ulp of the largest sum of |terms|.
    pub bound: f64,
}

impl Errors {
    /// Whether the result is right. It is not if its error is NaN.
    pub fn within(&self) -> bool {
        self.worst <= self.bound
    }
}

impl Expected {
    /// The errors of `found`, whose storage type `round` rounds to and has `digits` bits behind the leading one.
    pub fn errors(&self, found: &[f64], round: impl Fn(f64) -> f64, digits: i32) -> Errors {
        let error =
            |values: &mut dyn Iterator<Item = f64>| largest(values.zip(&self.exact).map(|(v, e)| (v - e).abs()));
        let naive = error(&mut self.rounded.iter().map(|&v| round(f64::from(v))));
        let ulp = ulp(largest(self.terms.iter().map(|t| t.sum)), digits);
        Errors { worst: error(&mut found.iter().copied()), bound: 2.0 * naive + 2.0 * ulp }
    }
}

/// Evaluates `$body` with `$real` standing for f64, f32 and [`Terms`](crate::reference::Terms).
#[macro_export]
#[doc(hidden)]
macro_rules! expected {
    ($real:ident => $body:expr) => {{
        let exact = {
            type $real = f64;
            $body
        };
        let rounded = {
            type $real = f32;
            $body
        };
        let terms = {
            type $real = $crate::reference::Terms;
            $body
        };
        $crate::reference::tolerance::Expected { exact, rounded, terms }
    }};
}

/// The largest of 0 and `values`; NaN if any is NaN. Kept out of line: see CONTRIBUTING.md on the compiler's loop vectoriser.
#[inline(never)]
pub fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |a, b| {
        if a >= b {
            a
        } else if b.is_nan() || a.is_nan() {
            f64::NAN
        } else {
            b
        }
    })
}

/// The distance between neighbouring values near `value`.
fn ulp(value: f64, digits: i32) -> f64 {
    if value == 0.0 { 0.0 } else { 2f64.powf(value.abs().log2().floor() - f64::from(digits)) }
}
