//! Cost of a guest's call of a host function.
//! `cargo bench -p proplet-engine --bench host_calls`

use proplet::engine::{Engine as _, ModuleId, Slot, Value};
use proplet_engine::host_functions;
use proplet_testing::engine::{Bench, LIMITS, Threads, bench};
use std::time::{Duration, Instant};

/// Calls in a run.
const CALLS: u32 = 200_000;

/// Runs of which the fastest counts.
const RUNS: usize = 25;

const CAPS: &str = "time,random,timer,publish,subscribe,gpio,sensor";

/// Everything that is logged is wanted, and lost.
struct Sink;

impl log::Log for Sink {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &log::Record<'_>) {}
    fn flush(&self) {}
}

fn wat(call: &str) -> String {
    let import = |name: &str, ty: &str| format!(r#"(import "env" "{name}" (func ${name} {ty}))"#);
    let imports = [
        import("get_input", "(param i32 i32 i32) (result i32)"),
        import("get_env", "(param i32 i32 i32 i32) (result i32)"),
        import("now_ms", "(result i64)"),
        import("log", "(param i32 i32 i32)"),
        import("publish", "(param i32 i32 i32 i32) (result i32)"),
        import("publish_result", "(param i32 i32)"),
        import("random", "(param i32 i32)"),
        import("gpio_read", "(param i32) (result i32)"),
    ];
    format!(
        r#"(module {} (memory 1 1) (data (i32.const 0) "KEY") (data (i32.const 16) "a/topic")
        (func $none (param i32) (result i32) (local.get 0))
        (func (export "main") (param $n i32) (result i32)
            (loop $next {call}
                (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
            (local.get $n)))"#,
        imports.concat()
    )
}

/// Nanoseconds of a call and the loop around it.
fn measure(bench: &mut Bench, call: &str) -> f64 {
    bench.load(0, &wat(call)).expect("the guest loads");
    let runs = (0..RUNS).map(|_| {
        let inputs = ["first", "second"];
        let env = [("OTHER", "value"), ("KEY", "value")];
        let data = bench.data(CAPS, &inputs, &env);
        let began = Instant::now();
        bench.spawn_with(0, &[Value::I32(CALLS as i32)], LIMITS, data);
        let exit = bench.exit();
        assert_eq!(exit.result, Ok(Some(Value::I32(0))));
        began.elapsed()
    });
    let fastest = runs.min().unwrap_or(Duration::ZERO);
    bench.engine.unload(ModuleId(0));
    fastest.as_secs_f64() * 1e9 / f64::from(CALLS)
}

fn main() {
    log::set_logger(&Sink).expect("it is the first logger");
    log::set_max_level(log::LevelFilter::Trace);
    let mut bench = bench();
    // A slice as on Linux: what is measured is the call.
    bench.workers.set_slice(100_000);
    let empty = measure(&mut bench, "(drop (call $none (i32.const 1)))");
    println!("A call of the guest's own, and the loop around it: {empty:.0} ns\n");
    println!("| call | ns, less that |\n|---|---|");
    for (name, call) in [
        (
            "get_input, 6 bytes",
            "(drop (call $get_input (i32.const 1) (i32.const 64) (i32.const 8)))",
        ),
        (
            "get_env, 5 bytes",
            "(drop (call $get_env (i32.const 0) (i32.const 3) (i32.const 64) (i32.const 8)))",
        ),
        ("now_ms", "(drop (call $now_ms))"),
        (
            "log, dropped",
            "(call $log (i32.const 2) (i32.const 0) (i32.const 64))",
        ),
        (
            "publish, refused",
            "(drop (call $publish (i32.const 16) (i32.const 7) (i32.const 0) (i32.const 64)))",
        ),
        (
            "publish_result, 64 bytes",
            "(call $publish_result (i32.const 64) (i32.const 64))",
        ),
        (
            "random, 16 bytes",
            "(call $random (i32.const 64) (i32.const 16))",
        ),
        ("gpio_read", "(drop (call $gpio_read (i32.const 0)))"),
    ] {
        let ns = measure(&mut bench, call) - empty;
        println!("| {name} | {ns:.0} |");
    }
    drop(bench.engine.take_message(Slot(0)));
    println!(
        "\n{} host functions, fastest of {RUNS} runs of {CALLS} calls",
        host_functions::<Threads>().len()
    );
}
