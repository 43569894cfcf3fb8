//! Every command in the documents is run: those of cargo by `.ci`, the others here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vicugna::io::hub::{Hub, Kind};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The documents with commands.
fn documents() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    docs.chain([root().join("README.md"), root().join("CONTRIBUTING.md")]).collect()
}

/// The indented lines of a document that are commands.
fn commands(document: &Path) -> Vec<String> {
    let starts = ["cargo ", "target/", "vicugna ", "echo ", ".ci/"];
    let text = fs::read_to_string(document).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("    "));
    lines.filter(|line| starts.iter().any(|start| line.starts_with(start))).map(String::from).collect()
}

#[test]
fn cargos_commands_are_run_by_ci() {
    let ci: String = ["run", "weekly"].map(|name| fs::read_to_string(root().join(".ci").join(name)).unwrap()).concat();
    for document in documents() {
        for command in commands(&document).iter().filter(|command| command.starts_with("cargo ")) {
            let is_run = ci.lines().any(|line| line.trim().starts_with(command));
            assert!(is_run, "{}: nothing in .ci runs {command}", document.display());
        }
    }
}

/// Runs them in their order, in a folder that looks like a built checkout.
#[test]
fn commands_do_what_the_documents_say() {
    let hub = Hub { offline: true, quiet: true, ..Hub::from_env() };
    let has_smollm2 = hub.resolve("smollm2-135m", Kind::Model).is_ok();
    for document in documents() {
        let place = tempfile::tempdir().unwrap();
        let binaries = place.path().join("target/release");
        fs::create_dir_all(&binaries).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_vicugna"), binaries.join("vicugna")).unwrap();
        std::os::unix::fs::symlink(root().join("assets"), place.path().join("assets")).unwrap();
        let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
        for command in commands(&document).iter().filter(|command| !command.starts_with(['c', '.'])) {
            if command.contains("smollm2") && !has_smollm2 {
                assert!(std::env::var_os("VICUGNA_NO_SKIP").is_none(), "SmolLM2-135M is not in the cache: {command}");
                println!("SKIPPED, SmolLM2-135M is not in the cache: {command}");
                continue;
            }
            let mut shell = Command::new("bash");
            shell.args(["-euc", command]).current_dir(place.path()).env("PATH", &path).env("HF_HUB_OFFLINE", "1");
            let output = shell.output().unwrap();
            assert!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
