//! Estimates against the truth.

mod common;

use std::task::Poll;

use common::{Guest, alone, load_bytes, memory_bytes, runtime};
use wamr::{Caller, ErrorKind, HostError, HostFunction, InstanceConfig, Needs, Runtime, estimate};

static HOST: [HostFunction; 1] = [HostFunction {
    module: c"env",
    name: c"f",
    signature: c"(i)i",
    call: nothing,
}];

fn nothing(_: &mut Caller<'_>, _: &mut [u64]) -> Poll<Result<(), HostError>> {
    Poll::Ready(Ok(()))
}

fn rt() -> Runtime {
    runtime(&HOST)
}

/// Modules of every shape that the estimate looks at.
fn modules() -> Vec<(String, Vec<u8>)> {
    let many = |n: usize, text: &str| (0..n).map(|i| text.replace('#', &i.to_string())).collect();
    let wats: [(&str, String); 15] = [
        ("empty", "(module)".into()),
        ("fib", include_str!("../../../../wat/fib.wat").into()),
        ("dot", include_str!("../../../../wat/dot.wat").into()),
        ("matmul", include_str!("../../../../wat/matmul.wat").into()),
        (
            "branchy",
            include_str!("../../../../wat/branchy.wat").into(),
        ),
        (
            "add",
            r#"(module (func (export "run") (param i32 i32) (result i32) (i32.const 1)))"#.into(),
        ),
        (
            "import",
            r#"(module (import "env" "f" (func (param i32) (result i32))))"#.into(),
        ),
        (
            "locals",
            r#"(module (func (local i32 i64 f32 f64) (local i64)) (func (local i32)))"#.into(),
        ),
        ("functions", {
            let functions: String = many(60, r#"(func (export "f#") (param i64) (local i32))"#);
            format!("(module {functions})")
        }),
        ("types", {
            let types: String = many(40, "(type (func (param i32 i64 f32) (result f64)))");
            format!("(module {types} (func (type 39) (f64.const 0)))")
        }),
        ("globals", {
            let globals: String = many(
                33,
                "(global (mut i64) (i64.const -#)) (global f32 (f32.const 1))",
            );
            format!("(module {globals} (global funcref (ref.null func)))")
        }),
        ("table", {
            let functions: String = many(20, "(func $f#)");
            format!(
                "(module (table 30 funcref) (elem (i32.const 3) $f1 $f2 $f3) (elem func $f4)
                (elem funcref (ref.func $f5) (ref.null func)) {functions})"
            )
        }),
        (
            "growing table",
            r#"(module (table 3 50 funcref) (func (result i32)
            (table.grow 0 (ref.null func) (i32.const 1))))"#
                .into(),
        ),
        ("data", {
            let data: String = many(19, r#"(data (i32.const #) "a few bytes")"#);
            format!("(module (memory 1) {data} (func (drop (memory.grow (i32.const 0)))))")
        }),
        (
            "all",
            r#"(module (import "env" "f" (func $f (param i32) (result i32)))
            (memory (export "memory") 1) (global $sp (mut i32) (i32.const 1024)) (table 1 1 funcref)
            (data (i32.const 16) "hello") (data "passive") (elem (i32.const 0) $f)
            (func (export "run") (param i32) (result i32) (local i64)
                (drop (memory.grow (i32.const 0))) (call $f (local.get 0))))"#
                .into(),
        ),
    ];
    wats.map(|(name, wat)| (name.into(), wat::parse_str(&wat).expect(name)))
        .into()
}

/// Bytes that are taken, by the first instance and by another.
fn truth(wasm: &[u8]) -> (Needs, Needs) {
    let free = || u64::from(rt().memory().free);
    let start = free();
    let module = load_bytes(rt(), wasm).unwrap();
    let loaded = free();
    assert!(!module.is_shared());
    let first = Guest::new(&module, &InstanceConfig::default()).unwrap();
    let made = free();
    assert!(module.is_shared());
    let second = Guest::new(&module, &InstanceConfig::default()).unwrap();
    let made_again = free();
    let exact = module.needs();
    let taken = Needs {
        load: start - loaded,
        tables: (loaded - made) - (made - made_again),
        instance: made - made_again - exact.memory.made,
        ..exact
    };
    for instance in [first, second] {
        assert_eq!(u64::from(instance.usage().held), made - made_again);
    }
    // The tables go with the last instance.
    assert_eq!(free(), loaded);
    (taken, exact)
}

#[test]
fn never_under_and_little_over() {
    let _one = alone();
    for (name, wasm) in modules() {
        let (taken, exact) = truth(&wasm);
        assert_eq!(exact, taken, "{name}: what Module::needs says");
        let guess = estimate(&wasm).unwrap();
        println!("{name}\n  guess {guess:?}\n  taken {taken:?}");
        assert_eq!((guess.tables, guess.copy), (taken.tables, taken.copy));
        for (guess, taken) in [(guess.load, taken.load), (guess.instance, taken.instance)] {
            assert!(guess >= taken, "{name}: {guess} {taken}");
            assert!(guess <= taken * 3 / 2 + 512, "{name}: {guess} {taken}");
        }
    }
}

/// Loads and instantiates in one piece of the arena of `size` bytes, the rest being taken.
fn fits(wasm: &[u8], size: u64) -> bool {
    let hole = rt().buffer(usize::try_from(size).unwrap() - 4).unwrap();
    let mut rest = Vec::new();
    for size in [4096, 256, 16, 4] {
        while let Ok(buffer) = rt().buffer(size) {
            rest.push(buffer);
        }
    }
    drop(hole);
    let Ok(module) = load_bytes(rt(), wasm) else {
        return false;
    };
    Guest::new(&module, &InstanceConfig::default()).is_ok()
}

/// Even where the arena is one piece no larger than the estimate, and loading's temporary blocks
/// leave holes between those that stay.
#[test]
fn what_is_estimated_suffices_but_for_holes() {
    let _one = alone();
    for (name, wasm) in modules() {
        let memory = load_bytes(rt(), &wasm).unwrap().needs().memory.made;
        let needs = estimate(&wasm).unwrap().total() + memory;
        let holes = (0..)
            .step_by(8)
            .find(|more| fits(&wasm, needs + more))
            .unwrap();
        println!("{name}: {holes} more than {needs}");
        assert!(holes <= 256, "{name}: {holes}");
    }
}

/// Memories of compilers: the stack's global first, its first page beside data, in front of it, or in none.
#[test]
fn the_first_page_of_a_guests_stack_is_known() {
    let _one = alone();
    if wamr::page_bytes() == 0 {
        return;
    }
    for (global, data, more) in [
        ("(mut i32) (i32.const 65536)", 65_536, memory_bytes(1, 1, 1)),
        ("(mut i32) (i32.const 66048)", 65_536, 0),
        (
            "(mut i32) (i32.const 131072)",
            65_536,
            memory_bytes(0, 1, 1),
        ),
        (
            "(mut i32) (i32.const 1048576)",
            65_536,
            memory_bytes(1, 1, 1),
        ),
        ("(mut i32) (i32.const 0)", 65_536, 0),
        ("(mut i32) (i32.const 65530)", 65_536, 0),
        ("(mut i32) (i32.const 1114128)", 65_536, 0),
        ("i32 (i32.const 65536)", 65_536, 0),
        ("(mut i64) (i64.const 65536)", 65_536, 0),
    ] {
        let with = |global: &str| {
            let wat = format!(
                r#"(module (memory 17) (global {global}) (global (mut i32) (i32.const 32))
                (data (i32.const {data}) "x"))"#
            );
            let wasm = wat::parse_str(wat).unwrap();
            let module = load_bytes(rt(), &wasm).unwrap();
            (module.needs().memory.made, module)
        };
        let (without, _) = with("i32 (i32.const 0)");
        let (made, module) = with(global);
        assert_eq!(made - without, u64::from(more), "{global}");
        // It is there before the guest begins.
        let guest = Guest::new(&module, &InstanceConfig::default()).unwrap();
        assert_eq!(guest.pages(), 1 + u32::from(more > 0), "{global}");
    }
}

#[test]
fn what_is_no_module_is_refused() {
    let (_, whole) = modules().pop().unwrap();
    for len in 0..8 {
        assert_eq!(
            estimate(&whole[..len]).unwrap_err().kind(),
            ErrorKind::BadModule
        );
    }
    let error = estimate(b"\0asm\x02\0\0\0").unwrap_err();
    assert_eq!(
        error.text(),
        "not a WebAssembly module: it begins with [00, 61, 73, 6d, 02, 00, 00, 00], not [00, 61, 73, 6d, 01, 00, 00, 00]"
    );
    let mut refused = 0;
    for len in 8..whole.len() {
        refused += usize::from(estimate(&whole[..len]).is_err());
    }
    assert!(
        refused > whole.len() * 3 / 4,
        "{refused} of {}",
        whole.len()
    );
    // Counts that the bytes don't bear out end the walk, not the patience.
    let section = [
        b"\0asm\x01\0\0\0".as_slice(),
        &[7, 5, 0xff, 0xff, 0xff, 0xff, 0x0f],
    ]
    .concat();
    assert!(estimate(&section).is_err());
    let functions = [
        b"\0asm\x01\0\0\0".as_slice(),
        &[3, 5, 0xff, 0xff, 0xff, 0xff, 0x0f],
    ]
    .concat();
    assert!(estimate(&functions).unwrap().total() > 1 << 32);
}
