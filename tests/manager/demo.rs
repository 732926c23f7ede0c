//! Propeller's demo of federated learning (`examples/fl-demo`): three proplets, whose guest is
//! `guests/rust/logistic`, train three weights and a bias for five rounds.
//!
//! The manager is the real one, and the models are averaged by Propeller's own package `fl`, in
//! tests/manager/aggregate. The demo's four programs are modules of their own that no module proxy
//! serves, so coordinator, model registry and data store are stand-ins, which answer as the demo's do.
//! Where `PROPELLER_FL_DEMO` names a folder with the four, all of it runs with these too.

use crate::{
    COMPLETED, FAILED, Manager, binary, exchange,
    support::{Broker, Dir, ID, Peer, Proplet, Server, command, free_port, reply, reply_module},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use proplet::module::{hex::to_hex, table::digest};
use proplet_testing::{compilers::build_crate, is_missing, is_missing_unless};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    env, fs,
    io::Write as _,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Rounds of the experiment.
const ROUNDS: usize = 5;

/// Samples of a data set.
const SAMPLES: usize = 64;

const PROPLETS: [&str; 3] = [
    ID,
    // Its samples are negative.
    "6c7c2f5e-0d0b-4f0a-8a39-5e8f0c1d7b02",
    "9d3e8a61-2b7f-4c55-b6d1-7f20a94e3c03",
];

/// The proplet that reaches the manager alone: its updates go through there.
const THROUGH_MANAGER: &str = PROPLETS[2];

/// A time by which anything of a round has happened.
const PATIENCE: Duration = Duration::from_secs(20);

struct Sample {
    x: [f64; 3],
    y: f64,
}

/// A data set as the demo's store makes it, from a hash of the proplet's id. Go's remainder has the
/// sign of its dividend, as Rust's: features and labels may be negative.
fn samples(proplet: &str) -> Vec<Sample> {
    let hash = proplet.chars().fold(0_i64, |hash, c| {
        hash.wrapping_mul(31).wrapping_add(i64::from(u32::from(c)))
    });
    let sample = |i| {
        let seed = hash.wrapping_add(i) % 1000;
        Sample {
            x: [1, 2, 3].map(|n| (seed * n % 10) as f64 / 10.0),
            y: (seed % 2) as f64,
        }
    };
    (0..SAMPLES as i64).map(sample).collect()
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Model {
    w: [f64; 3],
    b: f64,
}

fn number(json: &Value) -> f64 {
    json.as_f64()
        .unwrap_or_else(|| panic!("expected a number, found {json}"))
}

impl Model {
    fn from_json(json: &Value) -> Self {
        let weights = json["w"].as_array().map(Vec::len);
        assert_eq!(weights, Some(3), "{json}");
        Self {
            w: [0, 1, 2].map(|i| number(&json["w"][i])),
            b: number(&json["b"]),
        }
    }

    /// Mean logistic loss.
    fn loss<'s>(&self, samples: impl IntoIterator<Item = &'s Sample>) -> f64 {
        let (mut count, mut sum) = (0.0, 0.0);
        for Sample { x, y } in samples {
            let products = self.w.iter().zip(x).map(|(w, x)| w * x);
            let z = products.sum::<f64>() + self.b;
            sum += z.exp().ln_1p() - y * z;
            count += 1.0;
        }
        sum / count
    }

    fn numbers(&self) -> [f64; 4] {
        let [w0, w1, w2] = self.w;
        [w0, w1, w2, self.b]
    }
}

/// One of the demo's programs.
struct Program {
    name: &'static str,
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Program {
    /// Starts it at a free port, which `port` names, and waits until it answers. They listen on all
    /// addresses and can't be told another.
    fn start(
        folder: &Path,
        dir: &Dir,
        name: &'static str,
        port: &str,
        env: &[(&str, &str)],
    ) -> Self {
        let (number, log) = (free_port(), dir.path(name).with_extension("log"));
        let output = fs::File::create(&log).expect("a log");
        let child = Command::new(folder.join(name))
            .env(port, number.to_string())
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let program = Self {
            name,
            child,
            port: number,
            log,
        };
        wait(name, || exchange(number, "GET", "/health", None));
        program
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself; either way it's gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            println!("---- {}\n{log}", self.name);
        }
    }
}

/// A round of the stand-in for the coordinator.
struct Round {
    quorum: usize,
    updates: Vec<Value>,
    is_complete: bool,
}

/// Stands in for the demo's coordinator, model registry and data store. It is stricter with updates:
/// the demo's coordinator makes up a round that it doesn't know, and takes an update without samples.
struct StandIn {
    /// The program that averages models.
    aggregate: PathBuf,
    rounds: HashMap<String, Round>,
    models: Vec<Value>,
}

impl StandIn {
    /// With data for these proplets.
    fn start(aggregate: PathBuf, seeded: &'static [&'static str]) -> Server {
        // The registry adds the version to the first model, and only there.
        let first = json!({"w": [0, 0, 0], "b": 0, "version": 0});
        let state = Mutex::new(Self {
            aggregate,
            rounds: HashMap::new(),
            models: vec![first],
        });
        Server::start(move |request, stream| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let path: Vec<&str> = request.path.split('/').skip(1).collect();
            let body = || serde_json::from_slice(&request.body).unwrap_or_default();
            match (request.method.as_str(), &path[..]) {
                ("GET", ["models", version]) => match version.parse::<usize>() {
                    Ok(version) => found(stream, state.models.get(version)),
                    Err(_) => reply(stream, 400, "text/plain", b"Invalid version"),
                },
                ("GET", ["datasets", proplet]) => {
                    let is_seeded = seeded.contains(proplet);
                    found(stream, is_seeded.then(|| dataset(proplet)).as_ref());
                }
                ("POST", ["experiments"]) => state.experiment(stream, &body()),
                ("POST", ["update"]) => state.update(stream, body()),
                ("GET", ["rounds", "next"]) => answer(stream, 200, &state.next()),
                ("GET", ["rounds", id, "complete"]) => {
                    let status = state.rounds.get(*id).map(|round| {
                        json!({"round_id": id, "completed": round.is_complete,
                            "num_updates": round.updates.len()})
                    });
                    found(stream, status.as_ref());
                }
                _ => found(stream, None),
            }
        })
    }

    fn experiment(&mut self, stream: &mut TcpStream, config: &Value) {
        let Some(id) = config["round_id"].as_str().filter(|id| !id.is_empty()) else {
            return reply(stream, 400, "text/plain", b"round_id is required");
        };
        let quorum = config["k_of_n"].as_u64().filter(|k| *k > 0).unwrap_or(3);
        let round = Round {
            quorum: quorum as usize,
            updates: Vec::new(),
            is_complete: false,
        };
        self.rounds.insert(id.into(), round);
        let created = json!({"experiment_id": config["experiment_id"], "round_id": id,
            "status": "configured", "model_version": 0});
        answer(stream, 201, &created);
    }

    fn update(&mut self, stream: &mut TcpStream, update: Value) {
        let is_named = |key: &str| update[key].as_str().is_some_and(|id| !id.is_empty());
        let is_some = update["update"].as_object().is_some_and(|u| !u.is_empty());
        let is_number = update["num_samples"].is_u64();
        let is_whole = is_named("round_id") && is_named("proplet_id") && is_some && is_number;
        let id = update["round_id"].as_str().unwrap_or_default();
        let Some(round) = self.rounds.get_mut(id).filter(|_| is_whole) else {
            return reply(stream, 400, "text/plain", b"no update of a round");
        };
        if !round.is_complete {
            round.updates.push(update);
            if round.updates.len() >= round.quorum {
                round.is_complete = true;
                self.models.push(average(&self.aggregate, &round.updates));
            }
        }
        answer(stream, 200, &json!({"status": "accepted"}));
    }

    fn next(&self) -> Value {
        let version = self.models.len() - 1;
        json!({"next_round_available": version > 0, "new_model_version": version,
            "model_uri": format!("fl/models/global_model_v{version}")})
    }
}

fn answer(stream: &mut TcpStream, status: u16, body: &Value) {
    let body = body.to_string();
    reply(stream, status, "application/json", body.as_bytes());
}

/// The value, if there is one.
fn found(stream: &mut TcpStream, value: Option<&Value>) {
    match value {
        Some(value) => answer(stream, 200, value),
        None => reply(stream, 404, "text/plain", b"not found"),
    }
}

fn dataset(proplet: &str) -> Value {
    let data: Vec<Value> = samples(proplet)
        .iter()
        .map(|sample| json!({"x": sample.x, "y": sample.y}))
        .collect();
    json!({"schema": "fl-demo-dataset-v1", "proplet_id": proplet, "entity_id": proplet,
        "size": data.len(), "data": data})
}

/// The model that `aggregate` makes of these updates.
fn average(aggregate: &Path, updates: &[Value]) -> Value {
    let mut child = Command::new(aggregate)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the aggregator starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    let round = json!({"updates": updates}).to_string();
    stdin.write_all(round.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("its output");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("a model is JSON")
}

/// The services of an experiment.
struct Services {
    coordinator: String,
    models: String,
    data: String,
    // Dropped before their folder.
    _programs: Vec<Program>,
    _stand_in: Option<Server>,
    _dir: Dir,
}

impl Services {
    fn stand_in(aggregate: PathBuf, seeded: &'static [&'static str]) -> Self {
        let server = StandIn::start(aggregate, seeded);
        Self {
            coordinator: server.url(""),
            models: server.url(""),
            data: server.url(""),
            _programs: Vec::new(),
            _stand_in: Some(server),
            _dir: Dir::new(),
        }
    }

    /// The demo's own, from the folder of their programs, with data for these proplets.
    fn of_demo(folder: &Path, broker: u16, seeded: &[&str]) -> Self {
        let dir = Dir::new();
        let at = |name: &str| dir.path(name).display().to_string();
        let registry = Program::start(
            folder,
            &dir,
            "model-registry",
            "REGISTRY_PORT",
            &[("MODELS_DIR", &at("models"))],
        );
        let store = Program::start(
            folder,
            &dir,
            "local-data-store",
            "DATA_STORE_PORT",
            &[
                ("DATA_DIR", &at("datasets")),
                ("FL_DATASET_PARTICIPANTS", &seeded.join(",")),
            ],
        );
        let aggregator = Program::start(folder, &dir, "aggregator", "AGGREGATOR_PORT", &[]);
        let coordinator = Program::start(
            folder,
            &dir,
            "coordinator-http",
            "COORDINATOR_PORT",
            &[
                ("MODEL_REGISTRY_URL", &registry.url()),
                ("AGGREGATOR_URL", &aggregator.url()),
                ("MQTT_BROKER", &format!("tcp://127.0.0.1:{broker}")),
                ("MQTT_ENTITY_ID", "coordinator"),
            ],
        );
        Self {
            coordinator: coordinator.url(),
            models: registry.url(),
            data: store.url(),
            _programs: vec![coordinator, aggregator, store, registry],
            _stand_in: None,
            _dir: dir,
        }
    }
}

/// What GET of `url` has; `None` unless it is a success.
fn get(url: &str) -> Option<Value> {
    let (port, path) = url
        .strip_prefix("http://127.0.0.1:")
        .and_then(|rest| rest.split_once('/'))
        .unwrap_or_else(|| panic!("{url} is not of this machine"));
    let port = port.parse().expect("a port");
    let (status, body) = exchange(port, "GET", &format!("/{path}"), None)?;
    (status == 200).then_some(body)
}

/// Asks until there is something.
fn wait<T>(what: &str, ask: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not after {PATIENCE:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn join(broker: u16, id: &str, services: &Services, coordinator: &str) -> Proplet {
    let mut command = command(env!("CARGO_BIN_EXE_proplet"));
    let url = format!("mqtt://127.0.0.1:{broker}");
    command.args(["join", "--broker", &url, "--id", id, "--key", "secret"]);
    command.args(["--tenant", crate::TENANT, "--channel", crate::CHANNEL]);
    command.args(["--model-registry-url", &services.models]);
    command.args(["--data-store-url", &services.data]);
    command.args(["--coordinator-url", coordinator]);
    Proplet::spawn(command, None)
}

/// Manager, proplets and services of an experiment.
struct Demo {
    // Dropped in this order: the proplets go first.
    proplets: Vec<Proplet>,
    manager: Manager,
    services: Services,
    /// Hears what goes to the topics of federated learning.
    listener: Peer,
    /// The guest, with its digest.
    image: String,
    _images: Server,
    _broker: Broker,
}

impl Demo {
    /// Starts all of it, with the services that `services` makes for a broker's port.
    fn start(services: impl FnOnce(u16) -> Services) -> Option<Self> {
        let found = binary("PROPELLER_MANAGER", "manager");
        let remedy = "see tests/manager, and set PROPELLER_MANAGER to the binary";
        if is_missing(found.is_some(), "Propeller manager", remedy) {
            return None;
        }
        let wasm = build_crate("logistic")?;
        let broker = Broker::start(None)?;
        let hex = to_hex(&digest(&wasm));
        let images = Server::start(move |_, stream| reply_module(stream, &wasm));
        let services = services(broker.port);
        let env = [("MANAGER_COORDINATOR_URL", services.coordinator.as_str())];
        let manager = Manager::start(&found?, broker.port, &env);
        let through_manager = format!("http://127.0.0.1:{}/fl", manager.port);
        let proplets = PROPLETS.map(|id| {
            let coordinator = match id {
                THROUGH_MANAGER => &through_manager,
                _ => &services.coordinator,
            };
            join(broker.port, id, &services, coordinator)
        });
        manager.await_get("/proplets", "the proplets are alive", |page| {
            let found = page["proplets"].as_array().into_iter().flatten();
            found.filter(|p| p["alive"] == true).count() == PROPLETS.len()
        });
        Some(Self {
            proplets: proplets.into(),
            manager,
            services,
            listener: Peer::connect(broker.port, "listener", None),
            image: images.url(&format!("/guest.wasm@sha256:{hex}")),
            _images: images,
            _broker: broker,
        })
    }

    /// Lets the manager start a round, as the demo's README does, and returns its tasks in the order
    /// of [`PROPLETS`] once all have ended.
    fn round(&self, round: &str, model_uri: &str, quorum: usize) -> Vec<Value> {
        let config = json!({"experiment_id": format!("exp-{round}"), "round_id": round,
            "model_ref": model_uri, "participants": PROPLETS,
            "hyperparams": {"epochs": 1, "lr": 0.01, "batch_size": 16}, "k_of_n": quorum,
            "timeout_s": 60, "task_wasm_image": self.image});
        self.manager.ask("POST", "/fl/experiments", Some(&config));
        let names = PROPLETS.map(|id| format!("fl-round-{round}-{id}"));
        let of_round = |page: &Value| -> Vec<Value> {
            let place = |t: &Value| names.iter().position(|name| t["name"] == **name);
            let tasks = page["tasks"].as_array().into_iter().flatten();
            let mut ended: Vec<_> = tasks
                .filter(|t| t["state"].as_u64() >= Some(COMPLETED))
                .filter_map(|t| Some((place(t)?, t.clone())))
                .collect();
            ended.sort_by_key(|(place, _)| *place);
            ended.into_iter().map(|(_, task)| task).collect()
        };
        let what = "the round's tasks have ended";
        let page = self.manager.await_get("/tasks?limit=100", what, |page| {
            of_round(page).len() >= PROPLETS.len()
        });
        let tasks = of_round(&page);
        assert_eq!(tasks.len(), PROPLETS.len(), "{tasks:?}");
        tasks
    }

    /// The model of a version, if the registry has it.
    fn model(&self, version: usize) -> Option<Model> {
        let model = get(&format!("{}/models/{version}", self.services.models))?;
        Some(Model::from_json(&model))
    }

    /// That the coordinator has made this version's model, of so many updates of a round; returns its
    /// URI for the next.
    fn assert_complete(&self, round: &str, updates: usize, version: usize) -> String {
        let coordinator = &self.services.coordinator;
        // Not of the manager, which forwards this: it looks for another shape than the demo answers.
        let status = get(&format!("{coordinator}/rounds/{round}/complete"));
        let status = status.expect("the coordinator knows the round");
        assert_eq!(status["completed"], true, "{status}");
        assert_eq!(status["num_updates"], updates, "{status}");
        let next = get(&format!("{coordinator}/rounds/next")).expect("the coordinator says");
        assert_eq!(next["next_round_available"], true, "{next}");
        assert_eq!(next["new_model_version"], version, "{next}");
        let uri = format!("fl/models/global_model_v{version}");
        assert_eq!(next["model_uri"], uri, "{next}");
        // No update went to the topic that is there for when the coordinator does not take it.
        let told = self.listener.all(|m| m.topic.contains("/updates/"));
        assert_eq!(told.len(), 0, "{told:?}");
        uri
    }
}

/// The update in a task's envelope.
fn update(task: &Value, round: &str, proplet: &str, model_uri: &str) -> Value {
    assert_eq!(task["state"], COMPLETED, "{task}");
    assert!(task["error"].is_null(), "{task}");
    let envelope = &task["results"];
    assert_eq!(envelope["round_id"], round, "{task}");
    assert_eq!(envelope["proplet_id"], proplet, "{task}");
    assert_eq!(envelope["task_id"], task["id"], "{task}");
    let bytes = BASE64_STANDARD
        .decode(envelope["update_b64"].as_str().unwrap_or_default())
        .expect("base64");
    let update: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(update["round_id"], round);
    assert_eq!(update["proplet_id"], proplet);
    assert_eq!(update["base_model_uri"], model_uri);
    assert_eq!(update["num_samples"], SAMPLES);
    update
}

fn assert_near(what: &str, said: f64, is: f64) {
    assert!((said - is).abs() < 1e-11, "{what}: {said}, but is {is}");
}

/// That the next model is the mean of what these have learnt.
fn assert_mean(next: &Model, of: &[Model]) {
    let mut mean = [0.0; 4];
    for model in of {
        for (mean, number) in mean.iter_mut().zip(model.numbers()) {
            *mean += number / of.len() as f64;
        }
    }
    for (said, is) in next.numbers().into_iter().zip(mean) {
        assert_near("the mean", said, is);
        assert_ne!(said, 0.0, "{next:?}");
    }
}

/// Round after round, each with the model that the coordinator names after the one before.
fn trains_for_five_rounds(demo: &Demo) {
    let data = PROPLETS.map(samples);
    let mut model_uri = String::from("fl/models/global_model_v0");
    let mut model = demo.model(0).expect("a model to begin with");
    assert_eq!(model.numbers(), [0.0; 4]);
    for version in 1..=ROUNDS {
        let round = format!("r-{version}");
        assert_eq!(demo.model(version), None, "a model before its round");
        let tasks = demo.round(&round, &model_uri, 3);
        let mut trained = Vec::new();
        for ((task, proplet), samples) in tasks.iter().zip(PROPLETS).zip(&data) {
            let update = update(task, &round, proplet, &model_uri);
            let after = Model::from_json(&update["update"]);
            let metrics = &update["metrics"];
            let before = number(&metrics["loss_before"]);
            assert_near("loss_before", before, model.loss(samples));
            assert_near("loss", number(&metrics["loss"]), after.loss(samples));
            trained.push(after);
        }
        let next = wait("the round's model", || demo.model(version));
        assert_mean(&next, &trained);
        let union = || data.iter().flatten();
        let (before, after) = (model.loss(union()), next.loss(union()));
        assert!(after < before, "{round}: from {before} to {after}");
        model_uri = demo.assert_complete(&round, PROPLETS.len(), version);
        model = next;
    }
    assert_eq!(demo.model(ROUNDS + 1), None, "a model of no round");
}

/// A guest without data does not make some up, as the demo's client does: its task fails, and the
/// round is of the others.
fn goes_on_without_a_proplet_that_has_no_data(demo: &Demo) {
    let tasks = demo.round("r-1", "fl/models/global_model_v0", 2);
    let mut trained = Vec::new();
    for (task, proplet) in tasks.iter().zip(PROPLETS) {
        if proplet == THROUGH_MANAGER {
            assert_eq!(task["state"], FAILED, "{task}");
            let error = task["error"].as_str().unwrap_or_default();
            assert!(error.contains("DATASET_DATA: there is none"), "{task}");
            assert_eq!(task["results"]["update_b64"], "", "{task}");
        } else {
            let update = update(task, "r-1", proplet, "fl/models/global_model_v0");
            trained.push(Model::from_json(&update["update"]));
        }
    }
    let next = wait("the round's model", || demo.model(1));
    assert_mean(&next, &trained);
    demo.assert_complete("r-1", 2, 1);
    let log = demo.proplets[2].logged("404");
    assert!(log > 0, "the missing data set is in the log");
}

/// A demo whose coordinator, registry and store are stand-ins, with data for these proplets.
fn with_stand_in(seeded: &'static [&'static str]) -> Option<Demo> {
    let aggregate = binary("PROPELLER_AGGREGATE", "aggregate");
    let remedy = "see tests/manager, and set PROPELLER_AGGREGATE to the binary";
    if is_missing(aggregate.is_some(), "aggregator of Propeller's", remedy) {
        return None;
    }
    Demo::start(|_| Services::stand_in(aggregate.expect("it is there"), seeded))
}

/// A demo with its own services.
fn with_its_services(seeded: &[&str]) -> Option<Demo> {
    let folder = env::var_os("PROPELLER_FL_DEMO").map(PathBuf::from);
    let remedy = "set PROPELLER_FL_DEMO to the folder of the four programs";
    let peer = "services of Propeller's fl-demo";
    if is_missing_unless("PROPLET_REQUIRE_FL_DEMO", folder.is_some(), peer, remedy) {
        return None;
    }
    Demo::start(|broker| Services::of_demo(&folder.expect("it is set"), broker, seeded))
}

#[test]
fn the_demos_model_is_trained_for_five_rounds() {
    if let Some(demo) = with_stand_in(&PROPLETS) {
        trains_for_five_rounds(&demo);
    }
}

#[test]
fn a_round_goes_on_without_a_proplet_that_has_no_data() {
    if let Some(demo) = with_stand_in(&PROPLETS[..2]) {
        goes_on_without_a_proplet_that_has_no_data(&demo);
    }
}

#[test]
fn the_demos_services_train_for_five_rounds() {
    if let Some(demo) = with_its_services(&PROPLETS) {
        trains_for_five_rounds(&demo);
    }
}

#[test]
fn the_demos_services_go_on_without_a_proplet_that_has_no_data() {
    if let Some(demo) = with_its_services(&PROPLETS[..2]) {
        goes_on_without_a_proplet_that_has_no_data(&demo);
    }
}
