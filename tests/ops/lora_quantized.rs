//! Adapters on layers whose weights are held in fewer bits.

use std::sync::Arc;

use proptest::prelude::*;
use vicugna::autograd::{Tensor, backward_from};
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::ops::dropout::{Dropout, dropout};
use vicugna::ops::int8_matmul::{Backward, Int8, Method};
use vicugna::ops::lora::{Adapter, Operands, Projection, linears, linears_of_rows};
use vicugna::ops::nf4::{self, Kind};
use vicugna::ops::rmsnorm::{rmsnorm, rmsnorm_int8, rmsnorm_residual, rmsnorm_residual_int8};
use vicugna::ops::swiglu::{swiglu, swiglu_int8};
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

/// How layers hold their weights and multiply by them.
#[derive(Clone, Copy, Debug)]
enum Way {
    Int8(Backward),
    FourBit { kind: Kind, blocksize: usize, double: bool },
}

fn ways() -> impl Strategy<Value = Way> {
    let four_bits =
        (prop::sample::select(vec![Kind::Nf4, Kind::Fp4]), prop::sample::select(vec![32, 64]), any::<bool>());
    prop_oneof![
        Just(Way::Int8(Backward::Int8)),
        Just(Way::Int8(Backward::Dequant)),
        four_bits.prop_map(|(kind, blocksize, double)| Way::FourBit { kind, blocksize, double }),
    ]
}

impl Way {
    fn quantize(self, weight: &Tensor) -> Quantized {
        match self {
            Self::Int8(backward) => {
                Quantized::Int8(Int8::quantize(weight, Method { backward, ..Method::default() }).unwrap())
            }
            Self::FourBit { kind, blocksize, double } => {
                Quantized::FourBit(nf4::quantize(weight, kind, blocksize, double).unwrap())
            }
        }
    }
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
    fn quantized_layers_carry_adapters(
        shape in shapes(), dtype in float_dtype(), key in dropouts(), way in ways(), one_is_dense: bool, seed: u64,
    ) {
        let ([rows, n, k, _], case) = (shape, Case::new(shape, dtype, key, seed));
        let x = tensor(&case.x, dtype, [rows, k]).with_grad();
        let dense = [0, 1].map(|i| tensor(&case.weights[i], DType::F32, [n, k]));
        let quantized = dense.each_ref().map(|w| {
            let weight = way.quantize(&w.to_device(&Device::Cpu).unwrap());
            Arc::new(weight.to_device(&device()).unwrap())
        });
        // A GPU multiplies by floats of its activations' dtype.
        let held = if device().to_string() == "cpu" { DType::F32 } else { dtype };
        let floats = dense.each_ref().map(|w| {
            let weight = way.quantize(&w.to_device(&Device::Cpu).unwrap());
            values(&weight.dequantize(held).unwrap())
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
                let base = match way {
                    _ if is_dense(i) => reference::matmul::forward::<R>(&cast(&case.x), &cast(&case.weights[i]), k),
                    Way::Int8(_) => int8::forward::<R>(&quantized_x, &weights[i]),
                    Way::FourBit { .. } => reference::matmul::forward::<R>(&cast(&case.x), &cast(&floats[i]), k),
                };
                let y = add::<R>(&base, &case.lora::<R>(i).forward(&cast(&case.x), k));
                if i == 0 { add::<R>(&y, &cast(&case.residual)) } else { y }
            }))?;
        }
        let dy = |i: usize| tensor(&case.dys[i], dtype, [rows, n]);
        let gradients = backward_from([(&ys[0], dy(0)), (&ys[1], dy(1))]).unwrap();
        check("dx", gradients.get(&x).unwrap(), &expected!(R => {
            let [first, second] = [0, 1].map(|i| {
                let floats = if is_dense(i) { cast(&case.weights[i]) } else { cast::<R>(&floats[i]) };
                let base = match way {
                    Way::Int8(Backward::Int8) if !is_dense(i) => {
                        let dy = int8::quantize_gradient(&f32s(&case.dys[i]), &weights[i]);
                        int8::backward::<R>(&dy, &weights[i], k)
                    }
                    _ => reference::matmul::backward::<R>(&cast(&case.dys[i]), &cast(&case.x), &floats, k).0,
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
            check_as("da", gradients.get(a).unwrap(), held, &of(2))?;
            check_as("db", gradients.get(b).unwrap(), held, &of(3))?;
        }
    }
}

on_devices! {
    #[test]
    fn runs_are_bit_equal(shape in shapes(), dtype in float_dtype(), way in ways(), seed: u64) {
        let [rows, n, k, r] = shape;
        let case = Case::new(shape, dtype, None, seed);
        let weight = way.quantize(&on(&Device::Cpu, || tensor(&case.weights[0], DType::F32, [n, k])));
        check_runs(|| {
            let weight = Arc::new(weight.to_device(&device()).unwrap());
            let [a, b] = [(0, [r, k]), (1, [n, r])].map(|(i, shape)| tensor(&case.adapters[0][i], DType::F32, shape).with_grad());
            let x = tensor(&case.x, dtype, [rows, k]).with_grad();
            let adapter = Some(Adapter { a: &a, b: &b, scaling: 2.0 });
            let operands = Operands::of_groups(&device(), dtype, &[vec![adapter]]).unwrap();
            let layer = Projection { weight: Weight::Quantized(&weight), adapter, residual: None };
            let y = linears(&x, &[layer], &operands[0], None).unwrap().remove(0);
            let gradients = backward_from([(&y, tensor(&case.dys[0], dtype, [rows, n]))]).unwrap();
            let of = |leaf| gradients.get(leaf).unwrap().clone();
            [y.detach(), of(&x), of(&a), of(&b)]
        })?;
    }
}

/// Widths that a block holds in packs, and others.
fn widths() -> impl Strategy<Value = usize> {
    prop_oneof![1..300usize, (1..80usize).prop_map(|packs| 8 * packs), Just(4096), Just(16_392)]
}

on_devices! {
    /// The products with them have the bits of those with rows that are made of the activation on its own.
    #[test]
    fn rows_made_with_an_activation_are_its_rows(
        rows in 1..20usize, k in widths(), threshold in prop_oneof![Just(2.0f32), Just(0.0)], dtype in float_dtype(),
        seed: u64,
    ) {
        let random = |i: u64, n: usize| random(seed ^ i, n, dtype);
        let x = |i| tensor(&random(i, rows * k), dtype, [rows, k]);
        let norm = tensor(&random(1, k).iter().map(|w| round(3.0 * w, dtype)).collect::<Vec<_>>(), dtype, [k]);
        let w = on(&Device::Cpu, || tensor(&random(2, 24 * k), dtype, [24, k]));
        let weight = Int8::quantize(&w, Method { threshold, ..Method::default() }).unwrap();
        let weight = Arc::new(Quantized::Int8(weight).to_device(&device()).unwrap());
        let layer = [Projection { weight: Weight::Quantized(&weight), adapter: None, residual: None }];
        let operands = Operands::of_groups(&device(), dtype, &[vec![None]]).unwrap();
        let (normed, of_norm) = rmsnorm_int8(&x(3), &norm, 1e-5, Some(threshold)).unwrap();
        let (of_sum, sum, of_residual) = rmsnorm_residual_int8(&x(3), &x(4), &norm, 1e-5, Some(threshold)).unwrap();
        let (gated, of_gate) = swiglu_int8(&x(5), &x(6), Some(threshold)).unwrap();
        check_bits("norm", &normed, &rmsnorm(&x(3), &norm, 1e-5).unwrap())?;
        let apart = rmsnorm_residual(&x(3), &x(4), &norm, 1e-5).unwrap();
        check_bits("norm of a sum", &of_sum, &apart.0)?;
        check_bits("sum", &sum, &apart.1)?;
        check_bits("gate", &gated, &swiglu(&x(5), &x(6)).unwrap())?;
        let is_held = device().to_string() != "cpu" && k <= 16_384 && k.is_multiple_of(16 / dtype.size());
        for (what, x, made) in [("norm", normed, of_norm), ("sum", of_sum, of_residual), ("gate", gated, of_gate)] {
            prop_assert_eq!(made.is_some(), is_held, "{}", what);
            let with = linears_of_rows(&x, made.as_ref(), &layer, &operands[0], None).unwrap();
            check_bits(what, &with[0], &linears(&x, &layer, &operands[0], None).unwrap()[0])?;
        }
    }
}

/// Its tables lie in shared memory beside the stages.
#[test]
fn a_large_tile_of_4_bits_has_room_for_its_tables() {
    let [n, k] = [72, 192];
    let (x, w) = (random(1, 66 * k, DType::Bf16), random(2, n * k, DType::F32));
    let weight = nf4::quantize(&tensor(&w, DType::F32, [n, k]), Kind::Nf4, 64, true).unwrap();
    let floats = values(&weight.dequantize(DType::Bf16).unwrap());
    for device in devices().into_iter().filter(|device| !matches!(device, Device::Cpu)) {
        on(&device, || {
            let weight = Arc::new(Quantized::FourBit(weight.to_device(&device).unwrap()));
            let layer = Projection { weight: Weight::Quantized(&weight), adapter: None, residual: None };
            let operands = Operands::of_groups(&device, DType::Bf16, &[vec![None]]).unwrap();
            let y = linears(&tensor(&x, DType::Bf16, [66, k]), &[layer], &operands[0], None).unwrap();
            let expected = expected!(R => reference::matmul::forward::<R>(&cast(&x), &cast(&floats), k));
            check("y", &y[0], &expected).unwrap();
        });
    }
}
