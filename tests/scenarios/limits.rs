//! Limits that a task's environment sets, and those of the device.

use crate::support::{LOOP, SOON, Stage};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const IN_START: &str = r#"(module (func $f (loop $l (br $l))) (start $f) (func (export "main")))"#;
const IN_INITIALIZE: &str = r#"(module
    (func (export "_initialize") (loop $l (br $l))) (func (export "main")))"#;

/// Calls itself as deep as it is told, and returns that depth.
const DEEP: &str = r#"(module (func $deep (export "main") (param i32) (result i32)
    (if (result i32) (local.get 0)
        (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get 0) (i32.const 1)))))
        (else (i32.const 0)))))"#;

fn env(key: &str, value: impl ToString) -> Value {
    json!({"env": {key: value.to_string()}})
}

#[test]
fn a_deadline_ends_a_loop_wherever_it_is() {
    let Some(stage) = Stage::new(&[]) else { return };
    for (id, text) in [
        ("main", LOOP),
        ("start", IN_START),
        ("initialize", IN_INITIALIZE),
    ] {
        let sent = Instant::now();
        stage.start(id, "main", text, &env("PROPLET_DEADLINE_MS", 600));
        let took = stage.peer.results(id).at - sent;
        stage.assert_error(id, "deadline of 600 ms exceeded");
        let near = Duration::from_millis(600)..Duration::from_millis(2000);
        assert!(
            near.contains(&took),
            "{id}: ended after {took:?}, not 600 ms"
        );
    }
}

/// Some come just as their guests' steps end, which short steps make likelier.
#[test]
fn short_deadlines_end_every_loop_of_a_crowd() {
    let mut args = vec!["--workers", "1", "--slice", "200"];
    args.extend(["--result-delay-ms", "0"]);
    let Some(stage) = Stage::new(&args) else {
        return;
    };
    let ms = |task: u32| 10 + task % 7;
    let ends = |task: u32| {
        let error = format!("deadline of {} ms exceeded", ms(task));
        stage.assert_error(&format!("late-{task}"), &error);
    };
    let began = Instant::now();
    let mut tasks = 0;
    while began.elapsed() < Duration::from_secs(4) {
        for _ in 0..8 {
            tasks += 1;
            let deadline = env("PROPLET_DEADLINE_MS", ms(tasks));
            stage.start(&format!("late-{tasks}"), "main", LOOP, &deadline);
        }
        // Others may still be there when the next begin.
        ends(tasks);
    }
    (1..=tasks).for_each(ends);
}

#[test]
fn a_stop_ends_a_loop_wherever_it_is() {
    let Some(stage) = Stage::new(&[]) else { return };
    for (id, text) in [
        ("main", LOOP),
        ("start", IN_START),
        ("initialize", IN_INITIALIZE),
    ] {
        stage.start(id, "main", text, &json!({}));
        stage.runs(id);
        stage.stop(id);
        stage.assert_error(id, "task stopped");
    }
}

#[test]
fn a_work_budget_ends_a_loop_wherever_it_is() {
    let Some(stage) = Stage::new(&[]) else { return };
    for (id, text) in [
        ("main", LOOP),
        ("start", IN_START),
        ("initialize", IN_INITIALIZE),
    ] {
        stage.start(id, "main", text, &env("PROPLET_WORK", 30000));
        stage.assert_error(id, "work budget of 30000 branches and calls exhausted");
    }
    let deep = |id: &str, work| {
        let env = json!({"inputs": ["20"], "env": {"PROPLET_WORK": work}});
        stage.run(id, DEEP, &env)
    };
    assert_eq!(deep("enough", "10000")["results"], "20");
    let body = deep("calls-count-too", "5");
    assert_eq!(
        body["error"], "work budget of 5 branches and calls exhausted",
        "{body}"
    );
}

#[test]
fn the_stack_is_as_large_as_asked_for() {
    let args = ["--workers", "1", "--stack-max-bytes", "65536"];
    let Some(stage) = Stage::new(&args) else {
        return;
    };
    let deep = |id: &str, depth: u32, bytes: u32| {
        let env = json!({"inputs": [depth.to_string()],
            "env": {"PROPLET_STACK_BYTES": bytes.to_string()}});
        stage.run(id, DEEP, &env)
    };
    let overflow = |bytes| {
        format!("wasm operand stack overflow: it has {bytes} bytes, see PROPLET_STACK_BYTES")
    };
    assert_eq!(deep("fits", 20, 4096)["results"], "20");
    let body = deep("small", 20, 512);
    assert_eq!(body["error"], overflow(512), "{body}");
    let body = deep("deep", 400, 4096);
    assert_eq!(body["error"], overflow(4096), "{body}");
    assert_eq!(deep("large", 400, 65536)["results"], "400");
}

#[test]
fn memory_is_as_large_as_asked_for() {
    let Some(stage) = Stage::new(&["--arena-bytes", "1048576"]) else {
        return;
    };
    // Grows by one page of Wasm, or writes to the address that it is given, and to page 0.
    let text = r#"(module (memory 1 4)
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
        (func (export "touch") (param i32) (result i32)
            (i32.store8 (i32.const 0) (i32.const 1)) (i32.store8 (local.get 0) (i32.const 7))
            (i32.load8_u (local.get 0)))
        (func (export "fill") (param i32) (result i32)
            (memory.fill (i32.const 0) (i32.const 7) (local.get 0))
            (i32.load8_u (i32.sub (local.get 0) (i32.const 1)))))"#;
    let call = |id: &str, name: &str, input: u32, bytes: Option<u32>| {
        let env = bytes.map_or(json!({}), |b| env("PROPLET_MEMORY_BYTES", b)["env"].clone());
        let extra = json!({"inputs": [input.to_string()], "env": env});
        stage.start(id, name, text, &extra);
        stage.peer.results(id).body
    };
    assert_eq!(
        call("grows", "grow", 1, None)["results"],
        "1",
        "pages before"
    );
    // The bound is on pages that are written to, not on the size.
    assert_eq!(call("bounded", "grow", 3, Some(1024))["results"], "1");
    assert_eq!(call("within", "touch", 65_535, Some(2048))["results"], "7");
    let body = call("beyond", "touch", 65_535, Some(1024));
    let error = body["error"].as_str().unwrap_or_default();
    let words = "out of memory: page 63 of linear memory, 1 taken, the task may hold 1";
    assert!(error.starts_with(words), "{body}");
    let body = call("outside", "touch", 65_536, None);
    assert_eq!(body["error"], "out of bounds memory access", "{body}");
    // The default: a quarter of the arena, for all but the workers' stacks.
    assert_eq!(call("all", "fill", 65_536, None)["results"], "7");
}

/// Writes to as many bytes from 0 on as its parameter says.
const FILL: &str = r#"(module (memory 8) (func (export "main") (param i32) (result i32)
    (memory.fill (i32.const 0) (i32.const 7) (local.get 0)) (i32.const 1)))"#;

impl Stage {
    /// Asks for what no proplet allows; the range that the refusal names.
    fn memory_range(&self) -> (u32, u32) {
        self.start("asks", "main", FILL, &env("PROPLET_MEMORY_BYTES", "much"));
        let body = self.peer.results("asks").body;
        let error = body["error"].as_str().unwrap_or_default();
        let range = error
            .strip_prefix("PROPLET_MEMORY_BYTES=much: expected a number of bytes from ")
            .and_then(|range| range.split_once(" to "));
        let (least, most) = range.unwrap_or_else(|| panic!("{body}"));
        (least.parse().unwrap(), most.parse().unwrap())
    }

    /// Fills `pages` whole pages, and one byte more.
    fn fills(&self, pages: u32, page: u32, env: &Value) {
        let fill = |id: &str, bytes: u32| {
            self.run(
                id,
                FILL,
                &json!({"inputs": [bytes.to_string()], "env": env}),
            )
        };
        let body = fill(&format!("{pages}-pages"), pages * page);
        assert_eq!(body["results"], "1", "{body}");
        let body = fill(&format!("{pages}-pages-and-a-byte"), pages * page + 1);
        let error = body["error"].as_str().unwrap_or_default();
        let text = format!(
            "out of memory: page {pages} of linear memory, {pages} taken, the task may hold {pages}"
        );
        assert!(error.starts_with(&text), "{body}");
    }
}

#[test]
fn a_task_holds_a_quarter_of_the_arenas_pages_unless_the_proplet_says_otherwise() {
    let args = ["--workers", "1", "--arena-bytes", "1048576"];
    let Some(stage) = Stage::new(&args) else {
        return;
    };
    let (page, quarter) = stage.memory_range();
    // A board's arena is a bit smaller than it was to be.
    assert!((261_000..=262_144).contains(&quarter), "{quarter}");
    stage.fills(quarter / page, page, &json!({}));
    stage.fills(10, page, &json!({"PROPLET_MEMORY_BYTES": "10240"}));
    drop(stage);

    let args = [&args[..], &["--memory-max-bytes", "400000"]].concat();
    let stage = Stage::new(&args).expect("as before");
    assert_eq!(stage.memory_range(), (page, 400_000));
    stage.fills(400_000 / page, page, &json!({}));
}

#[test]
fn limits_out_of_range_are_refused_with_the_range() {
    let Some(stage) = Stage::new(&["--stack-max-bytes", "8192"]) else {
        return;
    };
    for (n, (key, value, words)) in [
        (
            "PROPLET_DEADLINE_MS",
            "0",
            "expected a number of milliseconds from 1",
        ),
        (
            "PROPLET_DEADLINE_MS",
            "1s",
            "expected a number of milliseconds from 1",
        ),
        (
            "PROPLET_WORK",
            "-1",
            "expected a number of branches and calls from 1",
        ),
        (
            "PROPLET_STACK_BYTES",
            "100",
            "expected a number of bytes from 512 to 8192",
        ),
        (
            "PROPLET_STACK_BYTES",
            "8193",
            "expected a number of bytes from 512 to 8192",
        ),
        (
            "PROPLET_MEMORY_BYTES",
            "much",
            "expected a number of bytes from 1024 to ",
        ),
        (
            "PROPLET_MEMORY_BYTES",
            "100",
            "expected a number of bytes from 1024 to ",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("refused-{n}");
        stage.start(&id, "main", LOOP, &env(key, value));
        stage.assert_error(&id, &format!("{key}={value}: {words}"));
    }
}

#[test]
fn the_devices_limits_hold_for_tasks_that_name_none() {
    let args = ["--deadline-max-ms", "700", "--memory-max-bytes", "65536"];
    let Some(stage) = Stage::new(&args) else {
        return;
    };
    stage.start("late", "main", LOOP, &json!({}));
    stage.assert_error("late", "deadline of 700 ms exceeded");
    stage.start("more", "main", LOOP, &env("PROPLET_DEADLINE_MS", 701));
    stage.assert_error("more", "expected a number of milliseconds from 1 to 700");
    let fills = r#"(module (memory 2) (func (export "main") (param i32) (result i32)
        (memory.fill (i32.const 0) (i32.const 1) (local.get 0)) (memory.size)))"#;
    stage.start("more-pages", "main", fills, &json!({"inputs": ["65537"]}));
    stage.assert_error(
        "more-pages",
        "page 64 of linear memory, 64 taken, the task may hold 64",
    );
    let body = stage.run("as-many", fills, &json!({"inputs": ["65536"]}));
    assert_eq!(body["results"], "2");
    stage.start("asks", "main", fills, &env("PROPLET_MEMORY_BYTES", 65_537));
    stage.assert_error("asks", "expected a number of bytes from 1024 to 65536");
    drop(stage);
    let Some(stage) = Stage::new(&["--work-max", "50000"]) else {
        return;
    };
    stage.start("worn-out", "main", LOOP, &json!({}));
    stage.assert_error(
        "worn-out",
        "work budget of 50000 branches and calls exhausted",
    );
    assert!(
        stage
            .peer
            .find(SOON, |m| m.topic.ends_with("/task_metrics"))
            .is_some()
    );
}
