//! What goes wrong on the way to the hub, and what the user is told about it.

use std::io;
use std::path::Path;

use hf_hub::api::sync::ApiError;

use super::Hub;
use super::spec::Spec;
use crate::error::{Error, Source};

/// hf-hub's errors, sorted by what can be done about them.
#[derive(Debug)]
pub enum Trouble {
    /// The hub answered with an error status; `code` and `message` are its `X-Error-*` headers.
    Refused { status: u16, code: String, message: String, source: Source },
    /// No answer: no network, no name service, a wrong proxy.
    Unreachable(Source),
    /// The connection broke, or what came is not what was announced.
    Broken(Source),
    /// The cache could not be written.
    Local(io::Error),
    /// Another process is downloading the same file.
    Busy(Source),
    /// The server does not speak as the hub does.
    Foreign(Source),
}

impl Trouble {
    /// Whether the same request may succeed in a moment.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(status, 416 | 429 | 500..=599),
            Self::Broken(_) => true,
            _ => false,
        }
    }

    /// The error for the user, who asked for `spec`.
    pub fn explain(self, hub: &Hub, spec: &Spec) -> Error {
        match self {
            Self::Refused { status, code, message, source } => refused(hub, spec, status, &code, &message, source),
            Self::Unreachable(source) => error(spec, format!("{} cannot be reached: {source}", hub.endpoint), source)
                .with_hint(
                    "check the network and the proxy, set HF_HUB_OFFLINE=1 to use what is cached, or give a folder",
                ),
            Self::Broken(source) => error(spec, format!("the download broke off: {source}"), source)
                .with_hint("run it again: it goes on where it stopped"),
            Self::Busy(source) => error(spec, format!("another process is downloading it: {source}"), source)
                .with_hint("run it again when the other is done"),
            Self::Foreign(source) => {
                error(spec, format!("{} does not answer like a hub: {source}", hub.endpoint), source)
                    .with_hint("check HF_ENDPOINT and the proxy")
            }
            Self::Local(source) => unwritable(&hub.cache, source),
        }
    }
}

impl From<ApiError> for Trouble {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::RequestError(error) => {
                let (kind, text) = (io_kind(&*error), error.to_string());
                match error.into_response() {
                    Some(response) => Self::Refused {
                        status: response.status(),
                        code: response.header("x-error-code").unwrap_or_default().to_owned(),
                        message: response.header("x-error-message").unwrap_or(response.status_text()).to_owned(),
                        source: text.into(),
                    },
                    None if kind.is_some_and(is_broken) => Self::Broken(text.into()),
                    None => Self::Unreachable(text.into()),
                }
            }
            ApiError::IoError(error) if is_broken(error.kind()) => Self::Broken(error.into()),
            ApiError::IoError(error) => Self::Local(error),
            ApiError::LockAcquisition(_) => Self::Busy(error.into()),
            ApiError::InvalidResume => Self::Broken(error.into()),
            error => Self::Foreign(error.into()),
        }
    }
}

/// The kind of the I/O error under `error`, where there is one.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind)
}

fn is_broken(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut | UnexpectedEof)
}

/// A repository that a stranger may not see answers as one that does not exist, so neither is told from the other.
fn refused(hub: &Hub, spec: &Spec, status: u16, code: &str, message: &str, source: Source) -> Error {
    let page = format!("{}/{}", hub.endpoint, spec.name);
    let token = "HF_TOKEN to a token from https://huggingface.co/settings/tokens";
    let (detail, hint) = match (status, code, &hub.token) {
        (401 | 403, "GatedRepo", None) => (
            format!("the model is gated and no token was sent (HTTP {status})"),
            format!("accept its licence at {page}, then set {token}"),
        ),
        (401 | 403, "GatedRepo", Some(_)) => (
            format!("the model is gated and your token has no access to it (HTTP {status}: {message})"),
            format!("accept its licence at {page} with the account of the token, and let the token read gated models"),
        ),
        (404, "RevisionNotFound", _) => {
            (format!("there is no revision {:?} (HTTP {status})", spec.revision), format!("see {page}/tree/main"))
        }
        (401 | 403 | 404, _, None) => (
            format!("not found, or private, or gated (HTTP {status}: {message})"),
            format!(
                "check the spelling at {page}; for a private or gated model accept its licence there and set {token}"
            ),
        ),
        (401, _, Some(_)) => (
            format!("your token was refused (HTTP {status}: {message})"),
            format!("set {token} that is valid, or unset it"),
        ),
        (403 | 404, _, Some(_)) => (
            format!("not found, or not open to your token (HTTP {status}: {message})"),
            format!("check the spelling at {page}, and what the token may read"),
        ),
        (429 | 500..=599, ..) => {
            (format!("the hub is overloaded (HTTP {status}: {message})"), "wait a while and run it again".into())
        }
        _ => (format!("the hub answered HTTP {status}: {message}"), format!("see {page}")),
    };
    error(spec, detail, source).with_hint(hint)
}

fn error(spec: &Spec, detail: String, source: Source) -> Error {
    Error::Hub { repo: spec.to_string(), detail, hint: None, source: Some(source) }
}

/// The error of a cache that cannot be written.
pub fn unwritable(cache: &Path, source: io::Error) -> Error {
    Error::io(cache, source)
        .with_hint("make room or name another folder: HF_HOME for the hub's cache, VICUGNA_CACHE for ours")
}
