//! A cursor over tokens, and literals.

use super::lexer::{Spanned, Token};
use super::{ParseError, Result};

/// Where the parser stands.
pub(super) struct Cursor<'a> {
    tokens: Vec<Spanned<'a>>,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Result<Self> {
        Ok(Self { tokens: super::lexer::tokens(text)?, at: 0 })
    }

    pub fn peek(&self) -> Token<'a> {
        self.peek_at(0)
    }

    pub fn peek_at(&self, ahead: usize) -> Token<'a> {
        self.tokens.get(self.at + ahead).map_or(Token::End, |spanned| spanned.token)
    }

    pub fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |spanned| spanned.line)
    }

    pub fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at = (self.at + 1).min(self.tokens.len());
        token
    }

    pub fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(ParseError::new(self.line(), message))
    }

    /// The error for a token that does not fit here.
    pub fn expected<T>(&self, what: &str) -> Result<T> {
        let found = match self.peek() {
            Token::Word(text) | Token::Number(text) => format!("`{text}`"),
            Token::Text(text) => format!("\"{text}\""),
            Token::Mark(mark) => format!("`{mark}`"),
            Token::End => "the end of the text".into(),
        };
        self.error(format!("expected {what}, found {found}"))
    }

    pub fn accept(&mut self, mark: char) -> bool {
        let found = self.peek() == Token::Mark(mark);
        if found {
            self.at += 1;
        }
        found
    }

    pub fn accept_word(&mut self, word: &str) -> bool {
        let found = self.peek() == Token::Word(word);
        if found {
            self.at += 1;
        }
        found
    }

    pub fn mark(&mut self, mark: char) -> Result<()> {
        if self.accept(mark) { Ok(()) } else { self.expected(&format!("`{mark}`")) }
    }

    pub fn word(&mut self, what: &str) -> Result<&'a str> {
        let Token::Word(word) = self.peek() else { return self.expected(what) };
        self.at += 1;
        Ok(word)
    }

    pub fn number(&mut self, what: &str) -> Result<&'a str> {
        let Token::Number(text) = self.peek() else { return self.expected(what) };
        self.at += 1;
        Ok(text)
    }

    /// An integer literal that fits `T`.
    pub fn integer<T: TryFrom<i128>>(&mut self, what: &str) -> Result<T> {
        let negative = self.accept('-');
        let line = self.line();
        let text = self.number(what)?;
        let value = match literal(text) {
            Some(Literal::Int(value)) => value,
            _ => return Err(ParseError::new(line, format!("expected {what}, found `{text}`"))),
        };
        let value = if negative { -i128::from(value) } else { i128::from(value) };
        T::try_from(value).map_err(|_| ParseError::new(line, format!("{what} {value} is out of range")))
    }
}

/// What a number's text means.
pub(super) enum Literal {
    Int(u64),
    F32(u32),
    F64(u64),
}

/// Reads `0f…`, `0d…`, `0x…`, `0b…`, octal and decimal integers (with or without `U`) and decimal floats.
pub(super) fn literal(text: &str) -> Option<Literal> {
    let radix = |digits: &str, radix| u64::from_str_radix(digits, radix).ok();
    if let Some(digits) = text.strip_prefix("0f").or(text.strip_prefix("0F")) {
        return (digits.len() == 8).then(|| radix(digits, 16)).flatten().map(|bits| Literal::F32(bits as u32));
    }
    if let Some(digits) = text.strip_prefix("0d").or(text.strip_prefix("0D")) {
        return (digits.len() == 16).then(|| radix(digits, 16)).flatten().map(Literal::F64);
    }
    let digits = text.strip_suffix('U').unwrap_or(text);
    let value = if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        radix(hex, 16)
    } else if let Some(binary) = digits.strip_prefix("0b").or(digits.strip_prefix("0B")) {
        radix(binary, 2)
    } else if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
        radix(digits, 8)
    } else {
        digits.parse().ok()
    };
    value.map(Literal::Int).or_else(|| {
        let float: f64 = if text.contains('.') { text.parse().ok()? } else { return None };
        Some(Literal::F64(float.to_bits()))
    })
}
