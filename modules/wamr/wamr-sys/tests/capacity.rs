//! How many instances 192 KiB hold where pointers have 32 bits, as on the boards, and that every
//! byte comes back.

use std::path::Path;
use std::sync::OnceLock;

#[path = "../capacity/mod.rs"]
mod capacity;

use capacity::{ARENA, LOOP, PAGE, Program, SHRUNK, Width};

/// The operand stack of a task that asks for no other.
const STACK_DEFAULT: u32 = 1536;
/// Kconfig's default for 32 bits.
const CACHE_LINES: u32 = 32;

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

/// How many instances fit, after checks that hold for any module.
fn count(program: &Program, module: &Path, stack: u32, cap: u32) -> (u64, u64) {
    let fields = program
        .run(ARENA, stack, cap, module, None)
        .expect("it runs");
    let field = |name: &str| fields[name];
    assert_eq!(field("pointer"), 4);
    assert_eq!(field("cache_lines"), CACHE_LINES.into());
    assert_eq!(field("free_after"), field("free_before"));
    assert_eq!(field("largest_after"), field("free_before"));
    // All cost the same, and that the next one did not fit is not for lack of trying.
    let one = field("instance") + field("exec_env") + field("linear");
    let taken = field("load") + field("count") * one;
    assert_eq!(field("free_before") - field("free_wall"), taken);
    assert!(field("largest_wall") < one, "{fields:?}");
    (field("count"), field("linear"))
}

#[test]
fn a_loop_without_memory() {
    let Some(program) = program() else { return };
    let module = capacity::assemble("loop", LOOP);
    assert!(count(program, &module, 4096, 0).0 >= 32);
    assert!(count(program, &module, STACK_DEFAULT, 0).0 >= 64);
}

#[test]
fn a_page_of_memory() {
    let Some(program) = program() else { return };
    let module = capacity::assemble("page", PAGE);
    assert_eq!(count(program, &module, 4096, 0), (2, 65_536 + 8));
    let (capped, linear) = count(program, &module, 4096, 4096);
    assert!(capped >= 19, "{capped}");
    assert_eq!(linear, 4096 + 8);
}

#[test]
fn a_shrunk_memory() {
    let Some(program) = program() else { return };
    let module = capacity::assemble("shrunk", SHRUNK);
    let (count, linear) = count(program, &module, STACK_DEFAULT, 0);
    assert!(count >= 24, "{count}");
    assert_eq!(linear, 4096 + 8);
}

#[test]
fn ten_thousand_rounds_lose_no_byte() {
    let Some(program) = program() else { return };
    for (name, wat) in [("loop", LOOP), ("page", PAGE), ("shrunk", SHRUNK)] {
        let module = capacity::assemble(&format!("rounds-{name}"), wat);
        let rounds = Some("rounds=10000");
        let fields = program
            .run(ARENA, STACK_DEFAULT, 0, &module, rounds)
            .expect(name);
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
    let fields = program.run(ARENA, STACK_DEFAULT, 0, &module, Some("time=0"));
    assert_eq!(fields.expect("it runs")["result"], 1);
}
