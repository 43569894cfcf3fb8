//! Loads PTX files and lists their kernels.

fn main() {
    for path in std::env::args().skip(1) {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => return eprintln!("{path}: {error}"),
        };
        match ptx_emulator::Module::parse(&text) {
            Ok(module) => module.kernels().iter().for_each(|kernel| println!("{path}: {}", kernel.name())),
            Err(error) => println!("{path}: {error}"),
        }
    }
}
