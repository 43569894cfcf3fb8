use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::{Error, Result};
use vicugna::io::config::read_config;
use vicugna::io::safetensors::{Checkpoint, write, write_tensors};
use vicugna::io::{WeightSource, refuse_leftovers};

use crate::files::{assert_refused, copy_of, entries, fixture, load, safetensors, set};

const MODEL: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn file(bytes: &[u8]) -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join(MODEL), bytes).unwrap();
    folder
}

/// Loads all that `folder`'s config asks for.
fn load_all(folder: &Path) -> Result<Vec<Tensor>> {
    let checkpoint = Checkpoint::open(folder)?;
    let parameters = read_config(folder)?.parameters();
    let asked = parameters.iter().map(|(name, _)| name.clone()).collect();
    refuse_leftovers(&checkpoint, &asked)?;
    parameters.iter().map(|(name, shape)| checkpoint.load(name, *shape, DType::F32, &Device::Cpu)).collect()
}

fn bits(tensors: &[Tensor]) -> Vec<Vec<u8>> {
    tensors.iter().map(|tensor| tensor.buffer().unwrap().host().unwrap().to_vec()).collect()
}

proptest! {
    /// An odd number of bytes before each tensor: nothing is aligned in a file.
    #[test]
    fn every_dtype_is_converted(values: Vec<f64>, padding in 0..9usize) {
        let n = values.len();
        let stored = [
            ("F64", values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()),
            ("F32", values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect()),
            ("F16", values.iter().flat_map(|&v| f16::from_f64(v).to_le_bytes()).collect()),
            ("BF16", values.iter().flat_map(|&v| bf16::from_f64(v).to_le_bytes()).collect()),
        ];
        let exact: [Vec<f32>; 4] = [
            values.iter().map(|&v| v as f32).collect(),
            values.iter().map(|&v| v as f32).collect(),
            values.iter().map(|&v| f16::from_f64(v).to_f32()).collect(),
            values.iter().map(|&v| bf16::from_f64(v).to_f32()).collect(),
        ];
        for ((dtype, bytes), exact) in stored.iter().zip(exact) {
            let shift = padding | 1;
            let header = json!({
                "pad": {"dtype": "U8", "shape": [shift], "data_offsets": [0, shift]},
                "x": {"dtype": dtype, "shape": [n], "data_offsets": [shift, shift + bytes.len()]},
            });
            let folder = file(&safetensors(&header.to_string(), &[&vec![0; shift], bytes.as_slice()].concat()));
            let checkpoint = Checkpoint::open(folder.path()).unwrap();
            let load = |dtype| checkpoint.load("x", [n].into(), dtype, &Device::Cpu).unwrap();
            let found = load(DType::F32).to_vec::<f32>().unwrap();
            prop_assert_eq!(found.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
                exact.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), "{}", dtype);
            let found = load(DType::Bf16).to_vec::<bf16>().unwrap();
            let once = |(&v, &e): (&f64, &f32)| if *dtype == "F64" { bf16::from_f64(v) } else { bf16::from_f32(e) };
            let rounded = values.iter().zip(&exact).map(once);
            prop_assert_eq!(found.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
                rounded.map(|v| v.to_bits()).collect::<Vec<_>>(), "{} to bf16", dtype);
        }
    }

    #[test]
    fn a_spoilt_header_is_refused_or_harmless(at in 0..2500usize, byte: u8) {
        let whole = std::fs::read(fixture("mha").join(MODEL)).unwrap();
        let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let mut spoilt = whole;
        spoilt[at % header] = byte;
        let folder = copy_of("mha");
        std::fs::write(folder.path().join(MODEL), spoilt).unwrap();
        if let Ok(tensors) = load_all(folder.path()) {
            prop_assert!(bits(&tensors) == bits(&load_all(&fixture("mha")).unwrap()));
        }
    }

    #[test]
    fn a_truncated_file_is_refused(share in 0.0..1.0) {
        let whole = std::fs::read(fixture("mha").join(MODEL)).unwrap();
        refuse_truncated(&whole, (whole.len() as f64 * share) as usize)?;
    }

    #[test]
    fn a_file_truncated_in_its_header_is_refused(length in 0..2500usize) {
        refuse_truncated(&std::fs::read(fixture("mha").join(MODEL)).unwrap(), length)?;
    }

    #[test]
    fn no_header_makes_it_panic(header: String, data: Vec<u8>) {
        prop_assert!(Checkpoint::open(file(&safetensors(&header, &data)).path()).is_err());
        prop_assert!(Checkpoint::open(file(&data).path()).is_err());
    }
}

fn refuse_truncated(whole: &[u8], length: usize) -> Result<(), TestCaseError> {
    let folder = file(&whole[..length]);
    let error = Checkpoint::open(folder.path()).unwrap_err();
    prop_assert!(error.to_string().contains("model.safetensors: truncated"), "{}", error);
    prop_assert_eq!(error.hint(), Some("the file is incomplete: get it again"));
    Ok(())
}

#[test]
fn offsets_that_overflow_are_refused() {
    // Sums of sizes near 2^64, which wrap around to the length of the file.
    let eighth = 1u64 << 61;
    let mut header = serde_json::Map::new();
    for i in 0..8u64 {
        let end = if i == 7 { u64::MAX - 64 } else { (i + 1) * eighth };
        let size = end - i * eighth;
        header.insert(format!("t{i}"), json!({"dtype": "U8", "shape": [size], "data_offsets": [i * eighth, end]}));
    }
    let header = serde_json::Value::from(header).to_string();
    let folder = file(&safetensors(&header, &[0; 16]));
    assert!(Checkpoint::open(folder.path()).is_err());
}

#[test]
fn shards_are_one_model() {
    let checkpoint = Checkpoint::open(&fixture("gqa_head_dim")).unwrap();
    let config = read_config(&fixture("gqa_head_dim")).unwrap();
    let mut names: Vec<String> = config.parameters().into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(checkpoint.names(), names);
    load_all(&fixture("gqa_head_dim")).unwrap();
}

#[test]
fn every_fixture_loads() {
    for name in ["mha", "gqa", "gqa_head_dim", "llama3_rope", "padded", "bf16", "f16", "lora", "lora_qv_rslora"] {
        load_all(&fixture(name)).unwrap();
        let dtype = Checkpoint::open(&fixture(name)).unwrap().dtype();
        assert_eq!(dtype, if name == "bf16" { DType::Bf16 } else { DType::F32 }, "{name}");
    }
}

#[test]
fn misfits_are_named() {
    let folder = copy_of("mha");
    let path = folder.path().join("config.json");
    let refused = |message: &str, hint| assert_refused(load_all(folder.path()), folder.path(), message, hint);
    set(&path, "intermediate_size", json!(87));
    refused("model.safetensors: tensor model.layers.0.mlp.gate_proj.weight must be [87, 32], got [88, 32]", None);
    set(&path, "intermediate_size", json!(88));
    set(&path, "num_hidden_layers", json!(3));
    refused("model.safetensors: has no tensor model.layers.2.input_layernorm.weight", None);
    set(&path, "num_hidden_layers", json!(1));
    let message = "the config has no place for tensor model.layers.1.input_layernorm.weight (9 such tensors)";
    let name = folder.path().display();
    let error = load_all(folder.path()).unwrap_err();
    assert_eq!(error.to_string(), format!("{name}: {message}"));
    assert_eq!(error.hint(), Some("is its config.json that of this model?"));
    set(&path, "num_hidden_layers", json!(2));
    load_all(folder.path()).unwrap();

    let header = json!({"x": {"dtype": "I8", "shape": [2], "data_offsets": [0, 2]}}).to_string();
    let folder = file(&safetensors(&header, &[1, 2]));
    let load = Checkpoint::open(folder.path()).unwrap().load("x", [2].into(), DType::F32, &Device::Cpu);
    let message = "model.safetensors: tensor x is stored as I8, which cannot be loaded as f32";
    assert_refused(load, folder.path(), message, Some("save the model in bf16, f16 or f32"));
    let header = json!({"x": {"dtype": "U8", "shape": [1, 1, 1, 1, 2], "data_offsets": [0, 2]}}).to_string();
    let folder = file(&safetensors(&header, &[1, 2]));
    let shape = Checkpoint::open(folder.path()).unwrap().shape("x");
    let message = "tensor x: shape: at most 4 dimensions are supported, got [1, 1, 1, 1, 2]";
    assert_refused(shape, folder.path(), &format!("model.safetensors: {message}"), None);
}

#[test]
fn tied_weights_that_differ_are_refused() {
    let folder = copy_of("mha"); // untied: its lm_head is its own
    let path = folder.path().join("config.json");
    set(&path, "tie_word_embeddings", json!(true));
    let error = load_all(folder.path()).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("lm_head.weight differs from model.embed_tokens.weight, to which the config ties it")
    );
    assert_eq!(error.hint(), Some("set tie_word_embeddings to false in config.json"));

    let checkpoint = Checkpoint::open(&fixture("gqa")).unwrap(); // tied: without lm_head
    let mut tensors: BTreeMap<_, _> =
        checkpoint.names().into_iter().map(|name| (name.clone(), load(&checkpoint, &name))).collect();
    tensors.insert("lm_head.weight".into(), tensors["model.embed_tokens.weight"].clone());
    let inv_freq = Tensor::zeros(&Device::Cpu, DType::F32, [4]).unwrap();
    tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), inv_freq);
    let folder = copy_of("gqa");
    write_tensors(&folder.path().join(MODEL), &tensors).unwrap();
    assert!(bits(&load_all(folder.path()).unwrap()) == bits(&load_all(&fixture("gqa")).unwrap()));

    let folder = copy_of("gqa");
    set(&folder.path().join("config.json"), "tie_word_embeddings", json!(false));
    let hint = "if the output layer is the embedding, set tie_word_embeddings to true in config.json";
    assert_refused(
        load_all(folder.path()),
        folder.path(),
        "model.safetensors: has no tensor lm_head.weight",
        Some(hint),
    );
}

#[test]
fn what_is_there_instead_is_said() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model");
    let open = || Checkpoint::open(&path);
    assert_refused(open(), folder.path(), "model: there is no such file or folder", None);
    std::fs::create_dir(&path).unwrap();
    let message = format!("model: holds none of {MODEL}, {INDEX}, pytorch_model.bin, pytorch_model.bin.index.json");
    assert_refused(open(), folder.path(), &message, None);
    std::fs::write(path.join("consolidated.safetensors"), "").unwrap();
    let hint = "consolidated.safetensors is of Mistral's own release: get the model's files in transformers' format";
    assert_refused(open(), folder.path(), &message, Some(hint));
    let gguf = path.join("a-00001-of-00002.gguf");
    std::fs::write(&gguf, "").unwrap();
    let hint = format!("a GGUF is named itself: {}", gguf.display());
    assert_refused(open(), folder.path(), &message, Some(&hint));
    std::fs::write(path.join("adapter_config.json"), "{}").unwrap();
    let hint = "this is an adapter: name it with --adapter, and its base model with --model";
    assert_refused(open(), folder.path(), &message, Some(hint));
    let zip = file(b"PK\x03\x04 and so on, for long");
    assert_refused(Checkpoint::open(zip.path()), zip.path(), "model.safetensors: is a zip archive", Some("unpack it"));
    let other = file(b"a text, which is no model");
    let message = "model.safetensors: is not a safetensors file: no header length at its start";
    assert_refused(Checkpoint::open(other.path()), other.path(), message, None);
    let long = file(&safetensors("{}", &[0; 3]));
    let message = "model.safetensors: has 3 bytes after its last tensor";
    assert_refused(Checkpoint::open(long.path()), long.path(), message, None);
}

#[test]
fn files_have_the_bytes_that_hugging_faces_writer_gives_them() {
    for name in ["mha", "lora/adapter"] {
        let file = if name == "mha" { MODEL } else { "adapter_model.safetensors" };
        let original = fixture(name).join(file);
        let checkpoint = Checkpoint::open(&original).unwrap();
        let tensors = checkpoint.names().into_iter().map(|name| (name.clone(), load(&checkpoint, &name))).collect();
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(file);
        write_tensors(&path, &tensors).unwrap();
        assert!(std::fs::read(path).unwrap() == std::fs::read(original).unwrap(), "{name}");
    }
}

#[test]
fn all_dtypes_are_written_and_read_back() {
    let tensors = BTreeMap::from([
        ("a".to_string(), Tensor::from_slice(&Device::Cpu, [3], &[1, -100, 3i32]).unwrap()),
        ("b".to_string(), Tensor::from_slice(&Device::Cpu, [1, 3], &[bf16::ONE, bf16::ZERO, bf16::NAN]).unwrap()),
        ("c".to_string(), Tensor::from_slice(&Device::Cpu, [2], &[7, u32::MAX]).unwrap()),
        ("d".to_string(), Tensor::from_slice(&Device::Cpu, [0, 5], &[0f32; 0]).unwrap()),
        ("e".to_string(), Tensor::from_slice(&Device::Cpu, [1, 1], &[f32::MIN_POSITIVE]).unwrap()),
    ]);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(MODEL);
    write_tensors(&path, &tensors).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    for (name, tensor) in &tensors {
        let found = checkpoint.load(name, tensor.shape(), tensor.dtype(), &Device::Cpu).unwrap();
        assert_eq!(found.buffer().unwrap().host().unwrap(), tensor.buffer().unwrap().host().unwrap(), "{name}");
    }
}

#[test]
fn a_corrupt_header_names_the_tensor() {
    let header = |entry: &str| format!(r#"{{"__metadata__":{{"format":"pt"}},"a":{entry}}}"#);
    for (entry, cause) in [
        (r#"{"dtype":"F32","shape":[3],"data_offsets":[0,8]}"#, "invalid shape, data type, or offset for tensor"),
        (r#"{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}"#, "overflow computing"),
        (r#"{"dtype":"Q4","shape":[2],"data_offsets":[0,8]}"#, "unknown variant `Q4`"),
        (r#"{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#, "invalid value: integer `-2`"),
    ] {
        let folder = file(&safetensors(&header(entry), &[0; 8]));
        let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("corrupt safetensors header, at tensor a: {cause}")), "{error}");
    }
}

/// Renaming over it would take a device, a socket or a pipe out of the system.
#[cfg(unix)]
#[test]
fn only_files_are_replaced() {
    let folder = TempDir::new().unwrap();
    let (socket, kept, link) = (folder.path().join("socket"), folder.path().join("kept"), folder.path().join("link"));
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let x = Tensor::zeros(&Device::Cpu, DType::F32, [2]).unwrap();
    let write = |path: &Path| write(path, &[("x".into(), (DType::F32, [2].into()))].into(), |_| Ok(x.clone()));
    assert_refused(write(&socket), folder.path(), "socket: is there already, and not a file", None);
    assert!(!socket.metadata().unwrap().is_file());
    std::fs::write(&kept, "old").unwrap();
    std::os::unix::fs::symlink(&kept, &link).unwrap();
    write(&link).unwrap();
    assert!(link.is_symlink());
    assert_eq!(Checkpoint::open(&kept).unwrap().names(), ["x"]);
}

#[test]
fn a_folder_in_place_of_the_weights_is_named() {
    let folder = copy_of("mha");
    std::fs::remove_file(folder.path().join(MODEL)).unwrap();
    std::fs::create_dir(folder.path().join(MODEL)).unwrap();
    assert_refused(Checkpoint::open(folder.path()), folder.path(), "model.safetensors: is not a file", None);
}

#[test]
fn nothing_is_half_written() {
    let folder = file(b"what was there before");
    let path = folder.path().join(MODEL);
    let x = Tensor::zeros(&Device::Cpu, DType::F32, [2]).unwrap();
    let layout = ["a", "b"].map(|name| (name.to_string(), (DType::F32, [2].into()))).into();
    let tensor = |name: &str| if name == "a" { Ok(x.clone()) } else { Err(Error::input("b", "cannot be made")) };
    assert_eq!(write(&path, &layout, tensor).unwrap_err().to_string(), "b: cannot be made");
    let error = write(&path, &layout, |_| Tensor::zeros(&Device::Cpu, DType::F32, [3])).unwrap_err();
    assert_eq!(error.to_string(), format!("{}: tensor a must be f32 [2], got f32 [3]", path.display()));
    assert_eq!(std::fs::read(&path).unwrap(), b"what was there before");
    assert_eq!(entries(folder.path()), [MODEL]);
    write(&path, &layout, |_| Ok(x.clone())).unwrap();
    assert_eq!(entries(folder.path()), [MODEL]);
    assert_eq!(Checkpoint::open(&path).unwrap().names(), ["a", "b"]);
}

/// Run alone: `cargo test --test io -- --ignored loading_holds_the_model_and_one_tensor`.
#[test]
#[ignore = "measures the peak memory of the process, so nothing else may run in it"]
#[cfg(target_os = "linux")]
fn loading_holds_the_model_and_one_tensor() {
    const TENSOR: usize = 64 << 20;
    let zeros = Tensor::zeros(&Device::Cpu, DType::Bf16, [TENSOR / 2]).unwrap();
    let names: Vec<String> = (0..10).map(|i| format!("t{i}")).collect();
    let layout = names.iter().map(|name| (name.clone(), (DType::Bf16, zeros.shape()))).collect();
    let folder = TempDir::new().unwrap();
    write(&folder.path().join(MODEL), &layout, |_| Ok(zeros.clone())).unwrap();
    let before = peak_memory();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let start = std::time::Instant::now();
    let load = |name: &String| checkpoint.load(name, zeros.shape(), DType::Bf16, &Device::Cpu).unwrap();
    let model: Vec<Tensor> = names.iter().map(load).collect();
    let (seconds, grown) = (start.elapsed().as_secs_f64(), peak_memory() - before);
    let bytes = model.len() * TENSOR;
    println!(
        "{:.2} GB/s, {:.2} tensors above the model",
        bytes as f64 / seconds / 1e9,
        (grown as f64 - bytes as f64) / TENSOR as f64
    );
    assert!(grown <= bytes + TENSOR + TENSOR / 4, "{grown} bytes for a model of {bytes}");
}

#[cfg(target_os = "linux")]
fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}
