//! PTX text to tokens.

use super::ParseError;

/// One token. Names and numbers stay text: what they mean depends on where they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A name, directive or opcode with all its dotted parts: `%r1`, `.reg`, `ld.global.nc.v4.u32`, `%tid.x`.
    Word(&'a str),
    /// A literal as written: `12U`, `0x1F`, `0f3F800000`, `8.0`.
    Number(&'a str),
    /// The inside of a quoted string.
    Text(&'a str),
    /// One punctuation character.
    Mark(char),
    /// The end of the text.
    End,
}

/// A token and the line it starts on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spanned<'a> {
    pub token: Token<'a>,
    pub line: u32,
}

/// Splits `text` into tokens, the last of which is [`Token::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<Spanned<'_>>, ParseError> {
    let mut lexer = Lexer { rest: text, line: 1 };
    let mut out = Vec::with_capacity(text.len() / 4);
    loop {
        lexer.skip_blank()?;
        let line = lexer.line;
        let token = lexer.token()?;
        out.push(Spanned { token, line });
        if token == Token::End {
            return Ok(out);
        }
    }
}

struct Lexer<'a> {
    rest: &'a str,
    line: u32,
}

impl<'a> Lexer<'a> {
    fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError::new(self.line, message)
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (head, rest) = self.rest.split_at(length);
        self.line += head.bytes().filter(|&b| b == b'\n').count() as u32;
        self.rest = rest;
        head
    }

    fn skip_blank(&mut self) -> Result<(), ParseError> {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            self.take(blank);
            if self.rest.starts_with("//") {
                self.take(self.rest.find('\n').unwrap_or(self.rest.len()));
            } else if self.rest.starts_with("/*") {
                let end = self.rest.find("*/").ok_or_else(|| self.error("comment is not closed"))?;
                self.take(end + 2);
            } else {
                return Ok(());
            }
        }
    }

    fn token(&mut self) -> Result<Token<'a>, ParseError> {
        let Some(first) = self.rest.chars().next() else { return Ok(Token::End) };
        Ok(match first {
            '"' => self.text()?,
            '0'..='9' => Token::Number(self.take(self.number_length())),
            _ if starts_word(first) => Token::Word(self.take(self.word_length())),
            _ if "{}[]()<>,;:|!@+-=~*/&^?".contains(first) => Token::Mark(self.take(1).chars().next().unwrap_or(first)),
            _ => return Err(self.error(format!("unexpected character {first:?}"))),
        })
    }

    fn text(&mut self) -> Result<Token<'a>, ParseError> {
        let inside = &self.rest[1..];
        let end = inside.find('"').ok_or_else(|| self.error("string is not closed"))?;
        self.take(end + 2);
        Ok(Token::Text(&inside[..end]))
    }

    fn number_length(&self) -> usize {
        let inside = |c: char| c.is_ascii_alphanumeric() || c == '.';
        self.rest.find(|c| !inside(c)).unwrap_or(self.rest.len())
    }

    /// A word runs over `::`, which occurs inside qualifiers (`L2::128B`), not over a label's `:`; an opcode's word runs
    /// over dots, a directive's does not (`.reg.b32` is two).
    fn word_length(&self) -> usize {
        let bytes = self.rest.as_bytes();
        let directive = bytes[0] == b'.';
        let mut at = 1;
        while let Some(&byte) = bytes.get(at) {
            at += match byte {
                b'.' if !directive => 1,
                b'_' | b'$' => 1,
                _ if byte.is_ascii_alphanumeric() => 1,
                b':' if bytes.get(at + 1) == Some(&b':') => 2,
                _ => break,
            };
        }
        at
    }
}

fn starts_word(c: char) -> bool {
    c.is_ascii_alphabetic() || matches!(c, '_' | '$' | '%' | '.')
}
