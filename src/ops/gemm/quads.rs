//! Tiles of integers: products of a weight's codes and an activation's, several summed in i32 in each 32-bit lane.
//!
//! VNNI multiplies four unsigned bytes by four signed ones. So a weight's codes are moved up by 128 there, and a sum is too
//! large by 128 times the sum of the activation's codes, which whoever reads it takes off. Without VNNI a lane holds two
//! codes in 16 bits each: products of bytes would saturate. All sums are exact.

use pulp::Arch;

use super::panels::Lanes;

/// The most rows and columns of a tile.
pub const MOST: [usize; 2] = [12, 32];

/// The sums of a tile, row after row, as many columns apart as the tile has.
pub type Sums = [i32; MOST[0] * MOST[1]];

/// Rows of a weight whose dot products are computed together.
pub const DOTS: usize = 4;

/// How this CPU multiplies integers: proof that it has the instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntegerCpu(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl IntegerCpu {
    /// All ways that this CPU has, the fastest first.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        all.extend(imp::detect());
        all.push(Self(Kind::Portable));
        all
    }

    /// The fastest way.
    pub fn best() -> Self {
        static BEST: std::sync::OnceLock<IntegerCpu> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| Self::all().first().copied().unwrap_or(Self(Kind::Portable)))
    }

    /// The instructions that it multiplies with.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            Kind::Portable => "portable",
        }
    }

    /// The vectors that go with it, whose tiles of floats have the shape of its own.
    pub fn arch(self) -> Arch {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => pulp::x86::V4::try_new().map_or(Arch::Scalar, Arch::V4),
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni | Kind::Avx2 => pulp::x86::V3::try_new().map_or(Arch::Scalar, Arch::V3),
            Kind::Portable => Arch::Scalar,
        }
    }

    /// What the lanes of activations and of weights hold.
    pub fn lanes(self) -> [Lanes; 2] {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni | Kind::AvxVnni => [Lanes::Quads { moved: false }, Lanes::Quads { moved: true }],
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => [Lanes::Widened; 2],
            Kind::Portable => [Lanes::Widened; 2],
        }
    }

    /// The sums of the products of a panel of activations `[depth, rows]` and one of a weight `[depth, columns]`, which are as
    /// many as a tile of [`arch`](Self::arch) has.
    #[inline(always)]
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "functions compiled for instructions"))]
    pub fn multiply(self, [a, b]: [&[u32]; 2], [rows, columns]: [usize; 2], sums: &mut Sums) {
        match self.0 {
            // SAFETY: each kind exists only where `detect` found its instructions.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => unsafe { imp::avx512_vnni(a.as_chunks().0, b.as_chunks().0.as_chunks().0, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni => unsafe { imp::avx_vnni(a.as_chunks().0, b.as_chunks().0.as_chunks().0, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { imp::avx2(a.as_chunks().0, b.as_chunks().0.as_chunks().0, sums) },
            Kind::Portable => portable([a, b], [rows, columns], sums),
        }
    }

    /// The dot products of `a` with each row of a weight, as they are stored; all have one length.
    #[inline(always)]
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "functions compiled for instructions"))]
    pub fn dots<const M: usize>(self, a: [&[i8]; M], weight: [&[i8]; DOTS]) -> [[i32; DOTS]; M] {
        match self.0 {
            // SAFETY: each kind exists only where `detect` found its instructions.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => unsafe { imp::avx512_vnni_dots(a, weight) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni | Kind::Avx2 => unsafe { imp::avx2_dots(a, weight) },
            Kind::Portable => a.map(|a| weight.map(|weight| dot(a, weight))),
        }
    }
}

#[inline(always)]
fn dot(a: &[i8], weight: &[i8]) -> i32 {
    a.iter().zip(weight).map(|(a, w)| i32::from(*a) * i32::from(*w)).sum()
}

#[inline(never)]
fn portable([a, b]: [&[u32]; 2], [rows, columns]: [usize; 2], sums: &mut Sums) {
    sums.fill(0);
    for (a, b) in a.chunks_exact(rows).zip(b.chunks_exact(columns)) {
        for (a, sums) in a.iter().zip(sums.chunks_exact_mut(columns)) {
            for (b, sum) in b.iter().zip(sums) {
                *sum += [0, 1].map(|i| widened(*a, i) * widened(*b, i)).iter().sum::<i32>();
            }
        }
    }
}

#[inline(always)]
fn widened(lane: u32, i: usize) -> i32 {
    i32::from((lane >> (16 * i)) as i16)
}

impl Lanes {
    /// The code of a weight at place `k` of a row, and the place of its lane in the row.
    #[inline(always)]
    pub fn code(self, k: usize) -> (usize, impl Fn(u32) -> i32) {
        let (per_lane, bits, moved) = match self {
            Self::Quads { moved } => (4, 8, i32::from(moved) * 128),
            _ => (2, 16, 0),
        };
        let above = 32 - bits - bits * (k % per_lane) as u32;
        let code = move |lane: u32| {
            let high = lane << above;
            // A byte that was moved up is not negative.
            if moved > 0 { (high >> (32 - bits)).cast_signed() - moved } else { high.cast_signed() >> (32 - bits) }
        };
        (k / per_lane, code)
    }
}

#[cfg(target_arch = "x86_64")]
mod imp {
    use std::arch::x86_64::*;

    use super::{DOTS, IntegerCpu, Kind, Sums, dot};

    /// The ways of this CPU that need more than the target has, the fastest first.
    pub fn detect() -> Vec<IntegerCpu> {
        let v3 = pulp::x86::V3::try_new().is_some();
        let vnni = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        let ways = [
            (vnni && is_x86_feature_detected!("avx512bw") && pulp::x86::V4::try_new().is_some(), Kind::Avx512Vnni),
            (v3 && is_x86_feature_detected!("avxvnni"), Kind::AvxVnni),
            (v3 && is_x86_feature_detected!("avx2"), Kind::Avx2),
        ];
        ways.into_iter().filter(|(is_there, _)| *is_there).map(|(_, kind)| IntegerCpu(kind)).collect()
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn avx512_vnni(a: &[[u32; 12]], b: &[[[u32; 16]; 2]], sums: &mut Sums) {
        let mut tile = [[_mm512_setzero_si512(); 2]; 12];
        for (a, b) in a.iter().zip(b) {
            let b = b.map(bytemuck::cast::<[u32; 16], __m512i>);
            for (sums, a) in tile.iter_mut().zip(a) {
                let a = _mm512_set1_epi32(a.cast_signed());
                sums[0] = _mm512_dpbusd_epi32(sums[0], b[0], a);
                sums[1] = _mm512_dpbusd_epi32(sums[1], b[1], a);
            }
        }
        sums.copy_from_slice(bytemuck::cast_slice(&tile));
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub fn avx_vnni(a: &[[u32; 6]], b: &[[[u32; 8]; 2]], sums: &mut Sums) {
        let mut tile = [[_mm256_setzero_si256(); 2]; 6];
        for (a, b) in a.iter().zip(b) {
            let b = b.map(bytemuck::cast::<[u32; 8], __m256i>);
            for (sums, a) in tile.iter_mut().zip(a) {
                let a = _mm256_set1_epi32(a.cast_signed());
                sums[0] = _mm256_dpbusd_avx_epi32(sums[0], b[0], a);
                sums[1] = _mm256_dpbusd_avx_epi32(sums[1], b[1], a);
            }
        }
        sums[..96].copy_from_slice(bytemuck::cast_slice(&tile));
    }

    #[target_feature(enable = "avx2")]
    pub fn avx2(a: &[[u32; 6]], b: &[[[u32; 8]; 2]], sums: &mut Sums) {
        let mut tile = [[_mm256_setzero_si256(); 2]; 6];
        for (a, b) in a.iter().zip(b) {
            let b = b.map(bytemuck::cast::<[u32; 8], __m256i>);
            for (sums, a) in tile.iter_mut().zip(a) {
                let a = _mm256_set1_epi32(a.cast_signed());
                sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(b[0], a));
                sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(b[1], a));
            }
        }
        sums[..96].copy_from_slice(bytemuck::cast_slice(&tile));
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub fn avx512_vnni_dots<const M: usize>(a: [&[i8]; M], weight: [&[i8]; DOTS]) -> [[i32; DOTS]; M] {
        let mut sums = [[_mm512_setzero_si512(); DOTS]; M];
        let (mut a_sums, moved) = ([_mm512_setzero_si512(); M], _mm512_set1_epi8(-128));
        let (a_chunks, w_chunks) = (a.map(|a| a.as_chunks::<64>()), weight.map(|w| w.as_chunks::<64>()));
        let whole = a_chunks.first().map_or(0, |(chunks, _)| chunks.len());
        for i in 0..whole {
            let weight = w_chunks.map(|(chunks, _)| _mm512_xor_si512(bytemuck::cast(chunks[i]), moved));
            for (m, (chunks, _)) in a_chunks.iter().enumerate() {
                let a = bytemuck::cast(chunks[i]);
                // 128 times the activation, which is what moving the weight up adds.
                a_sums[m] = _mm512_dpbusd_epi32(a_sums[m], moved, a);
                for (sum, weight) in sums[m].iter_mut().zip(weight) {
                    *sum = _mm512_dpbusd_epi32(*sum, weight, a);
                }
            }
        }
        std::array::from_fn(|m| {
            std::array::from_fn(|j| {
                let moved = _mm512_reduce_add_epi32(_mm512_sub_epi32(sums[m][j], a_sums[m]));
                moved + dot(a_chunks[m].1, w_chunks[j].1)
            })
        })
    }

    #[target_feature(enable = "avx2")]
    pub fn avx2_dots<const M: usize>(a: [&[i8]; M], weight: [&[i8]; DOTS]) -> [[i32; DOTS]; M] {
        let mut sums = [[_mm256_setzero_si256(); DOTS]; M];
        let (a_chunks, w_chunks) = (a.map(|a| a.as_chunks::<16>()), weight.map(|w| w.as_chunks::<16>()));
        let whole = a_chunks.first().map_or(0, |(chunks, _)| chunks.len());
        for i in 0..whole {
            let weight = w_chunks.map(|(chunks, _)| _mm256_cvtepi8_epi16(bytemuck::cast(chunks[i])));
            for (sums, (chunks, _)) in sums.iter_mut().zip(&a_chunks) {
                let a = _mm256_cvtepi8_epi16(bytemuck::cast(chunks[i]));
                for (sum, weight) in sums.iter_mut().zip(weight) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(weight, a));
                }
            }
        }
        std::array::from_fn(|m| {
            std::array::from_fn(|j| {
                let lanes: [i32; 8] = bytemuck::cast(sums[m][j]);
                lanes.iter().sum::<i32>() + dot(a_chunks[m].1, w_chunks[j].1)
            })
        })
    }
}
