//! How tasks share the processor, as their environment says.

use crate::support::{LOOP, SOON, Stage};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

fn env(pairs: &[(&str, &str)]) -> Value {
    let pairs: BTreeMap<_, _> = pairs.iter().copied().collect();
    json!({"env": pairs})
}

/// The last sample of a task that has ended.
#[track_caller]
fn last_sample(stage: &Stage, id: &str) -> Value {
    stage.peer.results(id);
    let samples = stage
        .peer
        .all(|m| m.topic == "control/proplet/task_metrics" && m.body["task_id"] == id);
    let last = samples
        .last()
        .unwrap_or_else(|| panic!("{id} has no sample"));
    last.body["metrics"].clone()
}

#[test]
fn turns_are_as_long_as_the_weights_say() {
    let Some(stage) = Stage::new(&["--workers", "1"]) else {
        return;
    };
    let weights = [10_u64, 20, 40, 80];
    // Work of a task alone, before the next is there, weighs least for the heaviest; so it does after
    // others have been stopped.
    for weight in weights.into_iter().rev() {
        let id = weight.to_string();
        stage.start(&id, "main", LOOP, &env(&[("PROPLET_WEIGHT", &id)]));
    }
    stage
        .proplet
        .expect_logs(SOON, "runs in slot", weights.len());
    thread::sleep(Duration::from_secs(4));
    for weight in weights {
        stage.stop(&weight.to_string());
    }
    let work = weights.map(|weight| {
        let sample = last_sample(&stage, &weight.to_string());
        sample["work"].as_f64().expect("work is counted")
    });
    let (all, sum): (f64, u64) = (work.iter().sum(), weights.iter().sum());
    for (work, weight) in work.into_iter().zip(weights) {
        let share = work / all;
        let error = share / (weight as f64 / sum as f64) - 1.0;
        // They do not start and stop at once: some milliseconds of four seconds.
        assert!(error.abs() < 0.1, "weight {weight}: share {share}");
    }
}

#[test]
fn a_task_may_name_the_preemption_that_there_is() {
    let Some(stage) = Stage::new(&[]) else { return };
    assert_ends(&stage, "fuel");
}

/// Runs endless loops on a proplet with this preemption, and sees them end by each limit.
pub(crate) fn assert_ends(stage: &Stage, preemption: &str) {
    let tasks = ["10", "60", "1"];
    for weight in tasks {
        let extra = env(&[
            ("PROPLET_PREEMPTION", preemption),
            ("PROPLET_WEIGHT", weight),
        ]);
        stage.start(weight, "main", LOOP, &extra);
    }
    stage.proplet.expect_logs(SOON, "runs in slot", tasks.len());
    thread::sleep(Duration::from_secs(2));
    for weight in tasks {
        let asked = Instant::now();
        stage.stop(weight);
        stage.assert_error(weight, "task stopped");
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(1), "{weight}: {took:?}");
        let sample = last_sample(stage, weight);
        let cpu = sample["cpu_percent"].as_f64();
        assert!(cpu.is_some_and(|cpu| cpu > 0.0), "{weight}: {sample}");
    }
    stage.start("bounded", "main", LOOP, &env(&[("PROPLET_WORK", "1000")]));
    stage.assert_error("bounded", "work budget of 1000");
    stage.start(
        "late",
        "main",
        LOOP,
        &env(&[("PROPLET_DEADLINE_MS", "300")]),
    );
    stage.assert_error("late", "deadline of 300 ms exceeded");
}

#[test]
fn shares_that_there_are_not_are_refused() {
    let Some(stage) = Stage::new(&[]) else { return };
    for (n, (pairs, words)) in [
        (
            &[("PROPLET_WEIGHT", "0")][..],
            "PROPLET_WEIGHT=0: expected a number from 1 to 100",
        ),
        (
            &[("PROPLET_WEIGHT", "101")],
            "PROPLET_WEIGHT=101: expected a number from 1 to 100",
        ),
        (
            &[("PROPLET_WEIGHT", "high")],
            "PROPLET_WEIGHT=high: expected a number from 1 to 100",
        ),
        (
            &[("PROPLET_PREEMPTION", "luck")],
            "PROPLET_PREEMPTION=luck: expected fuel",
        ),
        (
            &[("PROPLET_PREEMPTION", "time")],
            "PROPLET_PREEMPTION=time: expected fuel",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("refused-{n}");
        stage.start(&id, "main", LOOP, &env(pairs));
        stage.assert_error(&id, words);
    }
}
