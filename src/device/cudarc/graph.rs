//! A CUDA graph whose nodes follow each other, one by one, as calls on a stream do.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{
    self, CUDA_KERNEL_NODE_PARAMS, CUDA_MEM_ALLOC_NODE_PARAMS, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS, CUfunction,
    CUgraph, CUgraphExec, CUgraphNode, CUmemAllocationHandleType, CUmemAllocationType, CUmemLocation,
    CUmemLocationType, CUmemPoolProps, CUmemorytype,
};
use cudarc::driver::{CudaContext, CudaStream, DriverError, PinnedHostSlice, result};

type Result<T, E = DriverError> = std::result::Result<T, E>;

/// A node of a [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node(CUgraphNode);

/// A kernel, as the driver knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function(pub CUfunction);

// SAFETY: both are handles that are compared and given back to the driver, which takes them from any thread.
#[expect(unsafe_code, reason = "a raw handle is not Send by itself")]
unsafe impl Send for Node {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a raw handle is not Send by itself")]
unsafe impl Send for Function {}

/// Where bytes are copied from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Device(u64),
    /// Memory of the graph's own.
    Staged(Staged),
}

/// A place in the page-locked host memory of a [`Graph`]: the number of a block and of a byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staged {
    block: usize,
    start: usize,
}

/// A launch of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelCall {
    pub function: Function,
    pub grid: [u32; 3],
    pub block: u32,
    pub shared: u32,
    /// The arguments, narrower ones in the first bytes.
    pub args: Vec<u64>,
}

/// The graph, what it is launched by, and the host memory that its copies read.
#[derive(Debug)]
pub struct Graph {
    context: Arc<CudaContext>,
    graph: CUgraph,
    executable: Option<CUgraphExec>,
    last: Option<Node>,
    blocks: Vec<PinnedHostSlice<u8>>,
    /// Bytes of the last block that are taken.
    taken: usize,
}

// SAFETY: the handles are the graph's own, which one thread at a time has.
#[expect(unsafe_code, reason = "raw handles are not Send by themselves")]
unsafe impl Send for Graph {}

/// Host memory is taken in pieces of at least so many bytes.
const BLOCK: usize = 1 << 20;

#[expect(unsafe_code, reason = "calls of the driver")]
impl Graph {
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let mut graph = std::ptr::null_mut();
        // SAFETY: the driver writes one handle.
        unsafe { sys::cuGraphCreate(&raw mut graph, 0) }.result()?;
        Ok(Self { context: context.clone(), graph, executable: None, last: None, blocks: Vec::new(), taken: 0 })
    }

    /// Adds the node that `call` makes, with the graph, its dependencies and their number, after the last one.
    fn add(
        &mut self,
        call: impl FnOnce(*mut CUgraphNode, CUgraph, *const CUgraphNode, usize) -> sys::CUresult,
    ) -> Result<Node> {
        let (mut node, last) = (std::ptr::null_mut(), self.last.map(|node| node.0));
        call(&raw mut node, self.graph, last.as_ref().map_or(std::ptr::null(), |last| last), last.iter().count())
            .result()?;
        self.last = Some(Node(node));
        Ok(Node(node))
    }

    /// Adds an allocation, and tells its address, which is the same in every launch.
    pub fn allocate(&mut self, bytes: usize) -> Result<(Node, u64)> {
        let properties = CUmemPoolProps {
            allocType: CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
            handleTypes: CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE,
            location: CUmemLocation {
                type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
                id: self.context.cu_device(),
            },
            win32SecurityAttributes: std::ptr::null_mut(),
            reserved: [0; 64],
        };
        let mut params = CUDA_MEM_ALLOC_NODE_PARAMS {
            poolProps: properties,
            accessDescs: std::ptr::null(),
            accessDescCount: 0,
            bytesize: bytes,
            dptr: 0,
        };
        // SAFETY: graph and dependency are this graph's; the parameters live through the call, which writes the address.
        let add = |node, graph, after, count| unsafe {
            sys::cuGraphAddMemAllocNode(node, graph, after, count, &raw mut params)
        };
        let node = self.add(add)?;
        Ok((node, params.dptr))
    }

    /// Adds a free of memory that this graph allocates.
    pub fn free(&mut self, ptr: u64) -> Result<Node> {
        // SAFETY: graph and dependency are this graph's.
        self.add(|node, graph, after, count| unsafe { sys::cuGraphAddMemFreeNode(node, graph, after, count, ptr) })
    }

    /// Adds a fill with one byte.
    pub fn set(&mut self, dst: u64, value: u8, bytes: usize) -> Result<Node> {
        let params =
            CUDA_MEMSET_NODE_PARAMS { dst, pitch: 0, value: value.into(), elementSize: 1, width: bytes, height: 1 };
        let context = self.context.cu_ctx();
        // SAFETY: graph, dependency and context are this graph's; `dst` is memory of at least `bytes` bytes when a launch
        // gets there.
        self.add(|node, graph, after, count| unsafe {
            sys::cuGraphAddMemsetNode(node, graph, after, count, &raw const params, context)
        })
    }

    /// Adds a copy of at least one byte.
    pub fn copy(&mut self, dst: u64, src: Source, bytes: usize) -> Result<Node> {
        let (params, context) = (self.copy_params(dst, src, bytes)?, self.context.cu_ctx());
        // SAFETY: graph, dependency and context are this graph's; both ends are memory of at least `bytes` bytes when a
        // launch gets there.
        self.add(|node, graph, after, count| unsafe {
            sys::cuGraphAddMemcpyNode(node, graph, after, count, &raw const params, context)
        })
    }

    /// Adds a kernel.
    pub fn launch(&mut self, call: &KernelCall) -> Result<Node> {
        with_params(call, |params| {
            // SAFETY: graph and dependency are this graph's; number and kinds of the arguments were checked against the
            // kernel's `.param` list, and the call copies them.
            self.add(|node, graph, after, count| unsafe {
                sys::cuGraphAddKernelNode_v2(node, graph, after, count, params)
            })
        })
    }

    /// Changes a copy in the launches to come.
    pub fn change_copy(&self, node: Node, dst: u64, src: Source, bytes: usize) -> Result<()> {
        let Some(executable) = self.executable else { return Ok(()) };
        let params = self.copy_params(dst, src, bytes)?;
        // SAFETY: the node is a copy of this graph; both ends are memory of at least `bytes` bytes.
        unsafe { sys::cuGraphExecMemcpyNodeSetParams(executable, node.0, &raw const params, self.context.cu_ctx()) }
            .result()
    }

    /// Changes a kernel's launch in the launches to come.
    pub fn change_launch(&self, node: Node, call: &KernelCall) -> Result<()> {
        let Some(executable) = self.executable else { return Ok(()) };
        with_params(call, |params| {
            // SAFETY: the node is a launch of this kernel in this graph; the arguments are as in `launch`.
            unsafe { sys::cuGraphExecKernelNodeSetParams_v2(executable, node.0, params) }.result()
        })
    }

    /// Makes it ready to be launched.
    pub fn instantiate(&mut self) -> Result<()> {
        if self.executable.is_none() {
            let flags = sys::CUgraphInstantiate_flags(0);
            // SAFETY: the graph is valid.
            self.executable = Some(unsafe { result::graph::instantiate(self.graph, flags) }?);
        }
        Ok(())
    }

    /// Queues one launch of all of it.
    pub fn queue(&self, stream: &CudaStream) -> Result<()> {
        let Some(executable) = self.executable else { return Ok(()) };
        // SAFETY: graph and stream are valid; what the nodes touch is there, by the order of the calls they stand for.
        unsafe { result::graph::launch(executable, stream.cu_stream()) }
    }

    /// Host memory for so many bytes.
    pub fn staging(&mut self, bytes: usize) -> Result<Staged> {
        const ALIGN: usize = 256;
        let room = self.blocks.last().map_or(0, |block| block.len() - self.taken);
        if bytes > room {
            // SAFETY: it is written, by `stage`, before a launch reads it.
            self.blocks.push(unsafe { self.context.alloc_pinned(bytes.next_multiple_of(ALIGN).max(BLOCK)) }?);
            self.taken = 0;
        }
        let start = self.taken;
        self.taken += bytes.next_multiple_of(ALIGN);
        Ok(Staged { block: self.blocks.len() - 1, start })
    }

    /// Puts bytes where a copy reads them. No launch may be under way.
    pub fn stage(&mut self, to: Staged, bytes: &[u8]) -> Result<()> {
        self.blocks[to.block].as_mut_slice()?[to.start..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// One row of bytes.
    #[expect(non_snake_case, reason = "the driver's names")]
    fn copy_params(&self, dst: u64, src: Source, bytes: usize) -> Result<CUDA_MEMCPY3D> {
        let (srcMemoryType, srcDevice, srcHost) = match src {
            Source::Device(src) => (CUmemorytype::CU_MEMORYTYPE_DEVICE, src, std::ptr::null()),
            Source::Staged(Staged { block, start }) => {
                let src = self.blocks[block].as_slice()?[start..].as_ptr();
                (CUmemorytype::CU_MEMORYTYPE_HOST, 0, src.cast())
            }
        };
        // The row's length, which the reference asks for; of one row the driver needs none, and takes none above this.
        let pitch = if bytes <= i32::MAX as usize { bytes } else { 0 };
        Ok(CUDA_MEMCPY3D {
            srcXInBytes: 0,
            srcY: 0,
            srcZ: 0,
            srcLOD: 0,
            srcMemoryType,
            srcHost,
            srcDevice,
            srcArray: std::ptr::null_mut(),
            reserved0: std::ptr::null_mut(),
            srcPitch: pitch,
            srcHeight: 1,
            dstXInBytes: 0,
            dstY: 0,
            dstZ: 0,
            dstLOD: 0,
            dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
            dstHost: std::ptr::null_mut(),
            dstDevice: dst,
            dstArray: std::ptr::null_mut(),
            reserved1: std::ptr::null_mut(),
            dstPitch: pitch,
            dstHeight: 1,
            WidthInBytes: bytes,
            Height: 1,
            Depth: 1,
        })
    }
}

/// Calls `body` with a launch as the driver takes it.
fn with_params<R>(call: &KernelCall, body: impl FnOnce(*const CUDA_KERNEL_NODE_PARAMS) -> R) -> R {
    let KernelCall { function, grid, block, shared, args } = call;
    let mut args: Vec<*mut c_void> = args.iter().map(|arg| std::ptr::from_ref(arg).cast_mut().cast()).collect();
    let params = CUDA_KERNEL_NODE_PARAMS {
        func: function.0,
        gridDimX: grid[0],
        gridDimY: grid[1],
        gridDimZ: grid[2],
        blockDimX: *block,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: *shared,
        kernelParams: args.as_mut_ptr(),
        extra: std::ptr::null_mut(),
        kern: std::ptr::null_mut(),
        ctx: std::ptr::null_mut(),
    };
    body(&raw const params)
}

#[expect(unsafe_code, reason = "calls of the driver")]
impl Drop for Graph {
    fn drop(&mut self) {
        self.context.record_err(self.context.bind_to_thread());
        if let Some(executable) = self.executable {
            // SAFETY: it is valid, and used no more.
            self.context.record_err(unsafe { result::graph::exec_destroy(executable) });
        }
        // SAFETY: as above.
        self.context.record_err(unsafe { result::graph::destroy(self.graph) });
    }
}
