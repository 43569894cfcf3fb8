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

use crate::parse::ast::{Ast, Entry, Instruction, Operand, Statement};
use crate::parse::{ParseError, Result};
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

/// One instruction, by the first part of its opcode.
fn one(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let base = d.instruction.opcode.split('.').next().unwrap_or_default();
    match base {
        "mov" => moves::mov(d),
        "cvta" => moves::cvta(d),
        "isspacep" => moves::isspacep(d),
        "cvt" => convert::cvt(d),
        "setp" => compare::setp(d),
        "set" => compare::set_value(d),
        "selp" => compare::selp(d),
        "slct" => compare::slct(d),
        "ld" | "ldu" => memory::load(d),
        "st" => memory::store(d),
        "atom" => memory::atomic(d, true),
        "red" => memory::atomic(d, false),
        "cp" => memory::copy_async(d),
        "ldmatrix" => memory::load_matrix(d),
        "mma" => mma::decode(d),
        "bra" => control::branch(d),
        "brx" => control::switch(d),
        "bar" | "barrier" => control::barrier(d, base),
        "shfl" => control::shuffle(d),
        "vote" => control::vote(d),
        "match" => control::find_equal(d),
        "redux" => control::reduce(d),
        "activemask" => control::active_mask(d),
        "membar" | "fence" | "nanosleep" | "prefetch" => control::nothing(d, base),
        "createpolicy" => control::cache_policy(d),
        "ret" | "exit" if d.instruction.opcode == base || d.instruction.opcode == "ret.uni" => {
            let [] = d.operands()?;
            Ok((Op::Exit, Class::Control))
        }
        "trap" | "brkpt" => {
            let [] = d.operands()?;
            Ok((Op::Trap, Class::Control))
        }
        "call" => d.error("`call` is not supported: inline the function, and use no assert or printf"),
        _ => arithmetic(d, base),
    }
}

fn arithmetic(d: &mut Decoder<'_, '_, '_>, base: &str) -> Decoded {
    if let Some(found) = int::family(d, base)? {
        return Ok(found);
    }
    match float::family(d, base)? {
        Some(found) => found,
        None => {
            Err(ParseError::new(d.instruction.line, format!("instruction `{}` is not supported", d.instruction.opcode)))
        }
    }
}
