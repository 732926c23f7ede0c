//! The workloads of `wat/` against plain Rust: benchmarks measure what computes what it says.

mod common;

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use common::{Guest, alone, budget, load, runtime};
use wamr::{InstanceConfig, Module, Runtime, Trap, TrapKind, Value};

fn rt() -> Runtime {
    runtime(&[])
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../wat")
}

fn read(name: &str) -> Module {
    let text = fs::read_to_string(folder().join(name)).unwrap();
    load(rt(), &text).unwrap()
}

/// Calls a function of i32s.
fn call(instance: &mut Guest, name: &str, args: &[i32]) -> Result<u32, Trap> {
    let args: Vec<_> = args.iter().copied().map(Value::I32).collect();
    let mut out = [Value::I64(0)];
    assert_eq!(instance.call(name, &args, &mut out, &budget())?, 1);
    match out {
        [Value::I32(result)] => Ok(result.cast_unsigned()),
        [other] => panic!("{name} returned {other:?}"),
    }
}

fn new(module: &Module) -> Guest {
    Guest::new(module, &InstanceConfig::default()).unwrap()
}

/// A file, and what its `main` returns in a new instance.
type Main = (&'static str, fn() -> u32);

/// All of `wat/bench`.
const MAINS: [Main; 9] = [
    ("add.wat", || (0..50_000).sum()),
    ("checksum.wat", checksum),
    ("cpu.wat", || fnv1a(FNV, 0..10_000)),
    ("fib.wat", || 500 * fib(30)),
    ("mem.wat", mem),
    ("mem64k.wat", mem),
    ("msg.wat", msg),
    ("mul.wat", || 1_000_003_u32.wrapping_pow(20_000)),
    ("popcount.wat", || (0..50_000).map(u32::count_ones).sum()),
];

/// Where FNV-1a starts.
const FNV: u32 = 2_166_136_261;

/// FNV-1a; it takes words whole, as if they were bytes.
fn fnv1a(hash: u32, words: impl IntoIterator<Item = u32>) -> u32 {
    words
        .into_iter()
        .fold(hash, |hash, word| (hash ^ word).wrapping_mul(16_777_619))
}

fn fib(n: u32) -> u32 {
    (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
}

fn word(number: u32) -> u32 {
    number.wrapping_mul(0x9e37_79b1)
}

fn checksum() -> u32 {
    (0..100 * 1024).fold(0_u32, |sum, number| sum.rotate_left(5) ^ word(number))
}

/// Wherever in memory it is done.
fn mem() -> u32 {
    let byte = |round: u32| move |i: u32| (7 * i + 13 * round) % 256;
    (0..100).fold(FNV, |hash, round| fnv1a(hash, (0..1024).map(byte(round))))
}

fn msg() -> u32 {
    let mut ring = VecDeque::new();
    let mut hash = FNV;
    for sequence in 0..1000_u32 {
        if ring.len() == 64 {
            hash = fnv1a(hash, ring.pop_front().unwrap());
        }
        ring.push_back([0, 1, 2, 3, 4, 5, 6, 7].map(|w| word(8 * sequence + w)));
    }
    ring.into_iter().fold(hash, fnv1a)
}

#[test]
fn every_main_returns_what_it_computed() {
    let _one = alone();
    for (file, expected) in MAINS {
        let expected = expected();
        assert_ne!(expected, 0, "{file}");
        let module = read(&format!("bench/{file}"));
        for _ in 0..2 {
            let mut instance = new(&module);
            assert_eq!(
                call(&mut instance, "main", &[]).unwrap(),
                expected,
                "{file}"
            );
        }
    }
}

#[test]
fn every_file_of_the_folder_is_expected() {
    let files: BTreeSet<_> = fs::read_dir(folder().join("bench"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files, MAINS.map(|(file, _)| file.to_string()).into());
}

#[test]
fn a_second_call_of_cpu_goes_on() {
    let _one = alone();
    let mut instance = new(&read("bench/cpu.wat"));
    call(&mut instance, "main", &[]).unwrap();
    let expected = fnv1a(FNV, (0..10_000).chain(0..10_000));
    assert_eq!(call(&mut instance, "main", &[]).unwrap(), expected);
}

#[test]
fn recursive_fib() {
    let _one = alone();
    let mut instance = new(&read("fib.wat"));
    for n in [0_u32, 1, 2, 10, 20] {
        let got = call(&mut instance, "run", &[n.cast_signed()]).unwrap();
        assert_eq!(got, fib(n), "{n}");
    }
}

/// In integers: f64 is exact for all sums here, which stay below 2^53.
fn dot(length: u32) -> u32 {
    (1..=length).map(|a| a * ((a - 1) % 8 + 1)).sum()
}

#[test]
fn dot_products() {
    let _one = alone();
    let module = read("dot.wat");
    for length in [1, 2, 7, 8, 9, 1000, 1024, 4095, 4096] {
        for rounds in [1, 3] {
            // A new one: an element that is read but not filled is 0.
            let mut instance = new(&module);
            let got = call(&mut instance, "run", &[length, rounds]).unwrap();
            assert_eq!(got, dot(length.cast_unsigned()), "{length}");
        }
    }
    let mut instance = new(&module);
    for (length, rounds) in [(0, 1), (1, 0), (1, -1), (1, i32::MIN + 1)] {
        assert_eq!(
            call(&mut instance, "run", &[length, rounds]).unwrap(),
            dot(1)
        );
    }
    for length in [4097, 8192, 1 << 29, i32::MIN, -1] {
        let trap = call(&mut instance, "run", &[length, 1]).unwrap_err();
        assert_eq!(trap.kind(), TrapKind::MemoryOutOfBounds, "{length}");
        assert_eq!(call(&mut instance, "run", &[4096, 1]).unwrap(), dot(4096));
    }
}

/// In integers, as [`dot`], and from the matrices by their indexes.
fn matmul(size: usize) -> u32 {
    let a = |row, column| (row * size + column) % 7 + 1;
    let b = |row, column| (row * size + column) % 5 + 1;
    let mut sum = 0;
    for row in 0..size {
        for column in 0..size {
            sum += (0..size).map(|k| a(row, k) * b(k, column)).sum::<usize>();
        }
    }
    u32::try_from(sum).unwrap()
}

#[test]
fn matrix_products() {
    let _one = alone();
    let module = read("matmul.wat");
    for (size, pages) in [
        (1, 1),
        (2, 1),
        (3, 1),
        (7, 1),
        (35, 1),
        (64, 1),
        (65, 2),
        (90, 2),
    ] {
        let mut instance = new(&module);
        let got = call(&mut instance, "run", &[size, 1]).unwrap();
        assert_eq!(got, matmul(size as usize), "{size}");
        assert_eq!(instance.memory_len(), pages * 65_536, "{size}");
    }
    let mut instance = new(&module);
    for (size, rounds) in [
        (20, 3),
        (65, 1),
        (64, 2),
        (66, 0),
        (5, -1),
        (1, i32::MIN + 1),
    ] {
        let got = call(&mut instance, "run", &[size, rounds]).unwrap();
        assert_eq!(got, matmul(size as usize), "{size}");
    }
}

#[test]
fn matrices_that_are_too_large_trap() {
    let _one = alone();
    let module = read("matmul.wat");
    let free = rt().memory().free;
    let mut sizes = vec![0, 513, 65_536, 1 << 29, i32::MIN, -1];
    // 91 by 91 is in range, but takes three pages of Wasm, and 512 by 512 takes 48. The arena has less
    // than that, which matters to a flat memory alone, until a guest has written so much.
    if wamr::page_bytes() == 0 {
        sizes.extend([91, 512]);
    } else {
        let mut instance = new(&module);
        assert_eq!(call(&mut instance, "run", &[91, 1]).unwrap(), matmul(91));
        assert_eq!(instance.memory_len(), 3 * 65_536);
        let trap = call(&mut instance, "run", &[512, 1]).unwrap_err();
        assert_eq!(trap.kind(), TrapKind::OutOfMemory);
    }
    for size in sizes {
        let mut instance = new(&module);
        let trap = call(&mut instance, "run", &[size, 1]).unwrap_err();
        assert_eq!(trap.kind(), TrapKind::Unreachable, "{size}");
        assert_eq!(instance.memory_len(), 65_536);
        assert_eq!(call(&mut instance, "run", &[64, 1]).unwrap(), matmul(64));
        drop(instance);
        assert_eq!(rt().memory().free, free);
    }
}
