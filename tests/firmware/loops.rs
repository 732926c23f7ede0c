//! Endless loops share the one core with the link.

use crate::support::{LOOP, QUIET, SOON, Stage, assert_heartbeats, is_results};
use serde_json::json;
use std::{
    thread,
    time::{Duration, Instant},
};

const IN_START: &str = r#"(module (func $f (loop $l (br $l))) (start $f) (func (export "main")))"#;
const IN_INITIALIZE: &str = r#"(module
    (func (export "_initialize") (loop $l (br $l))) (func (export "main")))"#;

#[test]
fn two_hundred_loops_leave_room_for_heartbeats_and_each_is_stopped_once() {
    const LOOPS: usize = 200;
    let Some(mut stage) = Stage::new(&["--heartbeat", "1"]) else {
        return;
    };
    let ids: Vec<String> = (0..LOOPS).map(|n| format!("loop-{n}")).collect();
    for (id, text) in ids
        .iter()
        .zip([LOOP, IN_START, IN_INITIALIZE].iter().cycle())
    {
        stage.start(id, "main", text, &json!({}));
    }
    stage.proplet.expect_logs(SOON, "runs in slot", LOOPS);
    let since = Instant::now();
    thread::sleep(Duration::from_secs(6));
    assert_heartbeats(&stage.peer, since, Duration::from_secs(3));
    assert!(stage.peer.all(is_results).is_empty(), "nothing has ended");

    let asked = Instant::now();
    for id in &ids {
        stage.stop(id);
    }
    for id in &ids {
        stage.assert_error(id, "task stopped");
    }
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(3), "{LOOPS} stops took {took:?}");
    assert_heartbeats(&stage.peer, since, Duration::from_secs(3));
    thread::sleep(QUIET);
    for id in &ids {
        assert_eq!(stage.peer.all_results(id).len(), 1, "results of {id}");
    }
    assert!(stage.proplet.is_running());
}

#[test]
fn one_loop_is_stopped_at_once_while_heartbeats_go_on() {
    let Some(stage) = Stage::new(&["--heartbeat", "1", "--result-delay-ms", "0"]) else {
        return;
    };
    let since = Instant::now();
    for round in 0..5 {
        let id = format!("loop-{round}");
        stage.start(&id, "main", LOOP, &json!({}));
        stage.runs(&id);
        thread::sleep(Duration::from_millis(500));
        let asked = Instant::now();
        stage.stop(&id);
        let took = stage.peer.results(&id).at - asked;
        stage.assert_error(&id, "task stopped");
        assert!(took < Duration::from_millis(500), "the stop took {took:?}");
    }
    assert_heartbeats(&stage.peer, since, Duration::from_secs(3));
}
