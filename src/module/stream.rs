//! Bytes that come one after the other, put into place as they come.

use super::buffer::extend;
use crate::{
    engine::Engine,
    http::Part,
    memory::{Purpose, Shortage},
};
use core::{fmt, ops::DerefMut};

/// By how many bytes a buffer grows whose end is not known.
pub(super) const STEP: usize = 1024;

/// Content of a response, named in errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A module.
    Module,
    /// The model of a federated round.
    Model,
    /// The data set of a federated round.
    Dataset,
    /// A message for guests.
    Message,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Module => "module",
            Self::Model => "model",
            Self::Dataset => "data set",
            Self::Message => "message",
        })
    }
}

/// Refusal of a body, or of a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamError {
    /// The body is longer than the server announced.
    Overrun(Content),
    /// The body is shorter than the server announced.
    CutShort {
        /// The body's content.
        content: Content,
        /// Bytes that came.
        len: usize,
        /// Bytes that were announced.
        announced: usize,
    },
    /// The body is larger than the limit.
    TooLarge {
        /// The body's content.
        content: Content,
        /// Its length in bytes, as far as it is known.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The arena lacks room.
    Memory(Shortage),
    /// Others needed the room.
    GaveWay(Content),
}

impl From<Shortage> for StreamError {
    fn from(shortage: Shortage) -> Self {
        Self::Memory(shortage)
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Overrun(content) => {
                write!(f, "the {content} has more bytes than the server said")
            }
            Self::CutShort {
                content,
                len,
                announced,
            } => write!(
                f,
                "the server sent {len} of the {content}'s {announced} bytes"
            ),
            Self::TooLarge {
                content,
                len,
                limit,
            } => write!(
                f,
                "the {content} has {len} bytes or more, this proplet takes {limit}"
            ),
            Self::Memory(shortage) => shortage.fmt(f),
            Self::GaveWay(content) => write!(f, "out of memory: the {content} gave way to others"),
        }
    }
}

impl core::error::Error for StreamError {}

/// The body of a response, as far as it has come.
#[derive(Debug)]
pub struct Stream<B> {
    content: Content,
    bytes: Option<B>,
    len: usize,
    /// Length that the server announced.
    announced: Option<usize>,
    limit: usize,
    /// Refusal of a part; no byte is kept since.
    refused: Option<StreamError>,
}

impl<B: DerefMut<Target = [u8]>> Stream<B> {
    /// An empty stream for at most `limit` bytes.
    pub const fn new(content: Content, limit: usize) -> Self {
        Self {
            content,
            bytes: None,
            len: 0,
            announced: None,
            limit,
            refused: None,
        }
    }

    /// Begins a response, of `announced` bytes if the server says. Bytes of an earlier one are dropped.
    ///
    /// # Errors
    /// The response is too large, or the arena lacks room.
    pub fn begin<E: Engine<Buffer = B>>(
        &mut self,
        announced: Option<usize>,
        engine: &E,
    ) -> Result<(), StreamError> {
        (self.bytes, self.len, self.announced) = (None, 0, announced);
        self.refused = None;
        let begun = match announced {
            Some(len) => self.make_room(len, engine),
            None => Ok(()),
        };
        begun.map_err(|error| self.refuse(error))
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The body is longer than announced or too large, or the arena lacks room; or a part before it was
    /// refused.
    pub fn append<E: Engine<Buffer = B>>(
        &mut self,
        bytes: &[u8],
        engine: &E,
    ) -> Result<(), StreamError> {
        let appended = self.try_append(bytes, engine);
        appended.map_err(|error| self.refuse(error))
    }

    fn try_append<E: Engine<Buffer = B>>(
        &mut self,
        bytes: &[u8],
        engine: &E,
    ) -> Result<(), StreamError> {
        self.check()?;
        let end = self.len.saturating_add(bytes.len());
        if self.announced.is_some_and(|announced| end > announced) {
            return Err(StreamError::Overrun(self.content));
        }
        self.make_room(end, engine)?;
        if let Some(buffer) = self.bytes.as_deref_mut() {
            buffer[self.len..end].copy_from_slice(bytes);
        }
        self.len = end;
        Ok(())
    }

    /// The refusal of a part, if there was one.
    pub(super) fn check(&self) -> Result<(), StreamError> {
        self.refused.map_or(Ok(()), Err)
    }

    /// Gives the bytes back to the arena, which then has room for the words of a failure.
    pub(super) fn refuse(&mut self, error: StreamError) -> StreamError {
        self.bytes = None;
        self.refused = Some(error);
        error
    }

    /// Gives up the body, whose bytes go back to the arena.
    ///
    /// # Errors
    /// The refusal of a part, if that is why.
    pub fn give_up(&mut self) -> Result<(), StreamError> {
        self.bytes = None;
        self.check()
    }

    /// Takes all bytes of a complete body.
    ///
    /// # Errors
    /// The body is shorter than announced, the arena lacks room, or a part was refused.
    pub fn end<E: Engine<Buffer = B>>(&mut self, engine: &E) -> Result<B, StreamError> {
        self.check()?;
        if let Some(announced) = self.announced.filter(|announced| self.len < *announced) {
            return Err(StreamError::CutShort {
                content: self.content,
                len: self.len,
                announced,
            });
        }
        let mut bytes = match self.bytes.take() {
            Some(bytes) => bytes,
            None => engine.allocate(0)?,
        };
        engine.resize(&mut bytes, self.len)?;
        Ok(bytes)
    }

    /// Frees the bytes for others, and takes no more; false if there are none.
    pub fn give_way(&mut self) -> bool {
        let has_bytes = self.held() > 0;
        if has_bytes {
            self.refuse(StreamError::GaveWay(self.content));
        }
        has_bytes
    }

    /// Bytes of the arena that `more` bytes take at least besides those that the stream has; 0 if they are
    /// refused.
    pub fn growth_by(&self, more: usize) -> usize {
        let len = self.len.saturating_add(more);
        match len <= self.limit && self.refused.is_none() {
            true => self.announced.unwrap_or(len).saturating_sub(self.held()),
            false => 0,
        }
    }

    /// Bytes of the arena that `part` takes besides those that the stream has; 0 if it is refused.
    pub fn growth(&self, part: &Part<'_>) -> usize {
        match part {
            // It begins anew.
            Part::Begin(Some(len)) if *len <= self.limit => len.saturating_sub(self.held()),
            Part::Bytes(bytes) => self.growth_by(bytes.len()),
            Part::Begin(_) | Part::End | Part::Failed(_) => 0,
        }
    }

    fn held(&self) -> usize {
        self.bytes.as_deref().map_or(0, <[u8]>::len)
    }

    /// Bytes of the buffer for the first `len` bytes of the body.
    fn room(&self, len: usize, announced: Option<usize>) -> usize {
        announced.unwrap_or_else(|| len.next_multiple_of(STEP).min(self.limit))
    }

    fn make_room<E: Engine<Buffer = B>>(
        &mut self,
        len: usize,
        engine: &E,
    ) -> Result<(), StreamError> {
        if len > self.limit {
            return Err(StreamError::TooLarge {
                content: self.content,
                len,
                limit: self.limit,
            });
        }
        if len <= self.held() && self.bytes.is_some() {
            return Ok(());
        }
        let room = self.room(len, self.announced);
        let mut to = |room| extend(&mut self.bytes, room, Purpose::Body, engine);
        // A step may be more than is left.
        Ok(to(room).or_else(|_| to(len))?)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::testing::FakeEngine;
    use proptest::prelude::*;
    use std::string::ToString as _;

    #[test]
    fn lengths_are_held_to() {
        let engine = FakeEngine::new(10_000);
        let mut stream = Stream::new(Content::Model, 1000);
        assert_eq!(
            stream.begin(Some(1001), &engine).unwrap_err().to_string(),
            "the model has 1001 bytes or more, this proplet takes 1000"
        );
        stream.begin(Some(4), &engine).unwrap();
        stream.append(b"abc", &engine).unwrap();
        assert_eq!(
            stream.end(&engine).unwrap_err().to_string(),
            "the server sent 3 of the model's 4 bytes"
        );
        stream.append(b"d", &engine).unwrap();
        assert_eq!(&*stream.end(&engine).unwrap(), b"abcd");
    }

    #[test]
    fn a_refusal_frees_the_bytes_and_stays() {
        let engine = FakeEngine::new(10_000);
        let mut stream = Stream::new(Content::Model, 1000);
        stream.begin(Some(4), &engine).unwrap();
        stream.append(b"abc", &engine).unwrap();
        let refused = stream.append(b"de", &engine);
        assert_eq!(refused, Err(StreamError::Overrun(Content::Model)));
        assert_eq!(engine.arena().free, 10_000);
        assert_eq!(stream.append(b"d", &engine), refused);
        assert_eq!(stream.end(&engine).map(drop), refused);
        assert_eq!(stream.give_up(), refused);
        stream.begin(Some(4), &engine).unwrap();
        stream.append(b"abcd", &engine).unwrap();
        assert_eq!(stream.give_up(), Ok(()));
        assert_eq!(engine.arena().free, 10_000);
    }

    #[test]
    fn a_body_without_length_is_bounded_too() {
        let engine = FakeEngine::new(10_000);
        let mut stream = Stream::new(Content::Model, 1500);
        stream.begin(None, &engine).unwrap();
        stream.append(&[1; 1400], &engine).unwrap();
        assert!(engine.arena().free >= 10_000 - 1500);
        let error = stream.append(&[1; 101], &engine).unwrap_err().to_string();
        assert!(error.contains("takes 1500"), "{error}");
    }

    #[test]
    fn what_the_arena_lacks_is_said_with_both_numbers() {
        let engine = FakeEngine::new(100);
        let mut stream = Stream::new(Content::Dataset, 1000);
        let error = stream.begin(Some(101), &engine).unwrap_err().to_string();
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
            let engine = FakeEngine::new(10_000);
            let mut stream = Stream::new(Content::Module, 5000);
            stream.begin(says.then_some(bytes.len()), &engine).unwrap();
            for part in bytes.chunks(size) {
                stream.append(part, &engine).unwrap();
                let taken = 10_000 - engine.arena().free;
                prop_assert!(taken <= bytes.len() + STEP);
            }
            let whole = stream.end(&engine).unwrap();
            prop_assert_eq!(&*whole, &bytes[..]);
            drop(whole);
            prop_assert_eq!(engine.arena().free, 10_000);
        }
    }
}
