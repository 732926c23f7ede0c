//! Both accounts of a call: its work, to the unit, and the fuel that its steps take.

mod common;
mod stepping;

use common::{alone, load, runtime_in};
use stepping::{
    Between, EVERYWHERE, HOST, STACK, dropped_after, make, results, run, same_however_cut, step,
    worker,
};
use wamr::{Instance, Module, ResumableCall, Runtime, ThreadEnv, TrapKind, Value};

fn rt() -> Runtime {
    runtime_in(2 << 20, &HOST)
}

/// Bytes that a unit of work fills or moves, and elements of tables.
const BULK: u64 = 64;
const ELEMENTS: u64 = 16;

const HEAD: &str = r#"
    (import "env" "hash" (func $hash (param i32 i32) (result i64)))
    (import "env" "charge" (func $charge (param i32)))
    (type $ii (func (param i32) (result i32)))
    (func $inc (type $ii) (i32.add (local.get 0) (i32.const 1)))
    (func $dec (type $ii) (i32.sub (local.get 0) (i32.const 1)))"#;

#[test]
fn work_to_the_unit() {
    let _one = alone();
    let moved = |bytes: u64| 1 + bytes / BULK;
    for (code, work) in [
        ("", 0),
        ("(block (br 0))", 1),
        ("(br_if 0 (i32.const 0))", 1),
        ("(br_if 0 (i32.const 1))", 1),
        ("(br_table 0 0 0 (i32.const 9))", 1),
        ("(if (i32.const 1) (then))", 0),
        ("(loop)", 0),
        ("(return)", 0),
        ("(drop (call $inc (i32.const 1)))", 1),
        (
            "(drop (call_indirect (type $ii) (i32.const 1) (i32.const 0)))",
            1,
        ),
        ("(call $charge (i32.const 41))", 42),
        ("(drop (memory.grow (i32.const 0)))", 1),
        ("(drop (memory.grow (i32.const 1)))", 17),
        ("(drop (memory.grow (i32.const 2)))", 33),
        ("(drop (memory.grow (i32.const 1000)))", 1),
        ("(drop (memory.grow (i32.const -1)))", 1),
        (
            "(memory.fill (i32.const 0) (i32.const 1) (i32.const 0))",
            moved(0),
        ),
        (
            "(memory.fill (i32.const 0) (i32.const 1) (i32.const 63))",
            moved(63),
        ),
        (
            "(memory.fill (i32.const 0) (i32.const 1) (i32.const 64))",
            moved(64),
        ),
        (
            "(memory.fill (i32.const 0) (i32.const 1) (i32.const 65))",
            moved(65),
        ),
        (
            "(memory.fill (i32.const 0) (i32.const 1) (i32.const 131072))",
            moved(131_072),
        ),
        // Nothing is done, and nothing charged.
        ("(memory.copy (i32.const 0) (i32.const 1) (i32.const 0))", 0),
        (
            "(memory.copy (i32.const 7) (i32.const 7) (i32.const 1000))",
            0,
        ),
        (
            "(memory.copy (i32.const 0) (i32.const 1) (i32.const 128))",
            moved(128),
        ),
        (
            "(memory.copy (i32.const 1) (i32.const 0) (i32.const 131071))",
            moved(131_071),
        ),
        (
            "(memory.init $data (i32.const 0) (i32.const 0) (i32.const 64))",
            moved(64),
        ),
        (
            "(memory.init $data (i32.const 0) (i32.const 0) (i32.const 0))",
            moved(0),
        ),
        (
            "(table.fill 0 (i32.const 0) (ref.null func) (i32.const 0))",
            1,
        ),
        (
            "(table.fill 0 (i32.const 0) (ref.null func) (i32.const 15))",
            1,
        ),
        (
            "(table.fill 0 (i32.const 0) (ref.null func) (i32.const 16))",
            2,
        ),
        (
            "(table.copy (i32.const 0) (i32.const 5) (i32.const 1600))",
            1 + 1600 / ELEMENTS,
        ),
        (
            "(table.init $elements (i32.const 0) (i32.const 0) (i32.const 2))",
            1,
        ),
        ("(drop (table.grow 0 (ref.null func) (i32.const 160)))", 11),
        (
            "(drop (table.grow 0 (ref.null func) (i32.const 100000)))",
            1,
        ),
    ] {
        let data = "x".repeat(64);
        let wat = format!(
            r#"(module {HEAD} (memory 2 4) (table 2000 3000 funcref)
            (data $data "{data}") (elem $elements func $inc $dec) (elem (i32.const 0) $inc)
            (func (export "run") {code}))"#
        );
        let (outcome, left) = same_however_cut(rt(), code, &wat, &[]);
        assert_eq!(outcome.end, Ok(vec![]), "{code}");
        assert_eq!(outcome.work, work, "{code}");
        // With a fuel of 1 each unit is a step, but for the last, after which it ends.
        assert!(u64::from(left.out_of_fuel) + 2 >= work, "{code}: {left:?}");
    }
}

/// The work of bulk operations that trap is that of no operation.
#[test]
fn out_of_bounds_nothing_is_done() {
    let _one = alone();
    for code in [
        "(memory.fill (i32.const 1) (i32.const 1) (i32.const 65536))",
        "(memory.copy (i32.const 0) (i32.const 1) (i32.const 65536))",
        "(memory.init $data (i32.const 0) (i32.const 0) (i32.const 3))",
        "(table.fill 0 (i32.const 1) (ref.null func) (i32.const 2000))",
        "(table.copy (i32.const 0) (i32.const 1) (i32.const 2000))",
        "(table.init $elements (i32.const 0) (i32.const 1) (i32.const 2))",
    ] {
        let wat = format!(
            r#"(module {HEAD} (memory 1 1) (table 2000 2000 funcref)
            (data $data "xy") (elem $elements func $inc $dec)
            (func (export "run") {code}))"#
        );
        let (outcome, left) = same_however_cut(rt(), code, &wat, &[]);
        assert!(outcome.end.is_err(), "{code}");
        assert_eq!((outcome.work, left.out_of_fuel), (0, 0), "{code}");
    }
}

/// Memory with a byte at each place that tells it from its neighbours; then `code`, and a hash.
fn on_memory(pages: u32, code: &str) -> String {
    let data: String = (0..60_000_u32)
        .map(|i| format!("\\{:02x}", i * 7 % 251))
        .collect();
    format!(
        r#"(module {HEAD} (memory {pages} 8) (data $data "{data}")
        (func (export "run") (result i64 i32) (local i32)
            (loop (i32.store (local.get 0) (i32.mul (local.get 0) (i32.const 0x9e3779b9)))
                (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 3001)))
                    (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)))))
            {code}
            (call $hash (i32.const 0) (i32.mul (memory.size) (i32.const 65536))) (memory.size)))"#
    )
}

/// Steps at which a long operation is dropped.
fn here_and_there() -> impl Iterator<Item = u32> {
    std::iter::successors(Some(0_u32), |n| Some(n + 1 + n / 3))
}

#[test]
fn memory_is_filled_and_copied_in_pieces() {
    let _one = alone();
    let mut seen = Vec::new();
    for code in [
        "",
        "(memory.fill (i32.const 11) (i32.const 1) (i32.const 65535))",
        "(memory.fill (i32.const 11) (i32.const 2) (i32.const 65537))",
        "(memory.fill (i32.const 0) (i32.const 3) (i32.const 196608))",
        // Both ways, by less than a piece and by more.
        "(memory.copy (i32.const 1) (i32.const 0) (i32.const 150000))",
        "(memory.copy (i32.const 0) (i32.const 1) (i32.const 150001))",
        "(memory.copy (i32.const 40000) (i32.const 0) (i32.const 150002))",
        "(memory.copy (i32.const 0) (i32.const 40000) (i32.const 150003))",
        "(memory.copy (i32.const 131000) (i32.const 0) (i32.const 65538))",
        "(memory.init $data (i32.const 70000) (i32.const 3) (i32.const 59000))",
        // One after the other, without a branch between them.
        "(memory.copy (i32.const 100) (i32.const 0) (i32.const 100000))
            (memory.fill (i32.const 5) (i32.const 4) (i32.const 70000))
            (memory.copy (i32.const 0) (i32.const 99) (i32.const 100000))",
    ] {
        let wat = on_memory(3, code);
        let (outcome, left) = same_however_cut(rt(), code, &wat, &[]);
        let end = outcome.end.unwrap();
        assert!(!seen.contains(&end), "{code}");
        seen.push(end);
        println!("{left:?}, work {}: {code}", outcome.work);
        dropped_after(rt(), code, &wat, &[], here_and_there());
    }
}

/// Like `on_memory`, with 20,000 elements; what some of them are is in the results.
#[test]
fn tables_are_filled_and_copied_in_pieces() {
    let _one = alone();
    let mut seen = Vec::new();
    let segment = "$inc $dec $dec ".repeat(4000);
    for code in [
        "",
        "(table.fill 0 (i32.const 1) (ref.func $dec) (i32.const 20000))",
        "(table.fill 0 (i32.const 1) (ref.null func) (i32.const 19999))",
        "(table.copy (i32.const 1) (i32.const 0) (i32.const 20000))",
        "(table.copy (i32.const 0) (i32.const 1) (i32.const 20001))",
        "(table.copy (i32.const 9000) (i32.const 0) (i32.const 11000))",
        "(table.init $segment (i32.const 7) (i32.const 1) (i32.const 11999))",
        "(drop (table.grow 0 (ref.func $dec) (i32.const 17000)))",
        "(drop (table.grow 0 (ref.func $inc) (i32.const 17001)))",
    ] {
        let wat = format!(
            r#"(module {HEAD} (table 20002 40000 funcref) (elem $segment func {segment})
            (elem (i32.const 0) $inc $dec $inc $inc $dec)
            (func (export "run") (result i32 i32) (local i32 i32)
                (table.copy (i32.const 5) (i32.const 0) (i32.const 5))
                (table.copy (i32.const 1000) (i32.const 0) (i32.const 10))
                (table.copy (i32.const 19991) (i32.const 0) (i32.const 9))
                {code}
                (loop
                    (local.set 1 (i32.add (i32.mul (local.get 1) (i32.const 31)) (if (result i32)
                        (ref.is_null (table.get 0 (local.get 0))) (then (i32.const 7))
                        (else (call_indirect (type $ii) (i32.const 20) (local.get 0))))))
                    (local.set 0 (i32.add (local.get 0)
                        (select (i32.const 1) (i32.const 8) (i32.lt_u
                            (i32.rem_u (local.get 0) (i32.const 1000)) (i32.const 16)))))
                    (br_if 0 (i32.lt_u (local.get 0) (table.size 0))))
                (local.get 1) (table.size 0)))"#
        );
        let (outcome, left) = same_however_cut(rt(), code, &wat, &[]);
        let end = outcome.end.unwrap();
        assert!(!seen.contains(&end), "{code}");
        seen.push(end);
        println!("{left:?}, work {}: {code}", outcome.work);
        dropped_after(rt(), code, &wat, &[], here_and_there());
    }
}

/// Fills what is free in the arena with what no guest may see.
fn dirty() {
    for buffer in &mut hoard() {
        buffer.fill(0x5a);
    }
}

/// One page, or as many as it is given; grows, and hashes what it has then.
const GROWS: &str = r#"(module
    (import "env" "hash" (func $hash (param i32 i32) (result i64)))
    (memory PAGES 12)
    (func (export "run") (param i32) (result i64 i32 i32)
        (if (memory.size) (then (memory.fill (i32.const 100) (i32.const 9) (i32.const 1000))))
        (memory.grow (local.get 0))
        (local.set 0)
        (call $hash (i32.const 0) (i32.mul (memory.size) (i32.const 65536)))
        (memory.size) (local.get 0))
    (func (export "check") (result i64 i32)
        (call $hash (i32.const 0) (i32.mul (memory.size) (i32.const 65536))) (memory.size)))"#;

/// Where a memory is to grow, if it is flat; a paged one needs none to speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// Behind it.
    Behind,
    /// Elsewhere.
    Elsewhere,
    /// Only in the room before it, with its own.
    Before,
    None,
}

/// An instance whose memory has just such room for `more` pages, and what keeps it so.
fn with_room(module: &Module, room: Room, more: u32) -> (Instance, Option<wamr::Buffer>) {
    dirty();
    // Memories lie at the arena's upper end, the newest lowest; what is small is taken from the
    // smallest room that there is, so that behind it must be the largest.
    let above = load(rt(), "(module (memory 20))").unwrap();
    let above = (room == Room::Behind).then(|| make(&above));
    let instance = make(module);
    drop(above);
    // Workers and calls take of it, and the pages of a paged memory.
    let spare = if wamr::page_bytes() > 0 {
        100_000
    } else {
        64_000
    };
    let leaves = match room {
        Room::Behind | Room::Elsewhere => return (instance, None),
        // Less than what it will be.
        Room::Before => more * 65_536 + spare,
        Room::None => spare,
    };
    let most = rt().memory().largest_free - leaves;
    let wall = rt()
        .buffer(most as usize)
        .expect("the arena is in one piece");
    (instance, Some(wall))
}

#[test]
fn memory_grows_in_pieces() {
    let _one = alone();
    let rooms = [Room::Behind, Room::Elsewhere, Room::Before, Room::None];
    for (pages, by) in [
        (0, 1),
        (0, 3),
        (1, 0),
        (1, 1),
        (1, 2),
        (1, 12),
        (1, -1),
        (2, 9),
    ] {
        let wat = GROWS.replace("PAGES", &pages.to_string());
        let module = load(rt(), &wat).unwrap();
        for room in rooms {
            let before = rt().memory().free;
            let go = |fuel, between| {
                let more = u32::try_from(by).unwrap_or(0).min(10);
                let (mut instance, wall) = with_room(&module, room, more);
                let (outcome, left) = run(&mut instance, &[Value::I32(by)], fuel, between, rt());
                drop(wall);
                (outcome, left, instance.memory_len())
            };
            let (whole, _, len) = go(1_000_000, Between::Stays);
            let fits = room != Room::None || wamr::page_bytes() > 0;
            let grows = by == 0 || (fits && by > 0 && pages + by <= 12 && pages + by > 0);
            let size = if grows { pages + by } else { pages };
            assert_eq!(
                len,
                u64::from(size.unsigned_abs()) * 65_536,
                "{pages} + {by}, {room:?}"
            );
            let result = if grows { pages } else { -1 };
            let results = whole.end.as_ref().unwrap();
            assert_eq!(results[0], hash_of(pages, size), "{pages} + {by}, {room:?}");
            assert_eq!(results[1..], [Value::I32(size), Value::I32(result)]);
            for fuel in [1, 7, 100] {
                for between in EVERYWHERE {
                    let (outcome, left, then) = go(fuel, between);
                    let how = format!("{pages} + {by}, {room:?}, fuel {fuel}, {between:?}");
                    assert_eq!((&outcome, then), (&whole, len), "{how}");
                    if fuel == 1 && between == Between::Leaves {
                        println!("{pages} + {by}, {room:?}: work {}, {left:?}", whole.work);
                    }
                }
            }
            assert_eq!(rt().memory().free, before);
        }
        drop(module);
        dropped_after(rt(), "grow", &wat, &[Value::I32(by)], here_and_there());
    }
}

/// Hash of a memory of `pages` pages, filled if `filled` is positive.
fn hash_of(filled: i32, pages: i32) -> Value {
    let mut bytes = vec![0_u8; pages.unsigned_abs() as usize * 65_536];
    if filled > 0 {
        bytes[100..1100].fill(9);
    }
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    Value::I64(hash.cast_signed())
}

fn check(instance: &mut Instance) -> Vec<Value> {
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = worker(&env, 2048);
    instance.set_work_left(u64::MAX);
    instance.call("check", &[]).unwrap();
    while step(instance, &mut worker, 10_000).unwrap() != ResumableCall::Finished {}
    results(instance)
}

/// A memory whose growth is cut short, for want of work, shows no byte that it had not.
#[test]
fn growth_without_the_work_for_it() {
    let _one = alone();
    let module = load(rt(), &GROWS.replace("PAGES", "1")).unwrap();
    let allowed = [1, 4].map(|pages| vec![hash_of(1, pages), Value::I32(pages)]);
    for room in [Room::Behind, Room::Elsewhere, Room::Before] {
        // 16 for the fill, 1 to grow, 48 for the pages, 1 for the hash.
        for work in 16..66 {
            let found = [1, 1_000_000].map(|fuel| {
                let (mut instance, _wall) = with_room(&module, room, 3);
                instance.set_work_left(work);
                let (outcome, _) =
                    run(&mut instance, &[Value::I32(3)], fuel, Between::Leaves, rt());
                let end = outcome.end.map_err(|trap| trap.0);
                assert_eq!(end, Err(TrapKind::OutOfWork), "{work}");
                check(&mut instance)
            });
            assert!(
                allowed.contains(&found[0]),
                "{room:?}, work {work}: {found:?}"
            );
            assert_eq!(found[0], found[1], "{room:?}, work {work}");
        }
    }
}

/// The same for want of room to leave in the middle of it. A paged memory grows at once.
#[test]
fn growth_without_the_room_to_leave() {
    let _one = alone();
    if wamr::page_bytes() > 0 {
        return;
    }
    let wat = GROWS.replace("PAGES", "1").replace(
        "(memory.grow (local.get 0))",
        "(call_indirect (param i32) (result i32) (local.get 0) (i32.const 0))",
    );
    let grow = "(table 1 funcref) (elem (i32.const 0) $grow)
        (func $grow (param i32) (result i32) (local i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64)
            (memory.grow (local.get 0))) (func (export \"run\")";
    let module = load(rt(), &wat.replace("(func (export \"run\")", grow)).unwrap();
    let allowed = vec![hash_of(1, 1), Value::I32(1)];
    for room in [Room::Behind, Room::Elsewhere] {
        for steps in [20, 100, 1000, 3000] {
            let (mut instance, _wall) = with_room(&module, room, 3);
            let env = ThreadEnv::enter(rt()).unwrap();
            let mut worker = worker(&env, STACK);
            instance.call("run", &[Value::I32(3)]).unwrap();
            let mut active = worker.enter(&mut instance).unwrap();
            for _ in 0..steps {
                assert_eq!(active.step(1, &()), Ok(ResumableCall::OutOfFuel));
            }
            let full = hoard();
            assert_eq!(active.leave().unwrap_err().kind(), TrapKind::OutOfMemory);
            drop(full);
            assert_eq!(check(&mut instance), allowed, "{room:?}, {steps} steps");
        }
    }
}

fn hoard() -> Vec<wamr::Buffer> {
    let mut all = Vec::new();
    for size in [65_536, 4096, 256, 16, 1] {
        while let Some(buffer) = rt().try_buffer(size) {
            all.push(buffer);
        }
    }
    all
}

/// Whether the work runs out inside of a bulk operation or not: what is done of it is the same.
#[test]
fn the_work_runs_out_in_a_bulk_operation() {
    let _one = alone();
    let wat = r#"(module (import "env" "hash" (func $hash (param i32 i32) (result i64)))
        (memory 3 3) (data (i32.const 65536) "seed")
        (func (export "run") (param i32)
            (memory.fill (i32.const 1) (i32.const 5) (local.get 0))
            (memory.copy (i32.const 65530) (i32.const 0) (i32.const 80000)))
        (func (export "check") (result i64 i32)
            (call $hash (i32.const 0) (i32.mul (memory.size) (i32.const 65536))) (memory.size)))"#;
    let module = load(rt(), wat).unwrap();
    for len in [1000_u32, 65_536, 100_000] {
        let fill = 1 + len / 64;
        let all = u64::from(fill) + 1 + 80_000 / 64;
        for work in [
            0,
            1,
            10,
            u64::from(fill) - 1,
            u64::from(fill),
            u64::from(fill) + 5,
            all - 1,
            all,
        ] {
            let outcome = |fuel, between| {
                let mut instance = make(&module);
                instance.set_work_left(work);
                let args = [Value::I32(len as i32)];
                let (outcome, _) = run(&mut instance, &args, fuel, between, rt());
                (outcome, check(&mut instance))
            };
            let whole = outcome(1_000_000, Between::Stays);
            assert_eq!(whole.0.end.is_ok(), work >= all, "{len}, {work}");
            for fuel in [1, 7, 1000] {
                for between in [Between::Stays, Between::Leaves] {
                    assert_eq!(
                        outcome(fuel, between),
                        whole,
                        "{len}, work {work}, fuel {fuel}, {between:?}"
                    );
                }
            }
        }
    }
}

/// Code without a branch is left, too: after each operation that uses a step's fuel up.
#[test]
fn six_hundred_operations_in_a_line() {
    let _one = alone();
    let fills = "(memory.fill (i32.const 3) (i32.const 4) (i32.const 60))
        (table.fill 0 (i32.const 0) (ref.null func) (i32.const 10))"
        .repeat(300);
    let wat = format!(
        r#"(module {HEAD} (memory 1 1) (table 10 funcref)
        (func (export "run") (result i64) {fills} (call $hash (i32.const 0) (i32.const 65536))))"#
    );
    let (outcome, left) = same_however_cut(rt(), "600 fills", &wat, &[]);
    assert_eq!(outcome.work, 601);
    // So long a line costs more for its one call, and a page that is taken costs by its size.
    assert!((601..720).contains(&left.out_of_fuel), "{left:?}");
    let copies = "(memory.copy (i32.const 3) (i32.const 4) (i32.const 60))
        (drop (memory.grow (i32.const 1)))
        (table.copy (i32.const 0) (i32.const 1) (i32.const 5))
        (table.init $e (i32.const 0) (i32.const 0) (i32.const 1))
        (drop (table.grow 0 (ref.null func) (i32.const 1)))
        (memory.init $d (i32.const 9) (i32.const 0) (i32.const 2))"
        .repeat(100);
    let wat = format!(
        r#"(module {HEAD} (memory 1 1) (table 10 11 funcref) (elem $e func $inc) (data $d "ab")
        (func (export "run") (result i64) {copies} (call $hash (i32.const 0) (i32.const 65536))))"#
    );
    let (outcome, left) = same_however_cut(rt(), "600 others", &wat, &[]);
    assert_eq!(outcome.work, 601);
    // So long a line costs more for its one call, and a page that is taken costs by its size.
    assert!((601..720).contains(&left.out_of_fuel), "{left:?}");
}

/// Number of steps of `fuel` that `run` takes; its work is `work`.
fn steps_of(wat: &str, args: &[Value], fuel: u32, work: u64) -> u32 {
    let module = load(rt(), wat).unwrap();
    let mut instance = make(&module);
    let (outcome, left) = run(&mut instance, args, fuel, Between::Leaves, rt());
    assert_eq!((outcome.end, outcome.work), (Ok(vec![]), work));
    left.out_of_fuel
}

/// A unit of work for each 128 instructions of the longest line, and never less fuel than that.
#[test]
fn long_lines_cost_more() {
    let _one = alone();
    let wat = format!(
        r#"(module (func (export "run") (param i32) (loop {}
            (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))"#,
        "nop ".repeat(128 * 50)
    );
    for fuel in [1, 7, 50, 60, 1000] {
        let steps = steps_of(&wat, &[Value::I32(100)], fuel, 100);
        // 51 for a unit; the first scan besides.
        let least = 99 * 51 / fuel;
        let most = least + 51 + 300;
        assert!(
            (least..=most).contains(&steps),
            "fuel {fuel}: {steps} steps, not {least} to {most}"
        );
    }
}

/// So do returns to them, 1,024 units at a time, and at least two ways: no step goes all of a deep
/// recursion's way back, and each step moves on.
#[test]
fn returns_to_long_lines_cost() {
    let _one = alone();
    for (instructions, depth) in [(10, 100), (128 * 15, 100), (128 * 200, 60), (128 * 1500, 9)] {
        let wat = format!(
            r#"(module (func $down (param i32)
                (block (br_if 0 (i32.eqz (local.get 0)))
                    (call $down (i32.sub (local.get 0) (i32.const 1))))
                {})
            (func (export "run") (call $down (i32.const {depth}))))"#,
            "nop ".repeat(instructions)
        );
        let per_unit = instructions as u32 / 128 + 1;
        let work = 2 * depth + 2;
        for fuel in [per_unit.div_ceil(5), 1000] {
            let steps = steps_of(&wat, &[], fuel, work.into());
            let at_once = 1024 / per_unit + 1;
            let least = (work - 1 + depth / at_once.max(2) * at_once) * per_unit / fuel;
            let most = (work + depth + 2) * per_unit / fuel + 20;
            assert!(
                (least..=most).contains(&steps),
                "{instructions} in a line, fuel {fuel}: {steps} steps, not {least} to {most}"
            );
        }
    }
}

/// So do calls that make many locals: a unit for each 1,024 cells.
#[test]
fn many_locals_cost_more() {
    let _one = alone();
    for (locals, per_unit) in [(100, 1), (1000, 1), (2100, 3)] {
        let wat = format!(
            r#"(module (func $f (local {})) (func (export "run") (param i32) (loop (call $f)
                (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))"#,
            "i32 ".repeat(locals)
        );
        let steps = steps_of(&wat, &[Value::I32(100)], 1, 200);
        let least = 199 * per_unit;
        assert!(
            (least..least + 10).contains(&steps),
            "{locals} locals: {steps} steps"
        );
    }
}

/// An `if` is no check, but the call is left before it when its scan is not paid: in each form that
/// its type can have.
#[test]
fn ifs_are_left_before_their_scan() {
    const DEPTH: u32 = 100;
    let _one = alone();
    // Types of as many values as they have results.
    let values = |index: usize| "i64 ".repeat(1 + index % 3);
    let types = (0..300).fold(String::new(), |types, i| {
        let values = values(i);
        format!("{types} (type $t{i} (func (param {values}) (result {values})))")
    });
    let plain = [
        ("", String::new(), String::new(), String::new()),
        (
            "",
            "(result i64)".into(),
            "i64.const 5 else i64.const 6".into(),
            "drop".into(),
        ),
    ];
    // Whose index is one byte, or two, of which the first may look like an opcode.
    let indexed = [0, 4, 99, 126, 129, 132, 255, 299].map(|index| {
        let count = 1 + index % 3;
        let ty = format!("(type $t{index})");
        (
            [
                "",
                "i64.const 1 ",
                "i64.const 1 i64.const 2 ",
                "i64.const 1 i64.const 2 i64.const 3 ",
            ][count],
            ty,
            String::new(),
            "drop ".repeat(count),
        )
    });
    for (before, ty, end, after) in plain.into_iter().chain(indexed) {
        let code = (0..DEPTH).fold("nop ".repeat(40), |code, _| {
            format!("{before} i32.const 1 if {ty} {code} {end} end {after}")
        });
        let wat = format!(r#"(module {types} (func (export "run") {code}))"#);
        let (outcome, left) = same_however_cut(rt(), &ty, &wat, &[]);
        assert_eq!((outcome.end, outcome.work), (Ok(vec![]), 0), "{ty}");
        // A scan finds the ends of 15 blocks within, too.
        assert!(left.out_of_fuel >= DEPTH / 16, "{ty}: {left:?}");
    }
}
