//! Files: Hugging Face folders, adapters, and what else models are stored in.

pub mod hub;
