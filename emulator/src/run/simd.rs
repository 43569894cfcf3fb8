//! Runs code compiled for AVX2 with FMA where the processor has them.

#![allow(unsafe_code)]

use super::mma::{K, N};

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

/// Adds A B to `totals`, k in order, each product and sum rounded once. Rows come in fours.
#[inline(always)]
pub(super) fn multiply(a: &[[f32; K]], b: &[[f32; N]], totals: &mut [[f32; N]]) {
    #[cfg(target_arch = "x86_64")]
    if available() {
        // SAFETY: the processor has AVX2 and FMA, as just asked.
        return unsafe { multiply_avx2(a, b, totals) };
    }
    for (row, sums) in a.iter().zip(totals) {
        for (value, weights) in row.iter().zip(b) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = value.mul_add(*weight, *sum);
            }
        }
    }
}

/// As [`multiply`]; four rows at once hide the latency of each sum.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2(a: &[[f32; K]], b: &[[f32; N]], totals: &mut [[f32; N]]) {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps};
    for (rows, totals) in a.chunks_exact(4).zip(totals.chunks_exact_mut(4)) {
        let mut sums = [_mm256_setzero_ps(); 4];
        for (sum, total) in sums.iter_mut().zip(&*totals) {
            // SAFETY: a row of totals has eight floats.
            *sum = unsafe { _mm256_loadu_ps(total.as_ptr()) };
        }
        for (k, weights) in b.iter().enumerate() {
            // SAFETY: a row of B has eight floats.
            let weights = unsafe { _mm256_loadu_ps(weights.as_ptr()) };
            for (sum, row) in sums.iter_mut().zip(rows) {
                *sum = _mm256_fmadd_ps(_mm256_set1_ps(row[k]), weights, *sum);
            }
        }
        for (sum, total) in sums.iter().zip(totals) {
            // SAFETY: a row of totals has eight floats.
            unsafe { _mm256_storeu_ps(total.as_mut_ptr(), *sum) };
        }
    }
}
