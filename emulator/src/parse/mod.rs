//! PTX text to a tree: every directive and statement that nvcc emits, and an error naming the line for any other.

pub(crate) mod ast;
mod lexer;
mod module;
mod statement;
mod tokens;

pub(crate) use module::parse;

/// A PTX text that cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {message}")]
pub struct ParseError {
    /// The line of the PTX text, from 1.
    pub line: u32,
    /// What stands there and why it is refused.
    pub message: String,
}

impl ParseError {
    pub(crate) fn new(line: u32, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

pub(crate) type Result<T> = std::result::Result<T, ParseError>;
