//! The files of text beside a model's weights, and those that come before them: an adapter's own, and a chat template.

use std::path::{Path, PathBuf};

use super::folder::copy_companions;
use super::model::{ModelFiles, Weights};
use super::text;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

const JSON: &str = "tokenizer.json";
const MODEL: &str = "tokenizer.model";
const CONFIG: &str = "tokenizer_config.json";
/// The file of a chat template.
pub const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// The files that say how a tokenizer works.
pub const TOKENIZER: [&str; 8] =
    [JSON, CONFIG, "special_tokens_map.json", "added_tokens.json", CHAT_TEMPLATE, MODEL, "vocab.json", "merges.txt"];

/// What comes before a model's own files.
#[derive(Default)]
pub(super) struct Own {
    /// An adapter's folder with some of [`TOKENIZER`].
    pub folder: Option<PathBuf>,
    pub chat_template: Option<String>,
}

impl Own {
    /// The tokenizer files of an adapter's folder, or else of the run that it is a checkpoint of.
    pub fn of(adapter: &Path) -> Self {
        let checkpoints = adapter.parent().filter(|parent| parent.ends_with("checkpoints"));
        let run = checkpoints.and_then(Path::parent).map(Path::to_path_buf);
        let folder = [Some(adapter.to_path_buf()), run].into_iter().flatten().find(|folder| !names(folder).is_empty());
        Self { folder, chat_template: None }
    }
}

/// The files of [`TOKENIZER`] that a folder has.
fn names(folder: &Path) -> Vec<&'static str> {
    TOKENIZER.into_iter().filter(|name| folder.join(name).is_file()).collect()
}

impl ModelFiles {
    /// The model's files with the chat template in the file `path`, whatever others there are.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read or is empty.
    pub fn with_chat_template(mut self, path: &Path) -> Result<Self> {
        let template = text::read(path)?;
        if template.trim().is_empty() {
            return Err(Error::file(path, "is empty").with_hint("a chat template is a file of Jinja"));
        }
        self.own.chat_template = Some(template);
        Ok(self)
    }

    /// Which files of the adapter's folder are used in place of the model's.
    pub fn own_text(&self) -> Option<String> {
        let folder = self.own.folder.as_ref()?;
        Some(format!("{}: its own {} are used, not the model's", folder.display(), names(folder).join(", ")))
    }

    /// The tokenizer that goes with the model: the adapter's where it has one, else the model's, with what the adapter's
    /// folder says of it.
    ///
    /// # Errors
    /// [`Error::File`] if there is none, it cannot be read, or the adapter's has tokens that the model has no rows for.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = match &self.own.folder {
            None => self.base_tokenizer()?,
            Some(own) if ![JSON, MODEL].iter().any(|name| own.join(name).is_file()) => {
                self.base_tokenizer()?.with_files_of(own)?
            }
            Some(own) => {
                let tokenizer = Tokenizer::from_folder(own)?;
                tokenizer.refuse_larger(self.config().vocab_size)?;
                match self.base_tokenizer() {
                    Ok(base) => tokenizer.completed_by(base, own.join(CONFIG).is_file())?,
                    Err(_) => tokenizer,
                }
            }
        };
        Ok(match &self.own.chat_template {
            Some(template) => tokenizer.with_chat_template(template),
            None => tokenizer,
        })
    }

    fn base_tokenizer(&self) -> Result<Tokenizer> {
        match &self.weights {
            Weights::Folder(_) => Tokenizer::from_folder(self.path()),
            Weights::Gguf(gguf) => gguf.tokenizer(),
        }
    }

    /// Writes what comes before the model's own files into an adapter's folder: the tokenizer of the adapter that it began
    /// with, and the chat template.
    ///
    /// # Errors
    /// [`Error::File`] if a file cannot be copied.
    pub fn write_own_text(&self, to: &Path) -> Result<()> {
        for (from, name) in
            self.own.folder.iter().flat_map(|from| names(from).into_iter().map(move |name| (from, name)))
        {
            std::fs::copy(from.join(name), to.join(name)).map_err(|e| Error::io(from.join(name), e))?;
        }
        let Some(template) = &self.own.chat_template else { return Ok(()) };
        let path = to.join(CHAT_TEMPLATE);
        std::fs::write(&path, template).map_err(|e| Error::io(path, e))
    }

    /// Writes what goes with the weights, the tokenizer above all, into `folder`.
    pub(super) fn write_companions(&self, folder: &Path) -> Result<()> {
        if let Weights::Folder(_) = &self.weights {
            copy_companions(self.path(), folder)?;
        }
        let is_as_it_was = self.own.folder.is_none() && self.own.chat_template.is_none();
        if is_as_it_was && matches!(self.weights, Weights::Folder(_)) {
            return Ok(());
        }
        for name in names(folder) {
            std::fs::remove_file(folder.join(name)).map_err(|e| Error::io(folder.join(name), e))?;
        }
        self.tokenizer()?.write(folder)
    }
}
