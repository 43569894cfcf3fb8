//! What the seven linear layers of a block of Llama-3-8B ask of memory and of tensor cores, forward and for the gradient of
//! what goes in, with weights of 8 and 4 bits beside bf16: counted on a device that runs a few blocks of each launch.

use std::sync::Arc;

use half::bf16;
use vicugna::autograd::{Tensor, backward_from};
use vicugna::device::{Device, Sampled};
use vicugna::dtype::DType;
use vicugna::ops::int8_matmul::{Int8, Method};
use vicugna::ops::lora::{Operands, Projection, linears};
use vicugna::ops::nf4::{Absmax, FourBit, Kind};
use vicugna::ops::weight::{Quantized, Weight};

const ROWS: usize = 1024;
/// The widths of what goes into layers and, of those that share it, of what comes out.
const H: usize = 4096;
const KV: usize = 1024;
const I: usize = 14_336;
/// Elements of all seven weights.
const WEIGHTS: usize = H * (H + 2 * KV + H + 3 * I);

/// Bytes asked of global memory, and instructions of `mma`.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    bytes: f64,
    mma: f64,
}

/// How a weight is held.
#[derive(Clone, Copy, PartialEq)]
enum Held {
    Bf16,
    Int8,
    Nf4,
}

impl Held {
    fn weight(self, device: &Device, [n, k]: [usize; 2]) -> Option<Arc<Quantized>> {
        match self {
            Self::Bf16 => None,
            Self::Int8 => {
                let codes = Tensor::zeros(&Device::Cpu, DType::I8, [n, k]).unwrap();
                let absmax = Tensor::from_slice(&Device::Cpu, [n], &vec![1f32; n]).unwrap();
                let weight = Int8::new(codes, absmax, Method::default()).unwrap();
                Some(Arc::new(Quantized::Int8(weight).to_device(device).unwrap()))
            }
            Self::Nf4 => {
                let codes = Tensor::uninit(device, DType::U8, [n * k / 2]).unwrap();
                let absmax = Absmax::Plain(Tensor::uninit(device, DType::F32, [n * k / 64]).unwrap());
                let weight = FourBit::from_parts([n, k], Kind::Nf4, 64, codes, absmax).unwrap();
                Some(Arc::new(Quantized::FourBit(weight)))
            }
        }
    }
}

/// A group of layers, forward and backward; every `outliers`th column of what goes in has outliers.
fn group<const N: usize>(held: Held, k: usize, widths: [usize; N], outliers: Option<usize>) -> Counted {
    let sampled = Arc::new(Sampled::new(2));
    let device = Device::new(sampled.clone());
    let value = |i: usize| if outliers.is_some_and(|every| (i % k).is_multiple_of(every)) { 10.0 } else { 1.0 };
    let x: Vec<bf16> = (0..ROWS * k).map(|i| bf16::from_f32(value(i))).collect();
    let x = Tensor::from_slice(&device, [ROWS, k], &x).unwrap().with_grad();
    let dense: Vec<Tensor> = widths.iter().map(|&n| Tensor::uninit(&device, DType::Bf16, [n, k]).unwrap()).collect();
    let codes: Vec<_> = widths.iter().map(|&n| held.weight(&device, [n, k])).collect();
    let weights =
        dense.iter().zip(&codes).map(|(dense, codes)| codes.as_ref().map_or(Weight::Dense(dense), Weight::Quantized));
    let layers: Vec<_> = weights.map(|weight| Projection { weight, adapter: None, residual: None }).collect();
    let operands = Operands::of_groups(&device, DType::Bf16, &[vec![None; widths.len()]]).unwrap();
    let ys = linears(&x, &layers, &operands[0], None).unwrap();
    let ys: [Tensor; N] = ys.try_into().unwrap();
    backward_from(ys.each_ref().map(|y| (y, y.detach()))).unwrap();
    sampled.take_launches().iter().fold(Counted::default(), |sum, launch| {
        let counters = &launch.counters;
        let all = launch.grid.iter().map(|&blocks| f64::from(blocks)).product::<f64>() / counters.blocks as f64;
        let bytes = (counters.global_load_bytes + counters.global_store_bytes) as f64;
        Counted { bytes: sum.bytes + all * bytes, mma: sum.mma + all * counters.mma as f64 }
    })
}

fn block(held: Held, outliers: Option<usize>) -> Counted {
    let groups = [
        group(held, H, [H, KV, KV], outliers),
        group(held, H, [H], outliers),
        group(held, H, [I, I], outliers),
        group(held, I, [H], outliers),
    ];
    let sum = |of: fn(&Counted) -> f64| groups.iter().map(of).sum::<f64>();
    Counted { bytes: sum(|of| of.bytes), mma: sum(|of| of.mma) }
}

#[test]
fn codes_ask_for_less_than_floats() {
    let floats = block(Held::Bf16, None);
    println!("bf16: {:.3e} bytes, {:.3e} mma", floats.bytes, floats.mma);
    for (name, outliers, most) in
        [("none", None, [0.55, 0.5]), ("1 %", Some(100), [0.57, 0.52]), ("10 %", Some(10), [0.70, 0.61])]
    {
        let codes = block(Held::Int8, outliers);
        let [bytes, mma] = [codes.bytes / floats.bytes, codes.mma / floats.mma];
        println!("int8, outliers in {name} of the columns: {bytes:.3} x the bytes, {mma:.3} x the mma");
        assert!(bytes <= most[0] && mma <= most[1], "{name}: {bytes} x the bytes, {mma} x the mma");
    }
    // In tiles of 128 rows a weight is read 8 times, forward and backward.
    let of_weights = WEIGHTS * 2 * 8 * 2;
    let codes = block(Held::Nf4, None);
    let share = 1.0 - (floats.bytes - codes.bytes) / of_weights as f64;
    println!(
        "nf4: {share:.3} x the bytes of weights, {:.3} x all, {:.3} x the mma",
        codes.bytes / floats.bytes,
        codes.mma / floats.mma
    );
    assert!(share <= 0.35 && codes.mma == floats.mma, "{share} x the bytes of weights, {codes:?} beside {floats:?}");
}
