//! Placeholder.
#![no_std]
#![forbid(unsafe_code)]
pub mod agent;
pub mod config;
pub mod engine;
pub mod time;
pub mod wire;
