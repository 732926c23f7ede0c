//! Modules to begin with, ways to change them, and arguments for their functions.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(unreachable_pub, reason = "a module of test binaries")]

use std::task::Poll;

use wamr::{Caller, HostError, HostFunction, Signature, ValType, Value};

/// Imports of [`BASES`].
pub const READ: HostFunction = HostFunction {
    module: c"env",
    name: c"read",
    signature: c"(ii)i",
    call: read,
};

/// As [`READ`].
pub const GIVE: HostFunction = HostFunction {
    module: c"env",
    name: c"give",
    signature: c"(i)i",
    call: give,
};

pub fn read(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    let mut bytes = [0; 64];
    let len = (args[1] as usize).min(bytes.len());
    caller.read(args[0] as u32, &mut bytes[..len])?;
    args[0] = bytes.iter().map(|&b| u64::from(b)).sum();
    Poll::Ready(Ok(()))
}

pub fn give(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    let offset = caller.alloc_in_guest(args[0] as u32)?;
    caller.write(offset, b"given")?;
    args[0] = u64::from(offset);
    Poll::Ready(Ok(()))
}

pub const BASES: [&str; 7] = [
    include_str!("../../../../../wat/fib.wat"),
    include_str!("../../../../../wat/dot.wat"),
    include_str!("../../../../../wat/matmul.wat"),
    include_str!("../../../../../wat/branchy.wat"),
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
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n.max(1)
    }
}

pub fn mutate(random: &mut Random, wasm: &mut Vec<u8>) {
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

pub fn arguments(random: &mut Random, signature: &Signature) -> Vec<Value> {
    let bits = random.next() >> random.below(64);
    let value = |ty: &ValType| match ty {
        ValType::I32 => Value::I32(bits as i32),
        ValType::I64 => Value::I64(bits as i64),
        ValType::F32 => Value::F32(f32::from_bits(bits as u32)),
        ValType::F64 => Value::F64(f64::from_bits(bits)),
    };
    signature.params().iter().map(value).collect()
}

/// A number from the environment.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}
