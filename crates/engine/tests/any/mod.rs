//! A guest that can be in any state in which a task is stopped.

use proplet::engine::Value;
use proplet_testing::engine::{Bench, Data};

/// Its first parameter chooses one of [`STATES`], its second the sensor that it reads; the third is
/// its name: messages begin with it, and it returns it where it ends.
pub(crate) const ANY: &str = r#"(module
    (import "env" "sleep_ms" (func $sleep (param i32)))
    (import "env" "timer_start" (func $start (param i32)))
    (import "env" "timer_wait" (func $wait (result i32)))
    (import "env" "sensor_read" (func $read (param i32 i32 i32) (result i32)))
    (import "env" "random" (func $random (param i32 i32)))
    (import "env" "publish" (func $publish (param i32 i32 i32 i32) (result i32)))
    (import "env" "publish_result" (func $result (param i32 i32)))
    (memory 1 1) (data (i32.const 0) "topic")
    (func $say (drop (call $publish (i32.const 0) (i32.const 5) (i32.const 16) (i32.const 100))))
    ;; Measures, and looks whether it is its own measurement.
    (func $measure (param $sensor i32)
        (i64.store (i32.const 8) (i64.const 0))
        (drop (call $read (local.get $sensor) (i32.const 0) (i32.const 8)))
        (if (i64.ne (i64.load (i32.const 8))
                (select (i64.const -1250001) (i64.const 9) (i32.eqz (local.get $sensor))))
            (then (unreachable))))
    (func (export "main") (param $state i32) (param $sensor i32) (param $name i32) (result i32)
        (local $n i32)
        (i32.store (i32.const 16) (local.get $name))
        (call $result (i32.const 0) (i32.const 5))
        (block $8 (block $7 (block $6 (block $5 (block $4 (block $3 (block $2 (block $1 (block $0
            (br_table $0 $1 $2 $3 $4 $5 $6 $7 $8 (local.get $state)))
        (loop (br 0)))
        (call $sleep (i32.const -1)))
        (call $start (i32.const 1)) (loop (drop (call $wait)) (br 0)))
        (loop (call $measure (local.get $sensor)) (br 0)))
        (loop (call $random (i32.const 128) (i32.const 2048)) (br 0)))
        (loop (call $say) (br 0)))
        (call $say) (return (local.get $name)))
        (loop (call $measure (local.get $sensor))
            (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 20))))
        (return (local.get $name)))
        (loop (call $sleep (i32.const 0))
            (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 50))))
        (local.get $name)))"#;

/// Spins, sleeps, waits for a timer, measures, fills memory by the piece, publishes, all without end;
/// publishes once, measures 20 times, sleeps 50 times.
pub(crate) const STATES: u32 = 9;

/// The state in which it sleeps without end.
#[allow(dead_code, reason = "tests/workers.rs takes all states alike")]
pub(crate) const SLEEPS: u32 = 1;

/// The first of the states that end.
#[allow(dead_code, reason = "as SLEEPS")]
pub(crate) const PUBLISHES_ONCE: u32 = 6;

/// Arguments of its `main`.
pub(crate) fn args(state: u32, sensor: u32, name: i32) -> [Value; 3] {
    [state as i32, sensor as i32, name].map(Value::I32)
}

/// Data with all capabilities that it needs.
pub(crate) fn data(bench: &mut Bench) -> Data {
    let caps = "time,timer,random,sensor,publish";
    bench.data(caps, &["an input"], &[("KEY", "value")])
}

/// Numbers from 0 to less than `below`, the same in every run.
pub(crate) fn random() -> impl FnMut(u32) -> u32 {
    let mut random = 0x2545_f491_u32;
    move |below| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random % below
    }
}
