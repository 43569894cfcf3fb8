//! Text as it is generated.

use super::{Tokenizer, tokenizer_error};
use crate::error::Result;

/// Decodes ids one by one. What [`push`](Self::push) and [`finish`](Self::finish) return, joined, is
/// [`Tokenizer::decode`] of all ids; no piece ends inside a character.
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// The ids of the last piece, then those whose text is still to come.
    ids: Vec<u32>,
    /// The number of ids of the last piece. They are decoded again with what follows: how a token reads (whether a
    /// leading space is stripped) depends on whether anything is before it.
    given: usize,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, ids: Vec::new(), given: 0 }
    }

    /// The text that is certain now that `id` has come, often none.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`]; also if the tokenizer's decoder takes back text it gave before.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let inner = &self.tokenizer.inner;
        let Some(token) = inner.id_to_token(id) else { return Ok(String::new()) };
        if self.skip_special && self.tokenizer.special_token(id).is_some() {
            return Ok(String::new());
        }
        self.ids.push(id);
        // A run of byte tokens is decoded as one; an incomplete character, as U+FFFD.
        if is_byte(&token) {
            return Ok(String::new());
        }
        let piece = self.pending()?;
        if piece.is_empty() || piece.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.ids.drain(..self.given);
        self.given = self.ids.len();
        Ok(piece)
    }

    /// The text of what has come so far and was not certain yet: bytes that never became a character, as U+FFFD.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn flush(&mut self) -> Result<String> {
        let piece = self.pending()?;
        self.ids.drain(..self.given);
        self.given = self.ids.len();
        Ok(piece)
    }

    /// The rest: bytes that never became a character, as U+FFFD.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(self) -> Result<String> {
        self.pending()
    }

    fn pending(&self) -> Result<String> {
        let given = self.tokenizer.decode(self.ids.get(..self.given).unwrap_or_default(), self.skip_special)?;
        let text = self.tokenizer.decode(&self.ids, self.skip_special)?;
        let piece = text.strip_prefix(&given).map(str::to_owned);
        piece.ok_or_else(|| tokenizer_error(&self.tokenizer.path, format!("decodes {text:?} after {given:?}").into()))
    }
}

/// Whether `token` stands for one byte, like `<0x0A>`.
fn is_byte(token: &str) -> bool {
    token.len() == 6 && token.starts_with("<0x") && token.ends_with('>')
}
