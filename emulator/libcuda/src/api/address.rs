//! Functions by their names, as programs find them that are built for many drivers.

use crate::border::{Out, Text, entry};
use crate::names::address;
use crate::status::{Failure, Result, Status};

/// The CUDA version from which a name without suffix means this symbol, as `cudaTypedefs.h` has it. A symbol that is not
/// here is older than any program that asks.
const SINCE: &[(&str, i32)] = &[
    ("cuCtxCreate_v3", 11040),
    ("cuCtxCreate_v4", 12050),
    ("cuCtxGetDevice_v2", 13000),
    ("cuCtxSynchronize_v2", 13000),
    ("cuDeviceGetUuid_v2", 11040),
    ("cuEventElapsedTime_v2", 12080),
    ("cuGetProcAddress_v2", 12000),
    ("cuGraphAddDependencies_v2", 12030),
    ("cuGraphAddKernelNode_v2", 12000),
    ("cuGraphAddNode_v2", 12030),
    ("cuGraphAddNode_v3", 13020),
    ("cuGraphExecKernelNodeSetParams_v2", 12000),
    ("cuGraphExecUpdate_v2", 12000),
    ("cuGraphGetEdges_v2", 12030),
    ("cuGraphKernelNodeGetParams_v2", 12000),
    ("cuGraphKernelNodeSetParams_v2", 12000),
    ("cuGraphNodeGetDependencies_v2", 12030),
    ("cuGraphNodeGetDependentNodes_v2", 12030),
    ("cuGraphNodeSetParams_v2", 13020),
    ("cuGraphRemoveDependencies_v2", 12030),
    ("cuLaunchHostFunc_v2", 13020),
    ("cuMemAdvise_v2", 12020),
    ("cuMemPrefetchAsync_v2", 12020),
    ("cuMemcpy3DBatchAsync_v2", 13000),
    ("cuMemcpyBatchAsync_v2", 13000),
    ("cuMulticastBindAddr_v2", 13020),
    ("cuMulticastBindMem_v2", 13020),
    ("cuStreamBatchMemOp_v2", 11070),
    ("cuStreamGetCaptureInfo_v2", 11030),
    ("cuStreamGetCaptureInfo_v3", 12030),
    ("cuStreamGetCtx_v2", 12050),
    ("cuStreamUpdateCaptureDependencies_v2", 12030),
    ("cuStreamWaitValue32_v2", 11070),
    ("cuStreamWaitValue64_v2", 11070),
    ("cuStreamWriteValue32_v2", 11070),
    ("cuStreamWriteValue64_v2", 11070),
];

/// Answers of the search, CUDA's `CUdriverProcAddressQueryResult`.
const FOUND: i32 = 0;
const NOT_FOUND: i32 = 1;
const TOO_NEW: i32 = 2;

/// The newest form of a function that a version of CUDA has.
fn find(name: &str, version: i32) -> std::result::Result<*const (), i32> {
    let since = |symbol: &str| SINCE.iter().find(|(known, _)| *known == symbol).map_or(0, |(_, since)| *since);
    let mut answer = NOT_FOUND;
    for suffix in ["_v4", "_v3", "_v2", ""] {
        let symbol = format!("{name}{suffix}");
        match address(&symbol) {
            Some(found) if since(&symbol) <= version => return Ok(found),
            Some(_) => answer = TOO_NEW,
            None => {}
        }
    }
    Err(answer)
}

fn look_up(name: Text, place: Out<*const ()>, version: i32, answer: Out<i32>) -> Result {
    let (place, name) = (place.place()?, name.get()?);
    let found = find(name, version);
    place.set(found.unwrap_or(std::ptr::null()));
    answer.set_if_wanted(found.err().unwrap_or(FOUND));
    let missing = |_| Failure::new(Status::NOT_FOUND, format!("CUDA {version} has no function {name} here"));
    found.map(|_| ()).map_err(missing)
}

/// The flags ask for the functions' forms for each thread's own stream, which is the null stream here.
#[unsafe(no_mangle)]
pub extern "C" fn cuGetProcAddress_v2(
    name: Text,
    function: Out<*const ()>,
    version: i32,
    _flags: u64,
    answer: Out<i32>,
) -> Status {
    entry(|| look_up(name, function, version, answer))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetProcAddress(name: Text, function: Out<*const ()>, version: i32, _flags: u64) -> Status {
    entry(|| look_up(name, function, version, Out::null()))
}
