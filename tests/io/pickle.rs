//! PyTorch's files: what torch.load reads from them bit for bit, and what is refused.

use std::path::Path;

use half::bf16;
use tempfile::TempDir;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::{Error, Result};
use vicugna::io::WeightSource;
use vicugna::io::adapter::{Adapter, CONFIG};
use vicugna::io::config::read_config;
use vicugna::io::model::ModelFiles;
use vicugna::io::safetensors::Checkpoint;

use crate::files::{assert_refused, copy_of, fixture, load};
use crate::torch_save::{dict, int, pickle, tensor, text, tuple, zip, zipped};

const SAVE_AGAIN: &str = "load it where you trust it, and save the tensors alone: torch.save(model.state_dict(), FILE)";
const INCOMPLETE: &str = "the file is incomplete: get it again";

fn bits(source: &dyn WeightSource, name: &str) -> Vec<u32> {
    load(source, name).slice::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
}

/// Holds every float tensor of `found` against those of a safetensors file; both have others of integers.
#[track_caller]
fn assert_equal(found: &dyn WeightSource, expected: &Path, others: &[&str]) {
    let expected = Checkpoint::open(expected).unwrap();
    let mut names = found.names();
    names.retain(|name| !others.contains(&name.as_str()));
    assert_eq!(names, expected.names());
    for name in names {
        assert_eq!(found.shape(&name).unwrap(), expected.shape(&name).unwrap(), "{name}");
        assert_eq!(bits(found, &name), bits(&expected, &name), "{name}");
    }
}

/// Opens a file of these bytes.
fn open(bytes: &[u8]) -> (TempDir, Result<Checkpoint>) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.bin");
    std::fs::write(&path, bytes).unwrap();
    let opened = Checkpoint::open(&path);
    (folder, opened)
}

#[track_caller]
fn refused(bytes: &[u8], message: &str, hint: Option<&str>) {
    let (folder, opened) = open(bytes);
    assert_refused(opened, folder.path(), &format!("x.bin: {message}"), hint);
}

#[test]
fn every_form_is_read_as_torch_reads_it() {
    let folder = fixture("pickle");
    let zip64 = Checkpoint::open(&folder.join("zip64.bin")).unwrap();
    assert_equal(&zip64, &folder.join("training.safetensors"), &[]);
    for form in ["zip.bin", "legacy.bin", "protocol4.bin", "legacy5.bin"] {
        let found = Checkpoint::open(&folder.join(form)).unwrap();
        assert_equal(&found, &folder.join("expected.safetensors"), &["bool", "i64"]);
        let loaded = found.load("i64", [3].into(), DType::F32, &Device::Cpu);
        let message = format!("{form}: tensor i64 is stored as I64, which cannot be loaded as f32");
        assert_refused(loaded, &folder, &message, Some("save the model in bf16, f16 or f32"));
        let loaded = found.load("f32", [5, 3].into(), DType::F32, &Device::Cpu);
        assert_refused(loaded, &folder, &format!("{form}: tensor f32 must be [5, 3], got [3, 5]"), None);
    }
}

#[test]
fn a_transposed_tensor_is_gathered_in_any_dtype() {
    let found = Checkpoint::open(&fixture("pickle/zip.bin")).unwrap();
    for name in ["f32.transposed", "f16.transposed", "bf16.permuted", "bf16.four", "f32.steps"] {
        let shape = found.shape(name).unwrap();
        let narrow = found.load(name, shape, DType::Bf16, &Device::Cpu).unwrap().to_vec::<bf16>().unwrap();
        let wide = load(&found, name).to_vec::<f32>().unwrap();
        let bits = |values: &[bf16]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let rounded: Vec<bf16> = wide.into_iter().map(bf16::from_f32).collect();
        assert_eq!(bits(&narrow), bits(&rounded), "{name}");
    }
}

#[test]
fn the_weights_of_a_training_checkpoint_are_found() {
    let folder = fixture("pickle");
    let found = Checkpoint::open(&folder.join("training.pt")).unwrap();
    assert_equal(&found, &folder.join("training.safetensors"), &[]);
    assert_eq!(found.names(), ["weight"]);
}

#[test]
fn shards_of_both_forms_are_one_model() {
    let folder = fixture("pickle/model");
    let files = ModelFiles::open(&folder).unwrap();
    assert_equal(&files.weights(), &folder.join("expected.safetensors"), &[]);
    assert_eq!(files.weights().dtype(), DType::Bf16);
    let model = files.load(DType::F32, &Device::Cpu).unwrap();
    let (_, down) = model.linears().into_iter().find(|(name, _)| name.ends_with("down_proj")).unwrap();
    let expected =
        load(&Checkpoint::open(&folder.join("expected.safetensors")).unwrap(), "model.layers.0.mlp.down_proj.weight");
    assert_eq!(down.weight.parameter().unwrap().get().to_vec::<f32>().unwrap(), expected.to_vec::<f32>().unwrap());
}

#[test]
fn safetensors_come_first() {
    let folder = copy_of("mha");
    std::fs::write(folder.path().join("pytorch_model.bin"), "no pickle").unwrap();
    Checkpoint::open(folder.path()).unwrap();
    let folder = copy_of("lora/adapter");
    std::fs::write(folder.path().join("adapter_model.bin"), "no pickle").unwrap();
    Adapter::read(folder.path(), &read_config(&fixture("lora")).unwrap()).unwrap();
}

#[test]
fn an_incomplete_sharded_model_is_refused() {
    let folder = copy_of("pickle/model");
    let (first, index) = ("pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json");
    std::fs::remove_file(folder.path().join(first)).unwrap();
    let hint = Some("the folder is incomplete: get the file again");
    let open = || Checkpoint::open(folder.path());
    assert_refused(open(), folder.path(), &format!("{first}: is missing, though {index} lists it"), hint);
    std::fs::remove_file(folder.path().join(index)).unwrap();
    assert_refused(open(), folder.path(), &format!("{first}: is missing, though there are other shards"), hint);
}

#[test]
fn other_names_have_a_way_out() {
    let of_meta = "consolidated.00.pth is Meta's own release: transformers' convert_llama_weights_to_hf.py makes a model folder of it";
    for (name, hint) in [
        ("weights.pt", Some("if weights.pt holds the model's weights, name it pytorch_model.bin")),
        ("consolidated.00.pth", Some(of_meta)),
        ("zero_to_fp32.py", Some("DeepSpeed's zero_to_fp32.py, which is in it, makes whole weights of its shards")),
        ("__0_0.distcp", Some("`accelerate merge-weights` makes whole weights of FSDP's shards, which it holds")),
        ("optimizer.pt", None),
    ] {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join(name), "").unwrap();
        assert_eq!(Checkpoint::open(folder.path()).unwrap_err().hint(), hint);
    }
    let file = fixture("pickle/zip.bin");
    let Err(error) = ModelFiles::open(&file) else { panic!("a file is no model") };
    assert!(error.to_string().ends_with("zip.bin: neither a model folder nor a GGUF file"), "{error}");
    assert_eq!(error.hint(), Some("give the folder, which has the model's config.json and tokenizer.json too"));
}

#[test]
fn an_adapter_is_read() {
    let folder = fixture("pickle/adapter");
    let adapter = Adapter::read(&folder, &read_config(&fixture("pickle/model")).unwrap()).unwrap();
    let expected = Checkpoint::open(&folder.join("expected.safetensors")).unwrap();
    let (a, b) = &adapter.tensors["model.layers.0.self_attn.q_proj"];
    for (found, which) in [(a, "lora_A"), (b, "lora_B")] {
        let name = format!("base_model.model.model.layers.0.self_attn.q_proj.{which}.weight");
        assert_eq!(found.to_vec::<f32>().unwrap(), load(&expected, &name).to_vec::<f32>().unwrap());
    }
    let folder = copy_of("pickle/adapter");
    std::fs::remove_file(folder.path().join("adapter_model.bin")).unwrap();
    let read = Adapter::read(folder.path(), &read_config(&fixture("pickle/model")).unwrap());
    assert_refused(read.map(drop), folder.path(), "adapter_model.safetensors: there is no such file or folder", None);
    assert!(folder.path().join(CONFIG).exists());
}

#[test]
fn what_is_not_plain_weights_is_refused_by_name() {
    let global = |name: &str| format!("{name} is no part of plain weights, and nothing in a file is executed");
    for (file, message, hint) in [
        (
            "quantised.bin",
            format!("data.pkl, byte 13 at \"x\": {}", global("torch._utils._rebuild_qtensor")),
            "it is a quantised tensor: save the model with its weights dequantised",
        ),
        (
            "sparse.bin",
            format!("data.pkl, byte 13 at \"x\": {}", global("torch._utils._rebuild_sparse_tensor")),
            "it is a sparse tensor: save it as .to_dense()",
        ),
        (
            "numpy.bin",
            format!("data.pkl, byte 13 at \"x\": {}", global("numpy._core.multiarray._reconstruct")),
            "it is a numpy array: save tensors, made with torch.from_numpy",
        ),
        (
            "float8.bin",
            format!("data.pkl, byte 13 at \"x\": {}", global("torch._utils._rebuild_tensor_v3")),
            "it is of a dtype that is not read: save the model in bf16, f16 or f32",
        ),
        ("subclass.bin", format!("data.pkl, byte 88 at \"x\": {}", global("__main__.Other")), SAVE_AGAIN),
        ("module.bin", format!("data.pkl, byte 2: {}", global("torch.nn.modules.linear.Linear")), SAVE_AGAIN),
        ("negated.bin", "data.pkl, byte 176 at \"x\": a tensor is stored conjugated or negated".into(), SAVE_AGAIN),
        ("list.bin", "holds a list, not a dict of tensors".into(), SAVE_AGAIN),
        ("none.bin", "holds a dict without tensors".into(), SAVE_AGAIN),
        ("two.bin", "holds several dicts of tensors: model, ema".into(), SAVE_AGAIN),
        ("entry.bin", "entry epoch of its weights is an integer".into(), SAVE_AGAIN),
        (
            "script.pt",
            "is a TorchScript archive: code, not weights alone".into(),
            "torch.load's jit.load reads it: save its state_dict() with torch.save",
        ),
        (
            "big.bin",
            "was saved on a big-endian machine, whose byte order is not read".into(),
            "load it with torch.load on another machine and save it there",
        ),
    ] {
        let folder = fixture("pickle/refused");
        assert_refused(Checkpoint::open(&folder.join(file)), &folder, &format!("{file}: {message}"), Some(hint));
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    for (file, message) in [
        ("five.bin", "shape: at most 4 dimensions are supported, got [1, 1, 1, 2, 2]"),
        ("expanded.bin", "repeats 1 stored elements to 4194304"),
    ] {
        let error = Checkpoint::open(&fixture("pickle/refused").join(file)).unwrap_err().to_string();
        assert!(error.contains(" at \"x\": ") && error.ends_with(message), "{error}");
    }
    let of = |tensor: Vec<u8>| zipped(&pickle(&dict(&[("x", tensor)])), &[&[0; 24]]);
    open(&of(tensor("0", 6, 0, &[2, 3], &[3, 1]))).1.unwrap();
    for (numel, offset, size, strides, says) in [
        (6, 1, [2, 3], [3, 1], "takes [2, 3] with strides [3, 1] from 1 on of storage 0, which has 6 elements"),
        (6, 0, [2, 3], [i64::MAX, 1], "of storage 0, which has 6 elements"),
        (6, 0, [i64::MAX, i64::MAX], [0, 0], "of storage 0, which has 6 elements"),
        (6, 0, [i64::MAX, 1], [0, 0], "repeats 6 stored elements to 9223372036854775807"),
        (6, 0, [-1, 1], [1, 1], "the shape, strides or offset of a tensor are no whole numbers"),
        (6, 0, [1, 1], [-1, 1], "the shape, strides or offset of a tensor are no whole numbers"),
        (6, -1, [1, 1], [1, 1], "the shape, strides or offset of a tensor are no whole numbers"),
        (-6, 0, [1, 1], [1, 1], "a storage is larger than memory"),
        (i64::MAX, 0, [1, 1], [1, 1], "a storage is larger than memory"),
        (7, 0, [1, 1], [1, 1], "storage 0 has 24 bytes, which are not 7 elements of F32"),
    ] {
        let error = open(&of(tensor("0", numel, offset, &size, &strides))).1.unwrap_err().to_string();
        assert!(error.ends_with(says), "{error}");
    }
    let empty = open(&of(tensor("0", 6, i64::MAX, &[0, 5], &[i64::MAX, 1]))).1.unwrap();
    assert!(load(&empty, "x").to_vec::<f32>().unwrap().is_empty());
    let missing = of(tensor("1", 6, 0, &[6], &[1]));
    refused(&missing, "has no storage 1", Some(INCOMPLETE));
    let twice = [("x", tensor("0", 6, 0, &[6], &[1])), ("x", tensor("0", 6, 0, &[6], &[1]))];
    refused(&zipped(&pickle(&dict(&twice)), &[&[0; 24]]), "tensor x is there twice, or its name is too long", None);
}

#[test]
fn names_with_a_prefix_are_known() {
    let asked = "model.norm.weight";
    for stored in ["module.model.norm.weight", "_orig_mod.model.norm.weight", "norm.weight"] {
        let (_folder, opened) = open(&zipped(&pickle(&dict(&[(stored, tensor("0", 1, 0, &[1], &[1]))])), &[&[0; 4]]));
        let error = opened.unwrap().shape(asked).unwrap_err();
        let hint = format!("it has {stored}: give its tensors the names that transformers gives them");
        assert_eq!(error.hint(), Some(hint.as_str()));
        assert!(error.to_string().ends_with(&format!("x.bin: has no tensor {asked}")), "{error}");
    }
}

#[test]
fn tensors_that_deepspeed_left_empty_are_known() {
    let (folder, opened) = open(&zipped(&pickle(&dict(&[("x", tensor("0", 0, 0, &[0], &[1]))])), &[&[]]));
    let error = opened.unwrap().load("x", [2, 3].into(), DType::F32, &Device::Cpu).unwrap_err();
    assert!(error.hint().unwrap().contains("zero_to_fp32.py"));
    assert_eq!(error.to_string(), format!("{}/x.bin: tensor x must be [2, 3], got [0]", folder.path().display()));
}

#[test]
fn nothing_is_executed() {
    let folder = TempDir::new().unwrap();
    let victim = folder.path().join("touched");
    let command = format!("touch {}", victim.display());
    let calls = |global: &[u8]| [global, &tuple(&[text(&command)]), b"R"].concat();
    for (name, value) in [
        ("posix.system", calls(b"cposix\nsystem\n")),
        ("builtins.eval", calls(b"cbuiltins\neval\n")),
        (
            "builtins.exec",
            [text("builtins"), text("exec"), b"\x93".to_vec(), tuple(&[text(&command)]), b"R".to_vec()].concat(),
        ),
        ("torch.load", calls(b"ctorch\nload\n")),
        ("sklearn.svm._classes.SVC", calls(b"csklearn.svm._classes\nSVC\n")),
    ] {
        let file = pickle(&dict(&[("x", value)]));
        for bytes in [zipped(&file, &[]), file] {
            let error = open(&bytes).1.unwrap_err();
            let detail = format!("{name} is no part of plain weights, and nothing in a file is executed");
            assert!(error.to_string().ends_with(&detail), "{error}");
            assert_eq!(error.hint(), Some(SAVE_AGAIN));
        }
    }
    for (opcode, name) in
        [(b'i', "INST"), (b'o', "OBJ"), (0x81, "NEWOBJ"), (0x82, "EXT1"), (b'P', "PERSID"), (b'0', "POP")]
    {
        let file = zipped(&pickle(&[b'N', opcode]), &[]);
        refused(&file, &format!("data.pkl, byte 3: opcode {name} is none of torch.save's"), Some(SAVE_AGAIN));
    }
    refused(&zipped(&pickle(b"\xee"), &[]), "data.pkl, byte 2: 0xee is no opcode", None);
    assert!(!victim.exists());
}

#[test]
fn broken_pickles_are_refused() {
    for (value, message) in [
        (b"t".as_slice(), "byte 2: looks for a mark where none is"),
        (b"(.", "byte 3: takes a value from an empty stack"),
        (b"h\x07", "byte 2: asks for memo 7, which was not kept"),
        (b"NNs", "byte 4: takes a value from an empty stack"),
        (b"NNNs", "byte 5: sets entries of what is no dict"),
        (b"}(Nu", "byte 5: sets a key without a value"),
        (b"NNa", "byte 4: appends to what is no list"),
        (b"NNb", "byte 4: sets the state of None"),
        (b"N)R", "byte 4: calls None with a tuple"),
        (b"ctorch\nSize\n)R", "byte 15: calls Size with arguments that it does not take"),
        (b"NQ", "byte 3: a persistent id is not a storage of known dtype, key and length"),
        (b"NN\x93", "byte 4: names a class or function by what is no name"),
        (b"X\x01\0\0\0\xff", "byte 2: a string is not UTF-8"),
        (b"\x80\x09", "byte 2: is of protocol 9; the newest known is 5"),
        (b"X\xff\xff\xff\xff", "byte 2: truncated: its pickle has no end"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "byte 2: truncated: its pickle has no end"),
        (b"c", "byte 2: names a class or function without an end"),
    ] {
        let (folder, opened) = open(&zipped(&pickle(value), &[]));
        let error = opened.unwrap_err().to_string().replace(&format!("{}/", folder.path().display()), "");
        assert_eq!(error, format!("x.bin: data.pkl, {message}"));
    }
}

#[test]
fn other_files_are_refused_by_name() {
    let whole = std::fs::read(fixture("pickle/zip.bin")).unwrap();
    let safetensors = std::fs::read(fixture("mha/model.safetensors")).unwrap();
    refused(b"", "is empty", Some(INCOMPLETE));
    refused(&safetensors, "is a safetensors file under another name", Some("name it *.safetensors"));
    refused(b"{\"error\": 1}", "is not a file of torch.save: neither a zip archive nor a pickle", None);
    let hint = "get the file itself: on the hub its address has /resolve/ where the page's has /blob/";
    refused(b"<!DOCTYPE html><html>", "is a web page", Some(hint));
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2\n";
    let hint = "get the file: `git lfs install`, then `git lfs pull` in its repository; or download it by itself";
    refused(pointer, "is a Git LFS pointer, not the file itself", Some(hint));
    refused(&pickle(&dict(&[("x", int(1))])), "is a pickle, but not of torch.save", Some(SAVE_AGAIN));
    let message = "is a zip archive, but not of torch.save: no data.pkl in its folder";
    refused(&zip(&[("xl/workbook.xml", b"")]), message, Some("if the weights were packed, unpack them"));
    let message = "truncated: the directory at the end of its zip archive is missing";
    refused(&whole[..whole.len() - 1], message, Some(INCOMPLETE));
    refused(&whole[..whole.len() / 2], message, Some(INCOMPLETE));

    let mut deflated = zipped(&pickle(&dict(&[("x", tensor("0", 6, 0, &[6], &[1]))])), &[&[0; 24]]);
    let entry = deflated.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    deflated[entry + 10] = 8;
    refused(&deflated, "x/data/0 is compressed or encrypted in its zip archive", Some(SAVE_AGAIN));
}

#[test]
fn a_legacy_file_is_checked_to_its_end() {
    let whole = std::fs::read(fixture("pickle/legacy.bin")).unwrap();
    let error = |bytes: &[u8]| open(bytes).1.unwrap_err().to_string();
    for length in [1, 20, 100, 1000, whole.len() - 200, whole.len() - 1] {
        let text = error(&whole[..length]);
        assert!(text.contains("truncated: "), "{length}: {text}");
    }
    assert!(error(&[whole.as_slice(), b"more"].concat()).ends_with("has 4 bytes after its last storage"));
    let mut big = whole;
    let flag = big.windows(13).position(|w| w == b"little_endian").unwrap() + 15;
    assert_eq!(big[flag], 0x88);
    big[flag] = 0x89;
    assert!(error(&big).ends_with("was saved on a big-endian machine, whose byte order is not read"));
}

#[test]
fn errors_name_the_file_whatever_it_is() {
    for bytes in [b"PK\x03\x04".as_slice(), b"\x80", b"\x80\x02.", b"\x80\x02K\x01."] {
        let (folder, opened) = open(bytes);
        let Err(Error::File { path, .. }) = opened else { panic!("{bytes:?}") };
        assert_eq!(path, folder.path().join("x.bin"));
    }
}
