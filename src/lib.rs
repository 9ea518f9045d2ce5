//! `supervise`, as a library for its own binary and tests. There is no stable API.
//!
//! (The map comes here.)

pub mod cli;
pub mod client;
pub mod config;
pub mod core;
pub mod os;
