//! Runs code compiled for AVX2 with FMA where the processor has them.

#![allow(unsafe_code)]

use super::mma::{N, Totals};
use super::registers::LANES;

/// Whether the processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

/// Calls `f`, with what is inlined into it compiled for AVX2 and FMA where the processor has both.
#[inline(always)]
pub(crate) fn run<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn avx2<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        if available() {
            // SAFETY: the processor has AVX2 and FMA, as just asked.
            return unsafe { avx2(f) };
        }
    }
    f()
}

/// Work whose code is inlined where it runs, however long it is.
pub(super) trait Work {
    fn run(self);
}

/// As [`run`].
#[inline(always)]
pub(super) fn work(work: impl Work) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn avx2(work: impl Work) {
            work.run();
        }
        if available() {
            // SAFETY: the processor has AVX2 and FMA, as just asked.
            return unsafe { avx2(work) };
        }
    }
    work.run();
}

/// Adds products to eight rows of totals, k in order, each product and sum rounded once: `a` by place in a word and by
/// lane, four lanes a row; `b` by word and place.
#[inline(always)]
pub(super) fn multiply<const PARTS: usize>(a: &[[f32; LANES]; PARTS], b: &[[[f32; N]; PARTS]; 4], totals: &mut Totals) {
    #[cfg(target_arch = "x86_64")]
    if available() {
        // SAFETY: the processor has AVX2 and FMA, as just asked.
        return unsafe { multiply_avx2(a, b, totals) };
    }
    for (row, sums) in totals.iter_mut().enumerate() {
        for (word, parts) in b.iter().enumerate() {
            for (values, weights) in a.iter().zip(parts) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = values[4 * row + word].mul_add(*weight, *sum);
                }
            }
        }
    }
}

/// As [`multiply`]; eight rows at once hide the latency of each sum.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn multiply_avx2<const PARTS: usize>(a: &[[f32; LANES]; PARTS], b: &[[[f32; N]; PARTS]; 4], totals: &mut Totals) {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps};
    let mut sums = [_mm256_setzero_ps(); 8];
    for row in 0..8 {
        // SAFETY: a row of totals has eight floats.
        sums[row] = unsafe { _mm256_loadu_ps(totals[row].as_ptr()) };
    }
    for word in 0..4 {
        for part in 0..PARTS {
            // SAFETY: a row of B has eight floats.
            let weights = unsafe { _mm256_loadu_ps(b[word][part].as_ptr()) };
            for row in 0..8 {
                sums[row] = _mm256_fmadd_ps(_mm256_set1_ps(a[part][4 * row + word]), weights, sums[row]);
            }
        }
    }
    for row in 0..8 {
        // SAFETY: a row of totals has eight floats.
        unsafe { _mm256_storeu_ps(totals[row].as_mut_ptr(), sums[row]) };
    }
}
