//! Layers, batches and caches: what they refuse, and in which words.

use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Result;
use vicugna::nn::{Batch, DropoutSeed, KvCache, Linear, Lora, LoraInit, Sequence};

const INIT: LoraInit = LoraInit { r: 2, scaling: 1.0, dropout: 0.0, seed: 1 };

fn zeros(shape: [usize; 2]) -> Tensor {
    Tensor::zeros(&Device::Cpu, DType::F32, shape).unwrap()
}

fn refused<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

fn sequence(labels: &[i32]) -> Sequence {
    Sequence { input_ids: vec![1; labels.len()], labels: labels.to_vec() }
}

#[test]
fn a_label_that_is_no_token_is_named() {
    let batch = |sequences: &[Sequence]| Batch::new(sequences, &Device::Cpu).unwrap();
    let good = batch(&[sequence(&[-5, 0, 6]), sequence(&[9, -100])]);
    assert!(good.bad_label(7).is_none(), "the first label of a sequence is never asked for");
    let bad = batch(&[sequence(&[1, 2]), sequence(&[1, 2, 7, 8])]);
    let says = "labels: label 2 of sequence 2 must be in 0..7 or -100, got 7";
    assert_eq!(bad.bad_label(7).unwrap().to_string(), says);
    let negative = batch(&[sequence(&[1, -1])]);
    assert_eq!(
        negative.bad_label(7).unwrap().to_string(),
        "labels: label 1 of sequence 1 must be in 0..7 or -100, got -1"
    );
}

#[test]
fn a_batch_has_a_label_for_each_token() {
    let short = Sequence { input_ids: vec![1, 2, 3], labels: vec![1, 2] };
    assert_eq!(refused(Batch::new([&short], &Device::Cpu)), "batch: 3 input_ids, but 2 labels");
}

#[test]
fn a_cache_takes_what_it_has_room_for() {
    let mut cache = KvCache::new(2, 3, 4, DType::F32, &Device::Cpu).unwrap();
    let layer = &mut cache.layers[1];
    layer.append(&zeros([2, 4]), &zeros([2, 4])).unwrap();
    let says = "tensor: rows 0..2 of [2, 4] do not fit [3, 4] from row 2 on";
    assert_eq!(refused(layer.append(&zeros([2, 4]), &zeros([2, 4]))), says);
    assert!(layer.append(&zeros([1, 5]), &zeros([1, 5])).is_err(), "of another width");
    let (keys, values) = layer.append(&zeros([1, 4]), &zeros([1, 4])).unwrap();
    assert_eq!((keys.dims(), values.dims()), (&[3, 4][..], &[3, 4][..]));
}

#[test]
fn an_adapter_fits_its_layer_and_is_alone_there() {
    let linear = Linear::new(zeros([3, 5]), None);
    let other = Lora::new(INIT, 0, [5, 3].into(), &Device::Cpu).unwrap();
    assert_eq!(refused(linear.attach(other)), "lora: A [2, 3] and B [5, 2] do not fit the weight [3, 5]");
    let fitting = || Lora::new(INIT, 0, [3, 5].into(), &Device::Cpu).unwrap();
    linear.attach(fitting()).unwrap();
    assert_eq!(refused(linear.attach(fitting())), "lora: the layer has an adapter already");
    let none = Lora::new(LoraInit { r: 0, ..INIT }, 0, [3, 5].into(), &Device::Cpu);
    assert_eq!(refused(none), "--lora-r: the rank of an adapter must be at least 1");
}

#[test]
fn rows_that_came_before_move_a_mask_on() {
    let seed = DropoutSeed { seed: 3, step: 4, first_row: 5 };
    let key = seed.key(0.5, 6, 7);
    assert_eq!((key.seed, key.step, key.site, key.first_element), (3, 4, 6, 35));
}
