//! `vicugna emulate`: anyone's PTX, executed, checked and counted on the CPU.

use std::path::PathBuf;
use std::time::Instant;

use ptx_emulator::{Arch, Counters, Device, Kernel, Launch, LaunchError, Module, Trap};

use super::report::Report;
use crate::error::{Error, Result};
use crate::io::npy::Npy;

/// Run a kernel of a PTX file on the CPU: every access checked, races found, performance counted
#[derive(clap::Args)]
pub(super) struct Args {
    /// The PTX text
    #[arg(value_name = "FILE.ptx")]
    file: PathBuf,
    /// The kernel's name
    entry: String,
    /// Blocks
    #[arg(long, value_name = "X,Y,Z", value_parser = dim3)]
    grid: [u32; 3],
    /// Threads of a block
    #[arg(long, value_name = "X,Y,Z", value_parser = dim3)]
    block: [u32; 3],
    /// Bytes of dynamic shared memory
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    shared: u64,
    /// An argument, in the kernel's order: i32:5, f32:0.5 (and so on), null, in:FILE.npy, inout:FILE.npy, or
    /// out:FILE.npy:f32:128x64
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    arguments: Vec<String>,
    /// Print what the launch did, counted
    #[arg(long)]
    profile: bool,
    /// Run blocks and warps in an order that this number picks; 0 is in order
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    schedule: u64,
}

/// One to three numbers; those left out are 1.
fn dim3(text: &str) -> std::result::Result<[u32; 3], String> {
    let sizes: Vec<u32> =
        text.split(',').map(|size| size.trim().parse().map_err(|_| format!("{size:?}"))).collect::<Result<_, _>>()?;
    match sizes[..] {
        [x] => Ok([x, 1, 1]),
        [x, y] => Ok([x, y, 1]),
        [x, y, z] => Ok([x, y, z]),
        _ => Err("takes up to three numbers".into()),
    }
}

pub(super) fn run(args: &Args, report: &Report) -> Result<()> {
    let text = std::fs::read_to_string(&args.file).map_err(|e| Error::io(&args.file, e))?;
    let module = Module::parse(&text).map_err(|e| Error::file(&args.file, e.to_string()))?;
    let kernel = find(&module, args)?;
    let mut device = Device::new(Arch::default());
    let given = args.arguments.iter().map(|text| Argument::new(text, &mut device)).collect::<Result<Vec<_>>>()?;
    let values: Vec<&[u8]> = given.iter().map(|argument| argument.value.as_slice()).collect();
    let block = kernel.pack(&values).map_err(|detail| Error::input("--arg", detail))?;
    let read_only: Vec<_> = given.iter().filter_map(Argument::read_only).collect();
    let launch = Launch {
        grid: args.grid,
        block: args.block,
        shared_bytes: args.shared,
        args: &block,
        seed: args.schedule,
        read_only: &read_only,
        ..Launch::default()
    };
    let start = Instant::now();
    let counters = device.launch(kernel, &launch).map_err(|error| refused(&error, report))?;
    let seconds = start.elapsed().as_secs_f64();
    for argument in given {
        argument.write_back(&device, report)?;
    }
    tell(args, report, seconds, &counters)
}

fn find<'a>(module: &'a Module, args: &Args) -> Result<&'a Kernel> {
    module.kernel(&args.entry).ok_or_else(|| {
        let names: Vec<&str> = module.kernels().iter().map(Kernel::name).collect();
        Error::file(&args.file, format!("has no kernel {}", args.entry))
            .with_hint(format!("it has {}", names.join(", ")))
    })
}

/// The error of a launch; with `--json` a trap's place goes to stdout as well.
fn refused(error: &LaunchError, report: &Report) -> Error {
    if let (LaunchError::Trap(trap), true) = (error, report.json)
        && let Err(unwritten) = report.result(&json(trap), String::new)
    {
        return unwritten;
    }
    Error::device("emulated", error.to_string())
}

fn json(trap: &Trap) -> serde_json::Value {
    let Trap { kind, kernel, line, block, warp, lane, detail, .. } = trap;
    let kind = kind.name();
    serde_json::json!({ "trap": {
        "kind": kind, "kernel": kernel, "line": line, "block": block, "warp": warp, "lane": lane, "detail": detail,
    }})
}

fn tell(args: &Args, report: &Report, seconds: f64, counters: &Counters) -> Result<()> {
    let json: serde_json::Value =
        serde_json::from_str(&counters.to_json()).map_err(|e| Error::input("--json", e.to_string()))?;
    report.result(&serde_json::json!({ "seconds": seconds, "counters": json }), || {
        let table = if args.profile { format!("\n{}", counters.to_string().trim_end()) } else { String::new() };
        format!("{} ran in {seconds:.3} s{table}", args.entry)
    })
}

/// One argument: its bytes in the parameter block, and the file behind its buffer.
struct Argument {
    value: Vec<u8>,
    buffer: Option<Buffer>,
}

struct Buffer {
    address: u64,
    path: PathBuf,
    array: Npy,
    written: bool,
}

impl Argument {
    fn new(text: &str, device: &mut Device) -> Result<Self> {
        let wrong = |detail: &str| {
            Error::input("--arg", format!("{text}: {detail}"))
                .with_hint("i32:5, u64:7, f32:0.5, null, in:FILE.npy, inout:FILE.npy or out:FILE.npy:f32:128x64")
        };
        if text == "null" {
            return Ok(Self { value: vec![0; 8], buffer: None });
        }
        let (kind, rest) = text.split_once(':').ok_or_else(|| wrong("is no argument"))?;
        let (path, array, written) = match kind {
            "in" | "inout" => (PathBuf::from(rest), Npy::read(rest.as_ref())?, kind == "inout"),
            "out" => {
                let (path, array) = output(rest).ok_or_else(|| wrong("names no array that can be"))?;
                (path, array, true)
            }
            dtype => {
                let value = scalar(dtype, rest).ok_or_else(|| wrong("is no number of that type"))?;
                return Ok(Self { value, buffer: None });
            }
        };
        let address = device.alloc(array.data.len() as u64).map_err(|e| wrong(&e.to_string()))?;
        if kind != "out" {
            device.write(address, &array.data).map_err(|e| wrong(&e.to_string()))?;
        }
        Ok(Self { value: address.to_le_bytes().into(), buffer: Some(Buffer { address, path, array, written }) })
    }

    fn read_only(&self) -> Option<std::ops::Range<u64>> {
        let buffer = self.buffer.as_ref().filter(|buffer| !buffer.written)?;
        Some(buffer.address..buffer.address + buffer.array.data.len() as u64)
    }

    fn write_back(self, device: &Device, report: &Report) -> Result<()> {
        let Some(Buffer { address, path, mut array, written: true }) = self.buffer else { return Ok(()) };
        let failed = |e: ptx_emulator::MemoryError| Error::file(&path, e.to_string());
        if let Some(byte) = device.first_unwritten(address, array.data.len() as u64).map_err(failed)? {
            report
                .note(format_args!("{}: the kernel did not write all of it; byte {byte} is the first", path.display()));
        }
        device.read(address, &mut array.data).map_err(failed)?;
        array.write(&path)
    }
}

/// `FILE.npy:f32:128x64`.
fn output(text: &str) -> Option<(PathBuf, Npy)> {
    let (rest, shape) = text.rsplit_once(':')?;
    let (path, dtype) = rest.rsplit_once(':')?;
    let shape = shape.split('x').map(|size| size.parse().ok()).collect::<Option<_>>()?;
    Some((path.into(), Npy::zeros(dtype, shape)?))
}

/// The bytes of a number.
fn scalar(dtype: &str, text: &str) -> Option<Vec<u8>> {
    macro_rules! parse {
        ($($name:literal $ty:ty),*) => {
            match dtype {
                $($name => text.parse::<$ty>().ok().map(|value| value.to_le_bytes().to_vec()),)*
                _ => None,
            }
        };
    }
    parse!("i8" i8, "u8" u8, "i16" i16, "u16" u16, "i32" i32, "u32" u32, "i64" i64, "u64" u64, "f32" f32, "f64" f64)
}
