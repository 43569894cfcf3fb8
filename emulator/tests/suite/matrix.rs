//! Tensor-core kernels that nvcc compiled from `tests/fixtures/matrix.cu`, against plain loops.

use crate::args;
use crate::harness::{Bench, Random, grid};
use ptx_emulator::{Class, Launch};

const MATRIX: &str = include_str!("../fixtures/matrix.ptx");

/// The upper half of an f32, rounded to nearest even, and that value.
fn bf16(x: f32) -> (u16, f64) {
    let bits = x.to_bits();
    let half = ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    (half, f64::from(f32::from_bits(u32::from(half) << 16)))
}

fn bf16s(random: &mut Random, length: usize) -> (Vec<u16>, Vec<f64>) {
    (0..length).map(|_| bf16(random.float())).unzip()
}

fn product(a: &[f64], b: &[f64], [m, n, k]: [usize; 3]) -> Vec<f64> {
    let entry = |at: usize| (0..k).map(|i| a[at / n * k + i] * b[at % n * k + i]).sum();
    (0..m * n).map(entry).collect()
}

fn gemm_launch(m: usize, n: usize) -> Launch<'static> {
    Launch { grid: [n.div_ceil(64) as u32, m.div_ceil(64) as u32, 1], ..grid(1, 128) }
}

#[test]
fn bf16_product_is_right() {
    for [m, n, k] in [[64, 64, 32], [65, 63, 40], [200, 136, 328], [1, 1, 8]] {
        let mut random = Random::new(3);
        let mut bench = Bench::new(MATRIX);
        let (a, a_values) = bf16s(&mut random, m * k);
        let (b, b_values) = bf16s(&mut random, n * k);
        let (a, b, c) = (bench.buffer(&a), bench.buffer(&b), bench.empty::<f32>(m * n));
        bench.launch("gemm_bf16", gemm_launch(m, n), args![c, a, b, m as u32, n as u32, k as u32]).unwrap();
        let got = bench.read::<f32>(c, m * n);
        for (got, want) in got.iter().zip(product(&a_values, &b_values, [m, n, k])) {
            assert!((f64::from(*got) - want).abs() < 1e-5 * k as f64, "{got} instead of {want}");
        }
    }
}

#[test]
fn s8_product_is_exact() {
    let [m, n, k] = [130, 72, 208];
    let mut random = Random::new(5);
    let mut bench = Bench::new(MATRIX);
    let mut draw = |length| (0..length).map(|_| random.bits() as i8).collect::<Vec<_>>();
    let (a, b) = (draw(m * k), draw(n * k));
    let wide = |values: &[i8]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    let want: Vec<i32> = product(&wide(&a), &wide(&b), [m, n, k]).iter().map(|&sum| sum as i32).collect();
    let (a, b, c) = (bench.buffer(&a), bench.buffer(&b), bench.empty::<i32>(m * n));
    bench.launch("gemm_s8", gemm_launch(m, n), args![c, a, b, m as u32, n as u32, k as u32]).unwrap();
    assert_eq!(bench.read::<i32>(c, m * n), want);
}

#[test]
fn schedules_agree() {
    let [m, n, k] = [130, 70, 72];
    let mut results = Vec::new();
    for (seed, threads) in [(0, 1), (1, 1), (2, 2), (3, 2)] {
        let mut random = Random::new(7);
        let mut bench = Bench::new(MATRIX);
        let a = bf16s(&mut random, m * k).0;
        let b = bf16s(&mut random, n * k).0;
        let (a, b, c) = (bench.buffer(&a), bench.buffer(&b), bench.empty::<f32>(m * n));
        let launch = Launch { seed, threads, ..gemm_launch(m, n) };
        let counters = bench.launch("gemm_bf16", launch, args![c, a, b, m as u32, n as u32, k as u32]).unwrap();
        results.push((counters, bench.read::<u32>(c, m * n)));
    }
    assert!(results.iter().all(|result| result == &results[0]));
}

#[test]
fn swizzled_tiles_meet_no_bank_twice() {
    let mut random = Random::new(9);
    let mut bench = Bench::new(MATRIX);
    let a = bf16s(&mut random, 128 * 64).0;
    let (a, c) = (bench.buffer(&a), bench.empty::<f32>(128 * 128));
    let counters = bench.launch("gemm_bf16", gemm_launch(128, 128), args![c, a, a, 128u32, 128u32, 64u32]).unwrap();
    assert_eq!(counters.of(Class::Mma), 4 * 4 * 2 * 16);
    assert_eq!(counters.mma_operations, 2 * 128 * 128 * 64);
    assert_eq!(counters.shared_excess_wavefronts, 0);
    assert_eq!(counters.async_copy_bytes, 4 * 2 * 64 * 64 * 2);
    assert_eq!(counters.global_distinct_sectors, (128 * 64 * 2 + 128 * 128 * 4) / 32);
}

#[test]
fn causal_attention_is_right() {
    let s = 100;
    let mut random = Random::new(11);
    let mut bench = Bench::new(MATRIX);
    let [q, k, v] = [(); 3].map(|()| bf16s(&mut random, s * 64));
    let [q_at, k_at, v_at] = [&q.0, &k.0, &v.0].map(|content| bench.buffer(content));
    let (o, lse) = (bench.empty::<f32>(s * 64), bench.empty::<f32>(s));
    let launch = Launch { shared_bytes: 2 * 64 * 144, ..grid(2, 128) };
    bench.launch("flash", launch, args![o, lse, q_at, k_at, v_at, s as u32]).unwrap();
    let (o, lse) = (bench.read::<f32>(o, s * 64), bench.read::<f32>(lse, s));
    for row in 0..s {
        let dot = |col: usize| (0..64).map(|i| q.1[row * 64 + i] * k.1[col * 64 + i]).sum::<f64>() / 8.0;
        let weights: Vec<f64> = (0..=row).map(|col| dot(col).exp()).collect();
        let total: f64 = weights.iter().sum();
        assert!((f64::from(lse[row]) - total.ln()).abs() < 1e-5);
        for i in 0..64 {
            let want = (0..=row).map(|col| weights[col] * v.1[col * 64 + i]).sum::<f64>() / total;
            assert!((f64::from(o[row * 64 + i]) - want).abs() < 4e-3);
        }
    }
}
