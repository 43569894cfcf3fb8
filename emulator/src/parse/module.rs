//! Directives at module scope: variables, kernels, and what may be skipped.

use super::ast::{Ast, Entry, ParamDecl, Variable};
use super::lexer::Token;
use super::statement;
use super::tokens::{Cursor, Literal, literal};
use super::{ParseError, Result};
use crate::types::{Space, Type};

/// The newest PTX whose text this understands.
const NEWEST: f64 = 9.0;

/// Reads a PTX text.
pub(crate) fn parse(text: &str) -> Result<Ast<'_>> {
    let mut cursor = Cursor::new(text)?;
    header(&mut cursor)?;
    let mut ast = Ast::default();
    while cursor.peek() != Token::End {
        item(&mut cursor, &mut ast)?;
    }
    Ok(ast)
}

fn header(cursor: &mut Cursor<'_>) -> Result<()> {
    if !cursor.accept_word(".version") {
        return cursor.expected("`.version` (is this a PTX text?)");
    }
    let version = cursor.number("a PTX version")?;
    if version.parse().is_ok_and(|version: f64| version <= NEWEST) {
        return Ok(());
    }
    cursor.error(format!("PTX version {version} is newer than {NEWEST:.1}"))
}

fn item<'a>(cursor: &mut Cursor<'a>, ast: &mut Ast<'a>) -> Result<()> {
    let line = cursor.line();
    let directive = cursor.word("a directive")?;
    match directive {
        ".target" => target(cursor),
        ".address_size" => match cursor.integer::<u32>("address size")? {
            64 => Ok(()),
            other => cursor.error(format!(".address_size {other} is not supported, only 64")),
        },
        ".visible" | ".weak" | ".extern" | ".common" => Ok(()),
        ".entry" => {
            ast.entries.push(entry(cursor)?);
            Ok(())
        }
        ".func" => function(cursor),
        ".file" => {
            let number = cursor.integer("file number")?;
            let Token::Text(path) = cursor.next() else { return cursor.expected("a path") };
            ast.files.push((number, path));
            while cursor.accept(',') {
                cursor.number("a timestamp or size")?;
            }
            Ok(())
        }
        ".section" => section(cursor),
        ".pragma" => pragma(cursor),
        _ => match directive.strip_prefix('.').and_then(Space::named) {
            Some(space @ (Space::Global | Space::Const | Space::Shared)) => {
                variables(cursor, space, line, &mut ast.variables)
            }
            _ => Err(ParseError::new(line, format!("unknown directive `{directive}`"))),
        },
    }
}

fn target(cursor: &mut Cursor<'_>) -> Result<()> {
    loop {
        let name = cursor.word("a target")?;
        let number = name.strip_prefix("sm_").map(|rest| rest.trim_end_matches(['a', 'f']));
        if number.is_none_or(|number| number.parse::<u32>().is_err()) && name != "debug" {
            return cursor.error(format!("unknown target `{name}`"));
        }
        if !cursor.accept(',') {
            return Ok(());
        }
    }
}

pub(super) fn pragma(cursor: &mut Cursor<'_>) -> Result<()> {
    let Token::Text(_) = cursor.next() else { return cursor.expected("a pragma's text") };
    cursor.mark(';')
}

/// Debug information: read over.
fn section(cursor: &mut Cursor<'_>) -> Result<()> {
    cursor.word("a section name")?;
    cursor.mark('{')?;
    while !cursor.accept('}') {
        if cursor.next() == Token::End {
            return cursor.error("section is not closed");
        }
    }
    Ok(())
}

/// A device function: its declaration is read over, since nothing can call it; a body is refused.
fn function(cursor: &mut Cursor<'_>) -> Result<()> {
    loop {
        match cursor.peek() {
            Token::Mark(';') => {
                cursor.next();
                return Ok(());
            }
            Token::Mark('{') => return cursor.error("device functions are not supported: inline them"),
            Token::End => return cursor.expected("`;`"),
            _ => cursor.next(),
        };
    }
}

fn entry<'a>(cursor: &mut Cursor<'a>) -> Result<Entry<'a>> {
    let name = cursor.word("a kernel name")?;
    let params = if cursor.accept('(') { params(cursor)? } else { Vec::new() };
    let mut entry = Entry { name, params, body: Vec::new(), max_threads: None, required_block: None };
    while let Token::Word(directive) = cursor.peek() {
        cursor.next();
        tuning(cursor, directive, &mut entry)?;
    }
    cursor.mark('{')?;
    entry.body = statement::body(cursor)?;
    Ok(entry)
}

fn tuning(cursor: &mut Cursor<'_>, directive: &str, entry: &mut Entry<'_>) -> Result<()> {
    match directive {
        ".maxntid" => {
            let [x, y, z] = extents(cursor)?;
            entry.max_threads = Some(u64::from(x).saturating_mul(y.into()).saturating_mul(z.into()));
        }
        ".reqntid" => entry.required_block = Some(extents(cursor)?),
        ".minnctapersm" | ".maxnreg" => {
            cursor.integer::<u32>(directive)?;
        }
        ".pragma" => pragma(cursor)?,
        _ => return cursor.error(format!("unknown directive `{directive}`")),
    }
    Ok(())
}

fn extents(cursor: &mut Cursor<'_>) -> Result<[u32; 3]> {
    let mut extents = [1; 3];
    for (axis, extent) in extents.iter_mut().enumerate() {
        if axis > 0 && !cursor.accept(',') {
            break;
        }
        *extent = cursor.integer("an extent")?;
    }
    Ok(extents)
}

fn params<'a>(cursor: &mut Cursor<'a>) -> Result<Vec<ParamDecl<'a>>> {
    let mut params = Vec::new();
    let mut end = 0u64;
    if cursor.accept(')') {
        return Ok(params);
    }
    loop {
        if !cursor.accept_word(".param") {
            return cursor.expected("`.param`");
        }
        let declared = declaration(cursor)?;
        let (name, count) = declarator(cursor)?;
        let bytes = bounded(cursor, declared.ty.bytes() * declared.lanes, count.unwrap_or(1))?;
        let offset = end.next_multiple_of(declared.align);
        end = offset.saturating_add(bytes);
        if end > 32764 {
            return cursor.error("the parameters exceed 32764 bytes");
        }
        params.push(ParamDecl { name, ty: declared.ty, bytes, align: declared.align, offset });
        if cursor.accept(')') {
            return Ok(params);
        }
        cursor.mark(',')?;
    }
}

struct Declared {
    ty: Type,
    lanes: u64,
    align: u64,
}

/// `.align N`, `.v2`/`.v4`, `.ptr .space .align N` and the type, in PTX's order.
fn declaration(cursor: &mut Cursor<'_>) -> Result<Declared> {
    let (mut align, mut lanes, mut ty) = (None, 1, None);
    while let Token::Word(word) = cursor.peek() {
        let Some(name) = word.strip_prefix('.') else { break };
        cursor.next();
        match name {
            // The alignment that follows `.ptr` is of what the pointer points to.
            "align" => {
                let value: u64 = cursor.integer("an alignment")?;
                if !value.is_power_of_two() || value > 1 << 20 {
                    return cursor.error(format!("{value} is no alignment"));
                }
                if ty.is_none() {
                    align = Some(value);
                }
            }
            "v2" => lanes = 2,
            "v4" => lanes = 4,
            "ptr" => {}
            "global" | "shared" | "local" | "const" if ty.is_some() => {}
            _ => match Type::named(name) {
                Some(named) if named != Type::Pred => ty = Some(named),
                _ => return cursor.error(format!("unknown type `.{name}`")),
            },
        }
    }
    let Some(ty) = ty else { return cursor.expected("a type") };
    Ok(Declared { ty, lanes, align: align.unwrap_or(ty.bytes() * lanes) })
}

/// A name and, for an array, its number of elements; `Some(0)` for `[]`.
fn declarator<'a>(cursor: &mut Cursor<'a>) -> Result<(&'a str, Option<u64>)> {
    let name = cursor.word("a name")?;
    let mut count = None;
    while cursor.accept('[') {
        let extent = if cursor.peek() == Token::Mark(']') { 0 } else { cursor.integer("an extent")? };
        count = Some(bounded(cursor, count.unwrap_or(1), extent)?);
        cursor.mark(']')?;
    }
    Ok((name, count))
}

/// A product that is a believable number of bytes.
fn bounded(cursor: &Cursor<'_>, a: u64, b: u64) -> Result<u64> {
    match a.checked_mul(b) {
        Some(product) if product <= 1 << 32 => Ok(product),
        _ => cursor.error("the array is too large"),
    }
}

/// Variables of `space`, after the space's own word, up to the `;`.
pub(super) fn variables<'a>(
    cursor: &mut Cursor<'a>,
    space: Space,
    line: u32,
    out: &mut Vec<Variable<'a>>,
) -> Result<()> {
    let declared = declaration(cursor)?;
    loop {
        let (name, count) = declarator(cursor)?;
        let bytes = bounded(cursor, declared.ty.bytes() * declared.lanes, count.unwrap_or(1))?;
        let mut initial = Vec::new();
        if cursor.accept('=') {
            initializer(cursor, declared.ty, bytes, 0, &mut initial)?;
        }
        out.push(Variable { name, space, align: declared.align, bytes, initial, line });
        if cursor.accept(';') {
            return Ok(());
        }
        cursor.mark(',')?;
    }
}

/// How deep the braces of initial values may nest.
const DEEPEST: usize = 8;

/// Initial values, at most `bytes` of them.
fn initializer(cursor: &mut Cursor<'_>, ty: Type, bytes: u64, depth: usize, out: &mut Vec<u8>) -> Result<()> {
    if cursor.accept('{') {
        if depth == DEEPEST {
            return cursor.error(format!("initial values nest deeper than {DEEPEST}"));
        }
        while !cursor.accept('}') {
            initializer(cursor, ty, bytes, depth + 1, out)?;
            cursor.accept(',');
        }
        return Ok(());
    }
    let negative = cursor.accept('-');
    let line = cursor.line();
    let text = cursor.number("an initial value (addresses of variables are not supported)")?;
    let bits = match literal(text) {
        Some(Literal::Int(value)) if negative => value.wrapping_neg(),
        Some(Literal::Int(value) | Literal::F64(value)) => value,
        Some(Literal::F32(value)) => u64::from(value),
        None => return Err(ParseError::new(line, format!("`{text}` is no number"))),
    };
    if out.len() as u64 + ty.bytes() > bytes {
        return Err(ParseError::new(line, "more initial values than elements"));
    }
    out.extend_from_slice(&bits.to_le_bytes()[..ty.bytes() as usize]);
    Ok(())
}
