//! Files: what is read and written, and where it comes from.

mod files;

mod adapter;
mod config;
mod folder;
mod hub;
mod hub_server;
mod safetensors;
