//! Host memory that copies go to and come from without a stop. Kernels do not reach it.

use crate::border::{Host, Out};
use crate::machine::{Machine, Pinned, within};
use crate::status::{Failure, Result, Status, invalid, unsupported};

impl Machine {
    /// Whether a range of host memory is page-locked.
    pub fn is_pinned(&self, start: Host, bytes: usize) -> bool {
        let holds = |at: u64, pinned: &Pinned| start.0 as u64 >= at && start.0 + bytes <= at as usize + pinned.bytes;
        self.pinned.iter().any(|(at, pinned)| holds(at, pinned))
    }
}

fn allocate(machine: &mut Machine, context: u64, place: Out<usize>, bytes: usize, flags: u32) -> Result {
    let place = place.place()?;
    if bytes == 0 {
        return invalid("0 bytes of host memory");
    }
    let (address, pinned) = Pinned::allocated(bytes, flags)?;
    machine.pinned.insert(address as u64, context, pinned);
    place.set(address);
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocHost_v2(address: Out<usize>, bytes: usize) -> Status {
    within(|machine, context| allocate(machine, context, address, bytes, 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostAlloc(address: Out<usize>, bytes: usize, flags: u32) -> Status {
    within(|machine, context| allocate(machine, context, address, bytes, flags))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(address: usize) -> Status {
    within(|machine, _| {
        if machine.pinned.get(address as u64).map_or(true, Pinned::is_registered) {
            return invalid(format!("{address:#x} is not host memory of cuMemHostAlloc"));
        }
        machine.settle_all()?;
        machine.pinned.remove(address as u64).map(|_| ())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostRegister_v2(address: usize, bytes: usize, flags: u32) -> Status {
    within(|machine, context| {
        if address == 0 || bytes == 0 {
            return invalid(format!("{bytes} bytes of host memory at {address:#x}"));
        }
        if machine.pinned.get(address as u64).is_ok() {
            let detail = format!("{address:#x} is page-locked already");
            return Err(Failure::new(Status::HOST_MEMORY_ALREADY_REGISTERED, detail));
        }
        machine.pinned.insert(address as u64, context, Pinned::registered(bytes, flags));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostUnregister(address: usize) -> Status {
    within(|machine, _| {
        if !machine.pinned.get(address as u64).is_ok_and(Pinned::is_registered) {
            let detail = format!("{address:#x} was not registered");
            return Err(Failure::new(Status::HOST_MEMORY_NOT_REGISTERED, detail));
        }
        machine.settle_all()?;
        machine.pinned.remove(address as u64).map(|_| ())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostGetFlags(flags: Out<u32>, address: usize) -> Status {
    within(|machine, _| {
        let place = flags.place()?;
        match machine.pinned.get(address as u64) {
            Ok(pinned) => place.set(pinned.flags),
            Err(_) => return invalid(format!("{address:#x} is not page-locked host memory")),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostGetDevicePointer_v2(_address: Out<u64>, _host: usize, _flags: u32) -> Status {
    within(|_, _| unsupported("cuMemHostGetDevicePointer: kernels do not reach host memory here"))
}
