//! Activation checkpointing changes no bit, dropout included.

use vicugna::autograd::backward;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::io::adapter::AdapterConfig;
use vicugna::io::model::{ModelFiles, attach_new_adapter};
use vicugna::nn::{Batch, BlockHook, Checkpoint, DropoutSeed, Plain};

use crate::fixture::{self, Expected};

fn run(full: bool, dtype: DType, hook: &dyn BlockHook) -> Vec<Vec<u8>> {
    let expected: Expected = fixture::json("gqa");
    let model = ModelFiles::open(&fixture::folder("gqa")).unwrap().load(dtype, &Device::Cpu).unwrap();
    if full {
        model.train_weights().unwrap();
    }
    let adapter = AdapterConfig { lora_dropout: 0.3, ..AdapterConfig::default() };
    attach_new_adapter(&model, &adapter, 1).unwrap();
    // B = 0 would hide A's gradient.
    model.visit_adapters(&mut |_, parameter| {
        let shifted = parameter.update(|tensor| {
            tensor.slice_mut::<f32>()?.iter_mut().for_each(|v| *v += 0.1);
            Ok(())
        });
        shifted.unwrap();
    });
    let batch = Batch::new(&expected.sequences, &model.device()).unwrap();
    let dropout = DropoutSeed { seed: 5, step: 3, first_row: 0 };
    let loss = model.loss(&batch, batch.supervised as f32, Some(dropout), hook).unwrap();
    let gradients = fixture::named(&model, &backward(&loss).unwrap());
    let bytes = |t: &vicugna::autograd::Tensor| t.buffer().host().unwrap().to_vec();
    std::iter::once(bytes(&loss)).chain(gradients.values().map(bytes)).collect()
}

#[test]
fn has_the_same_bits_as_none() {
    for full in [false, true] {
        for dtype in [DType::F32, DType::Bf16] {
            assert!(run(full, dtype, &Plain) == run(full, dtype, &Checkpoint), "full {full}, {dtype}");
        }
    }
}
