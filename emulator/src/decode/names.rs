//! What the names in a kernel's body stand for, and which row each value has.

use crate::parse::ast::{ParamDecl, Statement, Variable};
use crate::parse::{ParseError, Result};
use crate::program::{Constant, Special};
use crate::run::registers::FileSizes;
use crate::types::{File, Space, Type};
use std::collections::HashMap;

/// A register before rows are shared out.
pub(super) type Virtual = (File, u32);

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Binding {
    Register(Type, u32),
    /// An offset in shared, local or parameter memory.
    Offset(Space, u64),
    /// A module's variable by number.
    Global(u32),
    /// A module's shared variable by number, not yet placed.
    Shared(u32),
    Label(u32),
    /// A list of labels for `brx.idx`.
    Targets(u32),
}

#[derive(Debug, Default)]
struct Scope<'a> {
    names: HashMap<&'a str, Binding>,
    /// `%r<10>`: type, count and a number that tells families apart.
    families: HashMap<&'a str, (Type, u32, u32)>,
}

/// Virtual registers to rows; identity until the rows are shared out.
#[derive(Debug, Default)]
pub(super) struct Assignment {
    pub rows: HashMap<Virtual, u16>,
    pub sizes: FileSizes,
    /// Where dynamic shared memory starts.
    pub dynamic_start: u64,
}

/// The names of one kernel.
pub(super) struct Names<'a, 'p> {
    scopes: Vec<Scope<'a>>,
    families: u32,
    /// (family, index) to the virtual register's number.
    registers: HashMap<(u32, u32), u32>,
    pub labels: u32,
    pub targets: Vec<Vec<&'a str>>,
    variables: Vec<Variable<'a>>,
    shared_bytes: u64,
    dynamic_align: u64,
    pub local_bytes: u64,
    assignment: Option<&'p Assignment>,
    constants: HashMap<ConstantKey, u16>,
    specials: HashMap<Special, u16>,
    next: FileSizes,
    /// What the instruction at hand writes and reads.
    pub written: Vec<Virtual>,
    pub read: Vec<Virtual>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ConstantKey {
    Word(u32),
    Wide(u64),
    Pred(bool),
    Variable(u32),
    /// The row that takes results nobody wants.
    Sink(File),
}

/// The most rows a file may have.
const MOST_ROWS: usize = u16::MAX as usize;

impl<'a, 'p> Names<'a, 'p> {
    /// The names of module scope; `assignment` is there once rows were shared out.
    pub fn new(variables: &[Variable<'a>], params: &[ParamDecl<'a>], assignment: Option<&'p Assignment>) -> Self {
        let mut outer = Scope::default();
        for (number, variable) in variables.iter().enumerate() {
            let binding = match variable.space {
                Space::Shared => Binding::Shared(number as u32),
                _ => Binding::Global(number as u32),
            };
            outer.names.insert(variable.name, binding);
        }
        for param in params {
            outer.names.insert(param.name, Binding::Offset(Space::Param, param.offset));
        }
        Self {
            scopes: vec![outer],
            families: 0,
            registers: HashMap::new(),
            labels: 0,
            targets: Vec::new(),
            variables: variables.to_vec(),
            shared_bytes: 0,
            dynamic_align: 16,
            local_bytes: 0,
            assignment,
            constants: HashMap::new(),
            specials: HashMap::new(),
            next: assignment.map_or_else(FileSizes::default, |assignment| assignment.sizes),
            written: Vec::new(),
            read: Vec::new(),
        }
    }

    /// Opens a scope and declares all that its statements declare, so that labels can be used before they stand.
    pub fn open(&mut self, statements: &[Statement<'a>]) -> Result<()> {
        self.scopes.push(Scope::default());
        statements.iter().try_for_each(|statement| self.declare(statement))
    }

    pub fn close(&mut self) {
        self.scopes.pop();
    }

    fn declare(&mut self, statement: &Statement<'a>) -> Result<()> {
        match statement {
            Statement::Label(name, line) => {
                let label = Binding::Label(self.labels);
                self.labels += 1;
                self.bind(name, label, *line)
            }
            Statement::Registers(ty, names, line) => {
                names.iter().try_for_each(|(name, count)| self.declare_registers(name, *ty, *count, *line))
            }
            Statement::Variable(variable) => {
                let binding = match variable.space {
                    Space::Shared => self.place_shared(variable),
                    Space::Local => place(&mut self.local_bytes, variable),
                    space => {
                        let message = format!(".{space} variables inside a kernel are not supported");
                        return Err(ParseError::new(variable.line, message));
                    }
                };
                self.bind(variable.name, binding, variable.line)
            }
            Statement::Targets(name, labels) => {
                let binding = Binding::Targets(self.targets.len() as u32);
                self.targets.push(labels.clone());
                self.bind(name, binding, 0)
            }
            Statement::Location { .. } | Statement::Instruction(_) | Statement::Scope(_) => Ok(()),
        }
    }

    fn bind(&mut self, name: &'a str, binding: Binding, line: u32) -> Result<()> {
        let Some(scope) = self.scopes.last_mut() else { return Ok(()) };
        match scope.names.insert(name, binding) {
            None => Ok(()),
            Some(_) => Err(ParseError::new(line, format!("`{name}` is declared twice"))),
        }
    }

    fn declare_registers(&mut self, name: &'a str, ty: Type, count: Option<u32>, line: u32) -> Result<()> {
        if count.is_none() {
            let number = self.registers.len() as u32;
            self.families += 1;
            self.registers.insert((self.families, 0), number);
            return self.bind(name, Binding::Register(ty, number), line);
        }
        let Some(scope) = self.scopes.last_mut() else { return Ok(()) };
        self.families += 1;
        scope.families.insert(name, (ty, count.unwrap_or(0), self.families));
        Ok(())
    }

    /// Bytes of static shared memory.
    pub fn shared_bytes(&self) -> u64 {
        self.shared_bytes
    }

    /// Where dynamic shared memory starts.
    pub fn dynamic_start(&self) -> u64 {
        self.shared_bytes.next_multiple_of(self.dynamic_align)
    }

    /// Puts a shared variable after the others, or where dynamic shared memory starts if it has no size.
    fn place_shared(&mut self, variable: &Variable<'a>) -> Binding {
        if variable.bytes > 0 {
            return place(&mut self.shared_bytes, variable);
        }
        self.dynamic_align = self.dynamic_align.max(variable.align);
        Binding::Offset(Space::Shared, self.assignment.map_or(0, |assignment| assignment.dynamic_start))
    }

    /// What `name` stands for here. A module's shared variable gets its place when a kernel first names it.
    pub fn find(&mut self, name: &str) -> Option<Binding> {
        match self.look_up(name)? {
            Binding::Shared(number) => {
                let variable = self.variables[number as usize].clone();
                let binding = self.place_shared(&variable);
                self.scopes[0].names.insert(variable.name, binding);
                Some(binding)
            }
            found => Some(found),
        }
    }

    fn look_up(&mut self, name: &str) -> Option<Binding> {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let index: Option<u32> = name[stem.len()..].parse().ok();
        for scope in self.scopes.iter().rev() {
            if let Some(&binding) = scope.names.get(name) {
                return Some(binding);
            }
            if let (Some(&(ty, count, family)), Some(index)) = (scope.families.get(stem), index)
                && index < count
            {
                let fresh = self.registers.len() as u32;
                return Some(Binding::Register(ty, *self.registers.entry((family, index)).or_insert(fresh)));
            }
        }
        None
    }

    /// The row of a register; before rows are shared out, any row.
    pub fn register_row(&self, register: Virtual) -> u16 {
        self.assignment.and_then(|assignment| assignment.rows.get(&register)).copied().unwrap_or(0)
    }

    /// The carry flag, a predicate that has no name.
    pub fn carry(&mut self) -> Virtual {
        let fresh = self.registers.len() as u32;
        (File::Pred, *self.registers.entry((0, 0)).or_insert(fresh))
    }

    fn fresh(&mut self, file: File, line: u32) -> Result<u16> {
        let size = self.next.of(file);
        if *size >= MOST_ROWS {
            return Err(ParseError::new(line, "the kernel has too many registers and constants"));
        }
        *size += 1;
        Ok((*size - 1) as u16)
    }

    fn constant(&mut self, key: ConstantKey, file: File, line: u32) -> Result<u16> {
        if let Some(&row) = self.constants.get(&key) {
            return Ok(row);
        }
        let row = self.fresh(file, line)?;
        self.constants.insert(key, row);
        Ok(row)
    }

    /// A row that holds `bits` in every lane.
    pub fn constant_row(&mut self, file: File, bits: u64, line: u32) -> Result<u16> {
        let key = match file {
            File::Word => ConstantKey::Word(bits as u32),
            File::Wide => ConstantKey::Wide(bits),
            File::Pred => ConstantKey::Pred(bits != 0),
        };
        self.constant(key, file, line)
    }

    /// A row that holds the address of a module's variable.
    pub fn variable_row(&mut self, number: u32, line: u32) -> Result<u16> {
        self.constant(ConstantKey::Variable(number), File::Wide, line)
    }

    /// A row that nobody reads.
    pub fn sink_row(&mut self, file: File, line: u32) -> Result<u16> {
        self.constant(ConstantKey::Sink(file), file, line)
    }

    pub fn special_row(&mut self, special: Special, line: u32) -> Result<u16> {
        if let Some(&row) = self.specials.get(&special) {
            return Ok(row);
        }
        let row = self.fresh(File::Word, line)?;
        self.specials.insert(special, row);
        Ok(row)
    }

    /// How many rows each file has, the constants and the special registers.
    pub fn finish(self) -> (FileSizes, Vec<Constant>, Vec<(u16, Special)>) {
        let constants = self.constants.into_iter().filter_map(|(key, row)| match key {
            ConstantKey::Word(bits) => Some(Constant::Word(row, bits)),
            ConstantKey::Wide(bits) => Some(Constant::Wide(row, bits)),
            ConstantKey::Pred(bit) => Some(Constant::Pred(row, bit)),
            ConstantKey::Variable(number) => Some(Constant::Variable(row, number)),
            ConstantKey::Sink(_) => None,
        });
        let specials = self.specials.into_iter().map(|(special, row)| (row, special));
        (self.next, constants.collect(), specials.collect())
    }
}

/// Puts `variable` at the end of its space.
fn place(end: &mut u64, variable: &Variable<'_>) -> Binding {
    let offset = end.next_multiple_of(variable.align.max(1));
    *end = offset.saturating_add(variable.bytes);
    Binding::Offset(variable.space, offset)
}

/// The special register of that name.
pub(super) fn special(name: &str) -> Option<Special> {
    let axis = |axis: &str| ["x", "y", "z"].iter().position(|&known| known == axis).map(|at| at as u8);
    if let Some((stem, component)) = name.split_once('.') {
        let axis = axis(component)?;
        return Some(match stem {
            "%tid" => Special::Tid(axis),
            "%ntid" => Special::Ntid(axis),
            "%ctaid" => Special::Ctaid(axis),
            "%nctaid" => Special::Nctaid(axis),
            _ => return None,
        });
    }
    use crate::program::Relation::{Equal, Greater, GreaterEqual, Less, LessEqual};
    Some(match name {
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::WarpCount,
        "%lanemask_eq" => Special::LaneMask(Equal),
        "%lanemask_lt" => Special::LaneMask(Less),
        "%lanemask_le" => Special::LaneMask(LessEqual),
        "%lanemask_gt" => Special::LaneMask(Greater),
        "%lanemask_ge" => Special::LaneMask(GreaterEqual),
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        _ => return None,
    })
}
