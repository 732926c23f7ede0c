//! Modules: where their bytes come from, and the table that shares them.
//!
//! - [`table`]: the shared-module instance table, keyed by SHA-256.
//! - [`assembly`]: a module from the registry, put together from chunks.

pub mod assembly;
pub mod table;
