//! The house rules of `docs/architecture.md`, read from the tree: imports run one way, every op has its rooms.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of `src/`, lowest step first. A module imports only from lower steps; those on one step not each other.
const STEPS: &[&[&str]] = &[
    &["error"],
    &["dtype", "shape"],
    &["device"],
    &["autograd"],
    &["ops"],
    &["nn", "optim"],
    &["models"],
    &["io"],
    &["data"],
    &["generate"],
    &["parallel"],
    &["train"],
    &["safety", "plan"],
    &["cli"],
    &["main", "lib"],
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The first path segment below `src/`, without `.rs`.
fn module(path: &Path) -> String {
    let inner = path.strip_prefix(root().join("src")).unwrap();
    inner.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_string()
}

/// The code of a file without comments and without its unit tests, which may use anything.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("\n#[cfg(test)]").next().unwrap().to_string();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Names that follow each occurrence of `prefix`; a brace list gives all its members.
fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let members = |rest: &str| match rest.strip_prefix('{') {
        Some(list) => list.split('}').next().unwrap().split(',').map(|m| word(m.trim())).collect(),
        None => vec![word(rest)],
    };
    code.split(prefix).skip(1).flat_map(members).filter(|name| !name.is_empty()).collect()
}

fn step(module: &str) -> Option<usize> {
    STEPS.iter().position(|step| step.contains(&module))
}

#[test]
fn imports_run_one_way() {
    let mut broken = Vec::new();
    for path in files(&root().join("src"), "rs") {
        let from = module(&path);
        for to in names_after(&code(&path), "crate::") {
            let (Some(low), Some(high)) = (step(&to), step(&from)) else {
                let may_compare = path.starts_with(root().join("src/cli/kernels"));
                if from != to && (to == "reference" && !may_compare || from == "reference") {
                    broken.push(format!("{}: {to}", path.display()));
                }
                continue;
            };
            if from != to && low >= high {
                broken.push(format!("{}: {from} may not import {to}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken imports:\n{}", broken.join("\n"));
}

#[test]
fn every_module_has_its_step() {
    for path in files(&root().join("src"), "rs") {
        let name = module(&path);
        assert!(step(&name).is_some() || name == "reference", "{name} is not on the stairs of tests/layout.rs");
    }
}

/// Rooms of `src/ops` that are ops: all folders but the shared main loop.
fn ops() -> Vec<String> {
    let entries = fs::read_dir(root().join("src/ops")).unwrap().flatten();
    let folders = entries.filter(|e| e.path().is_dir()).map(|e| e.file_name().into_string().unwrap());
    folders.filter(|name| name != "gemm").collect()
}

#[test]
fn every_op_has_its_specification_its_tests_and_its_bench() {
    for op in ops() {
        for place in [format!("src/reference/{op}.rs"), format!("tests/ops/{op}.rs"), format!("benches/ops/{op}.rs")] {
            assert!(root().join(&place).exists(), "{op} has no {place}");
        }
    }
}

/// Where the emulator may be used, beside its own crate.
const EMULATOR: &[&str] = &["src/device/", "src/cli/emulate.rs"];

#[test]
fn the_emulator_stays_behind_the_device() {
    for path in files(&root().join("src"), "rs") {
        let place = path.strip_prefix(root()).unwrap().to_str().unwrap().to_string();
        let used = code(&path).contains("ptx_emulator");
        assert!(!used || EMULATOR.iter().any(|room| place.starts_with(room)), "{place} uses the emulator");
    }
}

#[test]
fn only_the_device_knows_cudarc() {
    for path in files(&root().join("src"), "rs") {
        let place = path.strip_prefix(root()).unwrap().to_str().unwrap().to_string();
        let used = code(&path).contains("cudarc::driver");
        assert!(!used || place.starts_with("src/device/"), "{place} uses cudarc");
    }
}

#[test]
fn kernels_have_their_source_their_ptx_and_their_launch_under_one_name() {
    for path in files(&root().join("cuda"), "cu") {
        let op = path.file_stem().unwrap().to_str().unwrap();
        for place in [format!("ptx/{op}.ptx"), format!("src/ops/{op}/cuda.rs")] {
            assert!(root().join(&place).exists(), "cuda/{op}.cu has no {place}");
        }
    }
    let compiled = files(&root().join("ptx"), "ptx").len();
    assert_eq!(compiled, files(&root().join("cuda"), "cu").len(), "ptx/ has files without a source");
}

#[test]
fn one_op_uses_another_only_by_its_public_function() {
    for path in files(&root().join("src/ops"), "rs") {
        let own =
            path.strip_prefix(root().join("src/ops")).unwrap().iter().next().unwrap().to_str().unwrap().to_string();
        for op in ops().into_iter().filter(|op| *op != own) {
            let inner = names_after(&code(&path), &format!("{op}::cpu"));
            let cuda = names_after(&code(&path), &format!("{op}::cuda"));
            assert!(inner.is_empty() && cuda.is_empty(), "{} reaches into {op}", path.display());
        }
    }
}

/// Where `unsafe` may stand (CONTRIBUTING.md). The rest of the code is denied it by the lint.
const UNSAFE: &[&str] = &[
    "src/device/cudarc/",
    "src/device/probe.rs",
    "src/io/mmap.rs",
    "src/parallel/",
    "src/ops/",
    "emulator/src/",
    "emulator/libcuda/src/border.rs",
];

#[test]
fn unsafe_stays_on_its_floor() {
    for path in
        ["src", "emulator/src", "emulator/libcuda/src"].iter().flat_map(|folder| files(&root().join(folder), "rs"))
    {
        let place = path.strip_prefix(root()).unwrap().to_str().unwrap().to_string();
        let has = code(&path).contains("unsafe {") || code(&path).contains("unsafe fn");
        assert!(!has || UNSAFE.iter().any(|floor| place.starts_with(floor)), "{place} has unsafe code");
    }
}

#[test]
fn files_stay_small() {
    let mut large = Vec::new();
    for (extension, limit) in [("rs", 500), ("cu", 300), ("cuh", 300)] {
        for folder in ["src", "emulator/src", "emulator/libcuda", "cuda", "tests", "benches", "examples"] {
            for path in files(&root().join(folder), extension) {
                let lines = fs::read_to_string(&path).unwrap().lines().count();
                if lines > limit {
                    large.push(format!("{} has {lines} lines, more than {limit}", path.display()));
                }
            }
        }
    }
    assert!(large.is_empty(), "{}", large.join("\n"));
}

#[test]
fn no_kernel_uses_inline_ptx_outside_its_file() {
    for path in files(&root().join("cuda"), "cu").into_iter().chain(files(&root().join("cuda"), "cuh")) {
        let inline = fs::read_to_string(&path).unwrap().contains("asm ");
        assert!(!inline || path.ends_with("ptx.cuh"), "{} has inline PTX", path.display());
    }
}
