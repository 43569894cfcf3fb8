//! Interleaving rows by shuffles: squares of as many rows as a vector has lanes.

use std::arch::x86_64::{__m256, __m512, __m512d};

use pulp::x86::{V3, V4};

use super::panels::{Lane, neighbours};

/// Instructions that transpose squares of `SIDE` lanes, for tiles of `HEIGHT` rows and `SIDE` columns or twice as many.
pub trait Shuffles<const SIDE: usize, const HEIGHT: usize>: Copy {
    /// Runs `f` compiled for these instructions.
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R;

    /// The columns of a square.
    fn transpose(self, rows: [[u32; SIDE]; SIDE]) -> [[u32; SIDE]; SIDE];
}

impl Shuffles<16, 12> for V4 {
    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        V4::vectorize(self, f)
    }

    #[inline(always)]
    fn transpose(self, rows: [[u32; 16]; 16]) -> [[u32; 16]; 16] {
        bytemuck::cast(transpose16(self, bytemuck::cast(rows)))
    }
}

impl Shuffles<8, 6> for V3 {
    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        V3::vectorize(self, f)
    }

    #[inline(always)]
    fn transpose(self, rows: [[u32; 8]; 8]) -> [[u32; 8]; 8] {
        bytemuck::cast(transpose8(self, bytemuck::cast(rows)))
    }
}

/// Interleaves as many lanes of `rows` as make whole squares into `panel` `[depth, width]`; returns how many.
pub fn interleave<'a, L: Lane, S: Shuffles<SIDE, HEIGHT>, const SIDE: usize, const HEIGHT: usize>(
    simd: S,
    rows: impl Iterator<Item = &'a [L::Element]>,
    width: usize,
    panel: &mut [u32],
) -> usize
where
    L::Element: 'a,
{
    if ![HEIGHT, SIDE, 2 * SIDE].contains(&width) {
        return 0; // panels of another instruction set, or of a low tile
    }
    let mut all = [[&[][..]; SIDE]; 2];
    for (slot, row) in all.as_flattened_mut().iter_mut().zip(rows) {
        *slot = row;
    }
    simd.vectorize(
        #[inline(always)]
        || {
            let whole = all[0][0].len() / (SIDE * L::ELEMENTS);
            for (i, panel) in panel.chunks_exact_mut(SIDE * width).take(whole).enumerate() {
                for (lane, rows) in (0..width).step_by(SIDE).zip(&all) {
                    let from = i * SIDE * L::ELEMENTS;
                    let panel = panel[lane..].chunks_mut(width);
                    if width == HEIGHT {
                        square::<L, S, SIDE, HEIGHT, HEIGHT>(simd, rows, from, panel);
                    } else {
                        square::<L, S, SIDE, HEIGHT, SIDE>(simd, rows, from, panel);
                    }
                }
            }
            whole * SIDE
        },
    )
}

/// Interleaves the first `N` of `rows`, their lanes from the element `from` on.
#[inline(always)]
fn square<L: Lane, S: Shuffles<SIDE, HEIGHT>, const SIDE: usize, const HEIGHT: usize, const N: usize>(
    simd: S,
    rows: &[&[L::Element]; SIDE],
    from: usize,
    panel: std::slice::ChunksMut<'_, u32>,
) {
    let mut lanes = [[0u32; SIDE]; SIDE];
    for (lanes, row) in lanes.iter_mut().zip(rows).take(N) {
        let Some(row) = row.get(from..from + SIDE * L::ELEMENTS) else { continue };
        for (lane, elements) in lanes.iter_mut().zip(row.chunks_exact(L::ELEMENTS)) {
            *lane = L::lane(neighbours(elements));
        }
    }
    let columns = simd.transpose(lanes);
    for (panel, column) in panel.zip(&columns) {
        if let (Some(panel), Some(column)) = (panel.first_chunk_mut::<N>(), column.first_chunk::<N>()) {
            *panel = *column;
        }
    }
}

#[inline(always)]
fn transpose16(v4: V4, rows: [__m512; 16]) -> [__m512; 16] {
    let avx = v4.avx512f;
    let mut pairs = rows;
    for i in (0..16).step_by(2) {
        pairs[i] = avx._mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = avx._mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    let mut quads = pairs;
    for i in (0..16).step_by(4) {
        for j in 0..2 {
            let low: __m512d = avx._mm512_castps_pd(pairs[i + j]);
            let high: __m512d = avx._mm512_castps_pd(pairs[i + j + 2]);
            quads[i + 2 * j] = avx._mm512_castpd_ps(avx._mm512_unpacklo_pd(low, high));
            quads[i + 2 * j + 1] = avx._mm512_castpd_ps(avx._mm512_unpackhi_pd(low, high));
        }
    }
    // Part l of quads[4i + j] holds column 4l + j of the rows from 4i on.
    let mut columns = quads;
    for j in 0..4 {
        let [a, b, c, d] = [quads[j], quads[4 + j], quads[8 + j], quads[12 + j]];
        let low = [avx._mm512_shuffle_f32x4::<0x44>(a, b), avx._mm512_shuffle_f32x4::<0x44>(c, d)];
        let high = [avx._mm512_shuffle_f32x4::<0xee>(a, b), avx._mm512_shuffle_f32x4::<0xee>(c, d)];
        columns[j] = avx._mm512_shuffle_f32x4::<0x88>(low[0], low[1]);
        columns[4 + j] = avx._mm512_shuffle_f32x4::<0xdd>(low[0], low[1]);
        columns[8 + j] = avx._mm512_shuffle_f32x4::<0x88>(high[0], high[1]);
        columns[12 + j] = avx._mm512_shuffle_f32x4::<0xdd>(high[0], high[1]);
    }
    columns
}

#[inline(always)]
fn transpose8(v3: V3, rows: [__m256; 8]) -> [__m256; 8] {
    let avx = v3.avx;
    let mut quads = rows;
    for i in [0, 4] {
        let [a, b, c, d] = [rows[i], rows[i + 1], rows[i + 2], rows[i + 3]];
        let low = [avx._mm256_unpacklo_ps(a, c), avx._mm256_unpacklo_ps(b, d)];
        let high = [avx._mm256_unpackhi_ps(a, c), avx._mm256_unpackhi_ps(b, d)];
        quads[i] = avx._mm256_unpacklo_ps(low[0], low[1]);
        quads[i + 1] = avx._mm256_unpackhi_ps(low[0], low[1]);
        quads[i + 2] = avx._mm256_unpacklo_ps(high[0], high[1]);
        quads[i + 3] = avx._mm256_unpackhi_ps(high[0], high[1]);
    }
    // Half l of quads[4i + j] holds column 4l + j of the rows from 4i on.
    let mut columns = quads;
    for j in 0..4 {
        columns[j] = avx._mm256_permute2f128_ps::<0x20>(quads[j], quads[4 + j]);
        columns[4 + j] = avx._mm256_permute2f128_ps::<0x31>(quads[j], quads[4 + j]);
    }
    columns
}
