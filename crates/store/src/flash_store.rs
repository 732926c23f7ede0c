//! The store: what is where, what has to go, and in which order it is written.

use crate::pages::{Log, Pages, WORD_MAX};
use core::fmt;
use embassy_futures::block_on;
use embedded_storage::nor_flash::NorFlash;
use proplet::{
    collections::hash::hash,
    module::table::Digest,
    store::{NOTE_MAX, RECORD_MAX, Store},
    text::{Text, text},
};
use sequential_storage::{
    Error,
    cache::{Cache, Uncached},
    map::{MapConfig, MapStorage, SerializationError, Value},
};

/// Least bytes of a record: its module's digest.
const RECORD_MIN: usize = size_of::<Digest>();

/// Changes with what the items mean.
const LAYOUT_VERSION: u8 = 2;

type Key = u16;
const KEY_LEN: usize = size_of::<Key>();
/// The item that says how the store is laid out.
const LAYOUT: Key = 0;
/// The first of the heads of modules, one for each slot.
const HEADS: Key = 0x100;
/// The first of the records.
const RECORD_ITEMS: Key = 0x200;
/// The first of the notes.
const NOTE_ITEMS: Key = 0x300;
/// The first of the pieces of modules.
const PIECE_ITEMS: Key = 0x400;

/// An item without a value is one that was removed: it takes the place of what was there.
const REMOVED: &[u8] = &[];

/// Owner of a piece that is free.
const FREE: u8 = 0x7f;
/// Added to the owner of a piece that has been read.
const READ: u8 = 0x80;

/// State that [`FlashStore::open`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// Erased flash, which is a store now.
    Empty,
    /// A store as it was left.
    Found {
        /// Modules in it.
        modules: usize,
        /// Records in it.
        records: usize,
    },
    /// A store with something that was cut off or is corrupt; that is gone, and all else is there.
    Repaired {
        /// Modules in it.
        modules: usize,
        /// Records in it.
        records: usize,
    },
    /// No store, one of another layout, or one beyond repair. It was erased and is empty.
    Rebuilt,
}

/// A [`Store`] on all of `F`, for at most `SLOTS` modules, `RECORDS` records, `NOTES` notes and `PIECES`
/// pieces of modules.
///
/// A module takes pieces of [`PIECE_LEN`](Self::PIECE_LEN) bytes, about 1 KiB. `PIECES` is the size
/// of a table; a flash of fewer pages has fewer pieces, see [`capacity`](Self::capacity). If one of
/// the numbers changes, or that of the pages, then the layout is another one: what is stored is
/// lost.
///
/// All pages are written and erased in turn. Which module was used last is kept in memory only:
/// after a reboot, the one written last was.
///
/// # Memory
/// The value is 1.1 KB and 48 bytes for each slot, 33 for each record, 4 for each note, 1 for each piece. It is not
/// moved: make it in a static by [`new`](Self::new), then [`open`](Self::open) it in its place. Calls
/// take 1.5 KB of stack on a Cortex-M33 (opt-level s), and what the port's driver takes.
///
/// # Time
/// To open the store or to read a module takes a pass over all that is written; to gain a page, one
/// for each item of it that is alive.
pub struct FlashStore<
    F,
    const SLOTS: usize,
    const RECORDS: usize,
    const NOTES: usize,
    const PIECES: usize,
> {
    pages: Pages<F>,
    /// Whether the fields below are what is on the flash.
    loaded: bool,
    /// Pieces that modules may take, of [`PIECES`].
    pieces: usize,
    /// Counts writes and uses. Not below any [`Slot::used`].
    clock: u32,
    slots: [Option<Slot>; SLOTS],
    /// First bytes of each record.
    records: [Option<Digest>; RECORDS],
    /// [`tag_of`] each note, or [`NO_NOTE`].
    notes: [u32; NOTES],
    /// The slot of the module that has each piece, or [`FREE`].
    owners: [u8; PIECES],
    buffer: Buffer,
}

/// Room for the longest item, key and record, in words of any size. Some flash is read and written
/// only from aligned memory.
#[repr(align(4))]
struct Buffer([u8; (KEY_LEN + RECORD_MAX).next_multiple_of(WORD_MAX)]);

#[derive(Debug, Clone, Copy)]
struct Slot {
    digest: Digest,
    /// Bytes of the module.
    len: u32,
    /// Value of the clock when it was last used.
    used: u32,
}

/// Failure of a call: small, and made text of once, at the end.
enum Failure<E> {
    /// The port's driver says so.
    Flash(E),
    /// The content of the flash is corrupt.
    Corrupt,
    FlashTooSmall {
        pages: usize,
        needed: usize,
        slots: usize,
        records: usize,
        notes: usize,
    },
    NoSuchModule,
    OtherLength {
        stored: u32,
        wanted: usize,
    },
    PieceLost,
    ModuleTooLong {
        len: usize,
        capacity: usize,
    },
    /// Less is left beside modules with records.
    ModuleBesidePinned {
        len: usize,
        left: usize,
        capacity: usize,
    },
    /// All slots are those of modules with records.
    SlotsPinned {
        len: usize,
        slots: usize,
    },
    NoSuchRecord {
        index: u8,
        records: usize,
    },
    RecordLength(usize),
    RecordLost(u8),
    RoomForRecord {
        len: usize,
        room: usize,
    },
    NoSuchNote {
        index: u8,
        notes: usize,
    },
    NoteLength(usize),
    NoteLost(u8),
    RoomForNote {
        len: usize,
        room: usize,
    },
}

impl<E: fmt::Debug> fmt::Display for Failure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flash(error) => write!(f, "flash: {error:?}"),
            Self::Corrupt => f.write_str("flash: corrupt, all that was stored is lost"),
            Self::FlashTooSmall {
                pages,
                needed,
                slots,
                records,
                notes,
            } => write!(
                f,
                "flash of {pages} pages: {slots} modules, {records} records and {notes} notes take {needed} or more"
            ),
            Self::NoSuchModule => f.write_str("the store has no such module"),
            Self::OtherLength { stored, wanted } => {
                write!(f, "the stored module has {stored} bytes, not {wanted}")
            }
            Self::PieceLost => f.write_str("flash: a part of the stored module can't be read"),
            Self::ModuleTooLong { len, capacity } => write!(
                f,
                "module of {len} bytes: the store holds at most {capacity}"
            ),
            Self::ModuleBesidePinned {
                len,
                left,
                capacity,
            } => write!(
                f,
                "module of {len} bytes: {left} of {capacity} are left beside modules with records"
            ),
            Self::SlotsPinned { len, slots } => write!(
                f,
                "module of {len} bytes: all of the at most {slots} modules of the store have records"
            ),
            Self::NoSuchRecord { index, records } => {
                write!(f, "record {index}: the store has {records}, from 0 on")
            }
            Self::RecordLength(len) => write!(
                f,
                "record of {len} bytes: {RECORD_MIN} to {RECORD_MAX} are allowed"
            ),
            Self::RecordLost(index) => write!(f, "flash: record {index} can't be read"),
            Self::RoomForRecord { len, room } => {
                write!(f, "record of {len} bytes: there is room for {room}")
            }
            Self::NoSuchNote { index, notes } => {
                write!(f, "note {index}: the store has {notes}, from 0 on")
            }
            Self::NoteLength(len) => {
                write!(f, "note of {len} bytes: 1 to {NOTE_MAX} are allowed")
            }
            Self::NoteLost(index) => write!(f, "flash: note {index} can't be read"),
            Self::RoomForNote { len, room } => {
                write!(f, "note of {len} bytes: there is room for {room}")
            }
        }
    }
}

impl<E> From<Error<E>> for Failure<E> {
    fn from(error: Error<E>) -> Self {
        match error {
            Error::Storage { value, .. } => Self::Flash(value),
            // There is room for all items that are ours, and a buffer for each: others are there.
            _ => Self::Corrupt,
        }
    }
}

type Outcome<T, F> = Result<T, Failure<<F as embedded_storage::nor_flash::ErrorType>::Error>>;

type Map<'f, F> = MapStorage<Key, &'f mut Pages<F>, Cache<Uncached, Uncached, Uncached, Key>>;

fn map<F: NorFlash>(pages: &mut Pages<F>) -> Map<'_, F> {
    let config = MapConfig::new(pages.range());
    MapStorage::new(pages, config, Cache::new_uncached())
}

/// Writes an item in the place of the one that has its key, if any.
#[inline(never)]
fn put<F: NorFlash>(
    pages: &mut Pages<F>,
    buffer: &mut Buffer,
    key: Key,
    value: &dyn Value<'_>,
) -> Outcome<(), F> {
    let mut map = map(pages);
    Ok(block_on(map.store_item_generic(
        &mut buffer.0,
        &key,
        value,
    ))?)
}

/// Stored form of a module: its bytes, and behind them its seal.
#[derive(Clone, Copy)]
struct Parts<'m> {
    bytes: &'m [u8],
    seal: &'m [u8],
}

impl<'m> Parts<'m> {
    const fn len(&self) -> usize {
        self.bytes.len() + self.seal.len()
    }

    /// The parts of what lies from `from` to before `to`.
    fn range(&self, from: usize, to: usize) -> Self {
        let split = self.bytes.len();
        let part = |part: &'m [u8], start: usize| {
            let from = from.saturating_sub(start).min(part.len());
            let to = to.saturating_sub(start).min(part.len());
            &part[from..to]
        };
        Self {
            bytes: part(self.bytes, 0),
            seal: part(self.seal, split),
        }
    }
}

impl Value<'_> for Parts<'_> {
    fn serialize_into(&self, buffer: &mut [u8]) -> Result<usize, SerializationError> {
        let to = buffer
            .get_mut(..self.len())
            .ok_or(SerializationError::BufferTooSmall)?;
        let (bytes, seal) = to.split_at_mut(self.bytes.len());
        bytes.copy_from_slice(self.bytes);
        seal.copy_from_slice(self.seal);
        Ok(self.len())
    }

    fn deserialize_from(_: &[u8]) -> Result<(Self, usize), SerializationError> {
        Err(SerializationError::InvalidFormat)
    }
}

/// The value of a module's head: digest, length, clock at the time of writing, and a bit for each
/// piece of the store, set if the module has it. Its bytes are in the pieces in ascending order.
struct Head<'s> {
    slot: u8,
    module: &'s Slot,
    owners: &'s [u8],
}

const HEAD_LEN_AT: usize = size_of::<Digest>();
const HEAD_USED_AT: usize = HEAD_LEN_AT + 4;
const HEAD_PIECES_AT: usize = HEAD_USED_AT + 4;

impl Value<'_> for Head<'_> {
    fn serialize_into(&self, buffer: &mut [u8]) -> Result<usize, SerializationError> {
        let len = HEAD_PIECES_AT + self.owners.len().div_ceil(8);
        let head = buffer
            .get_mut(..len)
            .ok_or(SerializationError::BufferTooSmall)?;
        let (fixed, pieces) = head.split_at_mut(HEAD_PIECES_AT);
        fixed[..HEAD_LEN_AT].copy_from_slice(&self.module.digest);
        fixed[HEAD_LEN_AT..HEAD_USED_AT].copy_from_slice(&self.module.len.to_le_bytes());
        fixed[HEAD_USED_AT..].copy_from_slice(&self.module.used.to_le_bytes());
        for (byte, owners) in pieces.iter_mut().zip(self.owners.chunks(8)) {
            *byte = owners
                .iter()
                .rev()
                .fold(0, |bits, owner| bits << 1 | u8::from(*owner == self.slot));
        }
        Ok(len)
    }

    fn deserialize_from(_: &[u8]) -> Result<(Self, usize), SerializationError> {
        Err(SerializationError::InvalidFormat)
    }
}

/// The module of a head's value, and its bits; `None` if it was removed or makes no sense.
fn parse_head(value: &[u8]) -> Option<(Slot, &[u8])> {
    let (fixed, pieces) = value.split_at_checked(HEAD_PIECES_AT)?;
    let slot = Slot {
        digest: fixed[..HEAD_LEN_AT].try_into().ok()?,
        len: u32::from_le_bytes(fixed[HEAD_LEN_AT..HEAD_USED_AT].try_into().ok()?),
        used: u32::from_le_bytes(fixed[HEAD_USED_AT..].try_into().ok()?),
    };
    Some((slot, pieces))
}

/// Tag of a note that is not there.
const NO_NOTE: u32 = 0;

/// Tag of a note's bytes: an older note that appears again is not taken for the one that is lost.
fn tag_of(note: &[u8]) -> u32 {
    match note {
        REMOVED => NO_NOTE,
        note => hash(&[note]) | 1,
    }
}

/// Index of `key` among `count` keys from `first` on.
fn index(key: Key, first: Key, count: usize) -> Option<usize> {
    let index = usize::from(key.checked_sub(first)?);
    (index < count).then_some(index)
}

impl<F: NorFlash, const SLOTS: usize, const RECORDS: usize, const NOTES: usize, const PIECES: usize>
    FlashStore<F, SLOTS, RECORDS, NOTES, PIECES>
{
    /// Bytes of a page for items, between two marks.
    const ITEMS_LEN: usize = Pages::<F>::SIZE - 2 * Pages::<F>::WORD;

    /// Bytes that an item takes with a value of `len`.
    const fn item_len(value: usize) -> usize {
        Map::<F>::item_overhead_size() as usize
            + (KEY_LEN + value).next_multiple_of(Pages::<F>::WORD)
    }

    /// Pieces that find room in a page. They are as long as they may be if a page without room for
    /// a record is to hold as many places, where a piece and any other item is one place and
    /// a record two.
    const PER_PAGE: usize = {
        assert!(
            Self::item_len(RECORD_MAX) < Self::ITEMS_LEN,
            "a page of this flash is too short for a record"
        );
        1 + (Self::ITEMS_LEN - Self::item_len(RECORD_MAX)).div_ceil(Self::item_len(RECORD_MAX))
    };

    /// Bytes of a module in each of its pieces but the last.
    pub const PIECE_LEN: usize = {
        let record = Self::item_len(RECORD_MAX);
        let item = (Self::ITEMS_LEN - record) / (Self::PER_PAGE - 1);
        assert!(
            item <= record && record <= 2 * item,
            "a page of this flash has room for too little beside a record"
        );
        let value = item - Map::<F>::item_overhead_size() as usize;
        value / Pages::<F>::WORD * Pages::<F>::WORD - KEY_LEN
    };

    /// Places that all items take that are no pieces.
    const OTHERS: usize = {
        assert!(SLOTS > 0 && SLOTS < FREE as usize, "1 to 126 slots");
        assert!(RECORDS <= 256, "at most 256 records");
        assert!(NOTES <= 255, "at most 255 notes");
        assert!(PIECES > 0 && PIECES <= 4096, "1 to 4,096 pieces");
        assert!(
            NOTE_MAX <= Self::PIECE_LEN,
            "the pages of this flash are too short for a note in the place of a piece"
        );
        assert!(
            HEAD_PIECES_AT + PIECES.div_ceil(8) <= Self::PIECE_LEN,
            "the pages of this flash are too short for so many pieces"
        );
        SLOTS + 1 + 2 * RECORDS + NOTES
    };

    /// A store that is not open yet; the first call opens it, if [`open`](Self::open) does not.
    pub const fn new(flash: F) -> Self {
        Self {
            pages: Pages::new(flash),
            loaded: false,
            pieces: 0,
            clock: 0,
            slots: [None; SLOTS],
            records: [None; RECORDS],
            notes: [NO_NOTE; NOTES],
            owners: [FREE; PIECES],
            buffer: Buffer([0; _]),
        }
    }

    /// Finds out what is on the flash, and formats it if that is no store. Reads all of it
    /// once or twice.
    ///
    /// # Errors
    /// The reason as text, if the flash is too small for the modules, records and notes, or fails.
    pub fn open(&mut self) -> Result<Opened, Text> {
        self.load().map_err(|failure| self.explain(failure))
    }

    /// Most bytes of modules that fit, in whole [`PIECE_LEN`](Self::PIECE_LEN)s; 0 before the store
    /// is open.
    pub const fn capacity(&self) -> usize {
        self.pieces * Self::PIECE_LEN
    }

    /// Number of pieces that leave a page with room for any item, wherever they and all other items lie.
    ///
    /// One page is erased, and each other one without room holds `PER_PAGE` places' worth. To find
    /// room takes a turn through all pages at most, in which each is copied without its garbage:
    /// there is some if they hold one place's worth less.
    fn pieces_of_flash(&self) -> Outcome<usize, F> {
        let pages = self.pages.count();
        let places = pages.saturating_sub(1) * Self::PER_PAGE;
        match places.checked_sub(1 + Self::OTHERS) {
            Some(pieces @ 1..) => Ok(pieces.min(PIECES)),
            _ => Err(Failure::FlashTooSmall {
                pages,
                needed: 1 + (2 + Self::OTHERS).div_ceil(Self::PER_PAGE),
                slots: SLOTS,
                records: RECORDS,
                notes: NOTES,
            }),
        }
    }

    #[inline(never)]
    fn load(&mut self) -> Outcome<Opened, F> {
        self.loaded = false;
        self.pieces = self.pieces_of_flash()?;
        let log = self
            .pages
            .recover(&mut self.buffer.0)
            .map_err(Failure::Flash)?;
        let opened = match log {
            Log::Blank => self.format().map(|()| Opened::Empty),
            Log::Broken => Err(Failure::Corrupt),
            Log::Whole => self.find_all(false),
            Log::Repaired => self.find_all(true),
        };
        let opened = match opened {
            Err(Failure::Corrupt) => {
                self.rebuild()?;
                Opened::Rebuilt
            }
            opened => opened?,
        };
        self.loaded = true;
        Ok(opened)
    }

    /// Finds out what is stored; `repaired` says whether the pages had to be.
    fn find_all(&mut self, repaired: bool) -> Outcome<Opened, F> {
        self.read_items()?;
        let dropped = self.drop_invalid()?;
        let modules = self.slots.iter().flatten().count();
        let records = self.records.iter().flatten().count();
        Ok(if dropped || repaired {
            Opened::Repaired { modules, records }
        } else {
            Opened::Found { modules, records }
        })
    }

    fn rebuild(&mut self) -> Outcome<(), F> {
        self.pages.erase_all().map_err(Failure::Flash)?;
        self.format()
    }

    /// Makes a store of erased flash.
    fn format(&mut self) -> Outcome<(), F> {
        self.forget();
        let layout = self.layout();
        self.put(LAYOUT, &layout)
    }

    fn forget(&mut self) {
        self.clock = 0;
        self.slots.fill(None);
        self.records.fill(None);
        self.notes.fill(NO_NOTE);
        self.owners.fill(FREE);
    }

    fn layout(&self) -> [u8; 11] {
        let [slots, records, pieces, pages] =
            [SLOTS, RECORDS, self.pieces, self.pages.count()].map(|n| (n as u16).to_le_bytes());
        let [a, b] = (Self::PIECE_LEN as u16).to_le_bytes();
        [
            LAYOUT_VERSION,
            slots[0],
            records[0],
            records[1],
            NOTES as u8,
            pieces[0],
            pieces[1],
            pages[0],
            pages[1],
            a,
            b,
        ]
    }

    /// Reads what there is from all items, oldest first, so that the last with a key is in force.
    /// Without the layout of this store among them they make no sense.
    #[inline(never)]
    fn read_items(&mut self) -> Outcome<(), F> {
        self.forget();
        let layout = self.layout();
        let mut known = false;
        let buffer = &mut self.buffer.0;
        let mut map = map(&mut self.pages);
        let mut items = block_on(map.fetch_all_items(buffer))?;
        while let Some((key, value)) = block_on(items.next::<&[u8]>(buffer))? {
            if key == LAYOUT {
                known = value == layout;
            } else if let Some(i) = index(key, HEADS, SLOTS) {
                self.owners
                    .iter_mut()
                    .filter(|owner| usize::from(**owner) == i)
                    .for_each(|owner| *owner = FREE);
                let head = parse_head(value);
                self.slots[i] = head.map(|(slot, _)| slot);
                let bits = head.map_or(REMOVED, |(_, bits)| bits);
                for (piece, owner) in self.owners[..self.pieces].iter_mut().enumerate() {
                    if bits
                        .get(piece / 8)
                        .is_some_and(|b| b >> (piece % 8) & 1 == 1)
                    {
                        *owner = i as u8;
                    }
                }
            } else if let Some(i) = index(key, RECORD_ITEMS, RECORDS) {
                self.records[i] = value.first_chunk().copied();
            } else if let Some(i) = index(key, NOTE_ITEMS, NOTES) {
                self.notes[i] = tag_of(value);
            }
        }
        let last = self.slots.iter().flatten().map(|slot| slot.used).max();
        self.clock = last.unwrap_or(0);
        if known { Ok(()) } else { Err(Failure::Corrupt) }
    }

    /// Drops modules that have not all their pieces: only if items are corrupt, older ones appear
    /// again. Returns whether there were any.
    fn drop_invalid(&mut self) -> Outcome<bool, F> {
        let mut dropped = false;
        for i in 0..SLOTS {
            let Some(slot) = self.slots[i] else {
                continue;
            };
            let pieces = self.owners.iter().filter(|o| usize::from(**o) == i).count();
            let twice = self.slots[..i]
                .iter()
                .flatten()
                .any(|other| other.digest == slot.digest);
            if twice || pieces != (slot.len as usize).div_ceil(Self::PIECE_LEN) {
                self.remove_slot(i)?;
                dropped = true;
            }
        }
        Ok(dropped)
    }

    /// Opens the store, unless what is in memory is what is on the flash.
    fn ready(&mut self) -> Outcome<(), F> {
        if !self.loaded {
            self.load()?;
        }
        Ok(())
    }

    /// The reason as text. If it lies with the flash, then that is read anew by the next call, and
    /// nothing is kept of it if it is corrupt.
    #[inline(never)]
    fn explain(&mut self, failure: Failure<F::Error>) -> Text {
        match failure {
            Failure::Flash(_) => self.loaded = false,
            // The next call makes a store of it, whatever this one leaves.
            Failure::Corrupt => self.loaded = self.rebuild().is_ok(),
            _ => {}
        }
        text(format_args!("{failure}"))
    }

    fn put(&mut self, key: Key, value: &[u8]) -> Outcome<(), F> {
        put(&mut self.pages, &mut self.buffer, key, &value)
    }

    fn find(&self, digest: &Digest) -> Option<usize> {
        self.slots
            .iter()
            .position(|slot| slot.is_some_and(|slot| slot.digest == *digest))
    }

    fn is_pinned(&self, slot: &Slot) -> bool {
        self.records.contains(&Some(slot.digest))
    }

    fn tick(&mut self) -> u32 {
        self.clock = self.clock.saturating_add(1);
        self.clock
    }

    fn touch(&mut self, i: usize) {
        let now = self.tick();
        if let Some(slot) = &mut self.slots[i] {
            slot.used = now;
        }
    }

    fn is_free(&self, piece: usize) -> bool {
        self.owners[piece] == FREE
    }

    /// Drops the module in a slot. Its pieces are removed so that they are not copied for nothing.
    fn remove_slot(&mut self, i: usize) -> Outcome<(), F> {
        self.put(HEADS + i as Key, REMOVED)?;
        self.slots[i] = None;
        for piece in 0..self.pieces {
            if usize::from(self.owners[piece]) == i {
                self.put(PIECE_ITEMS + piece as Key, REMOVED)?;
                self.owners[piece] = FREE;
            }
        }
        Ok(())
    }

    /// Whether there can be room for a module of `len` bytes, whatever else goes.
    fn admit(&self, len: usize) -> Outcome<(), F> {
        let capacity = self.capacity();
        if len > capacity {
            return Err(Failure::ModuleTooLong { len, capacity });
        }
        let pinned = || self.slots.iter().flatten().filter(|s| self.is_pinned(s));
        if pinned().count() == SLOTS {
            return Err(Failure::SlotsPinned { len, slots: SLOTS });
        }
        let taken: usize = pinned()
            .map(|slot| (slot.len as usize).next_multiple_of(Self::PIECE_LEN))
            .sum();
        let left = capacity.saturating_sub(taken);
        if len > left {
            return Err(Failure::ModuleBesidePinned {
                len,
                left,
                capacity,
            });
        }
        Ok(())
    }

    /// Makes room for that many pieces, at the cost of the modules least recently used, and returns
    /// a slot for them. `None` if modules with records leave none.
    fn make_room(&mut self, pieces: usize) -> Outcome<Option<usize>, F> {
        loop {
            let vacant = self.slots.iter().position(Option::is_none);
            let free = (0..self.pieces).filter(|p| self.is_free(*p)).count();
            if vacant.is_some() && free >= pieces {
                return Ok(vacant);
            }
            let oldest = self
                .slots
                .iter()
                .enumerate()
                .filter_map(|(i, slot)| slot.as_ref().map(|slot| (i, slot)))
                .filter(|(_, slot)| !self.is_pinned(slot))
                .min_by_key(|(_, slot)| slot.used);
            let Some((i, _)) = oldest else {
                return Ok(None);
            };
            self.remove_slot(i)?;
        }
    }

    /// Writes the module's pieces, then its head, which makes them a module.
    fn fill_slot(&mut self, i: usize, digest: &Digest, parts: Parts<'_>) -> Outcome<(), F> {
        let mut piece = 0;
        for from in (0..parts.len()).step_by(Self::PIECE_LEN) {
            while !self.is_free(piece) {
                piece += 1;
            }
            let value = parts.range(from, from + Self::PIECE_LEN);
            let key = PIECE_ITEMS + piece as Key;
            put(&mut self.pages, &mut self.buffer, key, &value)?;
            self.owners[piece] = i as u8;
        }
        let module = Slot {
            digest: *digest,
            len: parts.len() as u32,
            used: self.tick(),
        };
        let head = Head {
            slot: i as u8,
            module: &module,
            owners: &self.owners[..self.pieces],
        };
        put(&mut self.pages, &mut self.buffer, HEADS + i as Key, &head)?;
        self.slots[i] = Some(module);
        Ok(())
    }

    /// Reads the pieces of the module in slot `i` in one pass over all items, which is not longer
    /// than to find a single one. Returns whether they were all there.
    #[inline(never)]
    fn read_pieces(&mut self, i: usize, into: &mut [u8]) -> Outcome<bool, F> {
        let buffer = &mut self.buffer.0;
        let mut map = map(&mut self.pages);
        let mut items = block_on(map.fetch_all_items(buffer))?;
        while let Some((key, value)) = block_on(items.next::<&[u8]>(buffer))? {
            let Some(piece) = index(key, PIECE_ITEMS, self.pieces) else {
                continue;
            };
            let is_ours = |owner: &u8| usize::from(owner & !READ) == i;
            if !is_ours(&self.owners[piece]) {
                continue;
            }
            let rank = self.owners[..piece].iter().filter(|o| is_ours(o)).count();
            let mut chunks = into.chunks_mut(Self::PIECE_LEN);
            self.owners[piece] = match chunks.nth(rank) {
                Some(chunk) if chunk.len() == value.len() => {
                    chunk.copy_from_slice(value);
                    i as u8 | READ
                }
                _ => i as u8,
            };
        }
        let mut all = true;
        for owner in &mut self.owners {
            all &= usize::from(*owner) != i;
            *owner &= !READ;
        }
        Ok(all)
    }

    /// The record at `index`; `None` without one, or if it is not the one that was there.
    #[inline(never)]
    fn fetch_record(&mut self, index: usize) -> Outcome<Option<&[u8]>, F> {
        let key = RECORD_ITEMS + index as Key;
        let mut map = map(&mut self.pages);
        let value = block_on(map.fetch_item::<&[u8]>(&mut self.buffer.0, &key))?;
        Ok(value.filter(|value| value.first_chunk() == self.records[index].as_ref()))
    }

    /// The note at `index`; `None` if it is not the one that was there.
    #[inline(never)]
    fn fetch_note(&mut self, index: usize) -> Outcome<Option<&[u8]>, F> {
        let key = NOTE_ITEMS + index as Key;
        let mut map = map(&mut self.pages);
        let value = block_on(map.fetch_item::<&[u8]>(&mut self.buffer.0, &key))?;
        Ok(value.filter(|value| tag_of(value) == self.notes[index]))
    }

    fn try_read_module(&mut self, digest: &Digest, into: &mut [u8]) -> Outcome<(), F> {
        self.ready()?;
        let i = self.find(digest).ok_or(Failure::NoSuchModule)?;
        let slot = self.slots[i].as_ref().ok_or(Failure::NoSuchModule)?;
        if into.len() != slot.len as usize {
            return Err(Failure::OtherLength {
                stored: slot.len,
                wanted: into.len(),
            });
        }
        if !self.read_pieces(i, into)? {
            return Err(Failure::PieceLost);
        }
        self.touch(i);
        Ok(())
    }

    fn try_write_module(&mut self, digest: &Digest, parts: Parts<'_>) -> Outcome<(), F> {
        self.ready()?;
        if let Some(i) = self.find(digest) {
            self.touch(i);
            return Ok(());
        }
        let len = parts.len();
        self.admit(len)?;
        let room = self.make_room(len.div_ceil(Self::PIECE_LEN))?;
        let i = room.ok_or(Failure::SlotsPinned { len, slots: SLOTS })?;
        self.fill_slot(i, digest, parts)
    }

    fn try_remove_module(&mut self, digest: &Digest) -> Outcome<(), F> {
        self.ready()?;
        match self.find(digest) {
            Some(i) => self.remove_slot(i),
            None => Ok(()),
        }
    }

    fn try_read_record(&mut self, index: u8, into: &mut [u8]) -> Outcome<Option<usize>, F> {
        self.ready()?;
        let i = usize::from(index);
        if !matches!(self.records.get(i), Some(Some(_))) {
            return Ok(None);
        }
        let value = self.fetch_record(i)?.ok_or(Failure::RecordLost(index))?;
        let (len, room) = (value.len(), into.len());
        into.get_mut(..len)
            .ok_or(Failure::RoomForRecord { len, room })?
            .copy_from_slice(value);
        Ok(Some(len))
    }

    fn try_write_record(&mut self, index: u8, bytes: &[u8]) -> Outcome<(), F> {
        self.ready()?;
        let i = usize::from(index);
        if i >= RECORDS {
            let records = RECORDS;
            return Err(Failure::NoSuchRecord { index, records });
        }
        let digest = match bytes.first_chunk() {
            Some(digest) if bytes.len() <= RECORD_MAX => digest,
            _ => return Err(Failure::RecordLength(bytes.len())),
        };
        if self.fetch_record(i)? != Some(bytes) {
            self.put(RECORD_ITEMS + i as Key, bytes)?;
        }
        self.records[i] = Some(*digest);
        Ok(())
    }

    fn try_remove_record(&mut self, index: u8) -> Outcome<(), F> {
        self.ready()?;
        let i = usize::from(index);
        if matches!(self.records.get(i), Some(Some(_))) {
            self.put(RECORD_ITEMS + i as Key, REMOVED)?;
            self.records[i] = None;
        }
        Ok(())
    }

    /// Whether there is a note at `index`.
    fn has_note(&self, index: u8) -> bool {
        let tag = self.notes.get(usize::from(index));
        tag.is_some_and(|tag| *tag != NO_NOTE)
    }

    fn try_read_note(&mut self, index: u8, into: &mut [u8]) -> Outcome<Option<usize>, F> {
        self.ready()?;
        if !self.has_note(index) {
            return Ok(None);
        }
        let value = self.fetch_note(index.into())?;
        let value = value.ok_or(Failure::NoteLost(index))?;
        let (len, room) = (value.len(), into.len());
        into.get_mut(..len)
            .ok_or(Failure::RoomForNote { len, room })?
            .copy_from_slice(value);
        Ok(Some(len))
    }

    fn try_write_note(&mut self, index: u8, bytes: &[u8]) -> Outcome<(), F> {
        self.ready()?;
        let i = usize::from(index);
        if i >= NOTES {
            let notes = NOTES;
            return Err(Failure::NoSuchNote { index, notes });
        }
        if bytes.is_empty() || bytes.len() > NOTE_MAX {
            return Err(Failure::NoteLength(bytes.len()));
        }
        // A note that differs in its tag need not be read.
        let tag = tag_of(bytes);
        if self.notes[i] != tag || self.fetch_note(i)? != Some(bytes) {
            self.put(NOTE_ITEMS + i as Key, bytes)?;
            self.notes[i] = tag;
        }
        Ok(())
    }

    fn try_remove_note(&mut self, index: u8) -> Outcome<(), F> {
        self.ready()?;
        if self.has_note(index) {
            let i = usize::from(index);
            self.put(NOTE_ITEMS + i as Key, REMOVED)?;
            self.notes[i] = NO_NOTE;
        }
        Ok(())
    }
}

impl<
    F: NorFlash + Send,
    const SLOTS: usize,
    const RECORDS: usize,
    const NOTES: usize,
    const PIECES: usize,
> Store for FlashStore<F, SLOTS, RECORDS, NOTES, PIECES>
{
    fn module_len(&mut self, digest: &Digest) -> Option<usize> {
        self.ready().ok()?;
        let slot = self.slots[self.find(digest)?].as_ref()?;
        Some(slot.len as usize)
    }

    fn read_module(&mut self, digest: &Digest, into: &mut [u8]) -> Result<(), Text> {
        self.try_read_module(digest, into)
            .map_err(|failure| self.explain(failure))
    }

    fn write_module(&mut self, digest: &Digest, bytes: &[u8], seal: &[u8]) -> Result<(), Text> {
        self.try_write_module(digest, Parts { bytes, seal })
            .map_err(|failure| self.explain(failure))
    }

    fn remove_module(&mut self, digest: &Digest) -> Result<(), Text> {
        self.try_remove_module(digest)
            .map_err(|failure| self.explain(failure))
    }

    fn read_record(&mut self, index: u8, into: &mut [u8]) -> Result<Option<usize>, Text> {
        self.try_read_record(index, into)
            .map_err(|failure| self.explain(failure))
    }

    fn write_record(&mut self, index: u8, bytes: &[u8]) -> Result<(), Text> {
        self.try_write_record(index, bytes)
            .map_err(|failure| self.explain(failure))
    }

    fn remove_record(&mut self, index: u8) -> Result<(), Text> {
        self.try_remove_record(index)
            .map_err(|failure| self.explain(failure))
    }

    fn notes(&self) -> u8 {
        // There are 255 at most.
        NOTES as u8
    }

    fn read_note(&mut self, index: u8, into: &mut [u8]) -> Result<Option<usize>, Text> {
        self.try_read_note(index, into)
            .map_err(|failure| self.explain(failure))
    }

    fn write_note(&mut self, index: u8, bytes: &[u8]) -> Result<(), Text> {
        self.try_write_note(index, bytes)
            .map_err(|failure| self.explain(failure))
    }

    fn remove_note(&mut self, index: u8) -> Result<(), Text> {
        self.try_remove_note(index)
            .map_err(|failure| self.explain(failure))
    }
}

impl<F, const SLOTS: usize, const RECORDS: usize, const NOTES: usize, const PIECES: usize>
    fmt::Debug for FlashStore<F, SLOTS, RECORDS, NOTES, PIECES>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlashStore")
            .field("loaded", &self.loaded)
            .field("modules", &self.slots.iter().flatten().count())
            .field("records", &self.records.iter().flatten().count())
            .field(
                "notes",
                &self.notes.iter().filter(|tag| **tag != NO_NOTE).count(),
            )
            .field("pieces", &self.pieces)
            .finish_non_exhaustive()
    }
}
