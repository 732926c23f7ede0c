//! How many guests 192 KiB hold where pointers have 32 bits, as on the boards, and that every byte
//! comes back.

use std::path::Path;
use std::sync::OnceLock;

#[path = "../capacity/mod.rs"]
mod capacity;

use capacity::{ARENA, CPU, LOOP, PAGE, Program, SHRUNK, Width};

/// What upstream's benchmark gives each guest to use; here it is one stack for all.
const STACK: u32 = 4096;
/// Kconfig's default for 32 bits.
const CACHE_LINES: u32 = 64;

/// The one program of all tests; `None` where it can't be made, and that need not be.
fn program() -> Option<&'static Program> {
    static PROGRAM: OnceLock<Option<Program>> = OnceLock::new();
    let made = PROGRAM.get_or_init(|| {
        if !capacity::has_32_bits() {
            return None;
        }
        Some(Program::build(Width::Bits32, CACHE_LINES).expect("the program compiles"))
    });
    made.as_ref()
}

/// How many guests fit that are left in the middle of `main`, and the bytes of their linear memory;
/// after checks that hold for any module.
fn count(program: &Program, module: &Path, cap: u32) -> (u64, u64) {
    let fields = program
        .run(ARENA, STACK, cap, module, None)
        .expect("it runs");
    let field = |name: &str| fields[name];
    assert_eq!(field("pointer"), 4);
    assert_eq!(field("cache_lines"), CACHE_LINES.into());
    assert_eq!(field("free_after"), field("free_before"));
    assert_eq!(field("largest_after"), field("free_before"));
    // All cost the same, and that the next one did not fit is not for lack of trying.
    let one = field("instance") + field("kept") + field("linear");
    let taken = field("load") + field("tables") + field("count") * one;
    assert_eq!(field("free_before") - field("free_wall"), taken);
    assert!(field("largest_wall") < one, "{fields:?}");
    (field("count"), field("linear"))
}

#[test]
fn guests_without_memory() {
    let Some(program) = program() else { return };
    let cpu = capacity::assemble("cpu", CPU);
    assert!(count(program, &cpu, 0).0 >= 400);
    let endless = capacity::assemble("loop", LOOP);
    assert!(count(program, &endless, 0).0 >= 400);
}

/// Its code costs the module, not the instance.
#[test]
fn an_instance_costs_the_same_whatever_its_code() {
    let Some(program) = program() else { return };
    let functions: String = (0..1000)
        .map(|n| format!("(func (export \"f{n}\") (result i32) (i32.const {n}))"))
        .collect();
    let large = LOOP.replacen("(module", &format!("(module {functions}"), 1);
    let [small, large] = [("small", LOOP), ("large", &large)].map(|(name, wat)| {
        let module = capacity::assemble(&format!("code-{name}"), wat);
        let fields = program.run(4 * ARENA, STACK, 0, &module, None);
        let fields = fields.expect("it runs");
        (fields["instance"], fields["kept"])
    });
    assert_eq!(small, large);
}

/// A memory of one page of Wasm that has 1 KiB in use: the page, its table, and the place for that.
const FIRST_PAGE: u64 = (1024 + 8) + (64 * 4 + 8) + 16;

#[test]
fn a_page_of_memory() {
    let Some(program) = program() else { return };
    let module = capacity::assemble("page", PAGE);
    for cap in [0, 4096] {
        let (count, linear) = count(program, &module, cap);
        assert!(count >= 90, "{count}");
        assert_eq!(linear, FIRST_PAGE);
    }
}

#[test]
fn a_shrunk_memory() {
    let Some(program) = program() else { return };
    let module = capacity::assemble("shrunk", SHRUNK);
    let (count, linear) = count(program, &module, 0);
    assert!(count >= 50, "{count}");
    // Its data begins where its stack ends, at 1 KiB.
    assert_eq!(linear, FIRST_PAGE + 1024 + 8);
}

#[test]
fn ten_thousand_rounds_lose_no_byte() {
    let Some(program) = program() else { return };
    for (name, wat) in [("loop", LOOP), ("page", PAGE), ("shrunk", SHRUNK)] {
        let module = capacity::assemble(&format!("rounds-{name}"), wat);
        let rounds = Some("rounds=10000");
        let fields = program.run(ARENA, STACK, 0, &module, rounds).expect(name);
        assert_eq!(fields["rounds"], 10_000);
        assert_eq!(fields["free_after"], fields["free_before"]);
        assert_eq!(fields["largest_after"], fields["free_before"]);
    }
}

/// x87 arithmetic would round 1 + 2^-53 + 2^-105 to 64 bits first, and from there down.
#[test]
fn arithmetic_rounds_once() {
    let Some(program) = program() else { return };
    let wat = "(module (func (export \"run\") (param i32) (result i32)
        (f64.gt (f64.add (f64.const 1) (f64.const 0x1.0000000000001p-53)) (f64.const 1))))";
    let module = capacity::assemble("rounding", wat);
    let fields = program.run(ARENA, STACK, 0, &module, Some("time=0"));
    assert_eq!(fields.expect("it runs")["result"], 1);
}
