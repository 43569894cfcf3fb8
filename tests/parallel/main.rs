//! Ranks: what they say to each other, and what moves between them.

mod gathers;
#[cfg(feature = "mpi")]
mod processes;
mod threads;
