//! Interleaving rows eight by eight with AVX2 shuffles.

use std::arch::x86_64::__m256;

use pulp::x86::V3;

use super::panels::{Lane, neighbours};

const SIDE: usize = 8;

/// The most rows of a panel.
const MOST: usize = 16;

/// Interleaves as many lanes of `rows` as make full blocks into `panel` `[depth, width]`; returns how many.
pub fn interleave<'a, L: Lane>(
    v3: V3,
    rows: impl Iterator<Item = &'a [L::Element]>,
    width: usize,
    panel: &mut [u32],
) -> usize
where
    L::Element: 'a,
{
    if width != 6 && width != SIDE && width != MOST {
        return 0; // panels of another instruction set
    }
    let mut all = [&[][..]; MOST];
    for (slot, row) in all.iter_mut().zip(rows) {
        *slot = row;
    }
    v3.vectorize(
        #[inline(always)]
        || {
            let whole = all[0].len() / (SIDE * L::ELEMENTS);
            for (i, panel) in panel.chunks_exact_mut(SIDE * width).take(whole).enumerate() {
                for (lane, rows) in (0..width).step_by(SIDE).zip(all.chunks(SIDE)) {
                    let from = i * SIDE * L::ELEMENTS;
                    let panel = panel[lane..].chunks_mut(width);
                    match width - lane {
                        6 => block::<L, 6>(v3, rows, from, panel),
                        _ => block::<L, 8>(v3, rows, from, panel),
                    }
                }
            }
            whole * SIDE
        },
    )
}

#[inline(always)]
fn block<L: Lane, const N: usize>(v3: V3, rows: &[&[L::Element]], from: usize, panel: std::slice::ChunksMut<'_, u32>) {
    let mut lanes = [[0u32; SIDE]; SIDE];
    for (lanes, row) in lanes.iter_mut().zip(rows).take(N) {
        let Some(row) = row.get(from..from + SIDE * L::ELEMENTS) else { continue };
        for (lane, elements) in lanes.iter_mut().zip(row.chunks_exact(L::ELEMENTS)) {
            *lane = L::lane(neighbours(elements));
        }
    }
    let columns: [[u32; SIDE]; SIDE] = bytemuck::cast(transpose(v3, bytemuck::cast(lanes)));
    for (panel, column) in panel.zip(&columns) {
        if let (Some(panel), Some(column)) = (panel.first_chunk_mut::<N>(), column.first_chunk::<N>()) {
            *panel = *column;
        }
    }
}

#[inline(always)]
fn transpose(v3: V3, rows: [__m256; SIDE]) -> [__m256; SIDE] {
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
