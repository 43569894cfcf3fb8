//! Interleaving rows sixteen by sixteen with AVX-512 shuffles.

use std::arch::x86_64::{__m512, __m512d};

use pulp::x86::V4;

use super::panels::{Lane, neighbours};

const SIDE: usize = 16;

/// Interleaves as many lanes of `rows` as make full blocks into `panel` `[depth, width]`; returns how many.
pub fn interleave<'a, L: Lane>(
    v4: V4,
    rows: impl Iterator<Item = &'a [L::Element]>,
    width: usize,
    panel: &mut [u32],
) -> usize
where
    L::Element: 'a,
{
    if width != 12 && !width.is_multiple_of(SIDE) {
        return 0; // panels of another instruction set
    }
    let mut all = [&[][..]; 2 * SIDE];
    for (slot, row) in all.iter_mut().zip(rows) {
        *slot = row;
    }
    v4.vectorize(
        #[inline(always)]
        || {
            let shortest = all[0].len() / (SIDE * L::ELEMENTS);
            for (i, panel) in panel.chunks_exact_mut(SIDE * width).take(shortest).enumerate() {
                for (lane, rows) in (0..width).step_by(SIDE).zip(all.chunks(SIDE)) {
                    let from = i * SIDE * L::ELEMENTS;
                    let panel = panel[lane..].chunks_mut(width);
                    match width - lane {
                        12 => block::<L, 12>(v4, rows, from, panel),
                        _ => block::<L, 16>(v4, rows, from, panel),
                    }
                }
            }
            shortest * SIDE
        },
    )
}

#[inline(always)]
fn block<L: Lane, const N: usize>(v4: V4, rows: &[&[L::Element]], from: usize, panel: std::slice::ChunksMut<'_, u32>) {
    let mut lanes = [[0u32; SIDE]; SIDE];
    for (lanes, row) in lanes.iter_mut().zip(rows).take(N) {
        let Some(row) = row.get(from..from + SIDE * L::ELEMENTS) else { continue };
        for (lane, elements) in lanes.iter_mut().zip(row.chunks_exact(L::ELEMENTS)) {
            *lane = L::lane(neighbours(elements));
        }
    }
    let columns: [[u32; SIDE]; SIDE] = bytemuck::cast(transpose(v4, bytemuck::cast(lanes)));
    for (panel, column) in panel.zip(&columns) {
        if let (Some(panel), Some(column)) = (panel.first_chunk_mut::<N>(), column.first_chunk::<N>()) {
            *panel = *column;
        }
    }
}

#[inline(always)]
fn transpose(v4: V4, rows: [__m512; SIDE]) -> [__m512; SIDE] {
    let avx = v4.avx512f;
    let mut pairs = rows;
    for i in (0..SIDE).step_by(2) {
        pairs[i] = avx._mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = avx._mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    let mut quads = pairs;
    for i in (0..SIDE).step_by(4) {
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
