//! A device with buffers, and kernels of a few lines.

use crate::vectors::{self, Buffer, Element, Exactness, Vector};
use ptx_emulator::{Arch, Counters, Device, Launch, LaunchError, Module, Trap};

/// A PTX text whose kernel `k` has these parameters and this body.
pub fn ptx(params: &str, body: &str) -> String {
    format!(".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k({params})\n{{\n{body}\nret;\n}}\n")
}

/// A device and the module under test.
pub struct Bench {
    pub device: Device,
    pub module: Module,
    text: String,
    /// Address and bytes of each.
    buffers: Vec<(u64, usize)>,
}

impl Bench {
    pub fn new(ptx: &str) -> Self {
        let module = Module::parse(ptx).unwrap_or_else(|error| panic!("{error}\n{}", numbered(ptx)));
        Self { device: Device::new(Arch::Sm80), module, text: ptx.into(), buffers: Vec::new() }
    }

    /// A buffer with content.
    pub fn buffer<T: Plain>(&mut self, content: &[T]) -> u64 {
        let address = self.empty::<T>(content.len());
        self.device.write(address, &bytes(content)).unwrap();
        address
    }

    /// A buffer that nobody wrote.
    pub fn empty<T: Plain>(&mut self, length: usize) -> u64 {
        let bytes = length * size_of::<T>();
        let address = self.device.alloc(bytes as u64).unwrap();
        self.buffers.push((address, bytes));
        address
    }

    pub fn read<T: Plain>(&self, address: u64, length: usize) -> Vec<T> {
        let mut out = vec![0; length * size_of::<T>()];
        self.device.read(address, &mut out).unwrap();
        out.chunks_exact(size_of::<T>()).map(T::of_bytes).collect()
    }

    /// Launches with arguments given as their bytes.
    pub fn launch(&mut self, kernel: &str, launch: Launch<'_>, args: &[Arg]) -> Result<Counters, LaunchError> {
        let kernel = self.module.kernel(kernel).expect("a kernel of that name").clone();
        let values: Vec<&[u8]> = args.iter().map(|arg| arg.0.as_slice()).collect();
        let block = kernel.pack(&values).unwrap();
        let before = if vectors::kept() { self.memory() } else { Vec::new() };
        let counters = self.device.launch(&kernel, &Launch { args: &block, ..launch })?;
        // Nonsense is not for a GPU, and a variable that a test wrote is not among the buffers.
        const NOT_KEPT: [&str; 3] = ["fuzz", "traps", "compiled::variables"];
        let test = std::thread::current().name().unwrap_or_default().to_string();
        if !NOT_KEPT.iter().any(|start| test.starts_with(start)) {
            vectors::keep(|| self.vector(&test, kernel.name(), &launch, args, before));
        }
        Ok(counters)
    }

    /// What all buffers hold.
    fn memory(&self) -> Vec<Vec<u8>> {
        self.buffers.iter().map(|&(address, bytes)| self.read::<u8>(address, bytes)).collect()
    }

    /// The launch that has just ended.
    fn vector(&self, test: &str, entry: &str, launch: &Launch<'_>, args: &[Arg], before: Vec<Vec<u8>>) -> Vector {
        let address = |arg: &Arg| self.buffers.iter().position(|(address, _)| arg.0 == address.to_le_bytes());
        let arg = |arg: &Arg| address(arg).map_or(vectors::Arg::Value(arg.0.clone()), vectors::Arg::Address);
        let exact = exactness(self.text.split(&format!(".entry {entry}(")).nth(1).unwrap_or_default());
        let buffer = |(before, after)| Buffer { before, addresses: Vec::new(), after, exact };
        Vector {
            name: test.into(),
            kernel: false,
            ptx: self.text.clone(),
            entry: entry.into(),
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            args: args.iter().map(arg).collect(),
            buffers: before.into_iter().zip(self.memory()).map(buffer).collect(),
        }
    }

    /// Launches and expects a trap.
    pub fn trap(&mut self, kernel: &str, launch: Launch<'_>, args: &[Arg]) -> Trap {
        match self.launch(kernel, launch, args) {
            Err(LaunchError::Trap(trap)) => *trap,
            other => panic!("expected a trap, got {other:?}"),
        }
    }
}

/// How near a GPU must come to what the emulator makes of a kernel, whose text this begins with: twice what the PTX ISA
/// allows for an approximation, since both may be off, and for sums of products what their order makes.
fn exactness(text: &str) -> Exactness {
    use Element::{Bf16, F16, F32, F64};
    let kernel = text.split("\n.visible .entry").next().unwrap_or_default();
    let bounds: [(&[&str], Element, f64, f64); 13] = [
        (&["mma.sync", "ex2.approx"], F32, 4e-3, 1.0),
        (&["mma.sync", "f16.f16.f16.f16"], F16, 2e-3, 1.0),
        (&["mma.sync", ".f32 {"], F32, 1e-5, 8.0),
        (&["approx", ".f64"], F64, 4e-6, 1e-300),
        (&["tanh.approx.f32"], F32, 1e-3, 1e-30),
        (&["approx", ".bf16"], Bf16, 1.6e-2, 1e-30),
        (&["tanh.approx.f16"], F16, 2e-3, 1e-4),
        (&["ex2.approx.f16"], F16, 4e-3, 1e-4),
        (&["sin.approx"], F32, 1e-6, 1.0),
        (&["cos.approx"], F32, 1e-6, 1.0),
        (&["lg2.approx"], F32, 6e-7, 1.0),
        (&["approx"], F32, 5e-7, 1.2e-38),
        (&["div.full"], F32, 5e-7, 1.2e-38),
    ];
    let found = bounds.iter().find(|(words, ..)| words.iter().all(|word| kernel.contains(word)));
    found.map_or(Exactness::Bits, |&(_, element, relative, least)| Exactness::Close { element, relative, least })
}

/// The text with line numbers.
pub fn numbered(text: &str) -> String {
    text.lines().enumerate().map(|(at, line)| format!("{:4} {line}\n", at + 1)).collect()
}

/// A launch of `grid` blocks of `block` threads.
pub fn grid(grid: u32, block: u32) -> Launch<'static> {
    Launch { grid: [grid, 1, 1], block: [block, 1, 1], ..Launch::default() }
}

/// One argument's bytes.
pub struct Arg(Vec<u8>);

impl<T: Plain> From<T> for Arg {
    fn from(value: T) -> Self {
        Self(value.to_bytes())
    }
}

/// A list of arguments.
#[macro_export]
macro_rules! args {
    ($($arg:expr),* $(,)?) => { &[$($crate::harness::Arg::from($arg)),*] };
}

/// A number with a fixed size in memory.
pub trait Plain: Copy {
    fn to_bytes(self) -> Vec<u8>;
    fn of_bytes(bytes: &[u8]) -> Self;
}

macro_rules! plain {
    ($($ty:ty)*) => {$(
        impl Plain for $ty {
            fn to_bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
            fn of_bytes(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().unwrap())
            }
        }
    )*};
}

plain!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

pub fn bytes<T: Plain>(values: &[T]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_bytes()).collect()
}

/// Numbers that look random and are the same each time.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    /// Between -1 and 1.
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
