//! Runs code compiled for AVX2 with FMA and instructions on bits where the processor has them.

#![allow(unsafe_code)]

use super::registers::LANES;
use crate::arith::float::one_nan;
use crate::arith::half::half_to_f32;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;

/// Whether the processor has AVX2, FMA and the instructions on bits that came with them.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn available() -> bool {
    use std::arch::is_x86_feature_detected as has;
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        has!("avx2") && has!("fma") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("popcnt")
    });
    *AVAILABLE
}

/// Calls `f`, with what is inlined into it compiled for what [`available`] asks where the processor has that.
#[inline(always)]
pub(crate) fn run<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
        fn avx2<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        if available() {
            // SAFETY: the processor has all of these, as just asked.
            return unsafe { avx2(f) };
        }
    }
    f()
}

/// Shows that the processor has AVX2 and FMA.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

/// Work whose code is inlined where it runs, however long it is.
pub(super) trait Work {
    type Output;
    fn run(self, avx2: Option<Avx2>) -> Self::Output;
}

/// As [`run`].
#[inline(always)]
pub(super) fn work<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
        fn avx2<W: Work>(work: W) -> W::Output {
            work.run(Some(Avx2(())))
        }
        if available() {
            // SAFETY: the processor has all of these, as just asked.
            return unsafe { avx2(work) };
        }
    }
    work.run(None)
}

/// Eight rows of C as lanes hold them: even columns, then odd.
pub(super) type Totals = [[u32; LANES]; 2];

/// B's elements of eight columns and four words of k: by word and part, those of the even columns and of the odd, twice.
pub(super) type Columns<const PARTS: usize> = [[[[u32; 8]; 2]; PARTS]; 4];

/// How a word of A or B is taken apart: into an f32's bits, or into two i16.
pub(super) trait Parts {
    fn part(word: u32, part: usize) -> u32;

    /// As [`Self::part`], of eight words.
    ///
    /// # Safety
    /// The processor must have AVX2.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn part_avx2(words: __m256i, part: usize) -> __m256i {
        let (mut from, mut to) = ([0; 8], [0; 8]);
        store(&mut from, words);
        each(&from, &mut to, |word| Self::part(word, part));
        load(&to, 0)
    }
}

#[inline(always)]
pub(super) fn each(from: &[u32], to: &mut [u32], f: impl Fn(u32) -> u32) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f(*from);
    }
}

pub(super) struct F16;

impl Parts for F16 {
    #[inline(always)]
    fn part(word: u32, part: usize) -> u32 {
        half_to_f32((word >> (16 * part)) as u16).to_bits()
    }
}

pub(super) struct Bf16;

impl Parts for Bf16 {
    #[inline(always)]
    fn part(word: u32, part: usize) -> u32 {
        if part == 0 { word << 16 } else { word & 0xffff_0000 }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn part_avx2(words: __m256i, part: usize) -> __m256i {
        if part == 0 { _mm256_slli_epi32::<16>(words) } else { _mm256_and_si256(words, _mm256_set1_epi32(!0xffff)) }
    }
}

pub(super) struct Tf32;

impl Parts for Tf32 {
    /// The hardware reads the upper 19 bits of a tf32.
    #[inline(always)]
    fn part(word: u32, _: usize) -> u32 {
        word & 0xffff_e000
    }
}

pub(super) struct Integer<const BITS: u32, const SIGNED: bool>;
pub(super) type S8 = Integer<8, true>;
pub(super) type U8 = Integer<8, false>;
pub(super) type S4 = Integer<4, true>;
pub(super) type U4 = Integer<4, false>;

impl<const BITS: u32, const SIGNED: bool> Integer<BITS, SIGNED> {
    /// By how many bits a half moves up and then down, so that its element of `part` is left.
    #[inline(always)]
    fn shifts(part: usize) -> (u32, u32) {
        (16 - BITS * (part as u32 + 1), 16 - BITS)
    }
}

impl<const BITS: u32, const SIGNED: bool> Parts for Integer<BITS, SIGNED> {
    #[inline(always)]
    fn part(word: u32, part: usize) -> u32 {
        let (up, down) = Self::shifts(part);
        let of_half = |half: u16| if SIGNED { ((half << up) as i16 >> down) as u16 } else { half << up >> down };
        u32::from(of_half(word as u16)) | u32::from(of_half((word >> 16) as u16)) << 16
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn part_avx2(words: __m256i, part: usize) -> __m256i {
        let (up, down) = Self::shifts(part);
        let [up, down] = [up, down].map(|by| _mm_cvtsi32_si128(by as i32));
        let words = _mm256_sll_epi16(words, up);
        if SIGNED { _mm256_sra_epi16(words, down) } else { _mm256_srl_epi16(words, down) }
    }
}

/// Takes B's columns from a register.
#[inline(always)]
pub(super) fn columns<B: Parts, const PARTS: usize>(
    avx2: Option<Avx2>,
    lanes: &[u32; LANES],
    columns: &mut Columns<PARTS>,
) {
    #[cfg(target_arch = "x86_64")]
    if avx2.is_some() {
        // SAFETY: the processor has AVX2 and FMA, as `avx2` shows.
        return unsafe { columns_avx2::<B, PARTS>(lanes, columns) };
    }
    for (word, parts) in columns.iter_mut().enumerate() {
        for (part, columns) in parts.iter_mut().enumerate() {
            for (odd, columns) in columns.iter_mut().enumerate() {
                *columns = std::array::from_fn(|at| B::part(lanes[4 * (2 * (at % 4) + odd) + word], part));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn columns_avx2<B: Parts, const PARTS: usize>(lanes: &[u32; LANES], columns: &mut Columns<PARTS>) {
    let quads = lanes.as_chunks::<4>().0;
    for odd in 0..2 {
        // SAFETY: four words are what is loaded.
        let quad = |column: usize| unsafe { _mm_loadu_si128(quads[column].as_ptr().cast()) };
        let words = transpose([quad(odd), quad(2 + odd), quad(4 + odd), quad(6 + odd)]);
        for word in 0..4 {
            let twice = _mm256_broadcastsi128_si256(words[word]);
            for part in 0..PARTS {
                // SAFETY: the processor has AVX2, as this function demands.
                store(&mut columns[word][part][odd], unsafe { B::part_avx2(twice, part) });
            }
        }
    }
}

/// The columns of a matrix of words.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn transpose([a, b, c, d]: [__m128i; 4]) -> [__m128i; 4] {
    let (low, low_next) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
    let (high, high_next) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
    [
        _mm_unpacklo_epi64(low, low_next),
        _mm_unpackhi_epi64(low, low_next),
        _mm_unpacklo_epi64(high, high_next),
        _mm_unpackhi_epi64(high, high_next),
    ]
}

/// Four words of each lane as they lie in memory, by word.
#[inline(always)]
pub(super) fn split(quads: &[[u8; 16]], rows: &mut [[u32; LANES]; 4]) {
    for (at, quads) in quads.as_chunks().0.iter().enumerate() {
        let columns = transposed(quads);
        for (row, column) in rows.iter_mut().zip(&columns) {
            for (word, bytes) in row.as_chunks_mut::<4>().0[at].iter_mut().zip(column.as_chunks().0) {
                *word = u32::from_le_bytes(*bytes);
            }
        }
    }
}

/// The reverse of [`split`].
#[inline(always)]
pub(super) fn join(rows: [&[u32; LANES]; 4], quads: &mut [[u8; 16]]) {
    for (at, quads) in quads.as_chunks_mut().0.iter_mut().enumerate() {
        let mut words = [[0; 16]; 4];
        for (bytes, row) in words.iter_mut().zip(rows) {
            for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(row.as_chunks::<4>().0[at]) {
                *bytes = word.to_le_bytes();
            }
        }
        *quads = transposed(&words);
    }
}

/// The columns of a matrix of four by four times four bytes.
#[inline(always)]
fn transposed(rows: &[[u8; 16]; 4]) -> [[u8; 16]; 4] {
    let mut columns = [[0; 16]; 4];
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: 16 bytes are what is loaded.
        let load = |row: usize| unsafe { _mm_loadu_si128(rows[row].as_ptr().cast()) };
        // SAFETY: every x86-64 has SSE2.
        let values = unsafe { transpose([load(0), load(1), load(2), load(3)]) };
        for (column, value) in columns.iter_mut().zip(values) {
            // SAFETY: 16 bytes are what is stored.
            unsafe { _mm_storeu_si128(column.as_mut_ptr().cast(), value) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    for (row, column) in (0..4).flat_map(|row| (0..4).map(move |column| (row, column))) {
        columns[column].as_chunks_mut::<4>().0[row] = rows[row].as_chunks().0[column];
    }
    columns
}

/// Adds products to eight rows of totals, k in order. `a` has four words of each row, for each of `b`. A product and its
/// sum in f32 are rounded once; those of i16, with `INTEGER`, are exact.
#[inline(always)]
pub(super) fn multiply<A: Parts, const PARTS: usize, const INTEGER: bool>(
    avx2: Option<Avx2>,
    a: &[&[u32; LANES]],
    b: &[Columns<PARTS>],
    totals: &mut Totals,
) {
    #[cfg(target_arch = "x86_64")]
    if avx2.is_some() {
        // SAFETY: the processor has AVX2 and FMA, as `avx2` shows.
        return unsafe { multiply_avx2::<A, PARTS, INTEGER>(a, b, totals) };
    }
    for (a, b) in a.iter().zip(b) {
        for (word, part) in (0..4).flat_map(|word| (0..PARTS).map(move |part| (word, part))) {
            for (sums, columns) in totals.iter_mut().zip(&b[word][part]) {
                for lane in 0..LANES {
                    let a = A::part(a[lane & !3 | word], part);
                    sums[lane] = add_product::<INTEGER>(a, columns[lane % 4], sums[lane]);
                }
            }
        }
    }
    if !INTEGER {
        totals.as_flattened_mut().iter_mut().for_each(|sum| *sum = one_nan(f32::from_bits(*sum)).to_bits());
    }
}

#[inline(always)]
fn add_product<const INTEGER: bool>(a: u32, b: u32, sum: u32) -> u32 {
    if !INTEGER {
        return f32::from_bits(a).mul_add(f32::from_bits(b), f32::from_bits(sum)).to_bits();
    }
    let product = |shift: u32| i32::from((a >> shift) as i16) * i32::from((b >> shift) as i16);
    sum.wrapping_add((product(0) + product(16)) as u32)
}

/// As [`multiply`]; four rows at once hide the latency of each sum.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn multiply_avx2<A: Parts, const PARTS: usize, const INTEGER: bool>(
    a: &[&[u32; LANES]],
    b: &[Columns<PARTS>],
    totals: &mut Totals,
) {
    for at in (0..LANES).step_by(16) {
        let mut sums = [_mm256_setzero_si256(); 4];
        for i in 0..4 {
            sums[i] = load(&totals[i % 2], at + i / 2 * 8);
        }
        for (a, b) in a.iter().zip(b) {
            macro_rules! word {
                ($word:literal) => {
                    for part in 0..PARTS {
                        for i in 0..4 {
                            // SAFETY: the processor has AVX2, as this function demands.
                            let a = unsafe { A::part_avx2(load(&a[..], at + i / 2 * 8), part) };
                            // Each lane of a row takes the row's word.
                            let a = _mm256_shuffle_epi32::<{ $word * 0b0101_0101 }>(a);
                            sums[i] = add_product_avx2::<INTEGER>(a, load(&b[$word][part][i % 2], 0), sums[i]);
                        }
                    }
                };
            }
            word!(0);
            word!(1);
            word!(2);
            word!(3);
        }
        for i in 0..4 {
            store(&mut totals[i % 2][at + i / 2 * 8..], if INTEGER { sums[i] } else { one_nan_avx2(sums[i]) });
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn add_product_avx2<const INTEGER: bool>(a: __m256i, b: __m256i, sum: __m256i) -> __m256i {
    if INTEGER {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
    }
    let (a, b, sum) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), _mm256_castsi256_ps(sum));
    _mm256_castps_si256(_mm256_fmadd_ps(a, b, sum))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn one_nan_avx2(values: __m256i) -> __m256i {
    let floats = _mm256_castsi256_ps(values);
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(floats, floats));
    _mm256_or_si256(_mm256_andnot_si256(nan, values), _mm256_srli_epi32::<1>(nan))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn load(words: &[u32], at: usize) -> __m256i {
    let words = &words[at..at + 8];
    // SAFETY: eight words are what is loaded.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn store(words: &mut [u32], values: __m256i) {
    let words = &mut words[..8];
    // SAFETY: eight words are what is stored.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), values) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agree<A: Parts, const PARTS: usize, const INTEGER: bool>() {
        let mut state = 1u64;
        let mut words = || {
            state = crate::run::launch::mix(state);
            std::array::from_fn::<u32, LANES, _>(|lane| (state >> (lane % 32)) as u32 ^ lane as u32)
        };
        for _ in 0..100 {
            let (a, b, start) = ([words(), words()], [words(), words()], [words(), words()]);
            let sums = [None, available().then_some(Avx2(()))].map(|avx2| {
                let (mut all, mut totals) = ([[[[[0; 8]; 2]; PARTS]; 4]; 2], start);
                (0..2).for_each(|step| columns::<A, PARTS>(avx2, &b[step], &mut all[step]));
                multiply::<A, PARTS, INTEGER>(avx2, &a.each_ref(), &all, &mut totals);
                totals
            });
            assert_eq!(sums[0], sums[1]);
        }
    }

    #[test]
    fn products_agree_without_avx2() {
        agree::<Bf16, 2, false>();
        agree::<F16, 2, false>();
        agree::<Tf32, 1, false>();
        agree::<S8, 2, true>();
        agree::<U8, 2, true>();
        agree::<S4, 4, true>();
        agree::<U4, 4, true>();
    }
}
