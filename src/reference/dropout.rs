//! `y = keep ? x / (1 - p) : 0`, the decision drawn per element from Philox 4x32-10.
//! Srivastava et al. 2014, <https://jmlr.org/papers/v15/srivastava14a.html>; Salmon et al. 2011,
//! <https://doi.org/10.1145/2063384.2063405>.

use super::Real;

/// What identifies the decisions of one dropout.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The probability of zero.
    pub p: f64,
    /// Of the run.
    pub seed: u64,
    /// Of the optimizer.
    pub step: u32,
    /// Of the place in the model.
    pub site: u32,
    /// The index of the first element.
    pub first_element: u64,
}

/// `x` `[n]` → `y` `[n]`. The backward pass is the same function of `dy`.
pub fn forward<R: Real>(x: &[R], key: Key) -> Vec<R> {
    let scale = R::one() / (R::one() - R::from_f64(key.p));
    (key.first_element..).zip(x).map(|(element, &x)| if keeps(key, element) { x * scale } else { R::zero() }).collect()
}

/// Whether `element` survives: four neighbours share one counter, one word each.
pub fn keeps(key: Key, element: u64) -> bool {
    let block = element / 4;
    let counter = [block as u32, (block >> 32) as u32, key.step, key.site];
    let words = philox4x32_10(counter, [key.seed as u32, (key.seed >> 32) as u32]);
    f64::from(words[(element % 4) as usize]) >= key.p * 2f64.powi(32)
}

/// Ten rounds of Philox on four words.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let product0 = 0xd251_1f53 * u64::from(c0);
        let product1 = 0xcd9e_8d57 * u64::from(c2);
        c0 = (product1 >> 32) as u32 ^ c1 ^ k0;
        c1 = product1 as u32;
        c2 = (product0 >> 32) as u32 ^ c3 ^ k1;
        c3 = product0 as u32;
        k0 = k0.wrapping_add(0x9e37_79b9);
        k1 = k1.wrapping_add(0xbb67_ae85);
    }
    [c0, c1, c2, c3]
}
