//! `mma.sync`: products of small matrices that the lanes of a warp hold together.
//!
//! With g = lane / 4 and t = lane % 4, register i of A holds row g + 8 (i % 2), 32-bit word t + 4 (i / 2) of that row
//! (with m = 8, row g, word t + 4 i); register i of B holds column g, word t + 4 i; registers 2 i and 2 i + 1 of C and D
//! hold row g + 8 i, columns 2 t and 2 t + 1. A word is 32 bits of consecutive k. Source: PTX ISA, "Matrix Fragments for
//! mma". Sums run over k in order, in f32 or wrapping i32.

use super::registers::{LANES, Registers};
use crate::arith::half::{bf16_to_f32, half_from_f32, half_to_f32};

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
    pub fn run(&self, registers: &mut Registers) {
        let a = self.rows_of_a(registers);
        let b = self.columns_of_b(registers);
        match self.accumulator {
            Accumulator::S32 => self.integers(registers, &a, &b),
            Accumulator::F32 | Accumulator::F16 => self.floats(registers, &a, &b),
        }
    }

    fn rows_of_a(&self, registers: &Registers) -> [[u32; WORDS]; M] {
        let mut rows = [[0; WORDS]; M];
        for i in 0..self.registers().0 {
            let lanes = registers.word(self.a[i]);
            let (below, right) = if self.m == 16 { (8 * (i % 2), 4 * (i / 2)) } else { (0, 4 * i) };
            for lane in 0..LANES {
                rows[below + lane / 4][right + lane % 4] = lanes[lane];
            }
        }
        rows
    }

    fn columns_of_b(&self, registers: &Registers) -> [[u32; WORDS]; N] {
        let mut columns = [[0; WORDS]; N];
        for i in 0..self.registers().1 {
            let lanes = registers.word(self.b[i]);
            for lane in 0..LANES {
                columns[lane / 4][4 * i + lane % 4] = lanes[lane];
            }
        }
        columns
    }

    fn floats(&self, registers: &mut Registers, a: &[[u32; WORDS]; M], b: &[[u32; WORDS]; N]) {
        let mut totals = [[0f32; N]; M];
        self.load_floats(registers, &mut totals);
        match self.a_element {
            Element::Bf16 => multiply::<16>(self.m, self.words(), a, b, &mut totals, halves(bf16_to_f32)),
            Element::F16 => multiply::<16>(self.m, self.words(), a, b, &mut totals, halves(half_to_f32)),
            _ => multiply::<8>(self.m, self.words(), a, b, &mut totals, |word, out| {
                // The hardware reads the upper 19 bits of a tf32.
                out[0] = f32::from_bits(word & 0xffff_e000);
            }),
        }
        self.store_floats(registers, &totals);
    }

    fn load_floats(&self, registers: &Registers, totals: &mut [[f32; N]; M]) {
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

    fn store_floats(&self, registers: &mut Registers, totals: &[[f32; N]; M]) {
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

    fn integers(&self, registers: &mut Registers, a: &[[u32; WORDS]; M], b: &[[u32; WORDS]; N]) {
        let mut sums = [[0i64; N]; M];
        for (row, sums) in sums.iter_mut().enumerate().take(self.m) {
            for (column, sum) in sums.iter_mut().enumerate() {
                for word in 0..self.words() {
                    *sum += i64::from(self.dot(a[row][word], b[column][word]));
                }
            }
        }
        for i in 0..self.registers().2 {
            let before = *registers.word(self.c[i]);
            let lanes = registers.word_mut(self.d[i]);
            for lane in 0..LANES {
                let sum = i64::from(before[lane] as i32) + sums[8 * (i / 2) + lane / 4][2 * (lane % 4) + i % 2];
                let clamped = sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
                lanes[lane] = if self.saturates { clamped } else { sum } as u32;
            }
        }
    }

    /// The dot product of two words of integers.
    fn dot(&self, a: u32, b: u32) -> i32 {
        let part = |word: u32, element: Element, at: usize| match element {
            Element::S8 => i32::from((word >> (8 * at)) as i8),
            Element::U8 => i32::from((word >> (8 * at)) as u8),
            Element::S4 => ((word << (28 - 4 * at)) as i32) >> 28,
            _ => (word >> (4 * at) & 15) as i32,
        };
        let parts = 32 / self.a_element.bits();
        (0..parts).map(|at| part(a, self.a_element, at) * part(b, self.b_element, at)).sum()
    }
}

/// The two halves of a word, as f32.
#[inline(always)]
fn halves(convert: impl Fn(u16) -> f32) -> impl Fn(u32, &mut [f32; 2]) {
    move |word, out| *out = [convert(word as u16), convert((word >> 16) as u16)]
}

/// Adds A B to `totals`; `expand` makes a word's values, `K` is the most of them in a row.
#[inline(always)]
fn multiply<const K: usize>(
    m: usize,
    words: usize,
    a: &[[u32; WORDS]; M],
    b: &[[u32; WORDS]; N],
    totals: &mut [[f32; N]; M],
    expand: impl Fn(u32, &mut [f32; 2]),
) {
    let each = K / WORDS;
    let mut by_k = [[0f32; N]; K];
    for (column, line) in b.iter().enumerate() {
        for (word, &bits) in line.iter().enumerate() {
            let mut values = [0.0; 2];
            expand(bits, &mut values);
            for part in 0..each {
                by_k[each * word + part][column] = values[part];
            }
        }
    }
    for (line, totals) in a.iter().zip(totals).take(m) {
        for word in 0..words {
            let mut values = [0.0; 2];
            expand(line[word], &mut values);
            for part in 0..each {
                let weights = &by_k[each * word + part];
                for column in 0..N {
                    totals[column] = values[part].mul_add(weights[column], totals[column]);
                }
            }
        }
    }
}
