//! A device with buffers, and kernels of a few lines.

use ptx_emulator::{Arch, Counters, Device, Launch, LaunchError, Module, Trap};

/// A PTX text whose kernel `k` has these parameters and this body.
pub fn ptx(params: &str, body: &str) -> String {
    format!(".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k({params})\n{{\n{body}\nret;\n}}\n")
}

/// A device and the module under test.
pub struct Bench {
    pub device: Device,
    pub module: Module,
}

impl Bench {
    pub fn new(ptx: &str) -> Self {
        let module = Module::parse(ptx).unwrap_or_else(|error| panic!("{error}\n{}", numbered(ptx)));
        Self { device: Device::new(Arch::Sm80), module }
    }

    /// A buffer with content.
    pub fn buffer<T: Plain>(&mut self, content: &[T]) -> u64 {
        let address = self.empty::<T>(content.len());
        self.device.write(address, &bytes(content)).unwrap();
        address
    }

    /// A buffer that nobody wrote.
    pub fn empty<T: Plain>(&mut self, length: usize) -> u64 {
        self.device.alloc((length * size_of::<T>()) as u64).unwrap()
    }

    pub fn read<T: Plain>(&self, address: u64, length: usize) -> Vec<T> {
        let mut out = vec![0; length * size_of::<T>()];
        self.device.read(address, &mut out).unwrap();
        out.chunks_exact(size_of::<T>()).map(T::of_bytes).collect()
    }

    /// Launches with arguments given as their bytes.
    pub fn launch(&mut self, kernel: &str, launch: Launch<'_>, args: &[Arg]) -> Result<Counters, LaunchError> {
        let kernel = self.module.kernel(kernel).expect("a kernel of that name").clone();
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.0.as_slice()).collect();
        let block = kernel.pack(&args).unwrap();
        self.device.launch(&kernel, &Launch { args: &block, ..launch })
    }

    /// Launches and expects a trap.
    pub fn trap(&mut self, kernel: &str, launch: Launch<'_>, args: &[Arg]) -> Trap {
        match self.launch(kernel, launch, args) {
            Err(LaunchError::Trap(trap)) => *trap,
            other => panic!("expected a trap, got {other:?}"),
        }
    }
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
