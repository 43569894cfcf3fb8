//! Rounding of exact values to any narrower format, in any direction.

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// To nearest, ties to even.
    Nearest,
    /// To nearest, ties away from zero.
    NearestAway,
    Zero,
    Down,
    Up,
}

/// A binary format that f64 contains.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    /// Bits of the significand, the hidden one too.
    pub precision: i32,
    /// Exponent of the smallest normal number.
    pub least: i32,
    /// The largest finite value.
    pub most: f64,
}

pub(crate) const F32: Format = Format { precision: 24, least: -126, most: f32::MAX as f64 };
pub(crate) const F16: Format = Format { precision: 11, least: -14, most: 65504.0 };
pub(crate) const BF16: Format = Format { precision: 8, least: -126, most: f32::from_bits(0x7f7f_0000) as f64 };
pub(crate) const TF32: Format = Format { precision: 11, least: -126, most: f32::from_bits(0x7f7f_e000) as f64 };

/// An exact value: `sum + rest`, where `sum` is that value rounded to f64. Only the sign of `rest` matters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exact {
    pub sum: f64,
    pub rest: f64,
}

impl From<f64> for Exact {
    fn from(sum: f64) -> Self {
        Self { sum, rest: 0.0 }
    }
}

/// `a + b`, which must not overflow f64.
pub(crate) fn add(a: f64, b: f64) -> Exact {
    let sum = a + b;
    let part = sum - a;
    let rest = (a - (sum - part)) + (b - part);
    Exact { sum, rest: if sum.is_finite() { rest } else { 0.0 } }
}

/// `a * b + c` of f32 values.
pub(crate) fn fma(a: f32, b: f32, c: f32) -> Exact {
    add(f64::from(a) * f64::from(b), f64::from(c))
}

/// `a / b` of f32 values.
pub(crate) fn div(a: f32, b: f32) -> Exact {
    let (a, b) = (f64::from(a), f64::from(b));
    let sum = a / b;
    let rest = if sum.is_finite() && b.is_finite() { (-sum).mul_add(b, a) * b.signum() } else { 0.0 };
    Exact { sum, rest }
}

/// The square root of an f32.
pub(crate) fn sqrt(a: f32) -> Exact {
    let a = f64::from(a);
    let sum = a.sqrt();
    let rest = if sum.is_finite() { (-sum).mul_add(sum, a) } else { 0.0 };
    Exact { sum, rest }
}

/// An integer.
pub(crate) fn integer(value: i128) -> Exact {
    let sum = value as f64;
    Exact { sum, rest: (value - sum as i128) as f64 }
}

/// The value of `format` that `exact` rounds to.
pub(crate) fn round(exact: Exact, format: Format, mode: Mode) -> f64 {
    let Exact { sum, rest } = exact;
    if sum == 0.0 || !sum.is_finite() {
        return sum;
    }
    let magnitude = sum.abs();
    // Positive where the exact magnitude is above `magnitude`.
    let above = rest * sum.signum();
    let rounded = round_magnitude(magnitude, above, format, mode, sum < 0.0);
    let limited = if rounded > format.most { overflow(format, mode, sum < 0.0) } else { rounded };
    limited.copysign(sum)
}

fn overflow(format: Format, mode: Mode, negative: bool) -> f64 {
    match mode {
        Mode::Zero => format.most,
        Mode::Down if !negative => format.most,
        Mode::Up if negative => format.most,
        _ => f64::INFINITY,
    }
}

fn round_magnitude(magnitude: f64, above: f64, format: Format, mode: Mode, negative: bool) -> f64 {
    let mut exponent = exponent(magnitude);
    if above < 0.0 && magnitude == power(exponent) {
        exponent -= 1;
    }
    let quantum = power(exponent.max(format.least) - (format.precision - 1));
    let scaled = magnitude / quantum;
    let mut floor = scaled.floor();
    let mut part = scaled - floor;
    if part == 0.0 && above < 0.0 {
        floor -= 1.0;
        part = 1.0;
    }
    let inexact = part != 0.0 || above != 0.0;
    let tie = part == 0.5 && above == 0.0;
    let nearest = part > 0.5 || part == 0.5 && above > 0.0;
    let up = match mode {
        Mode::Nearest => nearest || tie && floor % 2.0 != 0.0,
        Mode::NearestAway => nearest || tie,
        Mode::Zero => false,
        Mode::Down => inexact && negative,
        Mode::Up => inexact && !negative,
    };
    (floor + f64::from(u8::from(up))) * quantum
}

/// The exponent of a positive finite value, as if f64 had no subnormals below those that products of f32 reach.
fn exponent(value: f64) -> i32 {
    let biased = (value.to_bits() >> 52) as i32 & 0x7ff;
    if biased == 0 { -1074 + (63 - value.to_bits().leading_zeros() as i32) } else { biased - 1023 }
}

/// 2 to the `exponent`, which f64 can hold as a normal number.
fn power(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023).clamp(1, 2046) as u64) << 52)
}

/// `value` to an integral value.
#[inline(always)]
pub(crate) fn integral(value: f64, mode: Mode) -> f64 {
    match mode {
        Mode::Nearest => value.round_ties_even(),
        Mode::NearestAway => value.round(),
        Mode::Zero => value.trunc(),
        Mode::Down => value.floor(),
        Mode::Up => value.ceil(),
    }
}
