//! Device memory, and what is known of an address.

use crate::border::Out;
use crate::machine::{Allocation, Machine, within};
use crate::status::{Failure, Result, Status, invalid};

pub fn allocate(machine: &mut Machine, context: u64, bytes: usize, pool: u64) -> Result<u64> {
    let bytes = bytes as u64;
    let full = |error: ptx_emulator::MemoryError| Failure::new(Status::OUT_OF_MEMORY, error.to_string());
    let address = machine.device.alloc(bytes).map_err(full)?;
    machine.allocations.insert(address, context, Allocation { bytes, pool });
    if let Ok(pool) = machine.pools.get_mut(pool) {
        pool.used += bytes;
        pool.most_used = pool.most_used.max(pool.used);
    }
    Ok(address)
}

/// Allocates memory that nobody has written: a kernel that reads it before traps.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) -> Status {
    within(|machine, context| {
        let place = address.place()?;
        if bytes == 0 {
            return invalid("cuMemAlloc: 0 bytes");
        }
        place.set(allocate(machine, context, bytes, 0)?);
        Ok(())
    })
}

/// Bytes of which each row of a pitched allocation is a multiple.
const PITCH: usize = 512;

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocPitch_v2(
    address: Out<u64>,
    pitch: Out<usize>,
    width: usize,
    height: usize,
    element: u32,
) -> Status {
    within(|machine, context| {
        let (address, pitch) = (address.place()?, pitch.place()?);
        if !matches!(element, 4 | 8 | 16) {
            return invalid(format!("elements of {element} bytes; 4, 8 and 16 are allowed"));
        }
        let row = width.checked_next_multiple_of(PITCH);
        let Some((row, bytes)) = row.and_then(|row| Some((row, row.checked_mul(height)?))).filter(|it| it.1 > 0) else {
            return invalid(format!("{height} rows of {width} bytes"));
        };
        address.set(allocate(machine, context, bytes, 0)?);
        pitch.set(row);
        Ok(())
    })
}

/// Frees memory after all work that was queued. Its addresses are not used again, so a pointer that is kept is found out.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> Status {
    within(|machine, _| {
        machine.settle_all()?;
        machine.owed.remove(&address);
        if address == 0 { Ok(()) } else { machine.release(address) }
    })
}

/// Allocates from a pool; 0 bytes are address 0. The memory is there at once, whatever the stream has still to do.
fn allocate_async(address: Out<u64>, bytes: usize, pool: Option<u64>, stream: u64) -> Status {
    within(|machine, context| {
        let (place, pool) = (address.place()?, pool.unwrap_or(machine.pool));
        machine.pools.get(pool)?;
        if !crate::queue::is_null(stream) {
            machine.streams.get(stream)?;
        }
        place.set(if bytes == 0 { 0 } else { allocate(machine, context, bytes, pool)? });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: u64) -> Status {
    allocate_async(address, bytes, None, stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, pool: u64, stream: u64) -> Status {
    allocate_async(address, bytes, Some(pool), stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: u64, stream: u64) -> Status {
    within(|machine, context| {
        if address == 0 {
            return Ok(());
        }
        if machine.allocations.get(address).is_err() && !machine.owed.contains_key(&address) {
            return invalid(format!("{address:#x} is not the start of an allocation"));
        }
        machine.owed.remove(&address);
        machine.enqueue(context, stream, move |machine| machine.release(address))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> Status {
    within(|machine, _| {
        let info = machine.device.memory_info();
        let (free, total) = (free.place()?, total.place()?);
        free.set(info.0 as usize);
        total.set(info.1 as usize);
        Ok(())
    })
}

fn range(machine: &Machine, address: u64) -> Result<(u64, u64)> {
    let nowhere = || Failure::new(Status::INVALID_VALUE, format!("{address:#x} is in no device allocation"));
    machine.device.allocation(address).ok_or_else(nowhere)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetAddressRange_v2(start: Out<u64>, bytes: Out<usize>, address: u64) -> Status {
    within(|machine, _| {
        let (base, length) = range(machine, address)?;
        start.set_if_wanted(base);
        bytes.set_if_wanted(length as usize);
        Ok(())
    })
}

/// What is known of a device address: context, kind of memory, addresses, device, range.
#[unsafe(no_mangle)]
pub extern "C" fn cuPointerGetAttribute(value: Out<u8>, attribute: i32, address: u64) -> Status {
    within(|machine, context| {
        value.place()?;
        let (base, length) = range(machine, address)?;
        match attribute {
            1 => value.cast().place()?.set(machine.allocations.context(base).unwrap_or(context)), // CONTEXT
            2 => value.cast().place()?.set(2u32),                                                 // MEMORY_TYPE: device
            3 => value.cast().place()?.set(address),                                              // DEVICE_POINTER
            7 => value.cast().place()?.set(base), // BUFFER_ID: addresses are not used twice
            8 | 10 | 13 | 14 => value.cast().place()?.set(0u32), // IS_MANAGED, IS_LEGACY_IPC_CAPABLE, ...
            9 => value.cast().place()?.set(0i32), // DEVICE_ORDINAL
            11 => value.cast().place()?.set(base), // RANGE_START_ADDR
            12 => value.cast().place()?.set(length), // RANGE_SIZE
            _ => return invalid(format!("pointer attribute {attribute} is not known of device memory")),
        }
        Ok(())
    })
}
