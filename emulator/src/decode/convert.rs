//! `cvt`.

use super::decoder::{Decoded, Decoder};
use super::macros::{by_flags, by_mode};
use crate::arith::float::{self, input, output};
use crate::arith::half::{Bf16, Half, Small, join, narrow};
use crate::arith::round::{self, Mode, TF32, integral};
use crate::parse::Result;
use crate::program::{Class, Op};
use crate::run::lanes::{Alu, Lane, Rows, binary, ternary, unary};
use crate::types::{File, Type};

/// The modifiers of a `cvt`.
#[derive(Debug, Default, Clone, Copy)]
struct Flags {
    /// `.rn`, `.rz`, …: to a floating-point type.
    mode: Option<Mode>,
    /// `.rni`, `.rzi`, …: to an integral value.
    integral: Option<Mode>,
    ftz: bool,
    sat: bool,
    relu: bool,
}

fn flags(d: &Decoder<'_, '_, '_>, modifiers: &[&str]) -> Result<Flags> {
    let mut flags = Flags::default();
    for modifier in modifiers {
        match *modifier {
            "rn" => flags.mode = Some(Mode::Nearest),
            "rna" => flags.mode = Some(Mode::NearestAway),
            "rz" => flags.mode = Some(Mode::Zero),
            "rm" => flags.mode = Some(Mode::Down),
            "rp" => flags.mode = Some(Mode::Up),
            "rni" => flags.integral = Some(Mode::Nearest),
            "rzi" => flags.integral = Some(Mode::Zero),
            "rmi" => flags.integral = Some(Mode::Down),
            "rpi" => flags.integral = Some(Mode::Up),
            "ftz" => flags.ftz = true,
            "sat" => flags.sat = true,
            "relu" => flags.relu = true,
            _ => return d.unknown(),
        }
    }
    Ok(flags)
}

/// `cvt[.mode][.ftz][.sat].dtype.stype d, a[, b]`.
pub(super) fn cvt(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let (mut modifiers, from) = d.typed()?;
    let to = d.known(modifiers.pop().and_then(Type::named))?;
    let flags = flags(d, &modifiers)?;
    let op = match (to, from) {
        (Type::F16x2 | Type::Bf16x2, Type::F32) => packed(d, to, flags)?,
        (Type::Tf32, Type::F32) => {
            let alu = d.known(to_tf32(flags))?;
            d.alu(alu, Type::B32, [Type::F32])?
        }
        _ if to.is_float() && from.is_float() => {
            let alu = d.known(between_floats(to, from, flags))?;
            d.alu(alu, to, [from])?
        }
        _ if to.is_float() => from_integer(d, to, from, flags)?,
        _ if from.is_float() => to_integer(d, to, from, flags)?,
        _ => between_integers(d, to, from, flags)?,
    };
    Ok((op, Class::Convert))
}

/// Two f32 to a pair; the first source becomes the upper half.
fn packed(d: &mut Decoder<'_, '_, '_>, to: Type, flags: Flags) -> Result<Op> {
    fn half<T: Small, const RELU: bool>(x: f32, mode: Mode) -> T {
        let x = if RELU && x < 0.0 { 0.0 } else { x };
        if mode == Mode::Nearest { T::of_f32(x) } else { narrow(f64::from(x).into(), mode) }
    }
    macro_rules! pairs {
        ($T:ty) => {
            match flags.mode {
                Some(Mode::Nearest) => by_flags!(flags.relu, false, RELU, _SAT => binary(|a: f32, b: f32| {
                    join::<$T>(half::<$T, RELU>(b, Mode::Nearest), half::<$T, RELU>(a, Mode::Nearest))
                })),
                Some(Mode::Zero) => by_flags!(flags.relu, false, RELU, _SAT => binary(|a: f32, b: f32| {
                    join::<$T>(half::<$T, RELU>(b, Mode::Zero), half::<$T, RELU>(a, Mode::Zero))
                })),
                _ => return d.unknown(),
            }
        };
    }
    if flags.ftz || flags.sat || flags.integral.is_some() {
        return d.unknown();
    }
    let alu = if to == Type::F16x2 { pairs!(Half) } else { pairs!(Bf16) };
    d.alu(alu, to, [Type::F32; 2])
}

fn to_tf32(flags: Flags) -> Option<Alu> {
    fn tf32<const RELU: bool>(x: f32, mode: Mode) -> f32 {
        let x = if RELU && x < 0.0 { 0.0 } else { x };
        output::<false, false>(round::round(f64::from(x).into(), TF32, mode) as f32)
    }
    if flags.ftz || flags.sat || flags.integral.is_some() {
        return None;
    }
    Some(match flags.mode {
        Some(Mode::NearestAway) if !flags.relu => unary(|x: f32| tf32::<false>(x, Mode::NearestAway)),
        Some(Mode::Nearest) => by_flags!(flags.relu, false, RELU, _S => unary(|x: f32| tf32::<RELU>(x, Mode::Nearest))),
        Some(Mode::Zero) => by_flags!(flags.relu, false, RELU, _S => unary(|x: f32| tf32::<RELU>(x, Mode::Zero))),
        _ => None?,
    })
}

fn between_floats(to: Type, from: Type, flags: Flags) -> Option<Alu> {
    if flags.integral.is_some() || to == from {
        return integral_value(to, from, flags);
    }
    if flags.relu && !matches!((to, from), (Type::F16 | Type::Bf16, Type::F32)) {
        return None;
    }
    Some(match (to, from) {
        (Type::F32, Type::F16) => by_flags!(flags.ftz, flags.sat, FTZ, SAT => {
            unary(|a: Half| output::<FTZ, SAT>(a.to_f32()))
        }),
        (Type::F32, Type::Bf16) => unary(|a: Bf16| output::<false, false>(a.to_f32())),
        (Type::F64, Type::F16) => unary(|a: Half| f64::from(a.to_f32())),
        (Type::F64, Type::F32) => by_flags!(flags.ftz, flags.sat, FTZ, SAT => unary(|a: f32| {
            let a = input::<FTZ>(a);
            f64::from(if SAT { float::saturate(a) } else { a })
        })),
        (Type::F16, Type::F32) => small_from_f32::<Half>(flags)?,
        (Type::Bf16, Type::F32) if !flags.ftz => small_from_f32::<Bf16>(flags)?,
        (Type::F16, Type::F64) => by_mode!(flags.mode?, M => unary(|a: f64| narrow::<Half>(a.into(), M))),
        (Type::F32, Type::F64) => by_mode!(flags.mode?, M => by_flags!(flags.ftz, flags.sat, FTZ, SAT => {
            unary(|a: f64| output::<FTZ, SAT>(round::round(a.into(), round::F32, M) as f32))
        })),
        _ => return None,
    })
}

fn small_from_f32<T: Small>(flags: Flags) -> Option<Alu> {
    fn finish<T: Small, const SAT: bool, const RELU: bool>(x: f32, mode: Mode) -> T {
        let x = if SAT { float::saturate(x) } else { x };
        let x = if RELU && x < 0.0 { 0.0 } else { x };
        if mode == Mode::Nearest { T::of_f32(x) } else { narrow(f64::from(x).into(), mode) }
    }
    let mode = flags.mode?;
    if flags.ftz {
        return Some(by_mode!(mode, M => by_flags!(flags.sat, flags.relu, SAT, RELU => {
            unary(|a: f32| finish::<T, SAT, RELU>(float::flush(a), M))
        })));
    }
    Some(by_mode!(mode, M => by_flags!(flags.sat, flags.relu, SAT, RELU => {
        unary(|a: f32| finish::<T, SAT, RELU>(a, M))
    })))
}

/// Between equal types: to an integral value, or as it is.
fn integral_value(to: Type, from: Type, flags: Flags) -> Option<Alu> {
    if to != from || flags.mode.is_some() || flags.relu {
        return None;
    }
    Some(match (to, flags.integral) {
        (Type::F32, Some(mode)) => by_mode!(mode, M => by_flags!(flags.ftz, flags.sat, FTZ, SAT => {
            unary(|a: f32| output::<FTZ, SAT>(integral_f32(input::<FTZ>(a), M)))
        })),
        (Type::F32, None) => by_flags!(flags.ftz, flags.sat, FTZ, SAT => {
            unary(|a: f32| if SAT { output::<FTZ, SAT>(a) } else { input::<FTZ>(a) })
        }),
        (Type::F64, Some(mode)) if !flags.ftz && !flags.sat => by_mode!(mode, M => unary(|a: f64| integral(a, M))),
        (Type::F16, Some(mode)) if !flags.ftz && !flags.sat => by_mode!(mode, M => {
            unary(|a: Half| narrow::<Half>(integral(f64::from(a.to_f32()), M).into(), Mode::Nearest))
        }),
        _ => return None,
    })
}

#[inline(always)]
fn integral_f32(x: f32, mode: Mode) -> f32 {
    match mode {
        Mode::Nearest => x.round_ties_even(),
        Mode::NearestAway => x.round(),
        Mode::Zero => x.trunc(),
        Mode::Down => x.floor(),
        Mode::Up => x.ceil(),
    }
}

/// A type that a float becomes; `$D` names it.
macro_rules! integer_type {
    ($ty:expr, $D:ident => $alu:expr) => {
        match $ty {
            Type::U8 => {
                type $D = u8;
                Some($alu)
            }
            Type::S8 => {
                type $D = i8;
                Some($alu)
            }
            Type::U16 => {
                type $D = u16;
                Some($alu)
            }
            Type::S16 => {
                type $D = i16;
                Some($alu)
            }
            Type::U32 => {
                type $D = u32;
                Some($alu)
            }
            Type::S32 => {
                type $D = i32;
                Some($alu)
            }
            Type::U64 => {
                type $D = u64;
                Some($alu)
            }
            Type::S64 => {
                type $D = i64;
                Some($alu)
            }
            _ => None,
        }
    };
}

/// A floating-point source of a conversion.
trait Source: Lane {
    fn wide(self) -> f64;
}

impl Source for Half {
    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self.to_f32())
    }
}

impl Source for Bf16 {
    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self.to_f32())
    }
}

impl Source for f32 {
    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Source for f64 {
    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }
}

#[inline(always)]
fn rounded<S: Source, const FTZ: bool>(a: S, mode: Mode) -> f64 {
    let a = a.wide();
    integral(if FTZ && a.abs() < f64::from(f32::MIN_POSITIVE) { 0.0 } else { a }, mode)
}

/// Float to integer: rounded, then clamped to what the integer holds; NaN gives zero, or the top bit with 64 bits.
fn to_integer(d: &mut Decoder<'_, '_, '_>, to: Type, from: Type, flags: Flags) -> Result<Op> {
    let (Some(mode), None, false) = (flags.integral, flags.mode, flags.relu) else { return d.unknown() };
    if flags.ftz && from != Type::F32 {
        return d.unknown();
    }
    let [destination, source] = d.operands()?;
    let source = d.read(source, from)?;
    let (row, file, bits) = d.write_loose(destination, to)?;
    if file != to.file() {
        return d.error(format!("the register's size does not fit type .{to}"));
    }
    let mut rows: Rows = [row, source, 0, 0, 0, 0];
    let alu = if to.bits() >= 32 {
        to_whole_register(to, from, mode, flags.ftz)
    } else {
        let (low, high) =
            if to.is_signed() { (-1i64 << (to.bits() - 1), 1 << (to.bits() - 1)) } else { (0, 1 << to.bits()) };
        for (at, bound) in [(2, low), (3, high - 1)] {
            rows[at] = d.names.constant_row(File::Word, bound as u64, d.instruction.line)?;
        }
        to_part_of_register(from, mode, flags.ftz, bits)
    };
    Ok(Op::Alu(d.known(alu)?, rows))
}

fn to_whole_register(to: Type, from: Type, mode: Mode, ftz: bool) -> Option<Alu> {
    macro_rules! convert {
        ($S:ty, $D:ty, $M:ident, $FTZ:ident) => {
            unary(|a: $S| {
                let value = rounded::<$S, $FTZ>(a, $M);
                let top = size_of::<$S>() == 8 || size_of::<$D>() == 8;
                if top && value.is_nan() { (1 as $D).rotate_right(1) } else { value as $D }
            })
        };
    }
    macro_rules! from_type {
        ($S:ty) => {
            by_mode!(mode, M => by_flags!(ftz, false, FTZ, _F => match to {
                Type::U32 => convert!($S, u32, M, FTZ),
                Type::S32 => convert!($S, i32, M, FTZ),
                Type::U64 => convert!($S, u64, M, FTZ),
                Type::S64 => convert!($S, i64, M, FTZ),
                _ => return None,
            }))
        };
    }
    Some(match from {
        Type::F16 => from_type!(Half),
        Type::F32 => from_type!(f32),
        Type::F64 => from_type!(f64),
        _ => return None,
    })
}

/// To 8 or 16 bits, whose bounds are the second and third source, in a register of `bits`.
fn to_part_of_register(from: Type, mode: Mode, ftz: bool, bits: u32) -> Option<Alu> {
    macro_rules! from_type {
        ($S:ty) => {
            by_mode!(mode, M => by_flags!(ftz, bits == 16, FTZ, NARROW => {
                ternary(|a: $S, low: i32, high: i32| {
                    let value = (rounded::<$S, FTZ>(a, M) as i32).clamp(low, high.max(low)) as u32;
                    if NARROW { value & 0xffff } else { value }
                })
            }))
        };
    }
    Some(match from {
        Type::F16 => from_type!(Half),
        Type::F32 => from_type!(f32),
        Type::F64 => from_type!(f64),
        _ => return None,
    })
}

/// Integer to float.
fn from_integer(d: &mut Decoder<'_, '_, '_>, to: Type, from: Type, flags: Flags) -> Result<Op> {
    fn alu(to: Type, from: Type, mode: Mode, sat: bool) -> Option<Alu> {
        macro_rules! to_type {
            ($finish:expr) => {
                by_mode!(mode, M => by_flags!(sat, false, SAT, _F => integer_type!(from, S => {
                    unary(|a: S| $finish(round::integer(i128::from(a)), M, SAT))
                })?))
            };
        }
        Some(match to {
            Type::F32 if mode == Mode::Nearest && !sat => integer_type!(from, S => unary(|a: S| a as f32))?,
            Type::F64 if mode == Mode::Nearest && !sat => integer_type!(from, S => unary(|a: S| a as f64))?,
            Type::F32 => to_type!(|exact, mode, sat| {
                let value = round::round(exact, round::F32, mode) as f32;
                if sat { float::saturate(value) } else { value }
            }),
            Type::F16 => to_type!(|exact, mode, sat| {
                let value: Half = narrow(exact, mode);
                if sat { Half::of_f32(float::saturate(value.to_f32())) } else { value }
            }),
            Type::Bf16 => to_type!(|exact, mode, sat| {
                let value: Bf16 = narrow(exact, mode);
                if sat { Bf16::of_f32(float::saturate(value.to_f32())) } else { value }
            }),
            _ => return None,
        })
    }
    let (Some(mode), None, false, false) = (flags.mode, flags.integral, flags.relu, flags.ftz) else {
        return d.unknown();
    };
    let alu = d.known(alu(to, from, mode, flags.sat))?;
    let [destination, source] = d.operands()?;
    let (source, file, _) = d.read_loose(source, from)?;
    if file != from.file() {
        return d.error(format!("the register's size does not fit type .{from}"));
    }
    Ok(Op::Alu(alu, [d.write(destination, to)?, source, 0, 0, 0, 0]))
}

/// Integer to integer: truncated or, with `.sat`, clamped; then widened to the register as the type's sign says.
fn between_integers(d: &mut Decoder<'_, '_, '_>, to: Type, from: Type, flags: Flags) -> Result<Op> {
    if flags.mode.is_some() || flags.integral.is_some() || flags.ftz || flags.relu {
        return d.unknown();
    }
    let [destination, source] = d.operands()?;
    let (source, file, _) = d.read_loose(source, from)?;
    let (row, _, register_bits) = d.write_loose(destination, to)?;
    let mut rows: Rows = [row, source, 0, 0, 0, 0];
    let alu = if flags.sat && to != from {
        let bits = to.bits();
        let (low, high) =
            if to.is_signed() { (i64::MIN >> (64 - bits), i64::MAX >> (64 - bits)) } else { (0, unsigned_max(bits)) };
        for (at, bound) in [(2, low), (3, high)] {
            rows[at] = d.names.constant_row(File::Wide, bound as u64, d.instruction.line)?;
        }
        clamped(from, file, register_bits)
    } else {
        decisive(to, from, register_bits).and_then(|ty| extended(ty, file, register_bits))
    };
    Ok(Op::Alu(d.known(alu)?, rows))
}

/// The largest value of `bits` without sign that an i64 holds.
fn unsigned_max(bits: u32) -> i64 {
    (u64::MAX >> (64 - bits)).min(i64::MAX as u64) as i64
}

/// The one type by which a value must be cut and widened, where one suffices.
fn decisive(to: Type, from: Type, bits: u32) -> Option<Type> {
    if to.bits() <= from.bits() {
        return Some(to);
    }
    let same = to.bits() >= bits || !from.is_signed() || to.is_signed();
    same.then_some(from)
}

/// Cuts to `ty` and widens to a register of `bits`.
fn extended(ty: Type, source: File, bits: u32) -> Option<Alu> {
    macro_rules! extend {
        ($raw:ty, $R:ty) => {
            integer_type!(ty, E => unary(|raw: $raw| raw as E as $R))
        };
    }
    match (source, bits) {
        (File::Word, 16) => extend!(u32, u16),
        (File::Word, 32) => extend!(u32, u32),
        (File::Word, 64) => extend!(u32, u64),
        (File::Wide, 16) => extend!(u64, u16),
        (File::Wide, 32) => extend!(u64, u32),
        (File::Wide, 64) => extend!(u64, u64),
        _ => None,
    }
}

/// Clamps between the second and third source.
fn clamped(from: Type, source: File, bits: u32) -> Option<Alu> {
    macro_rules! clamp {
        ($raw:ty, $R:ty) => {
            integer_type!(from, S => ternary(|raw: $raw, low: i64, high: i64| {
                i128::from(raw as S).clamp(low.into(), high.max(low).into()) as $R
            }))
        };
    }
    match (source, bits) {
        (File::Word, 16) => clamp!(u32, u16),
        (File::Word, 32) => clamp!(u32, u32),
        (File::Word, 64) => clamp!(u32, u64),
        (File::Wide, 16) => clamp!(u64, u16),
        (File::Wide, 32) => clamp!(u64, u32),
        (File::Wide, 64) => clamp!(u64, u64),
        _ => None,
    }
}
