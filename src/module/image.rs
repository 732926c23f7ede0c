//! A module that comes as a stream: stripped as its bytes come, and put into place.

use super::{
    stream::{Content, Stream, StreamError},
    strip::{Image, Provenance, Stripper},
};
use crate::engine::Engine;
use core::ops::DerefMut;

/// The bytes of one module, as far as they have come.
///
/// After a refusal the bytes are still read: the digests are those of the whole.
#[derive(Debug)]
pub struct ImageStream<B> {
    stripper: Stripper,
    stream: Stream<B>,
    /// Length that the sender announced, custom sections included.
    announced: Option<usize>,
    /// Bytes to keep, also where they were refused.
    kept: usize,
}

impl<B: DerefMut<Target = [u8]>> ImageStream<B> {
    /// For a module of which at most `limit` bytes are kept.
    pub fn new(limit: usize) -> Self {
        Self {
            stripper: Stripper::new(),
            stream: Stream::new(Content::Module, limit),
            announced: None,
            kept: 0,
        }
    }

    /// Notes the length that the sender announces.
    pub const fn announce(&mut self, len: Option<usize>) {
        self.announced = len;
    }

    /// Whether no byte has come.
    pub const fn is_empty(&self) -> bool {
        self.stripper.is_empty()
    }

    /// Appends bytes. `make_room` is told before of how many bytes the arena lacks for those that are kept.
    ///
    /// # Errors
    /// More bytes came than were announced, or what is kept of them is too large or finds no room; or bytes
    /// before them were refused.
    pub fn append<E: Engine<Buffer = B>>(
        &mut self,
        bytes: &[u8],
        engine: &E,
        mut make_room: impl FnMut(usize),
    ) -> Result<(), StreamError> {
        let len = self.stripper.len().saturating_add(bytes.len());
        if self.announced.is_some_and(|announced| len > announced) && self.stream.check().is_ok() {
            self.stream.refuse(StreamError::Overrun(Content::Module));
        }
        let Self {
            stripper,
            stream,
            kept,
            ..
        } = self;
        let mut appended = stream.check();
        stripper.feed(bytes, |bytes| {
            *kept = kept.saturating_add(bytes.len());
            if appended.is_ok() {
                make_room(stream.growth_by(bytes.len()));
                appended = stream.append(bytes, engine);
            }
        });
        appended
    }

    /// Gives up the bytes, which go back to the arena.
    ///
    /// # Errors
    /// The refusal of some of them, if that is why.
    pub fn give_up(&mut self) -> Result<(), StreamError> {
        self.stream.give_up()
    }

    /// Frees the bytes for others, and keeps no more; false if there are none.
    pub fn give_way(&mut self) -> bool {
        self.stream.give_way()
    }

    /// Takes all bytes, the number of them, and the digests of the whole.
    pub fn finish<E: Engine<Buffer = B>>(
        mut self,
        engine: &E,
    ) -> (Result<B, StreamError>, usize, Provenance) {
        if let Some(announced) = self.announced.filter(|len| self.stripper.len() < *len)
            && self.stream.check().is_ok()
        {
            self.stream.refuse(StreamError::CutShort {
                content: Content::Module,
                len: self.stripper.len(),
                announced,
            });
        }
        let Self {
            stripper,
            mut stream,
            mut kept,
            ..
        } = self;
        let provenance = stripper.end(|bytes| {
            kept = kept.saturating_add(bytes.len());
            // The refusal stays in the stream.
            let _ = stream.append(bytes, engine);
        });
        (stream.end(engine), kept, provenance)
    }

    /// Takes the whole module.
    ///
    /// # Errors
    /// It is shorter than announced, the arena lacks room, or some of its bytes were refused.
    pub fn end<E: Engine<Buffer = B>>(self, engine: &E) -> Result<Image<B>, StreamError> {
        let (bytes, _, provenance) = self.finish(engine);
        let bytes = bytes?;
        Ok(Image { bytes, provenance })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::{
        module::{signature::HEADER, table::digest},
        testing::FakeEngine,
    };
    use std::{string::ToString as _, vec::Vec};

    /// A module of 12 bytes, and 5,006 of a custom section.
    fn module() -> Vec<u8> {
        let custom = [&[0, 0x8b, 0x27, 3][..], b"dbg", &[7; 4999]].concat();
        let code = [10, 2, 1, 2];
        [&HEADER[..], &custom, &code].concat()
    }

    #[test]
    fn what_is_dropped_takes_no_room() {
        let engine = FakeEngine::new(1000);
        let whole = module();
        let mut stream = ImageStream::new(12);
        stream.announce(Some(whole.len()));
        for piece in whole.chunks(100) {
            stream.append(piece, &engine, |_| {}).unwrap();
            assert!(engine.arena().free >= 1000 - 12);
        }
        let image = stream.end(&engine).unwrap();
        assert_eq!(&*image.bytes, [&HEADER[..], &[10, 2, 1, 2]].concat());
        assert_eq!(image.provenance.digest, digest(&whole));
    }

    #[test]
    fn the_announced_length_is_that_of_the_whole() {
        let engine = FakeEngine::new(1000);
        let whole = module();
        for (announced, words) in [
            (
                whole.len() + 1,
                "the server sent 5018 of the module's 5019 bytes",
            ),
            (
                whole.len() - 1,
                "the module has more bytes than the server said",
            ),
        ] {
            let mut stream = ImageStream::new(usize::MAX);
            stream.announce(Some(announced));
            let appended = stream.append(&whole, &engine, |_| {});
            assert_eq!(appended.is_err(), announced < whole.len());
            let error = stream.end(&engine).unwrap_err().to_string();
            assert_eq!(error, words);
            assert_eq!(engine.arena().free, 1000);
        }
    }

    #[test]
    fn refused_bytes_are_still_counted_and_hashed() {
        let engine = FakeEngine::new(1000);
        let whole: Vec<u8> = [&module()[..], &[1, 0x88, 0x27], &[9; 5000]].concat();
        let mut stream = ImageStream::new(usize::MAX);
        for piece in whole.chunks(999) {
            let _ = stream.append(piece, &engine, |_| {});
        }
        let (bytes, kept, provenance) = stream.finish(&engine);
        assert!(bytes.is_err());
        assert_eq!((kept, provenance.digest), (12 + 5003, digest(&whole)));
        assert_eq!(engine.arena().free, 1000);
    }
}
