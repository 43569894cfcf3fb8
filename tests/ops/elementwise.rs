use proptest::prelude::*;
use vicugna::autograd::{Tensor, backward_from};
use vicugna::dtype::DType;
use vicugna::error::Error;
use vicugna::ops::elementwise::{add, cast};
use vicugna::reference;

use crate::harness::*;

/// One element, ragged against any vector width, above one task.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), 1..300usize, Just(16 * 1024 + 1), Just(40_009)]
}

on_devices! {
    #[test]
    fn add_matches_reference(n in lengths(), dtype in float_dtype(), seed: u64) {
        let [a, b, dy] = [0, 1, 2].map(|i| random(seed ^ i, n, dtype));
        let [ta, tb] = [&a, &b].map(|x| tensor(x, dtype, [n]).with_grad());
        let y = add(&ta, &tb).unwrap();
        check("y", &y, &expected!(R => reference::elementwise::add::<R>(&cast_all(&a), &cast_all(&b))))?;
        let dy = tensor(&dy, dtype, [n]);
        let gradients = backward_from([(&y, dy.clone())]).unwrap();
        check_bits("da", gradients.get(&ta).unwrap(), &dy)?;
        check_bits("db", gradients.get(&tb).unwrap(), &dy)?;
    }

    #[test]
    fn cast_rounds_to_nearest(n in lengths(), from in float_dtype(), to in float_dtype(), seed: u64) {
        let (x, dy) = (random(seed, n, from), random(seed ^ 1, n, to));
        let tx = tensor(&x, from, [n]).with_grad();
        let y = cast(&tx, to).unwrap();
        check_bits("y", &y, &tensor(&x, to, [n]))?;
        let gradients = backward_from([(&y, tensor(&dy, to, [n]))]).unwrap();
        check_bits("dx", gradients.get(&tx).unwrap(), &tensor(&dy, from, [n]))?;
    }

    #[test]
    fn runs_are_bit_equal(n in lengths(), dtype in float_dtype(), seed: u64) {
        let run = || {
            let [a, b] = [0, 1].map(|i| tensor(&random(seed ^ i, n, dtype), dtype, [n]));
            [cast(&add(&a, &b).unwrap(), DType::Bf16).unwrap()]
        };
        check_runs(run)?;
    }
}

fn cast_all<R: vicugna::reference::Real>(values: &[f64]) -> Vec<R> {
    crate::harness::cast(values)
}

on_devices! {
    #[test]
    fn cast_to_the_same_dtype_shares_memory() {
        let x = tensor(&[1.0; 3], DType::F32, [3]).with_grad();
        let y = cast(&x, DType::F32).unwrap();
        assert!(std::ptr::eq(x.buffer().unwrap(), y.buffer().unwrap()) && y.is_tracked());
    }
}

on_devices! {
    #[test]
    fn rejects_bad_inputs() {
        let x = tensor(&[0.0; 4], DType::F32, [2, 2]);
        let error = add(&x, &tensor(&[0.0; 4], DType::F32, [4])).unwrap_err();
        assert_eq!(error.to_string(), "add: b must be [2, 2], got [4]");
        let error = add(&x, &tensor(&[0.0; 4], DType::Bf16, [2, 2])).unwrap_err();
        assert_eq!(error.to_string(), "add: b must be f32, got bf16");
        let ids = Tensor::from_slice(&device(), [1], &[7u32]).unwrap();
        assert!(matches!(cast(&ids, DType::F32), Err(Error::DType { .. })));
        assert!(matches!(cast(&x, DType::U32), Err(Error::DType { .. })));
    }
}
