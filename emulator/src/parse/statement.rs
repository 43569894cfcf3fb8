//! The statements of a kernel's body.

use super::ast::{Instruction, Operand, Statement};
use super::lexer::Token;
use super::module::{pragma, variables};
use super::tokens::{Cursor, Literal, literal};
use super::{ParseError, Result};
use crate::types::{Space, Type};

/// How deep `{ }` may nest.
const DEEPEST: usize = 32;

/// Statements up to and with the closing `}`.
pub(super) fn body<'a>(cursor: &mut Cursor<'a>) -> Result<Vec<Statement<'a>>> {
    scope(cursor, 0)
}

fn scope<'a>(cursor: &mut Cursor<'a>, depth: usize) -> Result<Vec<Statement<'a>>> {
    if depth > DEEPEST {
        return cursor.error(format!("scopes nest deeper than {DEEPEST}"));
    }
    let mut out = Vec::new();
    while !cursor.accept('}') {
        statement(cursor, depth, &mut out)?;
    }
    Ok(out)
}

fn statement<'a>(cursor: &mut Cursor<'a>, depth: usize, out: &mut Vec<Statement<'a>>) -> Result<()> {
    if cursor.accept('{') {
        out.push(Statement::Scope(scope(cursor, depth + 1)?));
        return Ok(());
    }
    if cursor.accept(';') {
        return Ok(());
    }
    let line = cursor.line();
    match cursor.peek() {
        Token::Word(word) if word.starts_with('.') => {
            cursor.next();
            directive(cursor, word, line, out)
        }
        Token::Word(label) if cursor.peek_at(1) == Token::Mark(':') => {
            cursor.next();
            cursor.next();
            labelled(cursor, label, line, out)
        }
        Token::Word(_) | Token::Mark('@') => {
            out.push(Statement::Instruction(instruction(cursor)?));
            Ok(())
        }
        _ => cursor.expected("a statement or `}`"),
    }
}

fn labelled<'a>(cursor: &mut Cursor<'a>, label: &'a str, line: u32, out: &mut Vec<Statement<'a>>) -> Result<()> {
    if !cursor.accept_word(".branchtargets") {
        out.push(Statement::Label(label, line));
        return Ok(());
    }
    let mut targets = vec![cursor.word("a label")?];
    while cursor.accept(',') {
        targets.push(cursor.word("a label")?);
    }
    out.push(Statement::Targets(label, targets));
    cursor.mark(';')
}

fn directive<'a>(cursor: &mut Cursor<'a>, directive: &'a str, line: u32, out: &mut Vec<Statement<'a>>) -> Result<()> {
    match directive {
        ".reg" => {
            out.push(registers(cursor, line)?);
            Ok(())
        }
        ".loc" => {
            out.push(location(cursor)?);
            Ok(())
        }
        ".pragma" => pragma(cursor),
        _ => match directive.strip_prefix('.').and_then(Space::named) {
            Some(space @ (Space::Shared | Space::Local | Space::Global | Space::Const)) => {
                let mut declared = Vec::new();
                variables(cursor, space, line, &mut declared)?;
                out.extend(declared.into_iter().map(Statement::Variable));
                Ok(())
            }
            Some(Space::Param) => Err(ParseError::new(
                line,
                "a `.param` in a kernel's body is a call's, and calls are not supported: inline the function, and use no assert or printf",
            )),
            _ if directive == ".extern" || directive == ".visible" => Ok(()),
            _ => Err(ParseError::new(line, format!("unknown directive `{directive}`"))),
        },
    }
}

fn registers<'a>(cursor: &mut Cursor<'a>, line: u32) -> Result<Statement<'a>> {
    let word = cursor.word("a register type")?;
    let Some(ty) = word.strip_prefix('.').and_then(Type::named) else {
        return Err(ParseError::new(line, format!("registers of type `{word}` are not supported")));
    };
    let mut names = Vec::new();
    loop {
        let name = cursor.word("a register name")?;
        let mut count = None;
        if cursor.accept('<') {
            count = Some(cursor.integer("a register count")?);
            cursor.mark('>')?;
        }
        names.push((name, count));
        if cursor.accept(';') {
            return Ok(Statement::Registers(ty, names, line));
        }
        cursor.mark(',')?;
    }
}

/// `.loc file line column`, and where it was inlined.
fn location<'a>(cursor: &mut Cursor<'a>) -> Result<Statement<'a>> {
    let file = cursor.integer("a file number")?;
    let line = cursor.integer("a line number")?;
    cursor.number("a column")?;
    if cursor.accept(',') {
        cursor.word("`function_name`")?;
        cursor.word("a name")?;
        if cursor.accept('+') {
            cursor.number("an offset")?;
        }
        cursor.mark(',')?;
        cursor.word("`inlined_at`")?;
        for _ in 0..3 {
            cursor.number("a place")?;
        }
    }
    Ok(Statement::Location { file, line })
}

fn instruction<'a>(cursor: &mut Cursor<'a>) -> Result<Instruction<'a>> {
    let line = cursor.line();
    let mut guard = None;
    if cursor.accept('@') {
        let negated = cursor.accept('!');
        guard = Some((cursor.word("a predicate")?, negated));
    }
    let opcode = cursor.word("an opcode")?;
    let mut operands = Vec::new();
    if !cursor.accept(';') {
        loop {
            operands.push(operand(cursor, 0)?);
            if cursor.accept(';') {
                break;
            }
            cursor.mark(',')?;
        }
    }
    Ok(Instruction { line, guard, opcode, operands })
}

fn operand<'a>(cursor: &mut Cursor<'a>, depth: usize) -> Result<Operand<'a>> {
    let first = match cursor.peek() {
        Token::Mark('{') if depth == 0 => vector(cursor)?,
        Token::Mark('[') if depth == 0 => address(cursor)?,
        Token::Mark('!') => {
            cursor.next();
            Operand::Not(cursor.word("a predicate")?)
        }
        _ => atom(cursor)?,
    };
    if cursor.accept('|') {
        return Ok(Operand::Pair(Box::new([first, atom(cursor)?])));
    }
    Ok(first)
}

fn vector<'a>(cursor: &mut Cursor<'a>) -> Result<Operand<'a>> {
    cursor.mark('{')?;
    let mut elements = vec![operand(cursor, 1)?];
    while cursor.accept(',') {
        elements.push(operand(cursor, 1)?);
    }
    cursor.mark('}')?;
    Ok(Operand::Vector(elements))
}

fn address<'a>(cursor: &mut Cursor<'a>) -> Result<Operand<'a>> {
    cursor.mark('[')?;
    let base = atom(cursor)?;
    let mut offset = 0i64;
    while !cursor.accept(']') {
        let negative = !cursor.accept('+');
        if negative && cursor.peek() != Token::Mark('-') {
            return cursor.expected("`+` or `]`");
        }
        let step: i64 = cursor.integer("an offset")?;
        offset = offset.wrapping_add(step);
    }
    Ok(Operand::Address(Box::new(base), offset))
}

fn atom<'a>(cursor: &mut Cursor<'a>) -> Result<Operand<'a>> {
    let negative = cursor.accept('-');
    let found = match cursor.peek() {
        Token::Word("_") if !negative => Operand::Sink,
        Token::Word(name) if !negative => Operand::Name(name),
        Token::Number(text) => match literal(text) {
            Some(Literal::Int(value)) if negative => Operand::Int((value as i64).wrapping_neg()),
            Some(Literal::Int(value)) => Operand::Int(value as i64),
            Some(Literal::F32(bits)) => Operand::F32(bits ^ u32::from(negative) << 31),
            Some(Literal::F64(bits)) => Operand::F64(bits ^ u64::from(negative) << 63),
            None => return cursor.error(format!("`{text}` is no number")),
        },
        _ => return cursor.expected("an operand"),
    };
    cursor.next();
    Ok(found)
}
