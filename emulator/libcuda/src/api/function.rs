//! What is known and set of a kernel.

use crate::border::{Out, entry};
use crate::machine::within;
use crate::status::{Failure, Status, interned, invalid, say_once, unsupported};
use std::ffi::c_char;

/// Numbers of CUDA's `CUfunction_attribute`.
const MAX_THREADS: i32 = 0;
const SHARED_BYTES: i32 = 1;
const CONST_BYTES: i32 = 2;
const LOCAL_BYTES: i32 = 3;
const REGISTERS: i32 = 4;
const PTX_VERSION: i32 = 5;
const BINARY_VERSION: i32 = 6;
const CACHE_MODE_CA: i32 = 7;
const MAX_DYNAMIC_SHARED: i32 = 8;
const CARVEOUT: i32 = 9;

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetAttribute(value: Out<i32>, attribute: i32, function: u64) -> Status {
    within(|machine, _| {
        let (place, function) = (value.place()?, machine.functions.get(function)?);
        let (major, minor) = machine.gpu.arch.compute_capability();
        let kernel = &function.kernel;
        place.set(match attribute {
            MAX_THREADS => kernel.max_threads().unwrap_or(1024) as i32,
            SHARED_BYTES => kernel.shared_bytes() as i32,
            CONST_BYTES | CACHE_MODE_CA => 0,
            REGISTERS => {
                say_once("CU_FUNC_ATTRIBUTE_NUM_REGS is 0: NVIDIA's assembler decides it, PTX does not say");
                0
            }
            LOCAL_BYTES => kernel.local_bytes() as i32,
            PTX_VERSION | BINARY_VERSION => (major * 10 + minor) as i32,
            MAX_DYNAMIC_SHARED => function.dynamic_limit as i32,
            CARVEOUT => function.carveout,
            _ => return invalid(format!("{attribute} is no function attribute known here")),
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: u64, attribute: i32, value: i32) -> Status {
    within(|machine, _| {
        let limit = machine.gpu.arch.shared_limit();
        let function = machine.functions.get_mut(function)?;
        let fixed = function.kernel.shared_bytes();
        match attribute {
            MAX_DYNAMIC_SHARED => match u64::try_from(value).ok().filter(|bytes| bytes + fixed <= limit) {
                Some(bytes) => function.dynamic_limit = bytes,
                None => {
                    let name = function.kernel.name();
                    return invalid(format!(
                        "{name}: {value} bytes of dynamic and {fixed} of static shared memory, the device has {limit}"
                    ));
                }
            },
            CARVEOUT if (-1..=100).contains(&value) => function.carveout = value,
            _ => return invalid(format!("function attribute {attribute} cannot be set to {value}")),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetCacheConfig(function: u64, config: i32) -> Status {
    within(|machine, _| {
        machine.functions.get(function)?;
        if (0..=3).contains(&config) { Ok(()) } else { invalid(format!("{config} is no cache configuration")) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetSharedMemConfig(function: u64, config: i32) -> Status {
    within(|machine, _| {
        machine.functions.get(function)?;
        if (0..=2).contains(&config) { Ok(()) } else { invalid(format!("{config} is no shared memory configuration")) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetModule(module: Out<u64>, function: u64) -> Status {
    within(|machine, _| {
        module.place()?.set(machine.functions.get(function)?.module);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetName(name: Out<*const c_char>, function: u64) -> Status {
    within(|machine, _| {
        let kernel = &machine.functions.get(function)?.kernel;
        name.place()?.set(interned(kernel.name().into()).as_ptr());
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetParamInfo(function: u64, number: usize, offset: Out<usize>, bytes: Out<usize>) -> Status {
    within(|machine, _| {
        let params = machine.functions.get(function)?.kernel.params();
        let none = || Failure::new(Status::INVALID_VALUE, format!("there are {} parameters", params.len()));
        let param = params.get(number).ok_or_else(none)?;
        offset.place()?.set(param.offset as usize);
        bytes.set_if_wanted(param.bytes as usize);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetParamCount(function: u64, count: Out<usize>) -> Status {
    within(|machine, _| {
        count.place()?.set(machine.functions.get(function)?.kernel.params().len());
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncIsLoaded(state: Out<i32>, function: u64) -> Status {
    within(|machine, _| {
        machine.functions.get(function)?;
        state.place()?.set(1);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncLoad(function: u64) -> Status {
    within(|machine, _| machine.functions.get(function).map(|_| ()))
}

/// Launches of CUDA 3 and before set their parameters one by one.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetBlockShape(_function: u64, _x: i32, _y: i32, _z: i32) -> Status {
    entry(|| unsupported("cuFuncSetBlockShape: use cuLaunchKernel"))
}
