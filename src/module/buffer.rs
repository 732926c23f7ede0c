//! Buffers of the arena that grow as bytes arrive.

use crate::{
    engine::Engine,
    memory::{Purpose, Shortage},
};

/// Makes `buffer` `len` bytes long, which is no less than it has.
///
/// # Errors
/// The arena has no such room; `buffer` is as before.
pub(crate) fn extend<E: Engine>(
    buffer: &mut Option<E::Buffer>,
    len: usize,
    purpose: Purpose,
    engine: &E,
) -> Result<(), Shortage> {
    let have = buffer.as_deref().map_or(0, <[u8]>::len);
    // Of the whole, not of the part that finds no room.
    Shortage::check(purpose, len, engine.arena().available() + have)?;
    match buffer {
        Some(buffer) => engine.resize(buffer, len),
        None => {
            *buffer = Some(engine.allocate(len)?);
            Ok(())
        }
    }
}
