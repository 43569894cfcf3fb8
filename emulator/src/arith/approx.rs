//! The approximations of a GPU's special function unit, here at least as exact as the PTX ISA promises.

/// 2 to the `x`: within 2 ulp; subnormal results are kept.
#[inline(always)]
pub(crate) fn ex2(x: f32) -> f32 {
    // ln(2)^n / n!
    const TERMS: [f32; 8] = [
        1.0,
        std::f32::consts::LN_2,
        0.240_226_5,
        0.055_504_11,
        0.009_618_129,
        0.001_333_355_8,
        0.000_154_035_3,
        0.000_015_252_734,
    ];
    let clamped = if x > 200.0 { 200.0 } else { x };
    let clamped = if clamped < -200.0 { -200.0 } else { clamped };
    let whole = clamped.round_ties_even();
    let part = clamped - whole;
    let mut value = TERMS[7];
    for term in TERMS[..7].iter().rev() {
        value = value.mul_add(part, *term);
    }
    // Two factors, each a normal number, so that subnormal results round once.
    let whole = whole as i32;
    let half = whole >> 1;
    let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    let result = value * power(half) * power(whole - half);
    if x.is_nan() { x } else { result }
}

/// The logarithm to base 2: within 1e-7 of the true value; negative gives NaN.
#[inline(always)]
pub(crate) fn lg2(x: f32) -> f32 {
    let subnormal = x < f32::MIN_POSITIVE;
    let scaled = if subnormal { x * 16_777_216.0 } else { x };
    let shift = if subnormal { -24 } else { 0 };
    // The significand between sqrt(1/2) and sqrt(2).
    let bits = scaled.to_bits().wrapping_sub(0x3f35_04f3);
    let exponent = (bits as i32 >> 23) + shift;
    let significand = f32::from_bits((bits & 0x007f_ffff) + 0x3f35_04f3);
    let s = (significand - 1.0) / (significand + 1.0);
    let square = s * s;
    let mut series = 1.0f32 / 9.0;
    for odd in [7.0f32, 5.0, 3.0, 1.0] {
        series = series.mul_add(square, 1.0 / odd);
    }
    let result = (2.0 * std::f32::consts::LOG2_E * s).mul_add(series, exponent as f32);
    let result = if x == 0.0 { f32::NEG_INFINITY } else { result };
    let result = if x < 0.0 { f32::NAN } else { result };
    if x == f32::INFINITY || x.is_nan() { x } else { result }
}

/// `1 / sqrt(x)`.
#[inline(always)]
pub(crate) fn rsqrt(x: f32) -> f32 {
    (1.0 / f64::from(x).sqrt()) as f32
}

pub(crate) fn sin(x: f32) -> f32 {
    f64::from(x).sin() as f32
}

pub(crate) fn cos(x: f32) -> f32 {
    f64::from(x).cos() as f32
}

pub(crate) fn tanh(x: f32) -> f32 {
    f64::from(x).tanh() as f32
}

/// `a / b`, but as `div.approx` for a divisor above 2^126: zero, or NaN for an infinite dividend.
#[inline(always)]
pub(crate) fn div(a: f32, b: f32) -> f32 {
    let huge = b.abs() > f32::from_bits(0x7e80_0000) && b.abs() < f32::INFINITY;
    if huge { a * 0.0 * b.signum() } else { a / b }
}
