//! The store as its caller sees it: limits and their texts, evictions, and writes that are left out.

mod support;

use embedded_storage::nor_flash::{ErrorType, NorFlash, ReadNorFlash};
use proplet::store::Store;
use proplet_store::{FlashStore, Opened};
use std::sync::{Arc, Mutex, MutexGuard};
use support::{
    Fault, RamFlash, Tear,
    model::{read_note, read_record},
    module, record,
};

type Flash = RamFlash<4, 4096>;

/// A flash that the test can still get at.
#[derive(Clone)]
struct Shared(Arc<Mutex<Flash>>);

impl ErrorType for Shared {
    type Error = Fault;
}

impl ReadNorFlash for Shared {
    const READ_SIZE: usize = Flash::READ_SIZE;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Fault> {
        self.flash().read(offset, bytes)
    }

    fn capacity(&self) -> usize {
        self.flash().capacity()
    }
}

impl NorFlash for Shared {
    const WRITE_SIZE: usize = Flash::WRITE_SIZE;
    const ERASE_SIZE: usize = Flash::ERASE_SIZE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Fault> {
        self.flash().erase(from, to)
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Fault> {
        self.flash().write(offset, bytes)
    }
}

impl Shared {
    fn new(pages: usize) -> Self {
        Self(Arc::new(Mutex::new(Flash::new(pages))))
    }

    fn flash(&self) -> MutexGuard<'_, Flash> {
        self.0.lock().expect("nothing panics with it")
    }

    fn operations(&self) -> u64 {
        self.flash().work.operations
    }
}

type TestStore<const SLOTS: usize, const RECORDS: usize> =
    FlashStore<Shared, SLOTS, RECORDS, 2, 256>;

fn store<const SLOTS: usize, const RECORDS: usize>(
    flash: &Shared,
) -> (TestStore<SLOTS, RECORDS>, Opened) {
    let mut store = FlashStore::new(flash.clone());
    let opened = store.open().unwrap();
    (store, opened)
}

fn write(store: &mut impl Store, name: u64, len: usize) -> Result<(), String> {
    let (digest, bytes) = module(name, len);
    store
        .write_module(&digest, &bytes, &[])
        .map_err(|err| err.as_str().to_owned())
}

fn has(store: &mut impl Store, name: u64, len: usize) -> bool {
    store.module_len(&module(name, len).0) == Some(len)
}

#[test]
fn the_least_recently_used_module_without_a_record_goes() {
    let (mut store, opened) = store::<4, 2>(&Shared::new(16));
    assert_eq!(opened, Opened::Empty);
    for name in 1..=4 {
        write(&mut store, name, 2000).unwrap();
    }
    let (first, bytes) = module(1, 2000);
    store
        .write_record(0, &record(&module(2, 2000).0, 0, 32))
        .unwrap();
    let mut read = [0; 2000];
    store.read_module(&first, &mut read).unwrap();
    assert!(read == *bytes);

    // The third is the oldest without a use or a record.
    write(&mut store, 5, 2000).unwrap();
    let left: Vec<_> = (1..=5).filter(|n| has(&mut store, *n, 2000)).collect();
    assert_eq!(left, [1, 2, 4, 5]);
    // As many go as have to.
    let capacity = store.capacity();
    write(&mut store, 6, capacity - 3000).unwrap();
    let left: Vec<_> = (1..=5).filter(|n| has(&mut store, *n, 2000)).collect();
    assert_eq!(left, [2]);
}

#[test]
fn what_can_not_fit_is_refused_with_the_limit_and_nothing_goes() {
    let (mut store, _) = store::<3, 3>(&Shared::new(16));
    let capacity = store.capacity();
    assert_eq!(capacity, (60 - 1 - 4 - 6 - 2) * 1002);
    write(&mut store, 1, 2000).unwrap();
    assert_eq!(
        write(&mut store, 2, capacity + 1).unwrap_err(),
        format!(
            "module of {} bytes: the store holds at most {capacity}",
            capacity + 1
        )
    );
    store
        .write_record(0, &record(&module(1, 2000).0, 0, 32))
        .unwrap();
    let left = capacity - 2 * 1002;
    assert_eq!(
        write(&mut store, 2, left + 1).unwrap_err(),
        format!(
            "module of {} bytes: {left} of {capacity} are left beside modules with records",
            left + 1
        )
    );
    assert!(has(&mut store, 1, 2000));
    write(&mut store, 2, left).unwrap();
    assert!(has(&mut store, 1, 2000));

    for name in 3..=4 {
        write(&mut store, name, 10).unwrap();
        let digest = module(name, 10).0;
        store
            .write_record(name as u8 - 2, &record(&digest, 0, 32))
            .unwrap();
    }
    assert_eq!(
        write(&mut store, 5, 10).unwrap_err(),
        "module of 10 bytes: all of the at most 3 modules of the store have records"
    );
    for name in 3..=4 {
        assert!(has(&mut store, name, 10));
    }
}

#[test]
fn nothing_is_written_that_is_there() {
    let flash = Shared::new(16);
    let (mut store, _) = store::<4, 2>(&flash);
    let (digest, mut bytes) = module(1, 5000);
    let record = record(&digest, 0, 700);
    write(&mut store, 1, 5000).unwrap();
    store.write_record(1, &record).unwrap();
    store.write_note(1, b"note").unwrap();

    let before = flash.operations();
    write(&mut store, 1, 5000).unwrap();
    store.read_module(&digest, &mut bytes).unwrap();
    store.write_record(1, &record).unwrap();
    store.remove_record(0).unwrap();
    store.write_note(1, b"note").unwrap();
    store.remove_note(0).unwrap();
    store.remove_module(&module(2, 10).0).unwrap();
    assert_eq!(read_record(&mut store, 1).unwrap(), Some(record));
    assert_eq!(read_note(&mut store, 1).unwrap(), Some(b"note".to_vec()));
    let (_, opened) = self::store::<4, 2>(&flash);
    assert!(matches!(
        opened,
        Opened::Found {
            modules: 1,
            records: 1
        }
    ));
    assert_eq!(flash.operations(), before);
}

#[test]
fn wrong_arguments_are_refused() {
    let (mut store, _) = store::<2, 1>(&Shared::new(16));
    write(&mut store, 1, 100).unwrap();
    let digest = module(1, 100).0;
    let mut errors = vec![
        store.read_module(&[0; 32], &mut []).unwrap_err(),
        store.read_module(&digest, &mut [0; 99]).unwrap_err(),
        store.write_record(1, &[0; 32]).unwrap_err(),
        store.write_record(0, &[0; 31]).unwrap_err(),
        store.write_record(0, &[0; 1025]).unwrap_err(),
        store.write_note(2, &[0]).unwrap_err(),
        store.write_note(0, &[]).unwrap_err(),
        store.write_note(0, &[0; 513]).unwrap_err(),
    ];
    store.write_record(0, &[0; 40]).unwrap();
    errors.push(store.read_record(0, &mut [0; 39]).unwrap_err());
    store.write_note(0, &[0; 40]).unwrap();
    errors.push(store.read_note(0, &mut [0; 39]).unwrap_err());
    assert_eq!(
        errors,
        [
            "the store has no such module",
            "the stored module has 100 bytes, not 99",
            "record 1: the store has 1, from 0 on",
            "record of 31 bytes: 32 to 1024 are allowed",
            "record of 1025 bytes: 32 to 1024 are allowed",
            "note 2: the store has 2, from 0 on",
            "note of 0 bytes: 1 to 512 are allowed",
            "note of 513 bytes: 1 to 512 are allowed",
            "record of 40 bytes: there is room for 39",
            "note of 40 bytes: there is room for 39",
        ]
    );
    assert_eq!(store.read_note(200, &mut []).unwrap(), None);
    store.remove_note(200).unwrap();
    assert_eq!(store.read_record(200, &mut []).unwrap(), None);
    store.remove_record(200).unwrap();
}

#[test]
fn a_flash_that_is_too_small_is_refused() {
    let mut store = FlashStore::<_, 4, 2, 1, 64>::new(Shared::new(3));
    assert_eq!(
        store.open().unwrap_err(),
        "flash of 3 pages: 4 modules, 2 records and 1 notes take 4 or more"
    );
    assert!(store.write_module(&[0; 32], &[], &[]).is_err());
    let mut store = FlashStore::<_, 4, 2, 1, 64>::new(Shared::new(4));
    store.open().unwrap();
    let capacity = store.capacity();
    for name in 0..20 {
        write(&mut store, name, capacity).unwrap();
        store
            .write_record(0, &record(&module(name, capacity).0, name, 1024))
            .unwrap();
        store.write_note(0, &module(name, 512).1).unwrap();
        store.remove_record(0).unwrap();
    }
}

#[test]
fn another_layout_is_erased() {
    let flash = Shared::new(16);
    let (mut one, _) = store::<4, 2>(&flash);
    write(&mut one, 1, 100).unwrap();
    let (mut other, opened) = store::<5, 2>(&flash);
    assert_eq!(opened, Opened::Rebuilt);
    assert!(!has(&mut other, 1, 100));
    write(&mut other, 2, 100).unwrap();
    let (mut other, opened) = store::<5, 2>(&flash);
    assert!(matches!(opened, Opened::Found { modules: 1, .. }));
    assert!(has(&mut other, 2, 100));
}

#[test]
fn a_flash_that_fails_for_a_while_is_read_anew() {
    let flash = Shared::new(16);
    let (mut store, _) = store::<4, 2>(&flash);
    write(&mut store, 1, 9000).unwrap();
    for after in 0..20 {
        flash.flash().cut(after, Tear::FirstHalf);
        assert_eq!(write(&mut store, 2, 9000).unwrap_err(), "flash: Off");
        assert_eq!(write(&mut store, 2, 9000).unwrap_err(), "flash: Off");
        assert_eq!(store.module_len(&module(1, 9000).0), None);
        flash.flash().power();
        assert!(has(&mut store, 1, 9000));
        assert!(!has(&mut store, 2, 9000));
    }
    write(&mut store, 2, 9000).unwrap();
    assert!(has(&mut store, 2, 9000));
}

/// Damages what is stored of these bytes.
fn spoil(flash: &Shared, stored: &[u8]) {
    let bytes = &mut flash.flash().bytes;
    let mut places = bytes.windows(stored.len());
    let at = places.position(|bytes| bytes == stored).unwrap();
    bytes[at + 50] ^= 1;
}

#[test]
fn an_older_record_that_appears_again_is_not_taken_for_the_one_that_is_lost() {
    let flash = Shared::new(16);
    let (mut store, _) = store::<4, 2>(&flash);
    let old = record(&module(1, 10).0, 0, 100);
    let new = record(&module(2, 10).0, 1, 100);
    store.write_record(0, &old).unwrap();
    store.write_record(0, &new).unwrap();
    spoil(&flash, &new);
    assert_eq!(
        read_record(&mut store, 0).unwrap_err(),
        "flash: record 0 can't be read"
    );
    store.write_record(0, &new).unwrap();
    assert_eq!(read_record(&mut store, 0).unwrap(), Some(new));
}

#[test]
fn an_older_note_that_appears_again_is_not_taken_for_the_one_that_is_lost() {
    let flash = Shared::new(16);
    let (mut store, _) = store::<4, 2>(&flash);
    let [old, new] = [1, 2].map(|name| module(name, 100).1);
    store.write_note(0, &old).unwrap();
    store.write_note(0, &new).unwrap();
    spoil(&flash, &new);
    assert_eq!(
        read_note(&mut store, 0).unwrap_err(),
        "flash: note 0 can't be read"
    );
    store.write_note(0, &new).unwrap();
    assert_eq!(read_note(&mut store, 0).unwrap(), Some(new));
    // A module in its place, as large as the store holds, leaves it there.
    let capacity = store.capacity();
    write(&mut store, 1, capacity).unwrap();
    assert!(read_note(&mut store, 0).unwrap().is_some());
}

/// The numbers in the documentation.
#[test]
fn size_in_memory() {
    let size = |store: usize| store - size_of::<Shared>();
    assert!(size(size_of::<FlashStore<Shared, 1, 1, 1, 1>>()) <= 1100 + 48 + 33 + 4 + 1 + 16);
    let larger = size(size_of::<FlashStore<Shared, 17, 9, 5, 257>>());
    assert!(
        larger <= 1100 + 17 * 48 + 9 * 33 + 5 * 4 + 257 + 16,
        "{larger}"
    );
}
