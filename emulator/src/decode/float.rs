//! f32 and f64 instructions.

use super::decoder::{Decoded, Decoder};
use super::macros::{by_flags, by_mode};
use crate::arith::float::{self, input, output};
use crate::arith::round::Mode;
use crate::arith::{approx, half};
use crate::parse::Result;
use crate::program::Class;
use crate::run::lanes::{Alu, binary, ternary, test, unary};
use crate::types::Type;

/// The modifiers of a floating-point instruction.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flags {
    pub mode: Option<Mode>,
    pub ftz: bool,
    pub sat: bool,
    pub approx: bool,
    pub full: bool,
    pub nan: bool,
    pub relu: bool,
}

impl Flags {
    /// Reads modifiers; any that is none of these is an error.
    pub fn of(d: &Decoder<'_, '_, '_>, modifiers: &[&str]) -> Result<Self> {
        let mut flags = Self::default();
        for modifier in modifiers {
            match *modifier {
                "rn" => flags.mode = Some(Mode::Nearest),
                "rna" => flags.mode = Some(Mode::NearestAway),
                "rz" => flags.mode = Some(Mode::Zero),
                "rm" => flags.mode = Some(Mode::Down),
                "rp" => flags.mode = Some(Mode::Up),
                "ftz" => flags.ftz = true,
                "sat" => flags.sat = true,
                "approx" => flags.approx = true,
                "full" => flags.full = true,
                "NaN" => flags.nan = true,
                "relu" => flags.relu = true,
                _ => return d.unknown(),
            }
        }
        Ok(flags)
    }

    /// These flags without rounding to nearest, flushing and saturation, which every table takes.
    fn others(self) -> Self {
        Self { mode: None, ftz: false, sat: false, ..self }
    }
}

/// A floating-point instruction of one type, or nothing where `base` is none.
pub(super) fn family(d: &mut Decoder<'_, '_, '_>, base: &str) -> Result<Option<Decoded>> {
    let (modifiers, ty) = d.typed()?;
    if base == "testp" {
        return Ok(Some(testp(d, &modifiers, ty)));
    }
    let flags = Flags::of(d, &modifiers)?;
    let sources = match base {
        "abs" | "neg" | "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => 1,
        "add" | "sub" | "mul" | "div" | "min" | "max" | "copysign" => 2,
        "fma" | "mad" => 3,
        _ => return Ok(None),
    };
    let base = if base == "mad" { "fma" } else { base };
    let alu = match ty {
        Type::F32 => alu_f32(base, flags),
        Type::F64 => alu_f64(base, flags),
        _ => super::half::alu(base, flags, ty),
    };
    let alu = d.known(alu)?;
    let op = match sources {
        1 => d.alu(alu, ty, [ty])?,
        2 => d.alu(alu, ty, [ty; 2])?,
        _ => d.alu(alu, ty, [ty; 3])?,
    };
    let special = matches!(base, "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh");
    Ok(Some(Ok((op, if special { Class::Special } else { Class::Float }))))
}

fn alu_f32(base: &str, flags: Flags) -> Option<Alu> {
    let plain = flags.others() == Flags::default();
    match (base, flags.mode) {
        ("add" | "sub" | "mul", None | Some(Mode::Nearest)) if plain => nearest(base, flags),
        ("fma", Some(Mode::Nearest)) if plain => nearest(base, flags),
        ("div" | "rcp" | "sqrt", Some(Mode::Nearest)) if plain && !flags.sat => nearest(base, flags),
        ("add" | "sub" | "mul" | "fma" | "div" | "rcp" | "sqrt", Some(mode)) if plain => directed(base, mode, flags),
        ("min" | "max", None) if !flags.sat && !flags.approx && !flags.full && !flags.relu => extreme(base, flags),
        ("abs" | "neg" | "copysign", None) if plain && !flags.sat => sign(base, flags),
        (_, None) if flags.approx && !flags.sat || flags.full => approximate(base, flags),
        _ => None,
    }
}

/// Correctly rounded to nearest.
fn nearest(base: &str, flags: Flags) -> Option<Alu> {
    macro_rules! two {
        ($op:tt) => {
            by_flags!(flags.ftz, flags.sat, FTZ, SAT => binary(|a: f32, b: f32| {
                output::<FTZ, SAT>(input::<FTZ>(a) $op input::<FTZ>(b))
            }))
        };
    }
    Some(match base {
        "add" => two!(+),
        "sub" => two!(-),
        "mul" => two!(*),
        "div" => two!(/),
        "fma" => by_flags!(flags.ftz, flags.sat, FTZ, SAT => ternary(|a: f32, b: f32, c: f32| {
            output::<FTZ, SAT>(input::<FTZ>(a).mul_add(input::<FTZ>(b), input::<FTZ>(c)))
        })),
        "rcp" => by_flags!(flags.ftz, false, FTZ, SAT => unary(|a: f32| output::<FTZ, SAT>(1.0 / input::<FTZ>(a)))),
        "sqrt" => by_flags!(flags.ftz, false, FTZ, SAT => unary(|a: f32| output::<FTZ, SAT>(input::<FTZ>(a).sqrt()))),
        _ => return None,
    })
}

/// Correctly rounded toward zero, down or up.
fn directed(base: &str, mode: Mode, flags: Flags) -> Option<Alu> {
    macro_rules! two {
        ($f:expr) => {
            by_mode!(mode, M => by_flags!(flags.ftz, flags.sat, FTZ, SAT => binary(|a: f32, b: f32| {
                output::<FTZ, SAT>($f(input::<FTZ>(a), input::<FTZ>(b), M))
            })))
        };
    }
    macro_rules! one {
        ($f:expr) => {
            by_mode!(mode, M => by_flags!(flags.ftz, false, FTZ, SAT => unary(|a: f32| {
                output::<FTZ, SAT>($f(input::<FTZ>(a), M))
            })))
        };
    }
    if mode == Mode::NearestAway || flags.sat && matches!(base, "div" | "rcp" | "sqrt") {
        return None;
    }
    Some(match base {
        "add" => two!(float::add),
        "sub" => two!(|a, b: f32, mode| float::add(a, -b, mode)),
        "mul" => two!(float::mul),
        "div" => two!(float::div),
        "rcp" => one!(|a, mode| float::div(1.0, a, mode)),
        "sqrt" => one!(float::sqrt),
        "fma" => by_mode!(mode, M => by_flags!(flags.ftz, flags.sat, FTZ, SAT => ternary(|a: f32, b: f32, c: f32| {
            output::<FTZ, SAT>(float::fma(input::<FTZ>(a), input::<FTZ>(b), input::<FTZ>(c), M))
        }))),
        _ => return None,
    })
}

fn extreme(base: &str, flags: Flags) -> Option<Alu> {
    macro_rules! two {
        ($f:expr) => {
            by_flags!(flags.ftz, flags.nan, FTZ, NAN => binary(|a: f32, b: f32| {
                let (a, b) = (input::<FTZ>(a), input::<FTZ>(b));
                let value = output::<FTZ, false>($f(a, b));
                if NAN && (a.is_nan() || b.is_nan()) { float::NAN } else { value }
            }))
        };
    }
    Some(if base == "min" { two!(float::min) } else { two!(float::max) })
}

/// Instructions on the sign bit; they pass NaN on as it is.
fn sign(base: &str, flags: Flags) -> Option<Alu> {
    Some(match base {
        "abs" => by_flags!(flags.ftz, false, FTZ, _SAT => unary(|a: f32| input::<FTZ>(a).abs())),
        "neg" => by_flags!(flags.ftz, false, FTZ, _SAT => unary(|a: f32| -input::<FTZ>(a))),
        "copysign" if !flags.ftz => binary(float::copysign),
        _ => return None,
    })
}

fn approximate(base: &str, flags: Flags) -> Option<Alu> {
    macro_rules! one {
        ($f:expr) => {
            by_flags!(flags.ftz, false, FTZ, SAT => unary(|a: f32| output::<FTZ, SAT>($f(input::<FTZ>(a)))))
        };
    }
    macro_rules! two {
        ($f:expr) => {
            by_flags!(flags.ftz, false, FTZ, SAT => binary(|a: f32, b: f32| {
                output::<FTZ, SAT>($f(input::<FTZ>(a), input::<FTZ>(b)))
            }))
        };
    }
    Some(match base {
        "div" if flags.full => two!(|a: f32, b: f32| a / b),
        _ if flags.full => return None,
        "div" => two!(approx::div),
        "rcp" => one!(|a: f32| 1.0 / a),
        "sqrt" => one!(f32::sqrt),
        "rsqrt" => one!(approx::rsqrt),
        "sin" => one!(approx::sin),
        "cos" => one!(approx::cos),
        "lg2" => one!(approx::lg2),
        "ex2" => one!(approx::ex2),
        "tanh" if !flags.ftz => unary(|a: f32| output::<false, false>(approx::tanh(a))),
        _ => return None,
    })
}

fn alu_f64(base: &str, flags: Flags) -> Option<Alu> {
    let named = Flags { mode: None, ..flags } == Flags::default();
    if !named || !matches!(flags.mode, None | Some(Mode::Nearest)) {
        return None;
    }
    let rounded = flags.mode.is_some();
    Some(match base {
        "add" => binary(|a: f64, b: f64| a + b),
        "sub" => binary(|a: f64, b: f64| a - b),
        "mul" => binary(|a: f64, b: f64| a * b),
        "fma" if rounded => ternary(f64::mul_add),
        "div" if rounded => binary(|a: f64, b: f64| a / b),
        "rcp" if rounded => unary(|a: f64| 1.0 / a),
        "sqrt" if rounded => unary(f64::sqrt),
        "min" if !rounded => binary(float::min_f64),
        "max" if !rounded => binary(float::max_f64),
        "abs" if !rounded => unary(f64::abs),
        "neg" if !rounded => unary(|a: f64| -a),
        "copysign" if !rounded => binary(|a: f64, b: f64| b.copysign(a)),
        _ => return None,
    })
}

/// `testp`: what kind of number it is.
fn testp(d: &mut Decoder<'_, '_, '_>, modifiers: &[&str], ty: Type) -> Decoded {
    macro_rules! kinds {
        ($T:ty, $subnormal:expr) => {
            match modifiers {
                ["finite"] => Some(test(|a: $T| a.is_finite())),
                ["infinite"] => Some(test(|a: $T| a.is_infinite())),
                ["number"] => Some(test(|a: $T| !a.is_nan())),
                ["notanumber"] => Some(test(|a: $T| a.is_nan())),
                ["normal"] => Some(test(|a: $T| a.is_normal())),
                ["subnormal"] => Some(test($subnormal)),
                _ => None,
            }
        };
    }
    let alu = match ty {
        Type::F32 => kinds!(f32, |a: f32| a.is_subnormal()),
        Type::F64 => kinds!(f64, |a: f64| a.is_subnormal()),
        _ => None,
    };
    let alu = d.known(alu)?;
    Ok((d.alu(alu, Type::Pred, [ty])?, Class::Compare))
}

/// `ex2` and `tanh` of 16-bit types go through f32.
pub(super) fn through_f32<T: half::Small>(f: impl Fn(f32) -> f32, a: T) -> T {
    T::of_f32(f(a.to_f32()))
}
