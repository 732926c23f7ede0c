extern crate std;

use super::*;
use crate::{testing::FakeStore, wire::Id};
use std::{format, string::String, vec::Vec};

fn id(name: &str) -> Id {
    Id::try_from(name).unwrap()
}

fn noted(note: u8, task: &str) -> Noted {
    let task = id(task);
    Noted { note, task }
}

/// Notes ids, and returns the note of each that found room.
fn add(notes: &mut Notes, store: &mut FakeStore, ids: &[&str]) -> Vec<u8> {
    ids.iter()
        .filter_map(|id| {
            let mut note = notes.open(store, id, Instant::BOOT)?;
            assert!(note.push(id));
            notes.write(store, &note).unwrap();
            Some(note.index())
        })
        .collect()
}

fn owed(notes: &mut Notes, store: &mut FakeStore, most: usize) -> Vec<(u8, String)> {
    let mut all = Vec::new();
    notes.post_owed(store, |note, id| {
        let takes = all.len() < most;
        if takes {
            all.push((note, id.into()));
        }
        takes
    });
    all
}

fn boot(store: &FakeStore) -> (Notes, FakeStore) {
    (Notes::new(Some(store)), store.clone())
}

#[test]
fn a_note_has_as_many_ids_as_it_has_room_for() {
    let uuid = "3fe95a65-74f1-4ede-bf20-ef565f04cecb";
    let mut note = Note::empty(1);
    let count = core::iter::repeat_n(uuid, 100).take_while(|id| note.push(id));
    assert_eq!(count.count(), 13, "docs/tasks.md says so");
    let mut note = Note::empty(1);
    while note.push("i") {}
    assert!(note.is_valid());
    assert_eq!(note.ids().len(), 170);
}

#[test]
fn an_earlier_boots_ids_are_told_from_this_ones() {
    let store = FakeStore::default();
    let (mut notes, mut store) = boot(&store);
    assert_eq!(add(&mut notes, &mut store, &["a", "b", "c"]), [1, 1, 1]);
    assert!(owed(&mut notes, &mut store, 9).is_empty());

    let (mut notes, mut store) = boot(&store);
    assert_eq!(add(&mut notes, &mut store, &["d"]), [1], "beside them");
    assert!(notes.is_owed(&mut store, "a") && !notes.is_owed(&mut store, "d"));
    assert_eq!(
        owed(&mut notes, &mut store, 2),
        [(1, "a".into()), (1, "b".into())]
    );
    assert!(!notes.is_owed(&mut store, "a") && notes.is_owed(&mut store, "c"));
    notes.remove(&mut store, &noted(1, "a"));
    assert!(notes.is_owed(&mut store, "c") && !notes.is_owed(&mut store, "b"));
    assert_eq!(owed(&mut notes, &mut store, 9), [(1, "c".into())]);
    assert!(!notes.has_owed());
    for task in ["b", "d"] {
        notes.remove(&mut store, &noted(1, task));
    }
    // All that is left is owed by the next boot.
    let (mut notes, mut store) = boot(&store);
    assert_eq!(owed(&mut notes, &mut store, 9), [(1, "c".into())]);
    notes.remove(&mut store, &noted(1, "c"));
    assert!(store.kept().notes.is_empty());
}

#[test]
fn full_notes_are_not_read_and_have_room_again_once_an_id_goes() {
    let store = FakeStore::default();
    let (mut notes, mut store) = boot(&store);
    let ids: Vec<_> = (0..30).map(|n| format!("{n:064}")).collect();
    let ids: Vec<_> = ids.iter().map(|id| &**id).collect();
    let places = add(&mut notes, &mut store, &ids);
    assert_eq!(places.len(), 21, "7 of 64 bytes in each of 3 notes");
    assert!((1..4).all(|note| notes.full.has(note)));
    notes.remove(&mut store, &noted(2, ids[8]));
    assert_eq!(add(&mut notes, &mut store, &ids[29..]), [2]);
    // Not there, or not any more: nothing happens.
    let writes = store.kept().note_writes;
    notes.remove(&mut store, &noted(2, ids[8]));
    notes.remove(&mut store, &noted(3, "x"));
    assert_eq!(store.kept().note_writes, writes);
}

#[test]
fn what_is_no_note_is_removed_and_the_others_are_read() {
    let whole = {
        let mut note = Note::empty(2);
        assert!(note.push("a") && note.push("bc"));
        note.bytes[..note.len].to_vec()
    };
    let mut damaged: Vec<Vec<u8>> = (1..whole.len())
        .filter(|len| ![2, 5].contains(len))
        .map(|len| whole[..len].to_vec())
        .collect();
    for (at, byte) in [(0, VERSION + 1), (2, 0), (2, 200), (4, 0xff)] {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        damaged.push(bytes);
    }
    let long = [&[VERSION, 0, ID_MAX as u8 + 1, 0][..], &[b'i'; ID_MAX + 1]].concat();
    damaged.push(long);
    for bytes in damaged {
        let store = FakeStore::default();
        store.kept().notes.extend([
            (SESSION, std::vec![9; 9]),
            (1, bytes.clone()),
            (2, whole.clone()),
        ]);
        let (mut notes, mut store) = boot(&store);
        let all = owed(&mut notes, &mut store, 9);
        assert_eq!(all, [(2, "a".into()), (2, "bc".into())], "{bytes:?}");
        let left: Vec<_> = store.kept().notes.iter().map(|(index, _)| *index).collect();
        assert_eq!(left, [SESSION, 2]);
        assert_eq!(add(&mut notes, &mut store, &["d"]), [1]);
    }
    // A count of an earlier boot is not believed.
    let store = FakeStore::default();
    let mut bytes = whole.clone();
    bytes[OWED_AT] = 99;
    store.kept().notes.push((2, bytes));
    let (mut notes, mut store) = boot(&store);
    notes.remove(&mut store, &noted(2, "a"));
    assert_eq!(owed(&mut notes, &mut store, 9), [(2, "bc".into())]);
}

/// It may be readable after the next restart, and what it says is not lost by what is noted meanwhile.
#[test]
fn a_note_that_can_not_be_read_is_not_overwritten() {
    let store = FakeStore::default();
    let (mut notes, mut store) = boot(&store);
    add(&mut notes, &mut store, &["a"]);
    let whole = store.kept().notes[0].1.clone();
    store.kept().notes[0].1 = std::vec![9];
    assert_eq!(add(&mut notes, &mut store, &["b"]), [2]);
    notes.remove(&mut store, &noted(1, "a"));
    assert_eq!(store.kept().notes[0], (1, std::vec![9]));
    store.kept().notes[0].1 = whole;
    let (mut notes, mut store) = boot(&store);
    let all = owed(&mut notes, &mut store, 9);
    assert_eq!(all, [(1, "a".into()), (2, "b".into())]);
}

/// docs/memory.md has the figure.
#[test]
fn size_in_memory() {
    assert!(size_of::<Notes>() <= 80, "{}", size_of::<Notes>());
}
