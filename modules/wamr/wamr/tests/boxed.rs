//! Values of the host's own in the arena: dropped once, and given back to the byte.

mod common;

use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::{alone, runtime};
use wamr::{Boxed, Bytes, ErrorKind, Record, Runtime};

fn rt() -> Runtime {
    runtime(&[])
}

fn free() -> usize {
    rt().memory().free as usize
}

/// Counts its drops.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>, u64);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn counted() -> (Counted, Arc<AtomicUsize>) {
    let drops = Arc::new(AtomicUsize::new(0));
    (Counted(drops.clone(), 7), drops)
}

#[test]
fn a_boxed_value_is_dropped_once_and_gives_its_block_back() {
    let _one = alone();
    let before = free();
    let (value, drops) = counted();
    let mut boxed = rt().boxed(value).unwrap();
    assert_eq!(before - free(), Boxed::<Counted>::BYTES);
    boxed.1 += 1;
    assert_eq!((boxed.1, drops.load(Ordering::SeqCst)), (8, 0));
    drop(boxed);
    assert_eq!((free(), drops.load(Ordering::SeqCst)), (before, 1));

    let (value, drops) = counted();
    let value = rt().boxed(value).unwrap().into_inner();
    assert_eq!((free(), drops.load(Ordering::SeqCst)), (before, 0));
    drop(value);
    assert_eq!(drops.load(Ordering::SeqCst), 1);
}

#[test]
fn a_leaked_value_stays() {
    let _one = alone();
    let (value, drops) = counted();
    let before = free();
    let leaked: &'static mut Counted = rt().boxed(value).unwrap().leak();
    leaked.1 += 1;
    assert_eq!((leaked.1, drops.load(Ordering::SeqCst)), (8, 0));
    assert_eq!(before - free(), Boxed::<Counted>::BYTES);
}

#[test]
fn a_value_of_no_size_has_a_block_too() {
    let _one = alone();
    let before = free();
    let boxed = rt().boxed(()).unwrap();
    assert!(free() < before);
    let () = *boxed;
    drop(boxed);
    assert_eq!(free(), before);
}

#[test]
fn a_value_goes_with_its_thread() {
    let _one = alone();
    let before = free();
    let (value, drops) = counted();
    let boxed = rt().boxed(value).unwrap();
    thread::spawn(move || assert_eq!(boxed.1, 7))
        .join()
        .unwrap();
    assert_eq!((free(), drops.load(Ordering::SeqCst)), (before, 1));
}

#[test]
fn without_room_the_value_is_dropped() {
    let _one = alone();
    let before = free();
    let mut taken = Vec::new();
    for len in [4096, 256, 4] {
        while let Some(buffer) = rt().try_buffer(len) {
            taken.push(buffer);
        }
    }
    let (value, drops) = counted();
    assert!(rt().boxed(value).is_err());
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    let (value, drops) = counted();
    let error = rt().record(value, 100).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    drop(taken);
    for len in [usize::MAX, usize::MAX / 2, u32::MAX as usize, 1 << 31] {
        let (value, drops) = counted();
        let error = rt().record(value, len).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{len}");
        assert_eq!(drops.load(Ordering::SeqCst), 1);
    }
    assert_eq!(free(), before);
}

#[test]
fn a_record_has_its_value_and_its_bytes() {
    let _one = alone();
    let before = free();
    for len in [0, 1, 7, 8, 9, 1000] {
        let mut record = rt().record([1_u16, 2, 3], len).unwrap();
        assert_eq!(before - free(), Record::<[u16; 3]>::block_bytes(len));
        assert_eq!(before - free(), (8 + 6 + len + 4).next_multiple_of(8));
        assert_eq!(
            (record.value(), record.bytes()),
            (&[1, 2, 3], &vec![0; len][..])
        );
        record.bytes_mut().fill(0xff);
        record.value_mut()[2] = 9;
        assert_eq!(record.value(), &[1, 2, 9]);
        assert_eq!(record.bytes(), vec![0xff; len]);
        drop(record);
        assert_eq!(free(), before);
    }
}

#[test]
fn a_shared_record_is_not_written_and_outlived_by_its_readers() {
    let _one = alone();
    let before = free();
    let (value, drops) = counted();
    let mut record = rt().record(value, 5).unwrap();
    let taken = before - free();
    record.bytes_mut().copy_from_slice(b"hello");
    let first = record.share();
    let second = record.share();
    assert!(record.bytes_mut().is_empty());
    assert_eq!(
        (record.bytes(), &first[..], &second[..]),
        (&b"hello"[..], &b"hello"[..], &b"hello"[..])
    );
    drop(first);
    // It stays shared: nothing depends on when a reader goes.
    assert!(record.bytes_mut().is_empty());
    record.value_mut().1 = 8;
    assert_eq!(drops.load(Ordering::SeqCst), 0);
    drop(record);
    assert_eq!(
        drops.load(Ordering::SeqCst),
        1,
        "the value goes with the record"
    );
    assert_eq!((&second[..], before - free()), (&b"hello"[..], taken));
    drop(second);
    assert_eq!((free(), drops.load(Ordering::SeqCst)), (before, 1));

    let (value, drops) = counted();
    let mut record = rt().record(value, 5).unwrap();
    drop(record.share());
    drop(record);
    assert_eq!((free(), drops.load(Ordering::SeqCst)), (before, 1));
}

/// Whichever reference is the last, on whichever thread.
#[test]
fn readers_on_other_threads() {
    let _one = alone();
    let before = free();
    for round in 0..200_u32 {
        let (value, drops) = counted();
        let mut record = rt().record(value, 64).unwrap();
        record.bytes_mut().fill(round as u8);
        thread::scope(|scope| {
            for _ in 0..3 {
                let bytes = record.share();
                scope.spawn(move || assert_eq!(bytes[..], [round as u8; 64]));
            }
            record.value_mut().1 += 1;
            drop(record);
        });
        assert_eq!((free(), drops.load(Ordering::SeqCst)), (before, 1));
    }
}

#[test]
fn handles_are_thin() {
    let pointer = size_of::<usize>();
    assert_eq!(size_of::<Option<Boxed<[u64; 9]>>>(), pointer);
    assert_eq!(size_of::<Option<Record<[u64; 9]>>>(), pointer);
    assert_eq!(size_of::<Option<Bytes>>(), 2 * pointer);
}
