//! Modules: where their bytes come from, and the table that shares them.
//!
//! - [`table`]: the shared-module instance table, keyed by SHA-256.
//! - [`mod@reference`]: image references, and the digests in them.
//! - [`hex`]: digests as text.
//! - [`mod@format`]: what is sent in place of a module, named.
//! - [`chunks`]: a module from the registry, put together from chunks.
//! - [`stream`]: a response's body, put into place.
//! - [`image`]: a module that comes as a stream.
//! - [`incoming`]: the bytes that a message carries.
//! - [`strip`]: custom sections dropped as the bytes come.
//! - [`seal`]: a module as it is stored.
//! - [`signature`]: signatures of modules by trusted keys.

pub(crate) mod buffer;
pub mod chunks;
pub mod format;
pub mod hex;
pub mod image;
pub mod incoming;
pub mod reference;
pub mod seal;
pub mod signature;
pub mod stream;
pub mod strip;
pub mod table;
