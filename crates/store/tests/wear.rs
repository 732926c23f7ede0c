//! Costs of the store. Run with `--ignored --nocapture` to see it.

mod support;

use proplet::store::Store;
use proplet_store::FlashStore;
use support::{RamFlash, Work, mix, module, record};

fn since(flash: &RamFlash<4, 4096>, before: Work) -> Work {
    Work {
        operations: flash.work.operations - before.operations,
        read: flash.work.read - before.read,
        written: flash.work.written - before.written,
        erased: flash.work.erased - before.erased,
    }
}

fn one_module(pages: usize) {
    let mut flash = RamFlash::<4, 4096>::new(pages);
    let before = flash.work;
    FlashStore::<_, 8, 4, 8, 256>::new(&mut flash)
        .open()
        .unwrap();
    println!("{pages} pages, made: {:?}", since(&flash, before));
    let len = if pages == 16 { 40 * 1024 } else { 64 * 1024 };
    for (name, what) in [
        (1, "new"),
        (2, "second"),
        (3, "third"),
        (4, "fourth"),
        (5, "fifth"),
    ] {
        let before = flash.work;
        let mut store = FlashStore::<_, 8, 4, 8, 256>::new(&mut flash);
        store.open().unwrap();
        let opened = since(&flash, before);
        let before = flash.work;
        let mut store = FlashStore::<_, 8, 4, 8, 256>::new(&mut flash);
        store.open().unwrap();
        let (digest, mut bytes) = module(name, len);
        store.write_module(&digest, &bytes, &[]).unwrap();
        let mut written = since(&flash, before);
        written.read -= opened.read;
        let before = flash.work;
        let mut store = FlashStore::<_, 8, 4, 8, 256>::new(&mut flash);
        store.open().unwrap();
        store.read_module(&digest, &mut bytes).unwrap();
        println!(
            "  {what} module of {len}: {written:?}; read to open {}, to read it {}",
            opened.read,
            since(&flash, before).read - opened.read
        );
    }
}

/// 200 modules of 1 to 16 KiB, a third of the calls reads of one of the last 8, with `pinned` bytes
/// of a module that stays.
fn many(pages: usize, reads: bool, pinned: usize) {
    let mut flash = RamFlash::<4, 4096>::new(pages);
    let mut store = FlashStore::<_, 16, 4, 8, 256>::new(&mut flash);
    store.open().unwrap();
    let capacity = store.capacity();
    let (digest, bytes) = module(1_000_000, pinned);
    store.write_module(&digest, &bytes, &[]).unwrap();
    store.write_record(0, &record(&digest, 0, 100)).unwrap();
    let mut stored = 0;
    let mut worst = 0;
    for name in 0..200 {
        let len = |name| 1024 + mix(name) as usize % (15 * 1024);
        let (digest, bytes) = module(name, len(name));
        store.write_module(&digest, &bytes, &[]).unwrap();
        stored += bytes.len();
        if reads && name >= 8 {
            let (digest, mut bytes) = module(name - name % 8, len(name - name % 8));
            let _ = store.read_module(&digest, &mut bytes);
        }
        worst = worst.max(bytes.len());
    }
    let (least, most) = (
        flash.erasures.iter().min().unwrap(),
        flash.erasures.iter().max().unwrap(),
    );
    println!(
        "{pages} pages, capacity {capacity}, {pinned} pinned, reads {reads}: {stored} stored, {} \
         written ({:.2} times), {:.1} MB read; erasures of a page {least} to {most}",
        flash.work.written,
        flash.work.written as f64 / stored as f64,
        flash.work.read as f64 / 1e6,
    );
    assert!(most - least <= 1, "pages are not erased in turn");
}

#[test]
fn pages_are_erased_in_turn() {
    many(16, true, 0);
}

/// A note of 13 ids of 36 bytes is written over and over, beside `kept` bytes of a module; writes for each
/// erasure of a page.
fn notes(pages: usize, kept: usize) -> u64 {
    const WRITES: u64 = 10_000;
    let mut flash = RamFlash::<4, 4096>::new(pages);
    let mut store = FlashStore::<_, 8, 4, 8, 256>::new(&mut flash);
    store.open().unwrap();
    let (digest, bytes) = module(1, kept);
    store.write_module(&digest, &bytes, &[]).unwrap();
    for name in 0..WRITES {
        let note = module(name, 482).1;
        store.write_note((name % 8) as u8, &note).unwrap();
    }
    let least = *flash.erasures.iter().min().unwrap();
    let most = *flash.erasures.iter().max().unwrap();
    println!(
        "{pages} pages, {kept} bytes kept, {WRITES} notes: erasures of a page {least} to {most}"
    );
    assert!(most - least <= 1, "pages are not erased in turn");
    WRITES / most.max(1)
}

/// The wear in the documentation (docs/tasks.md).
#[test]
fn notes_wear_all_pages_in_turn() {
    assert!(notes(32, 0) >= 250);
    assert!(notes(32, 64 * 1024) >= 115);
}

#[test]
#[ignore = "prints what the store costs"]
fn costs() {
    for pages in [16, 64] {
        one_module(pages);
        for (reads, pinned) in [(false, 0), (true, 0), (true, 8_000), (true, 16_000)] {
            many(pages, reads, pinned);
        }
    }
}
