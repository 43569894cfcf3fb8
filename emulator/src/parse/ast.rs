//! What a PTX text says, before names are resolved.

use crate::types::{Space, Type};

/// A whole PTX text.
#[derive(Debug, Default)]
pub(crate) struct Ast<'a> {
    /// Variables at module scope.
    pub variables: Vec<Variable<'a>>,
    pub entries: Vec<Entry<'a>>,
    /// `.file` numbers and paths.
    pub files: Vec<(u32, &'a str)>,
}

/// A `.global`, `.const`, `.shared` or `.local` variable.
#[derive(Debug, Clone)]
pub(crate) struct Variable<'a> {
    pub name: &'a str,
    pub space: Space,
    pub align: u64,
    /// Bytes; 0 for the unsized array of an `.extern .shared`.
    pub bytes: u64,
    /// The initial bytes; what is missing up to `bytes` is zero.
    pub initial: Vec<u8>,
    pub line: u32,
}

/// One parameter of a kernel, at its place in the parameter block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParamDecl<'a> {
    pub name: &'a str,
    pub ty: Type,
    pub bytes: u64,
    pub align: u64,
    pub offset: u64,
}

/// A kernel.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub name: &'a str,
    pub params: Vec<ParamDecl<'a>>,
    pub body: Vec<Statement<'a>>,
    /// `.maxntid`, in threads.
    pub max_threads: Option<u64>,
    /// `.reqntid`.
    pub required_block: Option<[u32; 3]>,
}

/// One statement of a body.
#[derive(Debug)]
pub(crate) enum Statement<'a> {
    Label(&'a str, u32),
    /// `.reg`: each name, with a count where it is `%r<10>`.
    Registers(Type, Vec<(&'a str, Option<u32>)>, u32),
    Variable(Variable<'a>),
    /// `label: .branchtargets a, b, c;`
    Targets(&'a str, Vec<&'a str>),
    Location {
        file: u32,
        line: u32,
    },
    Instruction(Instruction<'a>),
    Scope(Vec<Statement<'a>>),
}

/// One instruction as written.
#[derive(Debug)]
pub(crate) struct Instruction<'a> {
    pub line: u32,
    /// `@%p1` or `@!%p1`: the predicate and whether it is negated.
    pub guard: Option<(&'a str, bool)>,
    /// The opcode with all its dotted parts.
    pub opcode: &'a str,
    pub operands: Vec<Operand<'a>>,
}

/// One operand as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operand<'a> {
    /// A register, a special register, a variable or a label.
    Name(&'a str),
    /// `!%p1`.
    Not(&'a str),
    /// `_`: a result nobody wants.
    Sink,
    /// An integer, two's complement.
    Int(i64),
    /// The bits of a `0f` literal.
    F32(u32),
    /// The bits of a `0d` or decimal literal.
    F64(u64),
    /// `{a, b}`.
    Vector(Vec<Operand<'a>>),
    /// `a|b`.
    Pair(Box<[Operand<'a>; 2]>),
    /// `[base + offset]`.
    Address(Box<Operand<'a>>, i64),
}
