//! PTX that Triton compiled from `tests/triton/kernels.py`, against plain loops.

use crate::case::Arg::{F32 as Float, I64, U32 as Int};
use crate::case::{Bf16, Case, F32};
use crate::catalogue::draw;

/// A launch of a kernel, which takes so many bytes of shared memory; Triton's own two pointers come last.
fn case(text: &str, entry: &str, shape: &str, grid: [u32; 3]) -> Case {
    let shared = text.split("shared memory: ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap();
    let mut case = Case::new(text, entry, shape, grid, 128);
    case.shared_bytes = shared;
    case
}

fn finished(case: Case) -> Case {
    case.scalar(I64(0)).scalar(I64(0))
}

fn vector_add(n: usize) -> Case {
    let (a, b) = (draw(F32, 1, n), draw(F32, 2, n));
    let sum = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    let text = include_str!("../triton/vector_add.ptx");
    let case = case(text, "vector_add", &n.to_string(), [(n as u32).div_ceil(512), 1, 1]);
    finished(case.output(F32, sum).input(F32, &a).input(F32, &b).scalar(Int(n as u32)))
}

fn softmax(rows: usize, n: usize) -> Case {
    let x: Vec<f64> = draw(F32, 3, rows * n).iter().map(|x| x * 8.0).collect();
    let y = x.chunks_exact(n).flat_map(|row| {
        let total: f64 = row.iter().map(|x| x.exp()).sum();
        row.iter().map(move |x| x.exp() / total).collect::<Vec<_>>()
    });
    let text = include_str!("../triton/softmax.ptx");
    let case = case(text, "softmax", &format!("{rows} x {n}"), [rows as u32, 1, 1]).output(F32, y.collect());
    finished(case.input(F32, &x).scalar(Int(n as u32)))
}

fn layer_norm(rows: usize, n: usize) -> Case {
    let (x, weight, bias) = (draw(F32, 4, rows * n), draw(F32, 5, n), draw(F32, 6, n));
    let y = x.chunks_exact(n).flat_map(|row| {
        let mean = row.iter().sum::<f64>() / n as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        let scale = 1.0 / (variance + 1e-5).sqrt();
        (0..n).map(|c| (row[c] - mean) * scale * weight[c] + bias[c]).collect::<Vec<_>>()
    });
    let text = include_str!("../triton/layer_norm.ptx");
    let case = case(text, "layer_norm", &format!("{rows} x {n}"), [rows as u32, 1, 1]).output(F32, y.collect());
    finished(case.input(F32, &x).input(F32, &weight).input(F32, &bias).scalar(Int(n as u32)).scalar(Float(1e-5)))
}

fn matmul(m: usize, n: usize, k: usize) -> Case {
    let (a, b) = (draw(Bf16, 7, m * k), draw(Bf16, 8, k * n));
    let c = (0..m * n).map(|at| (0..k).map(|i| a[at / n * k + i] * b[i * n + at % n]).sum());
    let text = include_str!("../triton/matmul.ptx");
    let grid = [(m as u32).div_ceil(64), (n as u32).div_ceil(64), 1];
    let case = case(text, "matmul", &format!("{m} x {n} x {k}"), grid).output(F32, c.collect());
    finished(case.input(Bf16, &a).input(Bf16, &b).scalar(Int(m as u32)).scalar(Int(n as u32)).scalar(Int(k as u32)))
}

fn flash(s: usize) -> Case {
    let [q, k, v] = [9, 10, 11].map(|seed| draw(Bf16, seed, s * 64));
    let o = (0..s).flat_map(|row| {
        let score = |key: usize| (0..64).map(|i| q[row * 64 + i] * k[key * 64 + i]).sum::<f64>() * 0.125;
        let weights: Vec<f64> = (0..=row).map(|key| score(key).exp()).collect();
        let total: f64 = weights.iter().sum();
        (0..64).map(|i| (0..=row).map(|key| weights[key] * v[key * 64 + i]).sum::<f64>() / total).collect::<Vec<_>>()
    });
    let text = include_str!("../triton/flash.ptx");
    // The weights are rounded to bf16 before they meet the values, so the result is as exact as those.
    let case =
        case(text, "flash", &s.to_string(), [(s as u32).div_ceil(64), 1, 1]).close_to(F32, (Bf16, 0.5), o.collect());
    finished(case.input(Bf16, &q).input(Bf16, &k).input(Bf16, &v).scalar(Int(s as u32)).scalar(Float(0.125)))
}

#[test]
fn kernels_of_triton_are_right() {
    let cases = [
        vector_add(1000),
        vector_add(512),
        softmax(3, 1000),
        softmax(2, 33),
        layer_norm(3, 700),
        layer_norm(2, 256),
        matmul(70, 72, 40),
        matmul(128, 64, 96),
        flash(100),
        flash(128),
    ];
    crate::in_parallel(&cases, |case| {
        let runs = [0, 1, 2].map(|seed| match case.run(&case.ptx, seed, None) {
            Ok((bytes, _)) => bytes,
            Err(failure) => panic!("{}: {failure}", case.name),
        });
        crate::vectors::keep(|| case.vector(&runs[0]));
        assert!(runs[0] == runs[1] && runs[1] == runs[2], "{}: the order of warps shows", case.name);
    });
}
