//! Ranks: what they say to each other, and what moves between them.

mod gathers;
mod threads;
