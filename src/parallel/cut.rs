//! Which rank holds which part of a tensor.

use std::ops::Range;

/// A tensor is cut between pieces of so many bytes: 16,384 elements in f32, what gradients' norms are summed by on every
/// device.
pub const PIECE: usize = 65_536;

/// How a tensor is cut: one run of its bytes for each rank, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut(Vec<Range<usize>>);

impl Cut {
    /// Cuts a tensor of `bytes` into runs of whole pieces, each piece for the rank with the least in `loads` by then. The runs
    /// are added to those.
    pub fn new(bytes: usize, loads: &mut [usize]) -> Self {
        let (mut counts, mut filled) = (vec![0; loads.len()], loads.to_vec());
        for _ in 0..bytes.div_ceil(PIECE) {
            if let Some((rank, load)) = filled.iter_mut().enumerate().min_by_key(|(_, load)| **load) {
                counts[rank] += 1;
                *load += PIECE;
            }
        }
        let mut end = 0;
        let mut runs = Vec::with_capacity(counts.len());
        for (count, load) in counts.into_iter().zip(loads) {
            let start = end;
            end = (start + count * PIECE).min(bytes);
            *load += end - start;
            runs.push(start..end);
        }
        Self(runs)
    }

    /// The bytes that `rank` holds.
    pub fn of(&self, rank: usize) -> Range<usize> {
        self.0.get(rank).cloned().unwrap_or_default()
    }

    /// All bytes.
    pub fn bytes(&self) -> usize {
        self.0.last().map_or(0, |run| run.end)
    }

    /// The bytes of each rank.
    pub fn runs(&self) -> &[Range<usize>] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Cut, PIECE};

    proptest! {
        #[test]
        fn every_byte_has_one_owner_and_no_rank_has_more_than_a_piece_too_many(
            sizes in prop::collection::vec(0..40 * PIECE, 1..20),
            ranks in 1..9usize,
        ) {
            let mut loads = vec![0; ranks];
            for &bytes in &sizes {
                let cut = Cut::new(bytes, &mut loads);
                let mut end = 0;
                for (rank, run) in cut.runs().iter().enumerate() {
                    prop_assert_eq!(run.start, end);
                    prop_assert!(run.is_empty() || run.start % PIECE == 0);
                    prop_assert_eq!(cut.of(rank), run.clone());
                    end = run.end;
                }
                prop_assert_eq!(end, bytes);
            }
            prop_assert_eq!(loads.iter().sum::<usize>(), sizes.iter().sum::<usize>());
            let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
            prop_assert!(most - least <= 2 * PIECE, "{loads:?}");
        }
    }
}
