//! The host functions of the samples, for WAMR. The effect of each depends on its arguments and the
//! guest's memory alone.

use std::any::Any;
use std::cell::Cell;
use std::task::Poll;

use wamr::{Caller, HostError, HostFunction};

use crate::samples;

pub(crate) static HOST: [HostFunction; 9] = [
    samples::READ,
    samples::GIVE,
    HostFunction {
        module: c"env",
        name: c"poke",
        signature: c"(ii)",
        call: poke,
    },
    HostFunction {
        module: c"env",
        name: c"wait",
        signature: c"(i)i",
        call: wait,
    },
    HostFunction {
        module: c"env",
        name: c"hold",
        signature: c"(Ii)",
        call: hold,
    },
    HostFunction {
        module: c"env",
        name: c"work",
        signature: c"(i)i",
        call: work,
    },
    HostFunction {
        module: c"env",
        name: c"mix",
        signature: c"(IfF)I",
        call: mix,
    },
    HostFunction {
        module: c"env",
        name: c"lend",
        signature: c"(i)i",
        call: lend,
    },
    HostFunction {
        module: c"env",
        name: c"~memory",
        signature: c"()",
        call: see,
    },
];

/// Imports that a generated module may have.
pub(crate) const IMPORTS: &str = r#"(module
    (import "env" "read" (func (param i32 i32) (result i32)))
    (import "env" "poke" (func (param i32 i32)))
    (import "env" "wait" (func (param i32) (result i32)))
    (import "env" "hold" (func (param i64 i32)))
    (import "env" "work" (func (param i32) (result i32)))
    (import "env" "mix" (func (param i64 f32 f64) (result i64))))"#;

/// Context of steps: what `~memory` is to read, and a number made of it.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) len: Cell<u32>,
    pub(crate) sum: Cell<u64>,
}

impl Seen {
    pub(crate) fn context(&self) -> &dyn Any {
        self
    }
}

/// FNV-1a, eight bytes at a time.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let start = 0xcbf2_9ce4_8422_2325 ^ bytes.len() as u64;
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    words
        .chain(rest.iter().map(|byte| u64::from(*byte)))
        .fold(start, |sum, word| {
            (sum ^ word).wrapping_mul(0x100_0000_01b3).rotate_left(29)
        })
}

fn see(caller: &mut Caller<'_>, _: &mut [u64]) -> Poll<Result<(), HostError>> {
    if let Some(seen) = caller.context::<Seen>() {
        let len = seen.len.get();
        caller.check(0, len)?;
        let mut bytes = vec![0; len as usize];
        caller.read(0, &mut bytes)?;
        seen.sum.set(sum(&bytes));
    }
    Poll::Ready(Ok(()))
}

fn poke(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    Poll::Ready(caller.write(args[0] as u32, &(args[1] as u32).to_le_bytes()))
}

/// Waits as often as the two lowest bits say, and does work each time.
fn wait(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    caller.charge((args[0] >> 2) as u32 & 0x7f);
    if args[0] & 3 > 0 {
        args[0] -= 1;
        return Poll::Pending;
    }
    args[0] >>= 2;
    Poll::Ready(Ok(()))
}

/// Waits once, and writes then.
fn hold(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    if !caller.is_asked_again() {
        return Poll::Pending;
    }
    Poll::Ready(caller.write(args[1] as u32, &args[0].to_le_bytes()))
}

fn work(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    caller.charge(args[0] as u32 & 0xfff);
    Poll::Ready(Ok(()))
}

/// Waits once, if its first argument is odd.
fn mix(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    if args[0] & 1 > 0 && !caller.is_asked_again() {
        return Poll::Pending;
    }
    args[0] ^= args[1].rotate_left(7) ^ args[2].rotate_left(19);
    Poll::Ready(Ok(()))
}

/// Allocates in the guest, half of the times after having waited.
fn lend(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    if args[0] & 1 == 0 && !caller.is_asked_again() {
        return Poll::Pending;
    }
    args[0] = u64::from(caller.alloc_in_guest(args[0] as u32)?);
    Poll::Ready(Ok(()))
}
