//! The optimizer's state: named, resumable, and the parameters' places on the tape.

mod watched;

use std::path::Path;
use std::sync::Arc;

use vicugna::autograd::{Tensor, backward};
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::io::adapter::AdapterConfig;
use vicugna::io::model::{ModelFiles, attach_new_adapter};
use vicugna::models::llama::{Llama, LlamaConfig};
use vicugna::nn::{Batch, Checkpoint, DropoutSeed, Sequence};
use vicugna::ops::elementwise::cast;
use vicugna::ops::grad_norm::{GradNorm, grad_norm};
use vicugna::ops::matmul::matmul;
use vicugna::optim::{AdamW, AdamWOptions, Trained};
use vicugna::shape::Shape;

const OPTIONS: AdamWOptions =
    AdamWOptions { learning_rate: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_slice(&Device::Cpu, [values.len()], values).unwrap()
}

fn scalar(value: f32) -> Tensor {
    tensor(&[value]).reshape([]).unwrap()
}

/// Two parameters and, for each step, gradients that differ from step to step.
struct Run {
    optimizer: AdamW,
    a: Tensor,
    b: Tensor,
}

impl Run {
    fn new() -> Self {
        Self { optimizer: AdamW::new(OPTIONS), a: tensor(&[1.0, -2.0, 3.0]), b: tensor(&[0.5]) }
    }

    fn steps(&mut self, steps: u64) {
        for _ in 0..steps {
            let step = self.optimizer.steps() as f32;
            let (da, db) = (tensor(&[step.sin(), 0.1, -step]), tensor(&[step - 2.0]));
            let a = Trained { name: "layers.0.a", parameter: &mut self.a, gradient: &da };
            let b = Trained { name: "b", parameter: &mut self.b, gradient: &db };
            self.optimizer.step(vec![a, b], &scalar(0.5)).unwrap();
        }
    }

    fn parameters(&self) -> [Vec<f32>; 2] {
        [&self.a, &self.b].map(|x| x.to_vec().unwrap())
    }
}

#[test]
fn resumed_run_has_the_bits_of_an_unbroken_one() {
    let (mut unbroken, mut broken) = (Run::new(), Run::new());
    unbroken.steps(5);
    broken.steps(3);
    let (step, state) = (broken.optimizer.steps(), broken.optimizer.state().collect::<Vec<_>>());
    broken.optimizer = AdamW::resume(OPTIONS, step, state).unwrap();
    broken.steps(2);
    assert_eq!(unbroken.parameters(), broken.parameters());
    assert_eq!(broken.optimizer.steps(), 5);
}

#[test]
fn state_is_named_after_the_parameters() {
    let mut run = Run::new();
    assert_eq!(run.optimizer.state().count(), 0);
    run.steps(1);
    let state: Vec<_> = run.optimizer.state().map(|(name, tensor)| (name, tensor.dims().to_vec())).collect();
    let expected = [("b.m", 1), ("b.v", 1), ("layers.0.a.m", 3), ("layers.0.a.v", 3)];
    assert_eq!(state, expected.map(|(name, n)| (name.to_string(), vec![n])));
}

#[test]
fn a_parameter_stays_the_same_leaf() {
    // loss = w · x: its gradient is x, before and after a step, and steps lower it.
    let x = Tensor::from_slice(&Device::Cpu, [1, 2], &[1.0f32, -3.0]).unwrap();
    let mut w = Tensor::from_slice(&Device::Cpu, [1, 2], &[0.5f32, 0.25]).unwrap().with_grad();
    let (mut optimizer, mut losses) = (AdamW::new(OPTIONS), Vec::new());
    for _ in 0..3 {
        let loss = matmul(&x, &w).unwrap();
        let gradient = backward(&loss).unwrap().take(&w).unwrap();
        assert_eq!(gradient.to_vec::<f32>().unwrap(), [1.0, -3.0]);
        losses.push(loss.to_vec::<f32>().unwrap()[0]);
        optimizer.step(vec![Trained { name: "w", parameter: &mut w, gradient: &gradient }], &scalar(1.0)).unwrap();
    }
    assert!(losses.is_sorted_by(|a, b| a > b), "{losses:?}");
}

#[test]
fn refuses_what_does_not_fit() {
    let mut optimizer = AdamW::new(OPTIONS);
    let [mut a, mut b, gradient] = [tensor(&[1.0]), tensor(&[1.0]), tensor(&[1.0])];
    let twice = [&mut a, &mut b].map(|parameter| Trained { name: "w", parameter, gradient: &gradient });
    assert_eq!(optimizer.step(twice.into(), &scalar(1.0)).unwrap_err().to_string(), "w: is trained twice in one step");

    let resumed = |state: &[(&str, usize)]| {
        let zeros = |n| Tensor::zeros(&Device::Cpu, DType::F32, [n]).unwrap();
        AdamW::resume(OPTIONS, 1, state.iter().map(|(name, n)| (name.to_string(), zeros(*n))))
    };
    let error = resumed(&[("w.m", 1)]).unwrap_err();
    assert_eq!(error.to_string(), "w: has one half of its optimizer state, .m or .v, without the other");
    let error = resumed(&[("w.momentum", 1)]).unwrap_err();
    assert_eq!(error.to_string(), "w.momentum: is no optimizer state: its name ends neither in .m nor in .v");

    let mut optimizer = resumed(&[("w.m", 2), ("w.v", 2)]).unwrap();
    let error =
        optimizer.step(vec![Trained { name: "w", parameter: &mut a, gradient: &gradient }], &scalar(1.0)).unwrap_err();
    assert_eq!(error.to_string(), "adamw: m of w must be [1], got [2]");
    assert_eq!(optimizer.steps(), 1, "a refused step was counted");
}

#[test]
fn a_step_on_a_gpu_never_waits_for_it() {
    let gpu = Arc::new(watched::Watched::default());
    let device = Device::new(gpu.clone());
    let on_gpu = |values: &[f32]| tensor(values).to_device(&device).unwrap();
    let (mut optimizer, mut w) = (AdamW::new(OPTIONS), on_gpu(&[1.0, -2.0, 3.0]));
    let mut norms = Vec::new();
    for gradient in [[3.0, 0.0, -4.0], [f32::NAN, 1.0, 1.0]].map(|gradient| on_gpu(&gradient)) {
        let norm = grad_norm(&[&gradient]).unwrap();
        let trained = vec![Trained { name: "w", parameter: &mut w, gradient: &gradient }];
        optimizer.step(trained, &norm.clip_scale(1.0).unwrap()).unwrap();
        norms.push(norm);
    }
    assert_eq!(gpu.waits(), 0);
    assert_eq!(norms[0].read().unwrap().total, 5.0);
    assert_eq!(norms[1].read().unwrap().first_not_finite(), Some(0));
    assert_eq!(gpu.waits(), 2);
    // The first step moved each element that has a gradient by the learning rate, the second none.
    let decayed = [1.0, -2.0, 3.0].map(|w| w * 0.999);
    for ((w, decayed), sign) in w.to_vec::<f32>().unwrap().into_iter().zip(decayed).zip([1.0, 0.0, -1.0]) {
        assert!((w - (decayed - 0.1 * sign)).abs() < 1e-5, "{w}");
    }
}

/// One step of training; its loss and its gradients' norm, which are still to be waited for.
fn step(model: &Llama, batch: &Batch, optimizer: &mut AdamW) -> (Tensor, GradNorm) {
    let dropout = DropoutSeed { seed: 7, step: optimizer.steps(), first_row: 0 };
    let loss = model.loss(batch, batch.supervised as f32, Some(dropout), &Checkpoint).unwrap();
    let gradients = backward(&loss).unwrap();
    let trained = model.trained();
    let mut locked: Vec<_> = trained.iter().map(|(name, parameter)| (name, parameter.lock())).collect();
    let found: Vec<Tensor> = locked.iter().map(|(_, weight)| gradients.get(weight).unwrap().clone()).collect();
    let norm = grad_norm(&found.iter().collect::<Vec<_>>()).unwrap();
    let updates = locked.iter_mut().zip(&found);
    let updates = updates.map(|((name, parameter), gradient)| Trained { name, parameter, gradient });
    optimizer.step(updates.collect(), &norm.clip_scale(1.0).unwrap()).unwrap();
    (loss, norm)
}

fn batch(device: &Device) -> Batch {
    let sequence =
        |n: u32| Sequence { input_ids: (3..n).collect(), labels: (3..n as i32).map(|id| id - id % 3).collect() };
    Batch::new(&[sequence(20), sequence(35)], device).unwrap()
}

fn fixture() -> ModelFiles {
    ModelFiles::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gqa")).unwrap()
}

/// The first of two makes what later ones keep, such as the rotary table.
#[test]
fn nor_does_a_step_of_a_whole_model() {
    let gpu = Arc::new(watched::Watched::default());
    let device = Device::new(gpu.clone());
    let model = fixture().load(DType::Bf16, &device).unwrap();
    attach_new_adapter(&model, &AdapterConfig { lora_dropout: 0.1, ..AdapterConfig::default() }, 5).unwrap();
    let mut optimizer = AdamW::new(OPTIONS);
    for n in 0..2 {
        let waits = gpu.waits();
        let (loss, norm) = step(&model, &batch(&device), &mut optimizer);
        assert_eq!(gpu.waits(), waits, "step {n}");
        assert!(norm.read().unwrap().total > 0.0 && loss.to_vec::<f32>().unwrap()[0] > 0.0);
    }
}

/// What all layers read, as attention's lists of work, is copied to the GPU once.
#[test]
fn copies_of_a_step_do_not_grow_with_the_layers() {
    let copies = |layers: usize, dtype: DType| {
        let gpu = Arc::new(watched::Watched::default());
        let device = Device::new(gpu.clone());
        let config = LlamaConfig { num_hidden_layers: layers, ..fixture().config().clone() };
        let mut weight = |_: &str, shape: Shape| {
            let values: Vec<f32> = (0..shape.numel()).map(|i| (i % 7) as f32 / 40.0).collect();
            cast(&Tensor::from_slice(&Device::Cpu, shape, &values)?, dtype)?.to_device(&device)
        };
        let model = Llama::new(config, dtype, &mut weight).unwrap();
        model.train_weights().unwrap();
        let mut optimizer = AdamW::new(OPTIONS);
        step(&model, &batch(&device), &mut optimizer);
        let before = gpu.copies();
        step(&model, &batch(&device), &mut optimizer);
        gpu.copies() - before
    };
    for dtype in [DType::F32, DType::Bf16] {
        let one = copies(1, dtype);
        assert!(one > 0);
        assert_eq!(copies(3, dtype), one, "{dtype}");
    }
}
