//! Graphs: work that is put together once and launched many times.

use crate::common::numbers;
use crate::process::{run, succeeds};
use crate::{device, kernel};
use cudarc::driver::sys::{self, CUresult, CUresult::*};
use cudarc::driver::{CudaFunction, CudaStream, DevicePtr, result};
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::Arc;

#[test]
fn launches_do_what_the_nodes_say() {
    for streams in ["now", "late"] {
        for program in ["launches", "memory", "misuse", "too_large"] {
            let env = [("VICUGNA_EMULATED_STREAMS", streams), ("VICUGNA_EMULATED_MEMORY", "1000000")];
            succeeds(&format!("graphs::{program}"), &env);
        }
    }
}

#[test]
fn memory_of_a_graph_is_only_there_from_its_node_to_its_free() {
    for (program, fault) in [
        ("before", "out_of_bounds: scale_f32"),
        ("after", "out_of_bounds: scale_f32"),
        ("stale", "uninitialized: scale_f32"),
    ] {
        let output = run(&format!("graphs::{program}"), &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(fault), "{program}: {said}");
    }
}

#[test]
fn a_forgotten_dependency_is_found_when_work_is_late() {
    succeeds("graphs::forgotten", &[("VICUGNA_EMULATED_STREAMS", "now")]);
    let output = run("graphs::forgotten", &[("VICUGNA_EMULATED_STREAMS", "late")]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("uninitialized: scale_f32"));
}

const N: usize = 500;
const BYTES: usize = 4 * N;

/// A graph whose nodes follow each other, with the kernel y = x * factor.
struct Chain {
    stream: Arc<CudaStream>,
    scale: CudaFunction,
    graph: sys::CUgraph,
    last: sys::CUgraphNode,
    /// What the kernels' arguments are read from.
    n: i64,
}

impl Chain {
    fn new() -> Self {
        let stream = device().new_stream().unwrap();
        let (scale, mut graph) = (kernel(&stream, "elementwise", "scale_f32"), null_mut());
        // SAFETY: the handle lives through the call.
        unsafe { sys::cuGraphCreate(&mut graph, 0) }.result().unwrap();
        Self { stream, scale, graph, last: null_mut(), n: N as i64 }
    }

    fn context(&self) -> sys::CUcontext {
        self.stream.context().cu_ctx()
    }

    fn after(&self) -> (*const sys::CUgraphNode, usize) {
        if self.last.is_null() { (null(), 0) } else { (&raw const self.last, 1) }
    }

    fn added(&mut self, node: sys::CUgraphNode, status: CUresult) -> sys::CUgraphNode {
        status.result().unwrap();
        self.last = node;
        node
    }

    fn allocate(&mut self, bytes: usize) -> u64 {
        let location = sys::CUmemLocation { type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: 0 };
        let properties = sys::CUmemPoolProps {
            allocType: sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
            handleTypes: sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE,
            location,
            win32SecurityAttributes: null_mut(),
            reserved: [0; 64],
        };
        let mut params = sys::CUDA_MEM_ALLOC_NODE_PARAMS {
            poolProps: properties,
            accessDescs: null(),
            accessDescCount: 0,
            bytesize: bytes,
            dptr: 0,
        };
        let ((after, count), mut node) = (self.after(), null_mut());
        // SAFETY: all places live through the call.
        let status = unsafe { sys::cuGraphAddMemAllocNode(&mut node, self.graph, after, count, &mut params) };
        self.added(node, status);
        params.dptr
    }

    fn free(&mut self, address: u64) -> CUresult {
        let ((after, count), mut node) = (self.after(), null_mut());
        // SAFETY: all places live through the call.
        let status = unsafe { sys::cuGraphAddMemFreeNode(&mut node, self.graph, after, count, address) };
        if status == CUDA_SUCCESS {
            self.last = node;
        }
        status
    }

    /// Calls `body` with the launch y = x * factor.
    fn scaling<R>(&self, y: u64, x: u64, factor: f32, body: impl FnOnce(&sys::CUDA_KERNEL_NODE_PARAMS) -> R) -> R {
        let mut args: [*mut c_void; 4] = [
            (&raw const y).cast_mut().cast(),
            (&raw const x).cast_mut().cast(),
            (&raw const self.n).cast_mut().cast(),
            (&raw const factor).cast_mut().cast(),
        ];
        body(&sys::CUDA_KERNEL_NODE_PARAMS {
            func: self.scale.cu_function(),
            gridDimX: 2,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 256,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            kernelParams: args.as_mut_ptr(),
            extra: null_mut(),
            kern: null_mut(),
            ctx: null_mut(),
        })
    }

    fn scale(&mut self, y: u64, x: u64, factor: f32) -> sys::CUgraphNode {
        let ((after, count), mut node) = (self.after(), null_mut());
        // SAFETY: all places live through the call.
        let add = |params: &_| unsafe { sys::cuGraphAddKernelNode_v2(&mut node, self.graph, after, count, params) };
        let status = self.scaling(y, x, factor, add);
        self.added(node, status)
    }

    fn copy(&mut self, params: &sys::CUDA_MEMCPY3D) -> sys::CUgraphNode {
        let ((after, count), mut node) = (self.after(), null_mut());
        // SAFETY: all places live through the call.
        let add = unsafe { sys::cuGraphAddMemcpyNode(&mut node, self.graph, after, count, params, self.context()) };
        self.added(node, add)
    }

    fn set(&mut self, address: u64, value: u8, bytes: usize) -> sys::CUgraphNode {
        let ((after, count), mut node) = (self.after(), null_mut());
        let params = fill(address, value, bytes);
        // SAFETY: all places live through the call.
        let add = unsafe { sys::cuGraphAddMemsetNode(&mut node, self.graph, after, count, &params, self.context()) };
        self.added(node, add)
    }

    fn instantiate(&self) -> sys::CUgraphExec {
        // SAFETY: the graph is there.
        unsafe { result::graph::instantiate(self.graph, sys::CUgraphInstantiate_flags(0)) }.unwrap()
    }

    fn launch(&self, executable: sys::CUgraphExec) -> CUresult {
        // SAFETY: both handles are looked up.
        unsafe { sys::cuGraphLaunch(executable, self.stream.cu_stream()) }
    }

    fn read(&self, address: u64) -> Vec<f32> {
        let mut found = vec![0f32; N];
        // SAFETY: the driver checks the address; the numbers are there when the stream is empty.
        unsafe { result::memcpy_dtoh_async(&mut found, address, self.stream.cu_stream()) }.unwrap();
        self.stream.synchronize().unwrap();
        found
    }

    fn free_later(&self, address: u64) {
        // SAFETY: the driver checks the address.
        unsafe { result::free_async(address, self.stream.cu_stream()) }.unwrap();
    }
}

fn fill(dst: u64, value: u8, bytes: usize) -> sys::CUDA_MEMSET_NODE_PARAMS {
    sys::CUDA_MEMSET_NODE_PARAMS { dst, pitch: 0, value: value.into(), elementSize: 1, width: bytes, height: 1 }
}

/// One row to the device, from the host or from the device.
fn row(dst: u64, from: Result<&[f32], u64>, bytes: usize) -> sys::CUDA_MEMCPY3D {
    sys::CUDA_MEMCPY3D {
        srcXInBytes: 0,
        srcY: 0,
        srcZ: 0,
        srcLOD: 0,
        srcMemoryType: match from {
            Ok(_) => sys::CUmemorytype::CU_MEMORYTYPE_HOST,
            Err(_) => sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
        },
        srcHost: from.map_or(null(), |host| host.as_ptr().cast()),
        srcDevice: from.err().unwrap_or(0),
        srcArray: null_mut(),
        reserved0: null_mut(),
        srcPitch: 0,
        srcHeight: 0,
        dstXInBytes: 0,
        dstY: 0,
        dstZ: 0,
        dstLOD: 0,
        dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
        dstHost: null_mut(),
        dstDevice: dst,
        dstArray: null_mut(),
        reserved1: null_mut(),
        dstPitch: 0,
        dstHeight: 0,
        WidthInBytes: bytes,
        Height: 1,
        Depth: 1,
    }
}

fn scaled(x: &[f32], factor: f32) -> Vec<f32> {
    x.iter().map(|x| factor * x).collect()
}

/// Host numbers are copied, doubled, copied to memory from before; the host numbers, the factor and the target change.
#[test]
#[ignore = "a program: a test of this file starts it"]
fn launches() {
    let mut chain = Chain::new();
    let mut host = numbers(1, N);
    let targets = [1, 2].map(|_| chain.stream.alloc_zeros::<f32>(N).unwrap());
    let [first, second] = [0, 1].map(|at: usize| targets[at].device_ptr(&chain.stream).0);
    let x = chain.allocate(BYTES);
    chain.copy(&row(x, Ok(&host), BYTES));
    let y = chain.allocate(BYTES);
    let double = chain.scale(y, x, 2.0);
    assert_eq!(chain.free(x), CUDA_SUCCESS);
    let out = chain.copy(&row(first, Err(y), BYTES));
    let zero = chain.set(y, 0, BYTES);
    assert_eq!(chain.free(y), CUDA_SUCCESS);
    let executable = chain.instantiate();
    for seed in 1..4 {
        host.copy_from_slice(&numbers(seed, N));
        assert_eq!(chain.launch(executable), CUDA_SUCCESS);
        assert_eq!(chain.read(first), scaled(&host, 2.0));
    }
    let triple = |params: &_| {
        // SAFETY: all places live through the call.
        unsafe { sys::cuGraphExecKernelNodeSetParams_v2(executable, double, params) }
    };
    assert_eq!(chain.scaling(y, x, 3.0, triple), CUDA_SUCCESS);
    let changed = row(second, Err(y), BYTES);
    // SAFETY: as above.
    let status = unsafe { sys::cuGraphExecMemcpyNodeSetParams(executable, out, &changed, chain.context()) };
    assert_eq!(status, CUDA_SUCCESS);
    let changed = fill(first, 0, BYTES);
    // SAFETY: as above.
    let status = unsafe { sys::cuGraphExecMemsetNodeSetParams(executable, zero, &changed, chain.context()) };
    assert_eq!(status, CUDA_SUCCESS);
    assert_eq!(chain.launch(executable), CUDA_SUCCESS);
    assert_eq!(chain.read(second), scaled(&host, 3.0));
    assert_eq!(chain.read(first), [0.0; N]);
}

/// A launch leaves memory behind, which must be freed before the next; its free space comes and goes.
#[test]
#[ignore = "a program: a test of this file starts it"]
fn memory() {
    let mut chain = Chain::new();
    let free = || chain_free(&device());
    let host = numbers(1, N);
    let inner = chain.allocate(2 * BYTES);
    let x = chain.allocate(BYTES);
    chain.set(inner, 0, 2 * BYTES);
    chain.copy(&row(x, Ok(&host), BYTES));
    assert_eq!(chain.free(inner), CUDA_SUCCESS);
    assert_eq!(chain.free(inner), CUDA_ERROR_INVALID_VALUE);
    assert_eq!(chain.free(x + 4), CUDA_ERROR_INVALID_VALUE);
    let (before, executable) = (free(), chain.instantiate());
    // SAFETY: the graph is there.
    let again = unsafe { result::graph::instantiate(chain.graph, sys::CUgraphInstantiate_flags(0)) };
    assert_eq!(again.unwrap_err().0, CUDA_ERROR_INVALID_VALUE);
    for _ in 0..3 {
        assert_eq!(chain.launch(executable), CUDA_SUCCESS);
        assert_eq!(chain.launch(executable), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(chain.read(x), host);
        assert_eq!(free(), before - BYTES);
        chain.free_later(x);
    }
    chain.stream.synchronize().unwrap();
    assert_eq!(free(), before);
    assert_eq!(chain.launch(executable), CUDA_SUCCESS);
    // SAFETY: handles are looked up. What was queued runs on.
    unsafe { result::graph::exec_destroy(executable) }.unwrap();
    // SAFETY: as above.
    unsafe { result::graph::destroy(chain.graph) }.unwrap();
    assert_eq!(chain.read(x), host);
    chain.free_later(x);
    chain.stream.synchronize().unwrap();
    assert_eq!(free(), before);
}

fn chain_free(context: &cudarc::driver::CudaContext) -> usize {
    context.mem_get_info().unwrap().0
}

#[test]
#[ignore = "a program: a test of this file starts it"]
fn misuse() {
    let mut chain = Chain::new();
    let other = Chain::new();
    let x = chain.allocate(BYTES);
    let set = chain.set(x, 1, BYTES);
    let executable = chain.instantiate();
    let mut node = null_mut();
    // SAFETY: handles are looked up; all places live through the calls.
    let foreign = unsafe { sys::cuGraphAddEmptyNode(&mut node, other.graph, &set, 1) };
    assert_eq!(foreign, CUDA_ERROR_INVALID_VALUE);
    // SAFETY: as above.
    let twice = unsafe { sys::cuGraphAddEmptyNode(&mut node, chain.graph, [set, set].as_ptr(), 2) };
    assert_eq!(twice, CUDA_ERROR_INVALID_VALUE);
    // SAFETY: as above.
    let kind = |params: &_| unsafe { sys::cuGraphExecKernelNodeSetParams_v2(executable, set, params) };
    assert_eq!(chain.scaling(x, x, 1.0, kind), CUDA_ERROR_INVALID_VALUE);
    let empty = row(x, Err(x), 0);
    // SAFETY: as above.
    let empty = unsafe { sys::cuGraphAddMemcpyNode(&mut node, chain.graph, null(), 0, &empty, chain.context()) };
    assert_eq!(empty, CUDA_ERROR_INVALID_VALUE);
    let nobody = std::ptr::without_provenance_mut::<u8>(0x7777);
    assert_eq!(chain.launch(nobody.cast()), CUDA_ERROR_INVALID_HANDLE);
    // SAFETY: as above.
    assert_eq!(unsafe { sys::cuGraphDestroy(nobody.cast()) }, CUDA_ERROR_INVALID_HANDLE);
    // SAFETY: as above.
    assert_eq!(unsafe { sys::cuGraphExecDestroy(nobody.cast()) }, CUDA_ERROR_INVALID_HANDLE);
    // SAFETY: as above.
    assert_eq!(unsafe { sys::cuMemFreeAsync(x, chain.stream.cu_stream()) }, CUDA_ERROR_INVALID_VALUE);
    // SAFETY: as above.
    assert_eq!(unsafe { sys::cuDeviceGraphMemTrim(0) }, CUDA_SUCCESS);
    // SAFETY: as above.
    assert_eq!(unsafe { sys::cuDeviceGraphMemTrim(1) }, CUDA_ERROR_INVALID_DEVICE);
}

/// A graph of more memory than there is does nothing; without the memory that is in its way it runs.
#[test]
#[ignore = "a program: a test of this file starts it"]
fn too_large() {
    let mut chain = Chain::new();
    let taken = chain.stream.alloc_zeros::<u8>(600_000).unwrap();
    let [x, y] = [300_000, 200_000].map(|bytes| chain.allocate(bytes));
    assert_eq!([x, y].map(|address| chain.free(address)), [CUDA_SUCCESS; 2]);
    let executable = chain.instantiate();
    assert_eq!(chain.launch(executable), CUDA_ERROR_OUT_OF_MEMORY);
    drop(taken);
    chain.stream.synchronize().unwrap();
    assert_eq!(chain.launch(executable), CUDA_SUCCESS);
    chain.stream.synchronize().unwrap();
}

/// Doubles memory of a graph that was not launched.
#[test]
#[ignore = "a program: a test of this file starts it"]
fn before() {
    let mut chain = Chain::new();
    let x = chain.allocate(BYTES);
    let other = Chain::new();
    let (mut outer, y) = (other, chain.stream.alloc_zeros::<f32>(N).unwrap());
    outer.scale(y.device_ptr(&chain.stream).0, x, 2.0);
    outer.launch(outer.instantiate()).result().unwrap();
    outer.stream.synchronize().unwrap();
}

/// Doubles memory that the graph has freed.
#[test]
#[ignore = "a program: a test of this file starts it"]
fn after() {
    let mut chain = Chain::new();
    let (x, y) = (chain.allocate(BYTES), chain.allocate(BYTES));
    chain.set(x, 0, BYTES);
    chain.scale(y, x, 2.0);
    chain.free(x).result().unwrap();
    chain.scale(y, x, 2.0);
    chain.launch(chain.instantiate()).result().unwrap();
    chain.stream.synchronize().unwrap();
}

/// Doubles what an earlier launch left in the memory.
#[test]
#[ignore = "a program: a test of this file starts it"]
fn stale() {
    let mut chain = Chain::new();
    let host = numbers(1, N);
    let (x, y) = (chain.allocate(BYTES), chain.allocate(BYTES));
    let copy = chain.copy(&row(x, Ok(&host), BYTES));
    chain.scale(y, x, 2.0);
    assert_eq!([x, y].map(|address| chain.free(address)), [CUDA_SUCCESS; 2]);
    let executable = chain.instantiate();
    chain.launch(executable).result().unwrap();
    let short = row(x, Ok(&host), BYTES - 4);
    // SAFETY: all places live through the call.
    unsafe { sys::cuGraphExecMemcpyNodeSetParams(executable, copy, &short, chain.context()) }.result().unwrap();
    chain.launch(executable).result().unwrap();
    chain.stream.synchronize().unwrap();
}

/// The kernel does not say that it comes after the fill of what it reads.
#[test]
#[ignore = "a program: a test of this file starts it"]
fn forgotten() {
    let mut chain = Chain::new();
    let (x, y) = (chain.allocate(BYTES), chain.allocate(BYTES));
    let allocated = chain.last;
    chain.set(x, 0, BYTES);
    chain.last = allocated;
    chain.scale(y, x, 2.0);
    chain.launch(chain.instantiate()).result().unwrap();
    chain.stream.synchronize().unwrap();
}
