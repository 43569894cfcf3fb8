//! The device.

use crate::border::{In, Out, Text, entry};
use crate::machine::with;
use crate::status::{Failure, Status, invalid};
use std::ffi::c_char;

/// Where the device would be plugged in.
const PCI_BUS_ID: &str = "0000:00:00.0";

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetCount(count: Out<i32>) -> Status {
    with(|_| {
        count.place()?.set(1);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGet(device: Out<i32>, ordinal: i32) -> Status {
    with(|machine| {
        machine.check_device(ordinal)?;
        device.place()?.set(ordinal);
        Ok(())
    })
}

/// Writes a text and its final zero, cut to the caller's room.
fn write_text(place: Out<c_char>, text: &str, room: i32) -> crate::status::Result {
    let Some(most) = usize::try_from(room).ok().and_then(|room| room.checked_sub(1)) else {
        return invalid(format!("there is no room for a text in {room} bytes"));
    };
    let mut letters: Vec<c_char> = text.bytes().take(most).map(|byte| byte as c_char).collect();
    letters.push(0);
    let length = letters.len();
    place.fill(&letters, length)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetName(name: Out<c_char>, room: i32, device: i32) -> Status {
    with(|machine| {
        machine.check_device(device)?;
        write_text(name, &machine.gpu.name(), room)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: i32) -> Status {
    with(|machine| {
        machine.check_device(device)?;
        uuid.place()?.set(machine.gpu.uuid());
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: i32) -> Status {
    cuDeviceGetUuid(uuid, device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) -> Status {
    with(|machine| {
        machine.check_device(device)?;
        bytes.place()?.set(machine.device.memory_info().1 as usize);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetAttribute(value: Out<i32>, attribute: i32, device: i32) -> Status {
    with(|machine| {
        machine.check_device(device)?;
        let place = value.place()?;
        let unknown = || Failure::new(Status::INVALID_VALUE, format!("{attribute} is no device attribute"));
        place.set(machine.gpu.attribute(attribute).ok_or_else(unknown)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) -> Status {
    with(|machine| {
        machine.check_device(device)?;
        let capability = machine.gpu.arch.compute_capability();
        let (major, minor) = (major.place()?, minor.place()?);
        major.set(capability.0 as i32);
        minor.set(capability.1 as i32);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetPCIBusId(id: Out<c_char>, room: i32, device: i32) -> Status {
    with(|machine| {
        machine.check_device(device)?;
        write_text(id, PCI_BUS_ID, room)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetByPCIBusId(device: Out<i32>, id: Text) -> Status {
    with(|_| {
        let (place, id) = (device.place()?, id.get()?);
        if !PCI_BUS_ID.ends_with(id) {
            return Err(Failure::new(
                Status::INVALID_DEVICE,
                format!("there is one device, at {PCI_BUS_ID}, got {id}"),
            ));
        }
        place.set(0);
        Ok(())
    })
}

/// There is no second device, and a device is no peer of itself.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) -> Status {
    with(|machine| {
        machine.check_device(device)?;
        machine.check_device(peer)?;
        can.place()?.set(0);
        Ok(())
    })
}

/// Whether an execution affinity is supported: none is.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetExecAffinitySupport(supported: Out<i32>, _affinity: i32, device: i32) -> Status {
    with(|machine| {
        machine.check_device(device)?;
        supported.place()?.set(0);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetDefaultMemPool(pool: Out<u64>, device: i32) -> Status {
    with(|machine| {
        machine.check_device(device)?;
        let first = machine.pools.iter().next().map(|(handle, _)| handle);
        pool.place()?.set(first.unwrap_or_default());
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetMemPool(pool: Out<u64>, device: i32) -> Status {
    with(|machine| {
        machine.check_device(device)?;
        pool.place()?.set(machine.pool);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceSetMemPool(device: i32, pool: u64) -> Status {
    with(|machine| {
        machine.check_device(device)?;
        machine.pools.get(pool)?;
        machine.pool = pool;
        Ok(())
    })
}

/// Retains the device's own context, and makes it where nobody did before.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRetain(context: Out<u64>, device: i32) -> Status {
    with(|machine| {
        machine.check_device(device)?;
        let place = context.place()?;
        let primary = &mut machine.primary;
        if primary.retained == 0 {
            let context = crate::machine::Context { flags: primary.flags, ..Default::default() };
            machine.contexts.insert(primary.handle, 0, context);
        }
        primary.retained += 1;
        place.set(primary.handle);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: i32) -> Status {
    with(|machine| {
        machine.check_device(device)?;
        let Some(left) = machine.primary.retained.checked_sub(1) else {
            return Err(Failure::new(Status::INVALID_CONTEXT, "the primary context was not retained"));
        };
        machine.primary.retained = left;
        if left == 0 { machine.destroy_context(machine.primary.handle) } else { Ok(()) }
    })
}

/// Frees all that is in the device's own context, and makes it whole where a trap had broken it.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxReset_v2(device: i32) -> Status {
    with(|machine| {
        machine.check_device(device)?;
        let primary = machine.primary.handle;
        if machine.primary.retained > 0 {
            // What was queued in a context that is thrown away may fail without anyone minding.
            let _ = machine.destroy_context(primary);
            let context = crate::machine::Context { flags: machine.primary.flags, ..Default::default() };
            machine.contexts.insert(primary, 0, context);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) -> Status {
    with(|machine| {
        machine.check_device(device)?;
        machine.primary.flags = flags;
        if let Ok(context) = machine.contexts.get_mut(machine.primary.handle) {
            context.flags = flags;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) -> Status {
    with(|machine| {
        machine.check_device(device)?;
        let (flags, active) = (flags.place()?, active.place()?);
        flags.set(machine.primary.flags);
        active.set(i32::from(machine.primary.retained > 0));
        Ok(())
    })
}

/// `CUdevprop`: what CUDA 2 asked of a device.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetProperties(properties: Out<[i32; 14]>, device: i32) -> Status {
    with(|machine| {
        machine.check_device(device)?;
        let attributes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
        properties.place()?.set(attributes.map(|number| machine.gpu.attribute(number).unwrap_or(0)));
        Ok(())
    })
}

/// A program that lists the calls of this library would ask for it; there is none.
#[unsafe(no_mangle)]
pub extern "C" fn cuGetExportTable(_table: Out<u64>, _id: In<[u8; 16]>) -> Status {
    entry(|| crate::status::unsupported("cuGetExportTable: NVIDIA's internal tables are not part of the driver API"))
}
