extern crate std;

use super::*;
use crate::{
    module::{signature::HEADER, strip::strip_in_place, table::digest},
    testing::{FakeBuffer, FakeEngine},
};
use proptest::{collection::vec, prelude::*, sample::Index};
use std::{
    string::{String as StdString, ToString as _},
    vec,
    vec::Vec,
};

const LIMIT: usize = 8192;

/// Index, total, bytes.
type Part<'a> = (u32, u32, &'a [u8]);

/// Bytes at once of a chunk that comes in pieces; `None` if it comes whole.
type Pieces = Option<usize>;

/// Puts a chunk in, in pieces if it can be.
fn put(
    chunks: &mut Chunks<FakeBuffer>,
    (index, total, bytes): Part<'_>,
    pieces: Pieces,
    engine: &FakeEngine,
) -> Result<(), ChunkError> {
    let make_room = &mut |_: usize| {};
    if let Some(len) = pieces
        && chunks.begin(index, total, engine, make_room)?
    {
        for piece in bytes.chunks(len) {
            chunks.append(piece, engine, make_room)?;
        }
        return chunks.end();
    }
    chunks.accept((index, total), bytes, engine, make_room)
}

/// Puts a chunk in, and returns the module once it is whole.
fn take(
    chunks: &mut Chunks<FakeBuffer>,
    part: Part<'_>,
    pieces: Pieces,
    engine: &FakeEngine,
) -> Result<Option<Image<FakeBuffer>>, ChunkError> {
    put(chunks, part, pieces, engine)?;
    let is_complete = chunks.is_complete();
    is_complete
        .then(|| chunks.finish(engine, &mut |_| {}))
        .transpose()
}

/// Feeds `chunks` and returns what is kept of the module, or the error.
fn feed(chunks: &[Part<'_>], pieces: Pieces, arena: usize) -> Result<Option<Vec<u8>>, StdString> {
    let engine = FakeEngine::new(arena);
    let mut assembly = Chunks::new(LIMIT);
    for part in chunks {
        let done = take(&mut assembly, *part, pieces, &engine).map_err(|e| e.to_string())?;
        if let Some(image) = done {
            let bytes = image.bytes.to_vec();
            drop(image);
            assert_eq!(engine.arena().free, arena, "nothing is left behind");
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

fn stripped(whole: &[u8]) -> Vec<u8> {
    let mut kept = whole.to_vec();
    let (len, provenance) = strip_in_place(&mut kept);
    assert_eq!(provenance.digest, digest(whole));
    kept.truncate(len);
    kept
}

fn parts(whole: &[u8], size: usize) -> Vec<Part<'_>> {
    let total = whole.len().div_ceil(size) as u32;
    let all = (0..).zip(whole.chunks(size));
    all.map(|(index, part)| (index, total, part)).collect()
}

/// A module of some sections, every other one of them custom.
fn module(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = HEADER.to_vec();
    for (index, payload) in payloads.iter().enumerate() {
        let is_custom = index % 2 == 1;
        let name: &[u8] = if is_custom { b"\x04name" } else { b"" };
        let len = name.len() + payload.len();
        whole.push(if is_custom { 0 } else { 10 });
        whole.extend([len as u8 | 0x80, (len >> 7) as u8]);
        whole.extend([name, payload].concat());
    }
    whole
}

fn any_module() -> impl Strategy<Value = Vec<u8>> {
    vec(vec(any::<u8>(), 0..150), 0..6).prop_map(|payloads| module(&payloads))
}

fn any_pieces() -> impl Strategy<Value = Pieces> {
    proptest::option::of(1usize..50)
}

#[test]
fn one_chunk() {
    for pieces in [None, Some(2)] {
        let fed = feed(&[(0, 1, b"abc")], pieces, 3 + Hash::LEN);
        assert_eq!(fed, Ok(Some(b"abc".to_vec())));
    }
}

#[test]
fn a_chunk_that_can_not_be_is_refused() {
    let cases: &[(Part<'_>, &str)] = &[
        ((5, 5, b"a"), "chunk 5 of 5 is out of range"),
        ((u32::MAX, 1, b"a"), "chunk 4294967295 of 1 is out of range"),
        (
            (0, 3000, b"ab"),
            "3000 chunks are more than 2048: use larger chunks",
        ),
        ((0, 2, b""), "chunk 0 of 2 has 0 bytes, the last one 0"),
    ];
    for (chunk, error) in cases {
        for pieces in [None, Some(1)] {
            // An empty one is another version's until it has come too often.
            let fed = feed(&[*chunk; 5], pieces, 4096);
            assert_eq!(fed.unwrap_err(), *error);
        }
    }
}

/// They are taken for those of another version, until that has happened too often.
#[test]
fn chunks_that_contradict_each_other_are_refused_in_the_end() {
    let cases: &[(&[Part<'_>], &[&str])] = &[
        (
            &[(0, 2, b"ab"), (1, 3, b"a")],
            &[
                "chunk 1 says 3 chunks, earlier ones said 2",
                "chunk 0 says 2 chunks, earlier ones said 3",
            ],
        ),
        (
            &[(0, 3, b"ab"), (1, 3, b"abc")],
            &[
                "chunk 1 of 3 has 3 bytes, earlier ones had 2",
                "chunk 0 of 3 has 2 bytes, earlier ones had 3",
            ],
        ),
        (
            &[(0, 2, b"ab"), (1, 2, b"abc")],
            &[
                "chunk 1 of 2 has 3 bytes, earlier ones had 2",
                "chunk 0 of 2 has 2 bytes, the last one 3",
            ],
        ),
        (
            &[(0, 2, b"ab"), (0, 2, b"ac")],
            &["chunk 0 of 2 came again with other bytes"],
        ),
    ];
    for (chunks, errors) in cases {
        for pieces in [None, Some(1)] {
            let engine = FakeEngine::new(4096);
            let mut assembly = Chunks::new(LIMIT);
            let mut chunks = chunks.iter().cycle().take(20);
            let error = chunks.find_map(|part| put(&mut assembly, *part, pieces, &engine).err());
            let error = error.unwrap().to_string();
            assert!(errors.contains(&&*error), "{error}, not {errors:?}");
        }
    }
}

#[test]
fn a_module_larger_than_the_arena_is_refused_with_both_numbers() {
    let whole = vec![b'x'; 100 * 1024];
    for pieces in [None, Some(100)] {
        let error = feed(&parts(&whole, 1024), pieces, 2900).unwrap_err();
        let words = "out of memory: the module's bytes need ";
        assert!(error.starts_with(words), "{error}");
        assert!(error.ends_with(" are free"), "{error}");
    }
}

#[test]
fn a_module_over_the_limit_is_refused() {
    let whole = vec![b'x'; LIMIT + 1];
    for pieces in [None, Some(100)] {
        let error = feed(&parts(&whole, 1024), pieces, 100_000).unwrap_err();
        assert!(error.ends_with("bytes or more, this proplet takes 8192"));
    }
}

/// A chunk that is early takes the room of all that lie before it. Where there is none it is not taken, and asked
/// for later.
#[test]
fn an_early_chunk_without_room_is_asked_for_again() {
    let whole = module(&[vec![1; 500], vec![2; 1500], vec![3; 100]]);
    let parts = parts(&whole, 200);
    let last = parts.len() - 1;
    let engine = FakeEngine::new(1300);
    let mut assembly = Chunks::new(LIMIT);
    for index in [0, last - 1, 1, 2] {
        assert!(
            take(&mut assembly, parts[index], None, &engine)
                .unwrap()
                .is_none()
        );
        assert!(!assembly.must_ask());
    }
    assert_eq!(assembly.progress(), (3, parts.len() as u32));
    assert!(
        take(&mut assembly, parts[last], None, &engine)
            .unwrap()
            .is_none()
    );
    assert!(assembly.must_ask() && !assembly.must_ask());
    let mut done = None;
    for part in &parts {
        done = take(&mut assembly, *part, None, &engine).unwrap();
    }
    assert_eq!(*done.unwrap().bytes, stripped(&whole));
}

/// Dropped bytes never need room.
#[test]
fn chunks_in_their_turn_take_what_is_kept_of_them() {
    let whole = module(&[vec![1; 500], vec![2; 8000], vec![3; 500], vec![4; 8000]]);
    let parts = parts(&whole, 1000);
    let room = stripped(&whole).len() + parts.len() * Hash::LEN;
    assert!(room < 1200, "{room}");
    let fed = feed(&parts, Some(100), room);
    assert_eq!(fed, Ok(Some(stripped(&whole))));
}

#[test]
fn the_beginning_of_a_chunk_is_not_lost_with_its_connection() {
    let whole = module(&[vec![1; 500], vec![2; 500], vec![3; 500]]);
    let other = module(&[vec![1; 500], vec![2; 500], vec![4; 500]]);
    let make_room = &mut |_: usize| {};
    for (next, is_same) in [(&whole, true), (&other, false)] {
        let engine = FakeEngine::new(5000);
        let mut assembly = Chunks::new(LIMIT);
        let parts_before = parts(&whole, 1000);
        take(&mut assembly, parts_before[0], Some(9), &engine).unwrap();
        assert!(assembly.begin(1, 2, &engine, make_room).unwrap());
        let (_, _, last) = parts_before[1];
        assembly.append(&last[..100], &engine, make_room).unwrap();
        assembly.note_gap();
        let send = |assembly: &mut Chunks<_>| {
            for part in parts(next, 1000) {
                put(assembly, part, Some(9), &engine).unwrap();
            }
        };
        send(&mut assembly);
        assert_eq!(
            (assembly.is_straight(), assembly.must_ask()),
            (is_same, !is_same)
        );
        send(&mut assembly);
        assert!(assembly.is_straight());
        let done = assembly.finish(&engine, make_room).unwrap();
        assert_eq!(*done.bytes, stripped(next));
    }
}

/// 11 for 22: the first chunk of one version, and the second of another, after the connection was lost.
#[test]
fn over_a_gap_all_chunks_must_come_again() {
    let (one, two) = (parts(b"1111", 2), parts(b"2222", 2));
    let engine = FakeEngine::new(100);
    let mut assembly = Chunks::new(LIMIT);
    let mut put = |part, state: (bool, bool, bool)| {
        put(&mut assembly, part, Some(1), &engine).unwrap();
        let is = (
            assembly.is_complete(),
            assembly.is_straight(),
            assembly.spans_gap(),
        );
        assert_eq!(is, state);
        if is.0 && !is.1 {
            assembly.note_gap();
        }
        assembly.must_ask()
    };
    assert!(!put(one[0], (false, false, false)));
    assert!(!put(one[1], (true, true, false)));
    // As if nobody had taken it.
    assert!(!put(one[1], (true, false, false)));
    assert!(!put(one[0], (true, false, true)));
    assert!(put(two[1], (false, false, false)), "it was compared");
    assert!(!put(two[0], (false, false, false)));
    assert!(!put(two[1], (true, true, false)));
    let done = assembly.finish(&engine, &mut |_| {}).unwrap();
    assert_eq!(*done.bytes, *b"2222");
}

#[test]
fn a_module_of_two_versions_can_be_asked_for_once_more() {
    let (one, two) = (parts(b"1111", 2), parts(b"2222", 2));
    let engine = FakeEngine::new(100);
    let mut assembly = Chunks::new(LIMIT);
    let put = |assembly: &mut _, part| put(assembly, part, None, &engine).unwrap();
    put(&mut assembly, one[1]);
    put(&mut assembly, two[0]);
    assert!(assembly.is_complete() && !assembly.is_straight());
    assert_eq!(assembly.digest(), digest(b"2211"));
    assert!(assembly.retry() && assembly.must_ask());
    assert!(assembly.is_empty());
    for part in two {
        put(&mut assembly, part);
    }
    assert!(assembly.is_straight());
    for _ in 1..RESTARTS_MAX {
        assert!(assembly.retry());
    }
    assert!(!assembly.retry());
}

/// A chunk that found no room beside the module is passed over, unless it needs none.
#[test]
fn a_chunk_that_is_passed_over_is_asked_for() {
    let whole = module(&[vec![1; 500], vec![2; 500], vec![3; 100]]);
    let parts = parts(&whole, 600);
    let engine = FakeEngine::new(2000);
    let mut assembly = Chunks::new(LIMIT);
    // The last one lies where the first would.
    put(&mut assembly, parts[1], Some(9), &engine).unwrap();
    assert_eq!(assembly.pass_over((0, 2)), Ok(true));
    assert_eq!(assembly.pass_over((0, 2)), Ok(false), "it needs none now");
    assert_eq!(assembly.pass_over((1, 2)), Ok(true));
    assert!(assembly.must_ask());
    put(&mut assembly, parts[0], Some(9), &engine).unwrap();
    put(&mut assembly, parts[1], Some(9), &engine).unwrap();
    assert!(assembly.is_straight());
    // One that has come is not compared.
    assert_eq!(assembly.pass_over((0, 2)), Ok(true));
    put(&mut assembly, parts[1], Some(9), &engine).unwrap();
    assert!(!assembly.is_straight());
    assert_eq!(assembly.pass_over((0, 3)), Ok(true));
    assert!(assembly.is_empty() && assembly.must_ask());
}

/// A stream of the registry: which version, where the receiver joins it in a new session, and where it breaks off.
type Stream = (bool, Index, Option<Index>);

/// A proplet that joins when another's stream is half over.
#[test]
fn the_end_of_one_version_and_the_beginning_of_another_are_no_module() {
    let one: Vec<u8> = (0..50).collect();
    let two: Vec<u8> = (100..150).collect();
    let (old, new) = (parts(&one, 10), parts(&two, 10));
    let engine = FakeEngine::new(1000);
    for join in 1..old.len() {
        for pieces in [None, Some(3)] {
            let mut assembly = Chunks::new(LIMIT);
            let stream = old[join..].iter().chain(&new).chain(&new);
            for part in stream {
                put(&mut assembly, *part, pieces, &engine).unwrap();
                if assembly.is_straight() {
                    break;
                }
            }
            let done = assembly.finish(&engine, &mut |_| {}).unwrap();
            assert_eq!(done.provenance.digest, digest(&two));
        }
    }
    assert_eq!(engine.arena().free, 1000);
}

proptest! {
    #[test]
    fn any_order_with_duplicates_gives_the_module(
        whole in prop_oneof![any_module(), vec(any::<u8>(), 1..600)],
        size in 1usize..100,
        order in vec(any::<Index>(), 0..64),
        pieces in any_pieces(),
    ) {
        let parts = parts(&whole, size);
        let random = order.iter().map(|at| *at.get(&parts));
        let chunks: Vec<_> = random.chain(parts.iter().rev().copied()).collect();
        prop_assert_eq!(feed(&chunks, pieces, 8000), Ok(Some(stripped(&whole))));
    }

    /// Whatever came before, as long as it was of this version.
    #[test]
    fn the_module_is_straight_once_it_was_sent_from_its_beginning(
        whole in any_module(),
        size in 1usize..100,
        before in vec((any::<Index>(), 0..9), 0..64),
        pieces in any_pieces(),
    ) {
        let parts = parts(&whole, size);
        let engine = FakeEngine::new(8000);
        let mut assembly = Chunks::new(LIMIT);
        for (at, event) in before {
            if event == 0 {
                assembly.note_gap();
            }
            prop_assert_eq!(put(&mut assembly, *at.get(&parts), pieces, &engine), Ok(()));
        }
        for part in &parts {
            prop_assert_eq!(put(&mut assembly, *part, pieces, &engine), Ok(()));
        }
        prop_assert!(assembly.is_straight());
        prop_assert_eq!(assembly.digest(), digest(&whole));
        let image = assembly.finish(&engine, &mut |_| {}).unwrap();
        prop_assert_eq!(&*image.bytes, &stripped(&whole)[..]);
    }

    /// The registry sends one version and then another. In a new session the receiver sees the end of a stream and
    /// then, as it has asked, whole ones, until the connection is lost.
    #[test]
    fn chunks_of_two_versions_are_never_one_module(
        one in any_module(),
        changes in vec((any::<Index>(), any::<u8>()), 1..6),
        sizes in (1usize..100, 1usize..100),
        same_size in any::<bool>(),
        streams in vec(any::<Stream>(), 1..8),
        pieces in any_pieces(),
    ) {
        let mut two = one.clone();
        for (at, byte) in changes {
            let at = at.index(two.len());
            two[at] = byte;
        }
        let sent = [parts(&one, sizes.0), parts(&two, if same_size { sizes.0 } else { sizes.1 })];
        let engine = FakeEngine::new(8000);
        let mut assembly = Chunks::new(LIMIT);
        let mut is_new = true;
        let mut taken = Ok(());
        for (version, join, cut) in streams {
            let stream = &sent[usize::from(version)];
            let from = if is_new { join.index(stream.len()) } else { 0 };
            let stream = &stream[from..];
            let len = cut.map_or(stream.len(), |cut| cut.index(stream.len()));
            let mut chunks = stream[..len].iter();
            let is_done = |assembly: &Chunks<_>| assembly.is_complete() && assembly.is_straight();
            while taken.is_ok() && !is_done(&assembly) && let Some(part) = chunks.next() {
                taken = put(&mut assembly, *part, pieces, &engine);
            }
            is_new = len < stream.len();
            // Between two streams nothing comes for a while.
            let is_quiet = !is_new && assembly.is_complete() && !assembly.spans_gap();
            if taken.is_err() || is_done(&assembly) || is_quiet {
                break;
            }
            if is_new {
                assembly.note_gap();
            }
        }
        if taken.is_ok() && assembly.is_complete() && !assembly.spans_gap() {
            let image = assembly.finish(&engine, &mut |_| {}).unwrap();
            let is = |whole: &[u8]| image.provenance.digest == digest(whole);
            prop_assert!(is(&one) || is(&two), "a mixture");
            let whole = if is(&one) { one } else { two };
            prop_assert_eq!(&*image.bytes, &stripped(&whole)[..]);
        }
        drop(assembly);
        prop_assert_eq!(engine.arena().free, 8000);
    }

    #[test]
    fn no_sequence_panics(
        chunks in vec((0u32..6, 0u32..6, vec(any::<u8>(), 0..5), any_pieces(), 0..10), 0..60),
        arena in 0usize..100,
    ) {
        let engine = FakeEngine::new(arena);
        let mut assembly = Chunks::new(60);
        for (index, total, bytes, pieces, event) in &chunks {
            let make_room = &mut |_: usize| {};
            match event {
                0 => assembly.note_gap(),
                2 => drop(assembly.pass_over((*index, *total))),
                1 if assembly.begin(*index, *total, &engine, make_room) == Ok(true) => {
                    let _ = assembly.append(bytes, &engine, make_room);
                    assembly.note_gap();
                }
                _ => {}
            }
            let part = (*index, *total, &bytes[..]);
            let taken = match event {
                ..5 => put(&mut assembly, part, *pieces, &engine),
                _ => take(&mut assembly, part, *pieces, &engine).map(drop),
            };
            if taken.is_err() {
                assembly = Chunks::new(60);
            }
        }
    }
}
