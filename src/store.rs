//! Storage that survives a reboot: modules by their digest, a record for each latent deployment, and notes.

use crate::{module::table::Digest, text::Text};
use core::fmt;

/// Most bytes of a record.
pub const RECORD_MAX: usize = 1024;

/// Most bytes of a note.
pub const NOTE_MAX: usize = 512;

/// Storage that survives a reboot, and a loss of power at any moment: what a call has returned
/// `Ok` for is there afterwards, whole; of a call that was cut off all or nothing is.
///
/// Bounded: a module that finds no room takes the place of those least recently used. A record
/// begins with the digest of a module, and that module stays while the record does. A note is a
/// small record of the proplet's own: it has nothing to do with a module, and room of its own.
///
/// Calls block, on the control thread, as long as the medium takes.
pub trait Store: fmt::Debug + Send {
    /// Bytes of a stored module, its seal included; `None` if it has no module of this digest.
    fn module_len(&mut self, digest: &Digest) -> Option<usize>;

    /// Reads a stored module of `into.len()` bytes; it is the most recently used one then.
    ///
    /// # Errors
    /// The reason as text, if it is not there, has another length or can't be read. Its bytes are
    /// as the medium gave them: the caller checks their seal.
    fn read_module(&mut self, digest: &Digest, into: &mut [u8]) -> Result<(), Text>;

    /// Stores a module, `bytes` and `seal` behind them, unless it is there already.
    ///
    /// # Errors
    /// The reason as text, with the limit; what was stored before is still there then, but for
    /// modules that had to go.
    fn write_module(&mut self, digest: &Digest, bytes: &[u8], seal: &[u8]) -> Result<(), Text>;

    /// Drops a module, such as one whose bytes are not what its digest says.
    ///
    /// # Errors
    /// The reason as text, if the medium fails.
    fn remove_module(&mut self, digest: &Digest) -> Result<(), Text>;

    /// Reads the record at `index` into the start of `into`, which has room for [`RECORD_MAX`]
    /// bytes, and returns its length; `None` without a record.
    ///
    /// # Errors
    /// The reason as text, if there is one that can't be read.
    fn read_record(&mut self, index: u8, into: &mut [u8]) -> Result<Option<usize>, Text>;

    /// Stores a record of 32 to [`RECORD_MAX`] bytes in the place of the one at `index`. The module
    /// with which it begins has been stored.
    ///
    /// # Errors
    /// The reason as text; the record before is still there then.
    fn write_record(&mut self, index: u8, bytes: &[u8]) -> Result<(), Text>;

    /// Removes the record at `index`, if there is one.
    ///
    /// # Errors
    /// The reason as text, if the medium fails.
    fn remove_record(&mut self, index: u8) -> Result<(), Text>;

    /// Number of notes that it has room for, from index 0 on.
    fn notes(&self) -> u8;

    /// Reads the note at `index` into the start of `into`, which has room for [`NOTE_MAX`] bytes, and
    /// returns its length; `None` without a note.
    ///
    /// # Errors
    /// The reason as text, if there is one that can't be read.
    fn read_note(&mut self, index: u8, into: &mut [u8]) -> Result<Option<usize>, Text>;

    /// Stores a note of 1 to [`NOTE_MAX`] bytes in the place of the one at `index`; one with the same
    /// bytes is not written again.
    ///
    /// # Errors
    /// The reason as text, with the limit; the note before is still there then.
    fn write_note(&mut self, index: u8, bytes: &[u8]) -> Result<(), Text>;

    /// Removes the note at `index`, if there is one.
    ///
    /// # Errors
    /// The reason as text, if the medium fails.
    fn remove_note(&mut self, index: u8) -> Result<(), Text>;
}
