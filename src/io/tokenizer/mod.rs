//! Text to token ids and back, as the model was trained with.

mod added;
mod chat;
mod ends;
mod folder;
mod gguf;
mod pretokenize;
mod sentencepiece;
mod spans;
mod stream;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub use chat::{Conversation, Rendered, now};
use jiff::civil::DateTime;
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
    /// The ends of a text that its files name.
    ends: Vec<u32>,
    /// The files of tokens that are from another file than the rest.
    sources: HashMap<u32, PathBuf>,
    /// For texts in which special tokens are text.
    respelled: OnceLock<Option<spans::Respelled>>,
    /// The config's chat templates, made ready.
    templates: OnceLock<chat::Templates>,
    /// What chat templates take for now.
    date: DateTime,
}

impl Tokenizer {
    /// A tokenizer of which nothing is known but its vocabulary.
    fn bare(path: &Path, inner: tokenizers::Tokenizer) -> Self {
        let (config, ends, sources) = (Map::new(), Vec::new(), HashMap::new());
        let (respelled, templates, date) = (OnceLock::new(), OnceLock::new(), chat::now());
        Self { path: path.to_owned(), inner, config, ends, sources, respelled, templates, date }
    }

    /// Makes the tokenizer do what is known of it.
    fn settle(&mut self) -> Result<()> {
        // A text is cut where it is used, and says so.
        self.inner.with_truncation(None).map_err(|e| tokenizer_error(&self.path, e))?;
        self.inner.with_padding(None);
        self.settle_beginning()?;
        let processor = self.inner.get_post_processor().cloned().map(spans::with_whole_spans);
        self.inner.with_post_processor(processor);
        (self.respelled, self.templates) = (OnceLock::new(), OnceLock::new());
        Ok(())
    }

    /// The ids of `text`. Special tokens written in the text are recognised. `add_special` adds those that the tokenizer
    /// puts before a text: for most Llamas, a beginning-of-text token, unless the text begins with one. Nothing is ever
    /// put after it, whatever the tokenizer's files say: a prompt goes on, and training adds the end itself.
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

    /// The token with this id, if it is a special one, which texts leave out.
    pub fn special_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id).filter(|token| self.inner.get_added_vocabulary().is_special_token(token))
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.special_id("bos_token")
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.special_id("eos_token")
    }

    /// Refuses the first of `ids` that is beyond the `rows` of a model's embedding.
    ///
    /// # Errors
    /// [`Error::File`], which names the token and the file that it is from.
    pub fn refuse_beyond(&self, ids: &[u32], rows: usize) -> Result<()> {
        let Some(&id) = ids.iter().find(|&&id| id as usize >= rows) else { return Ok(()) };
        let token = self.content(id).unwrap_or_default();
        Err(Error::file(self.source(id), format!("token {token:?} has id {id}, but the model's embedding {rows} rows"))
            .with_hint("use the tokenizer that the model came with, or the model that was resized for this tokenizer"))
    }

    /// Refuses a tokenizer with added tokens beyond the `rows` of a model's embedding. One that only pads is never used.
    ///
    /// # Errors
    /// Those of [`Self::refuse_beyond`].
    pub fn refuse_larger(&self, rows: usize) -> Result<()> {
        let mut ids: Vec<u32> = self.inner.get_added_tokens_decoder().into_keys().collect();
        ids.retain(|&id| Some(id) != self.special_id("pad_token"));
        ids.sort_unstable();
        self.refuse_beyond(&ids, rows)
    }

    /// This tokenizer with another chat template.
    #[must_use]
    pub fn with_chat_template(mut self, template: &str) -> Self {
        self.config.insert("chat_template".to_owned(), template.into());
        self.templates = OnceLock::new();
        self
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

    /// Lets `add_bos_token` of the config, where it is there, decide what is put before a text, and puts nothing after it.
    fn settle_beginning(&mut self) -> Result<()> {
        let (before, after) = self.around()?;
        let wanted = match self.config.get("add_bos_token").and_then(Value::as_bool) {
            Some(true) => vec![self.bos().ok_or_else(|| self.no_bos())?],
            Some(false) => Vec::new(),
            None => before.clone(),
        };
        if wanted != before || after > 0 {
            let processor = self.beginning(&wanted).map_err(|e| tokenizer_error(&self.path, e.into()))?;
            self.inner.with_post_processor(Some(processor));
        }
        Ok(())
    }

    /// The tokens that the post-processor puts before a text, and the number of those after it.
    fn around(&self) -> Result<(Vec<u32>, usize)> {
        // Any text with a token will do. An added token always is one.
        let added = self.inner.get_added_vocabulary().get_vocab().keys().next();
        let text = added.map_or("a", String::as_str);
        let encoding = self.inner.encode(text, true).map_err(|e| tokenizer_error(&self.path, e))?;
        let mask = encoding.get_special_tokens_mask();
        let is_put = |&&put: &&u32| put == 1;
        let before = mask.iter().take_while(is_put).count();
        let ids = encoding.get_ids().get(..before).unwrap_or_default().to_vec();
        Ok((ids, mask.iter().skip(before).rev().take_while(is_put).count()))
    }

    fn no_bos(&self) -> Error {
        Error::file(&self.path, "add_bos_token is true, but bos_token is not a token of the vocabulary")
    }

    /// What puts `before` before a text.
    fn beginning(&self, before: &[u32]) -> serde_json::Result<PostProcessorWrapper> {
        let named: Vec<(u32, String)> =
            before.iter().map(|&id| (id, self.inner.id_to_token(id).unwrap_or_default())).collect();
        let text = |side: &str, type_id: u32| {
            let token = |(_, token): &(u32, String)| json!({"SpecialToken": {"id": token, "type_id": type_id}});
            let sequence = json!({"Sequence": {"id": side, "type_id": type_id}});
            named.iter().map(token).chain([sequence]).collect::<Vec<Value>>()
        };
        let tokens =
            named.iter().map(|(id, token)| (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]})));
        serde_json::from_value(json!({
            "type": "TemplateProcessing",
            "single": text("A", 0),
            "pair": ([text("A", 0), text("B", 1)].concat()),
            "special_tokens": tokens.collect::<Map<_, _>>(),
        }))
    }
}

fn tokenizer_error(path: &Path, source: tokenizers::Error) -> Error {
    Error::File { path: path.to_owned(), detail: format!("tokenizer: {source}"), hint: None, source: Some(source) }
}
