//! The order of records, from a seed alone: the same on every machine, and without a state to keep.

/// Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators".
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, all as likely to within `bound` parts in 2⁶⁴.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

/// The numbers below `len` in the order of one `epoch`: a Fisher-Yates shuffle by SplitMix64, which starts at the
/// `epoch`-th number of the sequence that starts at `seed`.
pub fn order(len: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut seeds = SplitMix64(seed.wrapping_add(epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let mut random = SplitMix64(seeds.next());
    let mut order: Vec<usize> = (0..len).collect();
    for last in (1..len).rev() {
        order.swap(last, random.below(last + 1));
    }
    order
}
