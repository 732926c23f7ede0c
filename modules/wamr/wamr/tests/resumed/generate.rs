//! Samples: modules of the repository, changed ones, and such as wasm-smith makes.

use std::fs;
use std::path::{Path, PathBuf};

use arbitrary::Unstructured;
use wamr::{Signature, ValType, Value};
use wasm_smith::{Config, InstructionKind, InstructionKinds, Module};

use super::host::IMPORTS;
use crate::samples::{BASES, Random, mutate};

/// Maxima to which a linear memory and a table may grow.
const PAGES: u64 = 4;
const ELEMENTS: u64 = 100;

/// More bases, of what the others have not.
const OURS: [&str; 4] = [
    // Bulk operations above what is done at once, in a line without a branch.
    r#"(module (import "env" "wait" (func $wait (param i32) (result i32)))
        (memory 2 4) (table $t 40000 funcref) (table $u 1 1000 funcref) (func $f)
        (func (export "run") (param i32) (result i32) (local i32)
            (memory.fill (i32.const 0) (local.get 0) (i32.const 120000))
            (loop (i32.store (i32.mul (local.get 1) (i32.const 97)) (local.get 1))
                (br_if 0 (i32.lt_u (local.tee 1 (i32.add (local.get 1) (i32.const 1)))
                    (i32.const 1200))))
            (drop (memory.grow (i32.const 1)))
            (memory.copy (i32.const 70000) (i32.const 1) (i32.const 120000))
            (drop (call $wait (local.get 0)))
            (memory.copy (i32.const 1) (i32.const 9) (i32.const 100000))
            (drop (table.grow $u (ref.func $f) (i32.const 999)))
            (table.fill $t (i32.const 100) (ref.null func) (i32.const 30000))
            (table.copy $t $t (i32.const 9) (i32.const 0) (i32.const 39000))
            (drop (memory.grow (i32.const 1)))
            (i32.add (table.size $t) (i32.load (i32.const 99999)))) (elem declare func $f))"#,
    // Recursion with a host function that waits at its end, and blocks with values.
    r#"(module (import "env" "wait" (func $wait (param i32) (result i32)))
        (import "env" "lend" (func $lend (param i32) (result i32)))
        (memory (export "memory") 1 4) (global $at (mut i32) (i32.const 64))
        (func (export "malloc") (param i32) (result i32) (local i32)
            (loop (br_if 0 (i32.lt_u (local.tee 1 (i32.add (local.get 1) (i32.const 1)))
                (i32.and (local.get 0) (i32.const 255)))))
            (global.get $at)
            (global.set $at (i32.add (global.get $at) (i32.and (local.get 0) (i32.const 63)))))
        (func (export "free") (param i32))
        (func $deep (export "deep") (param i32 i64) (result i64)
            (if (result i64) (i32.eqz (i32.and (local.get 0) (i32.const 15)))
                (then (i64.extend_i32_u (call $wait (i32.wrap_i64 (local.get 1)))))
                (else (i64.add (local.get 1) (block (result i64) (br_if 0
                    (call $deep (i32.sub (local.get 0) (i32.const 1))
                        (i64.mul (local.get 1) (i64.const 3))) (local.get 0)))))))
        (func (export "run") (param i32) (result i64) (local i32)
            (loop (i32.store8 (call $lend (local.get 0)) (local.get 1))
                (br_if 0 (i32.lt_u (local.tee 1 (i32.add (local.get 1) (i32.const 1)))
                    (i32.const 9))))
            (call $deep (local.get 0) (i64.extend_i32_s (local.get 0)))))"#,
    // A host function that waits and has a result of two cells.
    r#"(module (import "env" "mix" (func $mix (param i64 f32 f64) (result i64)))
        (func (export "run") (param i64) (result i64) (local i32)
            (loop (result i64) (local.set 0 (i64.add (i64.const 7)
                    (call $mix (local.get 0) (f32.const 1.5) (f64.const 2.5))))
                (local.get 0)
                (br_if 0 (i32.lt_u (local.tee 1 (i32.add (local.get 1) (i32.const 1)))
                    (i32.const 50))))))"#,
    // Jumps by tables of both kinds.
    r#"(module (func (export "run") (param i32 i32) (result i32)
        (loop $again (block $a (block $b (block $c
            (br_table $a $b $c $a $again $b (i32.and (local.get 0) (i32.const 7))))
            (local.set 1 (i32.mul (local.get 1) (i32.const 7))))
            (if (i32.and (local.get 1) (i32.const 1)) (then (local.set 1 (i32.const 10)))
                (else (local.set 0 (i32.shr_u (local.get 0) (i32.const 2))))))
            (local.set 0 (i32.sub (i32.shr_u (local.get 0) (i32.const 1)) (i32.const 1)))
            (br_if $again (i32.gt_s (local.get 0) (i32.const 0))))
        (local.get 1)))"#,
];

/// All `.wat` files of the repository, assembled, and what is written here.
pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let mut files = Vec::new();
    for folder in ["wat", "tests/zephyr/wamr/guests", "crates/testing/src"] {
        wat_files(&root.join(folder), &mut files);
    }
    assert!(files.len() >= 20, "{} files", files.len());
    files.sort();
    let texts = files.iter().map(|file| fs::read_to_string(file).unwrap());
    let texts = texts.chain(BASES.iter().chain(&OURS).map(|text| (*text).to_owned()));
    texts.map(|text| wat::parse_str(text).unwrap()).collect()
}

fn wat_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            wat_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "wat") {
            files.push(path);
        }
    }
}

/// One of the corpus with a few bytes changed.
pub(crate) fn mutant(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut wasm = corpus[random.below(corpus.len())].clone();
    mutate(random, &mut wasm);
    wasm
}

/// A valid module of what this WAMR takes.
pub(crate) fn generated(random: &mut Random) -> Vec<u8> {
    let config = config(random);
    of(random, &config)
}

pub(crate) fn of(random: &mut Random, config: &Config) -> Vec<u8> {
    loop {
        let len = 500 + random.below(12_000);
        let bytes: Vec<u8> = (0..len).map(|_| (random.next() >> 32) as u8).collect();
        // Not all bytes suffice.
        if let Ok(module) = Module::new(config.clone(), &mut Unstructured::new(&bytes)) {
            return module.to_bytes();
        }
    }
}

pub(crate) fn config(random: &mut Random) -> Config {
    let imports = random.below(2) > 0;
    let mut config = Config {
        available_imports: imports.then(|| wat::parse_str(IMPORTS).unwrap()),
        allow_start_export: random.below(4) == 0,
        canonicalize_nans: true,
        disallow_traps: random.below(3) > 0,
        export_everything: true,
        min_funcs: 1,
        max_funcs: 1 + random.below(8),
        max_instructions: 20 + random.below(400),
        max_imports: if imports { 6 } else { 0 },
        max_memory32_bytes: PAGES * 65_536,
        memory_max_size_required: true,
        max_table_elements: ELEMENTS,
        table_max_size_required: true,
        max_tables: 2,
        max_elements: 20,
        max_values: 4,
        max_nesting_depth: 4 + random.below(12),
        ..Config::default()
    };
    config.acquire_release_atomics_enabled = false;
    config.compact_imports_enabled = false;
    config.custom_descriptors_enabled = false;
    config.exceptions_enabled = false;
    config.extended_const_enabled = false;
    config.gc_enabled = false;
    config.memory64_enabled = false;
    config.relaxed_simd_enabled = false;
    config.simd_enabled = false;
    config.tail_call_enabled = false;
    config.threads_enabled = false;
    config.wide_arithmetic_enabled = false;
    // Half of them are little else than branches, calls and bulk operations.
    if random.below(2) > 0 {
        config.allowed_instructions = InstructionKinds::new(&[
            InstructionKind::Control,
            InstructionKind::Variable,
            InstructionKind::NumericInt,
            InstructionKind::MemoryInt,
            InstructionKind::Table,
            InstructionKind::Reference,
        ]);
    }
    config
}

pub(crate) fn arguments(random: &mut Random, signature: &Signature) -> Vec<Value> {
    let params = signature.params().iter();
    params.map(|ty| value(random, *ty)).collect()
}

/// Small, of any size, or of a kind of its own.
fn value(random: &mut Random, ty: ValType) -> Value {
    let bits = match random.below(4) {
        0 => random.next() & 0x1f,
        1 => [
            0,
            1,
            u64::MAX,
            1 << 63,
            1 << 31,
            0x7fff_ffff,
            65_535,
            65_536,
        ][random.below(8)],
        _ => random.next() >> random.below(64),
    };
    // Of the NaNs only one: which of several an operation gives is not defined.
    let number = |n: f64| {
        if n.is_nan() {
            f64::from_bits(0x7ff8 << 48)
        } else {
            n
        }
    };
    match ty {
        ValType::I32 => Value::I32(bits as i32),
        ValType::I64 => Value::I64(bits as i64),
        ValType::F32 => match f32::from_bits((random.next() >> 32) as u32) {
            n if n.is_nan() => Value::F32(f32::from_bits(0x7fc0_0000)),
            n => Value::F32([n, bits as f32][random.below(2)]),
        },
        ValType::F64 => {
            let n = number(f64::from_bits(random.next()));
            Value::F64([n, bits as f64][random.below(2)])
        }
    }
}
