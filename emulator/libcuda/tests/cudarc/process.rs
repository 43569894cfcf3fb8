//! The library under the names that programs look for, and processes that find it there.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A folder with the library as `libcuda.so` and `libcuda.so.1`. Cargo built it beside this test.
fn folder() -> PathBuf {
    let library = std::env::current_exe().unwrap().with_file_name("libptx_emulator_libcuda.so");
    assert!(library.exists(), "{} is not there", library.display());
    let folder = library.with_file_name("libcuda");
    fs::create_dir_all(&folder).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        match symlink(&library, folder.join(name)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => panic!("{name}: {error}"),
            _ => {}
        }
    }
    folder
}

/// Runs one of this binary's ignored tests in a process that finds the library as libcuda.
pub fn run(program: &str, env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", program, "--ignored", "--nocapture"]).env("LD_LIBRARY_PATH", folder());
    for name in ["SM", "MEMORY", "SEED", "STREAMS", "COUNTERS"] {
        command.env_remove(format!("VICUGNA_EMULATED_{name}"));
    }
    command.envs(env.iter().copied()).output().unwrap()
}

/// Runs a program and expects it to succeed; returns what it wrote to standard error.
pub fn succeeds(program: &str, env: &[(&str, &str)]) -> String {
    let output = run(program, env);
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{program} {env:?}: {out}\n{error}");
    error.into_owned()
}
