//! Training adapters on layers of codes: on the kernels as on the CPU.

use std::collections::BTreeMap;

use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::io::adapter::{AdapterConfig, Modules};
use vicugna::io::model::{ModelFiles, attach_new_adapter};
use vicugna::io::quantized::{Choice, Scheme};
use vicugna::models::llama::Llama;
use vicugna::nn::{Batch, Sequence};
use vicugna::ops::int8_matmul::Backward;

use crate::fixture;

const STEPS: u32 = 20;

/// What a step computes: the loss, and the gradient of each adapter's matrix.
type Computed = (f64, BTreeMap<String, Vec<f32>>);

/// The tiny model with adapters on all its linear layers, of which many see outliers.
fn model(choice: &Choice, dtype: DType, device: &Device) -> Llama {
    let files = ModelFiles::open(&fixture::folder("gqa")).unwrap().quantized(choice).unwrap();
    let model = files.load(dtype, device).unwrap();
    let target_modules = Modules::Pattern("all-linear".into());
    let adapter = AdapterConfig { r: 8, lora_dropout: 0.0, target_modules, ..AdapterConfig::default() };
    attach_new_adapter(&model, &adapter, 1).unwrap();
    model
}

/// Records of a language of few words: each token says which follows.
fn batch(step: u32, device: &Device) -> Batch {
    let sequence = |i: u32| {
        let input_ids: Vec<u32> = (0..24).map(|t| (step * 7 + i * 13 + t * 5) % 60 + 3).collect();
        Sequence { labels: input_ids.iter().map(|&id| id as i32).collect(), input_ids }
    };
    Batch::new(&[sequence(0), sequence(1)], device).unwrap()
}

fn compute(model: &Llama, step: u32) -> Computed {
    let (loss, gradients) = fixture::differentiate(model, &batch(step, &model.device()));
    let named = fixture::named(model, &gradients);
    (loss, named.into_iter().map(|(name, gradient)| (name, gradient.to_vec::<f32>().unwrap())).collect())
}

/// A step of gradient descent.
fn descend(model: &Llama, gradients: &BTreeMap<String, Vec<f32>>) {
    const RATE: f32 = 1.0;
    for (name, parameter) in model.trained() {
        let value = parameter.get();
        let updated = value.to_vec::<f32>().unwrap().iter().zip(&gradients[&name]).map(|(p, g)| p - RATE * g).collect();
        let updated: Vec<f32> = updated;
        parameter.set(Tensor::from_slice(&value.device(), value.shape(), &updated).unwrap().with_grad());
    }
}

fn copy_adapters(from: &Llama, to: &Llama) {
    for ((_, from), (_, to)) in from.trained().into_iter().zip(to.trained()) {
        to.set(from.get().to_device(&to.get().device()).unwrap().with_grad());
    }
}

/// How far the losses and the gradients, all together, are apart.
fn distance((loss, gradients): &Computed, (wanted_loss, wanted): &Computed) -> [f64; 2] {
    let flat = |gradients: &BTreeMap<String, Vec<f32>>| gradients.values().flatten().copied().collect::<Vec<_>>();
    [(loss / wanted_loss - 1.0).abs(), fixture::relative(&flat(gradients), &flat(wanted))]
}

fn larger(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    std::array::from_fn(|i| vicugna::reference::tolerance::largest([a[i], b[i]].into_iter()))
}

fn choices() -> [(&'static str, Choice); 4] {
    let int8 = |backward| Choice {
        scheme: Some(Scheme::Int8),
        threshold: Some(2.0),
        backward: Some(backward),
        ..Choice::default()
    };
    let nf4 = |double| Choice { scheme: Some(Scheme::Nf4), double, ..Choice::default() };
    [
        ("int8", int8(Backward::Int8)),
        ("int8, dequant", int8(Backward::Dequant)),
        ("nf4", nf4(false)),
        ("nf4, double", nf4(true)),
    ]
}

/// At each of 20 steps, from the weights that the CPU has then: the kernels are at most twice as far from the CPU as bf16 is
/// from f32 there.
#[test]
fn the_kernels_follow_the_cpu_step_by_step() {
    for (name, choice) in choices() {
        let (cpu, gpu) = (Device::Cpu, Device::emulated());
        let [exact, rounded] = [DType::F32, DType::Bf16].map(|dtype| model(&choice, dtype, &cpu));
        let emulated = [DType::F32, DType::Bf16].map(|dtype| model(&choice, dtype, &gpu));
        let (mut bf16, mut apart, mut losses) = ([0.0; 2], [[0.0; 2]; 2], Vec::new());
        for step in 0..STEPS {
            [&rounded, &emulated[0], &emulated[1]].into_iter().for_each(|to| copy_adapters(&exact, to));
            let wanted = [compute(&exact, step), compute(&rounded, step)];
            bf16 = larger(bf16, distance(&wanted[1], &wanted[0]));
            for ((apart, emulated), wanted) in apart.iter_mut().zip(&emulated).zip(&wanted) {
                *apart = larger(*apart, distance(&compute(emulated, step), wanted));
            }
            losses.push(wanted[0].0);
            descend(&exact, &wanted[0].1);
        }
        println!("{name}: f32 {:?}, bf16 {:?} apart; bf16 from f32 {bf16:?}", apart[0], apart[1]);
        for (apart, dtype) in apart.iter().zip(["f32", "bf16"]) {
            for (apart, bf16) in apart.iter().zip(bf16) {
                assert!(*apart <= 2.0 * bf16, "{name} in {dtype}: {apart:e} apart, bf16 is {bf16:e} from f32");
            }
        }
        assert!(losses[19] < 0.9 * losses[0], "{name}: {losses:?}");
    }
}

/// int8 training is chaotic: a difference of 3e-8 grows to 1e-2. So runs on their own are held to the mean of their losses.
#[test]
fn a_run_on_the_kernels_comes_to_the_cpus_losses() {
    for (name, choice) in choices() {
        let mean = |device: &Device, dtype| {
            let model = model(&choice, dtype, device);
            let losses = (0..STEPS).map(|step| {
                let (loss, gradients) = compute(&model, step);
                descend(&model, &gradients);
                loss
            });
            losses.sum::<f64>() / f64::from(STEPS)
        };
        for dtype in [DType::F32, DType::Bf16] {
            let (cpu, emulated) = (mean(&Device::Cpu, dtype), mean(&Device::emulated(), dtype));
            println!("{name} in {dtype}: {cpu} on the cpu, {emulated} emulated");
            assert!((emulated / cpu - 1.0).abs() < 0.02, "{name} in {dtype}: {cpu} on the cpu, {emulated} emulated");
        }
    }
}
