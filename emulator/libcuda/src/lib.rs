//! A CUDA driver that needs no GPU: the `cu…` functions that a program calls of `libcuda.so.1`, executed by
//! [`ptx_emulator`].
//!
//! The crate is built as a shared library and has nothing for Rust code to use. It stands apart from `ptx-emulator`
//! because the names it exports would otherwise be part of every program that uses the emulator, and hide the real
//! driver's. Its README says how programs run on it.
//!
//! - `border` is the only module that follows a pointer of the caller, `names` has every name that is exported.
//! - `machine` holds the state behind the handles, `queue` what streams have still to do, `graph` work that is launched
//!   as one, `api` the functions.
//! - A handle is a number that is looked up, never an address that is followed: a wrong one is an error.

mod api;
mod border;
mod gpu;
mod graph;
mod machine;
mod names;
mod queue;
mod report;
mod status;
mod table;
