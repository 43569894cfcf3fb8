//! Activation checkpointing changes no bit, dropout included.

use vicugna::autograd::{Tensor, backward};
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::io::adapter::AdapterConfig;
use vicugna::io::model::{ModelFiles, attach_new_adapter};
use vicugna::nn::{Batch, Checkpoint, DropoutSeed, Plain, UnitHook};

use crate::fixture::{self, Expected};

fn run(case: &str, device: &Device, full: bool, dtype: DType, hook: &dyn UnitHook) -> Vec<Vec<u8>> {
    let expected: Expected = fixture::json(case);
    let model = ModelFiles::open(&fixture::folder(case)).unwrap().load(dtype, device).unwrap();
    if full {
        model.train_weights().unwrap();
    }
    let adapter = AdapterConfig { lora_dropout: 0.3, ..AdapterConfig::default() };
    attach_new_adapter(&model, &adapter, 1).unwrap();
    // B = 0 would hide A's gradient.
    model.visit_adapters(&mut |_, parameter| {
        let shape = parameter.get().shape();
        let shifted: Vec<f32> = parameter.get().to_vec::<f32>().unwrap().iter().map(|v| v + 0.1).collect();
        parameter.set(Tensor::from_slice(device, shape, &shifted).unwrap().with_grad());
    });
    let batch = Batch::new(&expected.sequences, &model.device()).unwrap();
    let dropout = DropoutSeed { seed: 5, step: 3, first_row: 0 };
    let loss = model.loss(&batch, batch.supervised as f32, Some(dropout), hook).unwrap();
    let gradients = fixture::named(&model, &backward(&loss).unwrap());
    let bytes = |t: &Tensor| t.to_device(&Device::Cpu).unwrap().buffer().unwrap().host().unwrap().to_vec();
    std::iter::once(bytes(&loss)).chain(gradients.values().map(bytes)).collect()
}

#[test]
fn has_the_same_bits_as_none() {
    for device in [Device::Cpu, Device::emulated()] {
        for (full, dtype) in [(false, DType::F32), (true, DType::F32), (false, DType::Bf16), (true, DType::Bf16)] {
            let [plain, recomputed] =
                [&Plain as &dyn UnitHook, &Checkpoint].map(|hook| run("gqa", &device, full, dtype, hook));
            assert!(plain == recomputed, "{device}, full {full}, {dtype}");
        }
    }
}

#[test]
fn has_the_same_bits_with_biases() {
    for (device, full, dtype) in [
        (Device::Cpu, true, DType::F32),
        (Device::Cpu, false, DType::Bf16),
        (Device::emulated(), true, DType::Bf16),
        (Device::emulated(), false, DType::Bf16),
    ] {
        let [plain, recomputed] =
            [&Plain as &dyn UnitHook, &Checkpoint].map(|hook| run("bias", &device, full, dtype, hook));
        assert!(plain == recomputed, "{device}, full {full}, {dtype}");
    }
}
