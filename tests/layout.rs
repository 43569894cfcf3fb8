//! The house rules of `docs/architecture.md`, read from the tree: imports run one way, every op has its rooms.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

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

/// A file without its unit tests, which may use anything and stand at its end.
fn source(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    match text.split_once("\n#[cfg(test)]") {
        None => text,
        Some((code, tests)) => {
            let is_end = tests.starts_with("\nmod tests {") && tests.matches("\n}\n").count() == 1;
            assert!(is_end, "{}: unit tests are a module at the end", path.display());
            code.to_string()
        }
    }
}

/// [`source`] without line comments.
fn code(path: &Path) -> String {
    source(path).lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// What the code of a file names: paths from the crate's root, through `crate::` and `super::`, macros included; and
/// whether the word `unsafe` stands in it.
#[derive(Default)]
struct Named {
    paths: BTreeSet<Vec<String>>,
    has_unsafe: bool,
}

/// Reads the tokens of `code`, which is that of the module `module`, given by its path from the crate's root.
fn named(code: &str, module: &[String]) -> Named {
    let mut named = Named::default();
    let tokens: TokenStream = code.parse().unwrap();
    walk(&tokens.into_iter().collect::<Vec<_>>(), module, &mut named);
    named
}

fn walk(tokens: &[TokenTree], module: &[String], named: &mut Named) {
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            TokenTree::Group(group) => {
                let inner: Vec<_> = group.stream().into_iter().collect();
                let inline = at.checked_sub(3).map(|at| (tokens[at].to_string(), tokens[at + 1].to_string()));
                match inline.filter(|(keyword, _)| keyword == "mod" && group.delimiter() == Delimiter::Brace) {
                    Some((_, name)) => walk(&inner, &[module, &[name]].concat(), named),
                    None => walk(&inner, module, named),
                }
            }
            TokenTree::Ident(word) if word == "unsafe" => named.has_unsafe = true,
            TokenTree::Ident(word) if word == "crate" || word == "super" => {
                let above = if word == "crate" { 0 } else { module.len().saturating_sub(1) };
                at += use_tree(&tokens[at..], &module[..above], named);
            }
            _ => {}
        }
    }
}

/// Takes what follows `prefix` in a path or a use tree; how many tokens that were.
fn use_tree(tokens: &[TokenTree], prefix: &[String], named: &mut Named) -> usize {
    let is_colon = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':');
    match tokens {
        [a, b, TokenTree::Ident(word), rest @ ..] if is_colon(a) && is_colon(b) => {
            3 + use_tree(rest, &below(prefix, word), named)
        }
        [a, b, TokenTree::Group(group), ..] if is_colon(a) && is_colon(b) && group.delimiter() == Delimiter::Brace => {
            let inner: Vec<_> = group.stream().into_iter().collect();
            for tree in inner.split(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',')) {
                if let [TokenTree::Ident(word), rest @ ..] = tree {
                    use_tree(rest, &below(prefix, word), named);
                }
            }
            3
        }
        _ => {
            named.paths.insert(prefix.to_vec());
            0
        }
    }
}

fn below(prefix: &[String], word: &Ident) -> Vec<String> {
    match word.to_string().as_str() {
        "super" => prefix.split_last().map_or(vec![], |(_, above)| above.to_vec()),
        "self" => prefix.to_vec(),
        name => [prefix, &[name.to_string()]].concat(),
    }
}

/// The path of a file's module from the crate's root.
fn module_path(path: &Path) -> Vec<String> {
    let inner = path.strip_prefix(root().join("src")).unwrap().with_extension("");
    let names = inner.iter().map(|name| name.to_str().unwrap().to_string());
    names.filter(|name| !["mod", "lib", "main"].contains(&name.as_str())).collect()
}

/// The modules of `src/` that a file names, each by its path from the crate's root.
fn imports(path: &Path) -> BTreeSet<Vec<String>> {
    named(&source(path), &module_path(path)).paths
}

fn step(module: &str) -> Option<usize> {
    STEPS.iter().position(|step| step.contains(&module))
}

#[test]
fn imports_run_one_way() {
    let mut broken = Vec::new();
    for path in files(&root().join("src"), "rs") {
        let from = module(&path);
        let tops: BTreeSet<String> = imports(&path).into_iter().filter_map(|path| path.into_iter().next()).collect();
        for to in tops {
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
fn kernels_have_their_source_their_ptx_and_their_launch() {
    let ladder = fs::read_to_string(root().join("examples/kernel_ladder.rs")).unwrap();
    for path in files(&root().join("cuda"), "cu") {
        let name = path.strip_prefix(root().join("cuda")).unwrap().with_extension("");
        let name = name.to_str().unwrap();
        assert!(root().join(format!("ptx/{name}.ptx")).exists(), "cuda/{name}.cu has no ptx/{name}.ptx");
        let is_launched = match name.starts_with("ladder/") {
            true => ladder.contains(&format!("\"{name}\"")),
            false => {
                let named = format!("kernels!(\"{name}\")");
                ops().iter().any(|op| {
                    let launch = root().join(format!("src/ops/{op}/cuda.rs"));
                    fs::read_to_string(launch).is_ok_and(|code| code.contains(&named))
                }) || fs::read_to_string(root().join("src/ops/gemm/cuda.rs")).unwrap().contains(&named)
            }
        };
        assert!(is_launched, "cuda/{name}.cu has no launch");
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
            let reaches =
                |room: &str| imports(&path).iter().any(|to| to.starts_with(&["ops", &op, room].map(String::from)));
            assert!(!reaches("cpu") && !reaches("cuda"), "{} reaches into {op}", path.display());
        }
    }
}

/// Where `unsafe` may stand (CONTRIBUTING.md). The rest of the code is denied it by the lint.
const UNSAFE: &[&str] = &[
    "emulator/libcuda/src/api/address.rs",
    "emulator/libcuda/src/api/context.rs",
    "emulator/libcuda/src/api/copy.rs",
    "emulator/libcuda/src/api/device.rs",
    "emulator/libcuda/src/api/event.rs",
    "emulator/libcuda/src/api/fill.rs",
    "emulator/libcuda/src/api/function.rs",
    "emulator/libcuda/src/api/graph.rs",
    "emulator/libcuda/src/api/host.rs",
    "emulator/libcuda/src/api/init.rs",
    "emulator/libcuda/src/api/launch.rs",
    "emulator/libcuda/src/api/library.rs",
    "emulator/libcuda/src/api/memory.rs",
    "emulator/libcuda/src/api/module.rs",
    "emulator/libcuda/src/api/occupancy.rs",
    "emulator/libcuda/src/api/pool.rs",
    "emulator/libcuda/src/api/rows.rs",
    "emulator/libcuda/src/api/stream.rs",
    "emulator/libcuda/src/border.rs",
    "emulator/libcuda/src/names.rs",
    "emulator/libcuda/src/report.rs",
    "emulator/src/run/lanes.rs",
    "emulator/src/run/raw.rs",
    "emulator/src/run/simd.rs",
    "src/device/cudarc/graph.rs",
    "src/device/cudarc/mod.rs",
    "src/device/cudarc/refusal.rs",
    "src/device/cudarc/staging.rs",
    "src/device/probe.rs",
    "src/io/mmap.rs",
    "src/ops/gemm/pairs.rs",
    "src/ops/gemm/quads.rs",
    "src/parallel/mpi.rs",
];

#[test]
fn unsafe_stays_on_its_floor() {
    let folders = ["src", "emulator/src", "emulator/libcuda/src"];
    let place = |path: &Path| path.strip_prefix(root()).unwrap().to_str().unwrap().to_string();
    let has_unsafe = |path: &PathBuf| named(&source(path), &[]).has_unsafe;
    let found = folders.iter().flat_map(|folder| files(&root().join(folder), "rs")).filter(has_unsafe);
    let found: BTreeSet<String> = found.map(|path| place(&path)).collect();
    assert_eq!(found, UNSAFE.iter().map(|place| place.to_string()).collect());
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
        let inline = has_word(&code(&path), "asm");
        assert!(!inline || path.ends_with("ptx.cuh"), "{} has inline PTX", path.display());
    }
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

/// The rules above see nothing that these do not.
#[test]
fn the_reader_of_code_sees_all_spellings() {
    let module = ["device", "cuda"].map(String::from);
    let tops = |code: &str| {
        let named = named(code, &module);
        (named.paths.iter().map(|path| path.join("::")).collect::<Vec<_>>().join(" "), named.has_unsafe)
    };
    for (code, paths, has_unsafe) in [
        ("use crate::{device::{Arg, Device}, cli::report};", "cli::report device::Arg device::Device", false),
        ("use super::super::cli::report as r;", "cli::report", false),
        ("use super::{super::cli, driver::*};", "cli device::driver", false),
        ("fn f() { g!(crate::cli::x(1)); }", "cli::x", false),
        ("mod inner { use super::super::super::cli; use super::super::Arg; }", "cli device::Arg", false),
        ("pub(crate) use crate::io::mmap::{self, Map};", " io::mmap io::mmap::Map", false),
        ("unsafe impl Send for X {}", "", true),
        ("const UNSAFE: &str = \"unsafe\"; // unsafe\n/* unsafe */", "", false),
        ("fn f() { m!(unsafe { g() }) }", "", true),
        ("#[unsafe(no_mangle)] pub extern \"C\" fn f() {}", "", true),
    ] {
        assert_eq!(tops(code), (paths.to_string(), has_unsafe), "{code}");
    }
    for (code, has_asm) in
        [("asm(\"ret;\");", true), ("asm volatile (\"ret;\");", true), ("\tasm\n(", true), ("plasma(x)", false)]
    {
        assert_eq!(has_word(code, "asm"), has_asm, "{code}");
    }
}
