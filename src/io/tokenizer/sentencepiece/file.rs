//! SentencePiece's own file, `tokenizer.model`.
//!
//! Source: `sentencepiece_model.proto` of <https://github.com/google/sentencepiece>, with its defaults.

use std::path::Path;

use serde_json::{Map, Value};

use super::proto::{Wire, each_field};
use super::{CONTROL, NORMAL, Pieces, Prefix, Style, UNKNOWN, USER_DEFINED, added_token};
use crate::error::{Error, Result};
use crate::io::text;
use crate::io::tokenizer::tokenizer_error;

const TRANSFORMERS: &str =
    "let transformers write a tokenizer.json: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)";

/// What the file holds.
struct Model {
    tokens: Vec<String>,
    scores: Vec<f64>,
    kinds: Vec<i64>,
    trainer: Trainer,
    normalizer: Normalizer,
    denormalizer: Normalizer,
}

struct Trainer {
    model_type: u64,
    space_is_suffix: bool,
    byte_fallback: bool,
    bos: i64,
    eos: i64,
    pad: i64,
}

struct Normalizer {
    name: String,
    has_charsmap: bool,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

/// The tokenizer of the SentencePiece model `path`, as `config`, that of tokenizer_config.json, wants it; and what a
/// config would say that leaves it to the model.
///
/// # Errors
/// [`Error::File`] if it is no SentencePiece model, or one of another kind than Llama 2's.
pub(in crate::io::tokenizer) fn read(
    path: &Path,
    config: &Map<String, Value>,
) -> Result<(tokenizers::Tokenizer, Map<String, Value>)> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    text::refuse_pointer(path, &bytes)?;
    if is_tiktoken(&bytes) {
        return Err(Error::file(
            path,
            "is a vocabulary of tiktoken, as Meta publishes Llama 3's, not of SentencePiece",
        )
        .with_hint(format!("get the tokenizer.json of the model's Hugging Face folder, or {TRANSFORMERS}")));
    }
    let model = Model::parse(&bytes);
    let broken = || Error::file(path, "is not a SentencePiece model, or cut off");
    let model = model.ok_or_else(|| text::other_format(path, &bytes).unwrap_or_else(broken))?;
    if let Some(detail) = model.unsupported() {
        return Err(Error::file(path, detail).with_hint(TRANSFORMERS));
    }
    model.tokenizer(path, config)
}

/// Whether the first line is a token in base64 and its rank.
fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let mut words = line.trim_ascii_end().split(|&byte| byte == b' ');
    let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    let is_token = words.next().is_some_and(|token| token.len() >= 4 && token.iter().all(base64));
    is_token && words.next().is_some_and(|rank| !rank.is_empty() && rank.iter().all(u8::is_ascii_digit))
}

impl Model {
    fn parse(file: &[u8]) -> Option<Self> {
        let mut model = Self {
            tokens: Vec::new(),
            scores: Vec::new(),
            kinds: Vec::new(),
            trainer: Trainer { model_type: 1, space_is_suffix: false, byte_fallback: false, bos: 1, eos: 2, pad: -1 },
            normalizer: Normalizer::default(),
            denormalizer: Normalizer::default(),
        };
        each_field(file, |field, value| {
            match (field, value) {
                (1, Wire::Bytes(piece)) => model.add_piece(piece)?,
                (2, Wire::Bytes(spec)) => model.trainer.read(spec)?,
                (3, Wire::Bytes(spec)) => model.normalizer.read(spec)?,
                (5, Wire::Bytes(spec)) => model.denormalizer.read(spec)?,
                _ => {}
            }
            Some(())
        })?;
        (!model.tokens.is_empty()).then_some(model)
    }

    fn add_piece(&mut self, piece: &[u8]) -> Option<()> {
        let (mut token, mut score, mut kind) = (String::new(), 0.0, NORMAL);
        each_field(piece, |field, value| {
            match (field, value) {
                (1, Wire::Bytes(text)) => token = std::str::from_utf8(text).ok()?.to_owned(),
                (2, Wire::Fixed(bits)) => score = f32::from_bits(bits).into(),
                (3, Wire::Number(number)) => kind = number.try_into().ok()?,
                _ => {}
            }
            Some(())
        })?;
        self.tokens.push(token);
        self.scores.push(score);
        self.kinds.push(kind);
        Some(())
    }

    /// What it asks for that is not supported.
    fn unsupported(&self) -> Option<String> {
        let kind = match self.trainer.model_type {
            2 => None,
            1 => Some("unigram"),
            3 => Some("word"),
            4 => Some("char"),
            _ => Some("of an unknown type"),
        };
        if let Some(kind) = kind {
            return Some(format!("is a SentencePiece model {kind}: only bpe, as Llama 2's, is supported"));
        }
        let name = &self.normalizer.name;
        let normalizer = format!("its normalizer {name:?} rewrites characters, which is not supported");
        [
            (self.normalizer.has_charsmap, normalizer.as_str()),
            (self.denormalizer.has_charsmap, "its denormalizer rewrites characters, which is not supported"),
            (!self.normalizer.escape_whitespaces, "escape_whitespaces is false, which is not supported"),
            (self.trainer.space_is_suffix, "treat_whitespace_as_suffix is true, which is not supported"),
        ]
        .into_iter()
        .find_map(|(asked, detail)| asked.then(|| detail.to_owned()))
    }

    fn tokenizer(
        self,
        path: &Path,
        config: &Map<String, Value>,
    ) -> Result<(tokenizers::Tokenizer, Map<String, Value>)> {
        let pieces = Pieces::new(self.tokens, self.kinds).map_err(|detail| Error::file(path, detail))?;
        let defaults = self.trainer.defaults(path, &pieces)?;
        let style = Style {
            unknown: pieces.of(&[UNKNOWN]).next().cloned(),
            byte_fallback: self.trainer.byte_fallback,
            prefix: self.normalizer.prefix(config),
            remove_extra_spaces: self.normalizer.remove_extra_whitespaces,
            whole: pieces.of(&[USER_DEFINED]).cloned().collect(),
        };
        let mut tokenizer = style.tokenizer(&pieces, &self.scores).map_err(|e| tokenizer_error(path, e))?;
        let special = pieces.of(&[UNKNOWN, CONTROL]).map(|token| added_token(token, true));
        tokenizer.add_tokens(special).map_err(|e| tokenizer_error(path, e))?;
        Ok((tokenizer, defaults))
    }
}

impl Trainer {
    fn read(&mut self, spec: &[u8]) -> Option<()> {
        each_field(spec, |field, value| {
            match (field, &value) {
                (3, Wire::Number(kind)) => self.model_type = *kind,
                (24, _) => self.space_is_suffix = value.is_true(),
                (35, _) => self.byte_fallback = value.is_true(),
                (41, Wire::Number(id)) => self.bos = id.cast_signed(),
                (42, Wire::Number(id)) => self.eos = id.cast_signed(),
                (43, Wire::Number(id)) => self.pad = id.cast_signed(),
                _ => {}
            }
            Some(())
        })
    }

    /// The special tokens, and whether they are put around a text, as transformers' LlamaTokenizer has it.
    fn defaults(&self, path: &Path, pieces: &Pieces) -> Result<Map<String, Value>> {
        let mut config = Map::new();
        if let Some(token) = pieces.of(&[UNKNOWN]).next() {
            config.insert("unk_token".to_owned(), token.clone().into());
        }
        for (name, id) in [("bos", self.bos), ("eos", self.eos), ("pad", self.pad)] {
            let Ok(id) = usize::try_from(id) else { continue };
            if let Some(token) = pieces.tokens.get(id) {
                config.insert(format!("{name}_token"), token.clone().into());
            } else if name != "pad" {
                let detail = format!("{name}_id {id} is not one of its {} pieces", pieces.tokens.len());
                return Err(Error::file(path, detail));
            }
        }
        config.insert("add_bos_token".to_owned(), config.contains_key("bos_token").into());
        config.insert("add_eos_token".to_owned(), false.into());
        Ok(config)
    }
}

impl Default for Normalizer {
    fn default() -> Self {
        Self {
            name: String::new(),
            has_charsmap: false,
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        }
    }
}

impl Normalizer {
    fn read(&mut self, spec: &[u8]) -> Option<()> {
        each_field(spec, |field, value| {
            match (field, &value) {
                (1, Wire::Bytes(name)) => self.name = String::from_utf8_lossy(name).into_owned(),
                (2, Wire::Bytes(charsmap)) => self.has_charsmap = !charsmap.is_empty(),
                (3, _) => self.add_dummy_prefix = value.is_true(),
                (4, _) => self.remove_extra_whitespaces = value.is_true(),
                (5, _) => self.escape_whitespaces = value.is_true(),
                _ => {}
            }
            Some(())
        })
    }

    /// The prefix that text gets: tokenizer_config.json, as in transformers, can leave it out, and says by `legacy` whether
    /// text after a special token gets one too.
    fn prefix(&self, config: &Map<String, Value>) -> Prefix {
        let is_false = |key| config.get(key) == Some(&Value::Bool(false));
        match self.add_dummy_prefix && !is_false("add_prefix_space") {
            false => Prefix::Nothing,
            true if is_false("legacy") => Prefix::Text,
            true => Prefix::Stretches,
        }
    }
}
