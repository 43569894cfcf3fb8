//! The `.param` lists of kernels, and whether a launch fits them.

use std::collections::HashMap;

use ptx_emulator::{Module, Type};

use super::driver::{Arg, Launch};

/// What each kernel of a module takes.
#[derive(Debug)]
pub struct Signatures(HashMap<String, Vec<Param>>);

/// What tells arguments apart in PTX, where addresses are 64-bit integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Param {
    Bits32,
    Bits64,
    F32,
    Other,
}

impl Param {
    fn of(arg: Arg) -> Self {
        match arg {
            Arg::Input(_) | Arg::Output(_) | Arg::I64(_) => Self::Bits64,
            Arg::I32(_) => Self::Bits32,
            Arg::F32(_) => Self::F32,
        }
    }
}

impl From<&ptx_emulator::Param> for Param {
    fn from(param: &ptx_emulator::Param) -> Self {
        match (param.ty, param.bytes) {
            (Type::B32 | Type::U32 | Type::S32, 4) => Self::Bits32,
            (Type::B64 | Type::U64 | Type::S64, 8) => Self::Bits64,
            (Type::F32, 4) => Self::F32,
            _ => Self::Other,
        }
    }
}

/// Reads what each kernel of a PTX text takes; what they do is for the driver to read.
pub fn signatures(ptx: &str) -> Result<Signatures, String> {
    let module = Module::parse(&without_bodies(ptx)).map_err(|e| e.to_string())?;
    let of = |kernel: &ptx_emulator::Kernel| (kernel.name().into(), kernel.params().iter().map(Param::from).collect());
    Ok(Signatures(module.kernels().iter().map(of).collect()))
}

/// A PTX text whose kernels return at once, as far as their bodies stand between braces on lines of their own.
fn without_bodies(ptx: &str) -> String {
    let mut is_body = false;
    let mut headers = String::new();
    for line in ptx.lines() {
        is_body &= line != "}";
        headers.push_str(if is_body { "" } else { line });
        headers.push('\n');
        if line == "{" {
            is_body = true;
            headers.push_str("ret; ");
        }
    }
    headers
}

impl Signatures {
    /// Refuses a launch whose arguments are not what the kernel takes, in words.
    pub fn check(&self, launch: &Launch<'_>) -> Result<(), String> {
        let params = self.0.get(launch.kernel).ok_or("there is no such kernel")?;
        if params.len() != launch.args.len() {
            return Err(format!("takes {} arguments, got {}", params.len(), launch.args.len()));
        }
        let misfit = params.iter().zip(launch.args).position(|(param, arg)| *param != Param::of(*arg));
        misfit.map_or(Ok(()), |at| Err(format!("argument {at} is {:?}, got {:?}", params[at], launch.args[at])))
    }
}
