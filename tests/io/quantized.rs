//! Weights of 4 and 8 bits: bitsandbytes' folders, and folders that are written as bitsandbytes writes them.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::io::WeightSource;
use vicugna::io::config::{read_config, read_quantization, write_config};
use vicugna::io::folder::{Change, Output, merge};
use vicugna::io::model::ModelFiles;
use vicugna::io::quantized::{Choice, Quantization, Scheme};
use vicugna::io::safetensors::{Checkpoint, INDEX, MODEL};
use vicugna::models::llama::{Llama, LlamaConfig};
use vicugna::nn::{Batch, Plain, Sequence};
use vicugna::ops::int8_matmul::Method;
use vicugna::ops::weight::Quantized;

use crate::files::{assert_refused, copy_of, fixture, load, set};
use crate::raw::Raw;

/// Bitsandbytes' folders, the fixture that each was made from, and its scheme.
const FOLDERS: [(&str, &str, Scheme, bool); 4] = [
    ("quantized/int8", "gqa", Scheme::Int8, false),
    ("quantized/nf4", "gqa", Scheme::Nf4, false),
    ("quantized/nf4_double", "mha", Scheme::Nf4, true),
    ("quantized/fp4_bf16_storage", "gqa", Scheme::Fp4, false),
];

/// The schemes in which folders are written.
const SCHEMES: [(Scheme, bool); 5] =
    [(Scheme::Int8, false), (Scheme::Nf4, false), (Scheme::Nf4, true), (Scheme::Fp4, false), (Scheme::Fp4, true)];

const UP: &str = "model.layers.1.mlp.up_proj.weight";

fn open(path: &Path) -> ModelFiles {
    ModelFiles::open(path).unwrap()
}

fn held(path: &Path, scheme: Scheme, double: bool) -> ModelFiles {
    open(path).quantized(&Choice { scheme: Some(scheme), double, ..Choice::default() }).unwrap()
}

fn load_model(files: &ModelFiles) -> Llama {
    files.load(DType::F32, &Device::Cpu).unwrap()
}

/// The bytes of all quantized weights by their names.
fn codes(model: &Llama) -> BTreeMap<String, Vec<Vec<u8>>> {
    let bytes = |weight: &Quantized| {
        weight.parts().iter().map(|part| part.buffer().unwrap().host().unwrap().to_vec()).collect()
    };
    let linears = model.linears().into_iter();
    linears.filter_map(|(name, linear)| Some((name, bytes(linear.weight.quantized()?)))).collect()
}

fn block_linears(config: &LlamaConfig) -> Vec<String> {
    let names = config.parameters().into_iter().map(|(name, _)| name);
    names.filter(|name| LlamaConfig::is_block_linear(name)).collect()
}

fn floats(source: &dyn WeightSource, name: &str) -> Vec<f32> {
    load(source, name).to_vec().unwrap()
}

/// Writes `files` to a folder, linear layers as `quantization` says.
fn written(files: &ModelFiles, dtype: DType, quantization: Option<&Quantization>) -> (TempDir, Vec<Change>) {
    let out = TempDir::new().unwrap();
    let path = out.path().join(MODEL);
    let output = Output { dtype, quantization };
    let (config, changes) = merge(&files.weights(), files.adapter(), files.base(), output, &path).unwrap();
    write_config(out.path(), &config, dtype, quantization).unwrap();
    (out, changes)
}

#[test]
fn weights_are_those_that_bitsandbytes_makes_floats_of() {
    for (folder, base, scheme, double) in FOLDERS {
        let (files, expected) = (open(&fixture(folder)), fixture(folder).join("expected.safetensors"));
        assert_eq!((files.quantization().scheme, files.quantization().double), (scheme, double), "{folder}");
        let (weights, expected) = (files.weights(), Checkpoint::open(&expected).unwrap());
        assert_eq!(weights.names(), Checkpoint::open(&fixture(base)).unwrap().names(), "{folder}");
        let mut seen = 0;
        for stored in expected.names().iter().filter(|name| name.starts_with("weight.")) {
            let name = stored.strip_prefix("weight.").unwrap();
            assert_eq!(weights.shape(name).unwrap(), expected.shape(stored).unwrap(), "{name}");
            // 127 is divided by once a row here, once an element there.
            let bound = if scheme == Scheme::Int8 { 3e-7 } else { 0.0 };
            for (found, expected) in floats(&weights, name).iter().zip(floats(&expected, stored)) {
                assert!((found - expected).abs() <= bound * expected.abs(), "{folder} {name}: {found}, not {expected}");
            }
            seen += 1;
        }
        assert!(seen >= 14, "{folder}: {seen}");
    }
}

/// Fails unless the model in `folder`, held in `scheme`, gives PyTorch's logits within `bound` of the largest.
fn assert_logits(folder: &str, scheme: Scheme, bound: f32) -> f64 {
    let tensors = Checkpoint::open(&fixture(folder).join("expected.safetensors")).unwrap();
    let (model, expected) = (load_model(&held(&fixture(folder), scheme, false)), expected(folder));
    for (i, sequence) in expected.sequences.iter().enumerate() {
        let batch = Batch::new([sequence], &Device::Cpu).unwrap();
        let found = model.logits(&model.hidden(&batch, None, &Plain).unwrap()).unwrap().to_vec::<f32>().unwrap();
        let wanted = floats(&tensors, &format!("logits.{i}"));
        let largest = wanted.iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
        let is_near = found.iter().zip(&wanted).all(|(found, wanted)| (found - wanted).abs() <= bound * largest);
        assert!(is_near && found.len() == wanted.len(), "{folder} in {scheme}: logits of sequence {i}");
    }
    let batch = Batch::new(&expected.sequences, &Device::Cpu).unwrap();
    let loss = model.loss(&batch, batch.supervised as f32, None, &Plain).unwrap().to_vec::<f32>().unwrap()[0];
    (f64::from(loss) - expected.loss).abs()
}

#[derive(serde::Deserialize)]
struct Expected {
    sequences: Vec<Sequence>,
    loss: f64,
}

fn expected(folder: &str) -> Expected {
    serde_json::from_slice(&std::fs::read(fixture(folder).join("expected.json")).unwrap()).unwrap()
}

#[test]
fn dequantized_models_compute_what_pytorch_does() {
    for (folder, ..) in FOLDERS {
        let off = assert_logits(folder, Scheme::None, 2e-5);
        assert!(off < 1e-6, "{folder}: the loss is off by {off:e}");
    }
}

/// The embedding of two of the folders is bf16, so that nothing is rounded; that of another is f32. 8 bits round
/// activations too.
#[test]
fn quantized_models_compute_what_their_weights_say() {
    for (folder, scheme, bound, most) in [
        ("quantized/nf4", Scheme::Nf4, 2e-5, 1e-6),
        ("quantized/fp4_bf16_storage", Scheme::Fp4, 2e-5, 1e-6),
        ("quantized/nf4_double", Scheme::Nf4, 2e-2, 5e-3),
        ("quantized/int8", Scheme::Int8, 5e-2, 1e-2),
    ] {
        let off = assert_logits(folder, scheme, bound);
        assert!(off < most, "{folder}: the loss is off by {off:e}");
    }
}

#[test]
fn loaded_layers_hold_the_bytes_of_the_file() {
    for (folder, _, scheme, _) in FOLDERS {
        let files = open(&fixture(folder));
        let (model, raw) = (load_model(&files), Raw::read(&fixture(folder).join(MODEL)));
        let held = codes(&model);
        assert_eq!(held.len(), block_linears(files.config()).len());
        for (name, parts) in held {
            assert!(parts[0] == raw.0[&format!("{name}.weight")].2, "{folder} {name}");
            let scales = if scheme == Scheme::Int8 { "SCB" } else { "weight.absmax" };
            assert!(parts[1] == raw.0[&format!("{name}.{scales}")].2, "{folder} {name}");
        }
        model.visit_weights(&mut |name, parameter| {
            let is_table = name == "model.embed_tokens.weight" || name == "lm_head.weight";
            let dtype = if is_table { DType::Bf16 } else { DType::F32 };
            assert_eq!(parameter.get().dtype(), dtype, "{folder} {name}");
        });
    }
}

#[test]
fn a_written_folder_holds_what_quantizing_while_loading_gives() {
    for source in ["gqa", "mha", "gguf_llama_spm/tiny.gguf"] {
        for (scheme, double) in SCHEMES {
            let files = held(&fixture(source), scheme, double);
            let (out, changes) = written(&files, DType::F32, Some(files.quantization()));
            let linears = block_linears(files.config());
            assert_eq!(changes.iter().map(|change| change.name.clone()).collect::<Vec<_>>(), {
                let mut sorted = linears.clone();
                sorted.sort();
                sorted
            });
            let again = open(out.path());
            assert_eq!(again.quantization(), files.quantization());
            assert_eq!(again.config().parameters(), files.config().parameters());
            let (loaded, again) = (codes(&load_model(&files)), codes(&load_model(&again)));
            assert_eq!(loaded.len(), linears.len());
            assert!(loaded == again, "{source} {scheme}");
            let raw = Raw::read(&out.path().join(MODEL));
            for name in files.config().parameters().iter().map(|(name, _)| name).filter(|name| !linears.contains(name))
            {
                assert_eq!(raw.0[name].0, Dtype::F32, "{name}");
                assert!(floats(&files.weights(), name) == raw.f32(name), "{name}");
            }
        }
    }
}

#[test]
fn a_written_folder_has_the_names_and_the_config_of_transformers() {
    for (folder, base, scheme, double) in FOLDERS {
        let files = held(&fixture(base), scheme, double);
        let (out, _) = written(&files, DType::Bf16, Some(files.quantization()));
        let [found, expected] = [out.path(), &fixture(folder)].map(|folder| Raw::read(&folder.join(MODEL)));
        let known = |raw: &Raw| -> Vec<(String, Vec<usize>)> {
            let is_state = |name: &str| name.contains(".quant_state.");
            let shape = |name: &str, shape: &[usize]| if is_state(name) { vec![] } else { shape.to_vec() };
            raw.0.iter().map(|(name, tensor)| (name.clone(), shape(name, &tensor.1))).collect()
        };
        if scheme != Scheme::Fp4 {
            assert_eq!(known(&found), known(&expected), "{folder}"); // the other one is stored in bf16
        }
        for (name, (dtype, _, bytes)) in found.0.iter() {
            if name.ends_with(".weight_format") {
                assert_eq!((*dtype, bytes.as_slice()), (Dtype::U8, &[0u8][..]));
            }
            if name.contains(".quant_state.") {
                let [found, expected]: [Value; 2] =
                    [bytes, &expected.0[name].2].map(|bytes| serde_json::from_slice(bytes).unwrap());
                let keys = |json: &Value| json.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
                assert_eq!(keys(&found), keys(&expected));
                assert_eq!((&found["dtype"], &found["shape"]), (&json!("bfloat16"), &expected["shape"]));
            }
        }
        let config = |folder: &Path| {
            let text = std::fs::read(folder.join("config.json")).unwrap();
            let mut config = serde_json::from_slice::<Value>(&text).unwrap()["quantization_config"].take();
            for key in ["_load_in_4bit", "_load_in_8bit", "bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"] {
                config.as_object_mut().unwrap().remove(key);
            }
            config
        };
        assert_eq!(config(out.path()), config(&fixture(folder)), "{folder}");
        assert_eq!(read_quantization(out.path()).unwrap().as_ref(), Some(files.quantization()));
        assert_eq!(read_config(out.path()).unwrap().parameters(), files.config().parameters());
    }
}

#[test]
fn an_adapter_is_added_to_a_quantized_base_in_f64() {
    for folder in ["quantized/int8", "quantized/nf4"] {
        let files = open(&fixture(folder)).with_adapter(&fixture("lora_qv_rslora/adapter")).unwrap();
        let adapter = files.adapter().unwrap();
        let (out, changes) = written(&files, DType::F32, None);
        assert_eq!(changes, []);
        assert_eq!(read_quantization(out.path()).unwrap(), None);
        let (base, found) = (open(&fixture(folder)), Checkpoint::open(out.path()).unwrap());
        let mut adapted = 0;
        for name in found.names() {
            let mut sums: Vec<f64> = floats(&base.weights(), &name).into_iter().map(f64::from).collect();
            let module = name.strip_suffix(".weight").unwrap();
            if let Some((a, b)) = adapter.tensors.get(module) {
                let (scaling, input, r) = (adapter.config.scaling(module).unwrap(), a.dims()[1], a.dims()[0]);
                let [a, b] = [a, b].map(|factor| factor.slice::<f32>().unwrap());
                for (i, sum) in sums.iter_mut().enumerate() {
                    let product = |k| f64::from(b[i / input * r + k]) * f64::from(a[k * input + i % input]);
                    *sum += scaling * (0..r).map(product).sum::<f64>();
                }
                adapted += 1;
            }
            for (found, exact) in floats(&found, &name).iter().zip(sums) {
                let bound = exact.abs() * f64::from(f32::EPSILON) * 0.5 * (1.0 + 1e-6) + 1e-15;
                assert!((f64::from(*found) - exact).abs() <= bound, "{folder} {name}: {found} is not {exact}");
            }
        }
        assert_eq!(adapted, adapter.tensors.len());
    }
}

#[test]
fn quantizing_again_tells_what_it_changed() {
    for (folder, scheme) in [("quantized/int8", Scheme::Int8), ("quantized/nf4", Scheme::Nf4)] {
        let files = held(&fixture(folder), scheme, false).with_adapter(&fixture("lora_qv_rslora/adapter")).unwrap();
        let (whole, _) = written(&files, DType::F32, None);
        let (out, changes) = written(&files, DType::F32, Some(files.quantization()));
        let (whole, again) = (Checkpoint::open(whole.path()).unwrap(), open(out.path()));
        assert_eq!(changes.len(), 14);
        for Change { name, largest, mean } in changes {
            let (exact, rounded) = (floats(&whole, &name), floats(&again.weights(), &name));
            let off: Vec<f64> =
                exact.iter().zip(&rounded).map(|(e, r)| (f64::from(*e) - f64::from(*r)).abs()).collect();
            let size: Vec<f64> = exact.iter().map(|e| f64::from(e.abs())).collect();
            let max = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
            let expected = [max(&off) / max(&size), off.iter().sum::<f64>() / size.iter().sum::<f64>()];
            let is_near = |found: f64, expected: f64| (found - expected).abs() <= 1e-9 * expected;
            assert!(
                is_near(largest, expected[0]) && is_near(mean, expected[1]),
                "{name}: {largest} {mean} {expected:?}"
            );
            let is_adapted = name.contains("q_proj") || name.contains("v_proj");
            assert!(is_adapted == (mean > 1e-4), "{folder} {name}: {mean}");
        }
    }
}

#[test]
fn shards_and_the_names_of_wrappers_are_read() {
    for (folder, ..) in FOLDERS {
        let (expected, raw) = (load_model(&open(&fixture(folder))), Raw::read(&fixture(folder).join(MODEL)));
        let copy = copy_of(folder);
        std::fs::remove_file(copy.path().join(MODEL)).unwrap();
        // Scales in another shard than codes.
        let (mut shards, mut index) = ([Raw(BTreeMap::new()), Raw(BTreeMap::new())], BTreeMap::new());
        for (i, (name, tensor)) in raw.0.iter().enumerate() {
            index.insert(name.clone(), format!("model-0000{}-of-00002.safetensors", i % 2 + 1));
            shards[i % 2].0.insert(name.clone(), tensor.clone());
        }
        for (i, shard) in shards.iter().enumerate() {
            shard.write(&copy.path().join(format!("model-0000{}-of-00002.safetensors", i + 1)));
        }
        std::fs::write(copy.path().join(INDEX), json!({"weight_map": index}).to_string()).unwrap();
        assert!(codes(&load_model(&open(copy.path()))) == codes(&expected), "{folder} in shards");
        let wrapped = copy_of(folder);
        let named = raw.0.iter().map(|(name, tensor)| (format!("module.{name}"), tensor.clone()));
        Raw(named.collect()).write(&wrapped.path().join(MODEL));
        assert!(codes(&load_model(&open(wrapped.path()))) == codes(&expected), "{folder} in a wrapper");
    }
}

#[test]
fn layers_that_were_left_out_are_dense() {
    for folder in ["quantized/int8", "quantized/nf4"] {
        let (copy, mut raw) = (copy_of(folder), Raw::read(&fixture(folder).join(MODEL)));
        let module = UP.strip_suffix("weight").unwrap();
        raw.0.retain(|name, _| !name.starts_with(module));
        raw.0.insert(UP.into(), Raw::read(&fixture("gqa").join(MODEL)).0[UP].clone());
        raw.write(&copy.path().join(MODEL));
        let model = load_model(&open(copy.path()));
        assert_eq!(codes(&model).len(), 13);
        let dense: BTreeMap<String, Tensor> = model
            .linears()
            .into_iter()
            .filter_map(|(name, linear)| Some((name, linear.weight.parameter()?.get())))
            .collect();
        let expected = floats(&Checkpoint::open(&fixture("gqa")).unwrap(), UP);
        assert!(dense["model.layers.1.mlp.up_proj"].to_vec::<f32>().unwrap() == expected, "{folder}");
    }
}

#[test]
fn a_folders_own_scheme_is_the_only_one() {
    let refused = |folder: &str, scheme, double, message: &str| {
        let choice = Choice { scheme: Some(scheme), double, ..Choice::default() };
        let path = fixture(folder);
        let hint =
            "quantize the model that it was made from; without --quantize it is taken as it is, with none as floats";
        assert_refused(open(&path).quantized(&choice), path.parent().unwrap(), message, Some(hint));
    };
    refused("quantized/int8", Scheme::Nf4, false, "int8: holds its weights in int8, not nf4");
    refused("quantized/nf4", Scheme::Fp4, false, "nf4: holds its weights in nf4, not fp4");
    refused("quantized/nf4", Scheme::Int8, false, "nf4: holds its weights in nf4, not int8");
    refused("quantized/nf4", Scheme::Nf4, true, "nf4: holds its weights in nf4, not nf4 with double quantization");
    for (folder, _, scheme, double) in FOLDERS {
        let expected = codes(&load_model(&open(&fixture(folder))));
        assert!(codes(&load_model(&held(&fixture(folder), scheme, double))) == expected);
        assert!(codes(&load_model(&held(&fixture(folder), scheme, false))) == expected);
    }
}

#[test]
fn the_threshold_is_the_files_unless_another_is_given() {
    let copy = copy_of("quantized/int8");
    let config = copy.path().join("config.json");
    let quantization =
        |threshold| json!({"quant_method": "bitsandbytes", "load_in_8bit": true, "llm_int8_threshold": threshold});
    set(&config, "quantization_config", quantization(json!(3.5)));
    let threshold = |choice: &Choice| {
        let files = open(copy.path()).quantized(choice).unwrap();
        let model = load_model(&files);
        let of_layer = |weight: &Quantized| match weight {
            Quantized::Int8(weight) => weight.method().threshold,
            Quantized::FourBit(_) => f32::NAN,
        };
        let held: Vec<f32> =
            model.linears().iter().filter_map(|(_, l)| l.weight.quantized().map(|weight| of_layer(weight))).collect();
        assert!(held.len() == 14 && held.iter().all(|held| *held == files.quantization().method.threshold));
        held[0]
    };
    assert_eq!(threshold(&Choice::default()), 3.5);
    assert_eq!(threshold(&Choice { scheme: Some(Scheme::Int8), ..Choice::default() }), 3.5);
    assert_eq!(threshold(&Choice { threshold: Some(0.0), ..Choice::default() }), 0.0);
    set(&config, "quantization_config", quantization(Value::Null));
    assert_eq!(threshold(&Choice::default()), Method::default().threshold);
    set(&config, "quantization_config", quantization(json!(-1)));
    let message = "config.json: quantization_config.llm_int8_threshold must be a number from 0 on, got -1";
    assert_refused(ModelFiles::open(copy.path()), copy.path(), message, None);
}
