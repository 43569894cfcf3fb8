//! Sharded data parallelism: ranks that share out the passes of a step, and with `--shard` the weights.
//!
//! A step is a list of passes, whatever the number of ranks; pass i is rank i mod N's. The gradient is the left fold over
//! the passes in their order: the owner of a slice adds what each rank sends, in the order of ranks, onto what it has. So
//! the number of ranks changes no bit of the result. Zhao et al. 2023, <https://arxiv.org/abs/2304.11277>

mod communicator;
mod cut;
mod fold;
mod hook;
pub mod launch;
#[cfg(feature = "mpi")]
mod mpi;
mod runs;
mod shards;
mod threads;

pub use communicator::{Communicator, Exchange, Parts};
pub use cut::Cut;
use fold::Fold;
pub use hook::Gathered;
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use runs::Named;
pub use shards::{Shard, Sharded, Strategy};
pub use threads::threads;
