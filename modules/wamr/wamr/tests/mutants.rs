//! Modules with a few bytes changed: whatever they are, they are refused, they trap, they run out of
//! their budget or they return. Nothing else happens, and the arena comes back to the byte.
//!
//! `MUTANTS` says how many, `MUTANT_SEED` from which seed; by default 2,000 from a fixed one.

mod common;

use std::task::Poll;

use common::{Budget, Guest, alone, load_bytes, runtime};
use wamr::{
    Caller, HostError, HostFunction, InstanceConfig, Runtime, Signature, ValType, Value, estimate,
};

static HOST: [HostFunction; 2] = [
    HostFunction {
        module: c"env",
        name: c"read",
        signature: c"(ii)i",
        call: read,
    },
    HostFunction {
        module: c"env",
        name: c"give",
        signature: c"(i)i",
        call: give,
    },
];

fn read(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    let mut bytes = [0; 64];
    let len = (args[1] as usize).min(bytes.len());
    caller.read(args[0] as u32, &mut bytes[..len])?;
    args[0] = bytes.iter().map(|&b| u64::from(b)).sum();
    Poll::Ready(Ok(()))
}

fn give(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    let offset = caller.alloc_in_guest(args[0] as u32)?;
    caller.write(offset, b"given")?;
    args[0] = u64::from(offset);
    Poll::Ready(Ok(()))
}

fn rt() -> Runtime {
    runtime(&HOST)
}

const BASES: [&str; 7] = [
    include_str!("../../../../wat/fib.wat"),
    include_str!("../../../../wat/dot.wat"),
    include_str!("../../../../wat/matmul.wat"),
    include_str!("../../../../wat/branchy.wat"),
    r#"(module (import "env" "give" (func $give (param i32) (result i32)))
        (memory (export "memory") 1) (global $at (mut i32) (i32.const 64))
        (func (export "malloc") (param i32) (result i32) (global.get $at)
            (global.set $at (i32.add (global.get $at) (local.get 0))))
        (func (export "free") (param i32))
        (func (export "run") (param i32) (result i64)
            (drop (memory.grow (i32.const 1)))
            (memory.copy (i32.const 8) (i32.const 0) (i32.const 4))
            (memory.fill (i32.const 16) (local.get 0) (i32.const 9))
            (i64.load (call $give (local.get 0))))
        (data (i32.const 0) "some data"))"#,
    r#"(module (import "env" "read" (func $read (param i32 i32) (result i32)))
        (type $b (func (param i32) (result i32))) (memory 1 1) (table 4 8 funcref)
        (elem (i32.const 0) $f $g) (elem $late func $g $f) (start $s) (data $d "passive")
        (func $s (memory.init $d (i32.const 3) (i32.const 1) (i32.const 4)) (data.drop $d)
            (table.init $late (i32.const 2) (i32.const 0) (i32.const 2)) (elem.drop $late))
        (func $f (type $b) (i32.add (local.get 0) (i32.const 1)))
        (func $g (type $b) (call $read (local.get 0) (i32.const 8)))
        (func (export "run") (param i32 f64) (result i32 f32)
            (table.copy (i32.const 1) (i32.const 0) (i32.const 2))
            (table.fill (i32.const 3) (ref.func $f) (i32.const 1))
            (drop (table.grow (ref.null func) (i32.const 2)))
            (call_indirect (type $b) (local.get 0) (i32.const 1))
            (f32.demote_f64 (local.get 1))))"#,
    r#"(module (memory (export "memory") 2) (global $sp (mut i32) (i32.const 1024))
        (global (export "__data_end") i32 (i32.const 1024))
        (global (export "__heap_base") i32 (i32.const 1280))
        (func (export "_initialize") (i32.store (i32.const 1276) (i32.const -1)))
        (func (export "run") (param i64) (result i32 i64) (local $i i32) (local $v i64)
            (global.set $sp (i32.sub (global.get $sp) (i32.const 16)))
            (block $out (result i64) (loop $in (param) (result i64)
                (i64.store (local.get $i) (local.get 0))
                (local.set $i (i32.add (local.get $i) (i32.const 8)))
                (br_if $out (local.get 0) (i32.ge_u (local.get $i) (i32.const 1280)))
                (drop) (br $in)))
            (local.set $v) (global.get $sp) (i64.extend8_s (local.get $v))))"#,
];

/// xorshift64*: the same mutants on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n.max(1)
    }
}

fn mutate(random: &mut Random, wasm: &mut Vec<u8>) {
    for _ in 0..=random.below(3) {
        let at = random.below(wasm.len());
        match random.below(10) {
            0 => wasm.truncate(at),
            1 => wasm.insert(at, random.next() as u8),
            2 => drop(wasm.remove(at)),
            3..6 => wasm[at] ^= 1 << random.below(8),
            6 => wasm[at] = [0, 1, 0x0b, 0x40, 0x7f, 0x80, 0xfc, 0xff][random.below(8)],
            _ => wasm[at] = random.next() as u8,
        }
        if wasm.is_empty() {
            return;
        }
    }
}

fn arguments(random: &mut Random, signature: &Signature) -> Vec<Value> {
    let bits = random.next() >> random.below(64);
    let value = |ty: &ValType| match ty {
        ValType::I32 => Value::I32(bits as i32),
        ValType::I64 => Value::I64(bits as i64),
        ValType::F32 => Value::F32(f32::from_bits(bits as u32)),
        ValType::F64 => Value::F64(f64::from_bits(bits)),
    };
    signature.params().iter().map(value).collect()
}

/// Whether it got as far as running.
fn live(random: &mut Random, wasm: &[u8]) -> bool {
    let _ = estimate(wasm);
    let Ok(module) = load_bytes(rt(), wasm) else {
        return false;
    };
    let stack_bytes = [256, 1024, 4096][random.below(3)];
    let memory_bytes_max = [None, Some(4096), Some(70_000)][random.below(3)];
    let config = InstanceConfig {
        stack_bytes,
        memory_bytes_max,
    };
    let Ok(mut instance) = Guest::new(&module, &config) else {
        return false;
    };
    let mut ran = false;
    for name in ["run", "malloc", "run"] {
        let Ok(signature) = module.function(name) else {
            continue;
        };
        let args = arguments(random, &signature);
        let mut out = [Value::I32(0); 4];
        let supervisor = Budget::new(1 + random.below(500) as u32, 20_000);
        let _ = instance.call(name, &args, &mut out, &supervisor);
        ran = true;
    }
    ran
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[test]
fn mutants_do_no_harm() {
    let _one = alone();
    let bases: Vec<_> = BASES
        .iter()
        .map(|wat| wat::parse_str(wat).unwrap())
        .collect();
    let free = rt().memory().free;
    let mut random = Random(setting("MUTANT_SEED", 0x9e37_79b9_7f4a_7c15) | 1);
    for base in &bases {
        assert!(live(&mut random, base));
    }
    let (mut ran, count) = (0, setting("MUTANTS", 2000));
    for _ in 0..count {
        let mut wasm = bases[random.below(bases.len())].clone();
        mutate(&mut random, &mut wasm);
        ran += u64::from(live(&mut random, &wasm));
        assert_eq!(rt().memory().free, free);
    }
    println!("{ran} of {count} ran");
    assert!(ran > count / 20, "only {ran} of {count} ran");
}

#[test]
fn what_is_cut_short_is_refused() {
    let _one = alone();
    let free = rt().memory().free;
    for base in BASES {
        let wasm = wat::parse_str(base).unwrap();
        for len in 0..wasm.len() {
            // A cut between two sections can leave a module: without the rest, an empty one.
            let _ = load_bytes(rt(), &wasm[..len]);
        }
        for len in 0..8 {
            assert!(load_bytes(rt(), &wasm[..len]).is_err());
        }
    }
    assert_eq!(rt().memory().free, free);
}
