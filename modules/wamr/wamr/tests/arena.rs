//! The arena: its walls, its books, and that it comes back to the byte.

mod common;

use std::sync::Barrier;

use common::{Budget, Guest, alone, budget, load, load_bytes, runtime};
use wamr::{ErrorKind, InstanceConfig, Memory, Module, Runtime, Trap, TrapKind, Value};

fn rt() -> Runtime {
    runtime(&[])
}

fn free() -> u32 {
    rt().memory().free
}

const CONFIG: InstanceConfig = InstanceConfig {
    stack_bytes: 4096,
    memory_bytes_max: None,
};

/// What clang makes of a small program: WAMR shrinks its memory to `__heap_base` and the stack.
fn shrinking(heap_base: u32) -> String {
    format!(
        r#"(module (memory (export "memory") 2)
        (global $sp (mut i32) (i32.const 1024))
        (global (export "__data_end") i32 (i32.const 1024))
        (global (export "__heap_base") i32 (i32.const {heap_base}))
        (func (export "store") (param i32 i32) (i32.store8 (local.get 0) (local.get 1)))
        (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0)))
        (func (export "fill") (param i32 i32 i32)
            (memory.fill (local.get 0) (local.get 1) (local.get 2)))
        (func (export "use_sp") (result i32) (global.set $sp (i32.const 1000)) (global.get $sp)))"#
    )
}

#[test]
fn a_shrunk_memory_cannot_be_left() {
    let _one = alone();
    for heap_base in [1032, 1280, 2000, 4096, 5000, 12_288] {
        let module = load(rt(), &shrinking(heap_base)).unwrap();
        let Some(Memory {
            page_bytes,
            initial_pages: 1,
            maximum_pages: 1,
        }) = module.memory()
        else {
            panic!("not shrunk: {:?}", module.memory());
        };
        assert!((heap_base..65_536).contains(&page_bytes), "{page_bytes}");
        // The blocks next to a new memory, wherever it lands, hold a pattern.
        let mut canaries = Vec::new();
        while let Ok(mut canary) = rt().buffer(1500) {
            canary.fill(0x5a);
            canaries.push(canary);
        }
        let (even, odd): (Vec<_>, Vec<_>) = canaries
            .into_iter()
            .enumerate()
            .partition(|(i, _)| (i / 9) % 2 == 0);
        drop(odd);
        let mut instance = Guest::new(&module, &CONFIG).unwrap();
        let len = instance.memory_len();
        assert_eq!(len, u64::from(page_bytes.next_multiple_of(4096)));
        let mut call = |name: &str, args: &[i32]| {
            let args: Vec<_> = args.iter().copied().map(Value::I32).collect();
            instance.call(name, &args, &mut [Value::I32(0)], &budget())
        };
        call("fill", &[0, 0xff, len as i32]).unwrap();
        call("store", &[len as i32 - 1, 1]).unwrap();
        for offset in [0, 1, 7, 8, 4096, 60_000] {
            let trap = call("store", &[len as i32 + offset, 1]).unwrap_err();
            assert_eq!(trap.kind(), TrapKind::MemoryOutOfBounds);
        }
        let trap = call("fill", &[0, 0xff, len as i32 + 1]).unwrap_err();
        assert_eq!(trap.kind(), TrapKind::MemoryOutOfBounds);
        // The block is as large as the bound: the instance took at least that much.
        assert!(u64::from(instance.usage().held) >= len);
        assert!(
            even.iter()
                .all(|(_, canary)| canary.iter().all(|&b| b == 0x5a))
        );
        drop(instance);
    }
}

#[test]
fn new_memory_is_zero_however_it_came() {
    let _one = alone();
    let wat = r#"(module (memory 0 3)
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
        (func (export "sum") (result i32) (local $i i32) (local $sum i32)
            (loop $next
                (local.set $sum (i32.or (local.get $sum) (i32.load (local.get $i))))
                (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 4)))
                    (i32.mul (memory.size) (i32.const 65536)))))
            (local.get $sum))
        (func (export "dirty") (param i32 i32)
            (memory.fill (local.get 0) (i32.const 0xff) (local.get 1))))"#;
    let module = load(rt(), wat).unwrap();
    for _ in 0..3 {
        let mut out = [Value::I32(0)];
        let mut instance = Guest::new(&module, &CONFIG).unwrap();
        let mut call = |name: &str, args: &[i32]| {
            let args: Vec<_> = args.iter().copied().map(Value::I32).collect();
            instance.call(name, &args, &mut out, &budget()).unwrap();
            out[0]
        };
        assert_eq!(call("grow", &[1]), Value::I32(0));
        assert_eq!(call("sum", &[]), Value::I32(0));
        assert_eq!(call("grow", &[1]), Value::I32(1));
        assert_eq!(call("sum", &[]), Value::I32(0));
        call("dirty", &[0, 131_072]);
    }
}

const GROWING: &str = r#"(module (memory 1)
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "size") (result i32) (memory.size))
    (func (export "poke") (param i32) (i32.store (local.get 0) (i32.const 7))))"#;

fn poke(instance: &mut Guest, offset: u32) -> Result<usize, Trap> {
    instance.call(
        "poke",
        &[Value::I32(offset.cast_signed())],
        &mut [],
        &budget(),
    )
}

fn grow(instance: &mut Guest, pages: i32) -> Value {
    let mut out = [Value::I32(0)];
    instance
        .call("grow", &[Value::I32(pages)], &mut out, &budget())
        .unwrap();
    out[0]
}

#[test]
fn growing_ends_at_the_wall() {
    let _one = alone();
    let before = free();
    let module = load(rt(), GROWING).unwrap();
    let mut instance = Guest::new(&module, &CONFIG).unwrap();
    // A flat memory takes its bytes, a paged one a place for a table a page.
    let few = if wamr::page_bytes() > 0 { 60_000 } else { 3 };
    for pages in [few, 65_000, 65_534, 65_535, i32::MAX, -1] {
        assert_eq!(grow(&mut instance, pages), Value::I32(-1), "{pages}");
        assert_eq!(instance.memory_len(), 65_536);
        poke(&mut instance, 65_532).unwrap();
        assert_eq!(
            poke(&mut instance, 65_533).unwrap_err().kind(),
            TrapKind::MemoryOutOfBounds
        );
    }
    assert_eq!(grow(&mut instance, 0), Value::I32(1));
    drop((instance, module));
    assert_eq!(free(), before);
}

/// WAMR passes the size of a flat memory as 32 bits: 4 GiB arrive as 0.
#[test]
fn four_gigabytes_do_not_wrap() {
    let _one = alone();
    for wat in [
        "(module (memory 65536))",
        "(module (memory 65535))",
        "(module (memory 3) (func (drop (memory.grow (i32.const 0)))))",
    ] {
        if wamr::page_bytes() > 0 && wat.contains("memory 3") {
            continue;
        }
        let module = load(rt(), wat).unwrap();
        let error = Guest::new(&module, &CONFIG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    }
}

#[test]
fn a_bound_limits_growth_or_the_memory_itself() {
    let _one = alone();
    let module = load(rt(), GROWING).unwrap();
    let with = |max| {
        let config = InstanceConfig {
            stack_bytes: 1024,
            memory_bytes_max: Some(max),
        };
        Guest::new(&module, &config).unwrap()
    };
    let mut one_page = with(131_071);
    assert_eq!(grow(&mut one_page, 1), Value::I32(-1));
    drop(one_page);
    for (max, len) in [(65_535, 61_440), (10_000, 8192), (4096, 4096)] {
        let mut small = with(max);
        assert_eq!(small.memory_len(), u64::from(len));
        assert!(small.usage().held < len + 8192);
        poke(&mut small, len - 4).unwrap();
        assert_eq!(
            poke(&mut small, len - 3).unwrap_err().kind(),
            TrapKind::MemoryOutOfBounds
        );
        assert_eq!(grow(&mut small, 1), Value::I32(-1));
    }
    let mut none = with(4095);
    assert_eq!(none.memory_len(), 0);
    assert_eq!(
        poke(&mut none, 0).unwrap_err().kind(),
        TrapKind::MemoryOutOfBounds
    );
    assert_eq!(grow(&mut none, 1), Value::I32(-1));
    drop(none);
    // The module itself is as before.
    assert_eq!(with(1 << 32).memory_len(), 65_536);
    let data = load(rt(), r#"(module (memory 1) (data (i32.const 5000) "x"))"#).unwrap();
    let config = InstanceConfig {
        stack_bytes: 1024,
        memory_bytes_max: Some(4096),
    };
    let error = Guest::new(&data, &config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadInstance, "{error}");
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_lost() {
    let _one = alone();
    let before = free();
    let error = rt().buffer(1 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert_eq!(
        error.to_string(),
        format!("1048576 bytes asked, {before} free")
    );
    assert!(rt().buffer(usize::MAX).is_err());
    let wasm = wat::parse_str(shrinking(2000)).unwrap();
    // Every size of arena, in effect: what is left over once the rest is taken.
    let mut hoard = Vec::new();
    let (mut refused, mut made) = (0, 0);
    while let Ok(taken) = rt().buffer(256) {
        hoard.push(taken);
    }
    while hoard.pop().is_some() {
        let now = free();
        match load_bytes(rt(), &wasm).and_then(|m| Guest::new(&m, &CONFIG).map(drop)) {
            Ok(()) => made += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
                refused += 1;
            }
        }
        assert_eq!(free(), now);
    }
    assert!(refused > 5 && made > 100, "{refused} {made}");
    assert_eq!(free(), before);
}

#[test]
fn a_buffer_grows_where_it_is_or_moves_whole() {
    let _one = alone();
    let before = free();
    let mut buffer = rt().buffer(100).unwrap();
    buffer.fill(0x5a);
    let at = buffer.as_ptr();
    // Behind it everything is free.
    buffer.resize(1000).unwrap();
    assert_eq!((buffer.as_ptr(), buffer.len()), (at, 1000));
    assert!(buffer[..100].iter().all(|&b| b == 0x5a));
    assert!(buffer[100..].iter().all(|&b| b == 0));
    // The block's header and rounding.
    assert_eq!(before - free(), 1008);
    // Cut, and grown again within its block: what comes back is new.
    buffer.fill(0x5a);
    buffer.resize(10).unwrap();
    assert_eq!(before - free(), 1008);
    buffer.resize(20).unwrap();
    assert_eq!(buffer[..], [[0x5a; 10], [0; 10]].concat());
    buffer.resize(1000).unwrap();
    assert!(buffer[20..].iter().all(|&b| b == 0));
    // Something lies behind: it moves.
    let wall = rt().buffer(8).unwrap();
    buffer.fill(0x5a);
    buffer.resize(2000).unwrap();
    assert_ne!(buffer.as_ptr(), at);
    assert!(buffer[..1000].iter().all(|&b| b == 0x5a));
    assert!(buffer[1000..].iter().all(|&b| b == 0));
    assert_eq!(wall[..], [0; 8]);
    // What was before it is free now, and it moves back down.
    drop(wall);
    let wall = rt().buffer(free() as usize - 4000).unwrap();
    buffer.resize(2500).unwrap();
    assert!(buffer[..1000].iter().all(|&b| b == 0x5a));
    drop((buffer, wall));
    assert_eq!(free(), before);
}

#[test]
fn a_buffer_that_cannot_grow_is_as_before() {
    let _one = alone();
    let before = free();
    let mut buffer = rt().buffer(0).unwrap();
    assert!(buffer.is_empty());
    buffer.resize(64).unwrap();
    buffer.fill(7);
    let held = free();
    for len in [before as usize, 1 << 20, u32::MAX as usize, usize::MAX] {
        let error = buffer.resize(len).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        assert_eq!(error.to_string(), format!("{len} bytes asked, {held} free"));
        assert_eq!(buffer[..], [7; 64]);
        assert_eq!(free(), held);
    }
    buffer.resize(0).unwrap();
    assert!(buffer.is_empty());
    drop(buffer);
    assert_eq!(free(), before);
}

#[test]
fn twenty_four_instances_of_one_module() {
    const MANY: usize = 24;
    let _one = alone();
    let before = free();
    let module = load(
        rt(),
        r#"(module (func (export "run") (param i64) (result i64)
        (local $i i64) (loop (br_if 0 (i64.lt_u
            (local.tee $i (i64.add (local.get $i) (i64.const 1))) (local.get 0))))
        (local.get $i)))"#,
    )
    .unwrap();
    let barrier = Barrier::new(MANY);
    std::thread::scope(|scope| {
        for i in 0..MANY {
            let (module, barrier) = (module.clone(), &barrier);
            scope.spawn(move || {
                let mut instance = Guest::new(&module, &CONFIG).unwrap();
                drop(module);
                barrier.wait();
                let n = 10_000 + i as i64;
                let mut out = [Value::I64(0)];
                let supervisor = Budget::new(100, u64::MAX);
                instance
                    .call("run", &[Value::I64(n)], &mut out, &supervisor)
                    .unwrap();
                assert_eq!(out, [Value::I64(n)]);
                assert_eq!(instance.work(), n.unsigned_abs());
                barrier.wait();
            });
        }
    });
    drop(module);
    assert_eq!(free(), before);
}

#[test]
fn ten_thousand_rounds_lose_nothing() {
    let _one = alone();
    let before = free();
    let wasm = wat::parse_str(shrinking(2000)).unwrap();
    for i in 0..10_000 {
        let module = load_bytes(rt(), &wasm).unwrap();
        let mut instance = Guest::new(&module, &CONFIG).unwrap();
        if i % 2 == 0 {
            drop(module);
        }
        let offset = if i % 3 == 0 { 70_000 } else { 8 };
        let args = [Value::I32(offset), Value::I32(i)];
        let called = instance.call("store", &args, &mut [], &budget());
        assert_eq!(called.is_err(), i % 3 == 0);
    }
    assert_eq!(free(), before);
}

#[test]
fn the_books_agree_with_the_arena() {
    let _one = alone();
    let start = free();
    let module = load(rt(), &GROWING.replace("(memory 1)", "(memory 0 1)")).unwrap();
    let loaded = free();
    assert_eq!(module.load_bytes(), u64::from(start - loaded));
    let mut instance = Guest::new(&module, &CONFIG).unwrap();
    let tables = u32::try_from(module.needs().tables).unwrap();
    assert_eq!(instance.usage().held, loaded - free() - tables);
    assert_eq!(instance.usage().peak, instance.usage().held);
    let no_page = instance.usage().held;
    assert_eq!(grow(&mut instance, 1), Value::I32(0));
    let usage = instance.usage();
    assert_eq!(usage.held, loaded - free() - tables);
    // The block's header and rounding, or a place for a table, and what the call's result is kept in.
    let page = match wamr::page_bytes() {
        0 => 65_536 + 8,
        _ => (usize::BITS / 8) & 8,
    };
    assert_eq!(usage.held - no_page, page + instance.kept_bytes());
    // Places for tables that had to move were there twice for a moment.
    let twice = if wamr::page_bytes() > 0 { 16 } else { 0 };
    assert!((0..=twice).contains(&(usage.peak - usage.held)));
    let second = Module::clone(&module);
    drop(module);
    drop(instance);
    assert_eq!(free(), loaded);
    drop(second);
    assert_eq!(free(), start);
}

#[test]
fn the_low_water_mark_stays() {
    let _one = alone();
    let before = rt().memory();
    println!("{before:?}");
    assert!(before.min_free <= before.free && before.free < before.total);
    assert!(before.total <= common::ARENA as u32);
    let taken = rt().buffer(before.min_free as usize / 2).unwrap();
    drop(taken);
    assert!(rt().memory().min_free <= before.min_free);
    assert_eq!(rt().memory().free, before.free);
}
