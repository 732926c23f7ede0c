//! Federated rounds, with services good and bad.

use crate::support::{Coordinator, ECHO, ID, SOON, Server, Stage, reply, start, start_bytes, with};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use proplet_testing::compilers::build_crate;
use serde_json::{Value, json};

fn round(id: &str, extra: &Value) -> Value {
    let env = json!({"ROUND_ID": "r1", "MODEL_URI": "fl/models/global_model_v0"});
    let env = with(env, &extra["env"]);
    start(
        id,
        &format!("fl-round-r1-{ID}"),
        ECHO,
        &json!({ "env": env }),
    )
}

/// The update in an envelope.
fn update(results: &Value) -> Value {
    let text = results["results"]["update_b64"]
        .as_str()
        .expect("an envelope");
    let bytes = BASE64_STANDARD.decode(text).expect("base64");
    serde_json::from_slice(&bytes).unwrap_or(Value::Null)
}

#[test]
fn a_round_goes_to_the_coordinator_and_the_manager() {
    let model = json!({"w": [1.5, -2]});
    let services = Coordinator::start(model.clone(), json!({"data": []}), Vec::new());
    let url = services.server.url("");
    let Some(stage) = Stage::new(&[
        "--model-registry-url",
        &url,
        "--data-store-url",
        &url,
        "--coordinator-url",
        &url,
    ]) else {
        return;
    };
    stage
        .peer
        .publish("control/manager/start", &round("a", &json!({"env": {}})));
    let results = stage.peer.results("a").body;
    assert_eq!(update(&results), model, "{results}");
    assert_eq!(results["results"]["round_id"], "r1");
    assert_eq!(results["results"]["num_samples"], 1);
    assert!(results["error"].is_null());
    let posted = services.server.expect("/update", 1);
    assert_eq!(
        serde_json::from_slice::<Value>(&posted[0].body).unwrap(),
        model
    );
    assert_eq!(services.server.asked(&format!("/datasets/{ID}")).len(), 1);
}

#[test]
fn the_tasks_urls_win_and_a_missing_one_is_named() {
    let Some(stage) = Stage::new(&["--coordinator-url", "http://127.0.0.1:1"]) else {
        return;
    };
    stage
        .peer
        .publish("control/manager/start", &round("none", &json!({"env": {}})));
    let results = stage.peer.results("none").body;
    let error = results["error"].as_str().unwrap_or_default();
    assert!(error.contains("MODEL_REGISTRY_URL is not set"), "{results}");
    let services = Coordinator::start(json!({"w": [0]}), json!({}), Vec::new());
    let url = services.server.url("");
    let env = json!({"env": {"MODEL_REGISTRY_URL": url, "MANAGER_COORDINATOR_URL": url}});
    stage
        .peer
        .publish("control/manager/start", &round("own", &env));
    let results = stage.peer.results("own").body;
    assert_eq!(update(&results), json!({"w": [0]}), "{results}");
}

#[test]
fn a_dead_registry_gives_way_to_the_topic_and_a_dead_coordinator_too() {
    let dead = Server::start(|_, stream| reply(stream, 503, "text/plain", b"not now"));
    let url = dead.url("");
    let Some(stage) = Stage::new(&["--model-registry-url", &url, "--coordinator-url", &url]) else {
        return;
    };
    stage
        .peer
        .publish("control/manager/start", &round("a", &json!({"env": {}})));
    dead.expect("/models/0", 1);
    // Until it has subscribed.
    let mut tries = 0;
    while stage.peer.all_results("a").is_empty() {
        assert!(tries < 100, "the model on its topic is not heard");
        let model = br#"{"w":[3]}"#.to_vec();
        stage.peer.publish_raw("fl/models/global_model_v0", model);
        std::thread::sleep(std::time::Duration::from_millis(100));
        tries += 1;
    }
    let results = stage.peer.results("a").body;
    assert_eq!(update(&results), json!({"w": [3]}), "{results}");
    let topic = format!("fl/rounds/r1/updates/{ID}");
    let told = stage
        .peer
        .expect(SOON, "the update on its topic", |m| m.topic == topic);
    assert_eq!(told.body, json!({"w": [3]}));
}

#[test]
fn a_model_over_the_limit_is_refused_and_neighbours_run_on() {
    let large = Server::start(|_, stream| {
        reply(stream, 200, "application/json", &[b'1'; 5000]);
    });
    let url = large.url("");
    let Some(stage) = Stage::new(&[
        "--model-registry-url",
        &url,
        "--coordinator-url",
        &url,
        "--data-max-bytes",
        "4000",
    ]) else {
        return;
    };
    let env = json!({"env": {"MODEL_URI": "http://no-topic/v1"}});
    stage
        .peer
        .publish("control/manager/start", &round("a", &env));
    let results = stage.peer.results("a").body;
    let error = results["error"].as_str().unwrap_or_default();
    assert!(error.contains("4000"), "{results}");
    assert_eq!(results["results"]["update_b64"], "");
    let body = stage.run("b", crate::support::ADD, &json!({"inputs": ["1", "2"]}));
    assert_eq!(body["results"], "3");
}

#[test]
fn the_guest_of_propellers_demo_trains_within_a_devices_limits() {
    let Some(wasm) = build_crate("logistic") else {
        return;
    };
    let digit = |n: u32| f64::from(n % 10) / 10.0;
    let samples: Vec<Value> = (0..64)
        .map(|n| json!({"x": [digit(n), digit(2 * n), digit(3 * n)], "y": n % 2}))
        .collect();
    let dataset = json!({"schema": "fl-demo-dataset-v1", "proplet_id": ID, "entity_id": ID,
        "data": samples, "size": samples.len()});
    let model = json!({"w": [0, 0, 0], "b": 0, "version": 0});
    let services = Coordinator::start(model, dataset, Vec::new());
    let url = services.server.url("");
    let Some(stage) = Stage::new(&[
        "--model-registry-url",
        &url,
        "--data-store-url",
        &url,
        "--coordinator-url",
        &url,
        // A device's defaults.
        "--data-max-bytes",
        "16384",
        "--result-max-bytes",
        "1024",
        "--stack-bytes",
        "8192",
    ]) else {
        return;
    };
    let name = format!("fl-round-r1-{ID}");
    let env = json!({"ROUND_ID": "r1", "MODEL_URI": "fl/models/global_model_v0",
        "HYPERPARAMS": r#"{"batch_size":16,"epochs":1,"lr":0.01}"#});
    let start = start_bytes("a", &name, &wasm, &json!({ "env": env }));
    stage.peer.publish("control/manager/start", &start);
    let results = stage.peer.results("a").body;
    assert!(results["error"].is_null(), "{results}");
    let update = update(&results);
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{update}"));
    let metrics = &update["metrics"];
    assert!(
        number(&metrics["loss"]) < number(&metrics["loss_before"]),
        "{update}"
    );
    for i in 0..3 {
        assert_ne!(number(&update["update"]["w"][i]), 0.0, "{update}");
    }
    assert_ne!(number(&update["update"]["b"]), 0.0, "{update}");
    assert_eq!(update["num_samples"], samples.len());
    let posted = services.server.expect("/update", 1);
    let posted: Value = serde_json::from_slice(&posted[0].body).expect("JSON");
    assert_eq!(posted, update);
}
