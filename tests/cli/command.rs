//! Running the binary.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What a run left: its exit code and its two streams.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// `vicugna`, away from any hub and from GPUs that were not asked for.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vicugna"));
    command.args(args).env("HF_HUB_OFFLINE", "1");
    if !args.contains(&"cuda") {
        command.env("CUDA_VISIBLE_DEVICES", "");
    }
    command
}

/// Runs it.
pub fn vicugna(args: &[&str]) -> Ran {
    let output = command(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Ran {
    /// The one JSON object that a successful run printed.
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {:?}", self.stdout))
    }

    /// Fails unless the run failed with exactly this error line.
    pub fn refused(&self, line: &str) {
        assert_eq!(self.code, 1, "{} {}", self.stdout, self.stderr);
        assert_eq!(self.stderr.lines().next(), Some(format!("error: {line}").as_str()), "{}", self.stderr);
        assert_eq!(self.stdout, "");
    }
}

/// A fixture's path.
pub fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).to_str().unwrap().to_string()
}

/// A copy of a fixture folder in `to`, for breaking.
pub fn copy(name: &str, to: &Path) -> PathBuf {
    let target = to.join(name);
    std::fs::create_dir_all(&target).unwrap();
    for entry in std::fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            std::fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
        }
    }
    target
}
