//! How many guests 192 KiB hold where pointers have 32 bits, as on the boards, and that every byte
//! comes back.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use proplet_testing::capacity::{
    self, ARENA, CHECKSUM, CPU, MEM, MEM_64K, MSG, PAGE, PAGE_BYTES, Program, Width,
};
use proplet_testing::compilers;

/// Bytes of stack, as upstream's benchmark gives to each guest; here it is one stack for all.
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
        let built = Program::build(Width::Bits32, CACHE_LINES, PAGE_BYTES);
        Some(built.expect("the program compiles"))
    });
    made.as_ref()
}

/// Result of a count of guests.
struct Counted {
    fit: u64,
    /// Bytes of each one's linear memory at its end.
    linear: u64,
    result: u64,
}

/// Counts guests that run `main(argument)` to its end side by side; after checks that hold for any
/// module.
fn count(program: &Program, module: &Path, argument: u32) -> Counted {
    let fields = program.run(ARENA, STACK, module, &format!("count={argument}"));
    let fields = fields.expect("it runs");
    let field = |name: &str| fields[name];
    assert_eq!(field("pointer"), 4);
    assert_eq!(field("cache_lines"), CACHE_LINES.into());
    assert_eq!(field("free_after"), field("free_before"));
    assert_eq!(field("largest_after"), field("free_before"));
    // All cost the same, and that the next one did not fit is not for lack of trying, but for some bytes
    // between blocks.
    let one = field("instance") + field("kept") + field("linear");
    let taken = field("load") + field("tables") + field("count") * one;
    assert_eq!(field("free_before") - field("free_wall"), taken);
    assert!(field("free_wall") < one + 64, "{fields:?}");
    Counted {
        fit: field("count"),
        linear: field("linear"),
        result: field("result"),
    }
}

/// FNV-1a over what `mem` reads.
const MEM_RESULT: u64 = 841_800_133;

#[test]
fn workloads() {
    let Some(program) = program() else { return };
    for (name, wat, least, result) in [
        ("cpu", CPU, 400, 1_657_779_477),
        ("mem", MEM, 90, MEM_RESULT),
        ("msg", MSG, 55, 1_791_376_005),
        ("checksum", CHECKSUM, 30, 3_105_295_384),
        ("mem64k", MEM_64K, 2, MEM_RESULT),
    ] {
        let counted = count(program, &capacity::assemble(name, wat), 0);
        assert!(counted.fit >= least, "{name}: {}", counted.fit);
        assert_eq!(counted.result, result, "{name}");
    }
}

/// The filters of `guests/`, with 100 samples: past the point where the window is full. Both have the
/// same result, and nothing in them says how large a stack they need.
#[test]
fn guests_of_compilers_with_default_flags() {
    let Some(program) = program() else { return };
    let guests = compilers::guests();
    let c = compilers::compile_plainly(&guests.join("c/filter.c"));
    let rust = compilers::compile_rust_plainly(&guests.join("rust/src/lib.rs"));
    let mut results = Vec::new();
    for (name, wasm) in [("c", c), ("rust", rust)] {
        let Some(wasm) = wasm else { continue };
        let counted = count(program, &written(name, &wasm), 100);
        assert!(counted.fit >= 10, "{name}: {}", counted.fit);
        results.push(counted.result);
    }
    results.dedup();
    assert!(results.len() <= 1, "{results:?}");
}

fn written(name: &str, wasm: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("default-{name}.wasm"));
    fs::write(&path, wasm).expect("the module can be written");
    path
}

/// Its code costs the module, not the instance.
#[test]
fn an_instance_costs_the_same_whatever_its_code() {
    let Some(program) = program() else { return };
    let functions: String = (0..1000)
        .map(|n| format!("(func (export \"f{n}\") (result i32) (i32.const {n}))"))
        .collect();
    let large = CPU.replacen("(module", &format!("(module {functions}"), 1);
    let [small, large] = [("small", CPU), ("large", &large)].map(|(name, wat)| {
        let module = capacity::assemble(&format!("code-{name}"), wat);
        let fields = program.run(ARENA, STACK, &module, "count=0");
        let fields = fields.expect("it runs");
        (fields["instance"], fields["kept"])
    });
    assert_eq!(small, large);
}

/// A page of Wasm that has one small page in use: that, its leaf, its branch, and the head.
#[test]
fn a_page_of_memory() {
    let Some(program) = program() else { return };
    let counted = count(program, &capacity::assemble("page", PAGE), 0);
    assert!(counted.fit >= 90, "{}", counted.fit);
    assert_eq!(counted.linear, (1024 + 8) + 2 * (8 * 4 + 8) + 24);
}

#[test]
fn ten_thousand_rounds_lose_no_byte() {
    let Some(program) = program() else { return };
    for (name, wat) in [("cpu", CPU), ("page", PAGE), ("msg", MSG)] {
        let module = capacity::assemble(&format!("rounds-{name}"), wat);
        let fields = program.run(ARENA, STACK, &module, "rounds=10000");
        let fields = fields.expect(name);
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
    let fields = program.run(ARENA, STACK, &module, "time=0");
    assert_eq!(fields.expect("it runs")["result"], 1);
}
