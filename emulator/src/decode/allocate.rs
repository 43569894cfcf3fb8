//! Shares rows among registers whose lives do not meet, so that a warp's registers stay in the nearest cache.

use super::Touched;
use super::names::{Assignment, Virtual};
use crate::program::{Guard, Inst, Op};
use crate::types::File;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Beyond this many registers times blocks, each register gets a row of its own.
const MOST_WORK: usize = 1 << 28;

/// Shares out rows.
pub(super) fn rows(code: &[Inst], touched: &[Touched], dynamic_start: u64) -> Assignment {
    let registers = Registers::of(touched);
    let blocks = Blocks::of(code);
    let lives = if registers.list.len().saturating_mul(blocks.starts.len()) > MOST_WORK {
        vec![(0, 2 * code.len() as u32); registers.list.len()]
    } else {
        lives(code, touched, &registers, &blocks)
    };
    let mut assignment = scan(&registers, &lives);
    assignment.dynamic_start = dynamic_start;
    assignment
}

/// The registers of a kernel, numbered.
struct Registers {
    list: Vec<Virtual>,
    numbers: HashMap<Virtual, usize>,
}

impl Registers {
    fn of(touched: &[Touched]) -> Self {
        let (mut list, mut numbers) = (Vec::new(), HashMap::new());
        for register in touched.iter().flat_map(|touched| touched.read.iter().chain(&touched.written)) {
            numbers.entry(*register).or_insert_with(|| {
                list.push(*register);
                list.len() - 1
            });
        }
        Self { list, numbers }
    }
}

/// Basic blocks: where each starts, and which follow it.
struct Blocks {
    starts: Vec<usize>,
    next: Vec<Vec<usize>>,
}

impl Blocks {
    fn of(code: &[Inst]) -> Self {
        let mut leads = vec![false; code.len() + 1];
        leads[0] = true;
        for (at, inst) in code.iter().enumerate() {
            let targets = targets(&inst.op);
            if !targets.is_empty() || matches!(inst.op, Op::Exit) {
                leads[at + 1] = true;
            }
            targets.iter().for_each(|&target| leads[target as usize] = true);
        }
        let starts: Vec<usize> = (0..code.len()).filter(|&at| leads[at]).collect();
        let numbers: HashMap<usize, usize> =
            starts.iter().enumerate().map(|(number, &start)| (start, number)).collect();
        let ends = starts.iter().skip(1).copied().chain([code.len()]);
        let next = ends
            .map(|end| {
                let last = &code[end - 1];
                let falls = !matches!(last.op, Op::Branch(_) | Op::Switch(_) | Op::Exit) || last.guard != Guard::Always;
                let through = if falls { numbers.get(&end) } else { None };
                let jumps = targets(&last.op).iter().filter_map(|&target| numbers.get(&(target as usize)));
                jumps.chain(through).copied().collect()
            })
            .collect();
        Self { starts, next }
    }

    fn range(&self, block: usize, code: usize) -> std::ops::Range<usize> {
        self.starts[block]..self.starts.get(block + 1).copied().unwrap_or(code)
    }
}

fn targets(op: &Op) -> &[u32] {
    match op {
        Op::Branch(target) => std::slice::from_ref(target),
        Op::Switch(switch) => &switch.targets,
        _ => &[],
    }
}

/// A set of registers.
#[derive(Clone, PartialEq)]
struct Set(Vec<u64>);

impl Set {
    fn new(size: usize) -> Self {
        Self(vec![0; size.div_ceil(64)])
    }

    fn insert(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }

    fn remove(&mut self, at: usize) {
        self.0[at / 64] &= !(1 << (at % 64));
    }

    /// Adds `other`; whether anything was new.
    fn merge(&mut self, other: &Self) -> bool {
        let mut new = false;
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            new |= *more & !*word != 0;
            *word |= more;
        }
        new
    }

    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0
            .iter()
            .enumerate()
            .flat_map(|(at, &word)| (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| 64 * at + bit))
    }
}

/// The registers that are live into each block.
fn live_in(code: &[Inst], touched: &[Touched], registers: &Registers, blocks: &Blocks) -> Vec<Set> {
    let mut into = vec![Set::new(registers.list.len()); blocks.starts.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for block in (0..blocks.starts.len()).rev() {
            let mut live = Set::new(registers.list.len());
            for &next in &blocks.next[block] {
                live.merge(&into[next]);
            }
            for at in blocks.range(block, code.len()).rev() {
                touched[at].written.iter().for_each(|register| live.remove(registers.numbers[register]));
                touched[at].read.iter().for_each(|register| live.insert(registers.numbers[register]));
            }
            changed |= into[block].merge(&live);
        }
    }
    into
}

/// The first and last point of each register's life. An instruction reads at twice its place and writes just after.
fn lives(code: &[Inst], touched: &[Touched], registers: &Registers, blocks: &Blocks) -> Vec<(u32, u32)> {
    let into = live_in(code, touched, registers, blocks);
    let mut lives = vec![(u32::MAX, 0); registers.list.len()];
    let mut extend = |register: usize, point: usize| {
        let (first, last) = &mut lives[register];
        *first = (*first).min(point as u32);
        *last = (*last).max(point as u32);
    };
    for block in 0..blocks.starts.len() {
        let range = blocks.range(block, code.len());
        into[block].iter().for_each(|register| extend(register, 2 * range.start));
        for &next in &blocks.next[block] {
            into[next].iter().for_each(|register| extend(register, 2 * range.end));
        }
        for at in range {
            touched[at].read.iter().for_each(|register| extend(registers.numbers[register], 2 * at));
            touched[at].written.iter().for_each(|register| extend(registers.numbers[register], 2 * at + 1));
        }
    }
    lives
}

/// Linear scan: each register takes the first row that is free at its start.
fn scan(registers: &Registers, lives: &[(u32, u32)]) -> Assignment {
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|&register| (lives[register].0, register));
    let mut assignment = Assignment::default();
    let mut pools: HashMap<File, Pool> = HashMap::new();
    for register in order {
        let (first, last) = lives[register];
        let virtual_register = registers.list[register];
        let size = assignment.sizes.of(virtual_register.0);
        let row = pools.entry(virtual_register.0).or_default().take(first, last, size);
        assignment.rows.insert(virtual_register, row);
    }
    assignment
}

/// The rows of one file that are taken, by the end of the life in them, and those that are free.
#[derive(Default)]
struct Pool {
    taken: BinaryHeap<Reverse<(u32, u16)>>,
    free: BinaryHeap<Reverse<u16>>,
}

impl Pool {
    fn take(&mut self, first: u32, last: u32, size: &mut usize) -> u16 {
        while let Some(&Reverse((end, row))) = self.taken.peek()
            && end < first
        {
            self.taken.pop();
            self.free.push(Reverse(row));
        }
        let row = self.free.pop().map(|Reverse(row)| row).unwrap_or_else(|| {
            *size += 1;
            (*size - 1).min(usize::from(u16::MAX)) as u16
        });
        self.taken.push(Reverse((last, row)));
        row
    }
}
