//! Launches.

use crate::border::{Callback, Host, In};
use crate::machine::{Function, Machine, within};
use crate::status::{Failure, Result, Status, invalid, unsupported};
use ptx_emulator::{Kernel, Launch, LaunchError, TrapKind};
use std::ffi::c_void;

/// What a launch is asked for beside the kernel and its arguments; the layout is that of `CUlaunchConfig`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    stream: u64,
    attributes: In<[u64; 9]>,
    attribute_count: u32,
}

impl Config {
    /// A launch without attributes.
    pub(super) fn new(grid: [u32; 3], block: [u32; 3], shared_bytes: u32, stream: u64) -> Self {
        Self { grid, block, shared_bytes, stream, attributes: In::null(), attribute_count: 0 }
    }
}

/// Marks in the list of the old way to pass arguments, whole in one buffer.
const END: usize = 0;
const BUFFER: usize = 1;
const BUFFER_BYTES: usize = 2;

/// The parameter block: `params` has the address of each argument, or `extra` says where all of them are.
fn arguments(kernel: &Kernel, params: In<usize>, extra: In<usize>) -> Result<Vec<u8>> {
    let list = kernel.params();
    let values: Result<Vec<&[u8]>> = match (params.is_null(), extra.is_null()) {
        (_, true) if list.is_empty() => Ok(Vec::new()),
        (false, true) => {
            list.iter().enumerate().map(|(at, param)| Host(params.at(at)?).read(param.bytes as usize)).collect()
        }
        (true, false) => {
            let buffer = buffer(extra)?;
            let within = |start: u64, bytes: u64| buffer.get(start as usize..(start + bytes) as usize);
            let detail = format!("the buffer of {} bytes is too short for the arguments", buffer.len());
            let short = || Failure::new(Status::INVALID_VALUE, detail.as_str());
            list.iter().map(|param| within(param.offset, param.bytes).ok_or_else(short)).collect()
        }
        (true, true) => invalid(format!("{} takes {} arguments, got none", kernel.name(), list.len())),
        (false, false) => invalid("arguments were given in both ways"),
    };
    kernel.pack(&values?).or_else(invalid)
}

/// The buffer that a list of marks and addresses names.
fn buffer<'a>(extra: In<usize>) -> Result<&'a [u8]> {
    let (mut start, mut bytes) = (Host(0), 0);
    for at in (0..).step_by(2) {
        match extra.at(at)? {
            END => break,
            BUFFER => start = Host(extra.at(at + 1)?),
            BUFFER_BYTES => {
                let size = Host(extra.at(at + 1)?).read(size_of::<usize>())?;
                bytes = size.try_into().map(usize::from_ne_bytes).unwrap_or(0);
            }
            mark => return invalid(format!("{mark} is no mark of the list of arguments")),
        }
    }
    start.read(bytes)
}

fn check_shared(function: &Function, bytes: u32) -> Result {
    let (name, limit) = (function.kernel.name(), function.dynamic_limit);
    if u64::from(bytes) <= limit {
        return Ok(());
    }
    invalid(format!(
        "{name}: {bytes} bytes of dynamic shared memory, {limit} are allowed; \
         CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES allows more"
    ))
}

/// CUDA's code for what a GPU would have said of a trap, if it had said anything.
fn status_of(kind: TrapKind) -> Status {
    match kind {
        TrapKind::OutOfBounds | TrapKind::ReadOnly => Status::ILLEGAL_ADDRESS,
        TrapKind::Misaligned => Status::MISALIGNED_ADDRESS,
        TrapKind::BadSpace => Status::INVALID_ADDRESS_SPACE,
        TrapKind::StepLimit => Status::LAUNCH_TIMEOUT,
        _ => Status::LAUNCH_FAILED,
    }
}

fn failure(error: LaunchError) -> Failure {
    match error {
        LaunchError::Trap(trap) => Failure::new(status_of(trap.kind), format!("{}: {trap}", trap.kind.name())),
        LaunchError::Memory(error) => Failure::new(Status::OUT_OF_MEMORY, error.to_string()),
        error => Failure::new(Status::INVALID_VALUE, error.to_string()),
    }
}

/// A launch that was checked as far as it can be before it runs.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    kernel: Kernel,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    args: Vec<u8>,
}

impl Checked {
    pub(super) fn new(
        machine: &Machine,
        function: u64,
        config: Config,
        params: In<usize>,
        extra: In<usize>,
    ) -> Result<Self> {
        let Config { grid, block, shared_bytes, .. } = config;
        let function = machine.functions.get(function)?;
        check_shared(function, shared_bytes)?;
        let kernel = function.kernel.clone();
        let args = arguments(&kernel, params, extra)?;
        Ok(Self { kernel, grid, block, shared_bytes, args })
    }

    pub(crate) fn run(&self, machine: &mut Machine) -> Result {
        let Self { kernel, grid, block, shared_bytes, args } = self;
        let (grid, block, shared_bytes) = (*grid, *block, u64::from(*shared_bytes));
        let launch = Launch { grid, block, shared_bytes, args, seed: machine.seed, ..Launch::default() };
        let counters = machine.device.launch(kernel, &launch).map_err(failure)?;
        machine.report.add(kernel.name(), &counters);
        Ok(())
    }
}

fn launch(
    machine: &mut Machine,
    context: u64,
    function: u64,
    config: Config,
    params: In<usize>,
    extra: In<usize>,
) -> Result {
    let checked = Checked::new(machine, function, config, params, extra)?;
    machine.enqueue(context, config.stream, move |machine| checked.run(machine))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernel(
    function: u64,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared_bytes: u32,
    stream: u64,
    params: In<usize>,
    extra: In<usize>,
) -> Status {
    let config = Config::new([grid_x, grid_y, grid_z], [block_x, block_y, block_z], shared_bytes, stream);
    within(|machine, context| launch(machine, context, function, config, params, extra))
}

/// Attributes of a launch that ask for nothing which the emulator would have to do: ignore, access policy window,
/// synchronization policy, programmatic stream serialization, priority.
const HINTS: [u32; 5] = [0, 1, 3, 6, 8];

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernelEx(config: In<Config>, function: u64, params: In<usize>, extra: In<usize>) -> Status {
    within(|machine, context| {
        let config = config.get()?;
        for at in 0..config.attribute_count as usize {
            let number = config.attributes.at(at)?[0] as u32;
            if !HINTS.contains(&number) {
                return unsupported(format!("cuLaunchKernelEx: attribute {number} of a launch"));
            }
        }
        launch(machine, context, function, config, params, extra)
    })
}

/// Calls a function of the program when the stream gets there; it must not call the driver.
#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchHostFunc(
    stream: u64,
    function: Option<extern "C" fn(*mut c_void)>,
    argument: usize,
) -> Status {
    within(|machine, context| {
        let Some(function) = function else { return invalid("the host function is null") };
        let callback = Callback { function, argument };
        machine.enqueue(context, stream, move |_| {
            callback.call();
            Ok(())
        })
    })
}
