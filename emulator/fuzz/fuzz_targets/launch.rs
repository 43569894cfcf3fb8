//! Any text that loads runs to an end, a trap or the step limit.
#![no_main]

use ptx_emulator::{Arch, Device, Launch, Module};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(module) = Module::parse(text) else { return };
    for kernel in module.kernels() {
        let mut device = Device::with_memory(Arch::Sm80, 1 << 24);
        let Ok(buffer) = device.alloc(1 << 14) else { return };
        let _ = device.fill(buffer, &[1, 0, 0, 0], 1 << 11);
        let args: Vec<Vec<u8>> = kernel
            .params()
            .iter()
            .map(|param| if param.bytes == 8 { buffer.to_le_bytes().to_vec() } else { vec![3; param.bytes as usize] })
            .collect();
        let Ok(args) = kernel.pack(&args.iter().map(Vec::as_slice).collect::<Vec<_>>()) else { continue };
        let launch = Launch {
            grid: [2, 1, 1],
            block: [64, 1, 1],
            args: &args,
            shared_bytes: 4096,
            seed: 1,
            step_limit: 20_000,
            threads: 1,
            ..Launch::default()
        };
        let _ = device.launch(kernel, &launch);
    }
});
