use proptest::prelude::*;
use vicugna::autograd::{Gradients, Tensor, backward_from};
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Error;
use vicugna::ops::dropout::{Dropout, dropout};
use vicugna::ops::lora::{Adapter, Operands, Projection, linears, lora};
use vicugna::ops::matmul::matmul;
use vicugna::ops::weight::Weight;
use vicugna::reference::{self, Real};

use crate::harness::*;

/// rows, N, K, R: one of each, primes, one row, a rank above a tile, of odd size under rows of 16 bytes, a K in
/// slices, a real Llama.
fn shapes() -> impl Strategy<Value = [usize; 4]> {
    prop_oneof![
        [1..30usize, 1..50usize, 1..40usize, 1..12usize],
        Just([1, 1, 1, 1]),
        Just([1, 577, 131, 8]),
        Just([5, 31, 300, 16]),
        Just([37, 67, 61, 41]),
        Just([9, 40, 64, 5]),
        Just([66, 70, 1032, 4]),
        Just([24, 192, 576, 8])
    ]
}

/// rows, N, K, R of layers of which several are multiplied: rows that begin anywhere, and on 16 bytes.
fn small_shapes() -> impl Strategy<Value = [usize; 4]> {
    prop_oneof![[1..20usize, 1..40usize, 1..40usize, 1..12usize], Just([9, 40, 64, 5]), Just([66, 72, 192, 8])]
}

fn dropouts() -> impl Strategy<Value = Option<Dropout>> {
    let key = (0.0..0.9f32, any::<u64>(), 0..99u64);
    proptest::option::of(key.prop_map(|(p, seed, step)| Dropout { p, seed, step, site: 3, first_element: 64 }))
}

/// One random case: operands as values, in the dtypes that the op takes.
struct Case {
    x: Vec<f64>,
    w: Vec<f64>,
    a: Vec<f64>,
    b: Vec<f64>,
    dy: Vec<f64>,
    shape: [usize; 4],
    dtypes: [DType; 2],
    dropout: Option<Dropout>,
    scaling: f64,
}

const SCALING: f64 = 2.0;

impl Case {
    fn new(shape: [usize; 4], dtypes: [DType; 2], dropout: Option<Dropout>, seed: u64) -> Self {
        let [rows, n, k, r] = shape;
        let x = random(seed, rows * k, dtypes[0]);
        let w = random(seed ^ 1, n * k, dtypes[1]);
        let a = random(seed ^ 2, r * k, DType::F32);
        let b = random(seed ^ 3, n * r, DType::F32);
        let dy = random(seed ^ 4, rows * n, dtypes[0]);
        Self { x, w, a, b, dy, shape, dtypes, dropout, scaling: SCALING }
    }

    /// `x`, `weight`, `lora_a`, `lora_b` as leaves.
    fn leaves(&self) -> [Tensor; 4] {
        let [rows, n, k, r] = self.shape;
        [
            tensor(&self.x, self.dtypes[0], [rows, k]).with_grad(),
            tensor(&self.w, self.dtypes[1], [n, k]).with_grad(),
            tensor(&self.a, DType::F32, [r, k]).with_grad(),
            tensor(&self.b, DType::F32, [n, r]).with_grad(),
        ]
    }

    fn run(&self, [x, w, a, b]: &[Tensor; 4]) -> (Tensor, Gradients) {
        let y = lora(x, w, a, b, SCALING as f32, self.dropout, None).unwrap();
        let dy = tensor(&self.dy, self.dtypes[0], y.shape());
        let gradients = backward_from([(&y, dy)]).unwrap();
        (y, gradients)
    }

    fn reference<R: Real>(&self) -> reference::lora::Lora<R> {
        let key = |Dropout { p, seed, step, site, first_element }: Dropout| reference::dropout::Key {
            p: p.into(),
            seed,
            step: step as u32,
            site,
            first_element,
        };
        let ones = vec![1.0; self.x.len()];
        let mask = self.dropout.map_or(ones.clone(), |dropout| reference::dropout::forward(&ones, key(dropout)));
        let [w, a, b, mask] = [&self.w, &self.a, &self.b, &mask].map(|v| cast(v));
        reference::lora::Lora { w, a, b, scaling: R::from_f64(self.scaling), mask }
    }
}

on_devices! {
    #[test]
    fn forward_matches_reference(
        shape in shapes(), dtypes in [float_dtype(), float_dtype()], dropout in dropouts(), seed: u64
    ) {
        let case = Case::new(shape, dtypes, dropout, seed);
        let (y, _) = case.run(&case.leaves());
        check("y", &y, &expected!(R => case.reference::<R>().forward(&cast(&case.x), shape[2])))?;
    }

    #[test]
    fn backward_matches_reference(
        shape in shapes(), dtypes in [float_dtype(), float_dtype()], dropout in dropouts(), seed: u64
    ) {
        let case = Case::new(shape, dtypes, dropout, seed);
        let leaves = case.leaves();
        let (_, gradients) = case.run(&leaves);
        for (i, name) in ["dx", "dw", "da", "db"].into_iter().enumerate() {
            let expected = expected!(R => {
                case.reference::<R>().backward(&cast(&case.dy), &cast(&case.x), shape[2])[i].clone()
            });
            let found = gradients.get(&leaves[i]).unwrap();
            // On a GPU the adapter's side is rounded as x is.
            let rounded = i >= 2 && !matches!(device(), Device::Cpu);
            check_as(name, found, if rounded { dtypes[0] } else { found.dtype() }, &expected)?;
        }
    }

    #[test]
    fn a_residual_is_added(
        shape in shapes(), dtypes in [float_dtype(), float_dtype()], dropout in dropouts(), seed: u64
    ) {
        let case = Case::new(shape, dtypes, dropout, seed);
        let ([x, w, a, b], size) = (case.leaves(), [shape[0], shape[1]]);
        let residual = random(seed ^ 5, shape[0] * shape[1], dtypes[0]);
        let (added, dy) = (tensor(&residual, dtypes[0], size).with_grad(), tensor(&case.dy, dtypes[0], size));
        let y = lora(&x, &w, &a, &b, SCALING as f32, dropout, Some(&added)).unwrap();
        check("y", &y, &expected!(R => {
            let product = case.reference::<R>().forward(&cast(&case.x), shape[2]);
            reference::elementwise::add::<R>(&cast(&residual), &product)
        }))?;
        let gradients = backward_from([(&y, dy.clone())]).unwrap();
        check_bits("dresidual", gradients.get(&added).unwrap(), &dy)?;
        let leaves = [x, w, a, b];
        let (_, without) = case.run(&leaves);
        for leaf in &leaves {
            check_bits("gradient", gradients.get(leaf).unwrap(), without.get(leaf).unwrap())?;
        }
        // Without adapter it is matmul, and nothing else need be trained for its gradient.
        let [x, w, ..] = leaves.each_ref().map(Tensor::detach);
        let base = Projection { weight: Weight::Dense(&w), adapter: None, residual: Some(&added) };
        let operands = Operands::of_groups(&x.device(), x.dtype(), &[vec![None]]).unwrap();
        let y = linears(&x, &[base], &operands[0], None).unwrap().remove(0);
        check("y", &y, &expected!(R => {
            let product = reference::matmul::forward::<R>(&cast(&case.x), &cast(&case.w), shape[2]);
            reference::elementwise::add::<R>(&cast(&residual), &product)
        }))?;
        check_bits("dresidual", backward_from([(&y, dy.clone())]).unwrap().get(&added).unwrap(), &dy)?;
    }

    /// Three layers of one input, of which the second has no adapter and the third another rank and scaling.
    #[test]
    fn layers_that_share_an_input_add_up(
        [rows, n, k, r] in small_shapes(), dtypes in [float_dtype(), float_dtype()], dropout in dropouts(), seed: u64
    ) {
        let shapes = [[rows, n, k, r], [rows, n + 3, k, 1], [rows, n / 2 + 1, k, r + 5]];
        let scalings = [SCALING, 0.0, 0.75];
        let cases = [0, 1, 2].map(|i| Case { scaling: scalings[i], ..Case::new(shapes[i], dtypes, dropout, seed ^ i as u64) });
        let x = tensor(&cases[0].x, dtypes[0], [rows, k]).with_grad();
        let leaves = [0, 1, 2].map(|i| cases[i].leaves());
        let projections = [0, 1, 2].map(|i| {
            let [_, weight, a, b] = &leaves[i];
            let adapter = (i != 1).then_some(Adapter { a, b, scaling: scalings[i] as f32 });
            Projection { weight: Weight::Dense(weight), adapter, residual: None }
        });
        let adapters = vec![projections.map(|projection| projection.adapter).to_vec()];
        let operands = Operands::of_groups(&x.device(), x.dtype(), &adapters).unwrap();
        let ys = linears(&x, &projections, &operands[0], dropout).unwrap();
        let [y0, y1, y2] = &ys[..] else { panic!("three layers have {} outputs", ys.len()) };
        let dy = |i: usize| tensor(&cases[i].dy, dtypes[0], [rows, shapes[i][1]]);
        let gradients = backward_from([(y0, dy(0)), (y1, dy(1)), (y2, dy(2))]).unwrap();
        for (case, y) in cases.iter().zip(&ys) {
            check("y", y, &expected!(R => case.reference::<R>().forward(&cast(&cases[0].x), k)))?;
        }
        let of = |i: usize, name: usize| expected!(R => {
            cases[i].reference::<R>().backward(&cast(&cases[i].dy), &cast(&cases[0].x), k)[name].clone()
        });
        check("dx", gradients.get(&x).unwrap(), &expected!(R => {
            let dxs = [0, 1, 2].map(|i| cases[i].reference::<R>().backward(&cast(&cases[i].dy), &cast(&cases[0].x), k)[0].clone());
            reference::elementwise::add::<R>(&reference::elementwise::add::<R>(&dxs[0], &dxs[1]), &dxs[2])
        }))?;
        for (i, name) in [(0, 1), (0, 2), (0, 3), (1, 1), (2, 1), (2, 2), (2, 3)] {
            let found = gradients.get(&leaves[i][name]).unwrap();
            let rounded = name >= 2 && !matches!(device(), Device::Cpu);
            let what = format!("gradient {name} of layer {i}");
            check_as(&what, found, if rounded { dtypes[0] } else { found.dtype() }, &of(i, name))?;
        }
        // An output that nobody uses has no gradients, and takes none from the others.
        let ys = linears(&x, &projections, &operands[0], dropout).unwrap();
        let gradients = backward_from([(&ys[2], dy(2))]).unwrap();
        prop_assert!(gradients.get(&leaves[0][2]).is_none() && gradients.get(&leaves[1][1]).is_none());
        check("dx", gradients.get(&x).unwrap(), &of(2, 0))?;
        check_as("da", gradients.get(&leaves[2][2]).unwrap(), dtypes[0], &of(2, 2))?;
    }

    #[test]
    fn properties_hold(shape in shapes(), dtype in float_dtype(), key in dropouts(), seed: u64) {
        // With lora_b = 0 the layer is its base, bit for bit, and only lora_b gets a gradient that is not zero.
        let case = Case { b: vec![0.0; shape[1] * shape[3]], ..Case::new(shape, [dtype; 2], key, seed) };
        let leaves = case.leaves();
        let (y, gradients) = case.run(&leaves);
        let base = matmul(&leaves[0], &leaves[1]).unwrap();
        let base_gradients = backward_from([(&base, tensor(&case.dy, dtype, base.shape()))]).unwrap();
        check_bits("y", &y, &base)?;
        check_bits("dw", gradients.get(&leaves[1]).unwrap(), base_gradients.get(&leaves[1]).unwrap())?;
        prop_assert!(values(gradients.get(&leaves[2]).unwrap()).iter().all(|&da| da == 0.0));
        let [dx, base_dx] = [&gradients, &base_gradients].map(|g| values(g.get(&leaves[0]).unwrap()));
        prop_assert_eq!(dx, base_dx);

        // Frozen tensors get no gradient and change no bit of the others'.
        let case = Case::new(shape, [dtype; 2], key, seed);
        let leaves = case.leaves();
        let (_, all) = case.run(&leaves);
        let [x, w, a, b] = leaves;
        let (_, adapter) = case.run(&[x.detach(), w.detach(), a.clone(), b.clone()]);
        let (_, through) = case.run(&[x.clone(), w.detach(), a.detach(), b.detach()]);
        prop_assert!(adapter.get(&x).is_none() && adapter.get(&w).is_none() && through.get(&a).is_none());
        check_bits("da", adapter.get(&a).unwrap(), all.get(&a).unwrap())?;
        check_bits("db", adapter.get(&b).unwrap(), all.get(&b).unwrap())?;
        check_bits("dx", through.get(&x).unwrap(), all.get(&x).unwrap())?;
    }

    #[test]
    fn runs_are_bit_equal(shape in shapes(), dtype in float_dtype(), dropout in dropouts(), seed: u64) {
        let run = || {
            let case = Case::new(shape, [dtype; 2], dropout, seed);
            let leaves = case.leaves();
            let (y, gradients) = case.run(&leaves);
            let gradients = leaves.map(|leaf| gradients.get(&leaf).unwrap().clone());
            let [dx, dw, da, db] = gradients;
            [y, dx, dw, da, db]
        };
        check_runs(run)?;
    }
}

#[test]
fn reference_passes_gradcheck() {
    let key = Dropout { p: 0.3, seed: 5, step: 1, site: 3, first_element: 0 };
    let case = Case::new([3, 4, 5, 2], [DType::F32; 2], Some(key), 7);
    let lora = case.reference::<f64>();
    let (dy, k) = (&case.dy, 5);
    let [dx, dw, da, db] = lora.backward(dy, &case.x, k);
    gradcheck("dx", &case.x, dy, &dx, |x| lora.forward(x, k));
    let with = |w: &[f64], a: &[f64], b: &[f64]| {
        let changed = reference::lora::Lora { w: w.to_vec(), a: a.to_vec(), b: b.to_vec(), ..lora.clone() };
        changed.forward(&case.x, k)
    };
    gradcheck("dw", &case.w, dy, &dw, |w| with(w, &case.a, &case.b));
    gradcheck("da", &case.a, dy, &da, |a| with(&case.w, a, &case.b));
    gradcheck("db", &case.b, dy, &db, |b| with(&case.w, &case.a, b));
}

on_devices! {
    #[test]
    fn drops_what_the_dropout_op_drops() {
        let key = Dropout { p: 0.5, seed: 9, step: 2, site: 1, first_element: 12 };
        let case = Case::new([6, 4, 5, 3], [DType::F32; 2], None, 11);
        let [x, _, a, b] = case.leaves();
        let nothing = tensor(&[0.0; 20], DType::F32, [4, 5]);
        let fused = lora(&x, &nothing, &a, &b, 1.0, Some(key), None).unwrap();
        let apart = lora(&dropout(&x, key).unwrap(), &nothing, &a, &b, 1.0, None, None).unwrap();
        check_bits("y", &fused, &apart).unwrap();
    }

    #[test]
    fn rejects_bad_inputs() {
        let zeros = |shape: [usize; 2], dtype| tensor(&vec![0.0; shape[0] * shape[1]], dtype, shape);
        let [x, w] = [[2, 4], [3, 4]].map(|shape| zeros(shape, DType::F32));
        let refusal = |a: [usize; 2], b: [usize; 2], dtype| {
            lora(&x, &w, &zeros(a, DType::F32), &zeros(b, dtype), 1.0, None, None).unwrap_err()
        };
        let error = refusal([2, 5], [3, 2], DType::F32);
        assert_eq!(error.to_string(), "lora: lora_a must be [2, 4], got [2, 5]");
        let error = refusal([2, 4], [3, 1], DType::F32);
        assert_eq!(error.to_string(), "lora: lora_b must be [3, 2], got [3, 1]");
        let error = refusal([2, 4], [3, 2], DType::Bf16);
        assert!(matches!(error, Error::DType { .. }), "{error}");
        let [a, b] = [zeros([2, 4], DType::F32), zeros([3, 2], DType::F32)];
        let error = lora(&x, &w, &a, &b, 1.0, None, Some(&x)).unwrap_err();
        assert_eq!(error.to_string(), "lora: residual must be [2, 3], got [2, 4]");
        let projection = Projection {
            weight: Weight::Dense(&w),
            adapter: Some(Adapter { a: &a, b: &b, scaling: 1.0 }),
            residual: None,
        };
        let others = Operands::of_groups(&x.device(), DType::F32, &[vec![None]]).unwrap();
        match (linears(&x, &[projection], &others[0], None), x.device()) {
            (Err(error), Device::Cuda(_)) => assert_eq!(error.to_string(), "lora: the operands are those of other adapters"),
            (found, device) => assert!(found.is_ok() && device.is_same(&Device::Cpu), "{found:?}"),
        }
        let key = Dropout { p: 1.0, seed: 0, step: 0, site: 0, first_element: 0 };
        let error = lora(&x, &w, &zeros([2, 4], DType::F32), &zeros([3, 2], DType::F32), 1.0, Some(key), None).unwrap_err();
        assert!(matches!(error, Error::Input { .. }), "{error}");
    }
}
