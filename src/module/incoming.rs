//! The bytes that a message carries, as they come.

use super::{
    image::ImageStream,
    stream::{Content, StreamError},
    strip::{Image, Provenance},
};
use crate::engine::Engine;
use core::ops::DerefMut;

/// The bytes of one message: a module, a chunk of one, a model, or a guest's message.
///
/// They are kept in one block that grows as they come. Where that finds no room they are only counted and
/// hashed: a module that is loaded already can be told by its digest.
#[derive(Debug)]
pub struct Incoming<B>(ImageStream<B>);

/// All bytes of a message.
#[derive(Debug)]
pub struct Body<B> {
    /// The bytes, without the custom sections of a module, or the reason for which they were not kept.
    pub bytes: Result<B, StreamError>,
    /// Number of these bytes, also where they were not kept.
    pub len: usize,
    /// Digest of the whole, and of what is signed of it.
    pub provenance: Provenance,
}

impl<B> Body<B> {
    /// The module that it is.
    ///
    /// # Errors
    /// Its bytes were not kept.
    pub fn image(self) -> Result<Image<B>, StreamError> {
        let Self {
            bytes, provenance, ..
        } = self;
        bytes.map(|bytes| Image { bytes, provenance })
    }
}

impl<B: DerefMut<Target = [u8]>> Incoming<B> {
    /// Without a message.
    pub fn new() -> Self {
        Self(ImageStream::verbatim(Content::Message, 0))
    }

    /// Begins anew, with at most `limit` bytes to keep. Those before are freed.
    pub fn begin(&mut self, content: Content, limit: usize) {
        self.0 = ImageStream::verbatim(content, limit);
    }

    /// Begins to take a module anew, of which at most `limit` bytes are kept. Bytes before it are freed.
    pub fn begin_module(&mut self, limit: usize) {
        self.0 = ImageStream::module(limit);
    }

    /// Appends bytes.
    pub fn append<E: Engine<Buffer = B>>(&mut self, bytes: &[u8], engine: &E) {
        // The refusal stays in the stream.
        let _ = self.0.append(bytes, engine, |_| {});
    }

    /// Frees the bytes for others, and keeps no more of this message; false if there are none.
    pub fn give_way(&mut self) -> bool {
        self.0.give_way()
    }

    /// Takes all bytes, and waits for the next message.
    pub fn take<E: Engine<Buffer = B>>(&mut self, engine: &E) -> Body<B> {
        let stream = core::mem::take(self).0;
        let (bytes, len, provenance) = stream.finish(engine);
        Body {
            bytes,
            len,
            provenance,
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
                (body.len, body.provenance.digest),
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
        assert_eq!((body.len, body.provenance.digest), (4, digest(b"abcd")));
    }
}
