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

#[test]
fn switches_jump() {
    let mut bench = Bench::new(SAMPLES);
    let (a, out) = (bench.buffer(&(0..9).collect::<Vec<i32>>()), bench.empty::<i32>(9));
    bench.launch("sw", grid(1, 9), args![out, 10i32, a]).unwrap();
    assert_eq!(bench.read::<i32>(out, 9), [30, 10 ^ 77, 3, 0, 40, 2, 1000, 9, 9]);
}

#[test]
fn variables_and_local_arrays_work() {
    let mut bench = Bench::new(SAMPLES);
    let out = bench.empty::<f32>(32);
    let module = bench.module.clone();
    let (zero, bytes) = bench.device.variable(&module, "zero").unwrap().unwrap();
    assert_eq!(bytes, 400);
    bench.device.write(zero + 8, &0.5f32.to_le_bytes()).unwrap();
    bench.launch("tab", grid(1, 32), args![out, 2i32]).unwrap();
    let expected = |t: usize| 3.0 + [1.0, 2.0, 3.0, 4.0][t & 3] + (((t + 2) & 15) * 2) as f32 + 0.5;
    assert_eq!(bench.read::<f32>(out, 32), (0..32).map(expected).collect::<Vec<_>>());
}

#[test]
fn structures_are_passed_by_value() {
    let mut bench = Bench::new(SAMPLES);
    let out = bench.empty::<f32>(1);
    let mut p = Vec::new();
    p.extend(1.5f32.to_le_bytes());
    p.extend([0; 4]);
    p.extend(2.25f64.to_le_bytes());
    [10i32, 20, 30].iter().for_each(|c| p.extend(c.to_le_bytes()));
    p.extend([0; 4]);
    let kernel = bench.module.kernel("st").unwrap().clone();
    assert_eq!(kernel.params()[0].bytes, 32);
    assert_eq!(kernel.max_threads(), Some(128));
    let args = kernel.pack(&[&p, &out.to_le_bytes()]).unwrap();
    bench.device.launch(&kernel, &ptx_emulator::Launch { args: &args, ..grid(1, 1) }).unwrap();
    assert_eq!(bench.read::<f32>(out, 1), [13.75]);
}
