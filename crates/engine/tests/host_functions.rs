//! Host functions, called by guests.

use proplet::{
    engine::{Engine as _, Exit, Failure, Limits, Message, ModuleId, Slot, TaskData, Value},
    task::caps::Cap,
    time::Duration,
};
use proplet_engine::{Channel, PinMode, Platform as _, host_functions};
use proplet_testing::engine::{
    Bench, Data, GUEST_LIMITS, ID, LIMITS, SLOTS, Threads, bench_of, imports, lines, output,
    show_memory, trap,
};
use proptest::{
    prelude::*,
    sample,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};
use std::{sync::atomic::Ordering, thread, time::Instant};
use wamr::Buffer;

const ALL_CAPS: &str = "time,random,timer,publish,subscribe,gpio,sensor";

/// With room for a memory that is full, what its guest says, and gaps.
fn bench() -> std::sync::MutexGuard<'static, Bench> {
    bench_of(SLOTS, 512 * 1024)
}

/// A guest whose `main` is `body`, with four parameters and three locals, and a malloc that starts
/// at 3000. `data` are its segments.
fn guest(data: &str, body: &str) -> String {
    format!(
        r#"(module {} (memory (export "memory") 1 1)
        (global $next (mut i32) (i32.const 3000))
        (func (export "malloc") (param i32) (result i32)
            (global.get $next)
            (global.set $next (i32.add (global.get $next) (local.get 0))))
        (func (export "free") (param i32))
        {data}
        (func (export "main") (param $a i32) (param $b i32) (param $c i32) (param $d i32)
            (result i32) (local $i i32) (local $n i32) (local $t i32)
            {body}))"#,
        imports()
    )
}

fn args(args: [u32; 4]) -> [Value; 4] {
    args.map(|arg| Value::I32(arg.cast_signed()))
}

/// Runs of [`guest`].
trait GuestBench {
    /// Runs a guest with data, and returns its exit; what it publishes is lost.
    fn run_guest(
        &mut self,
        data: Data,
        segments: &str,
        body: &str,
        numbers: [u32; 4],
    ) -> Exit<Buffer>;

    /// The value that a guest with capabilities returns.
    fn value(&mut self, caps: &str, body: &str, numbers: [u32; 4]) -> i32;

    /// The trap of such a guest.
    fn trap(&mut self, caps: &str, segments: &str, body: &str, numbers: [u32; 4]) -> String;
}

impl GuestBench for Bench {
    fn run_guest(
        &mut self,
        data: Data,
        segments: &str,
        body: &str,
        numbers: [u32; 4],
    ) -> Exit<Buffer> {
        self.load(0, &guest(segments, body)).unwrap();
        self.spawn_with(0, &args(numbers), LIMITS, data);
        let exit = self.exit_while(|engine| drop(engine.take_message(Slot(0))));
        self.engine.unload(ModuleId(0));
        exit
    }

    fn value(&mut self, caps: &str, body: &str, numbers: [u32; 4]) -> i32 {
        let data = self.data(caps, &[], &[]);
        let exit = self.run_guest(data, "", body, numbers);
        value(&exit)
    }

    fn trap(&mut self, caps: &str, segments: &str, body: &str, numbers: [u32; 4]) -> String {
        let data = self.data(caps, &[], &[]);
        let exit = self.run_guest(data, segments, body, numbers);
        trap(&exit).to_owned()
    }
}

fn value(exit: &Exit<Buffer>) -> i32 {
    match exit.result {
        Ok(Some(Value::I32(value))) => value,
        ref other => panic!("expected a value, found {other:?}"),
    }
}

/// Publishes as the result what lies at the offset in the guest's memory, so that a test can see it.
const SHOW: &str = "(call $publish_result (i32.load (i32.const 0)) (i32.load (i32.const 4)))";

#[test]
fn a_guest_gets_id_model_and_data_set_in_its_own_memory() {
    let mut bench = bench();
    let before = bench.free();
    for (function, expected) in [
        ("get_proplet_id", ID),
        ("get_model_data", r#"{"w":[1,2]}"#),
        ("get_dataset_data", "é"),
    ] {
        let mut data = TaskData::NONE;
        data.model = Some(bench.copy(br#"{"w":[1,2]}"#));
        data.dataset = Some(bench.copy("é".as_bytes()));
        // The second copy lies right behind the first and its zero.
        let body = format!(
            "(i32.store8 (i32.const 3100) (i32.const 1))
            (call ${function} (i32.const 0) (i32.const 4))
            {SHOW}
            (drop (call ${function} (i32.const 8) (i32.const 12)))
            (i32.add (i32.sub (i32.load (i32.const 8)) (i32.load (i32.const 0)))
                (i32.load8_u (i32.add (i32.load (i32.const 0)) (i32.load (i32.const 4)))))
            (i32.add)"
        );
        let exit = bench.run_guest(data, "", &body, [0; 4]);
        assert_eq!(output(&exit), Some(expected), "{function}");
        assert_eq!(value(&exit), expected.len() as i32 + 1 + 1, "{function}");
    }
    for function in ["get_model_data", "get_dataset_data"] {
        let body = format!(
            "(i32.store (i32.const 4) (i32.const 77))
            (call ${function} (i32.const 0) (i32.const 4))
            {SHOW}"
        );
        let exit = bench.run_guest(TaskData::NONE, "", &body, [0; 4]);
        assert_eq!((output(&exit), value(&exit)), (Some(""), 1), "{function}");
        drop(exit);
    }
    assert_eq!(bench.free(), before);
}

#[test]
fn pointers_for_a_copy_are_checked_before_malloc_is_called() {
    let mut bench = bench();
    let before = bench.free();
    for function in ["get_proplet_id", "get_model_data", "get_dataset_data"] {
        let import = format!(
            r#"(module (import "env" "{function}" (func $get (param i32 i32) (result i32)))
            (memory (export "memory") 1 1)"#
        );
        let main = r#"(func (export "main") (param i32 i32) (result i32)
                (call $get (local.get 0) (local.get 1))))"#;
        let malloc = |body: &str| {
            format!(
                r#"{import} (func (export "malloc") (param i32) (result i32) {body})
                (func (export "free") (param i32)) {main}"#
            )
        };
        let at = |offset: u32, len: u32| [offset, len].map(|at| Value::I32(at.cast_signed()));
        for (offset, len) in [
            (65_533, 0),
            (0, 65_533),
            (u32::MAX, 0),
            (0, u32::MAX),
            (u32::MAX - 3, 0),
            (65_536, 65_536),
        ] {
            let exit = bench.run(&malloc("(unreachable)"), &at(offset, len), LIMITS);
            assert_eq!(trap(&exit), "out of bounds memory access", "{offset} {len}");
        }
        let exit = bench.run(&malloc("(unreachable)"), &at(65_532, 65_532), LIMITS);
        assert_eq!(trap(&exit), "unreachable");
        for wild in ["65535", "65536", "-1", "-2"] {
            let body = format!("(i32.const {wild})");
            let exit = bench.run(&malloc(&body), &at(0, 4), LIMITS);
            // One byte, the zero, is there.
            match (wild, function) {
                ("65535", "get_model_data" | "get_dataset_data") => assert_eq!(value(&exit), 1),
                _ => assert_eq!(trap(&exit), "out of bounds memory access", "{wild}"),
            }
        }
        let exit = bench.run(&malloc("(i32.const 0)"), &at(0, 4), LIMITS);
        assert_eq!(value(&exit), 0);
        let exit = bench.run(&format!("{import} {main}"), &at(0, 4), LIMITS);
        assert_eq!(value(&exit), 0, "it has no malloc");
        // A malloc is a guest: it may call, too, and is on the leash.
        let endless = Limits {
            work: Some(5000),
            ..LIMITS
        };
        let exit = bench.run(&malloc("(loop (br 0)) (unreachable)"), &at(0, 4), endless);
        assert!(trap(&exit).starts_with("work budget of 5000"));
        let deep = malloc("(call $get (i32.const 0) (i32.const 4))");
        let exit = bench.run(&deep, &at(0, 4), LIMITS);
        assert!(trap(&exit).contains("stack overflow"), "{exit:?}");
    }
    assert_eq!(bench.free(), before);
}

#[test]
fn a_guest_reads_its_environment() {
    let mut bench = bench();
    let long = "v".repeat(300);
    let env = [
        ("KEY", "one"),
        ("EMPTY", ""),
        ("é", "ü"),
        ("KEY", "two"),
        ("LONG", &long),
        ("DATASET_DATA", "mine"),
    ];
    let mut get = |key: &[u8], cap: u32| {
        let mut data = bench.data("", &["in"], &env);
        data.model = Some(bench.copy(b"model"));
        data.dataset = Some(bench.copy(b"set"));
        let key_len = key.len() as u32;
        let key: String = key.iter().map(|b| format!("\\{b:02x}")).collect();
        let segments =
            format!(r#"(data (i32.const 100) "{key}") (data (i32.const 200) "........")"#);
        // Bytes behind the first `cap` are as they were.
        let body = "(local.set $n
                (call $get_env (i32.const 100) (local.get $a) (i32.const 200) (local.get $b)))
            (call $publish_result (i32.const 200) (i32.const 8))
            (local.get $n)";
        let exit = bench.run_guest(data, &segments, body, [key_len, cap, 0, 0]);
        (value(&exit), output(&exit).unwrap().to_owned())
    };
    let mut expect = |key: &[u8], cap, len, text: &str| {
        assert_eq!(get(key, cap), (len, text.to_owned()), "{key:?} {cap}");
    };
    expect(b"KEY", 8, 3, "two.....");
    expect(b"KEY", 3, 3, "two.....");
    expect(b"KEY", 2, 3, "tw......");
    expect(b"KEY", 0, 3, "........");
    expect(b"LONG", 5, 300, "vvvvv...");
    expect(b"EMPTY", 8, 0, "........");
    expect("é".as_bytes(), 8, 2, "ü......");
    expect(b"MODEL_DATA", 8, 5, "model...");
    expect(b"DATASET_DATA", 8, 4, "mine....");
    expect(b"PROPLET_ID", 4, ID.len() as i32, "3fe9....");
    for absent in [&b"key"[..], b"", b"KE", b"KEY2", b"\xff\xfe", b"KEY\0"] {
        expect(absent, 8, -1, "........");
    }
}

#[test]
fn a_guest_reads_its_inputs() {
    let mut bench = bench();
    let mut get = |index: u32, cap: u32| {
        let data = bench.data("", &["first", "", "ü"], &[("K", "V")]);
        let segments = r#"(data (i32.const 200) "........")"#;
        let body = "(local.set $n
                (call $get_input (local.get $a) (i32.const 200) (local.get $b)))
            (call $publish_result (i32.const 200) (i32.const 8))
            (local.get $n)";
        let exit = bench.run_guest(data, segments, body, [index, cap, 0, 0]);
        (value(&exit), output(&exit).unwrap().to_owned())
    };
    for (index, cap, len, text) in [
        (0, 8, 5, "first..."),
        (0, 4, 5, "firs...."),
        (0, 0, 5, "........"),
        (1, 8, 0, "........"),
        (2, 2, 2, "ü......"),
        (3, 8, -1, "........"),
        (u32::MAX, 8, -1, "........"),
    ] {
        assert_eq!(get(index, cap), (len, text.to_owned()), "{index} {cap}");
    }
}

#[test]
fn the_last_result_counts_and_has_limits() {
    let mut bench = bench();
    let before = bench.free();
    let segments = r#"(data (i32.const 0) "first, a long one; second; \c3\bc\c3")"#;
    let show =
        |offset, len| format!("(call $publish_result (i32.const {offset}) (i32.const {len}))");
    for (calls, expected) in [
        (vec![], None),
        (vec![(0, 5)], Some("first")),
        (vec![(0, 17), (19, 6)], Some("second")),
        (vec![(19, 6), (0, 17)], Some("first, a long one")),
        (vec![(0, 5), (0, 0)], Some("")),
        (vec![(27, 2)], Some("ü")),
        (vec![(u32::MAX, 0)], Some("")),
        (vec![(0, 0), (0, 5)], Some("first")),
    ] {
        let calls: String = calls.into_iter().map(|(at, len)| show(at, len)).collect();
        let body = format!("{calls} (i32.const 7)");
        let exit = bench.run_guest(TaskData::NONE, segments, &body, [0; 4]);
        assert_eq!((output(&exit), value(&exit)), (expected, 7));
        drop(exit);
        assert_eq!(bench.free(), before);
    }
    let limit = GUEST_LIMITS.result_bytes;
    for (offset, len, text) in [
        (27, 3, "publish_result: byte 2 is not UTF-8"),
        (28, 1, "publish_result: byte 0 is not UTF-8"),
        (
            0,
            limit + 1,
            "publish_result: 513 bytes, and this proplet's limit is 512",
        ),
        (
            0,
            u32::MAX,
            "publish_result: 4294967295 bytes, and this proplet's limit is 512",
        ),
        (65_536 - limit + 1, limit, "out of bounds memory access"),
        (u32::MAX, 1, "out of bounds memory access"),
    ] {
        let body = format!("{} {} (i32.const 7)", show(0, 5), show(offset, len));
        let exit = bench.run_guest(TaskData::NONE, segments, &body, [0; 4]);
        assert_eq!((trap(&exit), output(&exit)), (text, None));
        drop(exit);
        assert_eq!(bench.free(), before, "the result of what failed is gone");
    }
    let all = format!("{} (i32.const 7)", show(65_536 - limit, limit));
    let exit = bench.run_guest(TaskData::NONE, "", &all, [0; 4]);
    assert_eq!(output(&exit).map(str::len), Some(limit as usize));
}

#[test]
fn what_is_not_granted_traps_and_says_so() {
    let mut bench = bench();
    let calls = [
        (Cap::Time, "(drop (call $now_ms))"),
        (Cap::Time, "(call $sleep_ms (i32.const 0))"),
        (Cap::Random, "(call $random (i32.const 0) (i32.const 0))"),
        (Cap::Timer, "(call $timer_start (i32.const 1))"),
        (
            Cap::Timer,
            "(call $timer_start (i32.const 1)) (drop (call $timer_wait))",
        ),
        (Cap::Timer, "(call $timer_stop)"),
        (
            Cap::Publish,
            "(drop (call $publish (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0)))",
        ),
        (
            Cap::Subscribe,
            "(drop (call $subscribe (i32.const 0) (i32.const 1)))",
        ),
        (
            Cap::Subscribe,
            "(drop (call $receive (i32.const 0) (i32.const 0) (i32.const 0)))",
        ),
        (
            Cap::Gpio,
            "(call $gpio_configure (i32.const 0) (i32.const 3))",
        ),
        (
            Cap::Gpio,
            "(call $gpio_configure (i32.const 0) (i32.const 3))
                (call $gpio_write (i32.const 0) (i32.const 0))",
        ),
        (Cap::Gpio, "(drop (call $gpio_read (i32.const 0)))"),
        (
            Cap::Sensor,
            "(drop (call $sensor_read (i32.const 0) (i32.const 0) (i32.const 0)))",
        ),
    ];
    let segments = r#"(data (i32.const 0) "t")"#;
    for (cap, call) in calls {
        let body = format!("{call} (i32.const 1)");
        let others = Cap::ALL.into_iter().filter(|other| *other != cap);
        let others: Vec<&str> = others.map(Cap::name).collect();
        for caps in ["", &others.join(",")] {
            let text = bench.trap(caps, segments, &body, [0; 4]);
            let expected = format!("capability '{}' is not granted: PROPLET_CAPS", cap.name());
            assert_eq!(text, expected, "{call} with {caps}");
        }
        let data = bench.data(cap.name(), &[], &[]);
        let exit = bench.run_guest(data, segments, &body, [0; 4]);
        assert_eq!(value(&exit), 1, "{call}");
    }
}

#[test]
fn a_guest_tells_the_time_and_sleeps() {
    let mut bench = bench();
    let platform = bench.workers.platform();
    platform.set_clock(Some(Duration::from_micros(5_000_000_700)));
    let body = "(i32.wrap_i64 (i64.sub (call $now_ms) (i64.const 5000000)))";
    assert_eq!(bench.value("time", body, [0; 4]), 0);
    let sleep = "(call $sleep_ms (local.get $a))
        (i32.wrap_i64 (i64.sub (call $now_ms) (i64.const 5000000)))";
    assert_eq!(bench.value("time", sleep, [0; 4]), 0);
    assert_eq!(bench.value("time", sleep, [1234, 0, 0, 0]), 1234);
    assert_eq!(bench.value("time", sleep, [u32::MAX, 0, 0, 0]), 1233);
}

#[test]
fn a_timer_counts_how_often_it_expired() {
    let mut bench = bench();
    let platform = bench.workers.platform();
    platform.set_clock(Some(Duration::from_secs(1)));
    // Waits, is late by 25 ms, and waits again: 1, then 3 at once, then 1 at the period's next end.
    let body = "(call $timer_start (i32.const 10))
        (local.set $n (i32.mul (i32.const 1000000) (call $timer_wait)))
        (call $sleep_ms (i32.const 35))
        (local.set $n (i32.add (local.get $n) (i32.mul (i32.const 100000) (call $timer_wait))))
        (local.set $n (i32.add (local.get $n) (i32.mul (i32.const 10000) (call $timer_wait))))
        (i32.add (local.get $n) (i32.wrap_i64 (call $now_ms)))";
    assert_eq!(bench.value("timer,time", body, [0; 4]), 1_311_050);
    // Starting anew counts from then.
    let again = "(call $timer_start (i32.const 10)) (call $sleep_ms (i32.const 25))
        (call $timer_start (i32.const 100)) (drop (call $timer_wait))
        (i32.wrap_i64 (call $now_ms))";
    platform.set_clock(Some(Duration::from_secs(1)));
    assert_eq!(bench.value("timer,time", again, [0; 4]), 1125);
    let text = bench.trap("timer", "", "(call $timer_wait)", [0; 4]);
    assert_eq!(text, "timer_wait: no timer runs, call timer_start first");
    let stopped = "(call $timer_start (i32.const 1)) (call $timer_stop) (call $timer_stop)
        (call $timer_wait)";
    assert!(
        bench
            .trap("timer", "", stopped, [0; 4])
            .starts_with("timer_wait: no timer")
    );
    let text = bench.trap(
        "timer",
        "",
        "(call $timer_start (i32.const 0)) (i32.const 0)",
        [0; 4],
    );
    assert_eq!(text, "timer_start: a period of 0 ms, expected 1 or more");
}

#[test]
fn random_fills_exactly_what_is_asked() {
    let mut bench = bench();
    // Counts the bytes that are not 0 from 0 to $c.
    let body = "(call $random (local.get $a) (local.get $b))
        (loop $next
            (local.set $n (i32.add (local.get $n)
                (i32.ne (i32.load8_u (local.get $i)) (i32.const 0))))
            (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
                (local.get $c))))
        (local.get $n)";
    let mut filled = |offset, len| bench.value("random", body, [offset, len, 65_536, 0]);
    let half = filled(100, 32_768);
    assert!((32_500..=32_768).contains(&half), "{half}");
    assert!((65_000..=65_536).contains(&filled(0, 65_536)));
    assert!((0..=1).contains(&filled(65_535, 1)));
    assert_eq!(filled(65_536, 0), 0);
    for (offset, len) in [
        (65_535, 2),
        (0, 65_537),
        (u32::MAX, 1),
        (u32::MAX, 2),
        (1, u32::MAX),
    ] {
        let text = bench.trap("random", "", body, [offset, len, 1, 0]);
        assert_eq!(text, "out of bounds memory access");
    }
    // It costs work: what asks for much does not get more turns than others.
    let data = bench.data("random", &[], &[]);
    let exit = bench.run_guest(
        data,
        "",
        "(call $random (i32.const 0) (i32.const 8000)) (i32.const 0)",
        [0; 4],
    );
    assert_eq!(exit.usage.work, 1 + 500);
}

/// A message of a guest, as text.
fn said(message: &Message<Buffer>) -> String {
    match message {
        Message::Publish { bytes, topic_len } => {
            let (topic, payload) = bytes.split_at(*topic_len);
            format!(
                "{} {}",
                String::from_utf8_lossy(topic),
                String::from_utf8_lossy(payload)
            )
        }
        Message::Subscribe { filter } => format!("? {}", String::from_utf8_lossy(filter)),
    }
}

const TOPIC: &str = r#"(data (i32.const 0) "a/topic") (data (i32.const 16) "payload") (data (i32.const 32) "a/+/#")"#;
const PUBLISH: &str = "(call $publish (i32.const 0) (i32.const 7) (i32.const 16) (i32.const 7))";

#[test]
fn a_guest_says_one_thing_after_the_other() {
    let mut bench = bench();
    let platform = bench.workers.platform();
    platform.set_clock(Some(Duration::from_secs(100)));
    let before = bench.free();
    let body = format!(
        "(local.set $n {PUBLISH})
        ;; The one before has not been taken, and this does not count as dropped.
        (local.set $n (i32.add (local.get $n) (i32.mul (i32.const 10) {PUBLISH})))
        (loop $again (br_if $again (i32.eqz (call $subscribe (i32.const 32) (i32.const 5)))))
        (loop $again (br_if $again
            (i32.eqz (call $publish (i32.const 0) (i32.const 1) (i32.const -1) (i32.const 0)))))
        (local.get $n)"
    );
    bench.load(0, &guest(TOPIC, &body)).unwrap();
    let data = bench.data("publish,subscribe", &[], &[]);
    bench.spawn_with(0, &args([0; 4]), LIMITS, data);
    // It can't go on.
    thread::sleep(Duration::from_millis(20));
    let mut all = Vec::new();
    let exit = bench.exit_while(|engine| {
        assert!(engine.take_message(Slot(1)).is_none());
        all.extend(engine.take_message(Slot(0)).as_ref().map(said));
    });
    assert_eq!(all, ["a/topic payload", "? a/+/#", "a "]);
    assert_eq!((value(&exit), exit.usage.dropped), (1, 0));
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
}

#[test]
fn a_last_message_is_there_until_the_exit_is_taken() {
    let mut bench = bench();
    let before = bench.free();
    bench.load(0, &guest(TOPIC, PUBLISH)).unwrap();
    for is_heard in [true, false, true] {
        let data = bench.data("publish", &[], &[]);
        bench.spawn_with(0, &args([0; 4]), LIMITS, data);
        while !bench.engine.has_exited(Slot(0)) {
            thread::yield_now();
        }
        if is_heard {
            let (slot, message) = bench.engine.poll_message().expect("it has spoken");
            assert_eq!((slot, &*said(&message)), (Slot(0), "a/topic payload"));
            assert!(bench.engine.take_message(Slot(0)).is_none());
        }
        assert_eq!(value(&bench.exit()), 1);
        assert!(bench.engine.take_message(Slot(0)).is_none());
        assert!(bench.engine.poll_message().is_none());
    }
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
}

#[test]
fn messages_have_limits() {
    let mut bench = bench();
    let publish = "(call $publish (local.get $a) (local.get $b) (local.get $c) (local.get $d))";
    let segments = r#"(data (i32.const 0) "ok$no/no+control/x\00\ff")"#;
    let limit = GUEST_LIMITS.message_bytes;
    for (numbers, text) in [
        ([0, 0, 0, 0], "publish: the topic is empty"),
        (
            [2, 3, 0, 0],
            "publish: a topic does not begin with '/' or '$'",
        ),
        (
            [3, 6, 0, 0],
            "publish: a topic to publish on has no wildcards",
        ),
        (
            [9, 9, 0, 0],
            "publish: topics in control, registry and fl are not a guest's",
        ),
        ([0, 129, 0, 0], "publish: byte 19 is not UTF-8"),
        ([20, 129, 0, 0], "publish: the topic has more than 96 bytes"),
        (
            [18, 1, 0, 0],
            "publish: a topic has no control characters and no non-characters",
        ),
        (
            [0, 2, 0, limit - 1],
            "publish: 4201 bytes of topic and payload, and this proplet's limit is 4200",
        ),
        ([0, 2, 65_536, 1], "out of bounds memory access"),
        ([0, 2, 1, u32::MAX], "out of bounds memory access"),
        ([65_535, 2, 0, 0], "out of bounds memory access"),
        ([u32::MAX, 1, 0, 0], "out of bounds memory access"),
    ] {
        assert_eq!(bench.trap("publish", segments, publish, numbers), text);
    }
    assert_eq!(
        bench.value(
            "publish",
            &format!("(i32.store8 (i32.const 0) (i32.const 97)) {publish}"),
            [0, 1, 1, limit - 1]
        ),
        1
    );
    let subscribe = "(call $subscribe (local.get $a) (local.get $b))";
    let segments = r#"(data (i32.const 0) "+/aa/#/ba/b+control/#\ff")"#;
    for (numbers, text) in [
        ([0, 0, 0, 0], "subscribe: the topic is empty"),
        (
            [0, 3, 0, 0],
            "subscribe: a filter's first level has no wildcards",
        ),
        ([3, 5, 0, 0], "subscribe: '#' is the last level"),
        ([8, 4, 0, 0], "subscribe: a wildcard is a level of its own"),
        (
            [12, 9, 0, 0],
            "subscribe: topics in control, registry and fl are not a guest's",
        ),
        ([20, 2, 0, 0], "subscribe: byte 1 is not UTF-8"),
        ([65_536, 1, 0, 0], "out of bounds memory access"),
    ] {
        assert_eq!(bench.trap("subscribe", segments, subscribe, numbers), text);
    }
}

/// Waits until the test has begun to listen: what it has delivered before is there then.
const MEET: &str = "(drop (call $subscribe (i32.const 32) (i32.const 5)))
    (loop $again (br_if $again (i32.eqz (call $subscribe (i32.const 32) (i32.const 5)))))";

#[test]
fn a_guest_receives_what_is_delivered() {
    let mut bench = bench();
    let before = bench.free();
    let receive = "(call $receive (i32.const 100) (local.get $a) (i32.const 60))";
    let segments = r#"(data (i32.const 32) "a/+/#")
        (data (i32.const 100) "................") (data (i32.const 60) "\09")"#;
    // Receives, the last time with its result: the length, and 1000 times the topic's.
    let mut receive = |times: usize, cap: u32, messages: &[(&str, &[u8])]| {
        let body = format!(
            "{MEET} {} (local.set $n {receive})
            (call $publish_result (i32.const 100) (i32.const 16))
            (i32.add (local.get $n) (i32.mul (i32.const 1000) (i32.load (i32.const 60))))",
            format!("(drop {receive})").repeat(times - 1)
        );
        bench.load(0, &guest(segments, &body)).unwrap();
        let data = bench.data("subscribe", &[], &[]);
        bench.spawn_with(0, &args([cap, 0, 0, 0]), LIMITS, data);
        for (topic, payload) in messages {
            bench.engine.deliver(Slot(0), topic, payload);
        }
        let exit = bench.exit_while(|engine| drop(engine.take_message(Slot(0))));
        bench.engine.unload(ModuleId(0));
        let shown = output(&exit).unwrap().to_owned();
        let result = (value(&exit), shown, exit.usage.dropped);
        drop(exit);
        assert_eq!(bench.free(), before, "what was not received is gone");
        result
    };
    let hello = ("a/b", &b"hello"[..]);
    let result = |n, text: &str, dropped| (n, text.to_owned(), dropped);
    let none = "................";
    assert_eq!(receive(1, 16, &[]), result(8999, none, 0));
    assert_eq!(
        receive(1, 16, &[hello]),
        result(3008, "a/bhello........", 0)
    );
    assert_eq!(receive(1, 8, &[hello]), result(3008, "a/bhello........", 0));
    assert_eq!(receive(2, 8, &[hello]), result(2999, "a/bhello........", 0));
    // One that doesn't fit stays; its lengths are told.
    assert_eq!(receive(3, 7, &[hello]), result(3008, none, 0));
    assert_eq!(receive(1, 0, &[hello]), result(3008, none, 0));
    // In order, and none need be left.
    let two = [hello, ("x", b"yz")];
    assert_eq!(receive(2, 16, &two), result(1003, "xyzhello........", 0));
    assert_eq!(receive(1, 16, &two), result(3008, "a/bhello........", 0));
    // The inbox has four; what comes then is counted.
    let six = [hello, hello, hello, ("4", b"4"), hello, hello];
    assert_eq!(receive(4, 16, &six), result(1002, "44bhello........", 2));
    let limit = GUEST_LIMITS.message_bytes as usize;
    let (large, too_large) = (vec![b'x'; limit - 1], vec![b'x'; limit]);
    let large = receive(1, 16, &[("t", &large)]);
    assert_eq!(large, result(1000 + limit as i32, none, 0));
    let dropped = receive(1, 16, &[("t", &too_large), hello]);
    assert_eq!(dropped, result(3008, "a/bhello........", 1));
    // Pointers are looked at also where there is nothing to be written.
    let receive = "(call $receive (local.get $a) (local.get $b) (local.get $c))";
    for numbers in [
        [0, 0, 65_533, 0],
        [0, 0, u32::MAX, 0],
        [65_535, 2, 0, 0],
        [8, u32::MAX, 0, 0],
    ] {
        let text = bench.trap("subscribe", "", receive, numbers);
        assert_eq!(text, "out of bounds memory access", "{numbers:?}");
    }
    assert_eq!(
        bench.value("subscribe", receive, [65_536, 0, 65_532, 0]),
        -1
    );
    // It is neither heard nor counted.
    bench.engine.deliver(Slot(0), "a", b"b");
    assert_eq!((bench.free(), bench.usage(0).dropped), (before, 0));
}

#[test]
fn messages_that_the_arena_has_no_room_for_are_dropped() {
    let mut bench = bench();
    let before = bench.free();
    bench
        .load(0, &guest(TOPIC, &format!("{MEET} {PUBLISH}")))
        .unwrap();
    let data = bench.data("publish,subscribe", &[], &[]);
    bench.spawn_with(0, &args([0; 4]), LIMITS, data);
    // It is in the middle of its work, and the arena is full.
    thread::sleep(Duration::from_millis(20));
    let mut hoard = hoard(&mut bench);
    bench.engine.deliver(Slot(0), "topic/a", &[7; 64]);
    assert_eq!(bench.usage(0).dropped, 1);
    let mut heard = Vec::new();
    let mut dropped = 0;
    let exit = bench.exit_while(|engine| {
        if let Some(message) = engine.take_message(Slot(0)) {
            heard.push(said(&message));
            // The room that the message had is taken, too.
            drop(message);
            while let Ok(taken) = engine.allocate(8) {
                hoard.push(taken);
            }
        }
        dropped = engine.usage(Slot(0)).dropped;
        if dropped > 10 {
            hoard.clear();
        }
    });
    assert!(heard.len() <= 3 && heard[0] == "? a/+/#", "{heard:?}");
    assert!(exit.usage.dropped >= 2, "{exit:?}");
    drop((exit, hoard));
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
}

#[test]
fn a_result_needs_room() {
    let mut bench = bench();
    let before = bench.free();
    // It waits for the test, which sets a pin.
    let body = "(loop $again (br_if $again (i32.eqz (call $gpio_read (i32.const 0)))))
        (call $publish_result (i32.const 0) (i32.const 8)) (i32.const 1)";
    bench.load(0, &guest(TOPIC, body)).unwrap();
    for takes_all in [true, false] {
        let platform = bench.workers.platform();
        platform.gpio_configure(0, PinMode::Output).unwrap();
        let data = bench.data("gpio", &[], &[]);
        bench.spawn_with(0, &args([0; 4]), LIMITS, data);
        let mut hoard = hoard(&mut bench);
        if !takes_all {
            hoard.truncate(1);
        }
        platform.gpio_write(0, true).unwrap();
        let exit = bench.exit();
        match takes_all {
            true => assert_eq!(
                trap(&exit),
                "publish_result: the arena has no room for 8 bytes"
            ),
            false => assert_eq!(output(&exit), Some("a/topic\0")),
        }
    }
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
}

/// Everything that the arena has.
fn hoard(bench: &mut Bench) -> Vec<Buffer> {
    let mut hoard = Vec::new();
    for len in [4096, 256, 4] {
        while let Ok(taken) = bench.engine.allocate(len) {
            hoard.push(taken);
        }
    }
    hoard
}

#[test]
fn pins_are_the_boards() {
    let mut bench = bench();
    // The level that is read back, of a pin that was configured and written.
    let body = "(call $gpio_configure (local.get $a) (local.get $b))
        (if (i32.eq (local.get $b) (i32.const 3))
            (then (call $gpio_write (local.get $a) (local.get $c))))
        (call $gpio_read (local.get $a))";
    for (numbers, level) in [
        ([0, 3, 1, 0], 1),
        ([0, 3, 0, 0], 0),
        ([2, 3, u32::MAX, 0], 1),
        ([1, 0, 0, 0], 0),
        ([1, 1, 0, 0], 1),
        ([1, 2, 0, 0], 0),
    ] {
        assert_eq!(bench.value("gpio", body, numbers), level, "{numbers:?}");
    }
    for (numbers, text) in [
        ([4, 0, 0, 0], "gpio_configure: the board has no pin 4"),
        (
            [u32::MAX, 3, 0, 0],
            "gpio_configure: the board has no pin 4294967295",
        ),
        ([0, 4, 0, 0], "gpio_configure: mode 4, expected 0 to 3"),
        (
            [0, u32::MAX, 0, 0],
            "gpio_configure: mode 4294967295, expected 0 to 3",
        ),
        ([3, 3, 0, 0], "gpio_configure: pin 3 can't do that"),
    ] {
        assert_eq!(bench.trap("gpio", "", body, numbers), text);
    }
    let write = "(call $gpio_configure (i32.const 0) (i32.const 0))
        (call $gpio_write (local.get $a) (i32.const 1)) (i32.const 0)";
    let text = bench.trap("gpio", "", write, [9, 0, 0, 0]);
    assert_eq!(text, "gpio_write: the board has no pin 9");
    assert_eq!(
        bench.trap("gpio", "", write, [0; 4]),
        "gpio_write: pin 0 can't do that"
    );
    let text = bench.trap("gpio", "", "(call $gpio_read (i32.const 4))", [0; 4]);
    assert_eq!(text, "gpio_read: the board has no pin 4");
}

#[test]
fn sensors_measure_in_millionths() {
    let mut bench = bench();
    let body = "(i64.store (i32.const 0) (i64.const 7))
        (local.set $n (call $sensor_read (local.get $a) (local.get $b) (i32.const 0)))
        (i32.add (i32.mul (local.get $n) (i32.const 100))
            (i32.wrap_i64 (i64.add (i64.load (i32.const 0)) (i64.const 1250001))))";
    assert_eq!(bench.value("sensor", body, [0; 4]), 100);
    // Not now: the guest's memory is as it was.
    let voltage = Channel::Voltage.number();
    assert_eq!(bench.value("sensor", body, [1, voltage, 0, 0]), 1_250_008);
    for (sensor, channel) in [(2, 0), (0, 1), (0, 8), (0, u32::MAX), (u32::MAX, 0)] {
        let text = bench.trap("sensor", "", body, [sensor, channel, 0, 0]);
        let expected =
            format!("sensor_read: the board has no sensor {sensor} with channel {channel}");
        assert_eq!(text, expected);
    }
    let at = "(call $sensor_read (i32.const 0) (i32.const 0) (local.get $a))";
    for out in [65_529, 65_536, u32::MAX, u32::MAX - 7] {
        let text = bench.trap("sensor", "", at, [out, 0, 0, 0]);
        assert_eq!(text, "out of bounds memory access");
    }
    assert_eq!(bench.value("sensor", at, [65_528, 0, 0, 0]), 1);
    for (number, channel) in Channel::ALL.into_iter().enumerate() {
        assert_eq!(channel.number() as usize, number);
        assert_eq!(Channel::from_number(number as u32), Some(channel));
    }
}

#[test]
fn a_guest_logs() {
    let mut bench = bench();
    bench
        .workers
        .platform()
        .set_clock(Some(Duration::from_secs(7)));
    lines();
    let body = "(call $log (local.get $a) (local.get $b) (local.get $c)) (i32.const 0)";
    let segments = r#"(data (i32.const 0) "Gr\c3\bc\c3\9fe\1b[2J\ff\0aend")"#;
    let mut log = |level, offset, len| {
        let exit = bench.run_guest(TaskData::NONE, segments, body, [level, offset, len, 0]);
        (lines(), exit)
    };
    for (level, name) in [(0, "ERROR"), (1, "WARN"), (2, "INFO"), (3, "DEBUG")] {
        let (lines, exit) = log(level, 0, 16);
        assert_eq!(value(&exit), 0);
        assert_eq!(
            lines,
            [format!("{name} slot 0: Grüße\u{fffd}[2J\u{fffd} end")]
        );
    }
    let (lines, exit) = log(2, 100, 60_000);
    assert_eq!(lines, [format!("INFO slot 0: {}…", "\u{fffd}".repeat(160))]);
    assert_eq!(exit.usage.dropped, 0);
    // It would not be read: it is neither logged nor counted.
    let (lines, exit) = log(4, 0, 16);
    assert_eq!((lines.len(), exit.usage.dropped), (0, 0));
    assert_eq!(log(2, u32::MAX, 0).0, ["INFO slot 0: "]);
    for (level, offset, len, text) in [
        (5, 0, 1, "log: level 5, expected 0 to 4"),
        (u32::MAX, 0, 1, "log: level 4294967295, expected 0 to 4"),
        (2, 65_530, 7, "out of bounds memory access"),
        (4, 65_536, 1, "out of bounds memory access"),
        (2, 2, u32::MAX, "out of bounds memory access"),
    ] {
        let (lines, exit) = log(level, offset, len);
        assert_eq!((trap(&exit), lines.len()), (text, 0));
    }
}

/// Calls something 50,000 times, and returns how often it gave 1.
fn flood(call: &str) -> String {
    format!(
        "(loop $next
            (local.set $n (i32.add (local.get $n) {call}))
            (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
                (i32.const 50000))))
        (local.get $n)"
    )
}

#[test]
fn floods_are_dammed() {
    let mut bench = bench();
    let before = bench.free();
    bench
        .workers
        .platform()
        .set_clock(Some(Duration::from_secs(50)));
    lines();
    // 200 bytes a second: four lines of 34 and 16.
    let log = flood("(i32.const 1) (call $log (i32.const 2) (i32.const 0) (i32.const 34))");
    let exit = bench.run_guest(TaskData::NONE, "", &log, [0; 4]);
    assert_eq!((lines().len(), exit.usage.dropped), (4, 49_996));
    let empty = flood("(i32.const 1) (call $log (i32.const 2) (i32.const 0) (i32.const 0))");
    let exit = bench.run_guest(TaskData::NONE, "", &empty, [0; 4]);
    assert_eq!((lines().len(), exit.usage.dropped), (12, 49_988));

    // Without a reader there is one message; then, `messages` a second.
    let most = GUEST_LIMITS.messages as usize;
    bench.load(0, &guest(TOPIC, &flood(PUBLISH))).unwrap();
    let data = bench.data("publish", &[], &[]);
    bench.spawn_with(0, &args([0; 4]), LIMITS, data);
    let exit = bench.exit();
    assert_eq!((value(&exit), exit.usage.dropped), (1, 0));
    let (mut heard, mut taken) = (0, 0);
    let mut data = bench.data("publish,subscribe", &[], &[]);
    data.model = Some(bench.copy(b"beside it"));
    bench.engine.unload(ModuleId(0));
    let endless = format!(
        "(loop $next {PUBLISH} (call $subscribe (i32.const 32) (i32.const 5)) drop drop
            (br $next)) (i32.const 0)"
    );
    bench.load(0, &guest(TOPIC, &endless)).unwrap();
    bench.spawn_with(0, &args([0; 4]), LIMITS, data);
    let exit = bench.exit_while(|engine| {
        heard += usize::from(engine.take_message(Slot(0)).is_some());
        taken += usize::from(heard == most);
        if taken == 100 {
            engine.interrupt(Slot(0));
        }
    });
    assert_eq!((heard, &exit.result), (most, &Err(Failure::Interrupted)));
    assert!(exit.usage.dropped > 100, "{exit:?}");
    bench.engine.unload(ModuleId(0));

    let result = flood(
        "(i32.const 1) (call $publish_result (i32.const 0) (i32.and (local.get $i) (i32.const 63)))",
    );
    bench.load(0, &guest("", &result)).unwrap();
    let free = bench.free();
    bench.spawn(0, &args([0; 4]), LIMITS);
    let mut least = free - 1;
    let exit = bench.exit_while(|engine| {
        least = least.min(engine.arena().free);
    });
    assert_eq!(output(&exit).map(str::len), Some(49_999 % 64));
    assert!(
        free - least < 77_000,
        "a result takes one block: {least} of {free}"
    );
    bench.engine.unload(ModuleId(0));
    drop(exit);
    assert_eq!(bench.free(), before);
}

#[test]
fn who_sleeps_is_stopped_at_once() {
    let mut bench = bench();
    let before = bench.free();
    let sleep = "(call $sleep_ms (i32.const -1)) (i32.const 0)";
    let timer = "(call $timer_start (i32.const 100000)) (call $timer_wait)";
    for body in [sleep, timer] {
        bench.load(0, &guest("", body)).unwrap();
        for slot in 0..4 {
            let data = bench.data("time,timer", &["in"], &[("K", "V")]);
            bench.spawn_with(slot, &args([0; 4]), LIMITS, data);
        }
        thread::sleep(Duration::from_millis(30));
        for slot in 0..4 {
            assert!(bench.engine.exited().is_none());
            let asked = Instant::now();
            bench.engine.interrupt(Slot(slot));
            let exit = bench.exit();
            assert!(
                asked.elapsed() < Duration::from_millis(50),
                "{:?}",
                asked.elapsed()
            );
            assert_eq!(
                (exit.slot, exit.result),
                (Slot(slot), Err(Failure::Interrupted))
            );
            assert!(exit.usage.work < 10, "it has slept: {:?}", exit.usage);
        }
        // One that is interrupted before it sleeps does not.
        let data = bench.data("time,timer", &[], &[]);
        bench.spawn_with(0, &args([0; 4]), LIMITS, data);
        bench.engine.interrupt(Slot(0));
        assert_eq!(bench.exit().result, Err(Failure::Interrupted));
        bench.engine.unload(ModuleId(0));
    }
    assert_eq!(bench.free(), before);
}

#[test]
fn sleep_takes_its_time() {
    let mut bench = bench();
    // A wake in vain does not shorten the next sleep.
    bench.engine.interrupt(Slot(0));
    let began = Instant::now();
    let body = "(call $sleep_ms (i32.const 40)) (i32.const 1)";
    assert_eq!(bench.value("time", body, [0; 4]), 1);
    assert!(began.elapsed() >= Duration::from_millis(40));
    let timer = "(call $timer_start (i32.const 5))
        (loop $next (local.set $n (i32.add (local.get $n) (call $timer_wait)))
            (br_if $next (i32.lt_s (local.get $n) (i32.const 8))))
        (local.get $n)";
    let began = Instant::now();
    assert!(bench.value("timer", timer, [0; 4]) >= 8);
    assert!(began.elapsed() >= Duration::from_millis(40));
}

#[test]
fn a_run_that_cannot_begin_gives_its_data_back() {
    let mut bench = bench();
    let before = bench.free();
    let wat = r#"(module (memory 1 1) (data (i32.const 65530) "too far out")
        (func (export "main")))"#;
    bench.load(0, wat).unwrap();
    let mut data = bench.data("time", &["in"], &[]);
    data.model = Some(bench.copy(&[0; 1000]));
    let reason = bench.call(0, "main", &[], LIMITS, data).unwrap_err();
    let text = "out of bounds memory access: data segment 0 ends at 65541, the memory at 65536";
    assert_eq!(reason, text);
    let missing = bench.call(0, "other", &[], LIMITS, Data::NONE).unwrap_err();
    assert_eq!(missing, text);
    assert_eq!(bench.engine.exited(), None);
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
}

// Every function with any arguments: a model of what it does to the guest's memory, against what it
// does.

/// The guest's memory in these tests, in bytes.
const MEMORY: usize = 65_536;
/// Where its malloc begins.
const HEAP: u32 = 3000;
/// Offsets in it of things that a call may need.
const KNOWN: [(u32, &str); 6] = [
    (16, "KEY"),
    (32, "sensors/one"),
    (64, "sensors/+/#"),
    (96, "a line of log: Grüße"),
    (128, "control/x"),
    (160, "LONG"),
];
const LONG: &str = "a value that is longer than the buffers of most calls here are";
const INCOMING: (&str, &[u8]) = ("sensors/two", b"21.5");

/// The effect of a call.
#[derive(Debug)]
enum Effect {
    Trap,
    /// Returns a number, or any, with bytes of any value: their offset and number.
    Done(Option<i32>, u32, u32),
}

fn image() -> Vec<u8> {
    let mut image: Vec<u8> = (0..MEMORY).map(|i| (i * 7 + i / 256) as u8).collect();
    for (at, text) in KNOWN {
        image[at as usize..][..text.len()].copy_from_slice(text.as_bytes());
    }
    image
}

/// A guest's memory as a call sees it.
struct Model<'m>(&'m mut [u8]);

impl Model<'_> {
    fn read(&self, at: u32, len: u32) -> Option<Vec<u8>> {
        if len == 0 {
            return Some(Vec::new());
        }
        let end = u64::from(at) + u64::from(len);
        (end <= self.0.len() as u64).then(|| self.0[at as usize..end as usize].to_vec())
    }

    fn write(&mut self, at: u32, bytes: &[u8]) -> Option<()> {
        self.read(at, bytes.len() as u32)?;
        if !bytes.is_empty() {
            self.0[at as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        Some(())
    }

    fn put(&mut self, value: Option<&str>, at: u32, cap: u32) -> Option<Effect> {
        self.read(at, cap)?;
        let Some(value) = value else {
            return Some(Effect::Done(Some(-1), 0, 0));
        };
        let len = value.len().min(cap as usize);
        self.write(at, &value.as_bytes()[..len])?;
        Some(Effect::Done(Some(value.len() as i32), 0, 0))
    }

    fn copy(&mut self, text: &str, [offset, len, ..]: [u32; 4]) -> Option<Effect> {
        self.read(offset, 4)?;
        self.read(len, 4)?;
        self.write(HEAP, &[text.as_bytes(), &[0]].concat())?;
        self.write(offset, &HEAP.to_le_bytes())?;
        self.write(len, &(text.len() as u32).to_le_bytes())?;
        Some(Effect::Done(Some(1), 0, 0))
    }

    fn text(&self, at: u32, len: u32) -> Option<String> {
        String::from_utf8(self.read(at, len)?).ok()
    }

    /// `None` is a trap.
    fn call(&mut self, name: &str, args: [u32; 4]) -> Option<Effect> {
        let [a, b, c, d] = args;
        let done = |value: i32| Some(Effect::Done(Some(value), 0, 0));
        let any = Some(Effect::Done(None, 0, 0));
        match name {
            "get_proplet_id" => self.copy(ID, args),
            "get_model_data" => self.copy("the model", args),
            "get_dataset_data" => self.copy("", args),
            "get_env" => {
                let key = self.read(a, b)?;
                let value = match &key[..] {
                    b"KEY" => Some("value"),
                    b"LONG" => Some(LONG),
                    _ => None,
                };
                self.put(value, c, d)
            }
            "get_input" => self.put(["one", "", LONG].get(a as usize).copied(), b, c),
            "publish_result" => {
                self.text(a, b)
                    .filter(|text| text.len() <= GUEST_LIMITS.result_bytes as usize)?;
                any
            }
            "log" => self.read(b, c).filter(|_| a <= 4).and(any),
            "now_ms" | "timer_stop" => any,
            "sleep_ms" => any,
            "timer_start" => (a > 0).then_some(()).and(any),
            "timer_wait" => None,
            "random" => {
                self.read(a, b)?;
                Some(Effect::Done(None, a, b))
            }
            "publish" => {
                let topic = self.text(a, b)?;
                proplet::wire::check_guest_topic(&topic).ok()?;
                self.read(c, d)?;
                ((topic.len() + d as usize) <= GUEST_LIMITS.message_bytes as usize).then_some(())?;
                any
            }
            "subscribe" => {
                proplet::wire::check_guest_filter(&self.text(a, b)?).ok()?;
                any
            }
            "receive" => {
                self.read(a, b)?;
                self.read(c, 4)?;
                let message = [INCOMING.0.as_bytes(), INCOMING.1].concat();
                if message.len() <= b as usize {
                    self.write(a, &message)?;
                }
                self.write(c, &(INCOMING.0.len() as u32).to_le_bytes())?;
                done(message.len() as i32)
            }
            "gpio_configure" => (a < 4 && b < 4 && (a, b) != (3, 3)).then_some(()).and(any),
            // The pins may be what any call before has made of them.
            "gpio_write" => Some(Effect::Done(None, u32::MAX, 0)).filter(|_| a < 4),
            "gpio_read" => (a < 4).then_some(()).and(any),
            "sensor_read" => {
                self.read(c, 8)?;
                match (a, b) {
                    (0, 0) => self.write(c, &(-1_250_001_i64).to_le_bytes()).and(done(1)),
                    (1, 7) => done(0),
                    _ => None,
                }
            }
            other => panic!("no model of {other}"),
        }
    }
}

/// Says something, waits until the test listens, calls function `$f` with any arguments, and shows
/// the test its memory and its result.
fn caller() -> String {
    let functions = host_functions::<Threads>();
    let arms = functions.iter().enumerate().map(|(i, function)| {
        let name = function.name.to_str().unwrap();
        let signature = function.signature.to_str().unwrap();
        let (params, result) = signature[1..].split_once(')').unwrap();
        let args: String = ["$a", "$b", "$c", "$d"][..params.len()]
            .iter()
            .map(|arg| format!("(local.get {arg})"))
            .collect();
        let call = match result {
            "i" => format!("(local.set $n (call ${name} {args}))"),
            "I" => format!("(local.set $n (i32.wrap_i64 (call ${name} {args})))"),
            _ => format!("(call ${name} {args})"),
        };
        format!("(if (i32.eq (local.get $f) (i32.const {i})) (then {call}))")
    });
    let arms: String = arms.collect();
    let image: String = image().iter().map(|byte| format!("\\{byte:02x}")).collect();
    format!(
        r#"(module {} (memory (export "memory") 1 1)
        (func (export "malloc") (param i32) (result i32) (i32.const {HEAP}))
        (func (export "free") (param i32))
        (data (i32.const 0) "{image}")
        (func (export "main") (param $f i32) (param $a i32) (param $b i32) (param $c i32)
            (param $d i32) (param $topic i32) (result i32) (local $n i32) (local $at i32)
            (drop (call $subscribe (i32.const 64) (i32.const 11)))
            (loop $again
                (br_if $again (i32.eqz (call $subscribe (i32.const 64) (i32.const 11)))))
            {arms}
            {}
            (local.get $n)))"#,
        imports(),
        show_memory(MEMORY)
    )
}

/// Fills what is free of the arena but for gaps, where runs and what they say find their place.
fn canaries(bench: &mut Bench) -> Vec<Buffer> {
    let mut all = Vec::new();
    while let Ok(mut canary) = bench.engine.allocate(1500) {
        canary.fill(0x5a);
        all.push(canary);
    }
    let gaps = all
        .into_iter()
        .enumerate()
        .filter(|(i, _)| (i / 9) % 2 == 0);
    gaps.map(|(_, canary)| canary).collect()
}

fn any_arg() -> impl Strategy<Value = u32> {
    let memory = MEMORY as u32;
    let edges = [
        0,
        1,
        2,
        3,
        4,
        7,
        8,
        128,
        129,
        512,
        513,
        4200,
        HEAP - 1,
        HEAP,
        HEAP + 1,
        memory - 8,
        memory - 4,
        memory - 1,
        memory,
        memory + 1,
        65_535,
        65_536,
        1 << 31,
        u32::MAX - 7,
        u32::MAX - 3,
        u32::MAX - 1,
        u32::MAX,
    ];
    let known: Vec<u32> = KNOWN
        .iter()
        .flat_map(|(at, text)| [*at, text.len() as u32])
        .collect();
    prop_oneof![
        3 => sample::select(edges.to_vec()),
        3 => sample::select(known),
        2 => 0..memory + 16,
        1 => 0..20_u32,
        1 => any::<u32>(),
    ]
}

/// Any four, also with a text of the memory among them, or with small numbers before.
fn any_args() -> impl Strategy<Value = [u32; 4]> {
    let known = sample::select(KNOWN.map(|(at, text)| [at, text.len() as u32]).to_vec());
    let any = [any_arg(), any_arg(), any_arg(), any_arg()];
    let small = [
        sample::select(vec![0, 0, 0, 1, 2, 3, 4_u32]),
        sample::select(vec![0, 0, 0, 1, 3, 4, 7_u32]),
    ];
    (any, known, small, 0..8_usize).prop_map(|(mut args, known, small, at)| {
        match args.get_mut(at..at + 2) {
            Some(place) => place.copy_from_slice(&known),
            None if at < 5 => args[..2].copy_from_slice(&small),
            None => {}
        }
        args
    })
}

#[test]
fn any_arguments_do_what_they_should_and_no_more() {
    let mut bench = bench();
    let before = bench.free();
    lines();
    let functions = host_functions::<Threads>().map(|f| f.name.to_str().unwrap());
    bench.load(0, &caller()).unwrap();
    let canaries = canaries(&mut bench);
    let cell =
        std::cell::RefCell::new((&mut *bench, [[0_usize; 2]; proplet_engine::HOST_FUNCTIONS]));
    let config = ProptestConfig {
        cases: 3000,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let strategy = (0..functions.len(), any_args());
    // The same every time.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let result = TestRunner::new_with_rng(config, rng).run(&strategy, |(function, numbers)| {
        let (bench, counts) = &mut *cell.borrow_mut();
        bench
            .workers
            .platform()
            .set_clock(Some(Duration::from_secs(9)));
        let (expected, memory) = {
            let mut memory = image();
            let effect = Model(&mut memory).call(functions[function], numbers);
            (effect.unwrap_or(Effect::Trap), memory)
        };
        let mut data = bench.data(
            ALL_CAPS,
            &["one", "", LONG],
            &[("KEY", "value"), ("LONG", LONG)],
        );
        data.model = Some(bench.copy(b"the model"));
        let free = bench.free();
        let [a, b, c, d] = args(numbers);
        let limits = Limits {
            stack: 1024,
            ..LIMITS
        };
        // Where one letter will be, whatever the call does: a topic to show the memory on.
        let any = match expected {
            Effect::Done(_, at, len) => at as usize..at as usize + len as usize,
            Effect::Trap => 0..0,
        };
        let is_topic = |at: &usize| memory[*at].is_ascii_alphabetic() && !any.contains(at);
        let Some(topic) = (0..MEMORY).find(is_topic) else {
            return Err(TestCaseError::reject("all of the memory may be anything"));
        };
        let numbers = [
            Value::I32(function as i32),
            a,
            b,
            c,
            d,
            Value::I32(topic as i32),
        ];
        bench.spawn_with(0, &numbers, limits, data);
        bench.engine.deliver(Slot(0), INCOMING.0, INCOMING.1);
        let mut shown = Vec::new();
        let exit = bench.exit_while(|engine| {
            if let Some(Message::Publish { bytes, topic_len }) = engine.take_message(Slot(0)) {
                shown.extend_from_slice(&bytes[topic_len..]);
            }
        });
        lines();
        prop_assert!(
            canaries
                .iter()
                .all(|canary| canary.iter().all(|b| *b == 0x5a))
        );
        match expected {
            Effect::Trap => {
                prop_assert!(matches!(exit.result, Err(Failure::Trap(_))), "{:?}", exit);
                counts[function][0] += 1;
            }
            // A pin that is no output.
            Effect::Done(None, u32::MAX, 0) if exit.result.is_err() => {}
            Effect::Done(returned, ..) => {
                let Ok(Some(Value::I32(value))) = exit.result else {
                    return Err(TestCaseError::fail(format!("{exit:?}")));
                };
                prop_assert!(returned.is_none_or(|expected| expected == value), "{value}");
                // Without the message that the call published before.
                let shown = &shown[shown.len().saturating_sub(MEMORY)..];
                prop_assert_eq!(shown.len(), MEMORY);
                let differs = |at: &usize| shown[*at] != memory[*at] && !any.contains(at);
                let first = (0..MEMORY).find(differs);
                prop_assert!(first.is_none(), "byte {:?} of {:?}", first, returned);
                counts[function][1] += 1;
            }
        }
        drop(exit);
        prop_assert!(bench.free() > free, "the run's data is given back");
        Ok(())
    });
    result.unwrap();
    let counts = cell.borrow().1;
    for (name, [trapped, done]) in functions.iter().zip(counts) {
        println!("{name}: {trapped} trapped, {done} done");
        let never_traps = ["now_ms", "sleep_ms", "timer_stop"].contains(name);
        assert!(trapped > 0 || never_traps, "{name}");
        assert!(done > 0 || *name == "timer_wait", "{name}");
    }
    drop(canaries);
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
    assert!(bench.workers.platform().slices.load(Ordering::SeqCst) > 0);
}
