//! Events.

use crate::border::Out;
use crate::machine::within;
use crate::queue::{Event, is_null};
use crate::status::{Failure, Status, invalid};

/// Flags of events: wait by blocking, measure no time, share with other processes.
const FLAGS: u32 = 0b111;
const DISABLE_TIMING: u32 = 0b10;

#[unsafe(no_mangle)]
pub extern "C" fn cuEventCreate(event: Out<u64>, flags: u32) -> Status {
    within(|machine, context| {
        let place = event.place()?;
        if flags & !FLAGS != 0 {
            return invalid(format!("{flags:#x} are no flags of an event"));
        }
        place.set(machine.events.add(context, Event { flags, recorded: None }));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: u64) -> Status {
    within(|machine, _| machine.events.remove(event).map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: u64, stream: u64) -> Status {
    within(|machine, context| {
        let stream_context = if is_null(stream) { context } else { machine.streams.context(stream)? };
        if machine.events.context(event)? != stream_context {
            return Err(Failure::new(Status::INVALID_HANDLE, "event and stream belong to different contexts"));
        }
        machine.record(context, event, stream)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecordWithFlags(event: u64, stream: u64, flags: u32) -> Status {
    match flags {
        0 | 1 => cuEventRecord(event, stream),
        _ => crate::border::entry(|| invalid(format!("{flags:#x} are no flags of a record"))),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: u64) -> Status {
    within(|machine, _| machine.settle_event(event))
}

/// Asking is waiting: the answer is never that work is left.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: u64) -> Status {
    cuEventSynchronize(event)
}

/// Milliseconds on this machine's clock from one event to the other: of the emulator, not of a GPU.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime(milliseconds: Out<f32>, start: u64, end: u64) -> Status {
    within(|machine, _| {
        let place = milliseconds.place()?;
        let (start, end) = (machine.events.get(start)?, machine.events.get(end)?);
        let (Some(from), Some(to)) = (start.recorded, end.recorded) else {
            return Err(Failure::new(Status::INVALID_HANDLE, "an event was never recorded"));
        };
        if (start.flags | end.flags) & DISABLE_TIMING != 0 {
            return Err(Failure::new(Status::INVALID_HANDLE, "an event was made without timing"));
        }
        let (Some(from), Some(to)) = (from.at, to.at) else {
            return Err(Failure::new(Status::NOT_READY, "an event has not happened; synchronize first"));
        };
        let forward = to.saturating_duration_since(from).as_secs_f64();
        let backward = from.saturating_duration_since(to).as_secs_f64();
        place.set(((forward - backward) * 1e3) as f32);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: u64, end: u64) -> Status {
    cuEventElapsedTime(milliseconds, start, end)
}
