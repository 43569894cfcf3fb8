//! Fetching one commit of a repository through hf-hub.
//!
//! hf-hub keeps the cache's layout, takes up a torn download where it stopped, and renames a file into place when its
//! body has ended. It does not check that the body was whole, and asks for a branch anew with every file; so the
//! commit is asked for once here, and every length is checked against the one the hub lists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hf_hub::Cache;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use serde::Deserialize;

use super::progress::FileProgress;
use super::spec::{Spec, is_commit};
use super::trouble::{Trouble, unwritable};
use super::{Hub, Kind};
use crate::error::{Error, Result};
use crate::io::safetensors::WEIGHTS;
use crate::io::shards::shard_names;
use crate::io::{adapter, pickle, text};

const CONFIG: &str = "config.json";
const ADAPTER: &str = "adapter_config.json";
/// An adapter's tensors, in the order in which they are looked for.
const ADAPTER_WEIGHTS: [&str; 2] = [adapter::WEIGHTS, pickle::ADAPTER];
/// Read where a repository has them.
const COMPANIONS: [&str; 5] = [
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
];

/// The tokenizer, in the order in which it is looked for.
pub(super) const TOKENIZERS: [&str; 2] = ["tokenizer.json", "tokenizer.model"];

/// How often a request is sent before its trouble is the user's.
const ATTEMPTS: u32 = 5;

/// The hub's listing of a repository at one commit.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Remote>,
}

/// A file of a listing. Mirrors may leave out all but its name.
#[derive(Deserialize)]
struct Remote {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
}

impl Remote {
    /// The name of its blob in the cache.
    fn etag(&self) -> Option<&str> {
        self.lfs.as_ref().and_then(|lfs| lfs.sha256.as_deref()).or(self.blob_id.as_deref())
    }

    /// Whether `path` holds all of it.
    fn is_whole_at(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|found| self.size.is_none_or(|size| size == found.len()))
    }
}

/// What `folder` does not have and is of no use without.
pub fn lacking(folder: &Path, kind: Kind) -> Vec<String> {
    let mut wanted = match kind {
        Kind::Adapter => vec![ADAPTER.to_owned(), adapter_weights(|name| folder.join(name).exists()).to_owned()],
        Kind::Model => [CONFIG.to_owned()].into_iter().chain(weights(folder)).collect(),
    };
    wanted.retain(|name| !folder.join(name).exists());
    wanted
}

/// The files that hold a model's weights, as far as `folder` can tell.
fn weights(folder: &Path) -> BTreeSet<String> {
    let has = |name: &str| folder.join(name).exists();
    let (whole, index) = model_weights(has);
    let listed = if has(whole) { None } else { shards(&folder.join(index)).ok() };
    listed.unwrap_or_else(|| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        unlisted(whole, &names)
    })
}

/// The files of the weights where no index lists any: `whole` if it is one of `names`, else the shards that they number.
fn unlisted(whole: &str, names: &[impl AsRef<str>]) -> BTreeSet<String> {
    let names = || names.iter().map(AsRef::as_ref);
    let numbered = WEIGHTS.iter().map(|(whole, _)| shard_names(names(), whole)).find(|shards| !shards.is_empty());
    let numbered = numbered.filter(|_| names().all(|name| name != whole));
    numbered.unwrap_or_else(|| [whole.to_owned()].into())
}

/// What the weights of a model are called among the files that `has` tells of: whole, and the list of their shards.
fn model_weights(has: impl Fn(&str) -> bool) -> (&'static str, &'static str) {
    let found = WEIGHTS.into_iter().find(|&(whole, index)| has(whole) || has(index));
    found.unwrap_or(WEIGHTS[0])
}

/// What an adapter's tensors are called among the files that `has` tells of.
fn adapter_weights(has: impl Fn(&str) -> bool) -> &'static str {
    ADAPTER_WEIGHTS.into_iter().find(|name| has(name)).unwrap_or(ADAPTER_WEIGHTS[0])
}

/// The files that an index spreads the weights over.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } = text::json(index, &text::read(index)?, 0)?;
    Ok(weight_map.into_values().collect())
}

impl Hub {
    /// Fetches what `spec` lacks in the cache and returns its snapshot there. The revision's ref is written last, so
    /// that it never names a snapshot that is not whole.
    pub(super) fn download(&self, spec: &Spec, kind: Kind) -> Result<PathBuf> {
        let api = self.api().map_err(|e| Trouble::from(e).explain(self, spec))?;
        let listing = self.patiently(|| listing(&api, spec)).map_err(|trouble| trouble.explain(self, spec))?;
        let root = self.cache.join(spec.repo().folder_name());
        let fetch = Fetch {
            hub: self,
            spec: *spec,
            repo: api.repo(spec.repo_at(&listing.sha)),
            folder: root.join("snapshots").join(&listing.sha),
            blobs: root.join("blobs"),
            files: listing.siblings,
        };
        match kind {
            Kind::Adapter => fetch.adapter()?,
            Kind::Model => fetch.model()?,
        }
        let cache = Cache::new(self.cache.clone()).repo(spec.repo());
        cache.create_ref(&listing.sha).map_err(|e| unwritable(&self.cache, e))?;
        Ok(fetch.folder)
    }

    fn api(&self) -> Result<Api, ApiError> {
        ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.trim_end_matches('/').to_owned())
            .with_token(self.token.clone())
            .with_user_agent("vicugna", env!("CARGO_PKG_VERSION"))
            .build()
    }

    /// Asks again, each time after twice the wait, while the trouble may pass.
    fn patiently<T>(&self, ask: impl Fn() -> Result<T, Trouble>) -> Result<T, Trouble> {
        for attempt in 0..ATTEMPTS - 1 {
            match ask() {
                Err(trouble) if trouble.may_pass() => std::thread::sleep(self.backoff * 2u32.pow(attempt)),
                answer => return answer,
            }
        }
        ask()
    }
}

fn listing(api: &Api, spec: &Spec) -> Result<Listing, Trouble> {
    let request = api.repo(spec.repo()).info_request().query("blobs", "true");
    let answer = request.call().map_err(|e| ApiError::RequestError(Box::new(e)))?;
    let text = answer.into_string().map_err(ApiError::IoError)?;
    let listing: Listing = serde_json::from_str(&text).map_err(|e| Trouble::Foreign(e.into()))?;
    if is_commit(&listing.sha) { Ok(listing) } else { Err(Trouble::Foreign("its listing names no commit".into())) }
}

/// The download of one commit.
struct Fetch<'a> {
    hub: &'a Hub,
    spec: Spec<'a>,
    repo: ApiRepo,
    folder: PathBuf,
    blobs: PathBuf,
    files: Vec<Remote>,
}

impl Fetch<'_> {
    /// The weights come last: a snapshot that has them has everything.
    fn model(&self) -> Result<()> {
        self.file(CONFIG)?;
        self.companions()?;
        let (whole, index) = model_weights(|name| self.has(name));
        let files = if !self.has(whole) && self.has(index) {
            self.file(index)?;
            let mut listed = shards(&self.folder.join(index))?;
            listed.retain(|name| self.has(name)); // the model may not need it
            listed
        } else {
            unlisted(whole, &self.files.iter().map(|file| file.rfilename.as_str()).collect::<Vec<_>>())
        };
        files.iter().try_for_each(|name| self.file(name))
    }

    fn adapter(&self) -> Result<()> {
        self.file(ADAPTER)?;
        self.companions()?;
        self.file(adapter_weights(|name| self.has(name)))
    }

    fn companions(&self) -> Result<()> {
        let tokenizer = TOKENIZERS.into_iter().find(|name| self.has(name));
        let companions = COMPANIONS.into_iter().filter(|name| self.has(name));
        companions.chain(tokenizer).try_for_each(|name| self.file(name))
    }

    fn has(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.rfilename == name)
    }

    /// Fetches `name` unless the snapshot has it whole.
    fn file(&self, name: &str) -> Result<()> {
        let listed = self.files.iter().find(|file| file.rfilename == name);
        let is_plain = Path::new(name).file_name().is_some_and(|file| file == name);
        let file = listed.filter(|_| is_plain).ok_or_else(|| self.absent(name))?;
        let path = self.folder.join(name);
        if file.is_whole_at(&path) {
            return Ok(());
        }
        let fetched = self.hub.patiently(|| self.attempt(file, &path));
        fetched.map_err(|trouble| trouble.explain(self.hub, &self.spec))
    }

    fn attempt(&self, file: &Remote, path: &Path) -> Result<(), Trouble> {
        discard(path);
        let progress = FileProgress::new(self.hub.quiet);
        if let Err(trouble) = self.repo.download_with_progress(&file.rfilename, progress) {
            self.discard_full_part(file);
            return Err(trouble.into());
        }
        if file.is_whole_at(path) {
            return Ok(());
        }
        discard(path);
        Err(Trouble::Broken(format!("{} came shorter or longer than the hub lists it", file.rfilename).into()))
    }

    /// A process killed between the last byte and the rename leaves a part that no range request can go on with.
    fn discard_full_part(&self, file: &Remote) {
        let Some((etag, size)) = file.etag().zip(file.size) else { return };
        let part = self.blobs.join(etag).with_extension("part");
        if std::fs::metadata(&part).is_ok_and(|found| found.len() >= size) {
            let _ = std::fs::remove_file(part); // if it stays, the next attempt fails as this one did
        }
    }

    /// Why `name` cannot be had, and what the repository has instead.
    fn absent(&self, name: &str) -> Error {
        let ending = |suffix: &str| -> Vec<&str> {
            self.files.iter().map(|file| file.rfilename.as_str()).filter(|name| name.ends_with(suffix)).collect()
        };
        let hint = if name == CONFIG && self.has(ADAPTER) {
            "it holds an adapter: give it as --adapter, and the model it was made for as --model".to_owned()
        } else if name == ADAPTER && self.has(CONFIG) {
            "it holds a model, not an adapter".to_owned()
        } else if !ending(".gguf").is_empty() {
            let split =
                if ending(".gguf").iter().any(|name| name.contains("-of-")) { ", all parts of it," } else { "" };
            format!("download one of its GGUF files{split} and give its path: {}", ending(".gguf").join(", "))
        } else if self.has("consolidated.00.pth") || self.has("original/consolidated.00.pth") {
            "it holds Meta's own release: name the model's repository in transformers' format".into()
        } else {
            format!("see {}/{}/tree/{}", self.hub.endpoint, self.spec.name, self.spec.revision)
        };
        Error::hub(self.spec, format!("the repository has no {name}")).with_hint(hint)
    }
}

/// Removes a file of a snapshot and the blob it links to, if there is one.
fn discard(path: &Path) {
    if let Ok(blob) = std::fs::canonicalize(path) {
        let _ = std::fs::remove_file(blob); // what stays in the way is reported by the download that follows
    }
    let _ = std::fs::remove_file(path);
}
