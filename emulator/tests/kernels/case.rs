//! One launch of a kernel: its buffers, its arguments, and what must come out.

use crate::vectors::{self, Element, Exactness, Vector};
use ptx_emulator::{Arch, Checks, Counters, Device, Launch, LaunchError, Module, Trap};
use std::fmt;
use std::path::{Path, PathBuf};

/// What a buffer holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    F32,
    Bf16,
    U32,
    I8,
    U8,
}

pub use Kind::{Bf16, F32, I8, U8, U32};

impl Kind {
    pub fn bytes(self) -> usize {
        match self {
            F32 | U32 => 4,
            Bf16 => 2,
            I8 | U8 => 1,
        }
    }

    fn encode(self, value: f64) -> Vec<u8> {
        match self {
            F32 => (value as f32).to_le_bytes().to_vec(),
            Bf16 => {
                let bits = (value as f32).to_bits();
                (((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16).to_le_bytes().to_vec()
            }
            U32 => (value as u32).to_le_bytes().to_vec(),
            I8 => (value as i8).to_le_bytes().to_vec(),
            U8 => vec![value as u8],
        }
    }

    fn decode(self, bytes: &[u8]) -> f64 {
        match self {
            F32 => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
            Bf16 => f32::from_bits(u32::from(u16::from_le_bytes(bytes.try_into().unwrap())) << 16).into(),
            U32 => u32::from_le_bytes(bytes.try_into().unwrap()).into(),
            I8 => i8::from_le_bytes(bytes.try_into().unwrap()).into(),
            U8 => bytes[0].into(),
        }
    }

    /// The value that the kind stores for it.
    pub fn rounded(self, value: f64) -> f64 {
        self.decode(&self.encode(value))
    }

    /// How far a result may be from the exact one, in parts of its size.
    fn tolerance(self) -> f64 {
        match self {
            F32 => 2e-5,
            Bf16 => 1.6e-2,
            U32 | I8 | U8 => 0.0,
        }
    }
}

#[derive(Clone)]
enum Content {
    Unwritten(usize),
    Bytes(Vec<u8>),
    /// 64-bit words: a number, or a buffer's address.
    Table(Vec<Word>),
}

#[derive(Clone, Copy)]
pub enum Word {
    Value(u64),
    Address(usize),
}

#[derive(Clone)]
struct Buffer {
    kind: Kind,
    content: Content,
    expected: Option<Vec<f64>>,
    /// The kind whose rounding the results have, and the size of what they are sums of.
    rounding: (Kind, f64),
}

impl Buffer {
    /// Itself before and after: as the next of the `outputs` if it is one.
    fn vector<'a>(&self, outputs: &mut impl Iterator<Item = &'a Vec<u8>>) -> vectors::Buffer {
        let (before, addresses) = match &self.content {
            Content::Unwritten(bytes) => (vec![0xff; *bytes], Vec::new()),
            Content::Bytes(bytes) => (bytes.clone(), Vec::new()),
            Content::Table(words) => {
                let word = |word: &Word| if let Word::Value(value) = *word { value } else { 0 };
                let address = |(at, word): (usize, &Word)| match *word {
                    Word::Address(buffer) => Some((8 * at, buffer)),
                    Word::Value(_) => None,
                };
                let bytes = words.iter().flat_map(|at| word(at).to_le_bytes()).collect();
                (bytes, words.iter().enumerate().filter_map(address).collect())
            }
        };
        let output = if self.expected.is_some() { outputs.next() } else { None };
        let after = output.cloned().unwrap_or_else(|| before.clone());
        let (rounding, least) = self.rounding;
        // A GPU and the emulator may both be off.
        let close = |element| Exactness::Close { element, relative: 2.0 * rounding.tolerance(), least };
        let exact = match self.kind {
            F32 => close(Element::F32),
            Bf16 => close(Element::Bf16),
            U32 | I8 | U8 => Exactness::Bits,
        };
        vectors::Buffer { before, addresses, after, exact }
    }
}

#[derive(Clone, Copy)]
pub enum Arg {
    Buffer(usize),
    U32(u32),
    I64(i64),
    F32(f32),
}

#[derive(Clone)]
pub struct Case {
    /// The kernel and its shape.
    pub name: String,
    pub entry: String,
    /// The kernel alone, as its file has it.
    pub ptx: String,
    pub grid: [u32; 3],
    pub block: u32,
    pub args: Vec<Arg>,
    pub shared_bytes: u64,
    /// The source files that `.loc` names, by number.
    pub sources: Vec<(u32, PathBuf)>,
    buffers: Vec<Buffer>,
}

pub enum Failure {
    /// Not loaded or not launched.
    Refused(String),
    Trap(Box<Trap>),
    Wrong(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(text) | Self::Wrong(text) => f.write_str(text),
            Self::Trap(trap) => trap.fmt(f),
        }
    }
}

impl Case {
    pub fn new(file: &str, entry: &str, shape: &str, grid: [u32; 3], block: u32) -> Self {
        let (entry, name) = (entry.to_string(), format!("{entry} {shape}"));
        let ptx = alone(file, &entry);
        let sources = sources(file);
        Self { name, entry, ptx, grid, block, args: Vec::new(), shared_bytes: 0, sources, buffers: Vec::new() }
    }

    /// With so many bytes of dynamic shared memory.
    pub fn shared(mut self, bytes: u64) -> Self {
        self.shared_bytes = bytes;
        self
    }

    fn add(&mut self, kind: Kind, content: Content, expected: Option<Vec<f64>>) -> usize {
        self.buffers.push(Buffer { kind, content, expected, rounding: (kind, 0.02) });
        self.buffers.len() - 1
    }

    fn encoded(kind: Kind, values: &[f64]) -> Content {
        Content::Bytes(values.iter().flat_map(|&value| kind.encode(value)).collect())
    }

    /// A buffer that the kernel reads, which is no argument of its own.
    pub fn hidden(&mut self, kind: Kind, values: &[f64], expected: Option<Vec<f64>>) -> usize {
        self.add(kind, Self::encoded(kind, values), expected)
    }

    pub fn table(mut self, words: Vec<Word>) -> Self {
        let at = self.add(U32, Content::Table(words), None);
        self.args.push(Arg::Buffer(at));
        self
    }

    pub fn input(mut self, kind: Kind, values: &[f64]) -> Self {
        let at = self.hidden(kind, values, None);
        self.args.push(Arg::Buffer(at));
        self
    }

    /// A buffer that the kernel reads, or null where there is nothing to read.
    pub fn given(self, kind: Kind, values: &[f64]) -> Self {
        if values.is_empty() { self.scalar(Arg::I64(0)) } else { self.input(kind, values) }
    }

    /// A buffer that nobody wrote, and what the kernel must write there.
    pub fn output(mut self, kind: Kind, expected: Vec<f64>) -> Self {
        let at = self.add(kind, Content::Unwritten(expected.len() * kind.bytes()), Some(expected));
        self.args.push(Arg::Buffer(at));
        self
    }

    /// Adds an output that is as exact as sums of values of some size that `rounding` holds.
    pub fn close_to(self, kind: Kind, rounding: (Kind, f64), expected: Vec<f64>) -> Self {
        self.output(kind, expected).rounded_as(rounding)
    }

    /// The buffer added last is as exact as sums of values of some size that `rounding` holds.
    pub fn rounded_as(mut self, rounding: (Kind, f64)) -> Self {
        if let Some(buffer) = self.buffers.last_mut() {
            buffer.rounding = rounding;
        }
        self
    }

    /// A buffer that the kernel changes.
    pub fn changed(mut self, kind: Kind, values: &[f64], expected: Vec<f64>) -> Self {
        let at = self.hidden(kind, values, Some(expected));
        self.args.push(Arg::Buffer(at));
        self
    }

    /// The buffer added last as another argument.
    pub fn again(mut self) -> Self {
        self.args.push(Arg::Buffer(self.buffers.len() - 1));
        self
    }

    pub fn scalar(mut self, arg: Arg) -> Self {
        self.args.push(arg);
        self
    }

    /// The numbers of the buffers that hold anything.
    pub fn buffers(&self) -> Vec<usize> {
        let holds = |buffer: &Buffer| !matches!(&buffer.content, Content::Bytes(bytes) if bytes.is_empty());
        (0..self.buffers.len()).filter(|&at| holds(&self.buffers[at])).collect()
    }

    /// Itself with the bytes of its outputs, as [`Self::run`] gives them.
    pub fn vector(&self, outputs: &[Vec<u8>]) -> Vector {
        let mut outputs = outputs.iter();
        let arg = |arg: &Arg| match *arg {
            Arg::Buffer(at) => vectors::Arg::Address(at),
            Arg::U32(value) => vectors::Arg::Value(value.to_le_bytes().into()),
            Arg::I64(value) => vectors::Arg::Value(value.to_le_bytes().into()),
            Arg::F32(value) => vectors::Arg::Value(value.to_le_bytes().into()),
        };
        Vector {
            name: self.name.clone(),
            kernel: true,
            ptx: self.ptx.clone(),
            entry: self.entry.clone(),
            grid: self.grid,
            block: [self.block, 1, 1],
            shared_bytes: self.shared_bytes,
            args: self.args.iter().map(arg).collect(),
            buffers: self.buffers.iter().map(|buffer| buffer.vector(&mut outputs)).collect(),
        }
    }

    /// The text of a source line.
    pub fn source(&self, file: u32, line: usize) -> String {
        let path = self.sources.iter().find(|(number, _)| *number == file).map(|(_, path)| path);
        let text = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        text.lines().nth(line.wrapping_sub(1)).unwrap_or_default().trim().into()
    }

    /// Runs `ptx` in place of the kernel, with one element less in the buffer `shortened`; gives the outputs' bytes.
    pub fn run(&self, ptx: &str, seed: u64, shortened: Option<usize>) -> Result<(Vec<Vec<u8>>, Counters), Failure> {
        let refused = |text: String| Failure::Refused(text);
        let module = Module::parse(ptx).map_err(|error| refused(error.to_string()))?;
        let kernel = module.kernel(&self.entry).ok_or_else(|| refused("no such kernel".into()))?;
        let mut device = Device::new(Arch::Sm80);
        let addresses = self.allocate(&mut device, shortened);
        let args: Vec<Vec<u8>> = self
            .args
            .iter()
            .map(|arg| match *arg {
                Arg::Buffer(at) => addresses[at].to_le_bytes().to_vec(),
                Arg::U32(value) => value.to_le_bytes().to_vec(),
                Arg::I64(value) => value.to_le_bytes().to_vec(),
                Arg::F32(value) => value.to_le_bytes().to_vec(),
            })
            .collect();
        let args = kernel.pack(&args.iter().map(Vec::as_slice).collect::<Vec<_>>()).map_err(refused)?;
        let launch = Launch {
            grid: self.grid,
            block: [self.block, 1, 1],
            shared_bytes: self.shared_bytes,
            args: &args,
            seed,
            checks: Checks::default(),
            step_limit: 3_000_000,
            threads: 1,
            ..Launch::default()
        };
        let counters = device.launch(kernel, &launch).map_err(|error| match error {
            LaunchError::Trap(trap) => Failure::Trap(trap),
            other => Failure::Refused(other.to_string()),
        })?;
        let outputs = self.compare(&device, &addresses, shortened)?;
        Ok((outputs, counters))
    }

    fn allocate(&self, device: &mut Device, shortened: Option<usize>) -> Vec<u64> {
        let mut addresses: Vec<u64> = Vec::new();
        for (at, buffer) in self.buffers.iter().enumerate() {
            let bytes = match &buffer.content {
                Content::Unwritten(bytes) => vec![0; *bytes],
                Content::Bytes(bytes) => bytes.clone(),
                Content::Table(words) => {
                    let word = |word: &Word| match *word {
                        Word::Value(value) => value,
                        Word::Address(at) => addresses[at],
                    };
                    words.iter().flat_map(|at| word(at).to_le_bytes()).collect()
                }
            };
            let length = bytes.len() - if shortened == Some(at) { buffer.kind.bytes() } else { 0 };
            let address = device.alloc(length as u64).unwrap();
            if !matches!(buffer.content, Content::Unwritten(_)) {
                device.write(address, &bytes[..length]).unwrap();
            }
            addresses.push(address);
        }
        addresses
    }

    fn compare(&self, device: &Device, addresses: &[u64], shortened: Option<usize>) -> Result<Vec<Vec<u8>>, Failure> {
        let mut outputs = Vec::new();
        for (at, buffer) in self.buffers.iter().enumerate() {
            let Some(expected) = &buffer.expected else { continue };
            let count = expected.len() - usize::from(shortened == Some(at));
            let mut bytes = vec![0; count * buffer.kind.bytes()];
            device.read(addresses[at], &mut bytes).unwrap();
            for (place, (got, want)) in bytes.chunks_exact(buffer.kind.bytes()).zip(expected).enumerate() {
                let got = buffer.kind.decode(got);
                let (rounding, least) = buffer.rounding;
                let close = (got - want).abs() <= rounding.tolerance() * want.abs().max(least) || got == *want;
                if !(close || got.is_nan() && want.is_nan()) {
                    return Err(Failure::Wrong(format!("buffer {at}, element {place}: {got} instead of {want}")));
                }
            }
            outputs.push(bytes);
        }
        Ok(outputs)
    }
}

/// One kernel of a PTX text as a text of its own.
fn alone(file: &str, entry: &str) -> String {
    let head = file.split(".visible .entry").next().unwrap();
    let start = file.find(&format!(".visible .entry {entry}(")).unwrap_or_else(|| panic!("no kernel {entry}"));
    let end = start + file[start..].find("\n}\n").unwrap() + 3;
    format!("{head}{}", &file[start..end])
}

/// The files of a PTX text's `.file` lines: kernels lie in `cuda`, fixtures beside these tests.
fn sources(file: &str) -> Vec<(u32, PathBuf)> {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entry = |line: &str| {
        let (number, path) = line.trim().strip_prefix(".file")?.trim().split_once(' ')?;
        let path = path.trim_matches('"');
        let folder =
            if path.starts_with("cuda/") { crate_folder.join("..") } else { crate_folder.join("tests/fixtures") };
        Some((number.parse().ok()?, folder.join(path)))
    };
    file.lines().filter_map(entry).collect()
}
