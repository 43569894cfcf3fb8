//! Modules: PTX, and nothing else that a GPU could run.

use crate::border::{In, Out, Text};
use crate::gpu::SHARED_BY_DEFAULT;
use crate::machine::{Function, Machine, with, within};
use crate::status::{Failure, Result, Status};
use ptx_emulator::Module;
use std::ffi::c_char;

/// The text of an image, which must be PTX.
fn ptx(image: &[u8]) -> Result<&str> {
    let binary =
        |what| Err(Failure::new(Status::NO_BINARY_FOR_GPU, format!("{what} holds machine code; give PTX text")));
    if image.starts_with(b"\x7fELF") {
        return binary("a cubin");
    }
    if image.starts_with(&0xba55_ed50_u32.to_le_bytes()) {
        return binary("a fat binary");
    }
    let malformed = |_| Failure::new(Status::INVALID_IMAGE, "the image is neither PTX text nor anything else known");
    std::str::from_utf8(image).map_err(malformed)
}

fn load(machine: &mut Machine, context: u64, module: Out<u64>, image: &[u8]) -> Result {
    let place = module.place()?;
    let parsed = Module::parse(ptx(image)?);
    let parsed = parsed.map_err(|error| Failure::new(Status::INVALID_PTX, error.to_string()))?;
    place.set(machine.modules.add(context, parsed));
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadData(module: Out<u64>, image: Text) -> Status {
    within(|machine, context| load(machine, context, module, image.bytes()?))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadFatBinary(module: Out<u64>, image: Text) -> Status {
    cuModuleLoadData(module, image)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoad(module: Out<u64>, file: Text) -> Status {
    within(|machine, context| {
        let file = file.get()?;
        let missing = |error| Failure::new(Status::FILE_NOT_FOUND, format!("{file}: {error}"));
        let image = std::fs::read(file).map_err(missing)?;
        load(machine, context, module, &image)
    })
}

/// The options in which a PTX compiler would say what it found: the text of an error goes there too.
const ERROR_LOG: i32 = 5;
const ERROR_LOG_BYTES: i32 = 6;

fn write_log(failure: &Failure, count: u32, options: In<i32>, values: In<usize>) -> Result {
    let (mut log, mut room) = (None, 0);
    for at in 0..count as usize {
        match options.at(at)? {
            ERROR_LOG => log = Some(crate::border::Host(values.at(at)?)),
            ERROR_LOG_BYTES => room = values.at(at)?,
            _ => {}
        }
    }
    if let Some(log) = log.filter(|_| room > 0) {
        let text: Vec<c_char> = failure.detail.bytes().take(room - 1).chain([0]).map(|byte| byte as c_char).collect();
        let length = text.len();
        for (to, from) in log.write(length)?.iter_mut().zip(text) {
            *to = from as u8;
        }
    }
    Ok(())
}

/// Loads with options for a compiler that there is not, of which only the log of errors means anything.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadDataEx(
    module: Out<u64>,
    image: Text,
    count: u32,
    options: In<i32>,
    values: In<usize>,
) -> Status {
    within(|machine, context| {
        load(machine, context, module, image.bytes()?)
            .or_else(|failure| write_log(&failure, count, options, values).and(Err(failure)))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: u64) -> Status {
    within(|machine, _| {
        machine.modules.get(module)?;
        machine.settle_all()?;
        machine.unload(module)
    })
}

fn names(module: &Module) -> String {
    module.kernels().iter().map(|kernel| kernel.name().to_string()).collect::<Vec<_>>().join(", ")
}

/// The handle of a kernel of a module, the same each time.
fn function(machine: &mut Machine, module: u64, name: &str) -> Result<u64> {
    let text = machine.modules.get(module)?;
    let Some(kernel) = text.kernel(name) else {
        let detail = format!("the module has no kernel {name}; it has {}", names(text));
        return Err(Failure::new(Status::NOT_FOUND, detail));
    };
    let same = |function: &Function| function.module == module && function.kernel.name() == name;
    if let Some((handle, _)) = machine.functions.iter().find(|(_, function)| same(function)) {
        return Ok(handle);
    }
    let kernel = kernel.clone();
    let dynamic_limit = SHARED_BY_DEFAULT.saturating_sub(kernel.shared_bytes());
    let context = machine.modules.context(module)?;
    Ok(machine.functions.add(context, Function { module, kernel, dynamic_limit, carveout: -1 }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetFunction(place: Out<u64>, module: u64, name: Text) -> Status {
    within(|machine, _| {
        let place = place.place()?;
        place.set(function(machine, module, name.get()?)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetFunctionCount(count: Out<u32>, module: u64) -> Status {
    within(|machine, _| {
        count.place()?.set(machine.modules.get(module)?.kernels().len() as u32);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleEnumerateFunctions(functions: Out<u64>, room: u32, module: u64) -> Status {
    within(|machine, _| {
        let kernels = machine.modules.get(module)?.kernels();
        let names: Vec<String> = kernels.iter().map(|kernel| kernel.name().into()).collect();
        let handles: Result<Vec<u64>> = names.iter().map(|name| function(machine, module, name)).collect();
        functions.fill(&handles?, room as usize)
    })
}

/// Address and bytes of a variable, each where the caller wants it.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: u64, name: Text) -> Status {
    within(|machine, _| {
        let (text, name) = (machine.modules.get(module)?, name.get()?);
        let found = machine.device.variable(text, name);
        let found = found.map_err(|error| Failure::new(Status::OUT_OF_MEMORY, error.to_string()))?;
        let missing = || Failure::new(Status::NOT_FOUND, format!("the module has no variable {name}"));
        let (start, length) = found.ok_or_else(missing)?;
        address.set_if_wanted(start);
        bytes.set_if_wanted(length as usize);
        Ok(())
    })
}

/// Modules are loaded when they are given, not when they are used.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetLoadingMode(mode: Out<i32>) -> Status {
    with(|_| {
        mode.place()?.set(1);
        Ok(())
    })
}
