//! Tasks of a federated round.

use super::*;
use crate::task::learning::Services;

const SERVICES: Services<'_> = Services {
    models: "http://models",
    data: "http://data",
    coordinator: "http://coordinator",
};

const MODEL: &str = "http://models/models/3";
const DATA: &str = "http://data/datasets/3fe95a65-74f1-4ede-bf20-ef565f04cecb";
const UPDATE: &str = "http://coordinator/update";

fn bench(services: Services<'static>) -> Bench {
    let mut bench = Bench::with_config(Config {
        proplet_id: ID,
        tenant: "t",
        channel: "c",
        services,
        ..Config::DEFAULT
    });
    bench.handle(Event::Connected);
    bench.at(1000);
    bench.drain();
    bench
}

fn round(id: &str) -> Json {
    with(
        task(id),
        json!({"name": format!("fl-round-r1-{ID}"), "inputs": null, "file": file("main()"),
            "env": {"ROUND_ID": "r1", "MODEL_URI": "fl/models/global_model_v3", "FL_NUM_SAMPLES": "7"}}),
    )
}

fn envelope(id: &str, update: &str) -> Json {
    json!({"task_id": id, "proplet_id": ID, "results": {
        "task_id": id, "round_id": "r1", "proplet_id": ID, "num_samples": 7,
        "update_b64": BASE64_STANDARD.encode(update), "format": "f32-delta", "metrics": {}}})
}

/// The guest has the model and the data set, and `output` is its result.
fn train(bench: &mut Bench, output: &str) {
    let id = bench.exchange(MODEL);
    let request = bench.request.as_ref().unwrap();
    assert_eq!((request.method, request.accept), (Method::Get, Accept::Any));
    bench.respond(id, br#"{"w":[1]}"#);
    let id = bench.exchange(DATA);
    bench.respond(id, br#"{"data":[]}"#);
    let run = bench.agent.engine().run(Slot(0));
    assert_eq!(run.data.model.as_deref(), Some(&br#"{"w":[1]}"#[..]));
    assert_eq!(run.data.dataset.as_deref(), Some(&br#"{"data":[]}"#[..]));
    assert_eq!(run.data.env().get("ROUND_ID"), Some("r1"));
    end(bench, output);
}

fn end(bench: &mut Bench, output: &str) {
    let engine = bench.agent.engine_mut();
    engine.exit_with(Slot(0), Ok(None), Some(output));
    bench.handle(Event::Tick);
}

/// The body of the exchange.
fn body(bench: &Bench, id: RequestId) -> String {
    let request = bench.request.as_ref().unwrap();
    let Method::Post { len } = request.method else {
        panic!("{request:?}");
    };
    let (mut body, mut piece) = (Vec::new(), [0; 5]);
    loop {
        match bench.agent.request_body(id, body.len(), &mut piece) {
            0 => break,
            n => body.extend(&piece[..n]),
        }
    }
    assert_eq!(body.len(), len);
    String::from_utf8(body).unwrap()
}

#[test]
fn model_and_data_set_are_fetched_and_the_update_is_posted() {
    let mut bench = bench(SERVICES);
    bench.start(round("a"));
    let output = r#"{"update":{"w":[2]}}"#;
    train(&mut bench, output);
    let id = bench.exchange(UPDATE);
    assert_eq!(body(&bench, id), output);
    assert!(
        bench.results_until(1400).is_empty(),
        "not before it is delivered"
    );
    bench.respond(id, b"{}");
    assert_eq!(bench.results_until(1400), [envelope("a", output)]);
    assert!(bench.arena_is_free());
}

#[test]
fn what_the_coordinator_does_not_take_goes_to_the_rounds_topic() {
    let mut bench = bench(SERVICES);
    bench.start(round("a"));
    let output = r#"{"update":{"w":[2]}}"#;
    train(&mut bench, output);
    let id = bench.exchange(UPDATE);
    bench.break_off(id, "HTTP 503 from coordinator");
    let out: Vec<_> = bench.run_until(1500);
    let out: Vec<_> = out
        .iter()
        .filter(|(_, t, _)| !t.contains("metrics"))
        .collect();
    assert_eq!(out[0].1, format!("fl/rounds/r1/updates/{ID}"));
    assert_eq!(out[0].2, serde_json::from_str::<Json>(output).unwrap());
    assert_eq!(out[1].1, "control/proplet/results");
    assert_eq!(out[1].2, envelope("a", output));
    assert_eq!(out.len(), 2);
    assert!(bench.arena_is_free());
}

#[test]
fn a_service_without_url_is_an_error_result() {
    for (services, key) in [
        (
            Services {
                models: "",
                ..SERVICES
            },
            "MODEL_REGISTRY_URL",
        ),
        (
            Services {
                coordinator: "",
                ..SERVICES
            },
            "MANAGER_COORDINATOR_URL",
        ),
    ] {
        let mut bench = bench(services);
        bench.start(round("a"));
        let results = bench.results_until(1300);
        let error = results[0]["error"].as_str().unwrap();
        assert!(error.starts_with(&format!("{key} is not set")), "{error}");
        assert_eq!(results[0]["results"], envelope("a", "")["results"]);
        assert!(bench.arena_is_free());
    }
}

#[test]
fn without_a_data_store_the_guest_runs_without_data() {
    for fails in [false, true] {
        let services = Services {
            data: if fails { SERVICES.data } else { "" },
            ..SERVICES
        };
        let mut bench = bench(services);
        bench.start(round("a"));
        let id = bench.exchange(MODEL);
        bench.respond(id, b"{}");
        if fails {
            let id = bench.exchange(DATA);
            bench.break_off(id, "HTTP 404 from data");
        }
        let run = bench.agent.engine().run(Slot(0));
        assert!(run.data.model.is_some() && run.data.dataset.is_none());
    }
}

#[test]
fn the_models_topic_takes_the_place_of_a_registry_that_fails() {
    let mut bench = bench(Services {
        data: "",
        ..SERVICES
    });
    bench.start(round("a"));
    let id = bench.exchange(MODEL);
    bench.break_off(id, "models refused the connection");
    let topic = "fl/models/global_model_v3";
    let added = bench.agent.poll_subscribe();
    assert_eq!(
        added,
        Some(Subscription::Add(TopicName::try_from(topic).unwrap()))
    );
    bench.handle(Event::Message {
        topic: "fl/models/global_model_v4",
        payload: b"{}",
    });
    assert!(bench.agent.engine().running.is_empty());
    bench.handle(Event::Message {
        topic,
        payload: b"{\"w\":0}",
    });
    assert_eq!(
        bench.agent.engine().run(Slot(0)).data.model.as_deref(),
        Some(&b"{\"w\":0}"[..])
    );
    let removed = bench.agent.poll_subscribe();
    assert_eq!(
        removed,
        Some(Subscription::Remove(TopicName::try_from(topic).unwrap()))
    );
    end(&mut bench, "{}");
    let id = bench.exchange(UPDATE);
    bench.respond(id, b"");
    assert_eq!(bench.results_until(1400), [envelope("a", "{}")]);
    assert!(bench.arena_is_free());
}

#[test]
fn a_model_that_never_comes_is_an_error_result() {
    let mut bench = bench(SERVICES);
    bench.start(round("a"));
    let id = bench.exchange(MODEL);
    bench.break_off(id, "no answer within 30 s");
    let results = bench.results_until(70_000);
    assert_eq!(results.len(), 1);
    assert_eq!(
        results[0]["error"],
        "model: none came from its registry, nor on its topic within 60 s"
    );
    assert_eq!(results[0]["results"]["update_b64"], "");
    assert!(bench.arena_is_free());
}

#[test]
fn a_data_set_that_is_late_costs_only_the_data_set() {
    let mut bench = bench(SERVICES);
    bench.start(round("a"));
    let id = bench.exchange(MODEL);
    bench.run_until(11_000);
    bench.break_off(id, "models refused the connection");
    bench.agent.poll_subscribe().unwrap();
    bench.run_until(56_000);
    bench.handle(Event::Message {
        topic: "fl/models/global_model_v3",
        payload: b"{}",
    });
    let id = bench.exchange(DATA);
    bench.run_until(115_999);
    assert!(bench.agent.is_wanted(id) && bench.agent.engine().running.is_empty());
    bench.run_until(116_000);
    assert!(!bench.agent.is_wanted(id));
    assert!(bench.agent.engine().run(Slot(0)).data.dataset.is_none());
    end(&mut bench, "{}");
    let id = bench.exchange(UPDATE);
    bench.respond(id, b"");
    assert_eq!(bench.results_until(116_300), [envelope("a", "{}")]);
}

#[test]
fn a_round_has_the_name_that_the_manager_gives_it() {
    let id = "7b2f1c9e-0d3a-4d7e-9a51-2f6a3c1f0b11";
    let mut bench = bench(SERVICES);
    let mut start = round("a");
    start["name"] = json!(format!("fl-round-{id}-{ID}"));
    start["env"]["ROUND_ID"] = json!(id);
    bench.start(start);
    for (url, body) in [(MODEL, "{}"), (DATA, "{}")] {
        let id = bench.exchange(url);
        bench.respond(id, body.as_bytes());
    }
    assert_eq!(bench.agent.engine().run(Slot(0)).export, "main");
    end(&mut bench, "{}");
    let update = bench.exchange(UPDATE);
    bench.respond(update, b"");
    assert_eq!(bench.results_until(1300)[0]["results"]["round_id"], id);
}

#[test]
fn a_round_that_makes_no_topic_is_refused() {
    for (id, found) in [
        ("r#1", "'#'"),
        ("r+", "'+'"),
        ("a/b", "'/'"),
        ("r\u{1}", "'\\u{1}'"),
    ] {
        let mut bench = bench(SERVICES);
        let mut start = round("a");
        start["env"]["ROUND_ID"] = json!(id);
        bench.start(start);
        let results = bench.results_until(1300);
        assert_eq!(
            results[0]["error"],
            format!("ROUND_ID has {found}, which a topic's level can't hold")
        );
    }
}

#[test]
fn a_model_has_a_topic_of_its_own() {
    for uri in [
        "m/t/c/c/control/manager/stop",
        "fl/+/model",
        "$SYS/model",
        "fl/\u{ffff}",
    ] {
        let mut bench = bench(SERVICES);
        let mut start = round("a");
        start["env"]["MODEL_URI"] = json!(uri);
        bench.start(start);
        let (id, _) = bench.agent.poll_request().unwrap();
        bench.break_off(id, "no answer within 30 s");
        assert_eq!(bench.agent.poll_subscribe(), None);
        assert_eq!(
            bench.results_until(1300)[0]["error"],
            "model: no answer within 30 s; MODEL_URI is no topic of a model either"
        );
        assert_eq!(bench.agent.poll_subscribe(), None);
    }
}

#[test]
fn a_refused_fallback_leaves_the_envelope_whole() {
    let mut bench = bench(SERVICES);
    bench.start(round("a"));
    train(&mut bench, "{\"w\":1}");
    let id = bench.exchange(UPDATE);
    bench.break_off(id, "HTTP 503 from coordinator");
    bench.at(1300);
    loop {
        let (publication, topic, _) = bench.poll().unwrap();
        let is_fallback = topic.starts_with("fl/");
        // Not authorized: the topic is outside of the channel.
        let delivery = match is_fallback {
            true => Delivery::Refused,
            false => Delivery::Done,
        };
        bench.handle(Event::Published(publication.token, delivery));
        if is_fallback {
            break;
        }
    }
    assert_eq!(
        bench.results_until(1400),
        [envelope("a", "{\"w\":1}")],
        "without waiting"
    );
    assert!(bench.arena_is_free());
}

#[test]
fn an_update_that_is_none_or_a_trap_is_an_error_in_the_envelope() {
    for (result, output, reason) in [
        (
            Ok(Some(Value::I32(5))),
            None,
            "the update is no JSON object: '5'",
        ),
        (Ok(None), Some("[1]"), "the update is no JSON object: '[1]'"),
        (Err("unreachable"), Some("{}"), "unreachable"),
    ] {
        let mut bench = bench(Services {
            data: "",
            ..SERVICES
        });
        bench.start(round("a"));
        let id = bench.exchange(MODEL);
        bench.respond(id, b"{}");
        let engine = bench.agent.engine_mut();
        let result = result.map_err(|words| engine.trap(words));
        engine.exit_with(Slot(0), result, output);
        let results = bench.results_until(1300);
        assert_eq!(results[0]["error"], reason);
        assert_eq!(results[0]["results"], envelope("a", "")["results"]);
        assert!(bench.agent.poll_request().is_none());
        assert!(bench.arena_is_free());
    }
}

#[test]
fn a_round_can_be_stopped_at_every_step() {
    for steps in 0..3 {
        let mut bench = bench(SERVICES);
        bench.start(round("a"));
        let mut id = bench.exchange(MODEL);
        if steps > 0 {
            bench.respond(id, b"{}");
            id = bench.exchange(DATA);
        }
        if steps > 1 {
            bench.respond(id, b"{}");
            end(&mut bench, "{}");
            id = bench.exchange(UPDATE);
        }
        bench.send("control/manager/stop", json!({"id": "a"}));
        assert!(!bench.agent.is_wanted(id));
        let out = bench.run_until(1500);
        let results: Vec<_> = out
            .iter()
            .filter(|(_, t, _)| t.ends_with("/results"))
            .collect();
        assert_eq!(results.len(), 1);
        // What is done is done: an update that was being posted is not lost.
        let error = results[0].2["error"].as_str();
        assert_eq!(error, (steps < 2).then_some("task stopped"));
        let fallbacks = out.iter().filter(|(_, t, _)| t.starts_with("fl/")).count();
        assert_eq!(fallbacks, usize::from(steps == 2));
        assert!(bench.arena_is_free());
    }
}

#[test]
fn a_shutdown_reports_rounds_too() {
    let mut bench = bench(SERVICES);
    bench.start(round("a"));
    bench.exchange(MODEL);
    bench.handle(Event::Shutdown);
    let results = bench.results_until(1300);
    assert_eq!(results[0]["error"], "proplet is shutting down");
    assert!(bench.agent.is_drained());
}

#[test]
fn a_full_outbox_holds_the_report_back() {
    let mut bench = bench(Services {
        data: "",
        ..SERVICES
    });
    bench.start(round("a"));
    let id = bench.exchange(MODEL);
    bench.respond(id, b"{}");
    end(&mut bench, "{}");
    let id = bench.exchange(UPDATE);
    fill_outbox(&mut bench);
    bench.respond(id, b"");
    assert_eq!(bench.agent.tasks().count(), 1, "its slot is kept");
    bench.handle(Event::Connected);
    let results = bench.results_until(2000);
    assert_eq!(results.len(), 9);
    assert_eq!(results[8], envelope("a", "{}"));
    assert!(bench.arena_is_free());
}
