//! Graphs: work that is put together once and launched many times.
//!
//! A launch runs the nodes one by one, after those that they depend on. Of the orders that dependencies leave open it
//! takes that in which nodes were added, and with `VICUGNA_EMULATED_STREAMS=late` another: a program that forgets a
//! dependency then gets wrong results.
//!
//! Memory of an allocation node has its addresses from when the node is added, and is there, as fresh as any, from the
//! node to its free node in each launch, or to a free after the launch.

use crate::api::copy::{End, copy};
use crate::api::fill::{Rows, fill};
use crate::api::launch::Checked;
use crate::machine::{Allocation, Machine};
use crate::status::{Failure, Result, Status, invalid};
use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;
use std::sync::Arc;

/// What a node does.
#[derive(Debug, Clone)]
pub enum Operation {
    Nothing,
    Launch(Checked),
    Copy { to: End, from: End, bytes: usize },
    Fill { rows: Rows, pattern: Vec<u8> },
    Allocate { address: u64, bytes: u64 },
    Free { address: u64 },
}

/// A node, and the nodes of its graph that it comes after.
#[derive(Debug)]
pub struct Node {
    pub graph: u64,
    pub operation: Operation,
    after: Vec<u64>,
}

/// A graph and its nodes, in the order in which they were added.
#[derive(Debug, Default)]
pub struct Graph {
    pub nodes: Vec<u64>,
    /// Memory of its allocation nodes that none of its nodes frees.
    pub left: BTreeSet<u64>,
    /// What was made of it to be launched, of which there is one at most where it has memory.
    pub executable: Option<u64>,
}

/// A graph as it was when it was made to be launched, in the order of its launches.
#[derive(Debug)]
pub struct Executable {
    operations: Vec<(u64, Arc<Operation>)>,
}

impl Operation {
    /// Whether one may be put in the place of the other in a graph that is there.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Copy { to, from, .. }, Self::Copy { to: other_to, from: other_from, .. }) => {
                discriminant(to) == discriminant(other_to) && discriminant(from) == discriminant(other_from)
            }
            _ => discriminant(self) == discriminant(other),
        }
    }

    fn run(&self, machine: &mut Machine, context: u64) -> Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Launch(launch) => launch.run(machine),
            Self::Copy { to, from, bytes } => copy(machine, *to, *from, *bytes),
            Self::Fill { rows, pattern } => fill(machine, *rows, pattern),
            Self::Allocate { address, bytes } => {
                let full = |error: ptx_emulator::MemoryError| Failure::new(Status::OUT_OF_MEMORY, error.to_string());
                machine.device.alloc_at(*address, *bytes).map_err(full)?;
                machine.allocations.insert(*address, context, Allocation { bytes: *bytes, pool: 0 });
                Ok(())
            }
            Self::Free { address } => machine.release(*address),
        }
    }
}

impl Executable {
    /// The nodes' operations.
    pub fn new(machine: &Machine, graph: u64) -> Result<Self> {
        let mut operations = Vec::new();
        for node in order(machine, &machine.graphs.get(graph)?.nodes)? {
            operations.push((node, Arc::new(machine.nodes.get(node)?.operation.clone())));
        }
        Ok(Self { operations })
    }

    /// Replaces what a node does in the launches to come, by something of the same kind.
    pub fn replace(&mut self, node: u64, new: Operation) -> Result {
        let found = self.operations.iter_mut().find(|(handle, _)| *handle == node);
        let Some((_, old)) = found else { return invalid(format!("{node:#x} is a node of another graph")) };
        if !old.is_like(&new) {
            return invalid(format!("{node:#x} is a node of another kind"));
        }
        *old = Arc::new(new);
        Ok(())
    }

    pub fn has_memory(&self) -> bool {
        self.operations.iter().any(|(_, operation)| matches!(**operation, Operation::Allocate { .. }))
    }

    /// The memory that a launch leaves allocated, and the most that it has at once.
    fn memory(&self) -> (BTreeMap<u64, u64>, u64) {
        let (mut held, mut used, mut most) = (BTreeMap::new(), 0, 0);
        for (_, operation) in &self.operations {
            match **operation {
                Operation::Allocate { address, bytes } => {
                    held.insert(address, bytes);
                    used += bytes;
                }
                Operation::Free { address } => used -= held.remove(&address).unwrap_or(0),
                _ => {}
            }
            most = most.max(used);
        }
        (held, most)
    }
}

/// The order in which a launch runs nodes.
fn order(machine: &Machine, nodes: &[u64]) -> Result<Vec<u64>> {
    if !machine.late {
        return Ok(nodes.to_vec()); // what a node depends on was added before it
    }
    let mut waiting = BTreeMap::new();
    let mut followers: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for &node in nodes {
        let after = &machine.nodes.get(node)?.after;
        waiting.insert(node, after.len());
        after.iter().for_each(|&first| followers.entry(first).or_default().push(node));
    }
    let mut ready: Vec<u64> = nodes.iter().copied().filter(|node| waiting[node] == 0).collect();
    let mut order = Vec::new();
    while let Some(node) = ready.pop() {
        order.push(node);
        for follower in followers.remove(&node).unwrap_or_default() {
            if let Some(left) = waiting.get_mut(&follower) {
                *left -= 1;
                ready.extend((*left == 0).then_some(follower));
            }
        }
    }
    Ok(order)
}

impl Machine {
    /// Adds a node after others of its graph.
    pub fn add_node(&mut self, graph: u64, after: Vec<u64>, operation: Operation) -> Result<u64> {
        let context = self.graphs.context(graph)?;
        for (at, node) in after.iter().enumerate() {
            if self.nodes.get(*node)?.graph != graph || after[..at].contains(node) {
                return invalid(format!("{node:#x} is a node of another graph, or named twice"));
            }
        }
        let node = self.nodes.add(context, Node { graph, operation: operation.clone(), after });
        let graph = self.graphs.get_mut(graph)?;
        match operation {
            Operation::Allocate { address, .. } => drop(graph.left.insert(address)),
            Operation::Free { address } => drop(graph.left.remove(&address)),
            _ => {}
        }
        graph.nodes.push(node);
        Ok(node)
    }

    /// Queues a graph.
    pub fn launch_graph(&mut self, context: u64, executable: u64, stream: u64) -> Result {
        let executable = self.executables.get(executable)?;
        let (left, most) = executable.memory();
        let operations = executable.operations.clone();
        if let Some(address) = left.keys().find(|address| self.owed.contains_key(address)) {
            return invalid(format!("the memory at {address:#x} of an earlier launch was not freed"));
        }
        let (free, _) = self.device.memory_info();
        if most > free {
            let detail = format!("the graph needs {most} bytes of device memory, {free} are free");
            return Err(Failure::new(Status::OUT_OF_MEMORY, detail));
        }
        self.owed.extend(left);
        self.enqueue(context, stream, move |machine| {
            operations.iter().try_for_each(|(_, operation)| operation.run(machine, context))
        })
    }

    /// The start and length of the memory that holds `address` once a graph that was queued has run.
    pub fn promised(&self, address: u64) -> Option<(u64, u64)> {
        let (&start, &bytes) = self.owed.range(..=address).next_back()?;
        (address - start < bytes).then_some((start, bytes))
    }
}
