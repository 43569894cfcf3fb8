//! `mma.sync`: products of small matrices that the lanes of a warp hold together.
//!
//! With g = lane / 4 and t = lane % 4, register i of A holds row g + 8 (i % 2), 32-bit word t + 4 (i / 2) of that row
//! (with m = 8, row g, word t + 4 i); register i of B holds column g, word t + 4 i; registers 2 i and 2 i + 1 of C and D
//! hold row g + 8 i, columns 2 t and 2 t + 1. A word is 32 bits of consecutive k. Source: PTX ISA, "Matrix Fragments for
//! mma". Sums run over k in order, in f32, each product and sum rounded once, or in wrapping i32.

use super::registers::{LANES, Registers};
use super::simd::{self, Avx2, Bf16, F16, Parts, S4, S8, Tf32, Totals, U4, U8, Work, each};
use crate::arith::half::half_from_f32;

/// What A and B hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Element {
    #[default]
    F16,
    Bf16,
    Tf32,
    S8,
    U8,
    S4,
    U4,
}

impl Element {
    pub fn bits(self) -> usize {
        match self {
            Self::Tf32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::S8 | Self::U8 => 8,
            Self::S4 | Self::U4 => 4,
        }
    }

    pub fn is_integer(self) -> bool {
        matches!(self, Self::S8 | Self::U8 | Self::S4 | Self::U4)
    }
}

/// What C and D hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Accumulator {
    #[default]
    F32,
    F16,
    S32,
}

/// One `mma.sync` with n = 8.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mma {
    pub m: usize,
    pub k: usize,
    pub a_element: Element,
    pub b_element: Element,
    pub accumulator: Accumulator,
    pub saturates: bool,
    pub a: [u16; 4],
    pub b: [u16; 4],
    pub c: [u16; 4],
    pub d: [u16; 4],
}

const N: usize = 8;

impl Mma {
    /// Registers of A, B and C.
    pub fn registers(&self) -> (usize, usize, usize) {
        let words = self.words();
        let totals = self.m * N / LANES;
        let halves = if self.accumulator == Accumulator::F16 { 2 } else { 1 };
        (self.m * words / LANES, N * words / LANES, totals / halves)
    }

    /// 32-bit words of a row of A.
    fn words(&self) -> usize {
        self.k * self.a_element.bits() / 32
    }

    /// Multiplications and additions.
    pub fn operations(&self) -> u64 {
        (2 * self.m * N * self.k) as u64
    }

    /// Multiplies; all lanes take part.
    pub fn run(&self, registers: &mut Registers) {
        simd::work(Product { mma: self, registers });
    }

    #[inline(always)]
    fn multiply<A: Parts, B: Parts, const PARTS: usize, const INTEGER: bool>(
        &self,
        registers: &mut Registers,
        avx2: Option<Avx2>,
    ) {
        let (halves, steps) = (self.m / 8, self.words() / 4);
        let mut b = [[[[[0; 8]; 2]; PARTS]; 4]; 2];
        for (step, b) in b[..steps].iter_mut().enumerate() {
            simd::columns::<B, PARTS>(avx2, registers.word(self.b[step]), b);
        }
        let mut totals = [[[0; LANES]; 2]; 2];
        for (half, totals) in totals[..halves].iter_mut().enumerate() {
            self.load_totals(registers, half, totals);
            let a = [registers.word(self.a[half]), registers.word(self.a[half + (steps - 1) * halves])];
            if self.saturates {
                let mut sums = [[0; LANES]; 2];
                simd::multiply::<A, PARTS, INTEGER>(avx2, &a[..steps], &b, &mut sums);
                add_saturating(totals, &sums);
            } else {
                simd::multiply::<A, PARTS, INTEGER>(avx2, &a[..steps], &b, totals);
            }
        }
        for (half, totals) in totals[..halves].iter().enumerate() {
            self.store_totals(registers, half, totals);
        }
    }

    #[inline(always)]
    fn load_totals(&self, registers: &Registers, half: usize, totals: &mut Totals) {
        for (odd, lanes) in totals.iter_mut().enumerate() {
            match self.accumulator {
                Accumulator::F16 => each(registers.word(self.c[half]), lanes, |pair| F16::part(pair, odd)),
                _ => *lanes = *registers.word(self.c[2 * half + odd]),
            }
        }
    }

    #[inline(always)]
    fn store_totals(&self, registers: &mut Registers, half: usize, totals: &Totals) {
        if self.accumulator == Accumulator::F16 {
            let half_of = |bits| u32::from(half_from_f32(f32::from_bits(bits)));
            let lanes = registers.word_mut(self.d[half]);
            for lane in 0..LANES {
                lanes[lane] = half_of(totals[0][lane]) | half_of(totals[1][lane]) << 16;
            }
            return;
        }
        for (odd, totals) in totals.iter().enumerate() {
            *registers.word_mut(self.d[2 * half + odd]) = *totals;
        }
    }
}

fn add_saturating(totals: &mut Totals, sums: &Totals) {
    for (total, sum) in totals.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
        *total = (*total as i32).saturating_add(*sum as i32) as u32;
    }
}

struct Product<'a> {
    mma: &'a Mma,
    registers: &'a mut Registers,
}

impl Work for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, avx2: Option<Avx2>) {
        let Self { mma, registers } = self;
        match (mma.a_element, mma.b_element) {
            (Element::Bf16, _) => mma.multiply::<Bf16, Bf16, 2, false>(registers, avx2),
            (Element::F16, _) => mma.multiply::<F16, F16, 2, false>(registers, avx2),
            (Element::Tf32, _) => mma.multiply::<Tf32, Tf32, 1, false>(registers, avx2),
            (Element::S8, Element::S8) => mma.multiply::<S8, S8, 2, true>(registers, avx2),
            (Element::S8, _) => mma.multiply::<S8, U8, 2, true>(registers, avx2),
            (Element::U8, Element::S8) => mma.multiply::<U8, S8, 2, true>(registers, avx2),
            (Element::U8, _) => mma.multiply::<U8, U8, 2, true>(registers, avx2),
            (Element::S4, Element::S4) => mma.multiply::<S4, S4, 4, true>(registers, avx2),
            (Element::S4, _) => mma.multiply::<S4, U4, 4, true>(registers, avx2),
            (Element::U4, Element::S4) => mma.multiply::<U4, S4, 4, true>(registers, avx2),
            (Element::U4, _) => mma.multiply::<U4, U4, 4, true>(registers, avx2),
        }
    }
}
