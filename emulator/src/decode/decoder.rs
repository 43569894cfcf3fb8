//! One instruction being decoded: its modifiers and operands.

use super::names::{Binding, Names, special};
use crate::parse::ast::{Instruction, Operand};
use crate::parse::{ParseError, Result};
use crate::program::{Address, Class, Op};
use crate::run::lanes::{Alu, Rows};
use crate::types::{File, Space, Type};

/// What an instruction decodes to.
pub(super) type Decoded = Result<(Op, Class)>;

/// An instruction and the names around it.
pub(super) struct Decoder<'d, 'a, 'p> {
    pub names: &'d mut Names<'a, 'p>,
    pub instruction: &'d Instruction<'a>,
}

impl<'d, 'a> Decoder<'d, 'a, '_> {
    pub fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(ParseError::new(self.instruction.line, message))
    }

    /// The error for an opcode that this cannot execute.
    pub fn unknown<T>(&self) -> Result<T> {
        self.error(format!("instruction `{}` is not supported", self.instruction.opcode))
    }

    /// `alu`, or the error where the tables have none.
    pub fn known<T>(&self, found: Option<T>) -> Result<T> {
        found.map_or_else(|| self.unknown(), Ok)
    }

    /// The opcode's dotted parts after the first.
    pub fn modifiers(&self) -> Vec<&'a str> {
        self.instruction.opcode.split('.').skip(1).collect()
    }

    /// The last part as a type, and the parts before it.
    pub fn typed(&self) -> Result<(Vec<&'a str>, Type)> {
        let mut modifiers = self.modifiers();
        let ty = self.known(modifiers.pop().and_then(Type::named))?;
        Ok((modifiers, ty))
    }

    /// Exactly `N` operands.
    pub fn operands<const N: usize>(&self) -> Result<&'d [Operand<'a>; N]> {
        let operands = self.instruction.operands.as_slice();
        match operands.try_into() {
            Ok(operands) => Ok(operands),
            Err(_) => {
                let opcode = self.instruction.opcode;
                self.error(format!("`{opcode}` takes {N} operands, found {}", operands.len()))
            }
        }
    }

    fn line(&self) -> u32 {
        self.instruction.line
    }

    fn register(&mut self, name: &str) -> Result<Option<(Type, u32)>> {
        match self.names.find(name) {
            Some(Binding::Register(ty, number)) => Ok(Some((ty, number))),
            Some(_) => Ok(None),
            None if special(name).is_some() => Ok(None),
            None => self.error(format!("`{name}` is not declared")),
        }
    }

    /// The row of a source of type `ty`: a register of its size, a literal, an address or a special register.
    pub fn read(&mut self, operand: &Operand<'a>, ty: Type) -> Result<u16> {
        let (row, file, bits) = self.read_loose(operand, ty)?;
        if file != ty.file() || ty.bytes() == 4 && bits == 16 {
            return self.error(format!("the register's size does not fit type .{ty}"));
        }
        Ok(row)
    }

    /// The row of a source whose register may be wider than `ty`, with its file and bits.
    pub fn read_loose(&mut self, operand: &Operand<'a>, ty: Type) -> Result<(u16, File, u32)> {
        let file = ty.file();
        let bits = match operand {
            Operand::Name(name) => match self.register(name)? {
                Some((ty, number)) => {
                    self.names.read.push((ty.file(), number));
                    return Ok((self.names.register_row((ty.file(), number)), ty.file(), ty.bits()));
                }
                None => return Ok((self.symbol(name, file)?, file, ty.bits())),
            },
            Operand::Int(value) => self.integer_bits(*value, ty)?,
            Operand::F32(bits) if matches!(ty, Type::F32 | Type::B32) => u64::from(*bits),
            Operand::F64(bits) if matches!(ty, Type::F64 | Type::B64) => *bits,
            Operand::F64(bits) if ty == Type::F32 => u64::from((f64::from_bits(*bits) as f32).to_bits()),
            _ => return self.error(format!("this operand does not fit type .{ty}")),
        };
        let row = self.names.constant_row(file, bits, self.line())?;
        Ok((row, file, ty.bits()))
    }

    fn integer_bits(&self, value: i64, ty: Type) -> Result<u64> {
        match ty {
            Type::F32 | Type::F64 | Type::Tf32 if value != 0 => {
                self.error(format!("an integer literal does not fit type .{ty}"))
            }
            Type::Pred => Ok(u64::from(value != 0)),
            _ if ty.bits() == 64 => Ok(value as u64),
            _ => Ok(value as u64 & ((1 << ty.bits()) - 1)),
        }
    }

    /// The row of a special register or of a variable's address.
    fn symbol(&mut self, name: &str, file: File) -> Result<u16> {
        if let Some(special) = special(name) {
            return match file {
                File::Word => self.names.special_row(special, self.line()),
                _ => self.error(format!("`{name}` is read as 32 bits only")),
            };
        }
        match self.names.find(name) {
            Some(Binding::Offset(_, offset)) => self.names.constant_row(file, offset, self.line()),
            Some(Binding::Global(number)) if file == File::Wide => self.names.variable_row(number, self.line()),
            _ => self.error(format!("`{name}` is not a value")),
        }
    }

    /// The row of a result of type `ty`.
    pub fn write(&mut self, operand: &Operand<'a>, ty: Type) -> Result<u16> {
        let (row, file, bits) = self.write_loose(operand, ty)?;
        if file != ty.file() || ty.bytes() == 4 && bits == 16 {
            return self.error(format!("the register's size does not fit type .{ty}"));
        }
        Ok(row)
    }

    /// The row of a result whose register may be wider than `ty`, with its file and bits.
    pub fn write_loose(&mut self, operand: &Operand<'a>, ty: Type) -> Result<(u16, File, u32)> {
        match operand {
            Operand::Sink => Ok((self.names.sink_row(ty.file(), self.line())?, ty.file(), ty.bits())),
            Operand::Name(name) => match self.register(name)? {
                Some((ty, number)) => {
                    self.names.written.push((ty.file(), number));
                    Ok((self.names.register_row((ty.file(), number)), ty.file(), ty.bits()))
                }
                None => self.error(format!("`{name}` cannot be written")),
            },
            _ => self.error("the destination is not a register"),
        }
    }

    /// A predicate source, possibly negated.
    pub fn predicate(&mut self, operand: &Operand<'a>) -> Result<(u16, bool)> {
        match operand {
            Operand::Not(name) => Ok((self.read(&Operand::Name(name), Type::Pred)?, true)),
            _ => Ok((self.read(operand, Type::Pred)?, false)),
        }
    }

    /// `d` or `d|p`: the operands of both destinations.
    pub fn pair<'o>(operand: &'o Operand<'a>) -> (&'o Operand<'a>, &'o Operand<'a>) {
        match operand {
            Operand::Pair(both) => (&both[0], &both[1]),
            single => (single, &Operand::Sink),
        }
    }

    /// `{a, b}` or a single register as a list.
    pub fn elements<'o>(operand: &'o Operand<'a>) -> &'o [Operand<'a>] {
        match operand {
            Operand::Vector(elements) => elements,
            single => std::slice::from_ref(single),
        }
    }

    /// `[a]` in `space`.
    pub fn address(&mut self, operand: &Operand<'a>, space: Space) -> Result<Address> {
        let Operand::Address(base, offset) = operand else {
            return self.error("the address must stand in brackets");
        };
        match &**base {
            Operand::Int(value) => Ok(Address { base: None, offset: value.wrapping_add(*offset) }),
            Operand::Name(name) => match self.names.find(name) {
                Some(Binding::Offset(owner, start)) if owner == space => {
                    Ok(Address { base: None, offset: (start as i64).wrapping_add(*offset) })
                }
                Some(Binding::Offset(owner, _)) => self.error(format!("`{name}` is in .{owner}, not in .{space}")),
                _ => {
                    let (row, file, bits) = self.read_loose(base, Type::B64)?;
                    if bits < 32 || file == File::Word && !matches!(space, Space::Shared | Space::Local | Space::Param)
                    {
                        return self.error(format!("a {bits}-bit register cannot be an address in .{space}"));
                    }
                    Ok(Address { base: Some((row, file)), offset: *offset })
                }
            },
            _ => self.error("the address must be a register, a variable or a number"),
        }
    }

    /// The labels that `name` lists, or a label itself.
    pub fn label(&mut self, operand: &Operand<'a>) -> Result<u32> {
        match operand {
            Operand::Name(name) => match self.names.find(name) {
                Some(Binding::Label(label)) => Ok(label),
                _ => self.error(format!("there is no label `{name}`")),
            },
            _ => self.error("the target of a branch must be a label"),
        }
    }

    /// `alu` on a result and `N` sources of one type each.
    pub fn alu<const N: usize>(&mut self, alu: Alu, to: Type, from: [Type; N]) -> Result<Op> {
        let operands = self.instruction.operands.as_slice();
        if operands.len() != N + 1 {
            let opcode = self.instruction.opcode;
            return self.error(format!("`{opcode}` takes {} operands, found {}", N + 1, operands.len()));
        }
        let mut rows = Rows::default();
        for (at, ty) in from.iter().enumerate() {
            rows[1 + at] = self.read(&operands[1 + at], *ty)?;
        }
        rows[0] = self.write(&operands[0], to)?;
        Ok(Op::Alu(alu, rows))
    }
}
