//! Tokenizers of GGUF files, from their metadata.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BPE, Merges, Vocab};

use super::pretokenize::{self, PreTokenizer};
use super::sentencepiece::{CONTROL, NORMAL, Pieces, Prefix, Style, UNKNOWN, USER_DEFINED, added_token};
use super::{Tokenizer, tokenizer_error};
use crate::error::Result;
use crate::io::WeightSource;
use crate::io::gguf::Gguf;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";

impl Gguf {
    /// The tokenizer that the metadata describes: byte-level BPE (`gpt2`), or SentencePiece (`llama`).
    ///
    /// # Errors
    /// [`Error::File`](crate::error::Error::File) if it is of another kind or splits text in an unknown way, or if the
    /// metadata is incomplete or contradicts itself; the message names the key.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let pieces = read_pieces(self)?;
        match self.require(MODEL, self.string(MODEL)?)? {
            "gpt2" => {
                let pre = pre_tokenizer(self)?;
                let inner = byte_level(self, &pieces, pre)?;
                finish(self, &pieces, inner, pre.add_bos, [None; 3])
            }
            "llama" => {
                let inner = sentence_piece(self, &pieces)?;
                finish(self, &pieces, inner, true, [Some(1), Some(2), Some(0)])
            }
            other => Err(self.key_error(MODEL, format!("must be gpt2 or llama, is {other}"))),
        }
    }
}

fn read_pieces(gguf: &Gguf) -> Result<Pieces> {
    let tokens = gguf.require(TOKENS, gguf.strings(TOKENS)?)?;
    // llama.cpp's name for a token without text
    let named =
        |(id, token): (usize, &&str)| if token.is_empty() { format!("[EMPTY_{id}]") } else { (*token).to_owned() };
    let tokens: Vec<String> = tokens.iter().enumerate().map(named).collect();
    let kinds = gguf.integers(KINDS)?.unwrap_or_else(|| vec![NORMAL; tokens.len()]);
    if kinds.len() != tokens.len() {
        return Err(gguf.key_error(KINDS, format!("{} types for {} tokens", kinds.len(), tokens.len())));
    }
    Pieces::new(tokens, kinds).map_err(|detail| gguf.key_error(TOKENS, detail))
}

/// The token with the id that `tokenizer.ggml.NAME_token_id` names; else the one with the id `default`, if there is
/// one. An id that is none of the tokens is an error if the token is `needed`, else as good as none: llama.cpp warns.
fn named<'a>(
    gguf: &Gguf,
    pieces: &'a Pieces,
    name: &str,
    default: Option<u32>,
    needed: bool,
) -> Result<Option<&'a String>> {
    let key = format!("{name}_token_id");
    let token = |id: u32| pieces.tokens.get(id as usize);
    match gguf.token_id(&key)? {
        Some(id) if needed && token(id).is_none() => {
            let detail = format!("{id} is not one of {} tokens", pieces.tokens.len());
            Err(gguf.key_error(&format!("tokenizer.ggml.{key}"), detail))
        }
        id => Ok(id.and_then(token).or_else(|| token(default?))),
    }
}

fn pre_tokenizer(gguf: &Gguf) -> Result<&'static PreTokenizer> {
    let hint = || format!("known are {}", pretokenize::names());
    let Some(name) = gguf.string(PRE)? else {
        let error = gguf.key_error(PRE, "is missing: it says how text is split into words");
        return Err(error.with_hint("the file was made by an old converter: convert the model again"));
    };
    pretokenize::find(name).ok_or_else(|| gguf.key_error(PRE, format!("{name:?} is not known")).with_hint(hint()))
}

fn byte_level(gguf: &Gguf, pieces: &Pieces, pre: &PreTokenizer) -> Result<tokenizers::Tokenizer> {
    let merges = listed_merges(gguf, &pieces.vocab)?;
    let model = BPE::builder().vocab_and_merges(pieces.vocab.clone(), merges).ignore_merges(pre.ignore_merges);
    let model = model.build().map_err(|e| tokenizer_error(gguf.path(), e))?;
    let mut inner = tokenizers::Tokenizer::new(model);
    let split = |regex| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let steps: Vec<Value> = pre.regexes.iter().map(split).chain([bytes.clone()]).collect();
    inner.with_pre_tokenizer(Some(component::<tokenizers::PreTokenizerWrapper>(
        gguf,
        json!({"type": "Sequence", "pretokenizers": steps}),
    )?));
    inner.with_decoder(Some(component::<tokenizers::DecoderWrapper>(gguf, bytes)?));
    Ok(inner)
}

/// The merges of the file, best first.
fn listed_merges(gguf: &Gguf, vocab: &Vocab) -> Result<Merges> {
    let merges = gguf.require(MERGES, gguf.strings(MERGES)?)?;
    let parse = |(i, merge): (usize, &&str)| {
        // The left half is never empty, but may begin with a space.
        let space = merge.char_indices().skip(1).find(|(_, c)| *c == ' ');
        let pair = space.map(|(at, _)| (&merge[..at], &merge[at + 1..]));
        let known = pair.filter(|(left, right)| {
            [*left, *right, &[*left, *right].concat()].iter().all(|token| vocab.contains_key(*token))
        });
        let pair = known.map(|(left, right)| (left.to_owned(), right.to_owned()));
        pair.ok_or_else(|| gguf.key_error(MERGES, format!("merge {i}, {merge:?}, is not of two tokens into a third")))
    };
    merges.iter().enumerate().map(parse).collect()
}

fn sentence_piece(gguf: &Gguf, pieces: &Pieces) -> Result<tokenizers::Tokenizer> {
    let scores = gguf.require(SCORES, gguf.floats(SCORES)?)?;
    if scores.len() != pieces.tokens.len() {
        return Err(gguf.key_error(SCORES, format!("{} scores for {} tokens", scores.len(), pieces.tokens.len())));
    }
    let has_prefix = gguf.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let style = Style {
        unknown: named(gguf, pieces, "unknown", Some(0), false)?.cloned(),
        byte_fallback: true,
        prefix: if has_prefix { Prefix::Stretches } else { Prefix::Nothing },
        remove_extra_spaces: false,
        whole: Vec::new(),
    };
    style.tokenizer(pieces, &scores).map_err(|e| tokenizer_error(gguf.path(), e))
}

/// Adds the special tokens and what tokenizer_config.json would say. `defaults` are the ids of the beginning of a text,
/// its end, and the unknown token.
fn finish(
    gguf: &Gguf,
    pieces: &Pieces,
    mut inner: tokenizers::Tokenizer,
    add_bos: bool,
    defaults: [Option<u32>; 3],
) -> Result<Tokenizer> {
    let special = pieces.of(&[UNKNOWN, CONTROL]).map(|token| added_token(token, true));
    let tokens = special.chain(pieces.of(&[USER_DEFINED]).map(|token| added_token(token, false)));
    inner.add_tokens(tokens).map_err(|e| tokenizer_error(gguf.path(), e))?;
    let mut config = Map::new();
    let [bos, eos, unknown] = defaults;
    for (name, key, default, needed) in [
        ("bos_token", "bos", bos, true),
        ("eos_token", "eos", eos, true),
        ("unk_token", "unknown", unknown, false),
        ("pad_token", "padding", None, false),
    ] {
        if let Some(token) = named(gguf, pieces, key, default, needed)? {
            config.insert(name.to_owned(), token.clone().into());
        }
    }
    for (name, default) in [("add_bos_token", add_bos), ("add_eos_token", false)] {
        let add = gguf.bool(&format!("tokenizer.ggml.{name}"))?.unwrap_or(default);
        config.insert(name.to_owned(), add.into());
    }
    config.extend(chat_templates(gguf)?.map(|templates| ("chat_template".to_owned(), templates)));
    if let Some(context) = gguf.unsigned(&gguf.key("context_length")?)? {
        config.insert("model_max_length".to_owned(), context.into());
    }
    config.insert("clean_up_tokenization_spaces".to_owned(), false.into());
    config.insert("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into());
    let mut tokenizer = Tokenizer::bare(gguf.path(), inner);
    tokenizer.config = config;
    tokenizer.ends.extend(tokenizer.eos());
    tokenizer.settle()?;
    Ok(tokenizer)
}

/// The chat template, or a list with names if there are others beside it.
fn chat_templates(gguf: &Gguf) -> Result<Option<Value>> {
    let default = gguf.string("tokenizer.chat_template")?;
    let mut named: Vec<Value> = default.iter().map(|text| json!({"name": "default", "template": text})).collect();
    for name in gguf.strings("tokenizer.chat_templates")?.unwrap_or_default() {
        let template = gguf.string(&format!("tokenizer.chat_template.{name}"))?;
        named.extend(template.map(|text| json!({"name": name, "template": text})));
    }
    let is_single = named.len() <= usize::from(default.is_some());
    Ok(if is_single { default.map(Value::from) } else { Some(Value::Array(named)) })
}

/// A part of a tokenizer, from what tokenizer.json would say.
fn component<T: DeserializeOwned>(gguf: &Gguf, description: Value) -> Result<T> {
    serde_json::from_value(description).map_err(|e| tokenizer_error(gguf.path(), e.into()))
}
