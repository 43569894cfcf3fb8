//! Streams.

use crate::border::Out;
use crate::machine::{Machine, within};
use crate::queue::{NON_BLOCKING, Stream, is_null};
use crate::status::{Result, Status, invalid};

/// The highest priority of a stream; 0 is the lowest.
pub const GREATEST_PRIORITY: i32 = -5;

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreate(stream: Out<u64>, flags: u32) -> Status {
    cuStreamCreateWithPriority(stream, flags, 0)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreateWithPriority(stream: Out<u64>, flags: u32, priority: i32) -> Status {
    within(|machine, context| {
        let place = stream.place()?;
        if flags & !NON_BLOCKING != 0 {
            return invalid(format!("{flags:#x} are no flags of a stream"));
        }
        place.set(machine.streams.add(context, Stream::new(flags, priority.clamp(GREATEST_PRIORITY, 0))));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: u64) -> Status {
    within(|machine, _| {
        let settled = machine.settle(stream);
        machine.streams.remove(stream)?;
        settled
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: u64) -> Status {
    within(|machine, _| machine.settle(stream))
}

/// Asking is waiting: the answer is never that work is left.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: u64) -> Status {
    cuStreamSynchronize(stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: u64, event: u64, _flags: u32) -> Status {
    within(|machine, context| machine.wait(context, stream, event))
}

/// An answer about a stream, where the null stream has no entry.
fn answer<T: Copy>(stream: u64, place: Out<T>, of: impl FnOnce(&Machine, u64, Option<&Stream>) -> Result<T>) -> Status {
    within(|machine, context| {
        let place = place.place()?;
        let known = if is_null(stream) { None } else { Some(machine.streams.get(stream)?) };
        place.set(of(machine, context, known)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetPriority(stream: u64, priority: Out<i32>) -> Status {
    answer(stream, priority, |_, _, stream| Ok(stream.map_or(0, |stream| stream.priority)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetFlags(stream: u64, flags: Out<u32>) -> Status {
    answer(stream, flags, |_, _, stream| Ok(stream.map_or(0, |stream| stream.flags)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetId(stream: u64, id: Out<u64>) -> Status {
    answer(stream, id, |_, _, _| Ok(stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetCtx(stream: u64, context: Out<u64>) -> Status {
    answer(stream, context, |machine, current, known| match known {
        Some(_) => machine.streams.context(stream),
        None => Ok(current),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetDevice(stream: u64, device: Out<i32>) -> Status {
    answer(stream, device, |_, _, _| Ok(0))
}

/// Nothing is ever captured.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamIsCapturing(stream: u64, status: Out<i32>) -> Status {
    answer(stream, status, |_, _, _| Ok(0))
}
