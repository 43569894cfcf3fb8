//! `mma.sync`: products of small matrices that the lanes of a warp hold together.
//!
//! With g = lane / 4 and t = lane % 4, register i of A holds row g + 8 (i % 2), 32-bit word t + 4 (i / 2) of that row
//! (with m = 8, row g, word t + 4 i); register i of B holds column g, word t + 4 i; registers 2 i and 2 i + 1 of C and D
//! hold row g + 8 i, columns 2 t and 2 t + 1. A word is 32 bits of consecutive k. Source: PTX ISA, "Matrix Fragments for
//! mma". Sums run over k in order, in f32 or wrapping i32.

use super::registers::{LANES, Registers};
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

const N: usize = 8;
/// The most rows and the most words of a row.
const M: usize = 16;
const WORDS: usize = 8;

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
    #[inline(always)]
    pub fn run(&self, registers: &mut Registers) {
        let a = self.rows_of_a(registers);
        let b = self.columns_of_b(registers);
        let mut totals = [[0f32; N]; M];
        if self.accumulator != Accumulator::S32 {
            self.load_totals(registers, &mut totals);
        }
        let (m, words) = (self.m, self.words());
        match (self.a_element, self.b_element) {
            (Element::Bf16, _) => multiply::<2>(m, words, &a, &b, &mut totals, bf16_pair, bf16_pair),
            (Element::F16, _) => multiply::<2>(m, words, &a, &b, &mut totals, f16_pair, f16_pair),
            (Element::Tf32, _) => multiply::<1>(m, words, &a, &b, &mut totals, tf32, tf32),
            (Element::S8, Element::S8) => multiply::<4>(m, words, &a, &b, &mut totals, bytes::<true>, bytes::<true>),
            (Element::S8, _) => multiply::<4>(m, words, &a, &b, &mut totals, bytes::<true>, bytes::<false>),
            (Element::U8, Element::S8) => multiply::<4>(m, words, &a, &b, &mut totals, bytes::<false>, bytes::<true>),
            (Element::U8, _) => multiply::<4>(m, words, &a, &b, &mut totals, bytes::<false>, bytes::<false>),
            (Element::S4, Element::S4) => {
                multiply::<8>(m, words, &a, &b, &mut totals, nibbles::<true>, nibbles::<true>)
            }
            (Element::S4, _) => multiply::<8>(m, words, &a, &b, &mut totals, nibbles::<true>, nibbles::<false>),
            (Element::U4, Element::S4) => {
                multiply::<8>(m, words, &a, &b, &mut totals, nibbles::<false>, nibbles::<true>)
            }
            (Element::U4, _) => multiply::<8>(m, words, &a, &b, &mut totals, nibbles::<false>, nibbles::<false>),
        }
        match self.accumulator {
            Accumulator::S32 => self.add_integers(registers, &totals),
            Accumulator::F32 | Accumulator::F16 => self.store_totals(registers, &totals),
        }
    }

    #[inline(always)]
    fn rows_of_a(&self, registers: &Registers) -> [[u32; WORDS]; M] {
        let mut rows = [[0; WORDS]; M];
        for i in 0..self.registers().0 {
            let lanes = registers.word(self.a[i]);
            let (below, right) = if self.m == 16 { (8 * (i % 2), 4 * (i / 2)) } else { (0, 4 * i) };
            for row in 0..8 {
                rows[below + row][right..right + 4].copy_from_slice(&lanes[4 * row..4 * row + 4]);
            }
        }
        rows
    }

    /// Words of k down, columns across.
    #[inline(always)]
    fn columns_of_b(&self, registers: &Registers) -> [[u32; N]; WORDS] {
        let mut words = [[0; N]; WORDS];
        for i in 0..self.registers().1 {
            let lanes = registers.word(self.b[i]);
            for lane in 0..LANES {
                words[4 * i + lane % 4][lane / 4] = lanes[lane];
            }
        }
        words
    }

    #[inline(always)]
    fn load_totals(&self, registers: &Registers, totals: &mut [[f32; N]; M]) {
        for i in 0..self.registers().2 {
            let lanes = registers.word(self.c[i]);
            for lane in 0..LANES {
                let (row, column) = (lane / 4, 2 * (lane % 4));
                if self.accumulator == Accumulator::F32 {
                    totals[8 * (i / 2) + row][column + i % 2] = f32::from_bits(lanes[lane]);
                } else {
                    totals[8 * i + row][column] = half_to_f32(lanes[lane] as u16);
                    totals[8 * i + row][column + 1] = half_to_f32((lanes[lane] >> 16) as u16);
                }
            }
        }
    }

    #[inline(always)]
    fn store_totals(&self, registers: &mut Registers, totals: &[[f32; N]; M]) {
        for i in 0..self.registers().2 {
            let lanes = registers.word_mut(self.d[i]);
            for lane in 0..LANES {
                let (row, column) = (lane / 4, 2 * (lane % 4));
                lanes[lane] = if self.accumulator == Accumulator::F32 {
                    let value = totals[8 * (i / 2) + row][column + i % 2];
                    if value.is_nan() { 0x7fff_ffff } else { value.to_bits() }
                } else {
                    let pair = &totals[8 * i + row][column..column + 2];
                    u32::from(half_from_f32(pair[0])) | u32::from(half_from_f32(pair[1])) << 16
                };
            }
        }
    }

    /// Adds products of integers, whose sums f32 holds exactly: at most 64 of 15 by 15, or 32 of 255 by 255.
    #[inline(always)]
    fn add_integers(&self, registers: &mut Registers, sums: &[[f32; N]; M]) {
        for i in 0..self.registers().2 {
            let before = *registers.word(self.c[i]);
            let lanes = registers.word_mut(self.d[i]);
            for lane in 0..LANES {
                let sum = sums[8 * (i / 2) + lane / 4][2 * (lane % 4) + i % 2] as i32;
                let before = before[lane] as i32;
                lanes[lane] = if self.saturates { before.saturating_add(sum) } else { before.wrapping_add(sum) } as u32;
            }
        }
    }
}

#[inline(always)]
fn bf16_pair(word: u32) -> [f32; 2] {
    [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)]
}

#[inline(always)]
fn f16_pair(word: u32) -> [f32; 2] {
    [half_to_f32(word as u16), half_to_f32((word >> 16) as u16)]
}

/// The hardware reads the upper 19 bits of a tf32.
#[inline(always)]
fn tf32(word: u32) -> [f32; 1] {
    [f32::from_bits(word & 0xffff_e000)]
}

#[inline(always)]
fn bytes<const SIGNED: bool>(word: u32) -> [f32; 4] {
    [24, 16, 8, 0].map(|left| {
        let top = word << left;
        if SIGNED { (top as i32 >> 24) as f32 } else { (top >> 24) as f32 }
    })
}

#[inline(always)]
fn nibbles<const SIGNED: bool>(word: u32) -> [f32; 8] {
    [28, 24, 20, 16, 12, 8, 4, 0].map(|left| {
        let top = word << left;
        if SIGNED { (top as i32 >> 28) as f32 } else { (top >> 28) as f32 }
    })
}

/// Adds A B to `totals`, k in order; a word holds `E` values of k.
#[inline(always)]
fn multiply<const E: usize>(
    m: usize,
    words: usize,
    a: &[[u32; WORDS]; M],
    b: &[[u32; N]; WORDS],
    totals: &mut [[f32; N]; M],
    values_of_a: impl Fn(u32) -> [f32; E],
    values_of_b: impl Fn(u32) -> [f32; E],
) {
    let mut weights = [[[0f32; N]; E]; WORDS];
    for word in 0..words {
        for column in 0..N {
            let values = values_of_b(b[word][column]);
            for part in 0..E {
                weights[word][part][column] = values[part];
            }
        }
    }
    for row in 0..m {
        let mut sums = totals[row];
        for word in 0..words {
            let values = values_of_a(a[row][word]);
            for part in 0..E {
                for column in 0..N {
                    sums[column] = values[part].mul_add(weights[word][part][column], sums[column]);
                }
            }
        }
        totals[row] = sums;
    }
}
