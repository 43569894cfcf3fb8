//! A kernel's tree to flat code whose operands are rows of register files.

mod allocate;
mod compare;
mod control;
mod convert;
mod decoder;
mod float;
mod half;
mod int;
mod macros;
mod memory;
mod mma;
mod moves;
mod names;

use crate::parse::Result;
use crate::parse::ast::{Ast, Entry, Instruction, Operand, Statement};
use crate::program::{Class, Guard, Inst, Op, Place, Program};
use crate::types::Type;
use decoder::{Decoded, Decoder};
use names::{Assignment, Binding, Names, Virtual};
use std::sync::Arc;

/// Decodes one kernel: once to see which registers live when, and once more with the rows that they share.
pub(crate) fn kernel(ast: &Ast<'_>, entry: &Entry<'_>) -> Result<Program> {
    let files = ast.files.iter().map(|(number, path)| (*number, Arc::from(*path))).collect::<Vec<_>>();
    let first = Walk::over(ast, entry, &files, None)?;
    let assignment = allocate::rows(&first.code, &first.touched, first.names.dynamic_start());
    Ok(Walk::over(ast, entry, &files, Some(&assignment))?.finish(entry))
}

/// The registers that an instruction writes and reads.
#[derive(Debug, Default)]
struct Touched {
    written: Vec<Virtual>,
    read: Vec<Virtual>,
}

struct Walk<'a, 'p> {
    names: Names<'a, 'p>,
    files: &'p [(u32, Arc<str>)],
    code: Vec<Inst>,
    places: Vec<Place>,
    touched: Vec<Touched>,
    /// Label number to place in `code`.
    labels: Vec<u32>,
    source: Option<(Arc<str>, u32)>,
}

impl<'a, 'p> Walk<'a, 'p> {
    fn over(
        ast: &Ast<'a>,
        entry: &Entry<'a>,
        files: &'p [(u32, Arc<str>)],
        assignment: Option<&'p Assignment>,
    ) -> Result<Self> {
        let names = Names::new(&ast.variables, &entry.params, assignment);
        let (code, places, touched) = (Vec::new(), Vec::new(), Vec::new());
        let mut walk = Self { names, files, code, places, touched, labels: Vec::new(), source: None };
        walk.scope(&entry.body)?;
        walk.push(Op::Exit, Class::Control, Guard::Always, 0);
        walk.link();
        Ok(walk)
    }

    fn scope(&mut self, statements: &[Statement<'a>]) -> Result<()> {
        self.names.open(statements)?;
        for statement in statements {
            match statement {
                Statement::Scope(inner) => self.scope(inner)?,
                Statement::Label(name, _) => self.label(name),
                Statement::Location { file, line } => self.locate(*file, *line),
                Statement::Instruction(instruction) => self.instruction(instruction)?,
                Statement::Registers(..) | Statement::Variable(_) | Statement::Targets(..) => {}
            }
        }
        self.names.close();
        Ok(())
    }

    fn label(&mut self, name: &str) {
        if let Some(Binding::Label(label)) = self.names.find(name) {
            let label = label as usize;
            self.labels.resize(self.labels.len().max(label + 1), 0);
            self.labels[label] = self.code.len() as u32;
        }
    }

    fn locate(&mut self, file: u32, line: u32) {
        let path = self.files.iter().find(|(number, _)| *number == file);
        self.source = path.map(|(_, path)| (Arc::clone(path), line));
    }

    fn instruction(&mut self, instruction: &Instruction<'a>) -> Result<()> {
        self.names.written.clear();
        self.names.read.clear();
        let mut decoder = Decoder { names: &mut self.names, instruction };
        let (op, class) = one(&mut decoder)?;
        let guard = match instruction.guard {
            None => Guard::Always,
            Some((name, negated)) => {
                let row = decoder.read(&Operand::Name(name), Type::Pred)?;
                if negated { Guard::Unless(row) } else { Guard::If(row) }
            }
        };
        if guard != Guard::Always {
            // What is written under a guard may keep its old value.
            let written = self.names.written.clone();
            self.names.read.extend(written);
        }
        self.push(op, class, guard, instruction.line);
        Ok(())
    }

    fn push(&mut self, op: Op, class: Class, guard: Guard, line: u32) {
        self.code.push(Inst { op, guard, class });
        self.places.push(Place { line, source: self.source.clone() });
        let written = std::mem::take(&mut self.names.written);
        let read = std::mem::take(&mut self.names.read);
        self.touched.push(Touched { written, read });
    }

    /// Labels' numbers to places in the code.
    fn link(&mut self) {
        let place = |label: &mut u32| *label = self.labels.get(*label as usize).copied().unwrap_or(0);
        for inst in &mut self.code {
            match &mut inst.op {
                Op::Branch(target) => place(target),
                Op::Switch(switch) => switch.targets.iter_mut().for_each(place),
                _ => {}
            }
        }
    }

    fn finish(self, entry: &Entry<'_>) -> Program {
        let shared_bytes = self.names.shared_bytes();
        let dynamic_start = self.names.dynamic_start();
        let local_bytes = self.names.local_bytes;
        let (files, constants, specials) = self.names.finish();
        Program {
            code: self.code,
            places: self.places,
            files,
            constants,
            specials,
            shared_bytes,
            dynamic_start,
            local_bytes,
            param_bytes: entry.params.last().map_or(0, |param| param.offset + param.bytes),
        }
    }
}

type Decode = for<'d, 'a, 'p> fn(&mut Decoder<'d, 'a, 'p>) -> Decoded;

/// What decodes an instruction, by the first part of its opcode.
const FAMILIES: &[(&str, Decode)] = &[
    ("mov", moves::mov),
    ("cvta", moves::cvta),
    ("isspacep", moves::isspacep),
    ("cvt", convert::cvt),
    ("setp", compare::setp),
    ("set", compare::set_value),
    ("selp", compare::selp),
    ("slct", compare::slct),
    ("ld", memory::load),
    ("ldu", memory::load),
    ("st", memory::store),
    ("atom", |d| memory::atomic(d, true)),
    ("red", |d| memory::atomic(d, false)),
    ("cp", memory::copy_async),
    ("ldmatrix", memory::load_matrix),
    ("mma", mma::decode),
    ("bra", control::branch),
    ("brx", control::switch),
    ("bar", |d| control::barrier(d, "bar")),
    ("barrier", |d| control::barrier(d, "barrier")),
    ("shfl", control::shuffle),
    ("vote", control::vote),
    ("match", control::find_equal),
    ("redux", control::reduce),
    ("activemask", control::active_mask),
    ("membar", |d| control::nothing(d, "membar")),
    ("fence", |d| control::nothing(d, "fence")),
    ("nanosleep", |d| control::nothing(d, "nanosleep")),
    ("prefetch", |d| control::nothing(d, "prefetch")),
    ("createpolicy", control::cache_policy),
    ("ret", |d| control::leave(d, Op::Exit)),
    ("exit", |d| control::leave(d, Op::Exit)),
    ("trap", |d| control::leave(d, Op::Trap)),
    ("brkpt", |d| control::leave(d, Op::Trap)),
];

/// The first parts of the opcodes whose decoding depends on the type they name.
const ARITHMETIC: &[&str] = &[
    "abs", "add", "addc", "and", "bfe", "bfi", "bfind", "brev", "clz", "cnot", "copysign", "cos", "div", "dp2a",
    "dp4a", "ex2", "fma", "lg2", "lop3", "mad", "mad24", "madc", "max", "min", "mul", "mul24", "neg", "not", "or",
    "popc", "prmt", "rcp", "rem", "rsqrt", "sad", "shf", "shl", "shr", "sin", "sqrt", "sub", "subc", "tanh", "testp",
    "xor",
];

/// The first part of every opcode that can be executed, as `add` of `add.rn.f32`.
pub fn opcodes() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|(name, _)| *name).chain(ARITHMETIC.iter().copied())
}

fn one(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let base = d.instruction.opcode.split('.').next().unwrap_or_default();
    if let Some((_, decode)) = FAMILIES.iter().find(|(name, _)| *name == base) {
        return decode(d);
    }
    match base {
        _ if ARITHMETIC.contains(&base) => arithmetic(d, base),
        "call" => d.error("`call` is not supported: inline the function, and use no assert or printf"),
        _ => d.unknown(),
    }
}

fn arithmetic(d: &mut Decoder<'_, '_, '_>, base: &str) -> Decoded {
    if let Some(found) = int::family(d, base)? {
        return Ok(found);
    }
    float::family(d, base)?.unwrap_or_else(|| d.unknown())
}
