//! The tables of `docs/kernel-budget.md`, as `cuda/build.sh` wrote them.

use std::collections::HashMap;

/// What the assembler made of a kernel for one architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Budget {
    /// Warps that a multiprocessor holds at once.
    pub warps: u64,
    pub main_loop: Option<MainLoop>,
    /// The share of its global loads in loops that is waited for alone.
    pub lone_loads: f64,
}

/// One round of a warp through a kernel's main loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct MainLoop {
    pub instructions: f64,
    pub mma: f64,
    /// Cycles of one warp alone.
    pub cycles: f64,
}

/// The budgets of all kernels for one architecture, read from the tables' `text`.
pub(super) fn budgets(text: &str, architecture: &str) -> HashMap<String, Budget> {
    let mut found: HashMap<String, Budget> = HashMap::new();
    let mut header: Vec<&str> = Vec::new();
    for line in text.lines() {
        let Some(line) = line.strip_prefix("| ").and_then(|line| line.strip_suffix('|')) else { continue };
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if cells[0] == "kernel" {
            header = cells;
            continue;
        }
        let Some(at) = header.iter().position(|column| *column == architecture) else { continue };
        // One cell stands for all architectures where they are alike.
        let cell = cells.get(at).filter(|cell| !cell.is_empty()).or(cells.get(1)).copied().unwrap_or_default();
        let budget = found.entry(cells[0].into()).or_default();
        if let Some((_, resident)) = cell.split_once(": ") {
            budget.warps = number(resident.split('/').next()) as u64;
        } else if let Some((alone, all)) = cell.split_once(" of ") {
            budget.lone_loads = number(Some(alone)) / number(Some(all)).max(1.0);
        } else {
            budget.main_loop = main_loop(cell);
        }
    }
    found
}

/// Reads a main loop from a cell like `292/64 = 4.56, 1003 cycles, gap 623, 13 loads`.
fn main_loop(cell: &str) -> Option<MainLoop> {
    let (instructions, rest) = cell.split_once('/')?;
    let (mma, rest) = rest.split_once(" = ")?;
    let (_, rest) = rest.split_once(", ")?;
    let [instructions, mma, cycles] = [instructions, mma, rest.split(' ').next()?].map(|text| number(Some(text)));
    (mma > 0.0).then_some(MainLoop { instructions, mma, cycles })
}

/// What does not read as a number is none, and shows in the result.
fn number(text: Option<&str>) -> f64 {
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read() {
        let text = "
| kernel | block | shared | sm_80 | sm_90 |
|---|--:|--:|---|---|
| add | 256 | 0 | 23: 64/64 | 20: 48/64 registers |
| gemm | 128 | 49152 | 220: 8/64 registers | 220: 16/64 shared |

| kernel | sm_80 | sm_90 |
|---|---|---|
| gemm | 271/64 = 4.23, 921 cycles, gap 417 | 292/64 = 4.56, 1003 cycles, gap 623, 13 loads |

| kernel | sm_80 | sm_90 |
|---|---|---|
| add | 1 of 4 |  |
| gemm | 0 of 2 | 1 of 2 |
";
        let found = budgets(text, "sm_90");
        let main_loop = Some(MainLoop { instructions: 292.0, mma: 64.0, cycles: 1003.0 });
        assert_eq!(found["gemm"], Budget { warps: 16, main_loop, lone_loads: 0.5 });
        assert_eq!(found["add"], Budget { warps: 48, main_loop: None, lone_loads: 0.25 });
        assert_eq!(budgets(text, "sm_80")["gemm"].lone_loads, 0.0);
    }
}
