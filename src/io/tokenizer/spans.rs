//! Tokens with the stretches of text that they stand for.

use std::collections::HashMap;
use std::ops::Range;

use regex::Regex;
use tokenizers::{AddedToken, PostProcessorWrapper};

use super::{Tokenizer, tokenizer_error};
use crate::error::{Error, Result};

/// A token, and where in the text it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its number in the vocabulary.
    pub id: u32,
    /// The bytes of the text that it stands for, a blank before a word included; empty for a token that the tokenizer
    /// puts around a text. The tokens of a character's bytes all stand for the whole character.
    pub span: Range<usize>,
}

impl Tokenizer {
    /// The tokens of `text`, as [`encode`](Self::encode) gives them, with their places. Special tokens that touch one of
    /// the stretches `literal` (in bytes, in order) are text like any other.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_spans(&self, text: &str, literal: &[Range<usize>], add_special: bool) -> Result<Vec<Token>> {
        let mut tokens = match literal.is_empty() {
            true => self.tokens(&self.inner, text, add_special)?,
            false => self.with_literals(text, literal, add_special)?,
        };
        drop_doubled(&mut tokens);
        Ok(tokens)
    }

    fn tokens(&self, inner: &tokenizers::Tokenizer, text: &str, add_special: bool) -> Result<Vec<Token>> {
        let encoding = inner.encode(text, add_special).map_err(|e| tokenizer_error(&self.path, e))?;
        let places = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(places.map(|(&id, &(start, end))| Token { id, span: start..end }).collect())
    }

    /// Of the special tokens in `text` those outside of `literal` are written in another spelling, for a tokenizer that
    /// knows special tokens in that spelling only.
    fn with_literals(&self, text: &str, literal: &[Range<usize>], add_special: bool) -> Result<Vec<Token>> {
        let plain = || self.tokens(&self.inner, text, add_special);
        let Some(respelled) = self.respelled()? else { return plain() };
        let Some(controls) = respelled.controls(text, literal) else { return plain() };
        if text.contains(MARK) {
            let detail = format!("special tokens can only be text where there is no character U+{:X}", MARK as u32);
            return Err(Error::file(&self.path, detail));
        }
        let mut tokens = self.tokens(&respelled.inner, &marked(text, &controls), add_special)?;
        for Token { id, span } in &mut tokens {
            *id = respelled.ids.get(id).copied().unwrap_or(*id);
            *span = unmarked(span.start, &controls)..unmarked(span.end, &controls);
        }
        Ok(tokens)
    }

    /// Made once, by the first text that needs it. `None` if the tokenizer has no special tokens.
    fn respelled(&self) -> Result<Option<&Respelled>> {
        if let Some(made) = self.respelled.get() {
            return Ok(made.as_ref());
        }
        let made = Respelled::new(&self.inner).map_err(|e| tokenizer_error(&self.path, e))?;
        Ok(self.respelled.get_or_init(|| made).as_ref())
    }
}

/// A text may begin with the beginning-of-text token that the tokenizer puts before it.
fn drop_doubled(tokens: &mut Vec<Token>) {
    if let [first, second, ..] = &tokens[..]
        && first.id == second.id
        && first.span.is_empty()
    {
        tokens.remove(0);
    }
}

/// A tokenizer to which special tokens are text unless a [`MARK`] stands before them.
#[derive(Debug)]
pub(super) struct Respelled {
    inner: tokenizers::Tokenizer,
    /// What finds a special token without mark; of several at one place the longest.
    special: Regex,
    /// The ids of special tokens in `inner`, each with the one that is meant.
    ids: HashMap<u32, u32>,
}

impl Respelled {
    fn new(original: &tokenizers::Tokenizer) -> tokenizers::Result<Option<Self>> {
        let mut specials: Vec<(u32, AddedToken)> = original.get_added_tokens_decoder().into_iter().collect();
        specials.retain(|(_, token)| token.special && !token.content.is_empty());
        if specials.is_empty() {
            return Ok(None);
        }
        specials.sort_by(|(_, a), (_, b)| (b.content.len(), &b.content).cmp(&(a.content.len(), &a.content)));
        let contents: Vec<String> = specials.iter().map(|(_, token)| regex::escape(&token.content)).collect();
        let mut inner = original.clone();
        inner.set_encode_special_tokens(true);
        let respelled = |token: &AddedToken| AddedToken {
            content: format!("{MARK}{}", token.content),
            special: false,
            normalized: false,
            ..token.clone()
        };
        inner.add_tokens(specials.iter().map(|(_, token)| respelled(token)))?;
        let id = |(id, token): &(u32, AddedToken)| Some((inner.token_to_id(&respelled(token).content)?, *id));
        let ids = specials.iter().filter_map(id).collect();
        Ok(Some(Self { inner, special: Regex::new(&contents.join("|"))?, ids }))
    }

    /// Where the special tokens of `text` begin that touch no stretch of `literal`; `None` if there are no others.
    fn controls(&self, text: &str, literal: &[Range<usize>]) -> Option<Vec<usize>> {
        let (mut controls, mut at, mut has_others) = (Vec::new(), 0, false);
        while let Some(found) = self.special.find_at(text, at) {
            if literal.iter().any(|stretch| stretch.start < found.end() && found.start() < stretch.end) {
                has_others = true;
                at = found.start() + found.as_str().chars().next().map_or(1, char::len_utf8);
            } else {
                controls.push(found.start());
                at = found.end();
            }
        }
        has_others.then_some(controls)
    }
}

/// `text` with a mark at each of `places`.
fn marked(text: &str, places: &[usize]) -> String {
    let ends = places.iter().copied().chain([text.len()]);
    let starts = std::iter::once(0).chain(places.iter().copied());
    let pieces: Vec<&str> = starts.zip(ends).map(|(start, end)| text.get(start..end).unwrap_or_default()).collect();
    pieces.join(MARK.encode_utf8(&mut [0; 4]))
}

/// Stands before the special tokens that are meant as such. It is for private use, and no vocabulary has it.
const MARK: char = '\u{10fffd}';

/// The place that `at` has in a text when the marks before its `places` are taken out again.
fn unmarked(at: usize, places: &[usize]) -> usize {
    let width = MARK.len_utf8();
    let marks = places.iter().enumerate().take_while(|(i, place)| *place + i * width < at).count();
    at.saturating_sub(marks * width)
}

/// `processor`, cutting no blank off the place of a token. Ids do not depend on it.
pub(super) fn with_whole_spans(processor: PostProcessorWrapper) -> PostProcessorWrapper {
    match processor {
        PostProcessorWrapper::ByteLevel(bytes) => PostProcessorWrapper::ByteLevel(bytes.trim_offsets(false)),
        PostProcessorWrapper::Sequence(parts) => {
            let parts = parts.as_ref().iter().cloned().map(with_whole_spans).collect();
            PostProcessorWrapper::Sequence(tokenizers::processors::sequence::Sequence::new(parts))
        }
        other => other,
    }
}
