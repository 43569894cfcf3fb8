//! Fine-tuning through the binary: PyTorch's trajectories, what a run leaves, and that no kill loses anything.

#[path = "../cli/chain.rs"]
mod chain;
#[path = "../cli/command.rs"]
mod command;
mod run;

mod aliases;
mod devices;
mod ends;
mod folder;
mod graphs;
mod kill;
mod refusals;
mod resume;
mod smollm2;
mod steps;
mod text;
mod trajectory;
