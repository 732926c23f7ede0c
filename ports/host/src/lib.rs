//! The proplet as a Linux process: sockets, threads, a clock and a command line for the core.

pub mod bench;
pub mod board;
pub mod cli;
pub mod clock;
mod config_file;
pub mod demo;
mod module;
pub mod net;
pub mod platform;
pub mod proplet;
pub mod run;
pub mod sign;
pub mod sources;
pub mod store;
pub mod tls;
