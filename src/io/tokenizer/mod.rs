//! Text to token ids and back, as the model was trained with.

mod chat;
mod folder;
mod gguf;
mod pretokenize;
mod sentencepiece;
mod spans;
mod stream;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub use chat::Message;
use serde_json::{Map, Value, json};
pub use spans::Token;
pub use stream::DecodeStream;
use tokenizers::PostProcessorWrapper;

use super::atomic;
use crate::error::{Error, Result};

/// A model's tokenizer, with its special tokens and its chat template.
#[derive(Debug)]
pub struct Tokenizer {
    /// The folder or file it came from, for messages.
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    /// What tokenizer_config.json says, or would.
    config: Map<String, Value>,
    /// For texts in which special tokens are text.
    respelled: OnceLock<Option<spans::Respelled>>,
}

impl Tokenizer {
    fn new(path: &Path, inner: tokenizers::Tokenizer, config: Map<String, Value>) -> Result<Self> {
        let mut tokenizer = Self { path: path.to_owned(), inner, config, respelled: OnceLock::new() };
        // A text is cut where it is used, and says so.
        tokenizer.inner.with_truncation(None).map_err(|e| tokenizer_error(path, e))?;
        tokenizer.inner.with_padding(None);
        tokenizer.add_ends()?;
        let processor = tokenizer.inner.get_post_processor().cloned().map(spans::with_whole_spans);
        tokenizer.inner.with_post_processor(processor);
        Ok(tokenizer)
    }

    /// The ids of `text`. Special tokens written in the text are recognised. `add_special` adds those that the tokenizer
    /// puts around a text: for most Llamas, a beginning-of-text token before it, unless the text begins with one.
    ///
    /// # Errors
    /// [`Error::File`] if the tokenizer contradicts itself.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        Ok(self.encode_spans(text, &[], add_special)?.into_iter().map(|token| token.id).collect())
    }

    /// The text of `ids`; bytes that are not UTF-8 become U+FFFD. `skip_special` leaves special tokens out; ids without
    /// a token have no text.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|e| tokenizer_error(&self.path, e))
    }

    /// Decodes ids one by one, as they are generated.
    pub fn stream(&self, skip_special: bool) -> DecodeStream<'_> {
        DecodeStream::new(self, skip_special)
    }

    /// The number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token as the vocabulary spells it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.special_id("bos_token")
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.special_id("eos_token")
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json`, the chat template in it, into the folder `folder`.
    ///
    /// # Errors
    /// [`Error::File`] if they cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let tokenizer = self.inner.to_string(true).map_err(|e| tokenizer_error(&self.path, e))?;
        let config = serde_json::to_string_pretty(&self.config).map_err(|e| tokenizer_error(&self.path, e.into()))?;
        for (name, text) in [("tokenizer.json", tokenizer), ("tokenizer_config.json", config)] {
            let path = folder.join(name);
            atomic::write_file(&path, |file| file.write_all(text.as_bytes()).map_err(|e| Error::io(&path, e)))?;
        }
        Ok(())
    }

    /// The special token that the config names, as a string or as an object with its content.
    fn special(&self, name: &str) -> Option<&str> {
        let value = self.config.get(name)?;
        value.get("content").unwrap_or(value).as_str()
    }

    fn special_id(&self, name: &str) -> Option<u32> {
        self.token_to_id(self.special(name)?)
    }

    /// Lets `add_bos_token` and `add_eos_token` of the config, where there are any, decide what is put around a text.
    fn add_ends(&mut self) -> Result<()> {
        let [bos, eos] = ["add_bos_token", "add_eos_token"].map(|name| self.config.get(name).and_then(Value::as_bool));
        if bos.is_none() && eos.is_none() {
            return Ok(());
        }
        let empty = self.encode("", true)?;
        let adds_bos = self.bos().is_some_and(|id| empty.first() == Some(&id));
        let adds_eos = self.eos().is_some_and(|id| empty.iter().skip(adds_bos.into()).next_back() == Some(&id));
        let (bos, eos) = (bos.unwrap_or(adds_bos), eos.unwrap_or(adds_eos));
        let mut ends = Vec::new();
        for name in [bos.then_some("bos_token"), eos.then_some("eos_token")].into_iter().flatten() {
            let known = self.special(name).zip(self.special_id(name));
            let (token, id) = known.ok_or_else(|| {
                Error::file(&self.path, format!("add_{name} is true, but {name} is not a token of the vocabulary"))
            })?;
            ends.push((token.to_owned(), id));
        }
        let processor = template(&ends, bos).map_err(|e| tokenizer_error(&self.path, e.into()))?;
        self.inner.with_post_processor(Some(processor));
        Ok(())
    }
}

/// Puts the first of `ends` before a text if there is a `bos`, and what is left after it.
fn template(ends: &[(String, u32)], bos: bool) -> serde_json::Result<PostProcessorWrapper> {
    let (before, after) = ends.split_at(usize::from(bos));
    let text = |side: &str, type_id: u32| {
        let token = |(token, _): &(String, u32)| json!({"SpecialToken": {"id": token, "type_id": type_id}});
        let sequence = std::iter::once(json!({"Sequence": {"id": side, "type_id": type_id}}));
        before.iter().map(token).chain(sequence).chain(after.iter().map(token)).collect::<Vec<Value>>()
    };
    let tokens = ends.iter().map(|(token, id)| (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]})));
    serde_json::from_value(json!({
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": ([text("A", 0), text("B", 1)].concat()),
        "special_tokens": tokens.collect::<Map<_, _>>(),
    }))
}

fn tokenizer_error(path: &Path, source: tokenizers::Error) -> Error {
    Error::File { path: path.to_owned(), detail: format!("tokenizer: {source}"), hint: None, source: Some(source) }
}
