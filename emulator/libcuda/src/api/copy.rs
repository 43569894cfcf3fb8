//! Copies. An asynchronous one from or to page-locked memory happens when the stream gets there; from any other host
//! memory the bytes are taken at the call, and to it the call waits for the stream: as CUDA documents it.

use crate::border::Host;
use crate::machine::{Machine, within};
use crate::status::{Result, Status, invalid};
use ptx_emulator::MemoryError;

/// One end of a copy.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Device(u64),
    Host(Host),
}

fn misplaced(error: MemoryError) -> Result {
    invalid(error.to_string())
}

pub(crate) fn copy(machine: &mut Machine, to: End, from: End, bytes: usize) -> Result {
    match (to, from) {
        (End::Device(to), End::Device(from)) => machine.device.copy(to, from, bytes as u64).or_else(misplaced),
        (End::Device(to), End::Host(from)) => machine.device.write(to, from.read(bytes)?).or_else(misplaced),
        (End::Host(to), End::Device(from)) => machine.device.read(from, to.write(bytes)?).or_else(misplaced),
        (End::Host(to), End::Host(from)) => {
            let data = from.read(bytes)?.to_vec();
            to.write(bytes)?.copy_from_slice(&data);
            Ok(())
        }
    }
}

/// That an end of a copy is there, as far as can be known.
fn check(machine: &Machine, end: End, bytes: usize) -> Result {
    match end {
        End::Device(address) => {
            let fits = |(base, length): (u64, u64)| address - base + bytes as u64 <= length;
            let there = || machine.device.allocation(address).or_else(|| machine.promised(address));
            if bytes == 0 || there().is_some_and(fits) {
                return Ok(());
            }
            misplaced(MemoryError::NotAllocated { address, length: bytes as u64 })
        }
        End::Host(Host(0)) if bytes > 0 => invalid("a host address is null"),
        End::Host(_) => Ok(()),
    }
}

/// Copies now, after what the null stream waits for.
pub(super) fn copy_now(machine: &mut Machine, context: u64, to: End, from: End, bytes: usize) -> Result {
    check(machine, to, bytes)?;
    check(machine, from, bytes)?;
    if bytes == 0 {
        return Ok(());
    }
    machine.enqueue(context, 0, move |machine| copy(machine, to, from, bytes))
}

/// Copies when the stream gets there.
pub(super) fn copy_queued(
    machine: &mut Machine,
    context: u64,
    to: End,
    from: End,
    bytes: usize,
    stream: u64,
) -> Result {
    check(machine, to, bytes)?;
    check(machine, from, bytes)?;
    if bytes == 0 {
        return machine.enqueue(context, stream, |_| Ok(()));
    }
    if let (End::Host(host), true) = (from, machine.late)
        && !machine.is_pinned(host, bytes)
    {
        let data = host.read(bytes)?.to_vec();
        return machine.enqueue(context, stream, move |machine| {
            copy(machine, to, End::Host(Host(data.as_ptr().expose_provenance())), bytes)
        });
    }
    machine.enqueue(context, stream, move |machine| copy(machine, to, from, bytes))?;
    match to {
        End::Host(host) if !machine.is_pinned(host, bytes) => machine.settle(stream),
        _ => Ok(()),
    }
}

/// An address of which only the value tells where it is.
pub(super) fn end(machine: &Machine, address: u64) -> End {
    match machine.device.allocation(address) {
        Some(_) => End::Device(address),
        None => End::Host(Host(address as usize)),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoD_v2(to: u64, from: Host, bytes: usize) -> Status {
    within(|machine, context| copy_now(machine, context, End::Device(to), End::Host(from), bytes))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoH_v2(to: Host, from: u64, bytes: usize) -> Status {
    within(|machine, context| copy_now(machine, context, End::Host(to), End::Device(from), bytes))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> Status {
    within(|machine, context| copy_now(machine, context, End::Device(to), End::Device(from), bytes))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy(to: u64, from: u64, bytes: usize) -> Status {
    within(|machine, context| copy_now(machine, context, end(machine, to), end(machine, from), bytes))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: Host, bytes: usize, stream: u64) -> Status {
    within(|machine, context| copy_queued(machine, context, End::Device(to), End::Host(from), bytes, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(to: Host, from: u64, bytes: usize, stream: u64) -> Status {
    within(|machine, context| copy_queued(machine, context, End::Host(to), End::Device(from), bytes, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) -> Status {
    within(|machine, context| copy_queued(machine, context, End::Device(to), End::Device(from), bytes, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: u64) -> Status {
    within(|machine, context| copy_queued(machine, context, end(machine, to), end(machine, from), bytes, stream))
}

/// Between contexts, which share one memory here.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeer(to: u64, to_context: u64, from: u64, from_context: u64, bytes: usize) -> Status {
    within(|machine, context| {
        machine.check(to_context)?;
        machine.check(from_context)?;
        copy_now(machine, context, End::Device(to), End::Device(from), bytes)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    to_context: u64,
    from: u64,
    from_context: u64,
    bytes: usize,
    stream: u64,
) -> Status {
    within(|machine, context| {
        machine.check(to_context)?;
        machine.check(from_context)?;
        copy_queued(machine, context, End::Device(to), End::Device(from), bytes, stream)
    })
}
