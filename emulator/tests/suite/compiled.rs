//! What nvcc made of `tests/fixtures/*.cu`.

use crate::args;
use crate::harness::{Bench, Random, grid};

const SAMPLES: &str = include_str!("../fixtures/samples.ptx");

#[test]
fn vectors_are_added() {
    let mut bench = Bench::new(SAMPLES);
    let n = 1000;
    let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let b: Vec<f32> = (0..n).map(|i| 0.5 * i as f32).collect();
    let (a_at, b_at, out) = (bench.buffer(&a), bench.buffer(&b), bench.empty::<f32>(n));
    bench.launch("vadd", grid(8, 128), args![out, a_at, b_at, n as u32]).unwrap();
    let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    assert_eq!(bench.read::<f32>(out, n), expected);
}

#[test]
fn a_block_sums() {
    let mut bench = Bench::new(SAMPLES);
    let mut random = Random::new(1);
    let a: Vec<f32> = (0..999).map(|_| (random.bits() % 16) as f32).collect();
    let (a_at, out) = (bench.buffer(&a), bench.empty::<f32>(1));
    bench.launch("reduce", grid(1, 256), args![out, a_at, 999u32]).unwrap();
    assert_eq!(bench.read::<f32>(out, 1), [a.iter().sum::<f32>()]);
}
