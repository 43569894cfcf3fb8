//! This repository's kernels against the same in f64.

use crate::common::{self, assert_near, numbers};
use crate::process::succeeds;
use crate::{device, grid, kernel};
use cudarc::driver::PushKernelArg;
use cudarc::nvrtc::Ptx;

#[test]
fn kernels_match_f64_whenever_streams_do_their_work() {
    for streams in ["now", "late"] {
        for program in ["rmsnorm_f32", "rmsnorm_bf16", "swiglu", "elementwise", "embedding", "rope"] {
            succeeds(&format!("kernels::{program}"), &[("VICUGNA_EMULATED_STREAMS", streams)]);
        }
    }
}

#[test]
fn order_of_blocks_and_device_do_not_matter() {
    succeeds("kernels::rmsnorm_f32", &[("VICUGNA_EMULATED_SEED", "7")]);
    succeeds("kernels::rmsnorm_f32", &[("VICUGNA_EMULATED_SM", "86")]);
}

#[test]
fn every_kernel_loads() {
    succeeds("kernels::all_files", &[]);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn rmsnorm_f32() {
    let stream = device().new_stream().unwrap();
    let rmsnorm = kernel(&stream, "rmsnorm", "rmsnorm_fwd_f32");
    for (rows, width) in [(1, 1), (5, 96), (3, 97), (2, 2048)] {
        let (x, weight, eps) = (numbers(1, rows * width), numbers(2, width), 1e-5f32);
        let mut y = stream.alloc_zeros::<f32>(rows * width).unwrap();
        let mut rstd = stream.alloc_zeros::<f32>(rows).unwrap();
        let (x_there, weight_there) = (stream.clone_htod(&x).unwrap(), stream.clone_htod(&weight).unwrap());
        let columns = width as i32;
        let mut launch = stream.launch_builder(&rmsnorm);
        launch.arg(&mut y).arg(&mut rstd).arg(&x_there).arg(&weight_there).arg(&columns).arg(&eps);
        // SAFETY: the arguments are those of the kernel, and the buffers as long as its contract says.
        unsafe { launch.launch(grid(rows as u32, 128)) }.unwrap();
        assert_near(stream.clone_dtoh(&y).unwrap(), &common::rmsnorm(&x, &weight, eps), 1e-6);
    }
}

fn from_bf16(bits: &[u16]) -> Vec<f32> {
    bits.iter().map(|&bits| f32::from_bits(u32::from(bits) << 16)).collect()
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn rmsnorm_bf16() {
    let stream = device().new_stream().unwrap();
    let rmsnorm = kernel(&stream, "rmsnorm", "rmsnorm_fwd_bf16");
    let (rows, width, eps) = (4, 200, 1e-5f32);
    let bits = |numbers: Vec<f32>| numbers.iter().map(|x| (x.to_bits() >> 16) as u16).collect::<Vec<u16>>();
    let (x, weight) = (bits(numbers(1, rows * width)), bits(numbers(2, width)));
    let mut y = stream.alloc_zeros::<u16>(rows * width).unwrap();
    let mut rstd = stream.alloc_zeros::<f32>(rows).unwrap();
    let (x_there, weight_there) = (stream.clone_htod(&x).unwrap(), stream.clone_htod(&weight).unwrap());
    let columns = width as i32;
    let mut launch = stream.launch_builder(&rmsnorm);
    launch.arg(&mut y).arg(&mut rstd).arg(&x_there).arg(&weight_there).arg(&columns).arg(&eps);
    // SAFETY: the arguments are those of the kernel, and the buffers as long as its contract says.
    unsafe { launch.launch(grid(rows as u32, 64)) }.unwrap();
    let right = common::rmsnorm(&from_bf16(&x), &from_bf16(&weight), eps);
    assert_near(from_bf16(&stream.clone_dtoh(&y).unwrap()), &right, 1.0 / 256.0);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn swiglu() {
    let stream = device().new_stream().unwrap();
    let swiglu = kernel(&stream, "swiglu", "swiglu_fwd_f32");
    let (gate, up) = (numbers(1, 1001), numbers(2, 1001));
    let mut y = stream.alloc_zeros::<f32>(1001).unwrap();
    let (gate_there, up_there) = (stream.clone_htod(&gate).unwrap(), stream.clone_htod(&up).unwrap());
    let n = 1001i64;
    let mut launch = stream.launch_builder(&swiglu);
    launch.arg(&mut y).arg(&gate_there).arg(&up_there).arg(&n);
    // SAFETY: the arguments are those of the kernel, and each buffer has `n` elements.
    unsafe { launch.launch(grid(1, 256)) }.unwrap();
    let right = |(&gate, &up): (&f32, &f32)| f64::from(gate) / (1.0 + (-f64::from(gate)).exp()) * f64::from(up);
    let right: Vec<f64> = gate.iter().zip(&up).map(right).collect();
    assert_near(stream.clone_dtoh(&y).unwrap(), &right, 1e-6);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn elementwise() {
    let stream = device().new_stream().unwrap();
    let add = kernel(&stream, "elementwise", "add_f32");
    let (a, b) = (numbers(1, 333), numbers(2, 333));
    let mut y = stream.alloc_zeros::<f32>(333).unwrap();
    let (a_there, b_there) = (stream.clone_htod(&a).unwrap(), stream.clone_htod(&b).unwrap());
    let n = 333i64;
    let mut launch = stream.launch_builder(&add);
    launch.arg(&mut y).arg(&a_there).arg(&b_there).arg(&n);
    // SAFETY: the arguments are those of the kernel, and each buffer has `n` elements.
    unsafe { launch.launch(grid(1, 256)) }.unwrap();
    let right: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    assert_eq!(stream.clone_dtoh(&y).unwrap(), right);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn embedding() {
    let stream = device().new_stream().unwrap();
    let embedding = kernel(&stream, "embedding", "embedding_fwd_f32");
    let (ids, weight) = ([3u32, 0, 3, 1], numbers(1, 4 * 37));
    let mut y = stream.alloc_zeros::<f32>(4 * 37).unwrap();
    let (ids_there, weight_there) = (stream.clone_htod(&ids).unwrap(), stream.clone_htod(&weight).unwrap());
    let width = 37i32;
    let mut launch = stream.launch_builder(&embedding);
    launch.arg(&mut y).arg(&ids_there).arg(&weight_there).arg(&width);
    // SAFETY: the arguments are those of the kernel, and every id is below the 4 rows of the table.
    unsafe { launch.launch(grid(4, 64)) }.unwrap();
    let right: Vec<f32> = ids.iter().flat_map(|&id| weight[id as usize * 37..][..37].to_vec()).collect();
    assert_eq!(stream.clone_dtoh(&y).unwrap(), right);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn rope() {
    let stream = device().new_stream().unwrap();
    let rope = kernel(&stream, "rope", "rope_f32");
    let (rows, heads, width, length) = (3, 2, 8, 5);
    let angle = |position: usize, i: usize| position as f64 / 100f64.powf(i as f64 * 2.0 / width as f64);
    let line =
        |p| (0..width).map(move |i| if i < width / 2 { angle(p, i).cos() } else { angle(p, i - width / 2).sin() });
    let table: Vec<f64> = (0..length).flat_map(line).collect();
    let (positions, q) = ([4u32, 0, 2], numbers(1, rows * heads * width));
    let mut q_there = stream.clone_htod(&q).unwrap();
    let mut k_there = stream.alloc_zeros::<f32>(1).unwrap();
    let table_there = stream.clone_htod(&table.iter().map(|&x| x as f32).collect::<Vec<_>>()).unwrap();
    let positions_there = stream.clone_htod(&positions).unwrap();
    let (nh, nkv, d, direction) = (heads as i32, 0i32, width as i32, 1f32);
    let mut launch = stream.launch_builder(&rope);
    launch.arg(&mut q_there).arg(&mut k_there).arg(&table_there).arg(&positions_there);
    launch.arg(&nh).arg(&nkv).arg(&d).arg(&direction);
    // SAFETY: the arguments are those of the kernel, every position is in the table, and there are no keys.
    unsafe { launch.launch(grid(rows as u32, 32)) }.unwrap();
    let right = |at: usize| {
        let (position, i) = (positions[at / (heads * width)] as usize, at % width);
        let (cos, sin) = (table[position * width + i % 4], table[position * width + 4 + i % 4]);
        let (own, other) = (f64::from(q[at]), f64::from(q[if i < 4 { at + 4 } else { at - 4 }]));
        if i < 4 { own * cos - other * sin } else { own * cos + other * sin }
    };
    let right: Vec<f64> = (0..q.len()).map(right).collect();
    assert_near(stream.clone_dtoh(&q_there).unwrap(), &right, 1e-5);
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn all_files() {
    let context = device();
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../ptx")).unwrap();
    let files = files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "ptx"));
    let ops: Vec<_> = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_string()).collect();
    assert!(ops.len() >= 11, "{ops:?}");
    for op in ops {
        let text = common::ptx(&op);
        let module = context.load_module(Ptx::from_src(text.clone())).unwrap();
        let names = text.lines().filter_map(|line| line.strip_prefix(".visible .entry ")?.strip_suffix('('));
        let loaded: Vec<_> = names.map(|name| module.load_function(name).unwrap()).collect();
        assert!(!loaded.is_empty(), "{op}");
    }
}
