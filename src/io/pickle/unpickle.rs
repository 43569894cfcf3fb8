//! The virtual machine of Python's pickles, restricted to what torch.save writes: it builds values, and calls nothing.

use std::collections::HashMap;
use std::path::Path;

use super::opcode::*;
use super::value::{Global, Heap, Storage, Tensor, Value};
use super::{SAVE_AGAIN, TRUNCATED};
use crate::error::{Error, Result};
use crate::shape::Shape;

/// What a pickle holds, and where it ends.
pub struct Pickle<'a> {
    pub root: Value<'a>,
    pub heap: Heap<'a>,
    pub end: usize,
}

/// Reads the pickle that begins at byte `at` of `bytes`, which are `place` in the file `path`.
///
/// # Errors
/// [`Error::File`] naming the byte: an opcode or a global that weights do not need, a value that is not of the kind
/// that stands there, an end too soon.
pub fn unpickle<'a>(path: &'a Path, place: &'a str, bytes: &'a [u8], at: usize) -> Result<Pickle<'a>> {
    let mut machine = Machine {
        path,
        place,
        bytes,
        at,
        opcode: at,
        budget: MIN_BUDGET + bytes.len() / BYTES_PER_OPCODE,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        heap: Heap::default(),
    };
    let root = machine.run()?;
    Ok(Pickle { root, heap: machine.heap, end: machine.at })
}

/// An opcode of one byte can take a hundred bytes of memory. A tensor takes about 30 opcodes.
const MIN_BUDGET: usize = 1 << 18;
const BYTES_PER_OPCODE: usize = 64;
/// Longer names of modules, classes and storages are none.
const MAX_NAME: usize = 128;

struct Machine<'a> {
    path: &'a Path,
    place: &'a str,
    bytes: &'a [u8],
    at: usize,
    /// Where the current opcode stands.
    opcode: usize,
    /// How many more opcodes there may be.
    budget: usize,
    stack: Vec<Value<'a>>,
    /// The heights of the stack at its open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    heap: Heap<'a>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value<'a>> {
        loop {
            self.opcode = self.at;
            self.budget = self.budget.checked_sub(1).ok_or_else(|| self.refuse("has too many opcodes for its size"))?;
            match self.take()? {
                [STOP] => return self.pop(),
                [opcode] => self.step(opcode)?,
            }
        }
    }

    fn step(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            PROTO => return self.protocol(),
            FRAME => return self.take::<8>().map(drop),
            MARK => {
                self.marks.push(self.stack.len());
                return Ok(());
            }
            BINPUT | LONG_BINPUT | MEMOIZE => return self.put(opcode),
            APPEND | APPENDS => return self.append(opcode),
            SETITEM | SETITEMS => return self.set_items(opcode),
            BUILD => return self.build(),
            NONE => Value::None,
            NEWTRUE => Value::Bool(true),
            NEWFALSE => Value::Bool(false),
            BININT => Value::Int(i32::from_le_bytes(self.take()?).into()),
            BININT1 | BININT2 => Value::Int(self.number(opcode)?.into()),
            LONG1 => self.long()?,
            BINFLOAT => self.take::<8>().map(|_| Value::Float)?,
            BINSTRING | SHORT_BINSTRING | BINUNICODE | SHORT_BINUNICODE | BINUNICODE8 => {
                Value::Text(self.text(opcode)?)
            }
            BINBYTES | SHORT_BINBYTES => self.sized(opcode).map(|_| Value::Bytes)?,
            EMPTY_TUPLE => self.tuple(Vec::new()),
            TUPLE => self.pop_mark().map(|values| self.tuple(values))?,
            TUPLE1 | TUPLE2 | TUPLE3 => self.small_tuple(usize::from(opcode - TUPLE1) + 1)?,
            EMPTY_LIST => Value::List(self.heap.add_sequence(Vec::new())),
            EMPTY_DICT => Value::Dict(self.heap.add_dict()),
            BINGET | LONG_BINGET => self.get(opcode)?,
            GLOBAL => self.global()?,
            STACK_GLOBAL => self.stack_global()?,
            REDUCE => self.reduce()?,
            BINPERSID => self.storage()?,
            _ => return Err(self.refuse_opcode(opcode)),
        };
        self.stack.push(value);
        Ok(())
    }

    // --- bytes -------------------------------------------------------------------------------------------------------

    fn slice(&mut self, length: usize) -> Result<&'a [u8]> {
        let bytes = self.at.checked_add(length).and_then(|end| self.bytes.get(self.at..end));
        let bytes = bytes.ok_or_else(|| self.refuse("truncated: its pickle has no end").with_hint(TRUNCATED))?;
        self.at += length;
        Ok(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.slice(N)?);
        Ok(bytes)
    }

    /// The unsigned number behind `opcode`, in as many bytes as the opcode says.
    fn number(&mut self, opcode: u8) -> Result<u32> {
        Ok(match opcode {
            BININT2 => u16::from_le_bytes(self.take()?).into(),
            BINSTRING | BINUNICODE | BINBYTES | LONG_BINGET | LONG_BINPUT => u32::from_le_bytes(self.take()?),
            _ => u8::from_le_bytes(self.take()?).into(),
        })
    }

    /// The bytes behind `opcode`, whose number comes first.
    fn sized(&mut self, opcode: u8) -> Result<&'a [u8]> {
        let length = match opcode {
            BINUNICODE8 => u64::from_le_bytes(self.take()?),
            _ => self.number(opcode)?.into(),
        };
        self.slice(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn text(&mut self, opcode: u8) -> Result<&'a str> {
        let bytes = self.sized(opcode)?;
        str::from_utf8(bytes).map_err(|_| self.refuse("a string is not UTF-8"))
    }

    fn long(&mut self) -> Result<Value<'a>> {
        let bytes = self.sized(LONG1)?;
        let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut whole = [sign; 8];
        let Some(low) = whole.get_mut(..bytes.len()) else { return Ok(Value::Long(bytes)) };
        low.copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(whole)))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().take(MAX_NAME + 1).position(|&byte| byte == b'\n');
        let line = self.slice(end.ok_or_else(|| self.refuse("names a class or function without an end"))?)?;
        self.at += 1;
        str::from_utf8(line).map_err(|_| self.refuse("names a class or function not in UTF-8"))
    }

    fn protocol(&mut self) -> Result<()> {
        match self.take()? {
            [..=5] => Ok(()),
            [version] => Err(self.refuse(format!("is of protocol {version}; the newest known is 5"))),
        }
    }

    // --- stack -------------------------------------------------------------------------------------------------------

    fn pop(&mut self) -> Result<Value<'a>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = if self.stack.len() > floor { self.stack.pop() } else { None };
        value.ok_or_else(|| self.refuse("takes a value from an empty stack"))
    }

    /// What stands on top, where it stays.
    fn top(&mut self) -> Result<Value<'a>> {
        let value = self.pop()?;
        self.stack.push(value);
        Ok(value)
    }

    /// All values down to the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Value<'a>>> {
        let mark = self.marks.pop().ok_or_else(|| self.refuse("looks for a mark where none is"))?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, values: Vec<Value<'a>>) -> Value<'a> {
        Value::Tuple(self.heap.add_sequence(values))
    }

    fn small_tuple(&mut self, length: usize) -> Result<Value<'a>> {
        let mut values = (0..length).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        values.reverse();
        Ok(self.tuple(values))
    }

    fn append(&mut self, opcode: u8) -> Result<()> {
        let values = if opcode == APPEND { vec![self.pop()?] } else { self.pop_mark()? };
        let Value::List(list) = self.top()? else { return Err(self.refuse("appends to what is no list")) };
        self.heap.sequence_mut(list).extend(values);
        Ok(())
    }

    fn set_items(&mut self, opcode: u8) -> Result<()> {
        let values = if opcode == SETITEM { vec![self.pop()?, self.pop()?] } else { self.pop_mark()? };
        let Value::Dict(dict) = self.top()? else { return Err(self.refuse("sets entries of what is no dict")) };
        let (pairs, rest) = values.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.refuse("sets a key without a value"));
        }
        let entry =
            |&[first, second]: &[Value<'a>; 2]| if opcode == SETITEM { (second, first) } else { (first, second) };
        self.heap.dict_mut(dict).extend(pairs.iter().map(entry));
        Ok(())
    }

    fn put(&mut self, opcode: u8) -> Result<()> {
        let index = if opcode == MEMOIZE { self.memo.len() as u32 } else { self.number(opcode)? };
        let value = self.top()?;
        self.memo.insert(index, value);
        Ok(())
    }

    fn get(&mut self, opcode: u8) -> Result<Value<'a>> {
        let index = self.number(opcode)?;
        self.memo.get(&index).copied().ok_or_else(|| self.refuse(format!("asks for memo {index}, which was not kept")))
    }

    // --- what would be called ----------------------------------------------------------------------------------------

    fn global(&mut self) -> Result<Value<'a>> {
        let (module, name) = (self.line()?, self.line()?);
        self.find_global(module, name)
    }

    fn stack_global(&mut self) -> Result<Value<'a>> {
        let (name, module) = (self.pop()?, self.pop()?);
        match (module, name) {
            (Value::Text(module), Value::Text(name)) if module.len().max(name.len()) <= MAX_NAME => {
                self.find_global(module, name)
            }
            _ => Err(self.refuse("names a class or function by what is no name")),
        }
    }

    fn find_global(&self, module: &str, name: &str) -> Result<Value<'a>> {
        Global::find(module, name).map(Value::Global).ok_or_else(|| {
            let detail = format!("{module}.{name} is no part of plain weights, and nothing in a file is executed");
            self.refuse(detail).with_hint(way_out(module, name))
        })
    }

    /// What the call of a function or class would return.
    fn reduce(&mut self) -> Result<Value<'a>> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let (Value::Tuple(at), Value::Global(global)) = (arguments, callee) else {
            return Err(self.refuse(format!("calls {} with {}", callee.kind(), arguments.kind())));
        };
        match (global, self.heap.sequence(at)) {
            (Global::OrderedDict, []) => Ok(Value::Dict(self.heap.add_dict())),
            (Global::Size, &[Value::Tuple(sizes)]) => Ok(Value::Tuple(sizes)),
            (Global::RebuildTensor, _) => self.tensor(at),
            (Global::RebuildParameter, &[Value::Tensor(tensor), ..]) => Ok(Value::Tensor(tensor)),
            (
                Global::RebuildFromType,
                &[Value::Global(Global::RebuildTensor), Value::Global(Global::Tensor), Value::Tuple(at), _],
            ) => self.tensor(at),
            _ => Err(self.refuse(format!("calls {global:?} with arguments that it does not take"))),
        }
    }

    /// The tensor of a tuple: storage, offset, size, strides, two that do not matter here, and flags of its elements.
    fn tensor(&mut self, at: usize) -> Result<Value<'a>> {
        let (storage, offset, size, strides, flags) = match self.heap.sequence(at) {
            &[
                Value::Storage(storage),
                Value::Int(offset),
                Value::Tuple(size),
                Value::Tuple(strides),
                _,
                _,
                ref flags @ ..,
            ] => (storage, offset, size, strides, flags),
            _ => return Err(self.refuse("a tensor has no storage, offset, shape and strides")),
        };
        if flags.iter().any(|flags| matches!(flags, Value::Dict(at) if !self.heap.dict(*at).is_empty())) {
            return Err(self.refuse("a tensor is stored conjugated or negated").with_hint(SAVE_AGAIN));
        }
        let numbers = usize::try_from(offset).ok().zip(self.sizes(size)).zip(self.sizes(strides));
        let Some(((offset, dims), strides)) = numbers else {
            return Err(self.refuse("the shape, strides or offset of a tensor are no whole numbers"));
        };
        let view = (storage, &self.heap.storages()[storage]);
        let tensor = Tensor::new(view, offset, &dims, &strides).map_err(|detail| self.refuse(detail))?;
        Ok(Value::Tensor(self.heap.add_tensor(tensor)))
    }

    /// The whole numbers of a tuple, or the first of them if they are more than any tensor has.
    fn sizes(&self, at: usize) -> Option<Vec<usize>> {
        let whole = |value: &Value| if let Value::Int(n) = value { usize::try_from(*n).ok() } else { None };
        self.heap.sequence(at).iter().take(Shape::MAX_RANK + 1).map(whole).collect()
    }

    /// The storage that a persistent id names: `("storage", class, key, device, number of elements)`; a sixth element
    /// of the form before 1.6 is None.
    fn storage(&mut self) -> Result<Value<'a>> {
        let id = self.pop()?;
        let parts = if let Value::Tuple(at) = id { self.heap.sequence(at) } else { &[] };
        let (dtype, key, numel) = match *parts {
            [Value::Text("storage"), Value::Global(Global::Storage(dtype)), Value::Text(key), _, Value::Int(numel)]
            | [
                Value::Text("storage"),
                Value::Global(Global::Storage(dtype)),
                Value::Text(key),
                _,
                Value::Int(numel),
                Value::None,
            ] => (dtype, key, numel),
            _ => return Err(self.refuse("a persistent id is not a storage of known dtype, key and length")),
        };
        let storage = usize::try_from(numel).ok().map(|numel| Storage { key, dtype, numel });
        let storage = storage.filter(|s| key.len() <= MAX_NAME && s.bytes().is_some());
        let storage = storage.ok_or_else(|| self.refuse("a storage is larger than memory"))?;
        let at = self.heap.add_storage(storage);
        at.map(Value::Storage).ok_or_else(|| self.refuse(format!("storage {key} has two dtypes or two lengths")))
    }

    /// Passes over the attributes of an `OrderedDict`: `_metadata`, with versions of modules.
    fn build(&mut self) -> Result<()> {
        self.pop()?;
        match self.top()? {
            Value::Dict(_) => Ok(()),
            other => Err(self.refuse(format!("sets the state of {}", other.kind())).with_hint(SAVE_AGAIN)),
        }
    }

    // --- messages ----------------------------------------------------------------------------------------------------

    fn refuse_opcode(&self, opcode: u8) -> Error {
        match refused(opcode) {
            Some(name) => self.refuse(format!("opcode {name} is none of torch.save's")).with_hint(SAVE_AGAIN),
            None => self.refuse(format!("{opcode:#04x} is no opcode")),
        }
    }

    /// The error of the current opcode. The last string on the stack tells what it is about.
    fn refuse(&self, detail: impl std::fmt::Display) -> Error {
        let text = |value: &Value<'a>| if let Value::Text(text) = value { Some(*text) } else { None };
        let about = self.stack.iter().rev().find_map(text).filter(|text| *text != "storage" && text.len() <= MAX_NAME);
        let about = about.map(|text| format!(" at {text:?}")).unwrap_or_default();
        Error::file(self.path, format!("{}byte {}{about}: {detail}", self.place, self.opcode))
    }
}

/// What to do about a global that is refused.
fn way_out(module: &str, name: &str) -> &'static str {
    let is_in = |prefix: &str| module.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    match name {
        "_rebuild_qtensor" => "it is a quantised tensor: save the model with its weights dequantised",
        "_rebuild_sparse_tensor" | "_rebuild_nested_tensor" => "it is a sparse tensor: save it as .to_dense()",
        "_rebuild_tensor_v3" => "it is of a dtype that is not read: save the model in bf16, f16 or f32",
        "_rebuild_meta_tensor_no_storage" => "it has no data: save the model after its weights are loaded",
        "_rebuild_from_type_v2" | "_rebuild_wrapper_subclass" => {
            "it is a subclass of Tensor, as sharded, distributed and quantised ones are: save whole plain tensors"
        }
        _ if is_in("torch.distributed") => {
            "it is a sharded tensor: save the full state dict (FSDP's FULL_STATE_DICT, or torch's dcp_to_torch_save)"
        }
        _ if is_in("numpy") => "it is a numpy array: save tensors, made with torch.from_numpy",
        _ => SAVE_AGAIN,
    }
}
