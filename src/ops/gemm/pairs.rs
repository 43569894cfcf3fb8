//! The tile of bf16 operands where the CPU multiplies pairs of them at twice the rate of f32: on AMD's. Intel's do it at half
//! that rate, so there bf16 is widened.

pub use imp::Avx512Bf16;

/// Rows and columns of the tile.
pub const TILE: [usize; 2] = [12, 32];

#[cfg(target_arch = "x86_64")]
mod imp {
    use std::arch::x86_64::{__cpuid, __m512, __m512bh, _mm512_dpbf16_ps, _mm512_setzero_ps, CpuidResult};

    use super::TILE;
    use crate::ops::gemm::tile::store;

    /// Proof that this CPU has AVX512-BF16.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Avx512Bf16(());

    /// Lanes of a vector; rows and vectors of the tile.
    const LANES: usize = 16;
    const M: usize = TILE[0];
    const N: usize = TILE[1] / LANES;

    impl Avx512Bf16 {
        /// The proof, if there is one and the instruction is worth it. Decided by the maker of the CPU alone, since it
        /// changes bits: `vdpbf16ps` has half the rate of f32's multiply-add on Intel's Golden Cove, twice it on AMD's Zen 4.
        pub fn detect() -> Option<Self> {
            let present = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
            (present && is_of_amd()).then_some(Self(()))
        }

        /// Adds the product of panels of bf16 pairs to `c`, or stores it there, as
        /// [`multiply`](crate::ops::gemm::tile::multiply) does that of panels of floats.
        #[expect(unsafe_code, reason = "a function compiled for AVX512-BF16")]
        pub fn multiply(self, [a, b]: [&[u32]; 2], c: &mut [&mut [f32]], column: usize, add: bool) {
            let (a, b) = (a.as_chunks().0, b.as_chunks::<LANES>().0.as_chunks().0);
            // SAFETY: `self` exists only where `detect` found both features.
            unsafe { tile(a, b, c, column, add) }
        }
    }

    fn is_of_amd() -> bool {
        #[expect(unsafe_code, reason = "older compilers have it so")]
        #[allow(unused_unsafe, reason = "newer ones do not")]
        // SAFETY: every 64-bit x86 has the instruction, and all of them answer leaf 0.
        let CpuidResult { ebx, ecx, edx, .. } = unsafe { __cpuid(0) };
        [ebx, edx, ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn tile(a: &[[u32; M]], b: &[[[u32; LANES]; N]], c: &mut [&mut [f32]], column: usize, add: bool) {
        let mut sums = [[_mm512_setzero_ps(); N]; M];
        for (a, b) in a.iter().zip(b) {
            for (sums, &a) in sums.iter_mut().zip(a) {
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = _mm512_dpbf16_ps(*sum, pairs([a; LANES]), pairs(*b));
                }
            }
        }
        for (c, sums) in c.iter_mut().zip(&sums) {
            store(bytemuck::cast_slice::<__m512, f32>(sums), &mut c[column..], add);
        }
    }

    #[expect(unsafe_code, reason = "no safe conversion to __m512bh exists")]
    #[inline(always)]
    fn pairs(lanes: [u32; LANES]) -> __m512bh {
        // SAFETY: both are 64 bytes, any of which are valid bf16.
        unsafe { std::mem::transmute(lanes) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod imp {
    /// Proof that this CPU has AVX512-BF16: there is none.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Avx512Bf16 {}

    impl Avx512Bf16 {
        /// The proof, if there is one.
        pub fn detect() -> Option<Self> {
            None
        }

        /// Never called.
        pub fn multiply(self, _: [&[u32]; 2], _: &mut [&mut [f32]], _: usize, _: bool) {
            match self {}
        }
    }
}
