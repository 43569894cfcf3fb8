//! Files: what is read and written, and where it comes from.

mod files;
mod raw;

mod adapter;
mod added_tokens;
mod chat;
mod config;
mod folder;
mod gguf;
mod gguf_file;
mod gguf_models;
mod gguf_split;
mod gguf_types;
mod hub;
mod hub_server;
mod names;
mod paths;
mod pickle;
mod quantized;
mod quantized_refused;
mod safetensors;
mod sentencepiece;
mod shards;
mod slices;
mod spans;
mod text;
mod tokenizer;
mod torch_save;
mod whole;
