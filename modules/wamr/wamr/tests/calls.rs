//! Values in and out, traps, start functions, metering and stopping.

mod common;

use std::task::Poll;

use common::{Budget, Guest, alone, budget, load, run, runtime};
use wamr::{
    Caller, ErrorKind, HostError, HostFunction, InstanceConfig, Runtime, TrapKind, ValType, Value,
};

static HOST: [HostFunction; 12] = [
    HostFunction {
        module: c"env",
        name: c"add",
        signature: c"(ii)i",
        call: add,
    },
    HostFunction {
        module: c"env",
        name: c"mix",
        signature: c"(IfF)F",
        call: mix,
    },
    HostFunction {
        module: c"env",
        name: c"refuse",
        signature: c"()",
        call: refuse,
    },
    HostFunction {
        module: c"env",
        name: c"put",
        signature: c"(ii)",
        call: put,
    },
    HostFunction {
        module: c"env",
        name: c"sum",
        signature: c"(ii)i",
        call: sum,
    },
    HostFunction {
        module: c"env",
        name: c"give",
        signature: c"(i)i",
        call: give,
    },
    HostFunction {
        module: c"env",
        name: c"count",
        signature: c"(iii)i",
        call: count,
    },
    HostFunction {
        module: c"env",
        name: c"reverse",
        signature: c"(ii)",
        call: reverse,
    },
    HostFunction {
        module: c"env",
        name: c"overwrite",
        signature: c"(ii)",
        call: overwrite,
    },
    HostFunction {
        module: c"env",
        name: c"explain",
        signature: c"(i)",
        call: explain,
    },
    HostFunction {
        module: c"env",
        name: c"work",
        signature: c"(i)i",
        call: work,
    },
    HostFunction {
        module: c"other",
        name: c"asked",
        signature: c"()I",
        call: asked,
    },
];

/// How often a byte occurs.
fn count(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    let bytes = copy(caller, args[0] as u32, args[1] as u32)?;
    args[0] = bytes.iter().filter(|b| u64::from(**b) == args[2]).count() as u64;
    Poll::Ready(Ok(()))
}

fn reverse(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    let mut bytes = copy(caller, args[0] as u32, args[1] as u32)?;
    bytes.reverse();
    Poll::Ready(caller.write(args[0] as u32, &bytes))
}

/// Writes ones, of which none is written where one has no place; to check that has no effect, and to read
/// then has none, either.
fn overwrite(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    let (offset, len) = (args[0] as u32, args[1] as u32);
    let checked = caller.check(offset, len);
    // More is not to be had: it is outside in any case.
    let mut bytes = vec![7; len.min(1 << 17) as usize];
    let read = caller.read(offset, &mut bytes);
    assert_eq!(read.is_ok(), checked.is_ok());
    assert_eq!(bytes.contains(&7), read.is_err(), "all is read, or nothing");
    bytes.fill(1);
    assert_eq!(caller.write(offset, &bytes), checked);
    Poll::Ready(checked)
}

/// Guest memory, which is checked before the copy gets its room: the length is the guest's.
fn copy(caller: &Caller<'_>, offset: u32, len: u32) -> Result<Vec<u8>, HostError> {
    caller.check(offset, len)?;
    let mut bytes = vec![0; len as usize];
    caller.read(offset, &mut bytes)?;
    Ok(bytes)
}

fn explain(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    let n = args[0];
    let text = "too much, ".repeat(n as usize);
    Poll::Ready(Err(caller.refuse(format_args!("{n} is {text}"))))
}

/// Works for as many units as its argument says.
fn work(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    caller.charge(args[0] as u32);
    assert_eq!(caller.runtime().memory(), rt().memory());
    Poll::Ready(Ok(()))
}

fn add(_: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    args[0] = u64::from((args[0] as u32).wrapping_add(args[1] as u32));
    Poll::Ready(Ok(()))
}

fn mix(_: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    let sum =
        args[0] as i64 as f64 + f64::from(f32::from_bits(args[1] as u32)) + f64::from_bits(args[2]);
    args[0] = sum.to_bits();
    Poll::Ready(Ok(()))
}

fn refuse(_: &mut Caller<'_>, _: &mut [u64]) -> Poll<Result<(), HostError>> {
    Poll::Ready(Err(HostError::new(c"not today")))
}

/// Writes eight known bytes at an offset, as often as asked.
fn put(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    let text = b"8 bytes!";
    Poll::Ready(caller.write(args[0] as u32, &text[..args[1] as usize]))
}

fn sum(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    let mut bytes = vec![0; args[1] as usize];
    caller.read(args[0] as u32, &mut bytes)?;
    args[0] = bytes.iter().map(|&b| u64::from(b)).sum();
    Poll::Ready(Ok(()))
}

/// Allocates in the guest, writes there and gives the offset.
fn give(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    let offset = caller.alloc_in_guest(args[0] as u32)?;
    caller.write(offset, b"given")?;
    args[0] = u64::from(offset);
    Poll::Ready(Ok(()))
}

fn asked(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    let budget = caller
        .context::<Budget>()
        .ok_or(HostError::new(c"another context"))?;
    args[0] = budget.asked();
    Poll::Ready(Ok(()))
}

fn rt() -> Runtime {
    runtime(&HOST)
}

fn trap_of(wat: &str) -> TrapKind {
    run(rt(), wat, &[], &mut []).expect_err("it traps").kind()
}

#[test]
fn adds() {
    let _one = alone();
    let wat = r#"(module (func (export "run") (param i32 i32) (result i32)
        (i32.add (local.get 0) (local.get 1))))"#;
    let mut out = [Value::I32(0)];
    let n = run(rt(), wat, &[Value::I32(40), Value::I32(2)], &mut out);
    assert_eq!((n, out), (Ok(1), [Value::I32(42)]));
}

#[test]
fn wide_and_float_values_keep_every_bit() {
    let _one = alone();
    let wat = r#"(module (func (export "run") (param i64 f32 f64 i32) (result i32 f64 i64 f32)
        (local.get 3) (local.get 2) (local.get 0) (local.get 1)))"#;
    let args = [
        Value::I64(-0x0123_4567_89ab_cdef),
        Value::F32(-0.1),
        Value::F64(core::f64::consts::PI),
        Value::I32(i32::MIN),
    ];
    let mut out = [Value::I32(0); 4];
    assert_eq!(run(rt(), wat, &args, &mut out), Ok(4));
    assert_eq!(out, [args[3], args[2], args[0], args[1]]);
}

#[test]
fn sixteen_parameters_pass_and_seventeen_are_refused() {
    let _one = alone();
    let wat = |n| {
        let params = "i64 ".repeat(n);
        format!(
            r#"(module (func (export "run") (param {params}) (result i64) (local.get {})))"#,
            n - 1
        )
    };
    let args: Vec<_> = (0..16).map(Value::I64).collect();
    let mut out = [Value::I64(0)];
    assert_eq!(run(rt(), &wat(16), &args, &mut out), Ok(1));
    assert_eq!(out, [Value::I64(15)]);
    let module = load(rt(), &wat(17)).unwrap();
    let error = module.function("run").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedSignature);
    assert_eq!(error.to_string(), "17 parameters; at most 16 can be passed");
}

#[test]
fn signatures_are_known() {
    let _one = alone();
    let module = load(
        rt(),
        r#"(module (func (export "f") (param i32 f64) (result f32 i64)
        (f32.const 0) (i64.const 0)))"#,
    )
    .unwrap();
    let signature = module.function("f").unwrap();
    assert_eq!(signature.params(), [ValType::I32, ValType::F64]);
    assert_eq!(signature.results(), [ValType::F32, ValType::I64]);
    assert_eq!(
        module.function("g").unwrap_err().kind(),
        ErrorKind::NoSuchFunction
    );
    assert_eq!(module.memory(), None);
}

#[test]
fn wrong_calls_run_nothing() {
    let _one = alone();
    let wat = r#"(module (func (export "run") (param i32) unreachable))"#;
    for (args, text) in [
        (&[][..], "`run` takes 1 arguments, 0 given"),
        (&[Value::I64(1)], "argument 1 of `run` is I32, I64 given"),
    ] {
        let trap = run(rt(), wat, args, &mut []).unwrap_err();
        assert_eq!(
            (trap.kind(), trap.to_string().as_str()),
            (TrapKind::BadCall, text)
        );
    }
    let trap = run(rt(), "(module)", &[], &mut []).unwrap_err();
    assert_eq!(trap.kind(), TrapKind::BadCall);
    assert_eq!(trap.to_string(), "no exported function `run`");
}

#[test]
fn traps_of_every_kind() {
    let _one = alone();
    let body = |code: &str| {
        format!(
            r#"(module (type $v (func)) (memory 1 1) (table 2 funcref) (elem (i32.const 0) $i)
            (func $i (result i32) (i32.const 0)) (func (export "run") {code}))"#
        )
    };
    for (code, kind) in [
        ("unreachable", TrapKind::Unreachable),
        (
            "(drop (i32.load (i32.const 65533)))",
            TrapKind::MemoryOutOfBounds,
        ),
        (
            "(drop (i32.load offset=0xffffffff (i32.const -1)))",
            TrapKind::MemoryOutOfBounds,
        ),
        (
            "(memory.fill (i32.const 1) (i32.const 0) (i32.const 65536))",
            TrapKind::MemoryOutOfBounds,
        ),
        (
            "(memory.copy (i32.const 0) (i32.const 1) (i32.const 65536))",
            TrapKind::MemoryOutOfBounds,
        ),
        (
            "(drop (table.get 0 (i32.const 2)))",
            TrapKind::TableOutOfBounds,
        ),
        (
            "(call_indirect (type $v) (i32.const 0))",
            TrapKind::IndirectCallMismatch,
        ),
        (
            "(call_indirect (type $v) (i32.const 1))",
            TrapKind::UndefinedElement,
        ),
        (
            "(call_indirect (type $v) (i32.const 2))",
            TrapKind::UndefinedElement,
        ),
        (
            "(drop (i32.div_s (i32.const 1) (i32.const 0)))",
            TrapKind::IntegerDivideByZero,
        ),
        (
            "(drop (i64.rem_u (i64.const 1) (i64.const 0)))",
            TrapKind::IntegerDivideByZero,
        ),
        (
            "(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))",
            TrapKind::IntegerOverflow,
        ),
        (
            "(drop (i32.trunc_f64_s (f64.const 1e10)))",
            TrapKind::IntegerOverflow,
        ),
        (
            "(drop (i32.trunc_f32_s (f32.const nan)))",
            TrapKind::InvalidConversion,
        ),
        ("(loop (br 0))", TrapKind::OutOfWork),
    ] {
        assert_eq!(trap_of(&body(code)), kind, "{code}");
    }
}

#[test]
fn a_trapped_instance_can_be_called_again() {
    let _one = alone();
    let module = load(
        rt(),
        r#"(module (func (export "f") (param i32) (result i32)
        (i32.div_u (i32.const 12) (local.get 0))))"#,
    )
    .unwrap();
    let mut instance = Guest::new(&module, &InstanceConfig::default()).unwrap();
    let mut out = [Value::I32(0)];
    for _ in 0..1000 {
        let trap = instance
            .call("f", &[Value::I32(0)], &mut out, &budget())
            .unwrap_err();
        assert_eq!(trap.kind(), TrapKind::IntegerDivideByZero);
        assert_eq!(trap.to_string(), "integer divide by zero");
        assert_eq!(
            instance.call("f", &[Value::I32(4)], &mut out, &budget()),
            Ok(1)
        );
        assert_eq!(out, [Value::I32(3)]);
    }
}

#[test]
fn host_functions() {
    let _one = alone();
    let wat = r#"(module
        (import "env" "add" (func $add (param i32 i32) (result i32)))
        (import "env" "mix" (func $mix (param i64 f32 f64) (result f64)))
        (func (export "run") (result i32 f64)
            (call $add (i32.const -1) (i32.const 43))
            (call $mix (i64.const -10) (f32.const 0.5) (f64.const 0.25))))"#;
    let mut out = [Value::I32(0); 2];
    assert_eq!(run(rt(), wat, &[], &mut out), Ok(2));
    assert_eq!(out, [Value::I32(42), Value::F64(-9.25)]);
}

#[test]
fn a_host_function_that_refuses_traps() {
    let _one = alone();
    let wat = r#"(module (import "env" "refuse" (func $f)) (func (export "run") (call $f)))"#;
    let trap = run(rt(), wat, &[], &mut []).unwrap_err();
    assert_eq!(
        (trap.kind(), trap.to_string().as_str()),
        (TrapKind::Host, "not today")
    );
}

#[test]
fn guest_pointers_are_checked_to_the_byte() {
    let _one = alone();
    let wat = r#"(module
        (import "env" "put" (func $put (param i32 i32)))
        (import "env" "sum" (func $sum (param i32 i32) (result i32)))
        (memory 1 1)
        (func (export "run") (param i32 i32) (result i32)
            (call $put (local.get 0) (local.get 1)) (call $sum (local.get 0) (local.get 1))))"#;
    let call = |offset: i32, len| {
        let mut out = [Value::I32(0)];
        run(rt(), wat, &[Value::I32(offset), Value::I32(len)], &mut out).map(|_| out[0])
    };
    assert_eq!(
        call(65528, 8),
        Ok(Value::I32(b"8 bytes!".iter().map(|&b| i32::from(b)).sum()))
    );
    assert_eq!(call(65536, 0), Ok(Value::I32(0)));
    for (offset, len) in [
        (65529, 8),
        (65533, 4),
        (65536, 1),
        (-1, 1),
        (-4, 8),
        (i32::MIN, 8),
    ] {
        let trap = call(offset, len).unwrap_err();
        assert_eq!(trap.kind(), TrapKind::MemoryOutOfBounds, "{offset}+{len}");
    }
}

#[test]
fn guest_memory_is_copied_in_and_out() {
    let _one = alone();
    let wat = r#"(module
        (import "env" "count" (func $count (param i32 i32 i32) (result i32)))
        (import "env" "reverse" (func $reverse (param i32 i32)))
        (memory 1 1) (data (i32.const 65530) "abcabc")
        (func (export "run") (param i32 i32) (result i32)
            (call $reverse (local.get 0) (local.get 1))
            (call $count (local.get 0) (local.get 1) (i32.load8_u (i32.const 65533)))))"#;
    let call = |offset: i32, len| {
        let mut out = [Value::I32(0)];
        run(rt(), wat, &[Value::I32(offset), Value::I32(len)], &mut out).map(|_| out[0])
    };
    // abcabc becomes abcacb.
    assert_eq!(call(65534, 2), Ok(Value::I32(0)));
    assert_eq!(call(65530, 6), Ok(Value::I32(2)));
    // No bytes are nowhere.
    for offset in [0, 65536, -1] {
        assert_eq!(call(offset, 0), Ok(Value::I32(0)));
    }
    for (offset, len) in [
        (65535, 2),
        (65536, 1),
        (-1, 1),
        (-1, 2),
        (0, 65537),
        (1, -1),
        (0, -1),
    ] {
        let trap = call(offset, len).unwrap_err();
        assert_eq!(trap.kind(), TrapKind::MemoryOutOfBounds, "{offset}+{len}");
    }
}

#[test]
fn a_write_that_does_not_fit_writes_nothing() {
    let _one = alone();
    // Zeros, and their sum.
    let wat = r#"(module (import "env" "overwrite" (func $overwrite (param i32 i32)))
        (import "env" "sum" (func $sum (param i32 i32) (result i32))) (memory 1 1)
        (func (export "write") (param i32 i32) (call $overwrite (local.get 0) (local.get 1)))
        (func (export "sum") (result i32) (call $sum (i32.const 0) (i32.const 65536))))"#;
    let module = load(rt(), wat).unwrap();
    let written = |offset: u32, len: u32| {
        let mut instance = Guest::new(&module, &InstanceConfig::default()).unwrap();
        let args = [offset, len].map(|arg| Value::I32(arg.cast_signed()));
        let result = instance.call("write", &args, &mut [], &budget());
        let mut out = [Value::I32(0)];
        instance.call("sum", &[], &mut out, &budget()).unwrap();
        (result.map_err(|trap| trap.to_string()), out[0])
    };
    for (offset, len) in [
        (0, 1),
        (65_535, 1),
        (65_528, 8),
        (0, 65_536),
        (0, 0),
        (65_535, 0),
        (65_536, 0),
        (65_537, 0),
        (u32::MAX, 0),
    ] {
        let expected = (Ok(0), Value::I32(len as i32));
        assert_eq!(written(offset, len), expected, "{offset} {len}");
    }
    for (offset, len) in [
        (65_536, 1),
        (65_535, 2),
        (65_529, 8),
        (1, 65_536),
        (0, 65_537),
        (65_537, 1),
        // Ends that are 2^32 - 1, 2^32 and beyond.
        (u32::MAX - 8, 8),
        (u32::MAX - 7, 8),
        (u32::MAX, 1),
        (u32::MAX, 2),
        (0, u32::MAX),
        (1, u32::MAX),
        (65_535, u32::MAX),
        (u32::MAX, u32::MAX),
        (1 << 31, 1 << 31),
    ] {
        let text = "out of bounds memory access".to_owned();
        let expected = (Err(text), Value::I32(0));
        assert_eq!(written(offset, len), expected, "{offset} {len}");
    }
}

#[test]
fn a_host_function_says_why_it_refuses() {
    let _one = alone();
    let wat = r#"(module (import "env" "explain" (func $f (param i32)))
        (func (export "run") (param i32) (call $f (local.get 0))))"#;
    let trap = |n| run(rt(), wat, &[Value::I32(n)], &mut []).unwrap_err();
    assert_eq!(
        (trap(2).kind(), trap(2).to_string().as_str()),
        (TrapKind::Host, "2 is too much, too much, ")
    );
    let long = format!("9 is {}", "too much, ".repeat(9));
    assert_eq!(trap(9).to_string(), long[..long.len().min(116)]);
    assert_eq!(trap(1000).to_string().len(), 116);
}

#[test]
fn what_a_host_function_does_counts_as_work() {
    let _one = alone();
    let wat = r#"(module (import "env" "work" (func $work (param i32) (result i32)))
        (func (export "run") (param i32 i32)
            (loop (drop (call $work (local.get 1)))
                (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))"#;
    let module = load(rt(), wat).unwrap();
    let mut instance = Guest::new(&module, &InstanceConfig::default()).unwrap();
    for (slice, times, units, expected) in [
        // A call and a branch each time.
        (1000, 10, 0, 20),
        (1000, 10, 5, 70),
        // What the step has no fuel for is paid by the next.
        (1000, 10, 5000, 50_020),
        (u32::MAX, 3, -1, 3 * (u64::from(u32::MAX) + 2)),
    ] {
        let supervisor = Budget::new(slice, u64::MAX);
        let before = instance.work();
        let args = [Value::I32(times), Value::I32(units)];
        instance.call("run", &args, &mut [], &supervisor).unwrap();
        assert_eq!(instance.work() - before, expected, "{times} of {units}");
    }
}

#[test]
fn a_guest_without_memory_has_no_pointers() {
    let _one = alone();
    let wat = r#"(module (import "env" "put" (func $put (param i32 i32)))
        (func (export "run") (call $put (i32.const 0) (i32.const 1))))"#;
    assert_eq!(trap_of(wat), TrapKind::MemoryOutOfBounds);
}

#[test]
fn a_host_function_finds_its_run() {
    let _one = alone();
    let wat = r#"(module (import "other" "asked" (func $asked (result i64)))
        (func (export "run") (result i64) (call $asked)))"#;
    let mut out = [Value::I64(0)];
    assert_eq!(run(rt(), wat, &[], &mut out), Ok(1));
    assert_eq!(out, [Value::I64(1)]);
}

const MALLOC: &str = r#"(module
    (import "env" "give" (func $give (param i32) (result i32)))
    (memory (export "memory") 1 1)
    (func (export "malloc") (param i32) (result i32) BODY)
    (func (export "free") (param i32))
    (func (export "run") (result i32) (i32.load (call $give (i32.const 5)))))"#;

#[test]
fn a_host_function_allocates_in_the_guest() {
    let _one = alone();
    let mut out = [Value::I32(0)];
    let wat = MALLOC.replace("BODY", "(i32.const 1000)");
    assert_eq!(run(rt(), &wat, &[], &mut out), Ok(1));
    assert_eq!(out, [Value::I32(i32::from_le_bytes(*b"give"))]);
}

#[test]
fn a_guest_malloc_is_on_the_leash_too() {
    let _one = alone();
    for (body, kind) in [
        ("(loop (br 0)) (i32.const 8)", TrapKind::Other),
        ("(unreachable)", TrapKind::Unreachable),
        ("(i32.const 0)", TrapKind::Host),
        ("(i32.const 65532)", TrapKind::MemoryOutOfBounds),
        ("(i32.const -16)", TrapKind::MemoryOutOfBounds),
        ("(call $give (local.get 0))", TrapKind::OperandStackOverflow),
    ] {
        assert_eq!(trap_of(&MALLOC.replace("BODY", body)), kind, "{body}");
    }
}

#[test]
fn no_malloc_no_allocation() {
    let _one = alone();
    let wat = r#"(module (import "env" "give" (func $give (param i32) (result i32))) (memory 1 1)
        (func (export "run") (drop (call $give (i32.const 5)))))"#;
    assert_eq!(trap_of(wat), TrapKind::Host);
}

#[test]
fn initialisers_run_once_in_order_and_on_the_leash() {
    let _one = alone();
    let wat = r#"(module (global $g (mut i32) (i32.const 1)) (start $start)
        (func $push (param i32)
            (global.set $g (i32.add (i32.mul (global.get $g) (i32.const 10)) (local.get 0))))
        (func $start (call $push (i32.const 2)))
        (func (export "_initialize") (call $push (i32.const 3)))
        (func (export "__wasm_call_ctors") (call $push (i32.const 9)))
        (func (export "__post_instantiate") (call $push (i32.const 4)))
        (func (export "run") (result i32) (global.get $g)))"#;
    let module = load(rt(), wat).unwrap();
    let mut instance = Guest::new(&module, &InstanceConfig::default()).unwrap();
    let mut out = [Value::I32(0)];
    for _ in 0..2 {
        assert_eq!(instance.call("run", &[], &mut out, &budget()), Ok(1));
        assert_eq!(out, [Value::I32(1234)]);
    }
}

#[test]
fn endless_initialisers_are_stopped() {
    let _one = alone();
    let endless = "(loop (br 0))";
    for wat in [
        format!(r#"(module (start 0) (func {endless}) (func (export "run")))"#),
        format!(r#"(module (func (export "_initialize") {endless}) (func (export "run")))"#),
        format!(r#"(module (func (export "__wasm_call_ctors") {endless}) (func (export "run")))"#),
        format!(r#"(module (func (export "__post_instantiate") {endless}) (func (export "run")))"#),
    ] {
        let module = load(rt(), &wat).unwrap();
        let mut instance = Guest::new(&module, &InstanceConfig::default()).unwrap();
        let supervisor = Budget::new(100, 1000);
        let trap = instance.start(&supervisor).unwrap_err();
        assert_eq!(trap.kind(), TrapKind::OutOfWork, "{wat}");
        assert_eq!((supervisor.done(), instance.work()), (1000, 1000));
        let trap = instance.call("run", &[], &mut [], &budget()).unwrap_err();
        assert_eq!(trap.kind(), TrapKind::BadCall);
    }
}

#[test]
fn a_start_function_may_be_imported() {
    let _one = alone();
    let wat = r#"(module (import "env" "refuse" (func $f)) (start $f) (func (export "run")))"#;
    assert_eq!(trap_of(wat), TrapKind::Host);
}

/// Imports exported under the names that WAMR looks for: it would read them as functions.
#[test]
fn an_import_is_no_initialiser_by_mistake() {
    let _one = alone();
    let wat = r#"(module (import "env" "add" (func $f (param i32 i32) (result i32)))
        (export "__post_instantiate" (func $f)) (export "__wasm_call_ctors" (func $f))
        (func (export "run")))"#;
    assert_eq!(run(rt(), wat, &[], &mut []), Ok(0));
}

#[test]
fn every_way_to_repeat_is_stopped() {
    let _one = alone();
    for code in [
        "(loop (br 0))",
        "(loop (br_if 0 (i32.const 1)))",
        "(loop (br_table 0 0 (i32.const 7)))",
        "(block (loop (br 0) (br 1)))",
        "(loop (if (i32.const 1) (then (br 1))))",
        "(loop (if (i32.const 0) (then) (else (br 1))))",
        "(loop (call $nothing) (br 0))",
        "(loop (call_indirect (type $v) (i32.const 0)) (br 0))",
        "(loop (memory.fill (i32.const 0) (i32.const 1) (i32.const 64)) (br 0))",
        "(loop (loop (br 1)))",
    ] {
        let wat = format!(
            r#"(module (type $v (func)) (memory 1 1) (table 1 funcref) (elem (i32.const 0) $nothing)
            (func $nothing) (func (export "run") {code}))"#
        );
        assert_eq!(trap_of(&wat), TrapKind::OutOfWork, "{code}");
    }
    // A br_table of more than 255 labels, or of a label above 255, has its own opcode.
    let wide = "(loop (br_table LABELS (i32.const 300)))".replace("LABELS", &"0 ".repeat(400));
    assert_eq!(
        trap_of(&format!(r#"(module (func (export "run") {wide}))"#)),
        TrapKind::OutOfWork
    );
    let deep = format!(
        "(loop {} (br_table 299 300 (i32.const 9)) {})",
        "(block ".repeat(300),
        ")".repeat(300)
    );
    let module = load(rt(), &format!(r#"(module (func (export "run") {deep}))"#)).unwrap();
    // Every block that is open takes a frame on the operand stack.
    let config = InstanceConfig {
        stack_bytes: 64 * 1024,
        memory_bytes_max: None,
        memory_commit: false,
    };
    let mut instance = Guest::new(&module, &config).unwrap();
    let trap = instance.call("run", &[], &mut [], &budget()).unwrap_err();
    assert_eq!(trap.kind(), TrapKind::OutOfWork);
}

#[test]
fn unbounded_recursion_is_a_stack_overflow() {
    let _one = alone();
    let wats = [
        r#"(module (func $f (export "run") (call $f)))"#,
        r#"(module (func $f (param i64 i64) (local i64 i64 i64)
            (call $f (local.get 1) (local.get 0)))
            (func (export "run") (call $f (i64.const 1) (i64.const 2))))"#,
        r#"(module (table 1 funcref) (elem (i32.const 0) $f)
            (func $f (export "run") (call_indirect (i32.const 0))))"#,
    ];
    for stack_bytes in [0, 64, 256, 512, 1024, 4096, 65536] {
        for wat in wats {
            let module = load(rt(), wat).unwrap();
            let go = move || {
                let config = InstanceConfig {
                    stack_bytes,
                    ..Default::default()
                };
                let mut instance = Guest::new(&module, &config).unwrap();
                instance
                    .call("run", &[], &mut [], &budget())
                    .unwrap_err()
                    .kind()
            };
            let small = std::thread::Builder::new().stack_size(64 * 1024);
            let kind = small.spawn(go).unwrap().join().unwrap();
            let kinds = [TrapKind::OperandStackOverflow, TrapKind::StackOverflow];
            assert!(kinds.contains(&kind), "{stack_bytes} {wat}: {kind:?}");
        }
    }
}

/// Host functions that call the guest's malloc nest native frames, not operand frames alone.
#[test]
fn recursion_through_the_host_is_a_stack_overflow() {
    let _one = alone();
    let wat = MALLOC.replace("BODY", "(call $give (local.get 0))");
    let module = load(rt(), &wat).unwrap();
    let go = move || {
        let config = InstanceConfig {
            stack_bytes: 100_000,
            memory_bytes_max: Some(65_536),
            memory_commit: false,
        };
        let mut instance = Guest::new(&module, &config).unwrap();
        instance.call("run", &[], &mut [], &budget()).unwrap_err()
    };
    let small = std::thread::Builder::new().stack_size(64 * 1024);
    let trap = small.spawn(go).unwrap().join().unwrap();
    assert_eq!(trap.kind(), TrapKind::StackOverflow);
    assert_eq!(trap.to_string(), "native stack overflow");
}

#[test]
fn work_is_counted_to_the_unit() {
    let _one = alone();
    let wat = r#"(module (func (export "run") (param i32)
        (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))"#;
    let module = load(rt(), wat).unwrap();
    for slice in [1, 2, 3, 7, 1000] {
        let mut instance = Guest::new(&module, &InstanceConfig::default()).unwrap();
        let supervisor = Budget::new(slice, u64::MAX);
        instance
            .call("run", &[Value::I32(1000)], &mut [], &supervisor)
            .unwrap();
        assert_eq!(instance.work(), 1000, "slice {slice}");
        assert_eq!(supervisor.asked(), 1000_u64.div_ceil(slice.into()));
    }
}

#[test]
fn a_budget_is_kept_to_the_unit() {
    let _one = alone();
    let module = load(rt(), r#"(module (func (export "run") (loop (br 0))))"#).unwrap();
    let mut instance = Guest::new(&module, &InstanceConfig::default()).unwrap();
    let trap = instance
        .call("run", &[], &mut [], &Budget::new(64, 1000))
        .unwrap_err();
    assert_eq!(trap.kind(), TrapKind::OutOfWork);
    assert_eq!(trap.to_string(), "work budget exhausted");
    assert_eq!(instance.work(), 1000);
    instance
        .call("run", &[], &mut [], &Budget::new(64, 0))
        .unwrap_err();
    assert_eq!(instance.work(), 1000);
}

#[test]
fn what_the_host_lacks_is_named() {
    let _one = alone();
    for (import, text) in [
        (
            r#"(import "env" "foo" (func))"#,
            "unknown import env.foo (function)",
        ),
        (
            r#"(import "env" "memory" (memory 1))"#,
            "unknown import env.memory (memory)",
        ),
        (
            r#"(import "env" "t" (table 1 funcref))"#,
            "unknown import env.t (table)",
        ),
        (
            r#"(import "env" "g" (global i32))"#,
            "unknown import env.g (global)",
        ),
        (
            r#"(import "env" "add" (func (param i32 i32)))"#,
            "import env.add (function) has another type than the host's",
        ),
        (
            r#"(import "env" "add" (func (param i32 i64) (result i32)))"#,
            "import env.add (function) has another type than the host's",
        ),
        // WAMR's own check stops after the first result.
        (
            r#"(import "env" "add" (func (param i32 i32) (result i32 i32 i32)))"#,
            "import env.add (function) has another type than the host's",
        ),
    ] {
        let error = load(rt(), &format!("(module {import})")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownImport, "{error}");
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn a_text_shows_both_ends_of_long_names() {
    let _one = alone();
    for (letter, times) in [("x", 300), ("é", 301), ("€", 302), ("🦀", 303)] {
        let module = format!("m{}.wasm", letter.repeat(times));
        let field = format!("f{}#9", letter.repeat(times));
        for (kind, what) in [("function", "(func)"), ("memory", "(memory 1)")] {
            let import = format!(r#"(module (import "{module}" "{field}" {what}))"#);
            let text = load(rt(), &import).unwrap_err().to_string();
            assert!(text.starts_with("unknown import m"), "{text}");
            assert!(text.contains(&format!("{letter}.wasm.f{letter}")), "{text}");
            assert!(text.ends_with(&format!("{letter}#9 ({kind})")), "{text}");
            assert_eq!(text.matches("...").count(), 2, "{text}");
        }
        let module = load(rt(), r#"(module (func (export "f")))"#).unwrap();
        let text = module.function(&field).unwrap_err().to_string();
        assert!(text.ends_with(&format!("{letter}#9`")), "{text}");
    }
}

/// The texts with the largest numbers that a module can bring about.
#[test]
fn a_text_has_all_of_its_numbers() {
    let _one = alone();
    let far = load(
        rt(),
        r#"(module (memory 1) (data (i32.const -1) "long enough"))"#,
    );
    let error = Guest::new(&far.unwrap(), &InstanceConfig::default()).unwrap_err();
    if wamr::page_bytes() > 0 {
        assert_eq!(
            error.to_string(),
            "out of bounds memory access: data segment 0 ends at 4294967306, the memory at 65536"
        );
    }
}

#[test]
fn a_second_start_is_refused() {
    let _one = alone();
    let _ = rt();
    let arena = Box::leak(Box::new_uninit_slice(4096));
    assert_eq!(
        Runtime::init(arena, &[]).unwrap_err().kind(),
        ErrorKind::AlreadyStarted
    );
}
