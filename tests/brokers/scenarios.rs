//! What each broker goes through.

use super::{
    kinds::Kind,
    stage::{Stage, invocation},
};
use crate::support::{
    Dir, LOOP, Message, Proxy, QUIET, SOON, host::join_at, is_alive, is_results, start,
    start_bytes, stop, with_data,
};
use proplet_testing::say;
use serde_json::json;
use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

/// Invocations under way at the same time.
const AT_ONCE: usize = 8;

/// All that have come, by invocation.
fn answers(stage: &Stage) -> HashMap<String, Vec<Message>> {
    let mut answers: HashMap<String, Vec<Message>> = HashMap::new();
    for message in stage.peer.all(is_answer) {
        let id = message.body["invocation_id"].as_str().unwrap_or_default();
        answers.entry(id.into()).or_default().push(message);
    }
    answers
}

fn is_answer(message: &Message) -> bool {
    message.topic == "control/proplet/invoke_results"
}

/// Fails unless each of `numbers` has the right answer, and not more answers than `most`.
fn assert_answered(stage: &Stage, numbers: std::ops::Range<usize>, most: usize) {
    let answers = answers(stage);
    for number in numbers {
        let id = invocation(number);
        let found = answers.get(&id).map_or(&[][..], Vec::as_slice);
        assert!(
            (1..=most).contains(&found.len()),
            "{id} has {} answers: {found:?}",
            found.len()
        );
        for answer in found {
            assert_eq!(answer.body["results"], (number + 1).to_string(), "{id}");
        }
    }
}

/// Each of many invocations is answered, once.
fn invocations(kind: Kind) {
    let Some(stage) = Stage::new(kind, false) else {
        return;
    };
    let count: usize = std::env::var("PROPLET_TEST_INVOCATIONS").map_or(1000, |count| {
        count
            .parse()
            .expect("PROPLET_TEST_INVOCATIONS is a number of invocations")
    });
    let proplet = stage.join(&[]);
    stage.deploy(&proplet, "adder");
    let since = Instant::now();
    for number in 0..count {
        let answered = (number + 1).saturating_sub(AT_ONCE);
        stage.peer.await_count(SOON, "answers", answered, is_answer);
        stage.invoke("adder", number);
    }
    stage.peer.await_count(SOON, "answers", count, is_answer);
    let took = since.elapsed();
    say(&format!(
        "{}: {count} invocations, {AT_ONCE} at once, in {:.1} s",
        kind.name(),
        took.as_secs_f64()
    ));
    thread::sleep(QUIET);
    assert_answered(&stage, 0..count, 1);
    assert_eq!(answers(&stage).len(), count);
}

/// The broker goes while tasks run, in an orderly way and at once: the proplet comes back, what
/// ended meanwhile is told, and what runs goes on.
fn restarts(kind: Kind) {
    let Some(mut stage) = Stage::new(kind, false) else {
        return;
    };
    let mut proplet = stage.join(&[]);
    stage.deploy(&proplet, "adder");
    for round in 1..=2 {
        let through = format!("through-{round}");
        let body = start(&through, "main", LOOP, &json!({}));
        stage.publish("start", &body);
        proplet.expect_log(&format!("task {through} runs in slot"));
        let deadline = match round {
            1 => kind.ends_within().as_millis(),
            _ => 1500,
        };
        let error = format!("deadline of {deadline} ms exceeded");
        let away: Vec<String> = (0..5).map(|n| format!("away-{round}-{n}")).collect();
        for id in &away {
            let env = json!({"env": {"PROPLET_DEADLINE_MS": deadline.to_string()}});
            stage.publish("start", &start(id, "main", LOOP, &env));
            proplet.expect_log(&format!("task {id} runs in slot"));
        }
        match round {
            1 => stage.broker.terminate(),
            _ => stage.broker.kill(),
        }
        for id in &away {
            proplet.expect_log(&format!("task {id} failed: {error}"));
            let told = stage.peer.all_results(id);
            assert!(told.is_empty(), "{id} ended before the broker: {told:?}");
        }
        stage.broker.start();
        let back = Instant::now();
        stage.peer.await_subscription(round + 1);
        for id in &away {
            let told = stage.peer.find(3 * SOON, |m| {
                is_results(m) && m.body["task_id"] == id.as_str()
            });
            let told = told.unwrap_or_else(|| panic!("{id} is not told after the restart"));
            assert_eq!(told.body["error"], error);
        }
        say(&format!(
            "{}: all is told {:.1} s after restart {round}",
            kind.name(),
            back.elapsed().as_secs_f64()
        ));
        stage.invoke("adder", round);
        stage.peer.invoke_results(&invocation(round));
        assert!(stage.peer.all_results(&through).is_empty());
        stage.publish("stop", &stop(&through));
        assert_eq!(stage.peer.results(&through).body["error"], "task stopped");
        thread::sleep(QUIET);
        for id in &away {
            assert_eq!(stage.peer.all_results(id).len(), 1, "{id}");
        }
    }
    assert!(proplet.is_running());
}

/// What is sent while the proplet's connection is gone reaches it afterwards, and a command that
/// the broker retains is not run.
fn cuts(kind: Kind) {
    let Some(stage) = Stage::new(kind, false) else {
        return;
    };
    let body = start("kept", "main", LOOP, &json!({}));
    stage.peer.publish_retained("control/manager/start", &body);
    let proxy = Proxy::start(stage.broker.v5);
    let url = format!("mqtt://127.0.0.1:{}", proxy.port);
    let proplet = stage.join_at(&url, &[]);
    stage.deploy(&proplet, "adder");
    for round in 0..3 {
        proxy.close();
        if round == 0 && !kind.keeps_first_session() {
            let since = Instant::now();
            proxy.open();
            stage.peer.expect(2 * SOON, "a heartbeat", |m| {
                is_alive(m) && m.body["status"] == "alive" && m.at > since
            });
        }
        let from = round * 20;
        for number in from..from + 20 {
            stage.invoke("adder", number);
        }
        // The broker has them while the proplet is away.
        thread::sleep(QUIET);
        proxy.open();
        stage
            .peer
            .await_count(3 * SOON, "answers", from + 20, is_answer);
    }
    thread::sleep(QUIET);
    // An answer whose acknowledgement was cut off is sent again; nothing has run twice.
    assert_answered(&stage, 0..60, 2);
    for number in 0..60 {
        let sum = format!("task adder completed: '{}'", number + 1);
        assert_eq!(proplet.logged(&sum), 1, "{sum}");
    }
    assert_eq!(proplet.logged("task kept runs"), 0);
}

/// Results that end while the manager is away are told when it is back, if the broker says that nobody listens.
fn listeners(kind: Kind) {
    let Some(mut stage) = Stage::new(kind, false) else {
        return;
    };
    let proplet = stage.join(&[]);
    let ids: Vec<String> = (0..5).map(|n| format!("alone-{n}")).collect();
    for id in &ids {
        stage.publish("start", &start(id, "main", LOOP, &json!({})));
        proplet.expect_log(&format!("task {id} runs in slot"));
    }
    let deaf = stage.deaf_peer();
    stage.peer.disconnect();
    for id in &ids {
        deaf.publish("control/manager/stop", &stop(id));
        proplet.expect_log(&format!("task {id} failed: task stopped"));
    }
    thread::sleep(QUIET);
    stage.reconnect();
    deaf.publish("control/manager/stop", &stop("unknown"));
    if !kind.says_that_nobody_listens() {
        thread::sleep(QUIET);
        assert_eq!(proplet.logged("nobody is subscribed to results"), 0);
        return assert!(stage.peer.all(is_results).is_empty());
    }
    for id in &ids {
        assert_eq!(stage.peer.results(id).body["error"], "task stopped");
    }
}

/// Commands that are published while the proplet is off are answered after it is back.
fn reboots(kind: Kind) {
    let Some(stage) = Stage::new(kind, false) else {
        return;
    };
    let dir = Dir::new();
    let store = dir.path("store");
    let args = ["--store", store.to_str().expect("text")];
    // The second connection is no clean start any more, for the sake of rumqttd.
    for _ in 0..2 {
        let mut proplet = stage.join(&args);
        stage.deploy(&proplet, "adder");
        proplet.kill();
        proplet.wait(SOON);
    }
    for number in 0..60 {
        stage.invoke("adder", number);
    }
    thread::sleep(QUIET);
    let proplet = stage.join(&args);
    stage.peer.await_count(3 * SOON, "answers", 60, is_answer);
    assert_answered(&stage, 0..60, 1);
    proplet.expect_log("session resumed");
}

/// Commands and a large module over TLS.
fn tls(kind: Kind) {
    if let Some(why) = kind.lacks_tls() {
        return say(&format!("not for {}: TLS: {why}", kind.name()));
    }
    let Some(stage) = Stage::new(kind, false) else {
        return;
    };
    let proplet = stage.join_tls(&["--arena-bytes", "2000000"]);
    let module = with_data(300_000);
    let inputs = json!({"inputs": ["40", "2"]});
    let body = start_bytes("large", "main", &module, &inputs);
    stage.publish("start", &body);
    assert_eq!(stage.peer.results("large").body["results"], "42");
    stage.deploy(&proplet, "adder");
    for number in 0..50 {
        stage.invoke("adder", number);
    }
    stage.peer.await_count(SOON, "answers", 50, is_answer);
    assert_answered(&stage, 0..50, 1);
}

/// mochi counts what it has sent to a client wrongly, and soon sends nothing more, though all that it
/// has sent is answered. Passes as long as it does so; see docs/brokers.md.
fn stalls(kind: Kind) {
    let Some(stage) = Stage::new(kind, false) else {
        return;
    };
    let proplet = stage.join(&[]);
    stage.deploy(&proplet, "adder");
    for number in 0..100 {
        stage.invoke("adder", number);
    }
    // Longer than between two heartbeats, at which it might go on.
    thread::sleep(Duration::from_secs(6));
    let answered = answers(&stage).len();
    say(&format!(
        "{} as it is: {answered} of 100 invocations answered",
        kind.name()
    ));
    assert!((8..100).contains(&answered));
    assert_eq!(proplet.logged("task adder completed"), answered);
}

/// Alone it knows no session after a restart, and as a cluster of one it does.
#[test]
fn fluxmq_as_a_cluster_restarts() {
    restarts(Kind::FluxMqCluster);
}

#[test]
fn mochi_as_it_is_stalls() {
    stalls(Kind::MochiAsItIs);
}

/// A wrong key is refused in words that say so, and tried again; the right one is let in.
fn credentials(kind: Kind) {
    let Some(stage) = Stage::new(kind, true) else {
        return;
    };
    let url = format!("mqtt://127.0.0.1:{}", stage.broker.v5);
    let mut stranger = join_at(&url, &["--key", "wrong"]);
    stranger.expect_logs(2 * SOON, "next attempt in", 2);
    let refusals = kind.refusals().iter();
    let refused: usize = refusals.map(|words| stranger.logged(words)).sum();
    assert!(refused >= 2, "{:?}", stranger.log());
    assert!(stranger.is_running());
    let alive = stage.peer.all(is_alive);
    assert!(alive.is_empty(), "it has joined: {alive:?}");
    stranger.kill();
    stranger.wait(SOON);
    let _proplet = stage.join(&[]);
}

macro_rules! brokers {
    ($($module:ident: $kind:ident),+ $(,)?) => {
        $(mod $module {
            use super::Kind;

            #[test]
            fn answers_each_invocation_once() {
                super::invocations(Kind::$kind);
            }

            #[test]
            fn restarts_while_tasks_run() {
                super::restarts(Kind::$kind);
            }

            #[test]
            fn keeps_what_is_sent_during_a_cut() {
                super::cuts(Kind::$kind);
            }

            #[test]
            fn tells_results_to_a_manager_that_was_away() {
                super::listeners(Kind::$kind);
            }

            #[test]
            fn keeps_what_is_sent_during_a_reboot() {
                super::reboots(Kind::$kind);
            }

            #[test]
            fn speaks_tls() {
                super::tls(Kind::$kind);
            }

            #[test]
            fn refuses_a_wrong_key() {
                super::credentials(Kind::$kind);
            }
        })+
    };
}

brokers! {
    mosquitto: Mosquitto,
    rumqttd: Rumqttd,
    fluxmq: FluxMq,
    mochi: Mochi,
    hivemq: HiveMq,
}
