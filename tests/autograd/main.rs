//! The tape: what is recorded, what is differentiated, what is refused; and memory that tensors share.

use std::sync::Arc;

use vicugna::autograd::{Gradients, Tensor, backward, backward_from, is_recording, no_grad, record, recording};
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::ops::elementwise::add;

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_slice(&Device::Cpu, [values.len()], values).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_vec().unwrap()
}

/// `factor * x`, recorded.
fn scaled(x: &Tensor, factor: f32) -> Tensor {
    let by = move |x: &Tensor| tensor(&values(x).iter().map(|v| factor * v).collect::<Vec<_>>());
    let [y] = record([x], [by(x)], move |[dy]| Ok([dy.map(|dy| by(&dy))]));
    y
}

fn gradient(gradients: &Gradients, leaf: &Tensor) -> Vec<f32> {
    values(gradients.get(leaf).expect("a gradient arrived"))
}

#[test]
fn gradients_of_all_ways_to_a_leaf_are_added() {
    let x = tensor(&[1.0, -2.0]).with_grad();
    let shared = scaled(&x, 3.0);
    let (left, right) = (scaled(&shared, 5.0), scaled(&shared, 7.0));
    let y = add(&add(&left, &right).unwrap(), &x).unwrap();
    let gradients = backward_from([(&y, tensor(&[1.0, 10.0]))]).unwrap();
    assert_eq!(gradient(&gradients, &x), [37.0, 370.0]);
    assert!(gradients.get(&shared).is_none(), "only leaves keep theirs");
}

#[test]
fn several_outputs_are_differentiated_at_once() {
    let (x, w) = (tensor(&[1.0]).with_grad(), tensor(&[1.0]).with_grad());
    let (y, z) = (scaled(&x, 2.0), add(&x, &w).unwrap());
    let mut gradients = backward_from([(&y, tensor(&[1.0])), (&z, tensor(&[10.0]))]).unwrap();
    assert_eq!((gradient(&gradients, &x), gradient(&gradients, &w)), (vec![12.0], vec![10.0]));
    assert_eq!(values(&gradients.take(&x).unwrap()), [12.0]);
    assert!(gradients.get(&x).is_none(), "taken");
    gradients.merge(backward_from([(&scaled(&w, 4.0), tensor(&[1.0]))]).unwrap()).unwrap();
    assert_eq!(gradient(&gradients, &w), [14.0]);
}

#[test]
fn what_cannot_be_differentiated_is_refused() {
    let refused = |result: vicugna::error::Result<Gradients>| result.err().expect("an error").to_string();
    let x = tensor(&[1.0, 2.0]).with_grad();
    assert_eq!(refused(backward(&scaled(&x, 2.0))), "backward: the loss must have one element, got [2]");
    let untracked = scaled(&x.detach(), 2.0);
    let says = "backward: the output depends on no tracked tensor";
    assert_eq!(refused(backward_from([(&untracked, tensor(&[1.0, 1.0]))])), says);
    let y = scaled(&x, 2.0);
    backward_from([(&y, tensor(&[1.0, 1.0]))]).unwrap();
    let again = refused(backward_from([(&scaled(&y, 3.0), tensor(&[1.0, 1.0]))]));
    assert_eq!(again, "backward: this part of the tape was used already");
}

#[test]
fn a_gradient_that_does_not_fit_is_refused() {
    let x = tensor(&[1.0, 2.0]).with_grad();
    let [wrong] = record([&x], [tensor(&[0.0])], |_| Ok([Some(tensor(&[1.0, 2.0, 3.0]))]));
    let error = backward_from([(&wrong, tensor(&[1.0])), (&scaled(&x, 1.0), tensor(&[1.0, 1.0]))]).err().unwrap();
    assert!(error.to_string().starts_with("accumulate: ["), "{error}");
    let [failing] = record([&x], [tensor(&[0.0])], |_| Err(vicugna::error::Error::input("op", "cannot go back")));
    assert_eq!(backward(&failing).err().unwrap().to_string(), "op: cannot go back");
}

#[test]
fn nothing_is_recorded_where_nothing_is_tracked_or_wanted() {
    let saved = Arc::new(());
    let op = |x: &Tensor| {
        let kept = saved.clone();
        let [y] = record([x], [tensor(&[0.0])], move |[dy]| {
            drop(kept);
            Ok([dy])
        });
        y
    };
    let x = tensor(&[1.0]).with_grad();
    assert!(!op(&x.detach()).is_tracked() && !no_grad(|| op(&x)).is_tracked());
    assert_eq!(Arc::strong_count(&saved), 1, "what an op saved is dropped with its closure");
    let y = op(&x);
    assert_eq!(Arc::strong_count(&saved), 2);
    backward(&y).unwrap();
    assert_eq!(Arc::strong_count(&saved), 1, "freed as it is used");
}

#[test]
fn recording_is_restored() {
    no_grad(|| {
        assert!(!is_recording());
        recording(|| assert!(is_recording()));
        assert!(!is_recording());
    });
    let panicked = std::panic::catch_unwind(|| no_grad(|| panic!("within")));
    assert!(panicked.is_err() && is_recording());
    let x = tensor(&[1.0]).with_grad();
    let [y] = record([&x], [tensor(&[1.0])], |[dy]| {
        assert!(!is_recording(), "a backward pass records nothing");
        Ok([dy])
    });
    backward(&y).unwrap();
    assert!(is_recording());
}

#[test]
fn reshape_keeps_elements_and_their_gradients() {
    let x = Tensor::from_slice(&Device::Cpu, [2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap().with_grad();
    let y = x.reshape([6]).unwrap();
    assert_eq!((y.dims(), values(&y)), (&[6][..], values(&x)));
    let gradients = backward_from([(&y, tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))]).unwrap();
    assert_eq!(gradients.get(&x).unwrap().dims(), [2, 3]);
    assert_eq!(gradient(&gradients, &x), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let error = x.reshape([5]).err().unwrap();
    assert_eq!(error.to_string(), "reshape: [2, 3] does not have as many elements as [5]");
}

#[test]
fn writing_to_shared_memory_copies_it_first() {
    for device in [Device::Cpu, Device::emulated()] {
        let original = Tensor::from_slice(&device, [2, 2], &[1f32, 2.0, 3.0, 4.0]).unwrap();
        let (shared, view) = (original.clone(), original.reshape([4]).unwrap());
        let mut written = original.clone();
        let row = Tensor::from_slice(&device, [1, 2], &[8f32, 9.0]).unwrap();
        written.write_rows(1, &row).unwrap();
        assert_eq!(values(&written), [1.0, 2.0, 8.0, 9.0], "{device}");
        for untouched in [&original, &shared, &view] {
            assert_eq!(values(untouched), [1.0, 2.0, 3.0, 4.0], "{device}");
        }
        let mut alone = Tensor::zeros(&device, DType::F32, [1, 2]).unwrap();
        let before = std::ptr::from_ref(alone.buffer().unwrap());
        alone.write_rows(0, &row).unwrap();
        assert_eq!(
            (std::ptr::from_ref(alone.buffer().unwrap()), values(&alone)),
            (before, vec![8.0, 9.0]),
            "not shared, not copied"
        );
    }
    let mut of_cpu = tensor(&[1.0]);
    let kept = of_cpu.clone();
    of_cpu.slice_mut::<f32>().unwrap()[0] = 7.0;
    assert_eq!((values(&of_cpu), values(&kept)), (vec![7.0], vec![1.0]));
    assert!(of_cpu.slice_mut::<u32>().is_err(), "of another dtype");
}
