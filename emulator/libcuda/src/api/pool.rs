//! Memory pools, which give what the device has and hold nothing back.

use crate::border::{In, Out};
use crate::machine::{Machine, Pool, with, within};
use crate::status::{Result, Status, invalid};

/// Numbers of CUDA's `CUmemPool_attribute`; those before the threshold are switches.
const RELEASE_THRESHOLD: i32 = 4;
const RESERVED: i32 = 5;
const MOST_RESERVED: i32 = 6;
const USED: i32 = 7;
const MOST_USED: i32 = 8;

fn is_default(machine: &Machine, pool: u64) -> bool {
    machine.pools.iter().next().is_some_and(|(first, _)| first == pool)
}

/// Of the properties, the first four words: kind of allocation, kind of handle, kind of place, and its number.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolCreate(pool: Out<u64>, properties: In<[i32; 4]>) -> Status {
    within(|machine, context| {
        let (place, properties) = (pool.place()?, properties.get()?);
        if properties != [1, 0, 1, 0] {
            return invalid(format!("a pool must be pinned memory of device 0 without exports, got {properties:?}"));
        }
        place.set(machine.pools.add(context, Pool::default()));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolDestroy(pool: u64) -> Status {
    with(|machine| {
        if is_default(machine, pool) {
            return invalid("the device's own memory pool stays");
        }
        machine.pools.remove(pool)?;
        if machine.pool == pool {
            machine.pool = machine.pools.iter().next().map_or(0, |(first, _)| first);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolTrimTo(pool: u64, _keep: usize) -> Status {
    with(|machine| machine.pools.get(pool).map(|_| ()))
}

fn attribute(pool: &Pool, number: i32) -> Result<u64> {
    Ok(match number {
        1..=3 => pool.set.get(&number).copied().unwrap_or(1),
        RELEASE_THRESHOLD => pool.set.get(&number).copied().unwrap_or(0),
        RESERVED | USED => pool.used,
        MOST_RESERVED | MOST_USED => pool.most_used,
        _ => return invalid(format!("{number} is no attribute of a memory pool")),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolGetAttribute(pool: u64, number: i32, value: Out<u64>) -> Status {
    with(|machine| {
        let answer = attribute(machine.pools.get(pool)?, number)?;
        let place = value.place()?;
        if number < RELEASE_THRESHOLD {
            value.cast::<i32>().place()?.set(answer as i32);
        } else {
            place.set(answer);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolSetAttribute(pool: u64, number: i32, value: In<u64>) -> Status {
    with(|machine| {
        let pool = machine.pools.get_mut(pool)?;
        match number {
            1..=3 => drop(pool.set.insert(number, value.cast::<i32>().get()? as u64)),
            RELEASE_THRESHOLD => drop(pool.set.insert(number, value.get()?)),
            MOST_RESERVED | MOST_USED if value.get()? == 0 => pool.most_used = pool.used,
            _ => return invalid(format!("attribute {number} of a memory pool cannot be set to that")),
        }
        Ok(())
    })
}
