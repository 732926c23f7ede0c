//! Starts, stops, results, arguments and exports.

use crate::{
    scenarios::presence::assert_timestamp,
    support::{
        ADD, ID, LOOP, QUIET, SOON, Stage, assert_heartbeats, is_results, start, stop, with,
    },
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

#[test]
fn a_start_ends_in_one_result_not_before_250_ms() {
    let Some(stage) = Stage::new(&[]) else { return };
    let sent = Instant::now();
    stage.start("sum", "add", ADD, &json!({"inputs": ["20", "22"]}));
    let results = stage.peer.results("sum");
    let took = results.at - sent;
    assert!(took >= Duration::from_millis(250), "results after {took:?}");
    assert_eq!(
        results.body,
        json!({"task_id": "sum", "proplet_id": ID, "results": "42"}),
        "no error, not even an empty one: to the manager that is all that counts"
    );

    // A failure that is known at once must not be told at once either.
    let sent = Instant::now();
    stage.start("bad", "add", ADD, &json!({"inputs": ["20"]}));
    let took = stage.peer.results("bad").at - sent;
    assert!(took >= Duration::from_millis(250), "results after {took:?}");
    stage.assert_error("bad", "expected 2 arguments but got 1");

    thread::sleep(QUIET);
    for id in ["sum", "bad"] {
        assert_eq!(stage.peer.all_results(id).len(), 1, "results of {id}");
    }
}

#[test]
fn commands_for_others_are_ignored_and_those_for_all_are_not() {
    let Some(stage) = Stage::new(&[]) else { return };
    let inputs = json!({"inputs": ["1", "1"]});
    let foreign = with(inputs.clone(), &json!({"proplet_id": "another"}));
    stage.start("foreign", "main", ADD, &foreign);
    // A broken one for another is no business of ours.
    stage.start(
        "foreign-bad",
        "main",
        ADD,
        &json!({"inputs": 5, "proplet_id": "another"}),
    );
    let body = start(
        "broadcast",
        "main",
        ADD,
        &with(inputs.clone(), &json!({"broadcast": true})),
    );
    stage.peer.publish(
        "control/manager/start",
        &with(body, &json!({"proplet_id": null})),
    );
    let body = start(
        "nobody",
        "main",
        ADD,
        &with(inputs, &json!({"proplet_id": null})),
    );
    stage.peer.publish("control/manager/start", &body);
    assert_eq!(stage.peer.results("broadcast").body["results"], "2");
    assert_eq!(stage.peer.results("nobody").body["results"], "2");

    stage.start("loop", "main", LOOP, &json!({}));
    stage.runs("loop");
    let foreign = with(stop("loop"), &json!({"proplet_id": "another"}));
    stage.peer.publish("control/manager/stop", &foreign);
    thread::sleep(QUIET);
    for id in ["foreign", "foreign-bad", "loop"] {
        let found = stage.peer.all_results(id);
        assert!(found.is_empty(), "results of {id}: {found:?}");
    }
    // As sent by the manager when it shuts down: the id alone.
    stage
        .peer
        .publish("control/manager/stop", &json!({"id": "loop"}));
    stage.assert_error("loop", "task stopped");
}

#[test]
fn arguments_are_parsed_by_their_types() {
    let Some(stage) = Stage::new(&["--instances", "64", "--arena-bytes", "1048576"]) else {
        return;
    };
    let module = r#"(module
        (func (export "i32") (param i32) (result i32) (local.get 0))
        (func (export "i64") (param i64) (result i64) (local.get 0))
        (func (export "f32") (param f32) (result f32) (local.get 0))
        (func (export "f64") (param f64) (result f64) (local.get 0))
        (func (export "mixed") (param i32 i64 f32 f64) (result f64)
            (f64.add (f64.add (f64.convert_i32_s (local.get 0)) (f64.convert_i64_s (local.get 1)))
                     (f64.add (f64.promote_f32 (local.get 2)) (local.get 3)))))"#;
    let cases: &[(&str, Value, &str)] = &[
        ("i32", json!(["-7"]), "-7"),
        ("i32", json!([7]), "7"),
        ("i32", json!(["0x7fffffff"]), "2147483647"),
        ("i32", json!(["0xffffffff"]), "-1"),
        ("i32", json!(["4294967295"]), "-1"),
        ("i32", json!(["-2147483648"]), "-2147483648"),
        (
            "i64",
            json!(["-9223372036854775808"]),
            "-9223372036854775808",
        ),
        ("i64", json!(["0xFFFFFFFFFFFFFFFF"]), "-1"),
        ("i64", json!(["-0x10"]), "-16"),
        ("f32", json!(["0.1"]), "0.1"),
        ("f32", json!(["-2.5e3"]), "-2500"),
        ("f64", json!(["0.1"]), "0.1"),
        ("f64", json!(["-1e-7"]), "-0.0000001"),
        ("f64", json!([2.5]), "2.5"),
        ("f64", json!(["inf"]), "inf"),
        ("mixed", json!(["-1", "0x10", "0.5", "-0.25"]), "15.25"),
    ];
    for (n, (export, inputs, _)) in cases.iter().enumerate() {
        stage.start(
            &format!("case-{n}"),
            export,
            module,
            &json!({"inputs": inputs}),
        );
    }
    for (n, (export, inputs, expected)) in cases.iter().enumerate() {
        let body = stage.peer.results(&format!("case-{n}")).body;
        assert_eq!(body["results"], *expected, "{export}({inputs}): {body}");
    }
    for (n, (export, input)) in [
        ("i32", "4294967296"),
        ("i32", "-2147483649"),
        ("i32", "1.5"),
        ("i32", ""),
        ("i64", "18446744073709551616"),
        ("f32", "one"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("refused-{n}");
        stage.start(&id, export, module, &json!({"inputs": [input]}));
        stage.assert_error(
            &id,
            &format!("failed to parse input 0 '{input}' as {export}"),
        );
    }
}

#[test]
fn the_export_is_found_and_initialize_comes_first() {
    let Some(stage) = Stage::new(&[]) else { return };
    let initialized = r#"(module (global $n (mut i32) (i32.const 1))
        (func (export "_initialize") (global.set $n (i32.const 42)))
        (func (export "get") (result i32) (global.get $n)))"#;
    stage.start("initialized", "get", initialized, &json!({}));
    assert_eq!(stage.peer.results("initialized").body["results"], "42");

    let export = |names: &[&str]| {
        let functions = names
            .iter()
            .enumerate()
            .map(|(n, name)| format!(r#"(func (export "{name}") (result i32) (i32.const {n}))"#));
        format!("(module {})", functions.collect::<String>())
    };
    for (n, (names, task, expected)) in [
        (&["_start", "run", "main", "own"][..], "own", "3"),
        (&["_start", "run", "main"], "own", "2"),
        (&["_start", "run"], "own", "1"),
        (&["_start"], "own", "0"),
        (&["main", "other"], "_start", "0"),
        (&["main", "other"], "fl-round-7-abc", "0"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("export-{n}");
        stage.start(&id, task, &export(names), &json!({}));
        let body = stage.peer.results(&id).body;
        assert_eq!(body["results"], expected, "{task} among {names:?}: {body}");
    }
    stage.start("none", "own", &export(&["other"]), &json!({}));
    stage.assert_error("none", "function 'own' not found");

    let nothing = r#"(module (func (export "main")))"#;
    let body = stage.run("nothing", nothing, &json!({}));
    assert_eq!(body["results"], "", "a function without a result: {body}");
    assert!(body["error"].is_null(), "{body}");
}

#[test]
fn twenty_four_instances_of_one_module_run_at_once() {
    let args = ["--instances", "24", "--metrics-interval", "1"];
    let Some(mut stage) = Stage::new(&args) else {
        return;
    };
    let since = Instant::now();
    let ids: Vec<String> = (0..24).map(|n| format!("loop-{n}")).collect();
    // The least interval that there is.
    let profile = json!({"monitoring_profile": profile(1)});
    for id in &ids {
        stage.start(id, "main", LOOP, &profile);
    }
    stage.start("one-too-many", "main", LOOP, &json!({}));
    stage.assert_error("one-too-many", "no free slot: all 24 are taken");

    // Each goes on working: what it has done grows.
    let work = |id: &str, since| {
        let message = stage.peer.sample(SOON, id, since);
        message.body["metrics"]["work"]
            .as_u64()
            .expect("work is a number")
    };
    let before: Vec<u64> = ids.iter().map(|id| work(id, since)).collect();
    thread::sleep(Duration::from_secs(4));
    let later = Instant::now();
    for (id, before) in ids.iter().zip(before) {
        let after = work(id, later);
        assert!(after > before, "{id} stands still at {before}");
    }
    assert!(
        stage
            .peer
            .all(|m| is_results(m) && m.body["task_id"] != "one-too-many")
            .is_empty()
    );
    assert_heartbeats(&stage.peer, since, Duration::from_secs(5));

    let asked = Instant::now();
    for id in &ids {
        stage.stop(id);
    }
    for id in &ids {
        stage.assert_error(id, "task stopped");
    }
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(5), "24 stops took {took:?}");
    thread::sleep(QUIET);
    for id in &ids {
        assert_eq!(stage.peer.all_results(id).len(), 1, "results of {id}");
    }
    // All slots are free again.
    for (n, id) in ids.iter().enumerate() {
        let again = format!("{id}-again");
        stage.start(
            &again,
            "main",
            ADD,
            &json!({"inputs": [n.to_string(), "1"]}),
        );
    }
    let again: BTreeSet<String> = ids
        .iter()
        .map(|id| stage.peer.results(&format!("{id}-again")).body["results"].to_string())
        .collect();
    assert_eq!(again.len(), 24, "24 different sums: {again:?}");
    assert!(stage.proplet.is_running());
}

fn profile(interval: u64) -> Value {
    json!({"enabled": true, "interval": interval, "collect_cpu": true, "collect_memory": true,
        "collect_disk_io": false, "collect_threads": true, "collect_file_descriptors": false,
        "export_to_mqtt": true, "retain_history": true, "history_size": 10})
}

#[test]
fn a_stop_of_an_unknown_task_is_harmless() {
    let Some(stage) = Stage::new(&[]) else { return };
    stage.stop("unknown");
    stage.start("loop", "main", LOOP, &json!({}));
    stage.runs("loop");
    stage.stop("loop");
    stage.stop("loop");
    stage.assert_error("loop", "task stopped");
    stage.stop("loop");
    thread::sleep(QUIET);
    assert_eq!(stage.peer.all_results("loop").len(), 1);
    assert!(stage.peer.all_results("unknown").is_empty());
}

#[test]
fn a_start_that_comes_again_is_not_run_again_while_it_runs() {
    let Some(stage) = Stage::new(&[]) else { return };
    for _ in 0..3 {
        stage.start("loop", "main", LOOP, &json!({}));
    }
    // Before its results are out, a task that has ended is known, too.
    for _ in 0..3 {
        stage.start("sum", "main", ADD, &json!({"inputs": ["1", "2"]}));
    }
    stage.proplet.expect_logs(SOON, "start of loop ignored", 2);
    stage.proplet.expect_logs(SOON, "start of sum ignored", 2);
    assert_eq!(stage.peer.results("sum").body["results"], "3");
    stage.stop("loop");
    stage.assert_error("loop", "task stopped");
    thread::sleep(QUIET);
    assert_eq!(stage.peer.all_results("loop").len(), 1);
    assert_eq!(stage.peer.all_results("sum").len(), 1);

    // The manager may start a task that has ended again, under its id.
    stage.start("sum", "main", ADD, &json!({"inputs": ["3", "4"]}));
    let is_sum = |m: &crate::support::Message| is_results(m) && m.body["task_id"] == "sum";
    let both = stage
        .peer
        .expect_count(SOON, "results of both runs", 2, is_sum);
    assert_eq!(both[1].body["results"], "7");
}

#[test]
fn a_daemon_succeeds_at_once_and_runs_until_it_is_stopped() {
    let Some(stage) = Stage::new(&["--instances", "1"]) else {
        return;
    };
    let sent = Instant::now();
    let body = stage.run("daemon", LOOP, &json!({"daemon": true}));
    assert_eq!(
        body,
        json!({"task_id": "daemon", "proplet_id": ID, "results": ""})
    );
    assert!(
        sent.elapsed() < Duration::from_secs(3),
        "a daemon's success comes at once"
    );
    stage.start("other", "main", LOOP, &json!({}));
    stage.assert_error("other", "no free slot: all 1 are taken");
    stage.stop("daemon");
    stage.proplet.expect_log("task daemon failed: task stopped");
    stage.start("next", "main", ADD, &json!({"inputs": ["1", "2"]}));
    assert_eq!(stage.peer.results("next").body["results"], "3");
    assert_eq!(
        stage.peer.all_results("daemon").len(),
        1,
        "its success was told already"
    );

    // A daemon that can't begin has not succeeded.
    stage.start("broken", "main", ADD, &json!({"daemon": true}));
    stage.assert_error("broken", "expected 2 arguments but got 0");
    thread::sleep(QUIET);
    assert_eq!(stage.peer.all_results("broken").len(), 1);
}

#[test]
fn a_task_is_sampled_as_its_profile_says() {
    let Some(stage) = Stage::new(&[]) else { return };
    let since = Instant::now();
    let start = |id: &str, profile: Value| {
        stage.start(id, "main", LOOP, &json!({"monitoring_profile": profile}));
    };
    start("seconds", profile(1));
    start("nanoseconds", profile(1_000_000_000));
    start("rare", profile(3_600_000_000_000));
    start("off", with(profile(1), &json!({"enabled": false})));
    start(
        "silent",
        with(profile(1), &json!({"export_to_mqtt": false})),
    );
    start(
        "no-cpu",
        with(
            profile(1),
            &json!({"collect_cpu": false, "retain_history": false}),
        ),
    );
    // A part of it: the rest is as usual.
    start("partial", json!({"interval": 1}));
    thread::sleep(Duration::from_millis(4500));
    let samples = |id: &str| {
        stage
            .peer
            .all(|m| m.topic == "control/proplet/task_metrics" && m.body["task_id"] == id)
    };
    for id in ["seconds", "nanoseconds", "no-cpu", "partial"] {
        let found = samples(id);
        assert!(
            (4..=6).contains(&found.len()),
            "{id}: {} samples in 4.5 s",
            found.len()
        );
        let gap = found[2].at - found[1].at;
        let near = Duration::from_millis(500)..Duration::from_millis(1500);
        assert!(
            near.contains(&gap),
            "{id}: a second between samples, not {gap:?}"
        );
        let first = found[0].at - since;
        assert!(
            first < Duration::from_secs(2),
            "{id}: first sample after {first:?}"
        );
    }
    assert_eq!(
        samples("rare").len(),
        1,
        "one at its start, one after an hour"
    );
    for id in ["off", "silent"] {
        assert!(samples(id).is_empty(), "{id}: {:?}", samples(id));
    }

    let body = &samples("seconds")[3].body;
    assert_eq!(body["proplet_id"], ID);
    assert_timestamp(&body["timestamp"]);
    let metrics = &body["metrics"];
    for key in ["cpu_percent", "memory_percent"] {
        assert!(metrics[key].as_f64() > Some(0.0), "metrics.{key}: {body}");
    }
    for key in ["memory_bytes", "uptime_seconds", "thread_count"] {
        assert!(metrics[key].as_u64() > Some(0), "metrics.{key}: {body}");
    }
    let aggregated = &body["aggregated"];
    for key in [
        "avg_cpu_usage",
        "max_cpu_usage",
        "avg_memory_usage",
        "max_memory_usage",
    ] {
        assert!(
            aggregated[key].as_f64() > Some(0.0),
            "aggregated.{key}: {body}"
        );
    }
    assert_eq!(aggregated["sample_count"], 4, "{body}");
    let body = &samples("no-cpu")[1].body;
    assert!(
        body["metrics"]["cpu_percent"].is_null(),
        "not collected: {body}"
    );
    assert!(body["aggregated"].is_null(), "no history: {body}");

    // The last sample of a short task comes with its end.
    stage.start("short", "main", ADD, &json!({"inputs": ["1", "2"]}));
    stage.peer.sample(SOON, "short", since);
}
