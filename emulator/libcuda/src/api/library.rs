//! Libraries and their kernels, CUDA 12's form of modules and functions. Here they are the same things: a library belongs
//! to the context in which it was loaded.

use super::function::*;
use super::module::*;
use crate::border::{In, Out, Text};
use crate::machine::within;
use crate::status::Status;
use std::ffi::c_char;

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryLoadData(
    library: Out<u64>,
    code: Text,
    options: In<i32>,
    values: In<usize>,
    count: u32,
    _library_options: In<i32>,
    _library_values: In<usize>,
    _library_count: u32,
) -> Status {
    cuModuleLoadDataEx(library, code, count, options, values)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryLoadFromFile(
    library: Out<u64>,
    file: Text,
    _options: In<i32>,
    _values: In<usize>,
    _count: u32,
    _library_options: In<i32>,
    _library_values: In<usize>,
    _library_count: u32,
) -> Status {
    cuModuleLoad(library, file)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryUnload(library: u64) -> Status {
    cuModuleUnload(library)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryGetKernel(kernel: Out<u64>, library: u64, name: Text) -> Status {
    cuModuleGetFunction(kernel, library, name)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryGetKernelCount(count: Out<u32>, library: u64) -> Status {
    cuModuleGetFunctionCount(count, library)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryEnumerateKernels(kernels: Out<u64>, room: u32, library: u64) -> Status {
    cuModuleEnumerateFunctions(kernels, room, library)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryGetModule(module: Out<u64>, library: u64) -> Status {
    within(|machine, _| {
        machine.modules.get(library)?;
        module.place()?.set(library);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryGetGlobal(address: Out<u64>, bytes: Out<usize>, library: u64, name: Text) -> Status {
    cuModuleGetGlobal_v2(address, bytes, library, name)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuKernelGetFunction(function: Out<u64>, kernel: u64) -> Status {
    within(|machine, _| {
        machine.functions.get(kernel)?;
        function.place()?.set(kernel);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuKernelGetLibrary(library: Out<u64>, kernel: u64) -> Status {
    cuFuncGetModule(library, kernel)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuKernelGetAttribute(value: Out<i32>, attribute: i32, kernel: u64, device: i32) -> Status {
    match device {
        0 => cuFuncGetAttribute(value, attribute, kernel),
        _ => within(|machine, _| machine.check_device(device)),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuKernelSetAttribute(attribute: i32, value: i32, kernel: u64, device: i32) -> Status {
    match device {
        0 => cuFuncSetAttribute(kernel, attribute, value),
        _ => within(|machine, _| machine.check_device(device)),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuKernelSetCacheConfig(kernel: u64, config: i32, device: i32) -> Status {
    match device {
        0 => cuFuncSetCacheConfig(kernel, config),
        _ => within(|machine, _| machine.check_device(device)),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuKernelGetName(name: Out<*const c_char>, kernel: u64) -> Status {
    cuFuncGetName(name, kernel)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuKernelGetParamInfo(kernel: u64, number: usize, offset: Out<usize>, bytes: Out<usize>) -> Status {
    cuFuncGetParamInfo(kernel, number, offset, bytes)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuKernelGetParamCount(kernel: u64, count: Out<usize>) -> Status {
    cuFuncGetParamCount(kernel, count)
}
