//! `mma.sync`: products of small matrices that the lanes of a warp hold together.
//!
//! With g = lane / 4 and t = lane % 4, register i of A holds row g + 8 (i % 2), 32-bit word t + 4 (i / 2) of that row
//! (with m = 8, row g, word t + 4 i); register i of B holds column g, word t + 4 i; registers 2 i and 2 i + 1 of C and D
//! hold row g + 8 i, columns 2 t and 2 t + 1. A word is 32 bits of consecutive k. Source: PTX ISA, "Matrix Fragments for
//! mma". Sums run over k in order, in f32 or wrapping i32.

use super::registers::{LANES, Registers};
use super::simd::Work;
use crate::arith::float::one_nan;
use crate::arith::half::{half_from_f32, half_to_f32};

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

pub(super) const N: usize = 8;

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
        super::simd::work(Product { mma: self, registers });
    }

    /// Words hold `PARTS` elements; the functions give the f32 that is at a place in a word.
    #[inline(always)]
    fn multiply<const PARTS: usize>(
        &self,
        registers: &mut Registers,
        of_a: impl Fn(u32, usize) -> f32,
        of_b: impl Fn(u32, usize) -> f32,
    ) {
        let halves = self.m / 8;
        let mut totals = [[[0f32; N]; 8]; 2];
        if self.accumulator != Accumulator::S32 {
            self.load_totals(registers, &mut totals);
        }
        for step in 0..self.k / (4 * PARTS) {
            let b = columns_of_b::<PARTS>(registers.word(self.b[step]), &of_b);
            for (half, totals) in totals[..halves].iter_mut().enumerate() {
                let words = registers.word(self.a[half + step * halves]);
                let mut a = [[0f32; LANES]; PARTS];
                for (part, values) in a.iter_mut().enumerate() {
                    for lane in 0..LANES {
                        values[lane] = of_a(words[lane], part);
                    }
                }
                super::simd::multiply(&a, &b, totals);
            }
        }
        match self.accumulator {
            Accumulator::S32 => self.add_integers(registers, &totals),
            Accumulator::F32 | Accumulator::F16 => self.store_totals(registers, &mut totals),
        }
    }

    #[inline(always)]
    fn load_totals(&self, registers: &Registers, totals: &mut [Totals; 2]) {
        for (half, rows) in totals[..self.m / 8].iter_mut().enumerate() {
            if self.accumulator == Accumulator::F16 {
                let lanes = registers.word(self.c[half]);
                for lane in 0..LANES {
                    rows[lane / 4][lane % 4] = half_to_f32(lanes[lane] as u16);
                    rows[lane / 4][4 + lane % 4] = half_to_f32((lanes[lane] >> 16) as u16);
                }
                continue;
            }
            for odd in 0..2 {
                let lanes = registers.word(self.c[2 * half + odd]).as_chunks::<4>().0;
                for (total, lanes) in rows.iter_mut().zip(lanes) {
                    total.as_chunks_mut::<4>().0[odd] = lanes.map(f32::from_bits);
                }
            }
        }
    }

    #[inline(always)]
    fn store_totals(&self, registers: &mut Registers, totals: &mut [Totals; 2]) {
        for (half, rows) in totals[..self.m / 8].iter_mut().enumerate() {
            if self.accumulator == Accumulator::F16 {
                let lanes = registers.word_mut(self.d[half]);
                for lane in 0..LANES {
                    let (low, high) = (rows[lane / 4][lane % 4], rows[lane / 4][4 + lane % 4]);
                    lanes[lane] = u32::from(half_from_f32(low)) | u32::from(half_from_f32(high)) << 16;
                }
                continue;
            }
            for row in rows.iter_mut() {
                for value in row {
                    *value = one_nan(*value);
                }
            }
            for odd in 0..2 {
                let lanes = registers.word_mut(self.d[2 * half + odd]).as_chunks_mut::<4>().0;
                for (total, lanes) in rows.iter().zip(lanes) {
                    *lanes = total.as_chunks::<4>().0[odd].map(f32::to_bits);
                }
            }
        }
    }

    /// Adds products of integers, whose sums f32 holds exactly: at most 64 of 15 by 15, or 32 of 255 by 255.
    #[inline(always)]
    fn add_integers(&self, registers: &mut Registers, totals: &[Totals; 2]) {
        for i in 0..self.registers().2 {
            let before = *registers.word(self.c[i]);
            let lanes = registers.word_mut(self.d[i]);
            for lane in 0..LANES {
                let sum = totals[i / 2][lane / 4][4 * (i % 2) + lane % 4] as i32;
                let before = before[lane] as i32;
                lanes[lane] = if self.saturates { before.saturating_add(sum) } else { before.wrapping_add(sum) } as u32;
            }
        }
    }
}

struct Product<'a> {
    mma: &'a Mma,
    registers: &'a mut Registers,
}

impl Work for Product<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { mma, registers } = self;
        match (mma.a_element, mma.b_element) {
            (Element::Bf16, _) => mma.multiply::<2>(registers, bf16, bf16),
            (Element::F16, _) => mma.multiply::<2>(registers, f16, f16),
            (Element::Tf32, _) => mma.multiply::<1>(registers, tf32, tf32),
            (Element::S8, Element::S8) => mma.multiply::<4>(registers, s8, s8),
            (Element::S8, _) => mma.multiply::<4>(registers, s8, u8),
            (Element::U8, Element::S8) => mma.multiply::<4>(registers, u8, s8),
            (Element::U8, _) => mma.multiply::<4>(registers, u8, u8),
            (Element::S4, Element::S4) => mma.multiply::<8>(registers, s4, s4),
            (Element::S4, _) => mma.multiply::<8>(registers, s4, u4),
            (Element::U4, Element::S4) => mma.multiply::<8>(registers, u4, s4),
            (Element::U4, _) => mma.multiply::<8>(registers, u4, u4),
        }
    }
}

/// Eight rows of C. Columns stand in the order 0 2 4 6 1 3 5 7, so that a row is four lanes of each of two registers.
pub(super) type Totals = [[f32; N]; 8];

/// B's rows of k as f32, by word and place in it; columns in the order of [`Totals`].
#[inline(always)]
fn columns_of_b<const PARTS: usize>(lanes: &[u32; LANES], part: impl Fn(u32, usize) -> f32) -> [[[f32; N]; PARTS]; 4] {
    let mut words = [[0; N]; 4];
    for word in 0..4 {
        for (place, column) in [0, 2, 4, 6, 1, 3, 5, 7].into_iter().enumerate() {
            words[word][place] = lanes[4 * column + word];
        }
    }
    let mut rows = [[[0f32; N]; PARTS]; 4];
    for word in 0..4 {
        for place in 0..PARTS {
            for column in 0..N {
                rows[word][place][column] = part(words[word][column], place);
            }
        }
    }
    rows
}

#[inline(always)]
fn bf16(word: u32, part: usize) -> f32 {
    f32::from_bits(if part == 0 { word << 16 } else { word & 0xffff_0000 })
}

#[inline(always)]
fn f16(word: u32, part: usize) -> f32 {
    half_to_f32((word >> (16 * part)) as u16)
}

/// The hardware reads the upper 19 bits of a tf32.
#[inline(always)]
fn tf32(word: u32, _: usize) -> f32 {
    f32::from_bits(word & 0xffff_e000)
}

#[inline(always)]
fn s8(word: u32, part: usize) -> f32 {
    ((word << (24 - 8 * part)) as i32 >> 24) as f32
}

#[inline(always)]
fn u8(word: u32, part: usize) -> f32 {
    (word >> (8 * part) & 0xff) as i32 as f32
}

#[inline(always)]
fn s4(word: u32, part: usize) -> f32 {
    ((word << (28 - 4 * part)) as i32 >> 28) as f32
}

#[inline(always)]
fn u4(word: u32, part: usize) -> f32 {
    (word >> (4 * part) & 15) as i32 as f32
}
