//! What a path or a name is taken for.

use std::path::Path;

use tempfile::TempDir;
use vicugna::data::records::{Prompting, read};
use vicugna::error::{Error, Result};
use vicugna::io::adapter::Adapter;
use vicugna::io::gguf::Gguf;
use vicugna::io::hub::{Hub, Kind};
use vicugna::io::model::ModelFiles;

use crate::gguf_file::GgufFile;

/// The error's text, and its hint, which must be there.
fn refusal<T>(result: Result<T>) -> (String, String) {
    let error = result.err().expect("an error");
    assert!(matches!(error, Error::File { .. }), "{error}");
    (error.to_string(), error.hint().unwrap_or_else(|| panic!("no hint: {error}")).to_owned())
}

#[test]
fn a_gguf_is_known_by_its_first_bytes() {
    let written = GgufFile::tiny().write();
    let path = &written.path;
    let blob = path.with_file_name("sha256-0123");
    std::fs::copy(path, &blob).unwrap();
    assert_eq!(ModelFiles::open(&blob).unwrap().config(), ModelFiles::open(path).unwrap().config());
    let weights = path.with_file_name("model.safetensors");
    std::fs::write(&weights, "{}").unwrap();
    let (message, hint) = refusal(ModelFiles::open(&weights));
    assert!(message.ends_with("neither a model folder nor a GGUF file") && hint.contains("the folder"), "{hint}");
}

#[test]
fn a_gguf_is_no_peft_adapter_and_an_adapter_no_model() {
    let written = GgufFile::tiny().write();
    let model = &written.path;
    let config = Gguf::open(model).unwrap().config().unwrap();
    let (message, hint) = refusal(Adapter::read(model, &config));
    assert!(message.ends_with("is a GGUF file, not the folder of a PEFT adapter"), "{message}");
    assert!(hint.contains("name it with --model"), "{hint}");

    let written = GgufFile::new("llama").string("general.type", "adapter").write();
    let lora = &written.path;
    let (message, hint) = refusal(Adapter::read(lora, &config));
    assert!(message.ends_with("is a GGUF file, not the folder of a PEFT adapter"), "{message}");
    assert!(hint.contains("adapter_config.json"), "{hint}");
    let (message, hint) = refusal(ModelFiles::open(lora));
    assert!(message.ends_with("is an adapter, not a model") && hint.contains("--adapter"), "{message}: {hint}");

    let weights = lora.with_file_name("adapter_model.safetensors");
    std::fs::write(&weights, "").unwrap();
    let (message, hint) = refusal(Adapter::read(&weights, &config));
    assert!(message.ends_with("is a file, not the folder of a PEFT adapter"), "{message}");
    assert!(hint.contains("the folder that holds"), "{hint}");
}

/// A hub at which nobody listens.
fn hub(folder: &TempDir) -> Hub {
    let vars = [("HF_ENDPOINT", "http://127.0.0.1:9"), ("HF_HUB_CACHE", folder.path().to_str().unwrap())];
    Hub::from_vars(|name| Some(vars.iter().find(|(known, _)| *known == name)?.1.to_owned()))
}

#[test]
fn a_misspelt_path_is_no_name_on_the_hub() {
    let folder = TempDir::new().unwrap();
    let place = |name: &str| folder.path().join(name);
    for name in ["models/tiny-1b", "models/llama.gguf", "models/qwen-1.5"] {
        std::fs::create_dir_all(place(name)).unwrap();
    }
    for (typed, meant) in [
        ("models/tyni-1b", "models/tiny-1b"),
        ("models/Tiny_1B", "models/tiny-1b"),
        ("modles/tiny-1b", "models/tiny-1b"),
        ("models/llama", "models/llama.gguf"),
    ] {
        let (message, hint) = refusal(hub(&folder).resolve(place(typed).to_str().unwrap(), Kind::Model));
        assert!(message.ends_with("no such file or folder"), "{message}");
        assert_eq!(hint, format!("did you mean {}?", place(meant).display()));
        let (_, hint) = refusal(read(&place(typed), &Prompting::default()));
        assert_eq!(hint, format!("did you mean {}?", place(meant).display()));
    }
    for other in ["models/tiny-2b", "models/mistral", "other/tiny-1b", "models/qwen-1"] {
        let (message, hint) = refusal(hub(&folder).resolve(place(other).to_str().unwrap(), Kind::Model));
        assert!(message.ends_with("no such file or folder") && hint.starts_with("--model takes"), "{message}: {hint}");
    }
}

#[test]
fn what_can_be_no_repository_asks_no_hub() {
    let folder = TempDir::new().unwrap();
    for name in ["~/models/llama", "models/llama.gguf", "a/b/c", "./llama", "org/name-", "org/model.safetensors"] {
        for kind in [Kind::Model, Kind::Adapter] {
            let (message, _) = refusal(hub(&folder).resolve(name, kind));
            assert_eq!(message, format!("{name}: no such file or folder"));
        }
    }
    let (_, hint) = refusal(hub(&folder).resolve("~/models/llama", Kind::Model));
    let home = std::env::home_dir().unwrap().join("models/llama");
    assert!(hint.contains("quotes") && hint.ends_with(home.to_str().unwrap()), "{hint}");
    let (_, hint) = refusal(hub(&folder).resolve("https://huggingface.co/org/name", Kind::Model));
    assert_eq!(hint, "of an address, --model takes ORG/NAME alone");
    let (_, hint) = refusal(read(Path::new("~/train.jsonl"), &Prompting::default()));
    assert!(hint.contains("quotes"), "{hint}");
    let error = Hub { offline: true, ..hub(&folder) }.resolve("org/name", Kind::Model).unwrap_err();
    assert!(error.hint().unwrap().ends_with("; nor is there a folder org/name here"), "{error:?}");
}
