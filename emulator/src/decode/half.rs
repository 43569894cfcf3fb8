//! f16, bf16 and their pairs.

use super::float::{Flags, through_f32};
use super::macros::by_flags;
use crate::arith::half::{Bf16, Half, Small, both, both2, both3, fma, output};
use crate::arith::round::Mode;
use crate::arith::{approx, float};
use crate::run::lanes::{Alu, binary, ternary, unary};
use crate::types::Type;

/// Like a closure's `move |a, b| …` for one value and for a pair of them.
macro_rules! alone_or_pair {
    ($pair:expr, $T:ident, |$a:ident| $body:expr) => {
        if $pair { unary(|a: u32| both::<$T>(a, |$a| $body)) } else { unary(|$a: $T| $body) }
    };
    ($pair:expr, $T:ident, |$a:ident, $b:ident| $body:expr) => {
        if $pair { binary(|a: u32, b: u32| both2::<$T>(a, b, |$a, $b| $body)) } else { binary(|$a: $T, $b: $T| $body) }
    };
    ($pair:expr, $T:ident, |$a:ident, $b:ident, $c:ident| $body:expr) => {
        if $pair {
            ternary(|a: u32, b: u32, c: u32| both3::<$T>(a, b, c, |$a, $b, $c| $body))
        } else {
            ternary(|$a: $T, $b: $T, $c: $T| $body)
        }
    };
}

macro_rules! table {
    ($T:ident, $base:expr, $flags:expr, $pair:expr) => {{
        let (base, flags, pair): (&str, Flags, bool) = ($base, $flags, $pair);
        match base {
            "add" => by_flags!(flags.ftz, flags.sat, FTZ, SAT => alone_or_pair!(pair, $T, |a, b| {
                output::<$T, FTZ, SAT, false>($T::of_f32(input::<$T, FTZ>(a) + input::<$T, FTZ>(b)))
            })),
            "sub" => by_flags!(flags.ftz, flags.sat, FTZ, SAT => alone_or_pair!(pair, $T, |a, b| {
                output::<$T, FTZ, SAT, false>($T::of_f32(input::<$T, FTZ>(a) - input::<$T, FTZ>(b)))
            })),
            "mul" => by_flags!(flags.ftz, flags.sat, FTZ, SAT => alone_or_pair!(pair, $T, |a, b| {
                output::<$T, FTZ, SAT, false>($T::of_f32(input::<$T, FTZ>(a) * input::<$T, FTZ>(b)))
            })),
            "fma" if flags.ftz || flags.sat => by_flags!(flags.ftz, flags.sat, FTZ, SAT => {
                alone_or_pair!(pair, $T, |a, b, c| output::<$T, FTZ, SAT, false>(
                    fma($T::of_f32(input::<$T, FTZ>(a)), $T::of_f32(input::<$T, FTZ>(b)), $T::of_f32(input::<$T, FTZ>(c)))
                ))
            }),
            "fma" => by_flags!(flags.relu, false, RELU, SAT => {
                alone_or_pair!(pair, $T, |a, b, c| output::<$T, false, SAT, RELU>(fma(a, b, c)))
            }),
            "min" => by_flags!(flags.ftz, flags.nan, FTZ, NAN => {
                alone_or_pair!(pair, $T, |a, b| extreme::<$T, FTZ, NAN>(a, b, float::min))
            }),
            "max" => by_flags!(flags.ftz, flags.nan, FTZ, NAN => {
                alone_or_pair!(pair, $T, |a, b| extreme::<$T, FTZ, NAN>(a, b, float::max))
            }),
            "abs" => alone_or_pair!(pair, $T, |a| $T::from_bits(a.bits() & 0x7fff)),
            "neg" => alone_or_pair!(pair, $T, |a| $T::from_bits(a.bits() ^ 0x8000)),
            "ex2" => by_flags!(flags.ftz, false, FTZ, SAT => {
                alone_or_pair!(pair, $T, |a| output::<$T, FTZ, SAT, false>(through_f32(approx::ex2, a)))
            }),
            "tanh" => alone_or_pair!(pair, $T, |a| output::<$T, false, false, false>(through_f32(approx::tanh, a))),
            _ => return None,
        }
    }};
}

/// The operation on f16, bf16 or a pair.
pub(super) fn alu(base: &str, flags: Flags, ty: Type) -> Option<Alu> {
    let (bf16, pair) = match ty {
        Type::F16 => (false, false),
        Type::F16x2 => (false, true),
        Type::Bf16 => (true, false),
        Type::Bf16x2 => (true, true),
        _ => return None,
    };
    if !allowed(base, flags, bf16) {
        return None;
    }
    Some(if bf16 { table!(Bf16, base, flags, pair) } else { table!(Half, base, flags, pair) })
}

/// Which modifiers the PTX ISA has for each instruction.
fn allowed(base: &str, flags: Flags, bf16: bool) -> bool {
    let Flags { mode, ftz, sat, approx, full, nan, relu } = flags;
    if full || bf16 && (sat || ftz && base != "ex2") {
        return false;
    }
    match base {
        "add" | "sub" | "mul" => matches!(mode, None | Some(Mode::Nearest)) && !approx && !nan && !relu,
        "fma" => mode == Some(Mode::Nearest) && !approx && !nan && !(relu && (sat || ftz)),
        "min" | "max" => mode.is_none() && !sat && !approx && !relu,
        "abs" | "neg" => mode.is_none() && !ftz && !sat && !approx && !nan && !relu,
        "ex2" | "tanh" => approx && mode.is_none() && !sat && !nan && !relu && !(ftz && base == "tanh"),
        _ => false,
    }
}

#[inline(always)]
fn input<T: Small, const FTZ: bool>(x: T) -> f32 {
    if FTZ { crate::arith::half::flush(x).to_f32() } else { x.to_f32() }
}

#[inline(always)]
fn extreme<T: Small, const FTZ: bool, const NAN: bool>(a: T, b: T, f: fn(f32, f32) -> f32) -> T {
    let (a, b) = (input::<T, FTZ>(a), input::<T, FTZ>(b));
    if NAN && (a.is_nan() || b.is_nan()) {
        return T::from_bits(T::NAN);
    }
    output::<T, FTZ, false, false>(T::of_f32(f(a, b)))
}
