//! Contexts.

use crate::border::{In, Out, entry};
use crate::machine::{Context, Machine, contexts_of_thread, current, with, within};
use crate::status::{Failure, Result, Status, invalid};
use std::ffi::c_void;

fn create(machine: &mut Machine, place: Out<u64>, flags: u32, device: i32) -> Result {
    machine.check_device(device)?;
    let place = place.place()?;
    let context = machine.contexts.add(0, Context { flags, ..Default::default() });
    contexts_of_thread(|stack| stack.push(context));
    place.set(context);
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v2(context: Out<u64>, flags: u32, device: i32) -> Status {
    with(|machine| create(machine, context, flags, device))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v3(
    context: Out<u64>,
    _affinities: In<c_void>,
    affinity_count: i32,
    flags: u32,
    device: i32,
) -> Status {
    with(|machine| match affinity_count {
        0 => create(machine, context, flags, device),
        _ => Err(Failure::new(Status::UNSUPPORTED_EXEC_AFFINITY, "contexts have no execution affinity here")),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v4(context: Out<u64>, parameters: In<u8>, flags: u32, device: i32) -> Status {
    with(|machine| {
        if !parameters.is_null() {
            return Err(Failure::new(Status::NOT_SUPPORTED, "cuCtxCreate_v4: contexts take no parameters here"));
        }
        create(machine, context, flags, device)
    })
}

/// Ends a context of `cuCtxCreate`; the primary one is ended by its release.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(context: u64) -> Status {
    with(|machine| {
        if context == machine.primary.handle || machine.contexts.get(context).is_err() {
            let detail = format!("{context:#x} is not a context of cuCtxCreate");
            return Err(Failure::new(Status::INVALID_CONTEXT, detail));
        }
        contexts_of_thread(|stack| stack.pop_if(|top| *top == context));
        machine.destroy_context(context)
    })
}

fn known(machine: &Machine, context: u64) -> Result {
    let unknown = |_| Failure::new(Status::INVALID_CONTEXT, format!("{context:#x} is not a context"));
    machine.contexts.get(context).map(|_| ()).map_err(unknown)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: u64) -> Status {
    with(|machine| {
        known(machine, context)?;
        contexts_of_thread(|stack| stack.push(context));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPopCurrent_v2(context: Out<u64>) -> Status {
    with(|_| {
        let top = current()?;
        contexts_of_thread(Vec::pop);
        context.set_if_wanted(top);
        Ok(())
    })
}

/// Puts a context, or none, in the place of the current one.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: u64) -> Status {
    with(|machine| {
        if context != 0 {
            known(machine, context)?;
        }
        contexts_of_thread(|stack| {
            stack.pop();
            stack.extend((context != 0).then_some(context));
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCurrent(context: Out<u64>) -> Status {
    with(|_| {
        context.place()?.set(current().unwrap_or(0));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetDevice(device: Out<i32>) -> Status {
    with(|_| {
        current()?;
        device.place()?.set(0);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetDevice_v2(device: Out<i32>, context: u64) -> Status {
    with(|machine| {
        known(machine, context)?;
        device.place()?.set(0);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetFlags(flags: Out<u32>) -> Status {
    within(|machine, context| {
        flags.place()?.set(machine.contexts.get(context)?.flags);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetFlags(flags: u32) -> Status {
    within(|machine, context| {
        machine.contexts.get_mut(context)?.flags = flags;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetId(context: u64, id: Out<u64>) -> Status {
    with(|machine| {
        let context = if context == 0 { current()? } else { context };
        known(machine, context)?;
        id.place()?.set(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Status {
    within(Machine::settle_context)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize_v2(context: u64) -> Status {
    with(|machine| {
        known(machine, context)?;
        machine.check(context)?;
        machine.settle_context(context)
    })
}

/// The version of the API that made the context.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetApiVersion(context: u64, version: Out<u32>) -> Status {
    with(|machine| {
        known(machine, if context == 0 { current()? } else { context })?;
        version.place()?.set(3020);
        Ok(())
    })
}

/// A limit before the program sets one; limits are kept and bind nothing.
fn default_limit(limit: i32) -> Option<usize> {
    Some(match limit {
        0 => 1 << 10, // STACK_SIZE
        1 => 1 << 20, // PRINTF_FIFO_SIZE
        2 => 8 << 20, // MALLOC_HEAP_SIZE
        3 => 2,       // DEV_RUNTIME_SYNC_DEPTH
        4 => 2048,    // DEV_RUNTIME_PENDING_LAUNCH_COUNT
        5 => 64,      // MAX_L2_FETCH_GRANULARITY
        6 => 0,       // PERSISTING_L2_CACHE_SIZE
        _ => return None,
    })
}

fn limit(number: i32) -> Result<usize> {
    let unknown = || Failure::new(Status::UNSUPPORTED_LIMIT, format!("there is no limit {number} here"));
    default_limit(number).ok_or_else(unknown)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetLimit(value: Out<usize>, number: i32) -> Status {
    within(|machine, context| {
        let default = limit(number)?;
        value.place()?.set(machine.contexts.get(context)?.limits.get(&number).copied().unwrap_or(default));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetLimit(number: i32, value: usize) -> Status {
    within(|machine, context| {
        limit(number)?;
        machine.contexts.get_mut(context)?.limits.insert(number, value);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCacheConfig(config: Out<i32>) -> Status {
    within(|machine, context| {
        config.place()?.set(machine.contexts.get(context)?.cache_config);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCacheConfig(config: i32) -> Status {
    within(|machine, context| {
        if !(0..=3).contains(&config) {
            return invalid(format!("{config} is no cache configuration"));
        }
        machine.contexts.get_mut(context)?.cache_config = config;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetSharedMemConfig(config: Out<i32>) -> Status {
    within(|machine, context| {
        config.place()?.set(machine.contexts.get(context)?.shared_config);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetSharedMemConfig(config: i32) -> Status {
    within(|machine, context| {
        if !(0..=2).contains(&config) {
            return invalid(format!("{config} is no shared memory configuration"));
        }
        machine.contexts.get_mut(context)?.shared_config = config;
        Ok(())
    })
}

/// Streams have priorities, which change nothing.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) -> Status {
    within(|_, _| {
        least.set_if_wanted(0);
        greatest.set_if_wanted(crate::api::stream::GREATEST_PRIORITY);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxResetPersistingL2Cache() -> Status {
    within(|_, _| Ok(()))
}

/// There is no peer whose access could be allowed.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxEnablePeerAccess(_peer: u64, _flags: u32) -> Status {
    entry(|| Err(Failure::new(Status::PEER_ACCESS_UNSUPPORTED, "there is one device")))
}
