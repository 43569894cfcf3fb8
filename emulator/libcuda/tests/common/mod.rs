//! What programs compute, and the same in f64.

use std::fs;
use std::path::Path;

/// The text of one of this repository's PTX files.
pub fn ptx(op: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../ptx/{op}.ptx"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Numbers between -1 and 1 that look random and are the same each time.
pub fn numbers(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// RMS normalisation of rows of `width`, in f64.
pub fn rmsnorm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    let row = |row: &[f32]| {
        let mean = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / row.len() as f64;
        let rstd = 1.0 / (mean + f64::from(eps)).sqrt();
        row.iter().zip(weight).map(|(&x, &w)| f64::from(x) * rstd * f64::from(w)).collect::<Vec<_>>()
    };
    x.chunks(weight.len()).flat_map(row).collect()
}

/// That each value is within a share of the right one.
pub fn assert_near(got: impl IntoIterator<Item = f32>, right: &[f64], tolerance: f64) {
    let got: Vec<f32> = got.into_iter().collect();
    assert_eq!(got.len(), right.len());
    for (at, (got, right)) in got.iter().zip(right).enumerate() {
        let error = (f64::from(*got) - right).abs();
        assert!(error <= tolerance * right.abs().max(1e-3), "element {at} is {got}, must be {right}");
    }
}
