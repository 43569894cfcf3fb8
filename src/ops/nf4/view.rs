//! Reading the elements of a 4-bit weight where they are needed.

use super::lookup::Vectors;
use crate::dtype::Float;

/// The elements of a 4-bit weight, flattened.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    codes: &'a [u8],
    scales: &'a [f32],
    table: &'static [f32; 16],
    /// The block size as a power of two.
    shift: u32,
    numel: usize,
}

impl<'a> View<'a> {
    pub(super) fn new(
        codes: &'a [u8],
        scales: &'a [f32],
        table: &'static [f32; 16],
        blocksize: usize,
        numel: usize,
    ) -> Self {
        Self { codes, scales, table, shift: blocksize.trailing_zeros(), numel }
    }

    /// The element `i`: `table[code] * scales[i / blocksize]`, zero beyond the last.
    #[inline(always)]
    pub fn at(&self, i: usize) -> f32 {
        if i >= self.numel {
            return 0.0;
        }
        match (self.codes.get(i / 2), self.scales.get(i >> self.shift)) {
            (Some(&pair), Some(scale)) => self.table[nibble(pair, i)] * scale,
            _ => 0.0,
        }
    }

    /// Writes the elements from `first` on to `out`, zeros beyond the last: what [`View::at`] gives, but a block at a time.
    #[inline(always)]
    pub fn fill<T: Float>(&self, first: usize, out: &mut [T]) {
        match Vectors::of_this_cpu() {
            Some(vectors) => vectors.vectorize(
                #[inline(always)]
                || self.fill_blocks(first, out, Some(vectors)),
            ),
            None => self.fill_blocks(first, out, None),
        }
    }

    /// Writes the elements from `first` on, block by block; on `vectors` where the CPU has them.
    #[inline(always)]
    fn fill_blocks<T: Float>(&self, first: usize, out: &mut [T], vectors: Option<Vectors>) {
        let (mut at, mut out, blocksize) = (first, out, 1 << self.shift);
        while !out.is_empty() {
            let in_block = (blocksize - at % blocksize).min(out.len());
            let (block, rest) = out.split_at_mut(in_block);
            self.fill_block(at, block, vectors);
            (at, out) = (at.saturating_add(in_block), rest);
        }
    }

    /// Writes elements of one block, whose 16 possible values are computed once.
    #[inline(always)]
    fn fill_block<T: Float>(&self, first: usize, out: &mut [T], vectors: Option<Vectors>) {
        let Some(scale) = self.scales.get(first >> self.shift) else { return out.fill(T::from_f32(0.0)) };
        let values = self.table.map(
            #[inline(always)]
            |value| value * scale,
        );
        let (inside, beyond) = out.split_at_mut(self.numel.saturating_sub(first).min(out.len()));
        beyond.fill(T::from_f32(0.0));
        // A run that starts within a byte: its first element alone, then whole bytes.
        let (head, pairs) = inside.split_at_mut((first % 2).min(inside.len()));
        let codes = self.codes.get(first / 2..).unwrap_or(&[]);
        for (out, pair) in head.iter_mut().zip(codes) {
            *out = T::from_f32(values[nibble(*pair, 1)]);
        }
        let codes = codes.get(head.len()..).unwrap_or(&[]);
        let done = match vectors {
            Some(vectors) => vectors.fill(&values, codes, pairs),
            None => 0,
        };
        for (out, pair) in pairs[done..].chunks_mut(2).zip(codes.get(done / 2..).unwrap_or(&[])) {
            for (i, out) in out.iter_mut().enumerate() {
                *out = T::from_f32(values[nibble(*pair, i)]);
            }
        }
    }
}

/// The code of the element `i` in its byte: those of even elements are in the upper half.
#[inline(always)]
fn nibble(pair: u8, i: usize) -> usize {
    usize::from(if i.is_multiple_of(2) { pair >> 4 } else { pair & 15 })
}
