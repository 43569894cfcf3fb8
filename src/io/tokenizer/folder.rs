//! Tokenizers of Hugging Face folders.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::{Tokenizer, sentencepiece, tokenizer_error};
use crate::error::{Error, Result};
use crate::io::text;

impl Tokenizer {
    /// Reads the tokenizer of a folder, `tokenizer.json` or else SentencePiece's `tokenizer.model`, and, where they are,
    /// `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja`.
    ///
    /// # Errors
    /// [`Error::File`] if there is no tokenizer, or one of them cannot be read.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let mut config = read_object(&folder.join("tokenizer_config.json"))?;
        let (inner, defaults) = read_tokenizer(folder, &config)?;
        for (name, token) in read_object(&folder.join("special_tokens_map.json"))? {
            config.entry(name).or_insert(token);
        }
        for (name, value) in defaults {
            config.entry(name).or_insert(value);
        }
        if let Some(template) = text::read_if_there(&folder.join("chat_template.jinja"))? {
            config.insert("chat_template".to_owned(), Value::String(template));
        }
        Self::new(folder, inner, config)
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
    Ok((inner, Map::new()))
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
