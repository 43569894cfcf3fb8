//! Philox 4x32-10: random numbers as a pure function of key and counter, so that any thread can draw any of them.
//! Salmon et al. 2011, <https://doi.org/10.1145/2063384.2063405>.

/// Four random words. Straight-line code, so that loops over counters vectorise.
#[inline(always)]
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let (product0, product1) = (0xd251_1f53 * u64::from(c0), 0xcd9e_8d57 * u64::from(c2));
        (c0, c1) = ((product1 >> 32) as u32 ^ c1 ^ k0, product1 as u32);
        (c2, c3) = ((product0 >> 32) as u32 ^ c3 ^ k1, product0 as u32);
        (k0, k1) = (k0.wrapping_add(0x9e37_79b9), k1.wrapping_add(0xbb67_ae85));
    }
    [c0, c1, c2, c3]
}

#[cfg(test)]
mod tests {
    use super::philox;

    /// From Random123's `kat_vectors`.
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let answer = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(philox(counter, [0xa409_3822, 0x299f_31d0]), answer);
    }
}
