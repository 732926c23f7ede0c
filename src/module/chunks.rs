//! A module that comes in chunks, put together in place.

use super::buffer::extend;
use crate::{
    engine::Engine,
    memory::{Purpose, Shortage},
    wire::{Chunk, Error, decode_into, decoded_len},
};
use core::{fmt, ops::DerefMut};

/// Most chunks of a module.
pub const CHUNKS_MAX: usize = 2048;

const WORDS: usize = CHUNKS_MAX / 32;

/// Refusal of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkError {
    /// The index is not below the number of chunks.
    Index {
        /// The index, from 0.
        index: u32,
        /// Number of chunks.
        total: u32,
    },
    /// The module has more than [`CHUNKS_MAX`] chunks.
    TooMany(u32),
    /// The number of chunks differs from that of earlier chunks.
    Total {
        /// The index, from 0.
        index: u32,
        /// Number of chunks.
        total: u32,
        /// Number of chunks according to earlier ones.
        earlier: u32,
    },
    /// The chunk is not as long as earlier ones.
    Length {
        /// The index, from 0.
        index: u32,
        /// Number of chunks.
        total: u32,
        /// Length in bytes.
        len: usize,
        /// Length of earlier chunks in bytes.
        earlier: usize,
    },
    /// The chunk is shorter than the last one, or empty.
    Short {
        /// The index, from 0.
        index: u32,
        /// Number of chunks.
        total: u32,
        /// Length in bytes.
        len: usize,
        /// Length of the last chunk in bytes.
        last: usize,
    },
    /// The data is not base64.
    Base64 {
        /// The index, from 0.
        index: u32,
        /// Number of chunks.
        total: u32,
    },
    /// The module is larger than the limit.
    TooLarge(TooLarge),
    /// The arena lacks room.
    Memory(Shortage),
}

/// A module that is larger than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    /// Length of the module in bytes.
    pub len: usize,
    /// The limit in bytes.
    pub limit: usize,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { len, limit } = self;
        write!(f, "the module has {len} bytes, this proplet takes {limit}")
    }
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Index { index, total } => write!(f, "chunk {index} of {total} is out of range"),
            Self::TooMany(total) => write!(
                f,
                "{total} chunks are more than {CHUNKS_MAX}: use larger chunks"
            ),
            Self::Total {
                index,
                total,
                earlier,
            } => write!(
                f,
                "chunk {index} says {total} chunks, earlier ones said {earlier}"
            ),
            Self::Length {
                index,
                total,
                len,
                earlier,
            } => write!(
                f,
                "chunk {index} of {total} has {len} bytes, earlier ones had {earlier}"
            ),
            Self::Short {
                index,
                total,
                len,
                last,
            } => write!(
                f,
                "chunk {index} of {total} has {len} bytes, the last one {last}"
            ),
            Self::Base64 { index, total } => {
                write!(f, "chunk {index} of {total}: {}", Error::Base64)
            }
            Self::TooLarge(error) => error.fmt(f),
            Self::Memory(shortage) => shortage.fmt(f),
        }
    }
}

impl core::error::Error for ChunkError {}

/// A module of which some chunks have come.
///
/// Chunks are equally long but for the last; the proxy cuts them so. They may come in any
/// order and more than once. The buffer is allocated when the first one tells how long they are.
#[derive(Debug)]
pub struct Chunks<B> {
    bytes: Option<B>,
    total: u32,
    /// Bytes of every chunk but the last; 0 until one of them has come.
    stride: usize,
    /// Bytes of the last chunk. It lies at the buffer's start while the stride is unknown.
    tail: Option<usize>,
    seen: [u32; WORDS],
    count: u32,
    /// Most bytes of the module.
    limit: usize,
}

impl<B: DerefMut<Target = [u8]>> Chunks<B> {
    /// Of a module of at most `limit` bytes.
    pub const fn new(limit: usize) -> Self {
        Self {
            bytes: None,
            total: 0,
            stride: 0,
            tail: None,
            seen: [0; WORDS],
            count: 0,
            limit,
        }
    }

    /// Chunks that have come, and how many there are; 0 of 0 before the first.
    pub const fn progress(&self) -> (u32, u32) {
        (self.count, self.total)
    }

    /// Bytes of the arena that it needs for `chunk`, at most, besides those it has.
    pub fn growth(&self, chunk: &Chunk<'_>) -> usize {
        let len = decoded_len(chunk.data).unwrap_or(0);
        let whole = len.saturating_mul(chunk.total_chunks as usize);
        let held = self.bytes.as_deref().map_or(0, <[u8]>::len);
        whole.min(self.limit).saturating_sub(held)
    }

    /// Takes a chunk. Returns the module once all have come.
    ///
    /// # Errors
    /// The chunk contradicts earlier ones, or does not fit. The bytes so far are of no use then.
    pub fn accept<E: Engine<Buffer = B>>(
        &mut self,
        chunk: &Chunk<'_>,
        engine: &E,
    ) -> Result<Option<B>, ChunkError> {
        let (index, total) = (chunk.chunk_idx, chunk.total_chunks);
        self.check_total(index, total)?;
        if self.has(index) {
            return Ok(None);
        }
        // The decoder has room for all: it fails for the text alone.
        let bad = |_| ChunkError::Base64 { index, total };
        let len = decoded_len(chunk.data).map_err(bad)?;
        let offset = if index + 1 == total {
            self.place_tail(index, len, engine)?
        } else {
            self.place(index, len, engine)?
        };
        let bytes = self.bytes.as_deref_mut().unwrap_or_default();
        decode_into(chunk.data, &mut bytes[offset..offset + len]).map_err(bad)?;
        self.mark(index);
        self.count += 1;
        if self.count < self.total {
            return Ok(None);
        }
        let mut whole = self.bytes.take();
        if let Some(bytes) = &mut whole {
            let len = self.tail_offset() + self.tail.unwrap_or(0);
            engine.resize(bytes, len).map_err(ChunkError::Memory)?;
        }
        Ok(whole)
    }

    fn check_total(&mut self, index: u32, total: u32) -> Result<(), ChunkError> {
        if index >= total {
            return Err(ChunkError::Index { index, total });
        }
        if total as usize > CHUNKS_MAX {
            return Err(ChunkError::TooMany(total));
        }
        if self.total == 0 {
            self.total = total;
        }
        if self.total != total {
            return Err(ChunkError::Total {
                index,
                total,
                earlier: self.total,
            });
        }
        Ok(())
    }

    /// Makes the buffer at least `len` bytes long.
    fn grow<E: Engine<Buffer = B>>(&mut self, len: usize, engine: &E) -> Result<(), ChunkError> {
        let have = self.bytes.as_deref().map_or(0, <[u8]>::len);
        if len <= have {
            return Ok(());
        }
        let limit = self.limit;
        if len > limit {
            return Err(ChunkError::TooLarge(TooLarge { len, limit }));
        }
        extend(&mut self.bytes, len, Purpose::ModuleBytes, engine).map_err(ChunkError::Memory)
    }

    /// Makes room for the last chunk and returns its offset.
    fn place_tail<E: Engine<Buffer = B>>(
        &mut self,
        index: u32,
        len: usize,
        engine: &E,
    ) -> Result<usize, ChunkError> {
        if self.stride != 0 && len > self.stride {
            return Err(self.unequal(index, len));
        }
        let offset = self.tail_offset();
        self.grow(offset.saturating_add(len), engine)?;
        self.tail = Some(len);
        Ok(offset)
    }

    /// Makes room for a chunk that is not the last and returns its offset.
    fn place<E: Engine<Buffer = B>>(
        &mut self,
        index: u32,
        len: usize,
        engine: &E,
    ) -> Result<usize, ChunkError> {
        if self.stride == 0 {
            if len == 0 || self.tail.is_some_and(|tail| tail > len) {
                return Err(ChunkError::Short {
                    index,
                    total: self.total,
                    len,
                    last: self.tail.unwrap_or(0),
                });
            }
            let before_tail = len.saturating_mul(self.total as usize - 1);
            let whole = before_tail.saturating_add(self.tail.unwrap_or(len));
            self.grow(whole, engine)?;
            self.stride = len;
            if let (Some(tail), Some(bytes)) = (self.tail, self.bytes.as_deref_mut()) {
                bytes.copy_within(..tail, before_tail);
            }
        }
        if len != self.stride {
            return Err(self.unequal(index, len));
        }
        Ok(self.stride * index as usize)
    }

    const fn unequal(&self, index: u32, len: usize) -> ChunkError {
        ChunkError::Length {
            index,
            total: self.total,
            len,
            earlier: self.stride,
        }
    }

    /// 0 while the stride is unknown.
    fn tail_offset(&self) -> usize {
        self.stride * (self.total as usize - 1)
    }

    fn has(&self, index: u32) -> bool {
        self.seen[index as usize / 32] & (1 << (index % 32)) != 0
    }

    fn mark(&mut self, index: u32) {
        self.seen[index as usize / 32] |= 1 << (index % 32);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::testing::FakeEngine;
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use proptest::prelude::*;
    use std::{
        string::{String as StdString, ToString as _},
        vec::Vec,
    };

    const LIMIT: usize = 8192;

    fn encode(bytes: &[u8]) -> StdString {
        BASE64_STANDARD.encode(bytes)
    }

    fn chunk(index: u32, total: u32, data: &str) -> Chunk<'_> {
        Chunk {
            app_name: "app",
            chunk_idx: index,
            total_chunks: total,
            data,
        }
    }

    /// Index, total, bytes.
    type Part<'a> = (u32, u32, &'a [u8]);

    /// Feeds `chunks` and returns the assembled module or the error.
    fn feed(chunks: &[Part<'_>], arena: usize) -> Result<Option<Vec<u8>>, StdString> {
        let engine = FakeEngine::new(arena);
        let mut assembly = Chunks::new(LIMIT);
        for (index, total, bytes) in chunks {
            let done = assembly
                .accept(&chunk(*index, *total, &encode(bytes)), &engine)
                .map_err(|e| e.to_string())?;
            if let Some(bytes) = done {
                return Ok(Some(bytes.to_vec()));
            }
        }
        Ok(None)
    }

    #[test]
    fn one_chunk() {
        assert_eq!(feed(&[(0, 1, b"abc")], 4096), Ok(Some(b"abc".to_vec())));
    }

    #[test]
    fn a_chunk_that_lies_is_refused() {
        let cases: &[(&[Part<'_>], &str)] = &[
            (&[(5, 5, b"a")], "chunk 5 of 5 is out of range"),
            (
                &[(u32::MAX, 1, b"a")],
                "chunk 4294967295 of 1 is out of range",
            ),
            (
                &[(0, 2, b"ab"), (1, 3, b"a")],
                "chunk 1 says 3 chunks, earlier ones said 2",
            ),
            (
                &[(0, 3, b"ab"), (1, 3, b"abc")],
                "chunk 1 of 3 has 3 bytes, earlier ones had 2",
            ),
            (
                &[(0, 2, b"ab"), (1, 2, b"abc")],
                "chunk 1 of 2 has 3 bytes, earlier ones had 2",
            ),
            (
                &[(1, 2, b"abc"), (0, 2, b"ab")],
                "chunk 0 of 2 has 2 bytes, the last one 3",
            ),
            (&[(0, 2, b"")], "chunk 0 of 2 has 0 bytes, the last one 0"),
            (
                &[(0, 3000, b"ab")],
                "3000 chunks are more than 2048: use larger chunks",
            ),
        ];
        for (chunks, error) in cases {
            assert_eq!(feed(chunks, 4096).unwrap_err(), *error);
        }
    }

    #[test]
    fn a_module_larger_than_the_arena_is_refused_with_both_numbers() {
        let error = feed(&[(0, 100, &[0; 64])], 4096).unwrap_err();
        assert_eq!(
            error,
            "out of memory: the module's bytes need 6400 bytes, 4096 are free"
        );
    }

    #[test]
    fn a_module_over_the_limit_is_refused_before_it_takes_memory() {
        for chunks in [[(0, 200, &[0; 64])], [(199, 200, &[0; 64])]] {
            let chunks: Vec<Part<'_>> = chunks.map(|(i, t, b)| (i, t, &b[..])).into();
            let engine = FakeEngine::new(100_000);
            let mut assembly = Chunks::new(LIMIT);
            let (index, total, bytes) = chunks[0];
            let first = assembly.accept(&chunk(index, total, &encode(bytes)), &engine);
            let error =
                first.and_then(|_| assembly.accept(&chunk(1, total, &encode(&[0; 64])), &engine));
            assert_eq!(
                error.unwrap_err().to_string(),
                "the module has 12800 bytes, this proplet takes 8192"
            );
            assert_eq!(
                engine.arena().free,
                if index == 0 { 100_000 } else { 100_000 - 64 }
            );
        }
    }

    #[test]
    fn bad_base64_is_refused() {
        let engine = FakeEngine::new(4096);
        let mut assembly = Chunks::new(LIMIT);
        assert!(
            assembly
                .accept(&chunk(0, 1, "@@@@"), &engine)
                .unwrap_err()
                .to_string()
                .starts_with("chunk 0 of 1: ")
        );
    }

    proptest! {
        #[test]
        fn any_order_with_duplicates_gives_the_module(
            bytes in proptest::collection::vec(any::<u8>(), 1..600),
            size in 1usize..100,
            order in proptest::collection::vec(any::<u16>(), 0..64),
        ) {
            let parts: Vec<&[u8]> = bytes.chunks(size).collect();
            let total = parts.len() as u32;
            let random = order.iter().map(|&n| u32::from(n) % total);
            let chunks: Vec<Part<'_>> = random
                .chain((0..total).rev())
                .map(|index| (index, total, parts[index as usize]))
                .collect();
            prop_assert_eq!(feed(&chunks, 4096), Ok(Some(bytes.clone())));
        }

        #[test]
        fn no_sequence_panics(
            chunks in proptest::collection::vec(
                (0u32..6, 0u32..6, proptest::collection::vec(any::<u8>(), 0..5)), 0..40)
        ) {
            let chunks: Vec<Part<'_>> =
                chunks.iter().map(|(i, t, d)| (*i, *t, d.as_slice())).collect();
            let _ = feed(&chunks, 64);
        }
    }
}
