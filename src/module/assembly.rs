//! A module from the registry, put together in place from the channel's chunks.

use crate::{
    engine::{Engine, ModuleId, Text, text},
    time::Instant,
    wire::{Chunk, URL_MAX, decode_into, decoded_len},
};
use heapless::String;

/// Most chunks of a module.
pub const CHUNKS_MAX: usize = 2048;

const WORDS: usize = CHUNKS_MAX / 32;

/// Storage of one module that is on its way.
///
/// Chunks are equally long but for the last; the proxy cuts them so. They may come in any
/// order and more than once. The buffer is reserved when the first one tells how long they are.
#[derive(Debug, Clone)]
pub struct Assembly {
    app: String<URL_MAX>,
    /// Entry of the module table whose buffer takes the bytes; `None` if this is vacant.
    module: Option<ModuleId>,
    total: u32,
    /// Bytes of every chunk but the last; 0 until one of them has come.
    stride: usize,
    /// Bytes of the last chunk. It lies at the buffer's start while the stride is unknown.
    tail: Option<usize>,
    seen: [u32; WORDS],
    count: u32,
    began: Instant,
    /// Whether the registry is to be asked for it, first or again.
    pub(crate) request_due: bool,
}

impl Assembly {
    /// A vacant assembly.
    pub const VACANT: Self = Self {
        app: String::new(),
        module: None,
        total: 0,
        stride: 0,
        tail: None,
        seen: [0; WORDS],
        count: 0,
        began: Instant::BOOT,
        request_due: false,
    };

    /// Begins to wait for `app`'s chunks, to be put into `module`'s buffer.
    ///
    /// # Errors
    /// The limit, if the name is longer than [`URL_MAX`].
    pub fn begin(app: &str, module: ModuleId, now: Instant) -> Result<Self, Text> {
        Ok(Self {
            app: String::try_from(app).map_err(|_| {
                text(format_args!(
                    "image reference of {} bytes is longer than {URL_MAX}",
                    app.len()
                ))
            })?,
            module: Some(module),
            began: now,
            request_due: true,
            ..Self::VACANT
        })
    }

    /// Where the bytes go; `None` if this is vacant.
    pub const fn module(&self) -> Option<ModuleId> {
        self.module
    }

    /// The image reference that was asked for.
    pub fn app(&self) -> &str {
        &self.app
    }

    /// When it began.
    pub const fn began(&self) -> Instant {
        self.began
    }

    /// Chunks that have come, and how many there are; 0 of 0 before the first.
    pub const fn progress(&self) -> (u32, u32) {
        (self.count, self.total)
    }

    /// Takes a chunk of this app. Returns the module's length once all have come.
    ///
    /// # Errors
    /// What contradicts the chunks before, or doesn't fit the arena. The bytes so far are of no
    /// use then.
    pub fn accept(
        &mut self,
        chunk: &Chunk<'_>,
        engine: &mut impl Engine,
    ) -> Result<Option<usize>, Text> {
        let module = self
            .module
            .ok_or_else(|| text(format_args!("nobody waits for {}", chunk.app_name)))?;
        let (index, total) = (chunk.chunk_idx, chunk.total_chunks);
        self.check_total(index, total)?;
        if self.has(index) {
            return Ok(None);
        }
        let len = decoded_len(chunk.data)
            .map_err(|e| text(format_args!("chunk {index} of {total}: {e}")))?;
        let offset = if index + 1 == total {
            self.place_tail(index, len, module, engine)?
        } else {
            self.place(index, len, module, engine)?
        };
        decode_into(chunk.data, &mut engine.buffer(module)[offset..offset + len])
            .map_err(|e| text(format_args!("chunk {index} of {total}: {e}")))?;
        self.mark(index);
        self.count += 1;
        Ok((self.count == self.total).then(|| self.len()))
    }

    fn check_total(&mut self, index: u32, total: u32) -> Result<(), Text> {
        if index >= total {
            return Err(text(format_args!(
                "chunk {index} of {total} is out of range"
            )));
        }
        if total as usize > CHUNKS_MAX {
            return Err(text(format_args!(
                "{total} chunks are more than {CHUNKS_MAX}: use larger chunks"
            )));
        }
        if self.total == 0 {
            self.total = total;
        }
        if self.total != total {
            return Err(text(format_args!(
                "chunk {index} says {total} chunks, earlier ones said {}",
                self.total
            )));
        }
        Ok(())
    }

    /// Makes room for the last chunk and returns its offset.
    fn place_tail(
        &mut self,
        index: u32,
        len: usize,
        module: ModuleId,
        engine: &mut impl Engine,
    ) -> Result<usize, Text> {
        if self.stride != 0 && len > self.stride {
            return Err(self.unequal(index, len));
        }
        let offset = self.tail_offset();
        reserve(engine, module, offset.saturating_add(len))?;
        self.tail = Some(len);
        Ok(offset)
    }

    /// Makes room for a chunk that is not the last and returns its offset.
    fn place(
        &mut self,
        index: u32,
        len: usize,
        module: ModuleId,
        engine: &mut impl Engine,
    ) -> Result<usize, Text> {
        if self.stride == 0 {
            if len == 0 || self.tail.is_some_and(|tail| tail > len) {
                return Err(text(format_args!(
                    "chunk {index} of {} has {len} bytes, the last one {}",
                    self.total,
                    self.tail.unwrap_or(0)
                )));
            }
            let before_tail = len.saturating_mul(self.total as usize - 1);
            reserve(
                engine,
                module,
                before_tail.saturating_add(self.tail.unwrap_or(len)),
            )?;
            self.stride = len;
            if let Some(tail) = self.tail {
                engine.buffer(module).copy_within(..tail, before_tail);
            }
        }
        if len != self.stride {
            return Err(self.unequal(index, len));
        }
        Ok(self.stride * index as usize)
    }

    fn unequal(&self, index: u32, len: usize) -> Text {
        text(format_args!(
            "chunk {index} of {} has {len} bytes, earlier ones had {}",
            self.total, self.stride
        ))
    }

    /// 0 while the stride is unknown.
    fn tail_offset(&self) -> usize {
        self.stride * (self.total as usize - 1)
    }

    fn len(&self) -> usize {
        self.tail_offset() + self.tail.unwrap_or(0)
    }

    fn has(&self, index: u32) -> bool {
        self.seen[index as usize / 32] & (1 << (index % 32)) != 0
    }

    fn mark(&mut self, index: u32) {
        self.seen[index as usize / 32] |= 1 << (index % 32);
    }
}

fn reserve(engine: &mut impl Engine, module: ModuleId, len: usize) -> Result<(), Text> {
    let have = engine.buffer(module).len();
    if len <= have {
        return Ok(());
    }
    crate::agent::fits(len - have, engine.arena().free, "the module's bytes")?;
    engine.reserve(module, len)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::testing::FakeEngine;
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use proptest::prelude::*;
    use std::{string::String as StdString, vec::Vec};

    const MODULE: ModuleId = ModuleId(0);

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
        let mut engine = FakeEngine::new(arena);
        let mut assembly = Assembly::begin("app", MODULE, Instant::BOOT).unwrap();
        for (index, total, bytes) in chunks {
            let done = assembly
                .accept(&chunk(*index, *total, &encode(bytes)), &mut engine)
                .map_err(|e| StdString::from(e.as_str()))?;
            if let Some(len) = done {
                return Ok(Some(engine.buffer(MODULE)[..len].to_vec()));
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
    fn bad_base64_is_refused() {
        let mut engine = FakeEngine::new(4096);
        let mut assembly = Assembly::begin("app", MODULE, Instant::BOOT).unwrap();
        assert!(
            assembly
                .accept(&chunk(0, 1, "@@@@"), &mut engine)
                .unwrap_err()
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
