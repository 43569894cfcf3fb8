//! What a few blocks of a launch tell of all, against all of them, counted.

use std::sync::Arc;

use vicugna::autograd::{Tensor, backward_from};
use vicugna::device::{Class, Device, Emulated, Emulation, Profiled, Sampled, SampledLaunch};
use vicugna::dtype::DType;
use vicugna::ops::attention::{Heads, Segments, attention};
use vicugna::ops::elementwise::cast;
use vicugna::ops::matmul::matmul;

const BLOCKS: u64 = 4;

fn tensor(device: &Device, shape: [usize; 2]) -> Tensor {
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect();
    let x = cast(&Tensor::from_slice(&Device::Cpu, shape, &values).unwrap(), DType::Bf16).unwrap();
    x.to_device(device).unwrap().with_grad()
}

fn products(device: &Device, rows: usize) {
    let (x, weight) = (tensor(device, [rows, 512]), tensor(device, [256, 512]));
    let y = matmul(&x, &weight).unwrap();
    backward_from([(&y, y.detach())]).unwrap();
}

fn attend(device: &Device, rows: usize) {
    let heads = Heads { num_attention_heads: 2, num_key_value_heads: 1, head_dim: 64 };
    let (q, k, v) = (tensor(device, [rows, 128]), tensor(device, [rows, 64]), tensor(device, [rows, 64]));
    let out = attention(&q, &k, &v, &Segments::packed(&[rows]), heads, 0.125).unwrap();
    backward_from([(&out, out.detach())]).unwrap();
}

/// Fails unless the counts of a sample, times the blocks it stands for, are those of the launch within `share` of them.
fn agree(sampled: &SampledLaunch, counted: &Profiled, share: f64) {
    assert_eq!((&sampled.kernel, sampled.grid, sampled.block), (&counted.kernel, counted.grid, counted.block));
    let (few, all) = (&sampled.counters, &counted.counters);
    assert!(few.blocks <= BLOCKS && all.blocks >= few.blocks);
    let factor = all.blocks as f64 / few.blocks as f64;
    for (name, few, all) in [
        ("mma", few.mma, all.mma),
        ("instructions", few.total_instructions(), all.total_instructions()),
        ("loads", few.of(Class::GlobalLoad), all.of(Class::GlobalLoad)),
        ("loaded bytes", few.global_load_bytes, all.global_load_bytes),
        ("stored bytes", few.global_store_bytes, all.global_store_bytes),
    ] {
        let (found, all) = (few as f64 * factor, all as f64);
        let kernel = &counted.kernel;
        assert!((found - all).abs() <= share * all, "{kernel}: {name} {found}, counted {all} of {:?}", counted.grid);
    }
}

fn holds(work: fn(&Device, usize), sizes: [usize; 2], share: f64) {
    for rows in sizes {
        let all = Arc::new(Emulated::new(Emulation { profile: true, ..Emulation::default() }));
        let few = Arc::new(Sampled::new(BLOCKS));
        work(&Device::new(all.clone()), rows);
        work(&Device::new(few.clone()), rows);
        let (all, few) = (all.take_profile(), few.take_launches());
        assert!(!all.is_empty() && all.len() == few.len());
        few.iter().zip(&all).for_each(|(few, all)| agree(few, all, share));
    }
}

#[test]
fn blocks_of_a_product_do_alike() {
    holds(products, [256, 640], 0.01);
}

/// A block's work grows along the grid: the middles of equal stretches give its mean.
#[test]
fn blocks_of_attention_are_sampled_evenly() {
    holds(attend, [512, 1024], 0.06);
}

/// Memory that nobody has is only addresses, and equal launches run once.
#[test]
fn a_step_that_no_machine_holds_is_counted() {
    let sampled = Arc::new(Sampled::new(1));
    let device = Device::new(sampled.clone());
    let weight = Tensor::uninit(&device, DType::Bf16, [1 << 16, 1 << 12]).unwrap();
    let x = Tensor::uninit(&device, DType::Bf16, [1 << 13, 1 << 12]).unwrap();
    for _ in 0..3 {
        assert_eq!(matmul(&x, &weight).unwrap().dims(), [1 << 13, 1 << 16]);
    }
    let launches = sampled.take_launches();
    assert_eq!(launches.len(), 3);
    assert!(launches.iter().all(|launch| launch.counters == launches[0].counters && launch.counters.blocks == 1));
    assert_eq!(launches[0].input_bytes, ((1 << 28) + (1 << 25)) * 2);
    assert!(device.peak_bytes().unwrap() > 1 << 30);
    assert!(sampled.take_launches().is_empty());
}
