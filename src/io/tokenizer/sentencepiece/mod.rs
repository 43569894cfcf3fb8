//! SentencePiece: a text is cut into pieces, and spaces are `▁`.
//!
//! Source: Kudo & Richardson 2018, <https://arxiv.org/abs/1808.06226>.

mod file;
mod proto;

pub(super) use file::read;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

/// The types of pieces, as SentencePiece numbers them, and GGUF after it.
pub(super) const NORMAL: i64 = 1;
pub(super) const UNKNOWN: i64 = 2;
pub(super) const CONTROL: i64 = 3;
pub(super) const USER_DEFINED: i64 = 4;
pub(super) const UNUSED: i64 = 5;

/// A vocabulary by id, and by token.
pub(super) struct Pieces {
    pub tokens: Vec<String>,
    pub kinds: Vec<i64>,
    pub vocab: Vocab,
}

impl Pieces {
    /// The vocabulary of `tokens`, with a type for each; or what two ids have in common.
    pub fn new(tokens: Vec<String>, kinds: Vec<i64>) -> Result<Self, String> {
        let mut vocab = Vocab::default();
        for (id, token) in (0..).zip(&tokens) {
            if let Some(first) = vocab.insert(token.clone(), id) {
                return Err(format!("tokens {first} and {id} are both {token:?}"));
            }
        }
        Ok(Self { tokens, kinds, vocab })
    }

    /// The tokens of one of `kinds`, in the order of their ids.
    pub fn of(&self, kinds: &[i64]) -> impl Iterator<Item = &String> {
        self.tokens.iter().zip(&self.kinds).filter(|(_, kind)| kinds.contains(kind)).map(|(token, _)| token)
    }

    /// SentencePiece joins the neighbours that make the piece of the highest score. As merges: all ways to cut a piece
    /// into two tokens, by the piece's score, then in the order of Llama 2's tokenizer.json, by the ids of the halves.
    fn merges_by_score(&self, scores: &[f64]) -> Merges {
        let mut merges = Vec::new();
        for ((id, piece), score) in self.tokens.iter().enumerate().zip(scores) {
            if !matches!(self.kinds.get(id), Some(&(NORMAL | UNUSED))) {
                continue;
            }
            let cuts = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
            let ids = |(left, right)| Some((self.vocab.get(left)?, self.vocab.get(right)?));
            merges.extend(cuts.filter_map(|cut| Some((score, id, ids(cut)?, cut))));
        }
        merges.sort_by(|a, b| b.0.total_cmp(a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        merges.into_iter().map(|(.., (left, right))| (left.to_owned(), right.to_owned())).collect()
    }
}

/// What gets a space before it, so that its first word is like any other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    Nothing,
    /// The text.
    Text,
    /// Each stretch of text between special tokens.
    Stretches,
}

/// What is done with a text beside joining its pieces.
pub(super) struct Style {
    pub unknown: Option<String>,
    /// Whether a character without a piece becomes its bytes.
    pub byte_fallback: bool,
    pub prefix: Prefix,
    /// Whether spaces at the ends go, and of several spaces all but one.
    pub remove_extra_spaces: bool,
    /// Pieces that are cut out first, and joined to nothing.
    pub whole: Vec<String>,
}

impl Style {
    /// The tokenizer of `pieces` with `scores`, without special tokens.
    pub fn tokenizer(self, pieces: &Pieces, scores: &[f64]) -> tokenizers::Result<Tokenizer> {
        let model = BPE::builder().vocab_and_merges(pieces.vocab.clone(), pieces.merges_by_score(scores));
        let mut model = model.byte_fallback(self.byte_fallback).fuse_unk(true).ignore_merges(!self.whole.is_empty());
        let (normalizers, pre_tokenizers, decoders) = (self.normalizers(), self.pre_tokenizers(), self.decoders());
        if let Some(unknown) = self.unknown {
            model = model.unk_token(unknown);
        }
        let mut tokenizer = Tokenizer::new(model.build()?);
        let normalizer = json!({"type": "Sequence", "normalizers": normalizers});
        tokenizer.with_normalizer(Some(serde_json::from_value::<NormalizerWrapper>(normalizer)?))?;
        if !pre_tokenizers.is_empty() {
            let pre_tokenizer = json!({"type": "Sequence", "pretokenizers": pre_tokenizers});
            tokenizer.with_pre_tokenizer(Some(serde_json::from_value::<PreTokenizerWrapper>(pre_tokenizer)?));
        }
        let decoder = json!({"type": "Sequence", "decoders": decoders});
        tokenizer.with_decoder(Some(serde_json::from_value::<DecoderWrapper>(decoder)?));
        Ok(tokenizer)
    }

    fn normalizers(&self) -> Vec<Value> {
        let replace = |pattern: Value, content| json!({"type": "Replace", "pattern": pattern, "content": content});
        let regex = |regex, content| replace(json!({"Regex": regex}), content);
        let mut steps = Vec::new();
        if self.remove_extra_spaces {
            steps.extend([regex(" {2,}", " "), regex(r"[ ▁]+\z", "")]);
        }
        if self.remove_extra_spaces && self.prefix != Prefix::Text {
            steps.push(regex(r"\A ", ""));
        }
        if self.prefix == Prefix::Stretches {
            steps.push(json!({"type": "Prepend", "prepend": "▁"}));
        }
        steps.push(replace(json!({"String": " "}), "▁"));
        steps
    }

    fn pre_tokenizers(&self) -> Vec<Value> {
        let metaspace = |replacement, scheme| json!({"type": "Metaspace", "replacement": replacement, "prepend_scheme": scheme, "split": false});
        let mut steps = Vec::new();
        if self.prefix == Prefix::Text {
            // A space is put before a text that does not begin with one; without extra spaces that is all. Else the
            // text gets one more: by now it has no spaces but `▁`.
            let steps_of_text: &[Value] = match self.remove_extra_spaces {
                true => &[metaspace("▁", "first")],
                false => &[metaspace(" ", "first"), metaspace("▁", "never")],
            };
            steps.extend_from_slice(steps_of_text);
        }
        if !self.whole.is_empty() {
            let mut whole: Vec<String> = self.whole.iter().map(|piece| regex::escape(piece)).collect();
            whole.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
            let pattern = json!({"Regex": whole.join("|")});
            steps.push(json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false}));
        }
        steps
    }

    fn decoders(&self) -> Vec<Value> {
        let mut steps = vec![json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "})];
        if self.byte_fallback {
            steps.push(json!({"type": "ByteFallback"}));
        }
        steps.push(json!({"type": "Fuse"}));
        if self.prefix != Prefix::Nothing {
            steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        steps
    }
}

/// `token` as one that is found in a text before anything else is done with it.
pub(super) fn added_token(token: &str, special: bool) -> AddedToken {
    AddedToken::from(token, special).normalized(false)
}
