//! Checkers, and what their judgements come to.

#[expect(dead_code, reason = "other tests of the binary need more of it")]
#[path = "../cli/command.rs"]
mod command;

mod check;
mod contract;
mod guard;
