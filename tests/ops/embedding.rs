use proptest::prelude::*;
use vicugna::autograd::{Tensor, backward_from};
use vicugna::dtype::DType;
use vicugna::error::Error;
use vicugna::ops::embedding::embedding;
use vicugna::reference;

use crate::harness::*;

/// rows, V, H: one of each, more rows than ids and fewer, ragged widths, many tasks, SmolLM2-135M's width.
fn shapes() -> impl Strategy<Value = (usize, usize, usize)> {
    prop_oneof![(1..50usize, 1..20usize, 1..150usize), Just((1, 1, 1)), Just((700, 5, 67)), Just((30, 900, 576))]
}

/// Ids of which some occur often and some never.
fn ids(seed: u64, rows: usize, v: usize) -> Vec<u32> {
    random(seed, rows, DType::F32).iter().map(|x| (x.abs() / 3.0 * v as f64) as u32).collect()
}

fn tensor_of(ids: &[u32]) -> Tensor {
    Tensor::from_slice(&device(), [ids.len()], ids).unwrap()
}

on_devices! {
    #[test]
    fn forward_matches_reference((rows, v, h) in shapes(), dtype in float_dtype(), seed: u64) {
        let (ids, weight) = (ids(seed, rows, v), random(seed ^ 1, v * h, dtype));
        let y = embedding(&tensor_of(&ids), &tensor(&weight, dtype, [v, h])).unwrap();
        prop_assert_eq!(y.dims(), [rows, h]);
        prop_assert_eq!(values(&y), reference::embedding::forward(&ids, &weight, h));
    }

    #[test]
    fn backward_matches_reference((rows, v, h) in shapes(), dtype in float_dtype(), seed: u64) {
        let (ids, dy) = (ids(seed, rows, v), random(seed ^ 1, rows * h, dtype));
        let weight = tensor(&random(seed ^ 2, v * h, dtype), dtype, [v, h]).with_grad();
        let y = embedding(&tensor_of(&ids), &weight).unwrap();
        let gradients = backward_from([(&y, tensor(&dy, dtype, [rows, h]))]).unwrap();
        let backward = expected!(R => reference::embedding::backward::<R>(&cast(&dy), &ids, v, h));
        check("dweight", gradients.get(&weight).unwrap(), &backward)?;
    }

    #[test]
    fn properties_hold((rows, v, h) in shapes(), seed: u64) {
        // With dy all ones, a row of the gradient counts how often its id occurs.
        let ids = ids(seed, rows, v);
        let weight = tensor(&random(seed, v * h, DType::F32), DType::F32, [v, h]).with_grad();
        let y = embedding(&tensor_of(&ids), &weight).unwrap();
        let gradients = backward_from([(&y, tensor(&vec![1.0; rows * h], DType::F32, [rows, h]))]).unwrap();
        let counts = values(gradients.get(&weight).unwrap());
        for id in 0..v {
            let count = ids.iter().filter(|i| **i as usize == id).count() as f64;
            prop_assert!(counts[id * h..(id + 1) * h].iter().all(|c| *c == count), "id {id} occurs {count} times");
        }
    }

    #[test]
    fn runs_are_bit_equal((rows, v, h) in shapes(), dtype in float_dtype(), seed: u64) {
        let run = || {
            let weight = tensor(&random(seed, v * h, dtype), dtype, [v, h]).with_grad();
            let y = embedding(&tensor_of(&ids(seed, rows, v)), &weight).unwrap();
            let gradients = backward_from([(&y, y.detach())]).unwrap();
            [y, gradients.get(&weight).unwrap().clone()]
        };
        check_runs(run)?;
    }
}

#[test]
fn reference_passes_gradcheck() {
    let (ids, v, h) = ([2, 0, 2, 3], 5, 3);
    let (weight, dy) = (random(0, v * h, DType::F32), random(1, ids.len() * h, DType::F32));
    let dweight = reference::embedding::backward(&dy, &ids, v, h);
    gradcheck("dweight", &weight, &dy, &dweight, |weight| reference::embedding::forward(&ids, weight, h));
}

on_devices! {
    #[test]
    fn rejects_bad_inputs() {
        let weight = tensor(&[0.0; 8], DType::F32, [2, 4]);
        let error = embedding(&tensor_of(&[1, 0, 2]), &weight).unwrap_err();
        assert_eq!(error.to_string(), "embedding: id 2 of row 2 is not below the vocabulary's 2");
        let error = embedding(&weight, &weight).unwrap_err();
        assert_eq!(error.to_string(), "embedding: ids must be [rows] and weight [V, H], got [2, 4] and [2, 4]");
        let error = embedding(&tensor(&[0.0], DType::F32, [1]), &weight).unwrap_err();
        assert!(matches!(error, Error::DType { .. }), "{error}");
    }
}
