use std::sync::Arc;

use proptest::prelude::*;
use ptx_emulator::Class;
use vicugna::autograd::{Tensor, backward_from};
use vicugna::device::{Device, Emulated, Emulation, Profiled};
use vicugna::dtype::DType;
use vicugna::error::Error;
use vicugna::ops::matmul::{matmul, matmul_f32};
use vicugna::reference;

use crate::harness::*;

/// rows, N, K: single elements, primes, ragged against any tile, one row, a tile and one more, a K in slices, a real
/// Llama.
fn shapes() -> impl Strategy<Value = (usize, usize, usize)> {
    prop_oneof![
        (1..40usize, 1..70usize, 1..40usize),
        Just((1, 1, 1)),
        Just((1, 577, 131)),
        Just((3, 31, 1000)),
        Just((9, 200, 64)),
        Just((67, 193, 2)),
        Just((130, 61, 1031)),
        Just((129, 127, 65)),
        Just((128, 129, 33)),
        Just((65, 257, 64)),
        Just((16, 33, 136)),
        Just((17, 16, 2056)),
        Just((40, 192, 576))
    ]
}

on_devices! {
    #[test]
    fn forward_matches_reference((rows, n, k) in shapes(), dtypes in [float_dtype(), float_dtype()], seed: u64) {
        let (x, w) = (random(seed, rows * k, dtypes[0]), random(seed ^ 1, n * k, dtypes[1]));
        let y = matmul(&tensor(&x, dtypes[0], [rows, k]), &tensor(&w, dtypes[1], [n, k])).unwrap();
        check("y", &y, &expected!(R => reference::matmul::forward::<R>(&cast(&x), &cast(&w), k)))?;
    }

    #[test]
    fn backward_matches_reference((rows, n, k) in shapes(), dtypes in [float_dtype(), float_dtype()], seed: u64) {
        let (x, w) = (random(seed, rows * k, dtypes[0]), random(seed ^ 1, n * k, dtypes[1]));
        let dy = random(seed ^ 2, rows * n, dtypes[0]);
        let (tx, tw) = (tensor(&x, dtypes[0], [rows, k]).with_grad(), tensor(&w, dtypes[1], [n, k]).with_grad());
        let y = matmul(&tx, &tw).unwrap();
        let gradients = backward_from([(&y, tensor(&dy, dtypes[0], [rows, n]))]).unwrap();
        let backward = expected!(R => reference::matmul::backward::<R>(&cast(&dy), &cast(&x), &cast(&w), k).0);
        check("dx", gradients.get(&tx).unwrap(), &backward)?;
        let backward = expected!(R => reference::matmul::backward::<R>(&cast(&dy), &cast(&x), &cast(&w), k).1);
        check("dw", gradients.get(&tw).unwrap(), &backward)?;
    }

    #[test]
    fn in_f32_only_sums_are_rounded((rows, n, k) in shapes(), dtypes in [float_dtype(), float_dtype()], seed: u64) {
        // A weight that bf16 holds too, so that no rounding of operands counts.
        let (x, w) = (random(seed, rows * k, dtypes[0]), random(seed ^ 1, n * k, DType::Bf16));
        let (tx, tw) = (tensor(&x, dtypes[0], [rows, k]), tensor(&w, dtypes[1], [n, k]));
        let y = matmul_f32(&tx, &tw).unwrap();
        prop_assert_eq!(y.dtype(), DType::F32);
        check("y", &y, &expected!(R => reference::matmul::forward::<R>(&cast(&x), &cast(&w), k)))?;
        // Backward it is matmul with the gradient in the dtype of x.
        let dy = tensor(&random(seed ^ 2, rows * n, dtypes[0]), DType::F32, [rows, n]);
        let [x, w] = [tx, tw].map(Tensor::with_grad);
        let found = backward_from([(&matmul_f32(&x, &w).unwrap(), dy.clone())]).unwrap();
        let y = matmul(&x, &w).unwrap();
        let expected = backward_from([(&y, vicugna::ops::elementwise::cast(&dy, y.dtype()).unwrap())]).unwrap();
        for (name, leaf) in [("dx", &x), ("dw", &w)] {
            check_bits(name, found.get(leaf).unwrap(), expected.get(leaf).unwrap())?;
        }
    }

    #[test]
    fn properties_hold((rows, n, k) in shapes(), dtype in float_dtype(), seed: u64) {
        // Powers of two scale without rounding, and a frozen side gets no gradient and keeps the other's bits.
        let (x, w) = (random(seed, rows * k, dtype), random(seed ^ 1, n * k, dtype));
        let doubled = |v: &[f64]| v.iter().map(|v| 2.0 * v).collect::<Vec<_>>();
        let (tx, tw) = (tensor(&x, dtype, [rows, k]), tensor(&w, dtype, [n, k]));
        let y = matmul(&tensor(&doubled(&x), dtype, [rows, k]), &tw).unwrap();
        let z = matmul(&tx, &tensor(&doubled(&w), dtype, [n, k])).unwrap();
        check_bits("(2x)wᵀ = x(2w)ᵀ", &y, &z)?;

        let dy = tensor(&random(seed ^ 2, rows * n, dtype), dtype, [rows, n]);
        let gradients = |x: &Tensor, w: &Tensor| {
            backward_from([(&matmul(x, w).unwrap(), dy.clone())]).unwrap()
        };
        let (leaf_x, leaf_w) = (tx.clone().with_grad(), tw.clone().with_grad());
        let both = gradients(&leaf_x, &leaf_w);
        let (only_x, only_w) = (gradients(&leaf_x, &tw), gradients(&tx, &leaf_w));
        prop_assert!(only_x.get(&leaf_w).is_none() && only_w.get(&leaf_x).is_none());
        check_bits("dx", only_x.get(&leaf_x).unwrap(), both.get(&leaf_x).unwrap())?;
        check_bits("dw", only_w.get(&leaf_w).unwrap(), both.get(&leaf_w).unwrap())?;
    }

    #[test]
    fn runs_are_bit_equal((rows, n, k) in shapes(), dtype in float_dtype(), seed: u64) {
        let run = || {
            let x = tensor(&random(seed, rows * k, dtype), dtype, [rows, k]).with_grad();
            let w = tensor(&random(seed ^ 1, n * k, dtype), dtype, [n, k]).with_grad();
            let y = matmul(&x, &w).unwrap();
            let gradients = backward_from([(&y, y.detach())]).unwrap();
            [y.clone(), gradients.get(&x).unwrap().clone(), gradients.get(&w).unwrap().clone()]
        };
        check_runs(run)?;
    }
}

on_devices! {
    #[test]
    fn leading_dimensions_are_kept() {
        let x = tensor(&[1.0; 24], DType::F32, [2, 3, 4]);
        assert_eq!(matmul(&x, &tensor(&[1.0; 20], DType::F32, [5, 4])).unwrap().dims(), [2, 3, 5]);
        let none = matmul(&tensor(&[], DType::F32, [0, 4]), &tensor(&[1.0; 20], DType::F32, [5, 4])).unwrap();
        assert_eq!(none.dims(), [0, 5]);
        let empty_sums = matmul(&tensor(&[], DType::F32, [2, 0]), &tensor(&[], DType::F32, [3, 0])).unwrap();
        assert_eq!(values(&empty_sums), [0.0; 6]);
    }
}

#[test]
fn reference_passes_gradcheck() {
    let (rows, n, k) = (3, 4, 5);
    let [x, w, dy] = [(0, rows * k), (1, n * k), (2, rows * n)].map(|(seed, n)| random(seed, n, DType::F32));
    let (dx, dw) = reference::matmul::backward(&dy, &x, &w, k);
    gradcheck("dx", &x, &dy, &dx, |x| reference::matmul::forward(x, &w, k));
    gradcheck("dw", &w, &dy, &dw, |w| reference::matmul::forward(&x, w, k));
}

on_devices! {
    #[test]
    fn rejects_bad_inputs() {
        let x = tensor(&[0.0; 8], DType::F32, [2, 4]);
        let error = matmul(&x, &tensor(&[0.0; 6], DType::F32, [2, 3])).unwrap_err();
        assert_eq!(error.to_string(), "matmul: weight must be [N, 4], got [2, 3]");
        let error = matmul(&x, &tensor(&[0.0; 4], DType::F32, [4])).unwrap_err();
        assert_eq!(error.to_string(), "matmul: weight must be [N, 4], got [4]");
        let scalar = vicugna::shape::Shape::from([]);
        assert!(matches!(matmul(&tensor(&[0.0], DType::F32, scalar), &x), Err(Error::Shape { .. })));
        let ids = vicugna::autograd::Tensor::from_slice(&device(), [2, 4], &[0u32; 8]).unwrap();
        assert!(matches!(matmul(&ids, &x), Err(Error::DType { .. })));
    }
}

/// What the kernels of a forward pass and of both gradients did, in bf16, at widths of Llama-3-8B.
fn profile(rows: usize, n: usize, k: usize) -> Vec<Profiled> {
    let emulated = Arc::new(Emulated::new(Emulation { profile: true, ..Emulation::default() }));
    on(&Device::new(emulated.clone()), || {
        let x = tensor(&vec![0.5; rows * k], DType::Bf16, [rows, k]).with_grad();
        let w = tensor(&vec![0.25; n * k], DType::Bf16, [n, k]).with_grad();
        let y = matmul(&x, &w).unwrap();
        backward_from([(&y, y.detach())]).unwrap();
    });
    emulated.take_profile()
}

#[test]
fn tensor_cores_are_kept_busy() {
    let launches = profile(512, 1024, 4096);
    let tiled: Vec<_> = launches.iter().filter(|launch| launch.kernel.ends_with("_128")).collect();
    assert_eq!(tiled.len(), 3);
    for launch in tiled {
        let counters = &launch.counters;
        let others = [Class::LoadMatrix, Class::SharedLoad, Class::SharedStore, Class::AsyncCopy, Class::Barrier]
            .map(|class| counters.of(class));
        let share = counters.mma as f64 / (counters.mma + others.iter().sum::<u64>()) as f64;
        assert!(share >= 0.6, "{}: {share}", launch.kernel);
    }
}

#[test]
fn memory_is_read_in_whole_sectors_and_banks_are_met_once() {
    for launch in
        [profile(256, 128, 4096), profile(64, 128, 512), profile(16, 128, 4096), profile(3, 128, 4096)].concat()
    {
        let counters = &launch.counters;
        let asked = counters.global_load_bytes + counters.global_store_bytes;
        assert_eq!(32 * (counters.global_load_sectors + counters.global_store_sectors), asked, "{}", launch.kernel);
        assert_eq!(counters.shared_excess_wavefronts, 0, "{}", launch.kernel);
    }
}

#[test]
fn a_few_rows_read_the_weight_once() {
    for rows in [1, 8, 16] {
        let (n, k) = (1024, 4096);
        let launch = &profile(rows, n, k)[0];
        assert_eq!(launch.kernel, "matmul_rows_bf16");
        let compulsory = n * k * 2 + n / 16 * rows * k * 2 + rows * n * 2;
        let asked = launch.counters.global_load_bytes + launch.counters.global_store_bytes;
        assert_eq!(asked, compulsory as u64, "{rows} rows");
    }
}
