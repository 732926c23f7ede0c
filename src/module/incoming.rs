//! The bytes that a message carries, as they come.

use super::{
    image::ImageStream,
    stream::{Content, Stream, StreamError},
    strip::Provenance,
};
use crate::engine::Engine;
use core::ops::DerefMut;

/// The bytes of one message: a module, a chunk of one, a model, or a guest's message.
///
/// They are kept in one block that grows as they come. Where that finds no room they are only counted, and those
/// of a module hashed: one that is loaded already can be told by its digest.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is no heap, and one of them in all"
)]
pub enum Incoming<B> {
    /// A module, stripped as it comes.
    Module(ImageStream<B>),
    /// Bytes that are kept as they are.
    Bytes {
        /// Those that were kept.
        stream: Stream<B>,
        /// Number of those that have come.
        len: usize,
    },
}

/// All bytes of a message.
#[derive(Debug)]
pub struct Body<B> {
    /// The bytes, without the custom sections of a module, or the reason for which they were not kept.
    pub bytes: Result<B, StreamError>,
    /// Number of these bytes, also where they were not kept.
    pub len: usize,
    /// Of a module, the digest of the whole, and of what is signed of it.
    pub provenance: Option<Provenance>,
}

impl<B: DerefMut<Target = [u8]>> Incoming<B> {
    /// Without a message.
    pub const fn new() -> Self {
        Self::bytes(Content::Message, 0)
    }

    const fn bytes(content: Content, limit: usize) -> Self {
        Self::Bytes {
            stream: Stream::new(content, limit),
            len: 0,
        }
    }

    /// Begins anew, with at most `limit` bytes to keep. Those before are freed.
    pub fn begin(&mut self, content: Content, limit: usize) {
        *self = Self::bytes(content, limit);
    }

    /// Begins to take a module anew, of which at most `limit` bytes are kept. Bytes before it are freed.
    pub fn begin_module(&mut self, limit: usize) {
        *self = Self::Module(ImageStream::new(limit));
    }

    /// Appends bytes.
    pub fn append<E: Engine<Buffer = B>>(&mut self, bytes: &[u8], engine: &E) {
        // A refusal stays in the stream.
        let _ = match self {
            Self::Module(stream) => stream.append(bytes, engine, |_| {}),
            Self::Bytes { stream, len } => {
                *len = len.saturating_add(bytes.len());
                stream.append(bytes, engine)
            }
        };
    }

    /// Frees the bytes for others, and keeps no more of this message; false if there are none.
    pub fn give_way(&mut self) -> bool {
        match self {
            Self::Module(stream) => stream.give_way(),
            Self::Bytes { stream, .. } => stream.give_way(),
        }
    }

    /// Takes all bytes, and waits for the next message.
    pub fn take<E: Engine<Buffer = B>>(&mut self, engine: &E) -> Body<B> {
        match core::mem::take(self) {
            Self::Module(stream) => {
                let (bytes, len, provenance) = stream.finish(engine);
                Body {
                    bytes,
                    len,
                    provenance: Some(provenance),
                }
            }
            Self::Bytes { mut stream, len } => Body {
                bytes: stream.end(engine),
                len,
                provenance: None,
            },
        }
    }
}

impl<B: DerefMut<Target = [u8]>> Default for Incoming<B> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::{module::table::digest, testing::FakeEngine};

    #[test]
    fn bytes_that_find_no_room_are_counted_and_hashed() {
        let engine = FakeEngine::new(10_000);
        let mut incoming = Incoming::new();
        let bytes: std::vec::Vec<u8> = (0..20_000_u32).map(|n| n as u8).collect();
        for (limit, kept) in [(usize::MAX, 5000), (5000, 5000), (usize::MAX, 20_000)] {
            incoming.begin_module(limit);
            for piece in bytes[..kept].chunks(700) {
                incoming.append(piece, &engine);
            }
            let body = incoming.take(&engine);
            assert_eq!(
                (body.len, body.provenance.unwrap().digest),
                (kept, digest(&bytes[..kept]))
            );
            assert_eq!(
                body.bytes.ok().as_deref() == Some(&bytes[..kept]),
                kept == 5000
            );
            assert_eq!(engine.arena().free, 10_000);
        }
    }

    #[test]
    fn it_gives_way() {
        let engine = FakeEngine::new(10_000);
        let mut incoming = Incoming::new();
        assert!(!incoming.give_way());
        incoming.begin_module(1000);
        incoming.append(b"abc", &engine);
        assert!(incoming.give_way());
        assert_eq!(engine.arena().free, 10_000);
        assert!(!incoming.give_way());
        incoming.append(b"d", &engine);
        let body = incoming.take(&engine);
        assert!(body.bytes.is_err());
        assert_eq!(
            (body.len, body.provenance.unwrap().digest),
            (4, digest(b"abcd"))
        );
    }
}
