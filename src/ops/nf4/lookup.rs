//! Looking up the values of codes by vectors, eight at a time.

pub use imp::Vectors;

#[cfg(target_arch = "x86_64")]
mod imp {
    use pulp::x86::V3;

    use crate::dtype::Float;

    /// Proof that this CPU has AVX2.
    #[derive(Clone, Copy, Debug)]
    pub struct Vectors(V3);

    impl Vectors {
        /// The proof, if there is one.
        #[inline(always)]
        pub fn of_this_cpu() -> Option<Self> {
            V3::try_new().map(Self)
        }

        /// Runs `f` compiled for AVX2.
        #[inline(always)]
        pub fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
            self.0.vectorize(f)
        }

        /// Fills elements of `out` from `codes`, two a byte, with the `values` of all codes; returns how many, a multiple of
        /// eight.
        #[inline(always)]
        pub fn fill<T: Float>(self, values: &[f32; 16], codes: &[u8], out: &mut [T]) -> usize {
            let (avx, avx2) = (self.0.avx, self.0.avx2);
            let [low, high]: [[f32; 8]; 2] = bytemuck::cast(*values);
            let (low, high) = (bytemuck::cast(low), bytemuck::cast(high));
            // Of each byte first the upper half, then the lower one.
            let shifts = bytemuck::cast([4u32, 0, 12, 8, 20, 16, 28, 24]);
            let (chunks, _) = out.as_chunks_mut::<8>();
            let (words, _) = codes.as_chunks::<4>();
            for (out, word) in chunks.iter_mut().zip(words) {
                let code = avx2._mm256_srlv_epi32(avx._mm256_set1_epi32(i32::from_le_bytes(*word)), shifts);
                // A permutation looks at the lowest three bits; the fourth, made the sign, chooses between two.
                let low = avx2._mm256_permutevar8x32_ps(low, code);
                let high = avx2._mm256_permutevar8x32_ps(high, code);
                let fourth = avx._mm256_castsi256_ps(avx2._mm256_slli_epi32::<28>(code));
                let found: [f32; 8] = bytemuck::cast(avx._mm256_blendv_ps(low, high, fourth));
                for (out, found) in out.iter_mut().zip(found) {
                    *out = T::from_f32(found);
                }
            }
            8 * chunks.len().min(words.len())
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod imp {
    use crate::dtype::Float;

    /// Proof that this CPU has AVX2: there is none.
    #[derive(Clone, Copy, Debug)]
    pub enum Vectors {}

    impl Vectors {
        /// The proof, if there is one.
        pub fn of_this_cpu() -> Option<Self> {
            None
        }

        /// Never called.
        pub fn vectorize<R>(self, _: impl FnOnce() -> R) -> R {
            match self {}
        }

        /// Never called.
        pub fn fill<T: Float>(self, _: &[f32; 16], _: &[u8], _: &mut [T]) -> usize {
            match self {}
        }
    }
}
