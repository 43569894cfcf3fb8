//! Tokenizers of Hugging Face folders.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::{Tokenizer, added, chat, sentencepiece, tokenizer_error};
use crate::error::{Error, Result};
use crate::io::text;

impl Tokenizer {
    /// Reads the tokenizer of a folder, `tokenizer.json` or else SentencePiece's `tokenizer.model`, and, where they are,
    /// `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json` and `chat_template.jinja`. Tokens that only
    /// these name are added as in transformers.
    ///
    /// # Errors
    /// [`Error::File`] if there is no tokenizer, one of them cannot be read, or they contradict each other: the message
    /// names file and token.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let (inner, defaults) = read_tokenizer(folder, &read_object(&folder.join(added::CONFIG))?)?;
        let mut tokenizer = Self::bare(folder, inner);
        tokenizer.config = defaults;
        tokenizer.take_files(folder)?;
        tokenizer.settle()?;
        Ok(tokenizer)
    }

    /// This tokenizer with what the files of `folder` beside tokenizer.json say.
    ///
    /// # Errors
    /// Those of [`Self::from_folder`].
    pub fn with_files_of(mut self, folder: &Path) -> Result<Self> {
        self.take_files(folder)?;
        self.settle()?;
        Ok(self)
    }

    /// This tokenizer with the chat template of `base` if it has none itself, and with all of its config unless this one
    /// `has_config`.
    ///
    /// # Errors
    /// Those of [`Self::from_folder`].
    pub fn completed_by(mut self, base: Self, has_config: bool) -> Result<Self> {
        let taken = |name: &str| name == "chat_template" || !has_config && name != added::DECODER;
        for (name, value) in base.config.into_iter().filter(|(name, _)| taken(name)) {
            self.config.entry(name).or_insert(value);
        }
        self.ends.extend(self.eos());
        self.settle()?;
        Ok(self)
    }

    /// Takes the config of `folder` and its tokens. As in transformers special_tokens_map.json comes before the config,
    /// and added_tokens.json gives tokens, unless the config itself lists tokens with their ids.
    fn take_files(&mut self, folder: &Path) -> Result<()> {
        let mut config = read_object(&folder.join(added::CONFIG))?;
        let specials = read_object(&folder.join("special_tokens_map.json"))?;
        let ends = [&config, &specials].map(|file| added::content(file.get("eos_token")?).map(str::to_owned));
        let mut claims = added::decoder(folder, &config)?;
        let is_listed = config.contains_key(added::DECODER);
        if !is_listed {
            for (name, value) in specials {
                added::put(&mut config, name, value);
            }
        }
        claims.extend(added::listed(folder, &config, &read_object(&folder.join(added::ADDED))?)?);
        self.refuse_contradictions(folder, &claims)?;
        claims.retain(|claim| self.takes(claim, is_listed));
        self.add(folder, claims, &config)?;
        if let Some(templates) = chat::of_folder(folder)? {
            config.insert("chat_template".to_owned(), templates);
        }
        self.config.append(&mut config);
        let named = ends.into_iter().flatten().filter_map(|end| self.inner.token_to_id(&end));
        let ends: Vec<u32> = named.chain(self.eos()).collect();
        self.ends.extend(ends);
        Ok(())
    }
}

/// The tokenizer of a folder with this `config`, and what its file says in the config's place.
fn read_tokenizer(folder: &Path, config: &Map<String, Value>) -> Result<(tokenizers::Tokenizer, Map<String, Value>)> {
    let [json, model] = ["tokenizer.json", "tokenizer.model"].map(|name| folder.join(name));
    let Some(text) = text::read_if_there(&json)? else {
        return if model.exists() { sentencepiece::read(&model, config) } else { Err(no_tokenizer(folder)) };
    };
    refuse_unfillable_parts(&json, &text)?;
    refuse_overlong_merges(&json, &text)?;
    let inner = text.parse().map_err(|e| tokenizer_error(&json, e))?;
    refuse_misplaced_tokens(&json, &text, &inner)?;
    Ok((inner, Map::new()))
}

/// Refuses tokens whose ids are not those that they come to by their places.
fn refuse_misplaced_tokens(path: &Path, text: &str, inner: &tokenizers::Tokenizer) -> Result<()> {
    #[derive(Deserialize)]
    struct Tokens {
        added_tokens: Vec<Token>,
    }
    #[derive(Deserialize)]
    struct Token {
        id: u32,
        content: String,
    }
    let Ok(Tokens { added_tokens }) = serde_json::from_str(text) else { return Ok(()) };
    added_tokens.iter().try_for_each(|token| added::refuse_misplaced(path, inner, token.id, &token.content))
}

fn no_tokenizer(folder: &Path) -> Error {
    let hint = if folder.join("tekken.json").exists() {
        "tekken.json is Mistral's own format: get the tokenizer.json of the model's Hugging Face folder"
    } else if folder.join("vocab.json").exists() {
        "vocab.json and merges.txt alone are not read: transformers writes a tokenizer.json from them when it saves"
    } else {
        "get the model's tokenizer files too: tokenizer.json and tokenizer_config.json"
    };
    Error::file(folder, "has neither tokenizer.json nor tokenizer.model").with_hint(hint)
}

fn read_object(path: &Path) -> Result<Map<String, Value>> {
    text::read_if_there(path)?.map_or_else(|| Ok(Map::new()), |content| text::json(path, &content, 0))
}

/// Refuses a decoder that is not JSON, and a template with something other than the text and the tokens it lists: the
/// `tokenizers` crate panics on them.
fn refuse_unfillable_parts(path: &Path, content: &str) -> Result<()> {
    let parts: Parts = text::json(path, content, 0)?;
    let Some(piece) = unfillable(&parts.post_processor) else { return Ok(()) };
    Err(Error::file(path, format!("post_processor: {piece} is neither the text nor one of its special_tokens")))
}

/// The piece of a template for one text that has no tokens.
fn unfillable(processor: &Value) -> Option<&Value> {
    if let Some(parts) = processor["processors"].as_array() {
        return parts.iter().find_map(unfillable);
    }
    let has_tokens = |piece: &&Value| match piece["SpecialToken"]["id"].as_str() {
        Some(token) => processor["special_tokens"].get(token).is_some(),
        None => piece["Sequence"]["id"] == "A",
    };
    processor["single"].as_array()?.iter().find(|piece| !has_tokens(piece))
}

/// Read in full, unlike what is passed over.
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    post_processor: Value,
    #[serde(default, rename = "decoder")]
    _decoder: Value,
}

/// Refuses a merge that makes more than the longest token: the `tokenizers` crate panics on it.
fn refuse_overlong_merges(path: &Path, text: &str) -> Result<()> {
    let Ok(Outline { model }) = serde_json::from_str::<Outline>(text) else { return Ok(()) };
    let longest = model.vocab.keys().map(|token| token.len()).max().unwrap_or(0);
    let prefix = model.continuing_subword_prefix.unwrap_or_default().len();
    for (i, merge) in model.merges.iter().enumerate() {
        let (left, right) = match merge {
            Merge::Pair(left, right) => (left.as_ref(), right.as_ref()),
            Merge::Line(line) => line.split_once(' ').unwrap_or((line, "")),
        };
        if right.len() < prefix || left.len() + right.len() - prefix > longest {
            return Err(Error::file(path, format!("merge {i}, {left:?} and {right:?}, makes no token")));
        }
    }
    Ok(())
}

/// The part of a BPE tokenizer.json that [`refuse_overlong_merges`] looks at.
#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(borrow)]
    vocab: HashMap<Cow<'a, str>, IgnoredAny>,
    #[serde(borrow)]
    merges: Vec<Merge<'a>>,
    continuing_subword_prefix: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge<'a> {
    Pair(#[serde(borrow)] Cow<'a, str>, #[serde(borrow)] Cow<'a, str>),
    Line(#[serde(borrow)] Cow<'a, str>),
}
