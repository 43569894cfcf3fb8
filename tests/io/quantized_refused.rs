//! Weights of 4 and 8 bits that are not whole, each refused by file and tensor.

use serde_json::json;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Result;
use vicugna::io::folder::{Output, merge};
use vicugna::io::model::ModelFiles;
use vicugna::io::quantized::{Choice, Scheme};
use vicugna::io::safetensors::MODEL;

use crate::files::{copy_of, set};
use crate::raw::Raw;

const Q: &str = "model.layers.0.self_attn.q_proj";

fn load(folder: &std::path::Path, scheme: Option<Scheme>) -> Result<()> {
    let files = ModelFiles::open(folder)?.quantized(&Choice { scheme, ..Choice::default() })?;
    files.load(DType::F32, &Device::Cpu).map(drop)
}

/// Fails unless loading the folder `case` says `message` when `spoil` has changed its tensors, and says it also where the
/// weights are to be floats. `Q` stands for the first layer of it.
#[track_caller]
fn refused(case: &str, message: &str, spoil: impl FnOnce(&mut Raw)) {
    let copy = copy_of(case);
    let path = copy.path().join(MODEL);
    let mut raw = Raw::read(&path);
    spoil(&mut raw);
    raw.write(&path);
    for scheme in [None, Some(Scheme::None)] {
        let error = load(copy.path(), scheme).unwrap_err().to_string();
        assert_eq!(error, format!("{}: {}", path.display(), message.replace("Q.", &format!("{Q}."))));
    }
}

#[test]
fn int8_weights_that_are_not_whole_are_refused() {
    let case = "quantized/int8";
    let [codes, scales, layout] = ["weight", "SCB", "weight_format"].map(|leaf| format!("{Q}.{leaf}"));
    for (number, name) in [(1, " (col32)"), (2, " (col_turing)"), (3, " (col_ampere)"), (7, "")] {
        let message = format!(
            "tensor Q.weight_format is {number}{name}, and only 0, row by row, is read: \
             save it again with bitsandbytes >= 0.45"
        );
        refused(case, &message, |raw| raw.set_u8(&layout, &[number]));
    }
    for wrong in [31, 33] {
        let message = format!("tensor Q.SCB must be [32], got [{wrong}]");
        refused(case, &message, |raw| raw.set_f32(&scales, &vec![1.0; wrong]));
    }
    let missing = "tensor Q.weight is codes without their scales, Q.SCB";
    refused(case, missing, |raw| raw.remove(&scales));
    refused(case, missing, |raw| {
        raw.remove(&scales);
        raw.remove(&layout);
    });
    for (bad, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (-1.0, "-1")] {
        let message = format!("tensor Q.SCB has {name} at 5: a scale must be finite and not negative");
        refused(case, &message, |raw| {
            let mut values = raw.f32(&scales);
            values[5] = bad;
            raw.set_f32(&scales, &values);
        });
    }
    refused(case, "tensor Q.weight must be [32, 32], got [31, 32]", |raw| {
        let tensor = raw.0.get_mut(&codes).unwrap();
        tensor.2.truncate(31 * 32);
        tensor.1[0] = 31;
    });
    let message = "tensor Q.weight is stored as F32, which cannot be loaded as i8";
    refused(case, message, |raw| {
        raw.set_f32(&codes, &vec![0.0; 1024]);
        raw.0.get_mut(&codes).unwrap().1 = vec![32, 32];
    });
}

#[test]
fn weights_of_4_bits_that_are_not_whole_are_refused() {
    let case = "quantized/nf4";
    let codes = format!("{Q}.weight");
    let [absmax, map, state] =
        ["absmax", "quant_map", "quant_state.bitsandbytes__nf4"].map(|leaf| format!("{codes}.{leaf}"));
    let message = "tensor Q.weight is codes without their state";
    refused(case, &format!("{message}, Q.weight.quant_state.bitsandbytes__nf4"), |raw| raw.remove(&state));
    refused(case, message, |raw| [&absmax, &map, &state].iter().for_each(|name| raw.remove(name)));
    let json = "tensor Q.weight.quant_state.bitsandbytes__nf4 is no state of bitsandbytes: ";
    refused(case, &format!("{json}expected ident at line 1 column 2"), |raw| raw.set_u8(&state, b"nf4"));
    refused(case, &format!("{json}missing field `shape` at line 1 column 36"), |raw| {
        raw.set_u8(&state, br#"{"quant_type":"nf4","blocksize": 64}"#);
    });
    for wrong in [0, 16, 48, 8192] {
        let message = format!("tensor Q.weight: nf4: blocksize must be a power of two from 32 to 4096, got {wrong}");
        refused(case, &message, |raw| raw.set_json(&state, |json| json["blocksize"] = wrong.into()));
    }
    let message = "tensor Q.weight: nf4: absmax must be [8], got [16]";
    refused(case, message, |raw| raw.set_json(&state, |json| json["blocksize"] = 128.into()));
    let says = "tensor Q.weight.quant_state.bitsandbytes__nf4 says";
    for kind in ["int4", "fp4"] {
        let message = format!("{says} quant_type {kind:?}, its name nf4");
        refused(case, &message, |raw| raw.set_json(&state, |json| json["quant_type"] = kind.into()));
    }
    let message = format!("{says} shape [32, 31], the config [32, 32]");
    refused(case, &message, |raw| raw.set_json(&state, |json| json["shape"] = json!([32, 31])));
    for wrong in [511, 513] {
        let message = format!("tensor Q.weight: nf4: codes must be [512], got [{wrong}]");
        refused(case, &message, |raw| raw.set_u8(&codes, &vec![0; wrong]));
    }
    refused(case, "tensor Q.weight.quant_map holds other values than nf4's", |raw| {
        let mut values = raw.f32(&map);
        values[3] += 1e-3;
        raw.set_f32(&map, &values);
    });
    refused(case, "tensor Q.weight.quant_map holds other values than nf4's", |raw| {
        let values = raw.f32(&map);
        raw.set_f32(&map, &values[..15]);
    });
    refused(case, "has no tensor Q.weight.quant_map", |raw| raw.remove(&map));
    refused(case, "has no tensor Q.weight.absmax", |raw| raw.remove(&absmax));
    for (bad, name) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf"), (-0.5, "-0.5")] {
        let message = format!("tensor Q.weight.absmax has {name} at 2: a scale must be finite and not negative");
        refused(case, &message, |raw| {
            let mut values = raw.f32(&absmax);
            values[2] = bad;
            raw.set_f32(&absmax, &values);
        });
    }
}

#[test]
fn nested_scales_that_do_not_fit_are_refused() {
    let case = "quantized/nf4_double";
    let codes = format!("{Q}.weight");
    let part = |leaf: &str| format!("{codes}.{leaf}");
    let state = part("quant_state.bitsandbytes__nf4");
    let misfit = |detail: &str| format!("tensor Q.weight: nf4: {detail}");
    refused(case, &misfit("absmax must be [16], got [15]"), |raw| raw.set_u8(&part("absmax"), &[0; 15]));
    refused(case, &misfit("nested absmax must be [1], got [2]"), |raw| raw.set_f32(&part("nested_absmax"), &[1.0; 2]));
    refused(case, &misfit("nested map must be [256], got [255]"), |raw| {
        raw.set_f32(&part("nested_quant_map"), &[0.5; 255]);
    });
    refused(case, &misfit("the block size of nested scales must be 256, got 128"), |raw| {
        raw.set_json(&state, |json| json["nested_blocksize"] = 128.into());
    });
    let message = "tensor Q.weight.absmax is stored as F32, which cannot be loaded as u8";
    refused(case, message, |raw| raw.set_f32(&part("absmax"), &[1.0; 16]));
    for leaf in ["absmax", "nested_absmax", "nested_quant_map"] {
        refused(case, &format!("has no tensor Q.weight.{leaf}"), |raw| raw.remove(&part(leaf)));
    }
    let message = "tensor Q.weight has a state with nested scales and no nested_offset";
    refused(case, message, |raw| {
        raw.set_json(&state, |json| drop(json.as_object_mut().unwrap().remove("nested_offset")));
    });
    let message = "tensor Q.weight.nested_quant_map holds a NaN or an infinity, at 7";
    refused(case, message, |raw| {
        let mut values = raw.f32(&part("nested_quant_map"));
        values[7] = f32::NAN;
        raw.set_f32(&part("nested_quant_map"), &values);
    });
    let message = "tensor Q.weight.nested_absmax has -1 at 0: a scale must be finite and not negative";
    refused(case, message, |raw| raw.set_f32(&part("nested_absmax"), &[-1.0]));
    let message = "tensor Q.weight.nested_absmax is there, but the state knows no nested scales";
    refused("quantized/nf4", message, |raw| raw.set_f32(&part("nested_absmax"), &[1.0]));
}

#[test]
fn what_is_not_of_the_schemes_of_the_config_is_refused() {
    let hint = "the quantization_config in config.json, and --quantize, must say what it is";
    for (case, kind, says) in [("quantized/nf4", "fp4", "nf4, not fp4"), ("quantized/int8", "nf4", "int8, not nf4")] {
        let copy = copy_of(case);
        let config = json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": kind});
        set(&copy.path().join("config.json"), "quantization_config", config);
        let error = load(copy.path(), None).unwrap_err();
        assert!(error.to_string().ends_with(&format!("_proj.weight is in {says}")), "{error}");
        assert_eq!(error.hint(), Some(hint));
        load(copy.path(), Some(Scheme::None)).unwrap();
        // Without the key the weights are floats, or what they are.
        set(&copy.path().join("config.json"), "quantization_config", json!(null));
        load(copy.path(), None).unwrap();
        assert!(load(copy.path(), Some(Scheme::Fp4)).is_err());
    }
}

#[test]
fn a_weight_that_is_not_finite_is_not_quantized() {
    for bad in [f32::NAN, f32::INFINITY] {
        let copy = copy_of("gqa");
        let path = copy.path().join(MODEL);
        let (mut raw, name) = (Raw::read(&path), format!("{Q}.weight"));
        let bytes = &mut raw.0.get_mut(&name).unwrap().2;
        bytes[4 * 37..][..4].copy_from_slice(&bad.to_le_bytes());
        raw.write(&path);
        load(copy.path(), None).unwrap();
        for scheme in [Scheme::Int8, Scheme::Nf4, Scheme::Fp4] {
            let error = load(copy.path(), Some(scheme)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{}: tensor {name}: ", path.display())), "{error}");
            let files = ModelFiles::open(copy.path()).unwrap();
            let files = files.quantized(&Choice { scheme: Some(scheme), ..Choice::default() }).unwrap();
            let output = Output { dtype: DType::F32, quantization: Some(files.quantization()) };
            let out = copy.path().join("out.safetensors");
            let merged = merge(&files.weights(), None, files.base(), output, &out).unwrap_err();
            assert_eq!(merged.to_string(), error);
            assert!(!out.exists());
        }
    }
}
