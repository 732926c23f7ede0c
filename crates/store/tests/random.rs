//! Random calls, cuts and flipped bits, beside a model.

mod support;

use proplet::store::{NOTE_MAX, RECORD_MAX, Store};
use proplet_store::{FlashStore, Opened};
use proptest::{prelude::*, test_runner::RngSeed};
use support::{
    RamFlash, Tear, mix,
    model::{Borrowed, Model, NOTES, Op, read_note, read_record, run},
    module,
};

const SLOTS: usize = 5;
const RECORDS: usize = 2;
const NAMES: u64 = 12;

type TestStore<'f, const WORD: usize> = Borrowed<'f, WORD, 4096, SLOTS, RECORDS>;

#[derive(Debug, Clone)]
enum Step {
    Run(Op),
    /// The power goes during the calls from then on, after `left` operations of the flash.
    Cut(u64, Tear),
    Reboot,
}

/// Lengths from none to more than what 16 pages hold.
fn len(name: u64) -> usize {
    [
        0, 1, 1001, 1002, 1003, 3000, 5000, 9000, 15_000, 25_000, 33_000, 60_000,
    ][name as usize]
}

fn op() -> impl Strategy<Value = Op> {
    let name = 0..NAMES;
    prop_oneof![
        6 => name.clone().prop_map(|name| Op::Write(name, len(name))),
        2 => name.clone().prop_map(|name| Op::Read(name, len(name))),
        1 => name.clone().prop_map(|name| Op::Remove(name, len(name))),
        2 => (0..RECORDS as u8, name, 0..4_u64, 32..=RECORD_MAX)
            .prop_map(|(index, of, name, size)| Op::WriteRecord(index, (of, len(of)), name, size)),
        1 => (0..RECORDS as u8).prop_map(Op::RemoveRecord),
        3 => (0..NOTES as u8, 0..4_u64, 1..=NOTE_MAX)
            .prop_map(|(index, name, size)| Op::WriteNote(index, name, size)),
        1 => (0..NOTES as u8).prop_map(Op::RemoveNote),
    ]
}

fn tear() -> impl Strategy<Value = Tear> {
    prop_oneof![
        Just(Tear::Nothing),
        Just(Tear::FirstHalf),
        Just(Tear::SecondHalf),
        Just(Tear::Bit),
        Just(Tear::Zeros),
        any::<u64>().prop_map(Tear::Noise),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => op().prop_map(Step::Run),
        1 => (0..80_u64, tear()).prop_map(|(after, tear)| Step::Cut(after, tear)),
        1 => Just(Step::Reboot),
    ]
}

fn all_ops() -> Vec<Op> {
    (0..NAMES).map(|name| Op::Read(name, len(name))).collect()
}

/// Opens, however often the power goes meanwhile.
fn open_at_last<const WORD: usize>(flash: &mut RamFlash<WORD, 4096>) -> TestStore<'_, WORD> {
    let cut = FlashStore::<_, SLOTS, RECORDS, NOTES, 256>::new(&mut *flash)
        .open()
        .is_err();
    assert_eq!(cut, flash.is_off());
    if cut {
        flash.power();
    }
    let mut store = FlashStore::new(flash);
    let opened = store.open().unwrap();
    assert!(!matches!(opened, Opened::Empty | Opened::Rebuilt));
    store
}

fn follow<const WORD: usize>(pages: usize, steps: &[Step]) {
    let mut flash = RamFlash::<WORD, 4096>::new(pages);
    let mut store = TestStore::new(&mut flash);
    store.open().unwrap();
    let mut model = Model::new(SLOTS, store.capacity(), TestStore::<WORD>::PIECE_LEN);
    let mut steps = steps.iter().peekable();
    while steps.peek().is_some() {
        let mut store = open_at_last(&mut flash);
        model.reboot();
        let mut under_way = None;
        let mut cut = None;
        for step in steps.by_ref() {
            match step {
                Step::Run(op) => {
                    let done = run(&mut store, op);
                    let mut after = model.clone();
                    if done.is_ok() == after.apply(op) {
                        model = after;
                    } else {
                        under_way = Some((op, done));
                        break;
                    }
                }
                Step::Cut(after, tear) => {
                    cut = Some((*after, *tear));
                    break;
                }
                Step::Reboot => break,
            }
        }
        if under_way.is_none() {
            model.check(&mut store, &all_ops());
        }
        if let Some((op, done)) = under_way {
            assert!(flash.is_off(), "{op:?}: {done:?}");
            flash.power();
            model.settle(&mut open_at_last(&mut flash), op);
        }
        if let Some((after, tear)) = cut {
            flash.cut(after, tear);
        }
    }
    flash.power();
    let mut store = open_at_last(&mut flash);
    model.reboot();
    model.check(&mut store, &all_ops());
}

/// Calls go on while bits flip: nothing panics or goes on without end, and once they flip no more, a
/// caller that drops what is not what its digest says has a store that works.
fn survive(seed: u64, flips: usize, steps: &[Step]) {
    let mut flash = RamFlash::<4, 4096>::new(16);
    flash.strict = false;
    let mut random = seed;
    for step in steps {
        let mut store = TestStore::new(&mut flash);
        store.open().unwrap();
        match step {
            // What was removed may be there again, and what was written may not.
            Step::Run(Op::Read(..)) | Step::Reboot | Step::Cut(..) => sweep(&mut store),
            Step::Run(op) => {
                let _ = run(&mut store, op);
            }
        }
        for _ in 0..flips {
            random = mix(random);
            let bit = random as usize % (flash.bytes.len() * 8);
            flash.bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
    let mut store = TestStore::new(&mut flash);
    for index in 0..RECORDS as u8 {
        store.remove_record(index).unwrap();
    }
    for index in 0..NOTES as u8 {
        store.remove_note(index).unwrap();
    }
    let (digest, bytes) = module(99, 9000);
    let mut read = vec![0; bytes.len()];
    // A page may have to be erased before it can be written.
    let works = (0..40).any(|_| {
        sweep(&mut store);
        let written = store.write_module(&digest, &bytes, &[]).is_ok();
        written && store.read_module(&digest, &mut read).is_ok() && read == bytes
    });
    assert!(works);
}

/// Reads all and drops what is wrong, as a caller does.
fn sweep(store: &mut impl Store) {
    for name in (0..NAMES).chain([99]) {
        let len = if name == 99 { 9000 } else { len(name) };
        let (digest, bytes) = module(name, len);
        let Some(len) = store.module_len(&digest) else {
            continue;
        };
        let mut read = vec![0; len];
        if store.read_module(&digest, &mut read).is_err() || read != bytes {
            store.remove_module(&digest).unwrap();
            assert_eq!(store.module_len(&digest), None);
        }
    }
    for index in 0..RECORDS as u8 {
        if read_record(store, index).is_err() {
            store.remove_record(index).unwrap();
        }
    }
    for index in 0..NOTES as u8 {
        if read_note(store, index).is_err() {
            store.remove_note(index).unwrap();
        }
    }
}

/// All of a flash is garbage.
#[test]
fn garbage_becomes_an_empty_store() {
    for seed in 0..200 {
        let mut flash = RamFlash::<4, 4096>::new(16);
        let mut random = seed;
        for byte in &mut flash.bytes {
            random = mix(random);
            // Of zeros and ones only, too, and with some pages that are erased.
            *byte = match seed % 4 {
                0 => random as u8,
                1 => 0,
                2 => u8::from(random.is_multiple_of(64)) * 0xff,
                _ => !u8::from(random.is_multiple_of(5000)),
            };
        }
        for page in 0..16 {
            if mix(seed ^ page).is_multiple_of(3) {
                flash.bytes[page as usize * 4096..][..4096].fill(0xff);
            }
        }
        flash.strict = false;
        let mut store = TestStore::new(&mut flash);
        assert_eq!(store.open().unwrap(), Opened::Rebuilt);
        run(&mut store, &Op::Write(7, len(7))).unwrap();
        run(&mut store, &Op::Read(7, len(7))).unwrap();
        let mut store = TestStore::new(&mut flash);
        let modules = 1;
        assert_eq!(
            store.open().unwrap(),
            Opened::Found {
                modules,
                records: 0
            }
        );
    }
}

/// The same cases in every run.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::with_cases(cases)
    }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn calls_and_cuts_on_16_pages(steps in prop::collection::vec(step(), 1..60)) {
        follow::<4>(16, &steps);
    }

    #[test]
    fn calls_and_cuts_with_words_of_16_bytes(steps in prop::collection::vec(step(), 1..40)) {
        follow::<16>(16, &steps);
    }

    #[test]
    fn calls_and_flipped_bits(
        seed in any::<u64>(),
        flips in 0..6_usize,
        steps in prop::collection::vec(step(), 1..40),
    ) {
        survive(seed, flips * flips, &steps);
    }
}

proptest! {
    #![proptest_config(config(20))]

    #[test]
    fn calls_and_cuts_on_64_pages(steps in prop::collection::vec(step(), 20..40)) {
        follow::<4>(64, &steps);
    }
}
