//! Federated rounds of `guests/rust/linear`, which the manager starts for an experiment.

use crate::{
    COMPLETED, FAILED, Stage,
    support::{Coordinator, Dir, ID},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use proplet::module::{hex::to_hex, table::digest};
use proplet_testing::compilers::{build_crate, guests};
use serde_json::{Value, json};
use std::fs;

/// Rounds of the experiment.
const ROUNDS: usize = 5;

/// Speed in 10 mph and stopping distance in 10 ft.
type Sample = [f64; 2];

fn cars() -> Vec<Sample> {
    let file = guests().join("rust/linear/cars.json");
    let text = fs::read_to_string(file).expect("the cars are there");
    serde_json::from_str(&text).expect("they are pairs")
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

fn mean_squared_error([w0, w1]: [f64; 2], samples: &[Sample]) -> f64 {
    mean(samples.iter().map(|[x, y]| (w0 + w1 * x - y).powi(2)))
}

/// The least squares' solution.
fn best(samples: &[Sample]) -> [f64; 2] {
    let [x, y] = [0, 1].map(|i| mean(samples.iter().map(|s| s[i])));
    let covariance = mean(samples.iter().map(|s| (s[0] - x) * (s[1] - y)));
    let slope = covariance / mean(samples.iter().map(|s| (s[0] - x).powi(2)));
    [y - slope * x, slope]
}

fn number(json: &Value) -> f64 {
    json.as_f64()
        .unwrap_or_else(|| panic!("expected a number, found {json}"))
}

/// Manager, proplet and the services of an experiment.
struct Experiment {
    stage: Stage,
    services: Coordinator,
    /// The guest, with its digest.
    image: String,
    /// The proplet's store.
    _dir: Dir,
}

impl Experiment {
    fn new(model: Value, samples: &[Sample]) -> Option<Self> {
        let wasm = build_crate("linear")?;
        let hex = to_hex(&digest(&wasm));
        let dataset = json!({"schema": "fl-demo-dataset-v1", "proplet_id": ID, "data": samples,
            "size": samples.len()});
        let services = Coordinator::start(model, dataset, wasm);
        let image = services.server.url(&format!("/guest.wasm@sha256:{hex}"));
        let (url, dir) = (services.server.url(""), Dir::new());
        let store = dir.path("store");
        let args = [
            "--model-registry-url",
            &url,
            "--data-store-url",
            &url,
            "--coordinator-url",
            &url,
            "--store",
            store.to_str().expect("the folder's name is text"),
        ];
        let stage = Stage::with_manager(&args, &[("MANAGER_COORDINATOR_URL", &url)])?;
        Some(Self {
            stage,
            services,
            image,
            _dir: dir,
        })
    }

    /// Lets the manager start a round, and returns the task that it makes of it, once it has ended.
    fn round(&self, index: usize) -> Value {
        let round = format!("r{index}");
        let manager = &self.stage.manager;
        let config = json!({"experiment_id": "cars", "round_id": round,
            "model_ref": format!("fl/models/global_model_v{index}"), "participants": [ID],
            "hyperparams": {"rate": 0.1, "steps": 20}, "k_of_n": 1, "timeout_s": 30,
            "task_wasm_image": self.image});
        manager.ask("POST", "/fl/experiments", Some(&config));
        let name = format!("fl-round-{round}-{ID}");
        let of_round = |page: &Value| -> Vec<Value> {
            let tasks = page["tasks"].as_array().into_iter().flatten();
            tasks.filter(|t| t["name"] == name).cloned().collect()
        };
        let page = manager.await_get("/tasks", "the round has a task", |page| {
            !of_round(page).is_empty()
        });
        let [task] = &of_round(&page)[..] else {
            panic!("{name} is there more than once: {page}");
        };
        let id = task["id"].as_str().expect("a task has an id");
        self.stage.ended(id)
    }
}

#[test]
fn a_model_learns_from_round_to_round() {
    let samples = cars();
    let Some(experiment) = Experiment::new(json!({"w": [0, 0]}), &samples) else {
        return;
    };
    let best = best(&samples);
    let mut w = [0.0, 0.0];
    for index in 0..ROUNDS {
        let task = experiment.round(index);
        assert_eq!(task["state"], COMPLETED, "{task}");
        assert!(task["error"].is_null(), "{task}");
        let updates = experiment.services.aggregate(index + 1);
        let [update] = &updates[..] else {
            panic!("expected one update, found {updates:?}");
        };
        assert_eq!(update["round_id"], format!("r{index}"));
        assert_eq!(update["proplet_id"], ID);
        assert_eq!(update["num_samples"], samples.len());

        // The manager has the same, in an envelope.
        let envelope = &task["results"];
        assert_eq!(envelope["round_id"], update["round_id"], "{task}");
        assert_eq!(envelope["format"], "f32-delta", "{task}");
        let bytes = BASE64_STANDARD
            .decode(envelope["update_b64"].as_str().unwrap_or_default())
            .expect("base64");
        let enveloped: Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(enveloped, *update);

        // The losses are those of the models before and after, and fall.
        let next = [0, 1].map(|i| w[i] + number(&update["update"]["w"][i]));
        let (before, after) = (
            mean_squared_error(w, &samples),
            mean_squared_error(next, &samples),
        );
        for (key, is) in [("loss_before", before), ("loss", after)] {
            let said = number(&update["metrics"][key]);
            assert!((said - is).abs() < 1e-3 * is, "{key}: {said}, but is {is}");
        }
        assert!(after < before, "round {index}: from {before} to {after}");
        let far = |w: [f64; 2]| (w[1] - best[1]).abs();
        assert!(
            far(next) < far(w),
            "from {w:?} to {next:?}, away from {best:?}"
        );
        w = next;
    }
    let (least, loss) = (
        mean_squared_error(best, &samples),
        mean_squared_error(w, &samples),
    );
    assert!(
        least < loss && loss < 1.05 * least,
        "{loss}, at least {least}"
    );
    // Its digest is known from the first round on.
    let services = &experiment.services.server;
    assert_eq!(services.asked("/guest.wasm").len(), 1);
    assert_eq!(services.asked("/experiments").len(), ROUNDS);
}

#[test]
fn a_model_that_is_none_fails_the_round_and_says_so() {
    let Some(experiment) = Experiment::new(json!({"w": [0]}), &cars()) else {
        return;
    };
    let task = experiment.round(0);
    assert_eq!(task["state"], FAILED, "{task}");
    let error = task["error"].as_str().unwrap_or_default();
    let words = r#"'MODEL_DATA: expected {"w":[w0,w1]}'"#;
    assert!(error.contains(words), "no {words} in {task}");
    assert_eq!(task["results"]["update_b64"], "", "{task}");
    let posted = experiment.services.server.asked("/update");
    assert!(posted.is_empty(), "{posted:?}");
}
