//! The content of a store, as plain tables.

use super::{RamFlash, module, record};
use proplet::{module::table::Digest, store::Store, text::Text};
use proplet_store::{FlashStore, Opened};
use std::collections::BTreeMap;

/// Notes of the stores that are tested.
pub(crate) const NOTES: usize = 3;

#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// A module by name and length.
    Write(u64, usize),
    Read(u64, usize),
    Remove(u64, usize),
    /// A record at an index, for a module, by name and length.
    WriteRecord(u8, (u64, usize), u64, usize),
    RemoveRecord(u8),
    /// A note at an index, by name and length.
    WriteNote(u8, u64, usize),
    RemoveNote(u8),
}

#[derive(Debug, Clone, PartialEq)]
struct Module {
    bytes: Vec<u8>,
    written: u64,
    used: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Model {
    slots: usize,
    capacity: usize,
    piece_len: usize,
    modules: BTreeMap<Digest, Module>,
    pub(crate) records: BTreeMap<u8, Vec<u8>>,
    notes: BTreeMap<u8, Vec<u8>>,
    clock: u64,
}

impl Model {
    pub(crate) fn new(slots: usize, capacity: usize, piece_len: usize) -> Self {
        Self {
            slots,
            capacity,
            piece_len,
            modules: BTreeMap::new(),
            records: BTreeMap::new(),
            notes: BTreeMap::new(),
            clock: 0,
        }
    }

    pub(crate) fn opened(&self) -> Opened {
        Opened::Found {
            modules: self.modules.len(),
            records: self.records.len(),
        }
    }

    /// The order of uses is that of writing again.
    pub(crate) fn reboot(&mut self) {
        for module in self.modules.values_mut() {
            module.used = module.written;
        }
    }

    fn space(&self, bytes: usize) -> usize {
        bytes.next_multiple_of(self.piece_len)
    }

    fn is_pinned(&self, digest: &Digest) -> bool {
        self.records
            .values()
            .any(|record| record.starts_with(digest))
    }

    fn use_module(&mut self, digest: &Digest) -> bool {
        self.clock += 1;
        let Some(module) = self.modules.get_mut(digest) else {
            return false;
        };
        module.used = self.clock;
        true
    }

    fn write(&mut self, digest: Digest, bytes: Vec<u8>) -> bool {
        if self.use_module(&digest) {
            return true;
        }
        let mut left = self.modules.clone();
        let size = |modules: &BTreeMap<_, Module>| -> usize {
            modules.values().map(|m| self.space(m.bytes.len())).sum()
        };
        while left.len() == self.slots || size(&left) + self.space(bytes.len()) > self.capacity {
            let oldest = left
                .iter()
                .filter(|(digest, _)| !self.is_pinned(digest))
                .min_by_key(|(_, module)| module.used);
            let Some((&oldest, _)) = oldest else {
                return false;
            };
            left.remove(&oldest);
        }
        self.modules = left;
        let (written, used) = (self.clock, self.clock);
        self.modules.insert(
            digest,
            Module {
                bytes,
                written,
                used,
            },
        );
        true
    }

    /// The content after `op`, and whether that succeeds.
    pub(crate) fn apply(&mut self, op: &Op) -> bool {
        match *op {
            Op::Write(name, len) => {
                let (digest, bytes) = module(name, len);
                self.write(digest, bytes)
            }
            Op::Read(name, len) => self.use_module(&module(name, len).0),
            Op::Remove(name, len) => {
                self.modules.remove(&module(name, len).0);
                true
            }
            Op::WriteRecord(index, of, name, len) => {
                let digest = module(of.0, of.1).0;
                self.records.insert(index, record(&digest, name, len));
                true
            }
            Op::RemoveRecord(index) => {
                self.records.remove(&index);
                true
            }
            Op::WriteNote(index, name, len) => {
                self.notes.insert(index, module(name, len).1);
                true
            }
            Op::RemoveNote(index) => {
                self.notes.remove(&index);
                true
            }
        }
    }

    /// All is there byte for byte, and nothing else of what `ops` name; reads all of it.
    pub(crate) fn check(&mut self, store: &mut impl Store, ops: &[Op]) {
        for op in ops {
            let (Op::Write(name, len) | Op::Read(name, len) | Op::Remove(name, len)) = *op else {
                continue;
            };
            let digest = module(name, len).0;
            if !self.modules.contains_key(&digest) {
                assert_eq!(store.module_len(&digest), None, "{name}/{len} is there");
            }
        }
        let digests: Vec<_> = self.modules.keys().copied().collect();
        for digest in digests {
            let bytes = &self.modules[&digest].bytes;
            assert_eq!(store.module_len(&digest), Some(bytes.len()));
            let mut read = vec![0; bytes.len()];
            store.read_module(&digest, &mut read).unwrap();
            assert!(read == *bytes, "other bytes");
            self.use_module(&digest);
        }
        for index in 0..=u8::MAX {
            let record = read_record(store, index).unwrap();
            assert_eq!(record.as_ref(), self.records.get(&index), "record {index}");
            let note = read_note(store, index).unwrap();
            assert_eq!(note.as_ref(), self.notes.get(&index), "note {index}");
        }
    }

    /// `op` was under way when the power went: takes over how far it came, if it is all or nothing.
    pub(crate) fn settle(&mut self, store: &mut impl Store, op: &Op) {
        let mut after = self.clone();
        let done = after.apply(op);
        let found = |store: &mut dyn Store, digest: &Digest| store.module_len(digest).is_some();
        match *op {
            Op::Write(name, len) if done => {
                let digest = module(name, len).0;
                if found(store, &digest) {
                    *self = after;
                    return;
                }
                // Those that were to go went from the least recently used on.
                let mut victims: Vec<_> = self
                    .modules
                    .iter()
                    .filter(|(digest, _)| !after.modules.contains_key(*digest))
                    .map(|(digest, module)| (module.used, *digest))
                    .collect();
                victims.sort_unstable();
                let mut gone = true;
                for (_, victim) in victims {
                    let there = found(store, &victim);
                    assert!(gone || there, "a module went before one less recently used");
                    gone = !there;
                    if gone {
                        self.modules.remove(&victim);
                    }
                }
            }
            Op::Remove(name, len) => {
                if !found(store, &module(name, len).0) {
                    *self = after;
                }
            }
            Op::WriteRecord(index, ..) | Op::RemoveRecord(index) => {
                if read_record(store, index).unwrap().as_ref() == after.records.get(&index) {
                    *self = after;
                }
            }
            Op::WriteNote(index, ..) | Op::RemoveNote(index) => {
                if read_note(store, index).unwrap().as_ref() == after.notes.get(&index) {
                    *self = after;
                }
            }
            Op::Write(..) | Op::Read(..) => {}
        }
    }
}

pub(crate) fn read_note(
    store: &mut (impl Store + ?Sized),
    index: u8,
) -> Result<Option<Vec<u8>>, Text> {
    let mut note = vec![0; proplet::store::NOTE_MAX];
    let len = store.read_note(index, &mut note)?;
    Ok(len.map(|len| note[..len].to_vec()))
}

pub(crate) fn read_record(
    store: &mut (impl Store + ?Sized),
    index: u8,
) -> Result<Option<Vec<u8>>, Text> {
    let mut record = vec![0; proplet::store::RECORD_MAX];
    let len = store.read_record(index, &mut record)?;
    Ok(len.map(|len| record[..len].to_vec()))
}

/// Does `op`; a module that was read must be what its digest says.
pub(crate) fn run(store: &mut impl Store, op: &Op) -> Result<(), Text> {
    match *op {
        Op::Write(name, len) => {
            let (digest, bytes) = module(name, len);
            let (bytes, seal) = bytes.split_at(len - len.min(65));
            store.write_module(&digest, bytes, seal)
        }
        Op::Read(name, len) => {
            let (digest, bytes) = module(name, len);
            let mut read = vec![0; len];
            store.read_module(&digest, &mut read)?;
            assert!(read == bytes, "other bytes");
            Ok(())
        }
        Op::Remove(name, len) => store.remove_module(&module(name, len).0),
        Op::WriteRecord(index, of, name, len) => {
            let digest = module(of.0, of.1).0;
            store.write_record(index, &record(&digest, name, len))
        }
        Op::RemoveRecord(index) => store.remove_record(index),
        Op::WriteNote(index, name, len) => store.write_note(index, &module(name, len).1),
        Op::RemoveNote(index) => store.remove_note(index),
    }
}

/// A store on a flash whose owner keeps it.
pub(crate) type Borrowed<
    'f,
    const WORD: usize,
    const PAGE: usize,
    const SLOTS: usize,
    const RECORDS: usize,
> = FlashStore<&'f mut RamFlash<WORD, PAGE>, SLOTS, RECORDS, NOTES, 256>;
