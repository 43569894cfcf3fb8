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

pub(super) const N: usize = 8;
/// The most rows and the most words of a row.
const M: usize = 16;
const WORDS: usize = 8;
/// The largest k.
pub(super) const K: usize = 64;

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
        super::simd::run(|| match (self.a_element, self.b_element) {
            (Element::Bf16, _) => self.multiply(registers, bf16, bf16),
            (Element::F16, _) => self.multiply(registers, f16, f16),
            (Element::Tf32, _) => self.multiply(registers, tf32, tf32),
            (Element::S8, Element::S8) => self.multiply(registers, s8, s8),
            (Element::S8, _) => self.multiply(registers, s8, u8),
            (Element::U8, Element::S8) => self.multiply(registers, u8, s8),
            (Element::U8, _) => self.multiply(registers, u8, u8),
            (Element::S4, Element::S4) => self.multiply(registers, s4, s4),
            (Element::S4, _) => self.multiply(registers, s4, u4),
            (Element::U4, Element::S4) => self.multiply(registers, u4, s4),
            (Element::U4, _) => self.multiply(registers, u4, u4),
        });
    }

    /// The functions give the f32 that is at a place in a word.
    #[inline(always)]
    fn multiply(&self, registers: &mut Registers, of_a: impl Fn(u32, usize) -> f32, of_b: impl Fn(u32, usize) -> f32) {
        let parts = 32 / self.a_element.bits();
        let (words_of_a, words_of_b) = (self.rows_of_a(registers), self.columns_of_b(registers));
        let (mut a, mut b, mut totals) = ([[0f32; K]; M], [[0f32; N]; K], [[0f32; N]; M]);
        for (row, words) in a.iter_mut().zip(&words_of_a).take(self.m) {
            for (word, values) in words.iter().zip(row.chunks_exact_mut(parts)) {
                for (part, value) in values.iter_mut().enumerate() {
                    *value = of_a(*word, part);
                }
            }
        }
        for (words, rows) in words_of_b.iter().zip(b.chunks_exact_mut(parts)) {
            for (part, row) in rows.iter_mut().enumerate() {
                for column in 0..N {
                    row[column] = of_b(words[column], part);
                }
            }
        }
        if self.accumulator != Accumulator::S32 {
            self.load_totals(registers, &mut totals);
        }
        super::simd::multiply(&a[..self.m], &b[..self.k], &mut totals[..self.m]);
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
            for word in 0..4 {
                words[4 * i + word] = std::array::from_fn(|column| lanes[4 * column + word]);
            }
        }
        words
    }

    #[inline(always)]
    fn load_totals(&self, registers: &Registers, totals: &mut [[f32; N]; M]) {
        for half in 0..self.m / 8 {
            let rows = &mut totals[8 * half..8 * half + 8];
            if self.accumulator == Accumulator::F32 {
                let (even, odd) = (registers.word(self.c[2 * half]), registers.word(self.c[2 * half + 1]));
                for (row, total) in rows.iter_mut().enumerate() {
                    for pair in 0..4 {
                        total[2 * pair] = f32::from_bits(even[4 * row + pair]);
                        total[2 * pair + 1] = f32::from_bits(odd[4 * row + pair]);
                    }
                }
            } else {
                let lanes = registers.word(self.c[half]);
                for (row, total) in rows.iter_mut().enumerate() {
                    for pair in 0..4 {
                        total[2 * pair] = half_to_f32(lanes[4 * row + pair] as u16);
                        total[2 * pair + 1] = half_to_f32((lanes[4 * row + pair] >> 16) as u16);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn store_totals(&self, registers: &mut Registers, totals: &[[f32; N]; M]) {
        for half in 0..self.m / 8 {
            let rows = &totals[8 * half..8 * half + 8];
            if self.accumulator == Accumulator::F32 {
                for odd in 0..2 {
                    let lanes = registers.word_mut(self.d[2 * half + odd]);
                    for (row, total) in rows.iter().enumerate() {
                        for pair in 0..4 {
                            let value = total[2 * pair + odd];
                            lanes[4 * row + pair] = if value.is_nan() { 0x7fff_ffff } else { value.to_bits() };
                        }
                    }
                }
            } else {
                let lanes = registers.word_mut(self.d[half]);
                for (row, total) in rows.iter().enumerate() {
                    for pair in 0..4 {
                        let [low, high] = [total[2 * pair], total[2 * pair + 1]].map(half_from_f32);
                        lanes[4 * row + pair] = u32::from(low) | u32::from(high) << 16;
                    }
                }
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
