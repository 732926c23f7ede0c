//! A module that comes in chunks, stripped and put together in place.

use super::{
    buffer::extend,
    stream::STEP,
    strip::{Image, Stripper, feed_in_place, put},
    table::Digest,
};
use crate::{
    engine::Engine,
    memory::{Purpose, Shortage},
};
use core::{fmt, ops::DerefMut};

/// Most chunks of a module.
pub const CHUNKS_MAX: usize = 2048;

/// Times that a module is begun anew because of a chunk of another version, before such a chunk is an error.
pub const RESTARTS_MAX: u8 = 3;

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
        /// Length of the last chunk, or of the beginning of another one, in bytes.
        last: usize,
    },
    /// The chunk has come before with other bytes.
    Differs {
        /// The index, from 0.
        index: u32,
        /// Number of chunks.
        total: u32,
    },
    /// The module is larger than the limit.
    TooLarge {
        /// Bytes of it that are kept, as far as they are known.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
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
            Self::Differs { index, total } => {
                write!(f, "chunk {index} of {total} came again with other bytes")
            }
            Self::TooLarge { len, limit } => write!(
                f,
                "the module has {len} bytes or more, this proplet takes {limit}"
            ),
            Self::Memory(shortage) => shortage.fmt(f),
        }
    }
}

impl core::error::Error for ChunkError {}

impl From<Shortage> for ChunkError {
    fn from(shortage: Shortage) -> Self {
        Self::Memory(shortage)
    }
}

impl ChunkError {
    /// Whether the chunk is not of the module that earlier ones are of.
    const fn is_of_another_version(&self) -> bool {
        matches!(
            self,
            Self::Total { .. } | Self::Length { .. } | Self::Short { .. } | Self::Differs { .. }
        )
    }
}

/// Tells one version of a chunk from another: FNV-1a. Digests and signatures guard against forgery, not this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hash(u64);

impl Hash {
    const LEN: usize = size_of::<u64>();

    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    /// Never 0, which stands for a chunk that has not come.
    const fn value(self) -> u64 {
        if self.0 == 0 { 1 } else { self.0 }
    }
}

/// The beginning of a chunk.
#[derive(Debug, Clone, Copy)]
struct Beginning {
    len: usize,
    hash: Hash,
}

impl Beginning {
    const NOTHING: Self = Self {
        len: 0,
        hash: Hash::new(),
    };

    fn add(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.len = self.len.saturating_add(bytes.len());
    }
}

/// A chunk that is being received, and as much of it as has come.
#[derive(Debug)]
enum Receiving {
    /// It is the next one.
    Next(Beginning),
    /// It has come before.
    Again { index: u32, read: Beginning },
}

/// A module of which some chunks have come.
///
/// Chunks are equally long but for the last; the proxy cuts them so. They may come in any order, and more than
/// once. Custom sections of those that come in their turn are dropped as the bytes come. Those that come before
/// their turn wait at their place in the whole, as far as there is room, and are stripped when it is their turn.
///
/// A chunk does not say which version of the module it is of, but the registry sends all of one before it begins
/// with another. So chunks that came one after the other in one session, from the first to the last, are of one
/// version: [`is_straight`](Self::is_straight). A chunk that contradicts earlier ones is of another: it takes
/// their place, at most [`RESTARTS_MAX`] times. [`must_ask`](Self::must_ask) tells when chunks were lost by that,
/// or not taken.
#[derive(Debug)]
pub struct Chunks<B> {
    /// The bytes that are kept of the first `next` chunks and of the beginning of the one behind them; and at its
    /// place in the whole each chunk that came before its turn.
    bytes: Option<B>,
    /// A hash of each chunk that has come.
    hashes: Option<B>,
    stripper: Stripper,
    /// Bytes that are kept of the chunks that the stripper has seen.
    len: usize,
    /// Chunks that the stripper has seen whole.
    next: u32,
    /// Bytes that it has seen of the one behind them.
    seen: Beginning,
    receiving: Option<Receiving>,
    total: u32,
    /// Chunks that have come.
    count: u32,
    /// Bytes of every chunk but the last; 0 until one of them has come.
    stride: usize,
    /// Bytes of the last chunk, if it came before its turn. It lies at the buffer's start while the stride is
    /// unknown.
    tail: Option<usize>,
    /// Maximum number of bytes to keep.
    limit: usize,
    restarts: u8,
    /// Number of the chunks that came last, one after the other from the first on, new or again.
    run: u32,
    /// Whether chunks have come in more than one session.
    spans_gap: bool,
    /// Whether a chunk was not taken.
    is_missing: bool,
    must_ask: bool,
}

impl<B: DerefMut<Target = [u8]>> Chunks<B> {
    /// Of a module of which at most `limit` bytes are kept.
    pub fn new(limit: usize) -> Self {
        Self {
            bytes: None,
            hashes: None,
            stripper: Stripper::new(),
            len: 0,
            next: 0,
            seen: Beginning::NOTHING,
            receiving: None,
            total: 0,
            count: 0,
            stride: 0,
            tail: None,
            limit,
            restarts: 0,
            run: 0,
            spans_gap: false,
            is_missing: false,
            must_ask: false,
        }
    }

    /// Chunks that have come, and how many there are; 0 of 0 before the first.
    pub const fn progress(&self) -> (u32, u32) {
        (self.count, self.total)
    }

    /// Whether no chunk has come, not even the beginning of one.
    pub const fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Whether the registry must be asked again, for chunks that were lost or not taken; given out once.
    pub const fn must_ask(&mut self) -> bool {
        core::mem::replace(&mut self.must_ask, false)
    }

    /// Notes that the chunks to come may be of another version than those before. A chunk that has begun does not
    /// come to its end; what has come of it is kept for the next time.
    pub fn note_gap(&mut self) {
        self.receiving = None;
        self.run = 0;
        self.spans_gap = !self.is_empty();
    }

    /// Whether chunks have come in more than one session.
    pub const fn spans_gap(&self) -> bool {
        self.spans_gap
    }

    /// Whether a chunk has begun and not ended.
    pub const fn is_receiving(&self) -> bool {
        self.receiving.is_some()
    }

    /// Whether all chunks have come.
    pub const fn is_complete(&self) -> bool {
        self.total != 0 && self.next == self.total
    }

    /// Whether all chunks have come one after the other, in one session: they are of one version.
    pub const fn is_straight(&self) -> bool {
        self.total != 0 && self.run == self.total
    }

    /// Digest of all that has come.
    pub fn digest(&self) -> Digest {
        self.stripper.clone().end(|_| {}).digest
    }

    /// Begins anew, and has the registry asked again. False if that has happened too often.
    pub fn retry(&mut self) -> bool {
        if self.restarts == RESTARTS_MAX {
            return false;
        }
        self.restart();
        self.must_ask = true;
        true
    }

    fn restart(&mut self) {
        *self = Self {
            restarts: self.restarts + 1,
            ..Self::new(self.limit)
        };
    }

    /// Drops what came before a chunk of another version.
    fn replace(&mut self, error: ChunkError, is_lost: bool) -> Result<(), ChunkError> {
        if !error.is_of_another_version() || self.restarts == RESTARTS_MAX {
            return Err(error);
        }
        log::warn!("{error}: it is of another version, and the chunks before it are dropped");
        self.restart();
        self.must_ask = is_lost;
        Ok(())
    }

    /// Begins to take the chunk at `index` of `total` as it comes. False if it must come whole, by
    /// [`accept`](Self::accept): its place is not known before its length. `make_room` is told before of how many
    /// bytes the arena lacks.
    ///
    /// # Errors
    /// The chunk lies, or the arena lacks room. The bytes so far are of no use then.
    pub fn begin<E: Engine<Buffer = B>>(
        &mut self,
        index: u32,
        total: u32,
        engine: &E,
        make_room: &mut dyn FnMut(usize),
    ) -> Result<bool, ChunkError> {
        self.or_anew(index, |chunks| {
            chunks.try_begin(index, total, engine, make_room)
        })
    }

    /// Takes the chunk at `index`, or else takes it as the first of another version.
    fn or_anew<T>(
        &mut self,
        index: u32,
        mut take: impl FnMut(&mut Self) -> Result<T, ChunkError>,
    ) -> Result<T, ChunkError> {
        take(self).or_else(|error| {
            self.replace(error, index != 0)?;
            take(self)
        })
    }

    fn try_begin<E: Engine<Buffer = B>>(
        &mut self,
        index: u32,
        total: u32,
        engine: &E,
        make_room: &mut dyn FnMut(usize),
    ) -> Result<bool, ChunkError> {
        self.receiving = None;
        self.check_total(index, total)?;
        self.reserve_hashes(engine, make_room)?;
        let read = Beginning::NOTHING;
        self.receiving = match self.has(index) {
            true => Some(Receiving::Again { index, read }),
            false => self.is_placed(index).then_some(Receiving::Next(read)),
        };
        Ok(self.receiving.is_some())
    }

    /// Whether the chunk can be taken as it comes.
    const fn is_placed(&self, index: u32) -> bool {
        index == self.next && (self.stride != 0 || self.tail.is_none())
    }

    /// Takes bytes of the chunk that has begun.
    ///
    /// # Errors
    /// The chunk lies or does not fit. The bytes so far are of no use then.
    pub fn append<E: Engine<Buffer = B>>(
        &mut self,
        bytes: &[u8],
        engine: &E,
        make_room: &mut dyn FnMut(usize),
    ) -> Result<(), ChunkError> {
        let appended = self.try_append(bytes, engine, make_room);
        appended.or_else(|error| self.replace(error, true))
    }

    /// Nothing is received any more after an error.
    fn try_append<E: Engine<Buffer = B>>(
        &mut self,
        bytes: &[u8],
        engine: &E,
        make_room: &mut dyn FnMut(usize),
    ) -> Result<(), ChunkError> {
        let (index, total, seen) = (self.next, self.total, self.seen);
        let read = match &mut self.receiving {
            None => return Ok(()),
            Some(Receiving::Again { read, .. }) => {
                read.add(bytes);
                return Ok(());
            }
            Some(Receiving::Next(read)) => read,
        };
        // The beginning of the chunk may have come before its connection ended.
        let known = bytes.len().min(seen.len.saturating_sub(read.len));
        let (known, new) = bytes.split_at(known);
        read.add(known);
        if !known.is_empty() && read.len == seen.len && read.hash != seen.hash {
            return Err(ChunkError::Differs { index, total });
        }
        if new.is_empty() {
            return Ok(());
        }
        read.add(new);
        self.seen = *read;
        let len = self.seen.len;
        if self.stride != 0 && len > self.stride {
            return Err(self.unequal(index, len));
        }
        self.strip(new, engine, make_room)
    }

    /// Strips bytes that are in their turn.
    fn strip<E: Engine<Buffer = B>>(
        &mut self,
        bytes: &[u8],
        engine: &E,
        make_room: &mut dyn FnMut(usize),
    ) -> Result<(), ChunkError> {
        let mut room = Room {
            bytes: &mut self.bytes,
            limit: self.limit,
            make_room,
        };
        let mut stripped = Ok(self.len);
        self.stripper.feed(bytes, |kept| {
            stripped = stripped.and_then(|len| room.put(len, kept, engine));
        });
        self.len = stripped?;
        Ok(())
    }

    /// Ends the chunk that has begun.
    ///
    /// # Errors
    /// The chunk lies or does not fit. The bytes so far are of no use then.
    pub fn end(&mut self) -> Result<(), ChunkError> {
        let ended = self.try_end();
        ended.or_else(|error| self.replace(error, true))
    }

    fn try_end(&mut self) -> Result<(), ChunkError> {
        let (mut index, total) = (self.next, self.total);
        match self.receiving.take() {
            None => return Ok(()),
            Some(Receiving::Again { index: known, read }) => {
                index = known;
                if read.hash.value() != self.hash(index) {
                    return Err(ChunkError::Differs { index, total });
                }
            }
            Some(Receiving::Next(read)) if read.len < self.seen.len => {
                return Err(ChunkError::Differs { index, total });
            }
            Some(Receiving::Next(read)) => {
                self.check_len(index, read.len)?;
                if index + 1 < total {
                    self.stride = read.len;
                }
                self.mark(index, read.hash);
                self.seen = Beginning::NOTHING;
                self.next += 1;
                self.strip_waiting();
            }
        }
        self.passed(index);
        Ok(())
    }

    /// Takes a whole chunk.
    ///
    /// # Errors
    /// The chunk lies or does not fit. The bytes so far are of no use then.
    pub fn accept<E: Engine<Buffer = B>>(
        &mut self,
        (index, total): (u32, u32),
        data: &[u8],
        engine: &E,
        make_room: &mut dyn FnMut(usize),
    ) -> Result<(), ChunkError> {
        self.or_anew(index, |chunks| {
            chunks.try_accept((index, total), data, engine, make_room)
        })
    }

    fn try_accept<E: Engine<Buffer = B>>(
        &mut self,
        (index, total): (u32, u32),
        data: &[u8],
        engine: &E,
        make_room: &mut dyn FnMut(usize),
    ) -> Result<(), ChunkError> {
        let mut has_begun = self.try_begin(index, total, engine, make_room)?;
        if !has_begun {
            self.check_len(index, data.len())?;
            if index + 1 < total {
                self.set_stride(data.len(), engine, make_room);
            }
            has_begun = self.try_begin(index, total, engine, make_room)?;
        }
        if has_begun {
            self.try_append(data, engine, make_room)?;
            return self.try_end();
        }
        self.place(index, data, engine, make_room);
        self.passed(index);
        Ok(())
    }

    /// Passes over a chunk that found no room beside the module. False if it can be taken as it comes: then there
    /// is none at all.
    ///
    /// # Errors
    /// The chunk lies.
    pub fn pass_over(&mut self, (index, total): (u32, u32)) -> Result<bool, ChunkError> {
        if let Err(error) = self.check_total(index, total) {
            return self.replace(error, true).map(|()| true);
        }
        if self.is_placed(index) {
            return Ok(false);
        }
        if index == self.next {
            // It can be taken as it comes the next time.
            self.drop_tail();
        }
        self.is_missing |= !self.has(index);
        self.passed(index);
        self.run = 0;
        Ok(true)
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

    /// Refuses a chunk of a length that earlier ones contradict.
    fn check_len(&self, index: u32, len: usize) -> Result<(), ChunkError> {
        let (total, stride) = (self.total, self.stride);
        if index + 1 == total {
            return match stride != 0 && len > stride {
                true => Err(self.unequal(index, len)),
                false => Ok(()),
            };
        }
        let last = self.tail.unwrap_or(0).max(self.seen.len);
        if stride == 0 && (len == 0 || len < last) {
            return Err(ChunkError::Short {
                index,
                total,
                len,
                last,
            });
        }
        match stride != 0 && len != stride {
            true => Err(self.unequal(index, len)),
            false => Ok(()),
        }
    }

    const fn unequal(&self, index: u32, len: usize) -> ChunkError {
        ChunkError::Length {
            index,
            total: self.total,
            len,
            earlier: self.stride,
        }
    }

    fn reserve_hashes<E: Engine<Buffer = B>>(
        &mut self,
        engine: &E,
        make_room: &mut dyn FnMut(usize),
    ) -> Result<(), ChunkError> {
        if self.hashes.is_some() {
            return Ok(());
        }
        let len = self.total as usize * Hash::LEN;
        make_room(len);
        Ok(extend(&mut self.hashes, len, Purpose::ModuleBytes, engine)?)
    }

    /// Notes the length of all chunks but the last, which goes to its place if it was the first to come.
    fn set_stride<E: Engine<Buffer = B>>(
        &mut self,
        stride: usize,
        engine: &E,
        make_room: &mut dyn FnMut(usize),
    ) {
        if self.stride != 0 {
            return;
        }
        self.stride = stride;
        let Some(tail) = self.tail else {
            return;
        };
        let at = self.offset(self.total - 1);
        let mut room = self.room(make_room);
        match (
            room.reserve(at.saturating_add(tail), engine),
            &mut self.bytes,
        ) {
            (Ok(()), Some(bytes)) => bytes.copy_within(..tail, at),
            _ => self.drop_tail(),
        }
    }

    /// Drops the last chunk, which lies at the buffer's start.
    fn drop_tail(&mut self) {
        if self.tail.take().is_some() {
            self.set_hash(self.total - 1, 0);
            self.count -= 1;
            (self.bytes, self.is_missing) = (None, true);
        }
    }

    /// Puts a chunk that comes before its turn where it waits, if there is room.
    fn place<E: Engine<Buffer = B>>(
        &mut self,
        index: u32,
        data: &[u8],
        engine: &E,
        make_room: &mut dyn FnMut(usize),
    ) {
        // The beginning of another chunk lies where the last one would wait.
        let has_place = self.stride != 0 || self.seen.len == 0;
        let at = self.offset(index);
        let end = at.saturating_add(data.len());
        if !has_place || self.room(make_room).reserve(end, engine).is_err() {
            log::debug!(
                "chunk {index} of {} came early and is not taken",
                self.total
            );
            self.is_missing = true;
            return;
        }
        put(self.bytes.as_deref_mut().unwrap_or_default(), at, data);
        if index + 1 == self.total {
            self.tail = Some(data.len());
        }
        let mut hash = Hash::new();
        hash.update(data);
        self.mark(index, hash);
    }

    /// Notes that a chunk has come, and was taken or not. With the last one gone by, those that were not taken will
    /// come only if they are asked for.
    const fn passed(&mut self, index: u32) {
        self.run = match index {
            _ if index == self.run => index + 1,
            0 => 1,
            _ => 0,
        };
        if self.is_missing && index + 1 == self.total && self.next < self.total {
            self.is_missing = false;
            if self.restarts < RESTARTS_MAX {
                self.restarts += 1;
                self.must_ask = true;
            }
        }
    }

    /// Strips the chunks whose turn it is now.
    fn strip_waiting(&mut self) {
        while self.next < self.total && self.has(self.next) {
            let is_last = self.next + 1 == self.total;
            let len = self.tail.filter(|_| is_last).unwrap_or(self.stride);
            let from = self.offset(self.next);
            let bytes = self.bytes.as_deref_mut().unwrap_or_default();
            self.len = feed_in_place(&mut self.stripper, bytes, (from, from + len), self.len);
            self.next += 1;
        }
    }

    /// Takes the module out, all of whose chunks have come.
    ///
    /// # Errors
    /// The arena lacks room, or the module is too large.
    pub fn finish<E: Engine<Buffer = B>>(
        &mut self,
        engine: &E,
        make_room: &mut dyn FnMut(usize),
    ) -> Result<Image<B>, ChunkError> {
        let next = Self {
            restarts: self.restarts,
            ..Self::new(self.limit)
        };
        let Self {
            mut bytes,
            stripper,
            limit,
            len,
            ..
        } = core::mem::replace(self, next);
        let mut room = Room {
            bytes: &mut bytes,
            limit,
            make_room,
        };
        let mut ended = Ok(len);
        let provenance = stripper.end(|kept| {
            ended = ended.and_then(|len| room.put(len, kept, engine));
        });
        let len = ended?;
        let mut bytes = match bytes {
            Some(bytes) => bytes,
            None => engine.allocate(0)?,
        };
        engine.resize(&mut bytes, len)?;
        Ok(Image { bytes, provenance })
    }

    const fn room<'a>(&'a mut self, make_room: &'a mut dyn FnMut(usize)) -> Room<'a, B> {
        Room {
            bytes: &mut self.bytes,
            limit: self.limit,
            make_room,
        }
    }

    /// Place of a chunk in the whole, in bytes.
    const fn offset(&self, index: u32) -> usize {
        self.stride.saturating_mul(index as usize)
    }

    fn has(&self, index: u32) -> bool {
        self.hash(index) != 0
    }

    /// Hash of a chunk, 0 if it has not come.
    fn hash(&self, index: u32) -> u64 {
        let hashes = self.hashes.as_deref().unwrap_or_default();
        let (hashes, _) = hashes.as_chunks::<{ Hash::LEN }>();
        let hash = hashes.get(index as usize);
        hash.map_or(0, |hash| u64::from_le_bytes(*hash))
    }

    fn set_hash(&mut self, index: u32, value: u64) {
        let hashes = self.hashes.as_deref_mut().unwrap_or_default();
        let (hashes, _) = hashes.as_chunks_mut::<{ Hash::LEN }>();
        if let Some(hash) = hashes.get_mut(index as usize) {
            *hash = value.to_le_bytes();
        }
    }

    fn mark(&mut self, index: u32, hash: Hash) {
        self.set_hash(index, hash.value());
        self.count += 1;
    }
}

/// A buffer that grows up to a limit.
struct Room<'a, B> {
    bytes: &'a mut Option<B>,
    limit: usize,
    make_room: &'a mut dyn FnMut(usize),
}

impl<B: DerefMut<Target = [u8]>> Room<'_, B> {
    /// Makes the buffer at least `len` bytes long.
    fn reserve<E: Engine<Buffer = B>>(&mut self, len: usize, engine: &E) -> Result<(), ChunkError> {
        let have = self.bytes.as_deref().map_or(0, <[u8]>::len);
        if len <= have {
            return Ok(());
        }
        let limit = self.limit;
        if len > limit {
            return Err(ChunkError::TooLarge { len, limit });
        }
        (self.make_room)(len - have);
        let mut to = |len| extend(self.bytes, len, Purpose::ModuleBytes, engine);
        // A step may be more than is left.
        let step = len.saturating_add(STEP - 1) / STEP * STEP;
        Ok(to(step.min(limit)).or_else(|_| to(len))?)
    }

    /// Puts bytes at `at`, and returns their end.
    fn put<E: Engine<Buffer = B>>(
        &mut self,
        at: usize,
        bytes: &[u8],
        engine: &E,
    ) -> Result<usize, ChunkError> {
        self.reserve(at.saturating_add(bytes.len()), engine)?;
        Ok(put(
            self.bytes.as_deref_mut().unwrap_or_default(),
            at,
            bytes,
        ))
    }
}

#[cfg(test)]
mod tests;
