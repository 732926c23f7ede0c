//! The hash of keys.

use core::hash::Hasher as _;
use hash32::{FnvHasher, Hasher as _};

/// FNV-1a of all parts, one after the other. Not against those who look for collisions.
pub fn hash(parts: &[&[u8]]) -> u32 {
    let mut hasher = FnvHasher::default();
    for part in parts {
        hasher.write(part);
    }
    hasher.finish32()
}
