//! The arena: its walls, its books, and that it comes back to the byte.

mod common;

use std::sync::Barrier;

use common::{Budget, Guest, alone, budget, load, load_bytes, memory_bytes, runtime};
use wamr::{
    Error, ErrorKind, InstanceConfig, Memory, Module, Runtime, Trap, TrapKind, Value, Worker,
};

fn rt() -> Runtime {
    runtime(&[])
}

fn free() -> u32 {
    rt().memory().free
}

const CONFIG: InstanceConfig = InstanceConfig {
    stack_bytes: 4096,
    memory_bytes_max: None,
    memory_commit: false,
};

/// A small program by clang, with the globals by which WAMR would shrink its memory.
fn compiled(heap_base: u32) -> String {
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
fn a_memory_has_the_size_that_its_module_declares() {
    // A flat one does not fit beside what follows.
    if page().is_none() {
        return;
    }
    let _one = alone();
    for heap_base in [1032, 1280, 2000, 4096, 5000, 12_288] {
        let module = load(rt(), &compiled(heap_base)).unwrap();
        let declared = Memory {
            initial_pages: 2,
            maximum_pages: 2,
        };
        assert_eq!(module.memory(), Some(declared));
        // The blocks next to a new memory, wherever it lands, hold a pattern.
        let mut canaries = Vec::new();
        while let Ok(mut canary) = rt().buffer(1500) {
            canary.fill(0x5a);
            canaries.push(canary);
        }
        let (even, odd): (Vec<_>, Vec<_>) = canaries
            .into_iter()
            .enumerate()
            .partition(|(i, _)| (i / 99) % 2 == 0);
        drop(odd);
        let mut instance = Guest::new(&module, &CONFIG).unwrap();
        let len = instance.memory_len();
        assert_eq!(len, 2 * 65_536);
        let mut call = |name: &str, args: &[i32]| {
            let args: Vec<_> = args.iter().copied().map(Value::I32).collect();
            instance.call(name, &args, &mut [Value::I32(0)], &budget())
        };
        call("fill", &[0, 0xff, 4000]).unwrap();
        call("fill", &[126_000, 0xff, len as i32 - 126_000]).unwrap();
        call("store", &[len as i32 - 1, 1]).unwrap();
        for offset in [0, 1, 7, 8, 4096, 60_000] {
            let trap = call("store", &[len as i32 + offset, 1]).unwrap_err();
            assert_eq!(trap.kind(), TrapKind::MemoryOutOfBounds);
        }
        let trap = call("fill", &[0, 0xff, len as i32 + 1]).unwrap_err();
        assert_eq!(trap.kind(), TrapKind::MemoryOutOfBounds);
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

fn with(module: &Module, memory_bytes_max: u64, memory_commit: bool) -> Result<Guest, Error> {
    let config = InstanceConfig {
        stack_bytes: 1024,
        memory_bytes_max: Some(memory_bytes_max),
        memory_commit,
    };
    Guest::new(module, &config)
}

#[test]
fn a_bound_on_a_flat_memory_is_one_on_its_size() {
    if wamr::page_bytes() > 0 {
        return;
    }
    let _one = alone();
    let module = load(rt(), GROWING).unwrap();
    let mut one_page = with(&module, 131_071, false).unwrap();
    assert_eq!(grow(&mut one_page, 1), Value::I32(-1));
    let error = with(&module, 65_535, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert_eq!(
        error.to_string(),
        "out of memory: 1 pages of linear memory, of at most 0"
    );
}

#[test]
fn a_bound_limits_the_pages_and_nothing_else() {
    let Some(page) = page() else { return };
    let _one = alone();
    let module = load(rt(), GROWING).unwrap();
    for pages in [1, 3, 7] {
        let mut guest = with(&module, u64::from(pages * page + page - 1), false).unwrap();
        assert_eq!(grow(&mut guest, 2), Value::I32(1));
        assert_eq!(guest.memory_len(), 3 * 65_536);
        for at in 0..pages {
            poke(&mut guest, 131_072 + at * page).unwrap();
        }
        poke(&mut guest, 131_072 + 8).unwrap();
        let trap = poke(&mut guest, 0).unwrap_err();
        assert_eq!(trap.kind(), TrapKind::OutOfMemory);
        let text = format!(
            "out of memory: page 0 of linear memory, {pages} taken, the task may hold {pages}"
        );
        assert_eq!(trap.to_string(), text);
        assert_eq!((guest.pages(), guest.memory_len()), (pages, 3 * 65_536));
    }
    // Less than a page is one page.
    let mut one = with(&module, 0, false).unwrap();
    poke(&mut one, 65_532).unwrap();
    assert!(poke(&mut one, 0).is_err());
    drop(one);

    // Data segments are no exception, nor are the places for tables.
    let data = r#"(module (memory 1) (data (i32.const 0) "x") (data (i32.const 50000) "y"))"#;
    let data = load(rt(), data).unwrap();
    let error = with(&data, page.into(), false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let text = format!(
        "page {} of linear memory, 1 taken, the task may hold 1",
        50_000 / page
    );
    assert!(error.to_string().contains(&text), "{error}");
    with(&data, (2 * page).into(), false).unwrap();
    let places = load(rt(), "(module (memory 5000))").unwrap();
    let error = with(&places, 4096, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(
        error.to_string().contains("tables of 5000 Wasm pages"),
        "{error}"
    );
    let mut many = with(&module, 4096, false).unwrap();
    assert_eq!(grow(&mut many, 5000), Value::I32(-1));
}

/// A lack of room is seen before pages are taken: a growth that fails costs no more than another.
#[test]
fn a_committed_memory_that_cannot_grow_takes_no_time() {
    if page().is_none() {
        return;
    }
    let _one = alone();
    let wat = r#"(module (memory 1) (func (export "run") (param i32) (local i32)
        (loop (local.set 1 (i32.add (local.get 1) (i32.const 1)))
            (if (i32.ne (memory.grow (i32.const 2)) (i32.const -1)) (then unreachable))
            (br_if 0 (i32.lt_u (local.get 1) (local.get 0))))))"#;
    let module = load(rt(), wat).unwrap();
    let mut guest = with(&module, u64::MAX, true).unwrap();
    let _rest = rt()
        .buffer(rt().memory().largest_free as usize - 100_000)
        .unwrap();
    let before = rt().memory();
    let start = std::time::Instant::now();
    guest
        .call("run", &[Value::I32(20_000)], &mut [], &budget())
        .unwrap();
    let took = start.elapsed();
    // To take and give back 90 pages as often takes seconds.
    assert!(took.as_millis() < 500, "{took:?}");
    let least = before.free - Worker::needs(CONFIG.stack_bytes) - 1000;
    assert!(rt().memory().free >= least);
}

/// A guest that gives up because memory.grow failed, as compilers have it, ends with the reason.
#[test]
fn a_guest_that_cannot_grow_says_why() {
    let Some(page) = page() else { return };
    let _one = alone();
    let declared = |memory: &str| {
        let wat = format!(
            r#"(module (memory {memory}) (func (export "run") (param i32) (result i32)
                (if (i32.eq (memory.grow (local.get 0)) (i32.const -1)) (then unreachable))
                (i32.const 42))
            (func (export "end") unreachable))"#
        );
        load(rt(), &wat).unwrap()
    };
    let run = |guest: &mut Guest, pages: i32| {
        let mut out = [Value::I32(0)];
        let called = guest.call("run", &[Value::I32(pages)], &mut out, &budget());
        called.map(|_| out[0]).map_err(|trap| {
            assert_eq!(trap.kind(), TrapKind::Unreachable);
            trap.to_string()
        })
    };
    let says = |from: u32, by: u32, why: &str| {
        Err(format!(
            "unreachable, after memory.grow from {from} by {by} pages failed: {why}"
        ))
    };
    let module = declared("1");
    let mut guest = Guest::new(&module, &CONFIG).unwrap();
    assert_eq!(run(&mut guest, 3), Ok(Value::I32(42)));
    assert_eq!(
        run(&mut guest, 60_000),
        says(4, 60_000, "the arena has no room")
    );
    assert_eq!(
        run(&mut guest, -1),
        Err("unreachable, after memory.grow from 4 by more than 65536 pages failed: its maximum is 65536".to_owned())
    );
    assert_eq!(run(&mut guest, 1), Ok(Value::I32(42)));
    let trap = guest.call("end", &[], &mut [], &budget()).unwrap_err();
    assert_eq!(trap.to_string(), "unreachable", "the last one did not fail");

    let module = declared("1 1");
    let mut guest = Guest::new(&module, &CONFIG).unwrap();
    assert_eq!(run(&mut guest, 3), says(1, 3, "its maximum is 1"));
    let module = declared("1");
    let bytes = 65_536 + page;
    let why = format!("the task may hold {bytes} bytes");
    let mut guest = with(&module, bytes.into(), true).unwrap();
    assert_eq!(run(&mut guest, 1), says(1, 1, &why));
    let mut guest = with(&module, page.into(), false).unwrap();
    assert_eq!(
        run(&mut guest, 5000),
        says(1, 5000, &format!("the task may hold {page} bytes"))
    );
}

/// Bytes of a page, where memories have them.
fn page() -> Option<u32> {
    Some(wamr::page_bytes()).filter(|bytes| *bytes > 0)
}

#[test]
fn what_is_committed_is_there_or_refused() {
    let Some(page) = page() else { return };
    let _one = alone();
    let before = rt().memory();
    let module = load(rt(), GROWING).unwrap();
    let needs = module.needs().memory;
    let in_wasm_page = 65_536 / page;
    assert_eq!(
        needs.committed,
        needs.made + u64::from(memory_bytes(1, in_wasm_page / 8, in_wasm_page))
    );
    let loaded = free();
    let mut guest = with(&module, 65_536, true).unwrap();
    let needed = module.needs();
    let taken = needed.tables + needed.instance + needs.committed;
    assert_eq!(u64::from(loaded - free()), taken);
    assert_eq!(guest.pages(), in_wasm_page);
    // Growth is refused by the bound, and then by the arena; a guest never finds that there is no page.
    assert_eq!(grow(&mut guest, 1), Value::I32(-1));
    drop(guest);
    // The places for tables do not count among the pages that it may hold.
    let many = load(rt(), "(module (memory 2))").unwrap();
    drop(with(&many, 2 * 65_536, true).unwrap());
    drop(many);
    let held = free();
    let mut guest = with(&module, u64::MAX, true).unwrap();
    let mut pages = 1;
    while grow(&mut guest, 1) == Value::I32(pages) {
        pages += 1;
    }
    assert_eq!(
        guest.memory_len(),
        u64::from(pages.cast_unsigned()) * 65_536
    );
    assert_eq!(guest.pages(), pages.cast_unsigned() * in_wasm_page);
    assert!(free() < 65_536 + 8192, "{}", free());
    let full = free();
    assert_eq!(grow(&mut guest, 1), Value::I32(-1));
    for at in (0..pages.cast_unsigned() * 65_536).step_by(page as usize) {
        poke(&mut guest, at).unwrap();
    }
    assert_eq!(free(), full);
    drop(guest);
    assert_eq!(free(), held);

    let error = with(&module, 65_535, true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let one_less = in_wasm_page - 1;
    let text =
        format!("page {one_less} of linear memory, {one_less} taken, the task may hold {one_less}");
    assert!(error.to_string().contains(&text), "{error}");
    drop(module);
    assert_eq!((free(), rt().memory().pages), (before.free, before.pages));
}

#[test]
fn pages_are_neither_of_the_reserve_nor_of_what_is_promised() {
    let Some(page) = page() else { return };
    let _one = alone();
    let module = load(rt(), GROWING).unwrap();
    let mut guest = Guest::new(&module, &CONFIG).unwrap();
    assert_eq!(grow(&mut guest, 50), Value::I32(1));
    let mut touched = 0;
    let mut fill = |guest: &mut Guest| {
        loop {
            match poke(guest, touched) {
                Ok(_) => touched += page,
                Err(trap) => break trap,
            }
        }
    };
    // Each call is made on a worker of its own.
    let worker = Worker::needs(CONFIG.stack_bytes);
    rt().set_reserve(20_000);
    let trap = fill(&mut guest);
    assert_eq!(trap.kind(), TrapKind::OutOfMemory);
    let left = free();
    let least = 20_000 + worker;
    assert!((least..least + 2 * page + 600).contains(&left), "{left}");
    let spare = left - least;
    assert!(
        trap.to_string()
            .ends_with(&format!(", the arena has {spare} bytes left")),
        "{trap}"
    );
    // The host's own.
    drop(rt().buffer(12_000).unwrap());
    assert_eq!(grow(&mut guest, 40_000), Value::I32(-1));
    rt().set_reserve(0);
    let promise = rt().promise(15_000).unwrap();
    assert_eq!(rt().memory().spare, left - 15_000);
    drop(promise);
    assert!(rt().promise(left + 1).is_none());
    assert_eq!(rt().memory().spare, left);
    // Nor is a promise of the reserve.
    rt().set_reserve(5000);
    assert!(rt().promise(left - 4999).is_none());
    drop(rt().promise(left - 5000).unwrap());
    rt().set_reserve(0);
    fill(&mut guest);
    assert!(free() < worker + page + 600);
}

/// A guest that finds no page, because what it needs is promised, waits for the start, which takes less.
#[test]
fn a_guest_waits_for_a_start() {
    let Some(page) = page() else { return };
    let _one = alone();
    let module = load(rt(), GROWING).unwrap();
    let mut guest = Guest::new(&module, &CONFIG).unwrap();
    poke(&mut guest, 0).unwrap();
    let promise = rt().promise(free()).unwrap();
    let is_made = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            poke(&mut guest, page).unwrap();
            assert!(is_made.load(std::sync::atomic::Ordering::SeqCst));
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        is_made.store(true, std::sync::atomic::Ordering::SeqCst);
        drop(promise);
        waits.join().unwrap();
    });
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
    let wasm = wat::parse_str(compiled(2000)).unwrap();
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
    // Cut, and grown again where it is: what comes back is new.
    buffer.fill(0x5a);
    buffer.resize(10).unwrap();
    assert_eq!((buffer.as_ptr(), before - free()), (at, 16));
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
    let wasm = wat::parse_str(compiled(2000)).unwrap();
    for i in 0..10_000 {
        let module = load_bytes(rt(), &wasm).unwrap();
        let mut instance = Guest::new(&module, &CONFIG).unwrap();
        if i % 2 == 0 {
            drop(module);
        }
        let offset = if i % 3 == 0 { 140_000 } else { 8 };
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
    let twice = if wamr::page_bytes() > 0 { 24 } else { 0 };
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
