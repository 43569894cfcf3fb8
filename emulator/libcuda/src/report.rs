//! Counters of every kernel that was launched, written when the process ends if `VICUGNA_EMULATED_COUNTERS` asks:
//! `-` writes a table to standard error, anything else is the name of a JSON file.

use crate::machine::at_end;
use ptx_emulator::Counters;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Launches of each kernel and what they did.
#[derive(Debug)]
pub struct Report {
    target: Option<String>,
    kernels: BTreeMap<String, (u64, Counters)>,
}

impl Report {
    pub fn new() -> Self {
        Self { target: std::env::var("VICUGNA_EMULATED_COUNTERS").ok(), kernels: BTreeMap::new() }
    }

    /// Adds a launch.
    pub fn add(&mut self, kernel: &str, counters: &Counters) {
        if self.target.is_none() {
            return;
        }
        let (launches, sum) = self.kernels.entry(kernel.into()).or_default();
        *launches += 1;
        sum.add(counters);
    }

    fn table(&self) -> String {
        let mut out = String::new();
        for (kernel, (launches, counters)) in &self.kernels {
            let _ = write!(out, "{kernel}, launches: {launches}\n{counters}\n");
        }
        out
    }

    fn json(&self) -> String {
        let kernel = |(name, (launches, counters)): (&String, &(u64, Counters))| {
            format!("{{\"kernel\":\"{name}\",\"launches\":{launches},\"counters\":{}}}", counters.to_json())
        };
        format!("[{}]\n", self.kernels.iter().map(kernel).collect::<Vec<_>>().join(",\n"))
    }

    fn write(&self) {
        match self.target.as_deref() {
            None => {}
            Some("-") => eprint!("{}", self.table()),
            Some(file) => {
                if let Err(error) = std::fs::write(file, self.json()) {
                    eprintln!("emulated libcuda: {file}: {error}");
                }
            }
        }
    }
}

/// Runs when the process ends, or when the library is unloaded.
extern "C" fn at_exit() {
    at_end(|machine| machine.report.write());
}

#[expect(unsafe_code, reason = "the loader calls what stands in this section")]
#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".fini_array"))]
static AT_EXIT: extern "C" fn() = at_exit;
