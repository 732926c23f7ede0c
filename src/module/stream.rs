//! Bytes that come one after the other, put into place as they come.

use crate::{
    engine::{Engine, Text, text},
    module::source::{Piece, extend},
};
use core::ops::DerefMut;

/// By how many bytes a buffer grows whose end is not known.
const STEP: usize = 1024;

/// The body of a response, as far as it has come.
#[derive(Debug)]
pub struct Stream<B> {
    /// What it is, in errors.
    what: &'static str,
    bytes: Option<B>,
    len: usize,
    /// Bytes that the server has promised.
    length: Option<usize>,
    limit: usize,
}

impl<B: DerefMut<Target = [u8]>> Stream<B> {
    /// Of at most `limit` bytes; `what` names it in errors.
    pub const fn new(what: &'static str, limit: usize) -> Self {
        Self {
            what,
            bytes: None,
            len: 0,
            length: None,
            limit,
        }
    }

    /// A response begins, of so many bytes, if the server says. What came of another is dropped.
    ///
    /// # Errors
    /// If it can't be kept.
    pub fn begin<E: Engine<Buffer = B>>(
        &mut self,
        length: Option<usize>,
        engine: &mut E,
    ) -> Result<(), Text> {
        (self.bytes, self.len, self.length) = (None, 0, length);
        match length {
            Some(length) => self.make_room(length, engine),
            None => Ok(()),
        }
    }

    /// The next bytes.
    ///
    /// # Errors
    /// If they can't be kept.
    pub fn bytes<E: Engine<Buffer = B>>(
        &mut self,
        bytes: &[u8],
        engine: &mut E,
    ) -> Result<(), Text> {
        let end = self.len.saturating_add(bytes.len());
        if self.length.is_some_and(|length| end > length) {
            return Err(text(format_args!(
                "the {} has more bytes than the server said",
                self.what
            )));
        }
        self.make_room(end, engine)?;
        if let Some(buffer) = self.bytes.as_deref_mut() {
            buffer[self.len..end].copy_from_slice(bytes);
        }
        self.len = end;
        Ok(())
    }

    /// All bytes, now that they are complete.
    ///
    /// # Errors
    /// If they are fewer than the server has said.
    pub fn end<E: Engine<Buffer = B>>(&mut self, engine: &mut E) -> Result<B, Text> {
        if let Some(length) = self.length.filter(|length| self.len < *length) {
            return Err(text(format_args!(
                "the server sent {} of the {}'s {length} bytes",
                self.len, self.what
            )));
        }
        let mut bytes = match self.bytes.take() {
            Some(bytes) => bytes,
            None => engine.allocate(0)?,
        };
        engine.resize(&mut bytes, self.len)?;
        Ok(bytes)
    }

    /// Bytes of the arena that it needs for `piece` besides those it has; 0 if it refuses it.
    pub fn growth(&self, piece: &Piece<'_>) -> usize {
        let len = match piece {
            Piece::Length(Some(length)) => *length,
            Piece::Bytes(bytes) => self.len.saturating_add(bytes.len()),
            _ => 0,
        };
        match len <= self.limit {
            true => self.room_for(len).saturating_sub(self.held()),
            false => 0,
        }
    }

    fn held(&self) -> usize {
        self.bytes.as_deref().map_or(0, <[u8]>::len)
    }

    /// Bytes of the buffer in which the first `len` bytes of the body are to lie.
    fn room_for(&self, len: usize) -> usize {
        match self.length {
            Some(length) => length,
            None => len.next_multiple_of(STEP).min(self.limit),
        }
    }

    fn make_room<E: Engine<Buffer = B>>(&mut self, len: usize, engine: &mut E) -> Result<(), Text> {
        if len > self.limit {
            return Err(text(format_args!(
                "the {} has {len} bytes or more, this proplet takes {}",
                self.what, self.limit
            )));
        }
        if len <= self.held() && self.bytes.is_some() {
            return Ok(());
        }
        let room = self.room_for(len);
        extend(&mut self.bytes, room, "its bytes", engine)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::testing::FakeEngine;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_held_to() {
        let mut engine = FakeEngine::new(10_000);
        let mut stream = Stream::new("model", 1000);
        assert_eq!(
            stream.begin(Some(1001), &mut engine).unwrap_err(),
            "the model has 1001 bytes or more, this proplet takes 1000"
        );
        stream.begin(Some(4), &mut engine).unwrap();
        stream.bytes(b"abc", &mut engine).unwrap();
        assert!(stream.bytes(b"de", &mut engine).is_err());
        assert_eq!(
            stream.end(&mut engine).unwrap_err(),
            "the server sent 3 of the model's 4 bytes"
        );
        stream.bytes(b"d", &mut engine).unwrap();
        assert_eq!(&*stream.end(&mut engine).unwrap(), b"abcd");
    }

    #[test]
    fn a_body_without_length_is_bounded_too() {
        let mut engine = FakeEngine::new(10_000);
        let mut stream = Stream::new("model", 1500);
        stream.begin(None, &mut engine).unwrap();
        stream.bytes(&[1; 1400], &mut engine).unwrap();
        assert!(engine.arena().free >= 10_000 - 1500);
        let error = stream.bytes(&[1; 101], &mut engine).unwrap_err();
        assert!(error.contains("takes 1500"), "{error}");
    }

    #[test]
    fn what_the_arena_lacks_is_said_with_both_numbers() {
        let mut engine = FakeEngine::new(100);
        let mut stream = Stream::new("data set", 1000);
        let error = stream.begin(Some(101), &mut engine).unwrap_err();
        assert_eq!(
            error,
            "out of memory: its bytes need 101 bytes, 100 are free"
        );
    }

    proptest! {
        #[test]
        fn any_pieces_give_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..5000),
            size in 1usize..700,
            says in any::<bool>(),
        ) {
            let mut engine = FakeEngine::new(10_000);
            let mut stream = Stream::new("module", 5000);
            stream.begin(says.then_some(bytes.len()), &mut engine).unwrap();
            for part in bytes.chunks(size) {
                stream.bytes(part, &mut engine).unwrap();
                let taken = 10_000 - engine.arena().free;
                prop_assert!(taken <= bytes.len() + STEP);
            }
            let whole = stream.end(&mut engine).unwrap();
            prop_assert_eq!(&*whole, &bytes[..]);
            drop(whole);
            prop_assert_eq!(engine.arena().free, 10_000);
        }
    }
}
