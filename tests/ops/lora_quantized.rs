//! Adapters on layers whose weights are held in fewer bits.

use std::sync::Arc;

use proptest::prelude::*;
use vicugna::autograd::{Tensor, backward_from};
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::ops::dropout::{Dropout, dropout};
use vicugna::ops::int8_matmul::{Backward, Int8, Method};
use vicugna::ops::lora::{Adapter, Operands, Projection, linears};
use vicugna::ops::weight::{Quantized, Weight};
use vicugna::reference::elementwise::add;
use vicugna::reference::int8_matmul::{self as int8, Row};
use vicugna::reference::lora::Lora;
use vicugna::reference::{self, Real};

use crate::harness::*;

const SCALINGS: [f64; 2] = [2.0, 0.75];

/// Two layers of one input `[rows, K]`, each with an adapter of rank R.
struct Case {
    x: Vec<f64>,
    mask: Vec<f64>,
    weights: [Vec<f64>; 2],
    adapters: [[Vec<f64>; 2]; 2],
    residual: Vec<f64>,
    dys: [Vec<f64>; 2],
}

impl Case {
    fn new(shape: [usize; 4], dtype: DType, key: Option<Dropout>, seed: u64) -> Self {
        let [rows, n, k, r] = shape;
        let random = |i: u64, n: usize, dtype| random(seed ^ i, n, dtype);
        let mut x = random(0, rows * k, dtype);
        x.iter_mut().step_by(53).for_each(|x| *x = round(*x * 9.0, dtype));
        let ones = Tensor::from_slice(&Device::Cpu, [rows, k], &vec![1f32; rows * k]).unwrap();
        Self {
            x,
            mask: values(&key.map_or_else(|| ones.clone(), |key| dropout(&ones, key).unwrap())),
            weights: [1, 2].map(|i| random(i, n * k, DType::F32)),
            adapters: [3, 4].map(|i| [random(i, r * k, DType::F32), random(i + 2, n * r, DType::F32)]),
            residual: random(7, rows * n, dtype),
            dys: [8, 9].map(|i| random(i, rows * n, dtype)),
        }
    }

    /// What the specification says of layer `i`, and of its adapter alone.
    fn lora<R: Real>(&self, i: usize) -> Lora<R> {
        let [a, b] = &self.adapters[i];
        let w = vec![R::zero(); self.weights[i].len()];
        Lora { w, a: cast(a), b: cast(b), scaling: R::from_f64(SCALINGS[i]), mask: cast(&self.mask) }
    }
}

fn f32s(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

fn dropouts() -> impl Strategy<Value = Option<Dropout>> {
    let key = (0.0..0.9f32, any::<u64>());
    proptest::option::of(key.prop_map(|(p, seed)| Dropout { p, seed, step: 5, site: 3, first_element: 64 }))
}

fn shapes() -> impl Strategy<Value = [usize; 4]> {
    prop_oneof![[1..40usize, 1..50usize, 1..70usize, 1..12usize], Just([66, 72, 192, 8])]
}

on_devices! {
    /// Base, adapter and residual in one store; both layers' gradients of `x` in one, with each way to them.
    #[test]
    fn int8_layers_carry_adapters(
        shape in shapes(), dtype in float_dtype(), key in dropouts(), is_int8: bool, one_is_dense: bool, seed: u64,
    ) {
        let ([rows, n, k, _], case) = (shape, Case::new(shape, dtype, key, seed));
        let method = Method { backward: if is_int8 { Backward::Int8 } else { Backward::Dequant }, ..Method::default() };
        let x = tensor(&case.x, dtype, [rows, k]).with_grad();
        let dense = [0, 1].map(|i| tensor(&case.weights[i], DType::F32, [n, k]));
        let quantized = dense.each_ref().map(|w| {
            let weight = Int8::quantize(&w.to_device(&Device::Cpu).unwrap(), method).unwrap();
            Arc::new(Quantized::Int8(weight).to_device(&device()).unwrap())
        });
        let leaves = [0, 1].map(|i| {
            let r = shape[3];
            let [a, b] = &case.adapters[i];
            [tensor(a, DType::F32, [r, k]).with_grad(), tensor(b, DType::F32, [n, r]).with_grad()]
        });
        let residual = tensor(&case.residual, dtype, [rows, n]).with_grad();
        let projections = [0, 1].map(|i| Projection {
            weight: if one_is_dense && i == 1 { Weight::Dense(&dense[1]) } else { Weight::Quantized(&quantized[i]) },
            adapter: Some(Adapter { a: &leaves[i][0], b: &leaves[i][1], scaling: SCALINGS[i] as f32 }),
            residual: (i == 0).then_some(&residual),
        });
        let operands = Operands::of_groups(&device(), dtype, &[projections.map(|p| p.adapter).to_vec()]).unwrap();
        let ys = linears(&x, &projections, &operands[0], key).unwrap();
        let weights: [Vec<Row>; 2] = case.weights.each_ref().map(|w| int8::quantize(&f32s(w), k, 0.0));
        let quantized_x = int8::quantize(&f32s(&case.x), k, 6.0);
        let is_dense = |i: usize| one_is_dense && i == 1;
        for (i, y) in ys.iter().enumerate() {
            check("y", y, &expected!(R => {
                let base = match is_dense(i) {
                    true => reference::matmul::forward::<R>(&cast(&case.x), &cast(&case.weights[i]), k),
                    false => int8::forward::<R>(&quantized_x, &weights[i]),
                };
                let y = add::<R>(&base, &case.lora::<R>(i).forward(&cast(&case.x), k));
                if i == 0 { add::<R>(&y, &cast(&case.residual)) } else { y }
            }))?;
        }
        let dy = |i: usize| tensor(&case.dys[i], dtype, [rows, n]);
        let gradients = backward_from([(&ys[0], dy(0)), (&ys[1], dy(1))]).unwrap();
        check("dx", gradients.get(&x).unwrap(), &expected!(R => {
            let [first, second] = [0, 1].map(|i| {
                let floats = if is_dense(i) { cast(&case.weights[i]) } else { int8::dequantize::<R>(&weights[i]) };
                let base = match is_int8 && !is_dense(i) {
                    true => int8::backward::<R>(&int8::quantize_gradient(&f32s(&case.dys[i]), &weights[i]), &weights[i], k),
                    false => reference::matmul::backward::<R>(&cast(&case.dys[i]), &cast(&case.x), &floats, k).0,
                };
                let [dx, ..] = case.lora::<R>(i).backward(&cast(&case.dys[i]), &cast(&case.x), k);
                add::<R>(&base, &dx)
            });
            add::<R>(&first, &second)
        }))?;
        check_bits("dresidual", gradients.get(&residual).unwrap(), &dy(0))?;
        for (i, [a, b]) in leaves.iter().enumerate() {
            let of = |place: usize| expected!(R => {
                case.lora::<R>(i).backward(&cast(&case.dys[i]), &cast(&case.x), k)[place].clone()
            });
            check("da", gradients.get(a).unwrap(), &of(2))?;
            check("db", gradients.get(b).unwrap(), &of(3))?;
        }
    }
}
