//! Fine-tuning through the binary: PyTorch's trajectories, what a run leaves, and that no kill loses anything.

#[path = "../cli/chain.rs"]
mod chain;
#[path = "../cli/command.rs"]
mod command;
#[cfg(feature = "mpi")]
#[expect(dead_code, reason = "its faults are planted by the tests of the hub")]
#[path = "../io/hub_server.rs"]
mod hub_server;
mod run;
mod settings;

mod aliases;
mod checkpoints;
mod dead;
mod devices;
mod ends;
mod folder;
mod graphs;
mod huggingface;
mod kill;
mod moved;
mod options;
#[cfg(feature = "mpi")]
mod processes;
mod progress;
mod quantized;
mod ranks;
mod refusals;
mod resume;
mod smollm2;
mod steps;
mod text;
mod trajectory;
mod whole;
