//! The proposals that the crate lists are those that the engine takes.

mod common;

use common::{Budget, Guest, alone, load, runtime};
use std::collections::BTreeSet;
use wamr::{InstanceConfig, PROPOSALS, Value};

/// A module of each proposal that is listed, whose `main` gives 42.
const TAKEN: [(&str, &str); 6] = [
    (
        "mutable-globals",
        r#"(module (global $g (export "g") (mut i32) (i32.const 42))
            (func (export "main") (result i32) (global.get $g)))"#,
    ),
    (
        "sign-ext",
        r#"(module (func (export "main") (result i32)
            (i32.add (i32.extend8_s (i32.const 0xff)) (i32.const 43))))"#,
    ),
    (
        "nontrapping-fptoint",
        r#"(module (func (export "main") (result i32)
            (i32.add (i32.trunc_sat_f32_s (f32.const nan)) (i32.const 42))))"#,
    ),
    (
        "multivalue",
        r#"(module (func $two (result i32 i32) (i32.const 40) (i32.const 2))
            (func (export "main") (result i32) (i32.add (call $two))))"#,
    ),
    (
        "bulk-memory",
        r#"(module (memory 1) (data $d "\2a")
            (func (export "main") (result i32)
                (memory.init $d (i32.const 8) (i32.const 0) (i32.const 1))
                (memory.copy (i32.const 4) (i32.const 8) (i32.const 1))
                (memory.fill (i32.const 8) (i32.const 7) (i32.const 9))
                (i32.load (i32.const 4))))"#,
    ),
    (
        "reference-types",
        r#"(module (table $a 1 funcref) (table $b 2 externref)
            (func (export "main") (result i32)
                (table.set $b (i32.const 1) (ref.null extern))
                (i32.mul (ref.is_null (table.get $b (i32.const 1)))
                    (i32.add (table.size $b) (i32.const 40)))))"#,
    ),
];

/// Modules of proposals that are not.
const REFUSED: [(&str, &str); 8] = [
    (
        "simd128",
        r#"(module (func (export "main") (drop (v128.const i32x4 0 0 0 0))))"#,
    ),
    ("atomics", "(module (memory 1 1 shared))"),
    (
        "tail-call",
        r#"(module (func $f) (func (export "main") (return_call $f)))"#,
    ),
    (
        "exception-handling",
        r#"(module (tag $t) (func (export "main") (throw $t)))"#,
    ),
    ("memory64", "(module (memory i64 1))"),
    ("multimemory", "(module (memory 1) (memory 1))"),
    (
        "extended-const",
        "(module (global i32 (i32.add (i32.const 1) (i32.const 1))))",
    ),
    ("gc", "(module (type (struct (field i32))))"),
];

#[test]
fn each_proposal_that_is_listed_is_taken() {
    let _one = alone();
    let listed: BTreeSet<_> = PROPOSALS.into_iter().collect();
    assert_eq!(listed, TAKEN.iter().map(|(name, _)| *name).collect());
    for (name, module) in TAKEN {
        let module = load(runtime(&[]), module).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut guest = Guest::new(&module, &InstanceConfig::default()).unwrap();
        let mut results = [Value::I32(0)];
        let budget = Budget::new(1000, u64::MAX);
        guest.call("main", &[], &mut results, &budget).unwrap();
        assert_eq!(results, [Value::I32(42)], "{name}");
    }
}

#[test]
fn those_that_are_not_are_refused_in_words() {
    let _one = alone();
    for (name, module) in REFUSED {
        assert!(!PROPOSALS.contains(&name));
        let error = load(runtime(&[]), module).expect_err(name);
        assert!(!error.text().is_empty(), "{name}");
        println!("{name}: {error}");
    }
}
