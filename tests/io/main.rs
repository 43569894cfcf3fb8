//! Files: what is read and written, and where it comes from.

mod hub;
mod hub_server;
