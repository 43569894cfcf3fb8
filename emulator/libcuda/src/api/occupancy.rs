//! How many blocks fit on a multiprocessor, by threads and shared memory. Registers are not known from PTX, so a GPU may
//! hold fewer.

use crate::border::Out;
use crate::machine::{Machine, within};
use crate::status::{Result, Status, invalid};

/// Blocks of a function at once on a multiprocessor.
fn blocks(machine: &Machine, function: u64, threads: i32, dynamic: usize) -> Result<i32> {
    let function = machine.functions.get(function)?;
    let shared = function.kernel.shared_bytes().saturating_add(dynamic as u64);
    let most = function.kernel.max_threads().unwrap_or(1024);
    if threads <= 0 {
        return invalid(format!("blocks of {threads} threads"));
    }
    Ok(if threads as u64 > most { 0 } else { machine.gpu.blocks_at_once(threads, shared) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    count: Out<i32>,
    function: u64,
    threads: i32,
    dynamic: usize,
) -> Status {
    within(|machine, _| {
        let place = count.place()?;
        place.set(blocks(machine, function, threads, dynamic)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    count: Out<i32>,
    function: u64,
    threads: i32,
    dynamic: usize,
    _flags: u32,
) -> Status {
    cuOccupancyMaxActiveBlocksPerMultiprocessor(count, function, threads, dynamic)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: Out<usize>,
    function: u64,
    count: i32,
    threads: i32,
) -> Status {
    within(|machine, _| {
        let place = bytes.place()?;
        let fixed = machine.functions.get(function)?.kernel.shared_bytes();
        if count <= 0 || blocks(machine, function, threads, 0)? < count {
            return invalid(format!("{count} blocks of {threads} threads do not fit on a multiprocessor"));
        }
        place.set(machine.gpu.shared_for(count, fixed) as usize);
        Ok(())
    })
}

/// The program's function from the threads of a block to its dynamic shared memory.
type SharedOfThreads = Option<extern "C" fn(i32) -> usize>;

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: Out<i32>,
    block: Out<i32>,
    function: u64,
    shared: SharedOfThreads,
    dynamic: usize,
    limit: i32,
) -> Status {
    within(|machine, _| {
        let (grid, block) = (grid.place()?, block.place()?);
        let most = machine.functions.get(function)?.kernel.max_threads().unwrap_or(1024) as i32;
        let most = if limit > 0 { limit.min(most) } else { most };
        let mut best = (0, 0, 0);
        for threads in (1..=most / 32).rev().map(|warps| warps * 32).chain((most < 32).then_some(most)) {
            let dynamic = shared.map_or(dynamic, |shared| shared(threads));
            let count = blocks(machine, function, threads, dynamic)?;
            if count * threads > best.0 {
                best = (count * threads, threads, count);
            }
        }
        grid.set(best.2 * machine.gpu.multiprocessors);
        block.set(best.1);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: Out<i32>,
    block: Out<i32>,
    function: u64,
    shared: SharedOfThreads,
    dynamic: usize,
    limit: i32,
    _flags: u32,
) -> Status {
    cuOccupancyMaxPotentialBlockSize(grid, block, function, shared, dynamic, limit)
}
