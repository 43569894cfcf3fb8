//! A loaded PTX text.

use crate::decode;
use crate::parse::{self, ParseError};
use crate::program::Program;
use crate::types::{Space, Type};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One parameter of a kernel, at its place in the parameter block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Its name in the PTX.
    pub name: String,
    /// Its type; that of an element, for an array.
    pub ty: Type,
    /// Its bytes.
    pub bytes: u64,
    /// Its alignment.
    pub align: u64,
    /// Its offset in the parameter block.
    pub offset: u64,
}

/// A module's variable.
#[derive(Debug)]
pub(crate) struct Variable {
    pub name: String,
    pub bytes: u64,
    pub initial: Vec<u8>,
}

/// The variables of a module, by which devices know the module.
#[derive(Debug)]
pub(crate) struct Variables {
    /// Tells modules apart.
    pub number: u64,
    pub list: Vec<Variable>,
}

/// A kernel of a module.
#[derive(Debug, Clone)]
pub struct Kernel {
    name: Arc<str>,
    params: Arc<[Param]>,
    pub(crate) program: Arc<Program>,
    pub(crate) variables: Arc<Variables>,
    max_threads: Option<u64>,
    required_block: Option<[u32; 3]>,
}

impl Kernel {
    /// The kernel's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its `.param` list.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Bytes of its static shared memory.
    pub fn shared_bytes(&self) -> u64 {
        self.program.shared_bytes
    }

    /// Bytes of local memory of each thread.
    pub fn local_bytes(&self) -> u64 {
        self.program.local_bytes
    }

    /// The most threads of a block that its `.maxntid` allows.
    pub fn max_threads(&self) -> Option<u64> {
        self.max_threads
    }

    /// The block that its `.reqntid` demands.
    pub fn required_block(&self) -> Option<[u32; 3]> {
        self.required_block
    }

    /// The parameter block of these arguments, one value's bytes for each parameter.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub fn pack(&self, args: &[&[u8]]) -> Result<Vec<u8>, String> {
        if args.len() != self.params.len() {
            return Err(format!("{} takes {} arguments, got {}", self.name, self.params.len(), args.len()));
        }
        let mut block = vec![0; self.program.param_bytes as usize];
        for (param, arg) in self.params.iter().zip(args) {
            if arg.len() as u64 != param.bytes {
                let (name, bytes, got) = (&param.name, param.bytes, arg.len());
                return Err(format!("{}: {name} must have {bytes} bytes, got {got}", self.name));
            }
            block[param.offset as usize..][..arg.len()].copy_from_slice(arg);
        }
        Ok(block)
    }
}

/// A PTX text, parsed and decoded.
#[derive(Debug, Clone)]
pub struct Module {
    kernels: Vec<Kernel>,
    variables: Arc<Variables>,
}

impl Module {
    /// Loads a PTX text.
    ///
    /// # Errors
    /// The line that is malformed or that holds what this machine cannot execute.
    pub fn parse(ptx: &str) -> Result<Self, ParseError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let ast = parse::parse(ptx)?;
        let list = ast.variables.iter().map(|variable| Variable {
            name: variable.name.into(),
            bytes: if variable.space == Space::Shared { 0 } else { variable.bytes },
            initial: variable.initial.clone(),
        });
        let variables = Arc::new(Variables { number: NUMBER.fetch_add(1, Ordering::Relaxed), list: list.collect() });
        let mut kernels = Vec::new();
        for entry in &ast.entries {
            let params = entry.params.iter().map(|param| Param {
                name: param.name.into(),
                ty: param.ty,
                bytes: param.bytes,
                align: param.align,
                offset: param.offset,
            });
            kernels.push(Kernel {
                name: entry.name.into(),
                params: params.collect(),
                program: Arc::new(decode::kernel(&ast, entry)?),
                variables: Arc::clone(&variables),
                max_threads: entry.max_threads,
                required_block: entry.required_block,
            });
        }
        Ok(Self { kernels, variables })
    }

    /// Every kernel, in the order of the text.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name() == name)
    }

    pub(crate) fn variables(&self) -> &Variables {
        &self.variables
    }

    /// The number and bytes of a variable.
    pub(crate) fn variable(&self, name: &str) -> Option<(usize, u64)> {
        let at = self.variables.list.iter().position(|variable| variable.name == name)?;
        Some((at, self.variables.list[at].bytes))
    }
}
