//! Graphs of kernels, copies, fills, allocations and frees.

use super::copy::{End, end};
use super::fill::Rows;
use super::launch::{Checked, Config};
use crate::border::{Host, In, Out};
use crate::graph::{Executable, Graph, Operation};
use crate::machine::{Machine, with, within};
use crate::status::{Result, Status, invalid, unsupported};

/// The layout of a `CUDA_KERNEL_NODE_PARAMS` of version 1; version 2 has two words more.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    function: u64,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    params: In<usize>,
    extra: In<usize>,
}

/// Where one end of a copy is; the layout is that of half a `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Side {
    x: usize,
    y: usize,
    z: usize,
    level: usize,
    kind: u32,
    host: usize,
    device: u64,
    array: u64,
    reserved: usize,
    pitch: usize,
    height: usize,
}

/// The layout of a `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Copy3d {
    from: Side,
    to: Side,
    width: usize,
    height: usize,
    depth: usize,
}

/// The layout of a `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Fill {
    start: u64,
    pitch: usize,
    value: u32,
    element: u32,
    width: usize,
    height: usize,
}

/// The layout of a `CUDA_MEM_ALLOC_NODE_PARAMS` of version 1: of the pool's 88 bytes the first four words are read.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Allocate {
    properties: [i32; 4],
    unused: [u64; 9],
    access: u64,
    access_count: usize,
    bytes: usize,
    address: u64,
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphCreate(graph: Out<u64>, flags: u32) -> Status {
    within(|machine, context| {
        let place = graph.place()?;
        if flags != 0 {
            return invalid(format!("{flags:#x} are no flags of a graph"));
        }
        place.set(machine.graphs.add(context, Graph::default()));
        Ok(())
    })
}

/// Ends a graph and its nodes. What was made of it can be launched on.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: u64) -> Status {
    with(|machine| {
        let graph = machine.graphs.remove(graph)?;
        graph.nodes.into_iter().try_for_each(|node| machine.nodes.remove(node).map(|_| ()))
    })
}

/// Adds a node that does what `operation` finds.
fn add(
    node: Out<u64>,
    graph: u64,
    after: In<u64>,
    count: usize,
    operation: impl FnOnce(&mut Machine) -> Result<Operation>,
) -> Status {
    within(|machine, _| {
        let place = node.place()?;
        machine.graphs.get(graph)?;
        let after = (0..count).map(|at| after.at(at)).collect::<Result<Vec<u64>>>()?;
        let operation = operation(machine)?;
        place.set(machine.add_node(graph, after, operation)?);
        Ok(())
    })
}

/// Replaces what a node does in launches to come; the node must still be there.
fn replace(executable: u64, node: u64, operation: impl FnOnce(&mut Machine) -> Result<Operation>) -> Status {
    within(|machine, _| {
        machine.nodes.get(node)?;
        let new = operation(machine)?;
        machine.executables.get_mut(executable)?.replace(node, new)
    })
}

fn launch(machine: &Machine, kernel: In<Kernel>) -> Result<Operation> {
    let Kernel { function, grid, block, shared_bytes, params, extra } = kernel.get()?;
    let config = Config::new(grid, block, shared_bytes, 0);
    Ok(Operation::Launch(Checked::new(machine, function, config, params, extra)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddKernelNode_v2(
    node: Out<u64>,
    graph: u64,
    after: In<u64>,
    count: usize,
    kernel: In<Kernel>,
) -> Status {
    add(node, graph, after, count, |machine| launch(machine, kernel))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecKernelNodeSetParams_v2(executable: u64, node: u64, kernel: In<Kernel>) -> Status {
    replace(executable, node, |machine| launch(machine, kernel))
}

/// Numbers of CUDA's `CUmemorytype`.
const HOST: u32 = 1;
const DEVICE: u32 = 2;
const UNIFIED: u32 = 4;

impl Side {
    fn end(&self, machine: &Machine) -> Result<End> {
        let device = self.device.wrapping_add(self.x as u64);
        match self.kind {
            _ if (self.y, self.z, self.level) != (0, 0, 0) => unsupported("copies of a graph from or to inner rows"),
            HOST if self.host == 0 => invalid("a host address is null"),
            HOST => Ok(End::Host(Host(self.host.wrapping_add(self.x)))),
            DEVICE => Ok(End::Device(device)),
            UNIFIED => Ok(end(machine, device)),
            kind => unsupported(format!("copies from or to memory of type {kind}")),
        }
    }
}

/// A copy of one row. Host memory is read when a launch gets there.
fn copy(machine: &Machine, params: In<Copy3d>, context: u64) -> Result<Operation> {
    let params = params.get()?;
    machine.check(context)?;
    if params.width == 0 || params.height == 0 || params.depth == 0 {
        return invalid("a copy of a graph has no bytes");
    }
    if (params.height, params.depth) != (1, 1) {
        return unsupported("copies of a graph of more than one row");
    }
    Ok(Operation::Copy { to: params.to.end(machine)?, from: params.from.end(machine)?, bytes: params.width })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddMemcpyNode(
    node: Out<u64>,
    graph: u64,
    after: In<u64>,
    count: usize,
    params: In<Copy3d>,
    context: u64,
) -> Status {
    add(node, graph, after, count, |machine| copy(machine, params, context))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecMemcpyNodeSetParams(
    executable: u64,
    node: u64,
    params: In<Copy3d>,
    context: u64,
) -> Status {
    replace(executable, node, |machine| copy(machine, params, context))
}

fn fill(machine: &Machine, params: In<Fill>, context: u64) -> Result<Operation> {
    let Fill { start, pitch, value, element, width, height } = params.get()?;
    machine.check(context)?;
    if !matches!(element, 1 | 2 | 4) {
        return invalid(format!("elements of {element} bytes; 1, 2 and 4 are allowed"));
    }
    let pattern = value.to_le_bytes()[..element as usize].to_vec();
    Ok(Operation::Fill { rows: Rows { start, pitch, width, height }, pattern })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddMemsetNode(
    node: Out<u64>,
    graph: u64,
    after: In<u64>,
    count: usize,
    params: In<Fill>,
    context: u64,
) -> Status {
    add(node, graph, after, count, |machine| fill(machine, params, context))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecMemsetNodeSetParams(executable: u64, node: u64, params: In<Fill>, context: u64) -> Status {
    replace(executable, node, |machine| fill(machine, params, context))
}

/// Writes the address of the memory into the caller's parameters.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddMemAllocNode(
    node: Out<u64>,
    graph: u64,
    after: In<u64>,
    count: usize,
    params: Out<Allocate>,
) -> Status {
    add(node, graph, after, count, |machine| {
        let mut wanted = params.get()?;
        if wanted.properties != [1, 0, 1, 0] || wanted.bytes == 0 {
            let Allocate { properties, bytes, .. } = wanted;
            return invalid(format!("{bytes} bytes, and must be pinned memory of device 0, got {properties:?}"));
        }
        let bytes = wanted.bytes as u64;
        wanted.address = machine.device.reserve(bytes);
        params.place()?.set(wanted);
        Ok(Operation::Allocate { address: wanted.address, bytes })
    })
}

/// Frees memory of an allocation node, of the same graph here, once.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddMemFreeNode(
    node: Out<u64>,
    graph: u64,
    after: In<u64>,
    count: usize,
    address: u64,
) -> Status {
    add(node, graph, after, count, |machine| match machine.graphs.get(graph)?.left.contains(&address) {
        true => Ok(Operation::Free { address }),
        false => invalid(format!("{address:#x} is not memory of this graph, or is freed already")),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddEmptyNode(node: Out<u64>, graph: u64, after: In<u64>, count: usize) -> Status {
    add(node, graph, after, count, |_| Ok(Operation::Nothing))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphInstantiateWithFlags(executable: Out<u64>, graph: u64, flags: u64) -> Status {
    within(|machine, context| {
        let place = executable.place()?;
        if flags != 0 {
            return unsupported(format!("{flags:#x} as flags of a graph that can be launched"));
        }
        let new = Executable::new(machine, graph)?;
        let former = machine.graphs.get(graph)?.executable;
        if new.has_memory() && former.is_some_and(|former| machine.executables.get(former).is_ok()) {
            return invalid("a graph with memory can be instantiated once at a time");
        }
        let handle = machine.executables.add(context, new);
        machine.graphs.get_mut(graph)?.executable = Some(handle);
        place.set(handle);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(executable: u64) -> Status {
    with(|machine| machine.executables.remove(executable).map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(executable: u64, stream: u64) -> Status {
    within(|machine, context| machine.launch_graph(context, executable, stream))
}

/// Nothing is held back for graphs.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGraphMemTrim(device: i32) -> Status {
    with(|machine| machine.check_device(device))
}
