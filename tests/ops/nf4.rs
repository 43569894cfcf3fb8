use std::collections::BTreeMap;
use std::path::Path;

use half::bf16;
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Error;
use vicugna::ops::nf4::{Absmax, FourBit, Kind, NESTED_BLOCKSIZE, Nested, dynamic_map, quantize};
use vicugna::reference;

use crate::harness::*;

const KINDS: [Kind; 2] = [Kind::Nf4, Kind::Fp4];

/// N, K: one element, odd numbers of them, blocks across rows, a short last block, several tasks.
fn shapes() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![
        (1..30usize, 1..80usize),
        Just((1, 1)),
        Just((1, 33)),
        Just((64, 64)),
        Just((131, 577)),
        Just((1, 4097))
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Nf4), Just(Kind::Fp4)]
}

fn blocksize() -> impl Strategy<Value = usize> {
    (5..13u32).prop_map(|power| 1 << power)
}

fn table(kind: Kind) -> Vec<f64> {
    match kind {
        Kind::Nf4 => reference::nf4::NF4.map(f64::from).into(),
        Kind::Fp4 => reference::nf4::FP4_TWELFTHS.map(|x| f64::from((x / 12.0) as f32)).into(),
    }
}

fn plain(absmax: &Absmax) -> &Tensor {
    match absmax {
        Absmax::Plain(absmax) => absmax,
        Absmax::Nested(_) => panic!("the scales are nested"),
    }
}

fn nested(absmax: &Absmax) -> &Nested {
    match absmax {
        Absmax::Nested(nested) => nested,
        Absmax::Plain(_) => panic!("the scales are plain"),
    }
}

proptest! {
    #[test]
    fn forward_matches_reference(
        (n, k) in shapes(), kind in kind(), blocksize in blocksize(), dtype in float_dtype(), seed: u64,
    ) {
        let w = random(seed, n * k, dtype);
        let quantized = quantize(&tensor(&w, dtype, [n, k]), kind, blocksize, false).unwrap();
        let absmax = reference::nf4::absmax(&w, blocksize);
        prop_assert_eq!(values(plain(quantized.absmax())), absmax.clone());

        // Dequantized: the same product, rounded once.
        let codes = quantized.codes().to_vec::<u8>().unwrap();
        let exact = reference::nf4::dequantize::<f32>(&codes, &cast(&absmax), &cast(&table(kind)), blocksize, n * k);
        let exact: Vec<f64> = exact.into_iter().map(f64::from).collect();
        for dtype in [DType::F32, DType::Bf16] {
            let found = quantized.dequantize(dtype).unwrap();
            prop_assert_eq!(found.dims(), [n, k]);
            check_bits("dequantized", &found, &tensor(&exact, dtype, [n, k]))?;
        }

        // No code is further off than the nearest, but by rounding of x / absmax.
        let nearest = reference::nf4::round_trip(&w, &table(kind), blocksize);
        for (i, ((w, found), nearest)) in w.iter().zip(&exact).zip(&nearest).enumerate() {
            let slack = 4.0 * f64::from(f32::EPSILON) * absmax[i / blocksize];
            prop_assert!((w - found).abs() <= (w - nearest).abs() + slack, "{i}: {w} became {found}, not {nearest}");
        }
    }

    #[test]
    fn nested_scales_are_close((n, k) in shapes(), kind in kind(), dtype in float_dtype(), seed: u64) {
        let w = tensor(&random(seed, n * k, dtype), dtype, [n, k]);
        let [one, two] = [false, true].map(|double| quantize(&w, kind, 32, double).unwrap());
        check_bits("codes", one.codes(), two.codes())?;
        let (absmax, found) = (one.scales().unwrap(), two.scales().unwrap());
        let parts = nested(two.absmax());
        let [map, largest] = [&parts.map, &parts.absmax].map(|part| part.to_vec::<f32>().unwrap());
        let codes = parts.codes.to_vec::<u8>().unwrap();
        prop_assert_eq!(&found[..], &reference::nf4::nested_scales::<f32>(&codes, &map, &largest, parts.offset)[..]);
        // The middle between two values of the map is at most 0.45 / 64 away, and values are found in 65536 steps.
        for (i, (found, absmax)) in found.iter().zip(&absmax[..]).enumerate() {
            let bound = 0.00706 * largest[i / NESTED_BLOCKSIZE] + f32::EPSILON * absmax;
            prop_assert!((found - absmax).abs() <= bound, "block {i}: {absmax} became {found}");
        }
    }

    #[test]
    fn runs_can_be_read_from_anywhere(
        (n, k) in shapes(), kind in kind(), blocksize in blocksize(), double: bool, first in 0..5000usize, len in 0..300usize,
        seed: u64,
    ) {
        let w = tensor(&random(seed, n * k, DType::F32), DType::F32, [n, k]);
        let quantized = quantize(&w, kind, blocksize, double).unwrap();
        let (all, scales) = (values(&quantized.dequantize(DType::F32).unwrap()), quantized.scales().unwrap());
        let view = quantized.view(&scales).unwrap();
        let mut run = vec![f32::NAN; len];
        view.fill(first, &mut run);
        for (i, found) in (first..).zip(run) {
            let expected = all.get(i).copied().unwrap_or(0.0);
            prop_assert_eq!((f64::from(found), f64::from(view.at(i))), (expected, expected), "element {}", i);
        }
    }

    #[test]
    fn properties_hold((n, k) in shapes(), kind in kind(), blocksize in blocksize(), seed: u64) {
        let w = random(seed, n * k, DType::F32);
        let round = |w: &Tensor| quantize(w, kind, blocksize, false).unwrap().dequantize(DType::F32).unwrap();
        let once = round(&tensor(&w, DType::F32, [n, k]));
        prop_assert_eq!(values(&round(&once)), values(&once), "a second time nothing changes");
        let doubled = |w: &[f64]| tensor(&w.iter().map(|w| 2.0 * w).collect::<Vec<_>>(), DType::F32, [n, k]);
        check_bits("powers of two pass through", &round(&doubled(&w)), &doubled(&values(&once)))?;
        // Shape is only what the elements are called.
        let flat = round(&tensor(&w, DType::F32, [1, n * k])).reshape([n, k]).unwrap();
        check_bits("rows do not matter", &flat, &once)?;
    }

    #[test]
    fn runs_are_bit_equal((n, k) in shapes(), kind in kind(), blocksize in blocksize(), dtype in float_dtype(), seed: u64) {
        check_runs(|| {
            let w = tensor(&random(seed, n * k, dtype), dtype, [n, k]);
            let quantized = quantize(&w, kind, blocksize, true).unwrap();
            let Nested { codes, absmax, .. } = nested(quantized.absmax()).clone();
            [quantized.codes().clone(), codes, absmax, quantized.dequantize(dtype).unwrap()]
        })?;
    }
}

fn bytes(values: &[u8]) -> Tensor {
    Tensor::from_slice(&device(), [values.len()], values).unwrap()
}

fn floats(values: &[f32]) -> Tensor {
    Tensor::from_slice(&device(), [values.len()], values).unwrap()
}

#[test]
fn names_are_those_of_bitsandbytes() {
    assert_eq!(KINDS.map(|kind| kind.to_string()), ["nf4", "fp4"]);
    assert_eq!(["nf4", "fp4", "int4"].map(Kind::from_name), [Some(Kind::Nf4), Some(Kind::Fp4), None]);
}

#[test]
fn its_bytes_are_counted() {
    let w = tensor(&random(0, 64 * 512, DType::F32), DType::F32, [64, 512]);
    let held = |double| quantize(&w, Kind::Nf4, 64, double).unwrap().bytes();
    assert_eq!((held(false), held(true)), (64 * 256 + 4 * 512, 64 * 256 + 512 + 4 * 256 + 4 * 2 + 4));
}

#[test]
fn rejects_bad_inputs() {
    let w = tensor(&[0.5; 8], DType::F32, [2, 4]);
    let refused = |w: &Tensor, blocksize| quantize(w, Kind::Nf4, blocksize, false).unwrap_err().to_string();
    for blocksize in [0, 16, 63, 96, 8192] {
        let expected = format!("nf4: blocksize must be a power of two from 32 to 4096, got {blocksize}");
        assert_eq!(refused(&w, blocksize), expected);
    }
    assert_eq!(refused(&tensor(&[0.5; 8], DType::F32, [8]), 64), "nf4: weight must be [N, K], got [8]");
    assert_eq!(refused(&tensor(&[], DType::F32, [0, 4]), 64), "nf4: weight must have elements, got [0, 4]");
    let ids = Tensor::from_slice(&device(), [1, 2], &[1u32, 2]).unwrap();
    assert!(matches!(quantize(&ids, Kind::Nf4, 64, false), Err(Error::DType { .. })));
    for (value, at) in [(f64::NAN, 70), (f64::INFINITY, 99), (f64::NEG_INFINITY, 64)] {
        let mut bad = vec![0.5; 100];
        bad[at] = value;
        let expected = "nf4: the weight of [10, 10] is not finite within its elements 64 to 99";
        assert_eq!(refused(&tensor(&bad, DType::F32, [10, 10]), 64), expected);
    }
    let huge = tensor(&[3e38; 128], DType::F32, [2, 64]);
    assert!(quantize(&huge, Kind::Nf4, 64, false).is_ok());
    assert!(matches!(quantize(&huge, Kind::Nf4, 64, true), Err(Error::Input { .. })));
    let [on_gpu, quantized] = [w.to_device(&Device::emulated()), Ok(w)].map(Result::unwrap);
    assert!(matches!(quantize(&on_gpu, Kind::Nf4, 64, true), Err(Error::Device { .. })));
    let quantized = quantize(&quantized, Kind::Nf4, 64, true).unwrap();
    assert!(matches!(quantized.dequantize(DType::U8), Err(Error::DType { .. })));
}

#[test]
fn rejects_parts_that_do_not_fit() {
    let make = |shape, codes: usize, absmax| FourBit::from_parts(shape, Kind::Fp4, 64, bytes(&vec![0; codes]), absmax);
    let refused = |shape, codes, absmax| make(shape, codes, absmax).unwrap_err().to_string();
    let plain = |blocks| Absmax::Plain(floats(&vec![1.0; blocks]));
    assert_eq!(make([3, 43], 65, plain(3)).unwrap().dequantize(DType::F32).unwrap().dims(), [3, 43]);
    assert_eq!(refused([3, 43], 64, plain(3)), "nf4: codes must be [65], got [64]");
    assert_eq!(refused([3, 43], 65, plain(2)), "nf4: absmax must be [3], got [2]");
    assert!(matches!(make([usize::MAX, 2], 1, plain(1)), Err(Error::Shape { .. })));
    assert!(matches!(make([3, 43], 65, Absmax::Plain(bytes(&[0; 3]))), Err(Error::DType { .. })));
    let nested = |codes: usize, map: usize, absmax: usize, blocksize| {
        let [map, absmax] = [map, absmax].map(|n| floats(&vec![1.0; n]));
        Absmax::Nested(Nested { codes: bytes(&vec![0; codes]), map, absmax, offset: 0.5, blocksize })
    };
    assert_eq!(&make([3, 43], 65, nested(3, 256, 1, 256)).unwrap().scales().unwrap()[..], [1.5; 3]);
    assert_eq!(refused([3, 43], 65, nested(2, 256, 1, 256)), "nf4: absmax must be [3], got [2]");
    assert_eq!(refused([3, 43], 65, nested(3, 16, 1, 256)), "nf4: nested map must be [256], got [16]");
    assert_eq!(refused([3, 43], 65, nested(3, 256, 2, 256)), "nf4: nested absmax must be [1], got [2]");
    let expected = "nf4: the block size of nested scales must be 256, got 64";
    assert_eq!(refused([3, 43], 65, nested(3, 256, 1, 64)), expected);
    let empty = make([0, 43], 0, plain(0)).unwrap();
    assert_eq!(empty.dequantize(DType::Bf16).unwrap().dims(), [0, 43]);
    assert_eq!(empty.view(&[1.0]).unwrap_err().to_string(), "nf4: a view needs 0 scales, got 1");
}

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
    formula: Vec<Formula>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    kind: String,
    blocksize: usize,
    double: bool,
    shape: [usize; 2],
}

/// Check sums of the parts of a weight that [`hashed`] makes.
#[derive(Deserialize)]
struct Formula {
    kind: String,
    shape: [usize; 2],
    blocksize: usize,
    codes: u32,
    absmax: u32,
    nested_absmax: u32,
    offset: f64,
}

fn fixture() -> Fixture {
    serde_json::from_slice(&read("four_bit.json")).unwrap()
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantized").join(name)).unwrap()
}

/// All tensors of the fixture, flattened.
fn tensors() -> BTreeMap<String, Tensor> {
    let file = read("four_bit.safetensors");
    let file = SafeTensors::deserialize(&file).unwrap();
    let halves = |data: &[u8]| data.chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]])).collect::<Vec<_>>();
    let floats_of = |data: &[u8]| data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>();
    let tensor = |view: safetensors::tensor::TensorView<'_>| match view.dtype() {
        Dtype::U8 => bytes(view.data()),
        Dtype::F32 => floats(&floats_of(view.data())),
        Dtype::BF16 => Tensor::from_slice(&device(), [view.data().len() / 2], &halves(view.data())).unwrap(),
        other => panic!("{other:?}"),
    };
    file.iter().map(|(name, view)| (name.to_string(), tensor(view))).collect()
}

#[test]
fn tables_are_those_of_bitsandbytes() {
    let tensors = tensors();
    for kind in KINDS {
        check_bits("table", &floats(kind.table()), &tensors[&format!("table.{kind}")]).unwrap();
    }
    check_bits("map", &floats(&dynamic_map()), &tensors["map"]).unwrap();
}

#[test]
fn bits_are_those_of_bitsandbytes() {
    let tensors = tensors();
    for case in fixture().cases {
        let Case { name, kind, blocksize, double, shape } = case;
        let prefix = format!("{name}.{kind}.{blocksize}.{}", if double { "double" } else { "plain" });
        let same = |part: &str, found: &Tensor| {
            let flat = found.reshape([found.shape().numel()]).unwrap();
            check_bits(&format!("{prefix}.{part}"), &flat, &tensors[&format!("{prefix}.{part}")]).unwrap();
        };
        let weight = tensors[&format!("{name}.weight")].reshape(shape).unwrap();
        let found = quantize(&weight, Kind::from_name(&kind).unwrap(), blocksize, double).unwrap();
        same("codes", found.codes());
        match found.absmax() {
            Absmax::Plain(absmax) => same("absmax", absmax),
            Absmax::Nested(nested) => {
                same("absmax", &nested.codes);
                same("nested_absmax", &nested.absmax);
                same("offset", &floats(&[nested.offset]));
            }
        }
        // As numbers: fp4's second zero is -0 in one of bitsandbytes' two ways (even K), +0 in the other and in its table.
        let equal = |part: &str, dtype| {
            let found = values(&found.dequantize(dtype).unwrap());
            assert_eq!(found, values(&tensors[&format!("{prefix}.{part}")]), "{prefix}.{part}");
        };
        equal("dequantized", DType::F32);
        if weight.dtype() == DType::Bf16 {
            equal("dequantized_bf16", DType::Bf16);
        }
    }
}

/// The formula of the fixtures' README, of the tensor 0.
fn hashed(count: usize, scale: f64) -> impl Iterator<Item = f32> {
    (0..count as u32).map(move |i| {
        let mut x = i ^ (i >> 16);
        x = x.wrapping_mul(0x85eb_ca6b);
        x ^= x >> 13;
        x = x.wrapping_mul(0xc2b2_ae35);
        x ^= x >> 16;
        ((f64::from(x) / f64::from(2.0f32.powi(32)) - 0.5) * scale) as f32
    })
}

#[test]
fn large_weights_have_the_bits_of_bitsandbytes() {
    for Formula { kind, shape: [n, k], blocksize, codes, absmax, nested_absmax, offset } in fixture().formula {
        let mut weight: Vec<f32> = hashed(n * k, 0.5).collect();
        for (row, factor) in weight.chunks_mut(k).zip(hashed(n, 1.0)) {
            row.iter_mut().for_each(|w| *w *= 1.0 + factor);
        }
        let weight = Tensor::from_slice(&device(), [n, k], &weight).unwrap();
        let found = quantize(&weight, Kind::from_name(&kind).unwrap(), blocksize, true).unwrap();
        let crc = |tensor: &Tensor| crc32fast::hash(tensor.buffer().unwrap().host().unwrap());
        let parts = nested(found.absmax());
        let found = (crc(found.codes()), f64::from(parts.offset), crc(&parts.absmax), crc(&parts.codes));
        assert_eq!(found, (codes, offset, nested_absmax, absmax), "{kind} of [{n}, {k}]");
    }
}
