//! Modules: where their bytes come from, and the table that shares them.
//!
//! - [`table`]: the shared-module instance table, keyed by SHA-256.
//! - [`mod@reference`]: image references, and the digests in them.
//! - [`hex`]: digests as text.
//! - [`chunks`]: a module from the registry, put together from chunks.
//! - [`stream`]: a response's body, put into place.
//! - [`signature`]: signatures of modules by trusted keys.

pub(crate) mod buffer;
pub mod chunks;
pub mod hex;
pub mod reference;
pub mod signature;
pub mod stream;
pub mod table;
