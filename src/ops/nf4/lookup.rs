//! Looking up the values of codes with AVX2, eight at a time.

use pulp::x86::V3;

use crate::dtype::Float;

/// Fills elements of `out` from `codes`, two a byte, with the `values` of all codes; returns how many, a multiple of eight.
#[inline(always)]
pub fn fill<T: Float>(v3: V3, values: &[f32; 16], codes: &[u8], out: &mut [T]) -> usize {
    let (avx, avx2) = (v3.avx, v3.avx2);
    let [low, high]: [[f32; 8]; 2] = bytemuck::cast(*values);
    let (low, high) = (bytemuck::cast(low), bytemuck::cast(high));
    // Of each byte first the upper half, then the lower one.
    let shifts = bytemuck::cast([4u32, 0, 12, 8, 20, 16, 28, 24]);
    let (chunks, _) = out.as_chunks_mut::<8>();
    let (words, _) = codes.as_chunks::<4>();
    let count = chunks.len().min(words.len());
    for (out, word) in chunks.iter_mut().zip(words) {
        let code = avx2._mm256_srlv_epi32(avx._mm256_set1_epi32(i32::from_le_bytes(*word)), shifts);
        // A permutation looks at the lowest three bits; the fourth, made the sign, chooses between two.
        let [low, high] = [low, high].map(|half| avx2._mm256_permutevar8x32_ps(half, code));
        let fourth = avx._mm256_castsi256_ps(avx2._mm256_slli_epi32::<28>(code));
        let found: [f32; 8] = bytemuck::cast(avx._mm256_blendv_ps(low, high, fourth));
        *out = found.map(T::from_f32);
    }
    8 * count
}
