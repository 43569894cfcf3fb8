//! f16 and bf16, alone and in pairs.

use super::float;
use super::round::{self, BF16, Exact, F16, Format, Mode};
use crate::run::lanes::Lane;
use crate::run::registers::{LANES, Registers};

/// A 16-bit floating-point type.
pub(crate) trait Small: Lane<Raw = u32> + Copy {
    const FORMAT: Format;
    const NAN: u16;
    fn bits(self) -> u16;
    fn from_bits(bits: u16) -> Self;
    fn to_f32(self) -> f32;
    /// To nearest, ties to even.
    fn of_f32(x: f32) -> Self;
}

macro_rules! small {
    ($(#[$doc:meta])* $name:ident, $format:expr, $to:expr, $of:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) struct $name(u16);

        impl Lane for $name {
            type Raw = u32;
            #[inline(always)]
            fn row(registers: &Registers, row: u16) -> &[u32; LANES] {
                registers.word(row)
            }
            #[inline(always)]
            fn row_mut(registers: &mut Registers, row: u16) -> &mut [u32; LANES] {
                registers.word_mut(row)
            }
            #[inline(always)]
            fn of(raw: u32) -> Self {
                Self(raw as u16)
            }
            #[inline(always)]
            fn raw(self) -> u32 {
                u32::from(self.0)
            }
        }

        impl Small for $name {
            const FORMAT: Format = $format;
            const NAN: u16 = 0x7fff;
            #[inline(always)]
            fn bits(self) -> u16 {
                self.0
            }
            #[inline(always)]
            fn from_bits(bits: u16) -> Self {
                Self(bits)
            }
            #[inline(always)]
            fn to_f32(self) -> f32 {
                ($to)(self.0)
            }
            #[inline(always)]
            fn of_f32(x: f32) -> Self {
                Self(($of)(x))
            }
        }
    };
}

small!(
    /// IEEE half precision.
    Half, F16, half_to_f32, half_from_f32
);
small!(
    /// The upper half of an f32.
    Bf16, BF16, bf16_to_f32, bf16_from_f32
);

#[inline(always)]
pub(crate) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[inline(always)]
pub(crate) fn bf16_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { 0x7fff } else { rounded as u16 }
}

#[inline(always)]
pub(crate) fn half_to_f32(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let sign = (bits & 0x8000) << 16;
    // The exponent moves from bias 15 to bias 127 by a multiplication, which also normalises subnormals.
    let value = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    let special = bits & 0x7c00 == 0x7c00;
    let magnitude = if special { (bits & 0x3ff) << 13 | 0x7f80_0000 } else { value.to_bits() };
    f32::from_bits(magnitude | sign)
}

#[inline(always)]
pub(crate) fn half_from_f32(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16) as u16 & 0x8000;
    let magnitude = x.abs();
    // Below the least normal half, adding 0.5 rounds at the right bit; above, the bits are rounded by hand.
    let small = (magnitude + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let bits = magnitude.to_bits();
    let normal = bits.wrapping_sub(0x3800_0000).wrapping_add(0xfff + (bits >> 13 & 1)) >> 13;
    let value = if magnitude < 6.103_515_6e-5 { small } else { normal };
    let value = if magnitude >= 65520.0 { 0x7c00 } else { value };
    if x.is_nan() { 0x7fff } else { value as u16 | sign }
}

/// An exact value in `T`.
pub(crate) fn narrow<T: Small>(exact: Exact, mode: Mode) -> T {
    let value = round::round(exact, T::FORMAT, mode) as f32;
    if value.is_nan() { T::from_bits(T::NAN) } else { T::of_f32(value) }
}

/// The result of an operation on 16-bit values: one NaN, flushed, saturated or cut at zero as asked.
#[inline(always)]
pub(crate) fn output<T: Small, const FTZ: bool, const SAT: bool, const RELU: bool>(x: T) -> T {
    let value = x.to_f32();
    if value.is_nan() {
        return T::from_bits(if SAT { 0 } else { T::NAN });
    }
    let x = if RELU && value < 0.0 { T::from_bits(0) } else { x };
    let x = if FTZ { flush(x) } else { x };
    if SAT { T::of_f32(float::saturate(x.to_f32())) } else { x }
}

/// Subnormals to zero of the same sign; bf16 has those of f32.
#[inline(always)]
pub(crate) fn flush<T: Small>(x: T) -> T {
    let least = f64::from(2.0f32).powi(T::FORMAT.least) as f32;
    if x.to_f32().abs() < least { T::from_bits(x.bits() & 0x8000) } else { x }
}

/// `a * b + c` rounded once.
pub(crate) fn fma<T: Small>(a: T, b: T, c: T) -> T {
    let (a, b, c) = (a.to_f32(), b.to_f32(), c.to_f32());
    let exact = round::fma(a, b, c);
    narrow(exact, Mode::Nearest)
}

/// Applies `f` to both halves of a pair.
#[inline(always)]
pub(crate) fn both<T: Small>(a: u32, f: impl Fn(T) -> T) -> u32 {
    join(f(T::of(a)), f(T::of(a >> 16)))
}

/// Applies `f` to both halves of two pairs.
#[inline(always)]
pub(crate) fn both2<T: Small>(a: u32, b: u32, f: impl Fn(T, T) -> T) -> u32 {
    join(f(T::of(a), T::of(b)), f(T::of(a >> 16), T::of(b >> 16)))
}

/// Applies `f` to both halves of three pairs.
#[inline(always)]
pub(crate) fn both3<T: Small>(a: u32, b: u32, c: u32, f: impl Fn(T, T, T) -> T) -> u32 {
    join(f(T::of(a), T::of(b), T::of(c)), f(T::of(a >> 16), T::of(b >> 16), T::of(c >> 16)))
}

/// A pair of its low and high half.
#[inline(always)]
pub(crate) fn join<T: Small>(low: T, high: T) -> u32 {
    u32::from(low.bits()) | u32::from(high.bits()) << 16
}
