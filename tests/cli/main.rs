//! The binary as a user meets it: what it prints, what it refuses, what it leaves behind.

mod command;

mod inspect;
mod refusals;
mod smoke;
