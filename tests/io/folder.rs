use half::bf16;
use serde_json::json;
use tempfile::TempDir;
use vicugna::device::Device;
use vicugna::dtype::{DType, Float};
use vicugna::error::Result;
use vicugna::io::adapter::Adapter;
use vicugna::io::atomic::write_folder;
use vicugna::io::config::{read_config, write_config};
use vicugna::io::folder::{Output, copy_companions, merge};
use vicugna::io::safetensors::{Checkpoint, MODEL};
use vicugna::io::{WeightSource, folder};

use crate::files::{assert_refused, copy_of, entries, fixture, load, set};

fn adapter(name: &str) -> Adapter {
    let base = read_config(&fixture(name)).unwrap();
    Adapter::read(&fixture(name).join("adapter"), &base).unwrap()
}

fn floats(dtype: DType) -> Output<'static> {
    Output { dtype, quantization: None }
}

/// Merges the fixture `name` into `out/` of a fresh folder.
fn merged(name: &str, dtype: DType) -> TempDir {
    let folder = TempDir::new().unwrap();
    let config = read_config(&fixture(name)).unwrap();
    let source = Checkpoint::open(&fixture(name)).unwrap();
    write_folder(&folder.path().join("out"), |out| {
        copy_companions(source.path(), out)?;
        let (config, _) = merge(&source, Some(&adapter(name)), &config, floats(dtype), &out.join(MODEL))?;
        write_config(out, &config, dtype, None)
    })
    .unwrap();
    folder
}

/// W + scaling · B·A in f64.
fn expected(name: &str, weight: &str) -> Vec<f64> {
    let (adapter, base) = (adapter(name), load(&Checkpoint::open(&fixture(name)).unwrap(), weight));
    let module = weight.strip_suffix(".weight").unwrap_or(weight); // a bias
    let mut sums: Vec<f64> = base.slice::<f32>().unwrap().iter().map(|&w| f64::from(w)).collect();
    if let Some((a, b)) = adapter.tensors.get(module) {
        let (scaling, input, r) = (adapter.config.scaling(module).unwrap(), base.dims()[1], a.dims()[0]);
        let (a, b) = (a.slice::<f32>().unwrap(), b.slice::<f32>().unwrap());
        for (i, sum) in sums.iter_mut().enumerate() {
            let (row, column) = (i / input, i % input);
            let dot: f64 = (0..r).map(|k| f64::from(b[row * r + k]) * f64::from(a[k * input + column])).sum();
            *sum += scaling * dot;
        }
    }
    sums
}

#[test]
fn merged_weights_are_base_plus_scaled_product() {
    for name in ["lora", "lora_qv_rslora", "bias_lora"] {
        let folder = merged(name, DType::F32);
        let out = Checkpoint::open(&folder.path().join("out")).unwrap();
        let base = Checkpoint::open(&fixture(name)).unwrap();
        assert_eq!(out.names(), base.names());
        let mut changed = 0;
        for weight in out.names() {
            let (found, original) = (load(&out, &weight), load(&base, &weight));
            let (found, original) = (found.slice::<f32>().unwrap(), original.slice::<f32>().unwrap());
            changed += usize::from(found != original);
            for (found, exact) in found.iter().zip(expected(name, &weight)) {
                // Half a unit in the last place for the one rounding to f32, and f64's own noise.
                let bound = exact.abs() * f64::from(f32::EPSILON) * 0.5 * (1.0 + 1e-6) + 1e-15;
                assert!((f64::from(*found) - exact).abs() <= bound, "{name} {weight}: {found} is not {exact}");
            }
        }
        assert_eq!(changed, adapter(name).tensors.len(), "{name}");
    }
}

#[test]
fn a_merge_in_bf16_rounds_the_sum() {
    let folder = merged("lora", DType::Bf16);
    let out = Checkpoint::open(&folder.path().join("out")).unwrap();
    assert_eq!(out.dtype(), DType::Bf16);
    let weight = "model.layers.0.mlp.up_proj.weight";
    let found = out.load(weight, out.shape(weight).unwrap(), DType::Bf16, &Device::Cpu).unwrap();
    let rounded: Vec<bf16> = expected("lora", weight).iter().map(|&sum| Float::from_f32(sum as f32)).collect();
    assert_eq!(found.slice::<bf16>().unwrap(), rounded);
}

#[test]
fn the_folder_is_whole() {
    let folder = merged("lora", DType::F32);
    assert_eq!(entries(folder.path()), ["out"]);
    let out = folder.path().join("out");
    assert_eq!(entries(&out), ["config.json", MODEL]);
    assert_eq!(read_config(&out).unwrap(), read_config(&fixture("lora")).unwrap());
    assert_eq!(Checkpoint::open(&out).unwrap().dtype(), DType::F32);

    let base = TempDir::new().unwrap();
    for name in ["tokenizer.json", "chat_template.jinja", "LICENSE.txt", "model.safetensors", "notes.txt"] {
        std::fs::write(base.path().join(name), name).unwrap();
    }
    let copy = TempDir::new().unwrap();
    copy_companions(base.path(), copy.path()).unwrap();
    assert_eq!(entries(copy.path()), ["LICENSE.txt", "chat_template.jinja", "tokenizer.json"]);
}

#[test]
fn an_occupied_folder_is_refused_and_a_failed_one_is_not_left() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("new/out");
    let failed = write_folder(&out, |out| {
        std::fs::write(out.join("half"), "").unwrap();
        Err::<(), _>(vicugna::error::Error::input("x", "failed"))
    });
    assert_eq!(failed.unwrap_err().to_string(), "x: failed");
    assert_eq!(entries(folder.path()), [""; 0]);
    let base = folder.path().join("base");
    std::fs::create_dir(&base).unwrap();
    std::fs::write(base.join("LICENSE"), "").unwrap();
    std::fs::create_dir_all(&out).unwrap();
    write_folder(&out, |out| copy_companions(&base, out)).unwrap();
    assert_eq!(entries(&out), ["LICENSE"]);
    let hint = Some("name a new folder, or remove this one first");
    assert_refused(write_folder(&out, |_| Ok(())), folder.path(), "new/out: is there already and not empty", hint);
    assert!(write_folder(&out.join("LICENSE"), |_| Ok(())).is_err());
    assert_eq!(entries(&out), ["LICENSE"]);
}

#[test]
fn misfits_are_refused_and_nothing_is_left() {
    let base = copy_of("lora");
    let merge_into = |out: &std::path::Path| -> Result<()> {
        let (config, source) = (read_config(base.path())?, Checkpoint::open(base.path())?);
        write_folder(out, |out| {
            folder::merge(&source, Some(&adapter("lora")), &config, floats(DType::F32), &out.join(MODEL)).map(drop)
        })
    };
    let parent = TempDir::new().unwrap();
    let out = parent.path().join("out");
    let path = base.path().join("config.json");
    set(&path, "num_hidden_layers", json!(1));
    assert!(merge_into(&out).unwrap_err().to_string().contains("the config has no place for tensor model.layers.1."));
    set(&path, "num_hidden_layers", json!(3));
    assert!(merge_into(&out).unwrap_err().to_string().ends_with("has no tensor model.layers.2.input_layernorm.weight"));
    assert!(entries(parent.path()).is_empty());
    set(&path, "num_hidden_layers", json!(2));
    let mut other = adapter("lora");
    let pair = other.tensors.pop_last().unwrap().1;
    other.tensors.insert("model.layers.9.self_attn.q_proj".into(), pair);
    let (config, source) = (read_config(base.path()).unwrap(), Checkpoint::open(base.path()).unwrap());
    let error = merge(&source, Some(&other), &config, floats(DType::F32), &out).unwrap_err();
    assert_eq!(error.to_string(), "merge: the adapter's model.layers.9.self_attn.q_proj is not in the model");
    merge_into(&out).unwrap();
}

/// Reads `base/` and `adapter/` in the folder that `VICUGNA_PEFT_CASE` names, writes the adapter again to `rewritten/`
/// and merges both into `merged/`.
#[test]
#[ignore = "run by tests/fixtures/check_peft.py, which compares the results with PEFT's"]
fn rewrites_and_merges_a_case_of_peft() {
    let case = std::path::PathBuf::from(std::env::var_os("VICUGNA_PEFT_CASE").unwrap());
    let base = case.join("base");
    let (config, source) = (read_config(&base).unwrap(), Checkpoint::open(&base).unwrap());
    let adapter = Adapter::read(&case.join("adapter"), &config).unwrap();
    write_folder(&case.join("rewritten"), |out| adapter.write(out)).unwrap();
    write_folder(&case.join("merged"), |out| {
        let (config, _) = merge(&source, Some(&adapter), &config, floats(source.dtype()), &out.join(MODEL))?;
        write_config(out, &config, source.dtype(), None)
    })
    .unwrap();
}
