//! The power goes at every write and every erasure: what was stored is there, what was under way
//! is there or not, and the store works on.

mod support;

use proplet_store::{FlashStore, Opened};
use support::{
    RamFlash, Tear,
    model::{Borrowed, Model, Op, run},
};

const SLOTS: usize = 4;
const RECORDS: usize = 2;

type TestStore<'f, const WORD: usize> = Borrowed<'f, WORD, 4096, SLOTS, RECORDS>;

/// How an operation is left half done; each is cut once in one of these ways, and once before.
const HALF_DONE: [Tear; 5] = [
    Tear::FirstHalf,
    Tear::SecondHalf,
    Tear::Noise(7),
    Tear::Bit,
    Tear::Zeros,
];

/// Replacements, evictions, removals; `kib` is the size of the larger modules. All of it writes
/// the flash more than once.
fn scenario(kib: usize) -> Vec<Op> {
    let big = kib * 1024;
    vec![
        Op::Write(1, big),
        Op::WriteNote(0, 1, 512),
        Op::WriteRecord(0, (1, big), 1, 500),
        Op::Write(2, big + 77),
        Op::Write(3, 10),
        Op::WriteRecord(1, (3, 10), 2, 1024),
        Op::WriteNote(2, 2, 1),
        Op::Read(2, big + 77),
        Op::Write(4, big / 2),
        Op::Write(5, big / 3),
        Op::WriteRecord(0, (1, big), 3, 32),
        Op::Remove(2, big + 77),
        Op::Write(6, big),
        Op::Write(7, big),
        Op::WriteNote(0, 3, 300),
        Op::RemoveRecord(0),
        Op::Write(8, big + big / 2),
        Op::WriteRecord(1, (8, big + big / 2), 4, 1000),
        Op::RemoveNote(2),
        Op::Remove(3, 10),
        Op::Write(9, big),
        Op::Write(10, big),
        Op::RemoveRecord(1),
        Op::WriteNote(1, 4, 512),
        Op::Write(11, 0),
        Op::Write(12, big),
        Op::Write(13, 2 * big),
        Op::Write(14, 2 * big),
        Op::RemoveNote(0),
    ]
}

fn open<const WORD: usize>(flash: &mut RamFlash<WORD, 4096>) -> (TestStore<'_, WORD>, Opened) {
    let mut store = FlashStore::new(flash);
    let opened = store.open().unwrap();
    (store, opened)
}

/// Cuts `ops` at each `step`th operation of the flash: before it, and in the midst of it.
fn cut_everywhere<const WORD: usize>(pages: usize, ops: &[Op], step: usize) {
    let mut flash = RamFlash::new(pages);
    let (store, opened) = open::<WORD>(&mut flash);
    assert_eq!(opened, Opened::Empty);
    let mut model = Model::new(SLOTS, store.capacity(), TestStore::<WORD>::PIECE_LEN);
    let (mut operation, mut cuts, mut repaired) = (0, 0, 0);
    for op in ops {
        let before = (flash.clone(), model.clone());
        let (mut store, opened) = open(&mut flash);
        assert_eq!(opened, model.opened());
        model.reboot();
        let done = run(&mut store, op);
        assert_eq!(done.is_ok(), model.apply(op), "{op:?}: {done:?}");
        let operations = flash.work.operations - before.0.work.operations;
        for after in 0..operations {
            operation += 1;
            if operation % step != 0 {
                continue;
            }
            let half_done = HALF_DONE[operation / step % HALF_DONE.len()];
            for tear in [Tear::Nothing, half_done] {
                let (mut flash, mut model) = before.clone();
                flash.cut(after, tear);
                let (mut store, _) = open(&mut flash);
                model.reboot();
                run(&mut store, op).unwrap_err();
                assert!(flash.is_off());
                flash.power();
                let opened = go_on(&mut flash, &mut model, ops, op);
                repaired += usize::from(matches!(opened, Opened::Repaired { .. }));
                cuts += 1;
            }
        }
    }
    let erased = flash.erasures.iter().filter(|n| **n > 0).count();
    assert!(erased > pages / 2, "{erased} pages were erased");
    assert!(
        cuts > 30 && repaired > 0,
        "{cuts} cuts, {repaired} repaired"
    );
}

fn go_on<const WORD: usize>(
    flash: &mut RamFlash<WORD, 4096>,
    model: &mut Model,
    ops: &[Op],
    op: &Op,
) -> Opened {
    let (mut store, found) = open(flash);
    assert!(
        !matches!(found, Opened::Empty | Opened::Rebuilt),
        "{found:?}"
    );
    model.settle(&mut store, op);
    model.reboot();
    model.check(&mut store, ops);
    for op in [op, &Op::Write(20, 9000)] {
        let done = run(&mut store, op);
        assert_eq!(done.is_ok(), model.apply(op), "{op:?}: {done:?}");
    }
    let (mut store, opened) = open(flash);
    assert_eq!(opened, model.opened());
    run(&mut store, &Op::Read(20, 9000)).unwrap();
    found
}

#[test]
fn a_cut_at_every_operation_on_16_pages() {
    cut_everywhere::<4>(16, &scenario(10), 1);
}

#[test]
fn a_cut_at_operations_of_64_pages() {
    cut_everywhere::<4>(64, &scenario(60), 211);
}

#[test]
fn a_cut_at_operations_with_words_of_8_and_16_bytes() {
    cut_everywhere::<8>(16, &scenario(10), 7);
    cut_everywhere::<16>(16, &scenario(10), 7);
}

#[test]
fn a_cut_while_a_store_is_made() {
    for tear in [Tear::Nothing].into_iter().chain(HALF_DONE) {
        for after in 0..4 {
            let mut flash = RamFlash::<4, 4096>::new(16);
            flash.cut(after, tear);
            let cut = TestStore::new(&mut flash).open().is_err();
            assert_eq!(cut, flash.is_off());
            flash.power();
            let (mut store, _) = open(&mut flash);
            run(&mut store, &Op::Write(1, 5000)).unwrap();
            let (mut store, opened) = open(&mut flash);
            assert!(matches!(opened, Opened::Found { modules: 1, .. }));
            run(&mut store, &Op::Read(1, 5000)).unwrap();
        }
    }
}

/// Cuts `ops` at each `step`th operation of the flash, and again at each of the first operations
/// after that, in the repair and in a second try.
fn cut_twice<const WORD: usize>(pages: usize, ops: &[Op], step: usize) {
    let mut flash = RamFlash::new(pages);
    let (store, _) = open::<WORD>(&mut flash);
    let mut model = Model::new(SLOTS, store.capacity(), TestStore::<WORD>::PIECE_LEN);
    let (mut operation, mut cuts) = (0, 0);
    for op in ops {
        let before = (flash.clone(), model.clone());
        let (mut store, _) = open(&mut flash);
        model.reboot();
        let done = run(&mut store, op);
        assert_eq!(done.is_ok(), model.apply(op), "{op:?}: {done:?}");
        for after in 0..flash.work.operations - before.0.work.operations {
            operation += 1;
            if operation % step != 0 {
                continue;
            }
            let half_done = |n: usize| HALF_DONE[(operation / step + n) % HALF_DONE.len()];
            for first in [Tear::Nothing, half_done(0)] {
                let (mut flash, mut model) = before.clone();
                flash.cut(after, first);
                model.reboot();
                run(&mut open(&mut flash).0, op).unwrap_err();
                for again in 0..5 {
                    for second in [half_done(again), Tear::Zeros] {
                        let (mut flash, mut model) = (flash.clone(), model.clone());
                        flash.power();
                        flash.cut(again as u64, second);
                        try_again(&mut flash, &mut model, op);
                        cuts += usize::from(flash.is_off());
                        flash.power();
                        go_on(&mut flash, &mut model, ops, op);
                    }
                }
            }
        }
    }
    assert!(cuts > 30, "{cuts} cuts");
}

fn try_again<const WORD: usize>(flash: &mut RamFlash<WORD, 4096>, model: &mut Model, op: &Op) {
    let mut store = TestStore::new(flash);
    if store.open().is_ok() {
        model.settle(&mut store, op);
        model.reboot();
        if run(&mut store, op).is_ok() {
            model.apply(op);
        }
    }
}

#[test]
fn a_second_cut_in_the_repair_of_a_first() {
    cut_twice::<4>(16, &scenario(10), 41);
    cut_twice::<16>(16, &scenario(10), 97);
}
