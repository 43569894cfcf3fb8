//! Models that are loaded to be frozen, whose linear layers are packed.

use std::collections::BTreeMap;

use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::io::model::ModelFiles;
use vicugna::models::llama::Llama;
use vicugna::nn::{Batch, Plain, Sequence, Weight};

use crate::fixture;

/// The case's model with its adapter, if it has one.
fn files(case: &str) -> ModelFiles {
    let (files, adapter) = (ModelFiles::open(&fixture::folder(case)).unwrap(), fixture::folder(case).join("adapter"));
    if adapter.exists() { files.with_adapter(&adapter).unwrap() } else { files }
}

fn weights(model: &Llama) -> BTreeMap<String, Vec<f32>> {
    let mut weights = BTreeMap::new();
    let mut see = |name: &str, weight: &dyn Fn() -> vicugna::error::Result<vicugna::autograd::Tensor>| {
        weights.insert(name.to_string(), weight()?.to_vec::<f32>()?);
        Ok(())
    };
    model.each_weight(&mut see).unwrap();
    weights
}

#[test]
fn a_frozen_model_has_the_bits_of_one_that_is_not() {
    for case in ["gqa", "bias_lora", "lora", "lora_head", "lora_qv_rslora"] {
        let files = files(case);
        let (model, frozen) =
            (files.load(DType::F32, &Device::Cpu).unwrap(), files.load_frozen(DType::F32, &Device::Cpu).unwrap());
        let packed = frozen.linears().iter().filter(|(_, linear)| matches!(linear.weight, Weight::Packed(_))).count();
        assert!(packed >= 7, "{case}: {packed} layers are packed");
        assert!(weights(&model) == weights(&frozen), "{case}: the weights differ");
        assert_eq!(frozen.first_weight_not_finite().unwrap(), None, "{case}");

        let vocabulary = model.config().vocab_size as u32;
        let sequences = [40, 23].map(|length| {
            let input_ids: Vec<u32> = (0..length).map(|i| i * i % vocabulary).collect();
            Sequence { labels: input_ids.iter().map(|id| *id as i32).collect(), input_ids }
        });
        let batch = Batch::new(&sequences, &Device::Cpu).unwrap();
        let logits = |model: &Llama| {
            model.logits(&model.hidden(&batch, None, &Plain).unwrap()).unwrap().to_vec::<f32>().unwrap()
        };
        assert!(logits(&model) == logits(&frozen), "{case}: the logits differ");
        if model.linears().iter().all(|(_, linear)| linear.lora().is_none()) {
            continue;
        }
        let gradients = |model: &Llama| {
            let named = fixture::named(model, &fixture::differentiate(model, &batch).1);
            named.into_iter().map(|(name, gradient)| (name, gradient.to_vec::<f32>().unwrap())).collect::<Vec<_>>()
        };
        let wanted = gradients(&model);
        assert!(!wanted.is_empty());
        assert!(wanted == gradients(&frozen), "{case}: the gradients differ");
    }
}
