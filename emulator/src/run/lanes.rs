//! Turns a function of one lane into one of a warp, compiled for AVX2 with FMA and for any processor.
//!
//! An operation is written once, as a closure over its operands: `binary(u32::wrapping_add)`. The closure has no
//! state, so its type alone says what to do, and the result is a plain function pointer that a decoded instruction keeps.

#![allow(unsafe_code)]

use super::registers::{FULL, LANES, Registers};
use std::marker::PhantomData;

/// The operands of an [`Alu`]: results first, then sources, as each constructor says; the last may hold flags.
pub(crate) type Rows = [u16; 6];

/// A lane-wise operation on a warp.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Alu(unsafe fn(&mut Registers, &Rows, u32));

impl Alu {
    /// Runs the operation on the lanes of `mask`.
    #[inline(always)]
    pub fn run(self, registers: &mut Registers, rows: &Rows, mask: u32) {
        // SAFETY: `pick` alone makes an `Alu`, and gives the AVX2 version only where the processor has AVX2 and FMA.
        unsafe { (self.0)(registers, rows, mask) }
    }
}

/// The best version of `B` for this processor.
fn pick<B: Body>() -> Alu {
    #[cfg(target_arch = "x86_64")]
    if super::simd::available() {
        return Alu(avx2::<B>);
    }
    Alu(portable::<B>)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<B: Body>(registers: &mut Registers, rows: &Rows, mask: u32) {
    B::run(registers, rows, mask);
}

fn portable<B: Body>(registers: &mut Registers, rows: &Rows, mask: u32) {
    B::run(registers, rows, mask);
}

/// A whole-warp operation; `run` must be inlined into the versions above.
trait Body {
    fn run(registers: &mut Registers, rows: &Rows, mask: u32);
}

/// A value of a type without state.
#[inline(always)]
fn stateless<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0) };
    let value = std::mem::MaybeUninit::<F>::uninit();
    // SAFETY: F has no bytes (asserted above), and every caller was handed a value of F when the Alu was made.
    unsafe { value.assume_init() }
}

/// A type that a register holds one value of in each lane.
pub(crate) trait Lane: Copy {
    /// The register's bits.
    type Raw: Copy + Default;
    fn row(registers: &Registers, row: u16) -> &[Self::Raw; LANES];
    fn row_mut(registers: &mut Registers, row: u16) -> &mut [Self::Raw; LANES];
    fn of(raw: Self::Raw) -> Self;
    fn raw(self) -> Self::Raw;
}

macro_rules! lane {
    ($ty:ty, $raw:ty, $row:ident, $row_mut:ident, $of:expr, $to:expr) => {
        impl Lane for $ty {
            type Raw = $raw;
            #[inline(always)]
            fn row(registers: &Registers, row: u16) -> &[$raw; LANES] {
                registers.$row(row)
            }
            #[inline(always)]
            fn row_mut(registers: &mut Registers, row: u16) -> &mut [$raw; LANES] {
                registers.$row_mut(row)
            }
            #[inline(always)]
            fn of(raw: $raw) -> Self {
                ($of)(raw)
            }
            #[inline(always)]
            fn raw(self) -> $raw {
                ($to)(self)
            }
        }
    };
}

lane!(u8, u32, word, word_mut, |raw| raw as u8, u32::from);
lane!(i8, u32, word, word_mut, |raw| raw as i8, |value: i8| u32::from(value as u8));
lane!(u16, u32, word, word_mut, |raw| raw as u16, u32::from);
lane!(i16, u32, word, word_mut, |raw| raw as i16, |value: i16| u32::from(value as u16));
lane!(u32, u32, word, word_mut, |raw| raw, |value| value);
lane!(i32, u32, word, word_mut, |raw| raw as i32, |value| value as u32);
lane!(f32, u32, word, word_mut, f32::from_bits, f32::to_bits);
lane!(u64, u64, wide, wide_mut, |raw| raw, |value| value);
lane!(i64, u64, wide, wide_mut, |raw| raw as i64, |value| value as u64);
lane!(f64, u64, wide, wide_mut, f64::from_bits, f64::to_bits);

/// Writes the lanes of `mask`.
#[inline(always)]
fn store<R: Lane>(registers: &mut Registers, row: u16, values: &[R::Raw; LANES], mask: u32) {
    let row = R::row_mut(registers, row);
    if mask == FULL {
        *row = *values;
        return;
    }
    for lane in 0..LANES {
        row[lane] = if mask >> lane & 1 != 0 { values[lane] } else { row[lane] };
    }
}

macro_rules! lanewise {
    ($(#[$doc:meta])* $function:ident, $body:ident, $($arg:ident: $ty:ident = $at:literal),+) => {
        struct $body<$($ty,)+ R, F>(PhantomData<($($ty,)+ R, F)>);

        impl<$($ty: Lane,)+ R: Lane, F: Fn($($ty),+) -> R + Copy> Body for $body<$($ty,)+ R, F> {
            #[inline(always)]
            fn run(registers: &mut Registers, rows: &Rows, mask: u32) {
                let f = stateless::<F>();
                $(let $arg = $ty::row(registers, rows[$at]);)+
                let mut out = [R::Raw::default(); LANES];
                for lane in 0..LANES {
                    out[lane] = f($($ty::of($arg[lane])),+).raw();
                }
                store::<R>(registers, rows[0], &out, mask);
            }
        }

        $(#[$doc])*
        pub(crate) fn $function<$($ty: Lane,)+ R: Lane, F: Fn($($ty),+) -> R + Copy>(_: F) -> Alu {
            pick::<$body<$($ty,)+ R, F>>()
        }
    };
}

lanewise!(
    /// `[d, a]`: d = f(a).
    unary, Unary, a: A = 1
);
lanewise!(
    /// `[d, a, b]`: d = f(a, b).
    binary, Binary, a: A = 1, b: B = 2
);
lanewise!(
    /// `[d, a, b, c]`: d = f(a, b, c).
    ternary, Ternary, a: A = 1, b: B = 2, c: C = 3
);
lanewise!(
    /// `[d, a, b, c, e]`: d = f(a, b, c, e).
    quaternary, Quaternary, a: A = 1, b: B = 2, c: C = 3, e: E = 4
);

/// How a comparison is combined with another predicate: the flags of [`compare`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Combine {
    Alone = 0,
    And = 1,
    Or = 2,
    Xor = 3,
}

/// Set in [`compare`]'s flags where the other predicate is negated.
pub(crate) const NEGATE: u16 = 4;

struct Compare<A, F>(PhantomData<(A, F)>);

/// The lanes where `f` holds.
#[inline(always)]
fn holds<A: Lane, F: Fn(A, A) -> bool + Copy>(registers: &Registers, a: u16, b: u16) -> u32 {
    let f = stateless::<F>();
    let (a, b) = (A::row(registers, a), A::row(registers, b));
    let mut held = 0;
    for lane in 0..LANES {
        held |= u32::from(f(A::of(a[lane]), A::of(b[lane]))) << lane;
    }
    held
}

impl<A: Lane, F: Fn(A, A) -> bool + Copy> Body for Compare<A, F> {
    #[inline(always)]
    fn run(registers: &mut Registers, rows: &Rows, mask: u32) {
        let [p, q, a, b, other, flags] = *rows;
        let held = holds::<A, F>(registers, a, b);
        let other = registers.pred(other) ^ if flags & NEGATE != 0 { FULL } else { 0 };
        let combine = |held: u32| match flags & 3 {
            0 => held,
            1 => held & other,
            2 => held | other,
            _ => held ^ other,
        };
        registers.set_pred(p, combine(held), mask);
        registers.set_pred(q, combine(!held), mask);
    }
}

/// `[p, q, a, b, c, flags]`: p = f(a, b) combined with c, q = !f(a, b) combined with c.
pub(crate) fn compare<A: Lane, F: Fn(A, A) -> bool + Copy>(_: F) -> Alu {
    pick::<Compare<A, F>>()
}

struct Set<A, F>(PhantomData<(A, F)>);

impl<A: Lane, F: Fn(A, A) -> bool + Copy> Body for Set<A, F> {
    #[inline(always)]
    fn run(registers: &mut Registers, rows: &Rows, mask: u32) {
        let [d, a, b, truth, ..] = *rows;
        let held = holds::<A, F>(registers, a, b);
        let truth = *registers.word(truth);
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = if held >> lane & 1 != 0 { truth[lane] } else { 0 };
        }
        store::<u32>(registers, d, &out, mask);
    }
}

/// `[d, a, b, c]`: d = c where f(a, b), else 0.
pub(crate) fn set<A: Lane, F: Fn(A, A) -> bool + Copy>(_: F) -> Alu {
    pick::<Set<A, F>>()
}

struct Test<A, F>(PhantomData<(A, F)>);

impl<A: Lane, F: Fn(A) -> bool + Copy> Body for Test<A, F> {
    #[inline(always)]
    fn run(registers: &mut Registers, rows: &Rows, mask: u32) {
        let f = stateless::<F>();
        let a = A::row(registers, rows[1]);
        let mut held = 0;
        for lane in 0..LANES {
            held |= u32::from(f(A::of(a[lane]))) << lane;
        }
        registers.set_pred(rows[0], held, mask);
    }
}

/// `[p, a]`: p = f(a).
pub(crate) fn test<A: Lane, F: Fn(A) -> bool + Copy>(_: F) -> Alu {
    pick::<Test<A, F>>()
}

struct Select<A>(PhantomData<A>);

impl<A: Lane> Body for Select<A> {
    #[inline(always)]
    fn run(registers: &mut Registers, rows: &Rows, mask: u32) {
        let [d, a, b, p, ..] = *rows;
        let chosen = registers.pred(p);
        let (a, b) = (A::row(registers, a), A::row(registers, b));
        let mut out = [A::Raw::default(); LANES];
        for lane in 0..LANES {
            out[lane] = if chosen >> lane & 1 != 0 { a[lane] } else { b[lane] };
        }
        store::<A>(registers, d, &out, mask);
    }
}

/// `[d, a, b, p]`: d = p ? a : b.
pub(crate) fn select<A: Lane>() -> Alu {
    pick::<Select<A>>()
}

struct Logic<F>(PhantomData<F>);

impl<F: Fn(u32, u32) -> u32 + Copy> Body for Logic<F> {
    #[inline(always)]
    fn run(registers: &mut Registers, rows: &Rows, mask: u32) {
        let value = stateless::<F>()(registers.pred(rows[1]), registers.pred(rows[2]));
        registers.set_pred(rows[0], value, mask);
    }
}

/// `[d, a, b]` on predicates, all lanes at once: d = f(a, b).
pub(crate) fn logic<F: Fn(u32, u32) -> u32 + Copy>(_: F) -> Alu {
    pick::<Logic<F>>()
}

struct Carry<A, F>(PhantomData<(A, F)>);

impl<A: Lane, F: Fn(A, A, A, bool) -> (A, bool) + Copy> Body for Carry<A, F> {
    #[inline(always)]
    fn run(registers: &mut Registers, rows: &Rows, mask: u32) {
        let [d, a, b, c, carry, writes] = *rows;
        let f = stateless::<F>();
        let carried = registers.pred(carry);
        let [a, b, c] = [a, b, c].map(|row| A::row(registers, row));
        let (mut out, mut carries) = ([A::Raw::default(); LANES], 0);
        for lane in 0..LANES {
            let (value, overflow) = f(A::of(a[lane]), A::of(b[lane]), A::of(c[lane]), carried >> lane & 1 != 0);
            out[lane] = value.raw();
            carries |= u32::from(overflow) << lane;
        }
        store::<A>(registers, d, &out, mask);
        if writes != 0 {
            registers.set_pred(carry, carries, mask);
        }
    }
}

/// `[d, a, b, c, carry, writes]`: (d, carry out) = f(a, b, c, carry in); the carry is kept where `writes` is not 0.
pub(crate) fn carry<A: Lane, F: Fn(A, A, A, bool) -> (A, bool) + Copy>(_: F) -> Alu {
    pick::<Carry<A, F>>()
}

struct Pack<A, R, F, const N: usize>(PhantomData<(A, R, F)>);

impl<A: Lane, R: Lane, F: Fn([A; N]) -> R + Copy, const N: usize> Body for Pack<A, R, F, N> {
    #[inline(always)]
    fn run(registers: &mut Registers, rows: &Rows, mask: u32) {
        let f = stateless::<F>();
        let sources: [_; N] = std::array::from_fn(|at| A::row(registers, rows[1 + at]));
        let mut out = [R::Raw::default(); LANES];
        for lane in 0..LANES {
            out[lane] = f(sources.map(|row| A::of(row[lane]))).raw();
        }
        store::<R>(registers, rows[0], &out, mask);
    }
}

/// `[d, a0, …]`: d = f([a0, …]).
pub(crate) fn pack<A: Lane, R: Lane, F: Fn([A; N]) -> R + Copy, const N: usize>(_: F) -> Alu {
    pick::<Pack<A, R, F, N>>()
}

struct Unpack<A, R, F, const N: usize>(PhantomData<(A, R, F)>);

impl<A: Lane, R: Lane, F: Fn(A) -> [R; N] + Copy, const N: usize> Body for Unpack<A, R, F, N> {
    #[inline(always)]
    fn run(registers: &mut Registers, rows: &Rows, mask: u32) {
        let f = stateless::<F>();
        let source = A::row(registers, rows[N]);
        let mut out = [[R::Raw::default(); LANES]; N];
        for lane in 0..LANES {
            let parts = f(A::of(source[lane]));
            for part in 0..N {
                out[part][lane] = parts[part].raw();
            }
        }
        for part in 0..N {
            store::<R>(registers, rows[part], &out[part], mask);
        }
    }
}

/// `[d0, …, a]`: [d0, …] = f(a).
pub(crate) fn unpack<A: Lane, R: Lane, F: Fn(A) -> [R; N] + Copy, const N: usize>(_: F) -> Alu {
    pick::<Unpack<A, R, F, N>>()
}
