//! f32 and f64.

use super::round::{self, Exact, F32, Mode};

/// What every NaN result is.
pub(crate) const NAN: f32 = f32::from_bits(0x7fff_ffff);

/// Subnormals to zero of the same sign.
#[inline(always)]
pub(crate) fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}

/// An input: flushed where `.ftz`.
#[inline(always)]
pub(crate) fn input<const FTZ: bool>(x: f32) -> f32 {
    if FTZ { flush(x) } else { x }
}

/// A result: one NaN, flushed where `.ftz`, within 0 and 1 where `.sat` (NaN to 0).
#[inline(always)]
pub(crate) fn output<const FTZ: bool, const SAT: bool>(x: f32) -> f32 {
    let x = if FTZ { flush(x) } else { x };
    if SAT {
        return saturate(x);
    }
    one_nan(x)
}

/// Every NaN as [`NAN`]. By integers: LLVM holds all NaNs equal, and dropped this choice between two after `sqrt`.
#[inline(always)]
pub(crate) fn one_nan(x: f32) -> f32 {
    let bits = x.to_bits();
    let nan = (0x7f80_0000i32.wrapping_sub((bits & 0x7fff_ffff) as i32) >> 31) as u32;
    f32::from_bits(bits & !nan | nan >> 1)
}

/// Within 0 and 1; NaN to +0.
#[inline(always)]
pub(crate) fn saturate(x: f32) -> f32 {
    let low = if x > 0.0 { x } else { 0.0 };
    if low < 1.0 { low } else { 1.0 }
}

/// An exact value in f32, rounded in a direction.
fn narrow(exact: Exact, mode: Mode) -> f32 {
    round::round(exact, F32, mode) as f32
}

/// `a + b` rounded in a direction; an exact zero from operands of different sign is -0 when rounding down.
pub(crate) fn add(a: f32, b: f32, mode: Mode) -> f32 {
    let exact = round::add(f64::from(a), f64::from(b));
    zero_sign(exact, a.is_sign_negative() && b.is_sign_negative(), a.is_sign_negative() || b.is_sign_negative(), mode)
}

/// The value of a sum; `all` and `any` tell whether its terms are negative.
fn zero_sign(exact: Exact, all: bool, any: bool, mode: Mode) -> f32 {
    if exact.sum != 0.0 || exact.rest != 0.0 {
        return narrow(exact, mode);
    }
    if all || any && mode == Mode::Down { -0.0 } else { 0.0 }
}

pub(crate) fn mul(a: f32, b: f32, mode: Mode) -> f32 {
    narrow((f64::from(a) * f64::from(b)).into(), mode)
}

pub(crate) fn fma(a: f32, b: f32, c: f32, mode: Mode) -> f32 {
    let negative = a.is_sign_negative() != b.is_sign_negative();
    zero_sign(round::fma(a, b, c), negative && c.is_sign_negative(), negative || c.is_sign_negative(), mode)
}

pub(crate) fn div(a: f32, b: f32, mode: Mode) -> f32 {
    narrow(round::div(a, b), mode)
}

pub(crate) fn sqrt(a: f32, mode: Mode) -> f32 {
    narrow(round::sqrt(a), mode)
}

/// The larger; the number where one is NaN; +0 over -0.
#[inline(always)]
pub(crate) fn max(a: f32, b: f32) -> f32 {
    let larger = if a > b || b.is_nan() { a } else { b };
    if a == b { f32::from_bits(a.to_bits() & b.to_bits()) } else { larger }
}

/// The smaller; the number where one is NaN; -0 under +0.
#[inline(always)]
pub(crate) fn min(a: f32, b: f32) -> f32 {
    let smaller = if a < b || b.is_nan() { a } else { b };
    if a == b { f32::from_bits(a.to_bits() | b.to_bits()) } else { smaller }
}

/// `a`'s size with `b`'s sign turned on it: PTX's `copysign d, a, b` takes the sign of `a`.
#[inline(always)]
pub(crate) fn copysign(a: f32, b: f32) -> f32 {
    b.copysign(a)
}

pub(crate) fn max_f64(a: f64, b: f64) -> f64 {
    let larger = if a > b || b.is_nan() { a } else { b };
    if a == b { f64::from_bits(a.to_bits() & b.to_bits()) } else { larger }
}

pub(crate) fn min_f64(a: f64, b: f64) -> f64 {
    let smaller = if a < b || b.is_nan() { a } else { b };
    if a == b { f64::from_bits(a.to_bits() | b.to_bits()) } else { smaller }
}
