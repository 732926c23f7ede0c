//! Collections of numbered items over memory of their user. Nothing is allocated, and no operation
//! depends on the number of items but as it says.
//!
//! - [`hash`](mod@hash): the hash of keys.
//! - [`heap`]: a binary min-heap.
//! - [`list`]: doubly linked lists.
//!
//! Hash chains are for the core's own use.

pub(crate) mod chain;
pub mod hash;
pub mod heap;
pub mod list;
