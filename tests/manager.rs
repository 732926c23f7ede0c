//! The proplet with the real Propeller manager, over the same mosquitto.
//!
//! The manager's binary is named by `PROPELLER_MANAGER`, or lies in `target/peers`, or is found as
//! `propeller-manager` on the path.

mod support;

use proplet_testing::{is_missing, say_skipped};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use support::{
    ADD, Broker, CHANNEL, Dir, ID, LOOP, Message, Peer, Proplet, Proxy, SOON, TENANT, base64,
    chunks, free_port, host as subject, wasm, with,
};

/// Experiments of the manager's coordinator, Propeller's demo of them, and the registry's proxy.
mod manager {
    mod demo;
    mod proxy;
    mod rounds;
}

const COMPLETED: u64 = 3;
const FAILED: u64 = 4;
const SKIPPED: u64 = 5;

/// The binary that `variable` names, or else `target/peers` or the path has.
fn binary(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable).map(PathBuf::from) {
        // Relative paths are the caller's, and tests run elsewhere.
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        return [root.join(&path), path].into_iter().find(|p| p.is_file());
    }
    let peers = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../peers");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = std::env::split_paths(&path).map(|dir| dir.join(format!("propeller-{name}")));
    [peers, root]
        .iter()
        .flat_map(|dir| [dir.join(format!("propeller-{name}")), dir.join(name)])
        .chain(named)
        .find(|file| file.is_file())
}

/// Status and body of an answer over HTTP; `None` if nothing listens at `port`.
fn exchange(port: u16, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    // The manager itself waits 30 s for an invocation.
    stream
        .set_read_timeout(Some(Duration::from_secs(40)))
        .ok()?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).expect("the answer is UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).unwrap_or(json!(body))))
}

/// The manager as a child.
struct Manager {
    child: Child,
    port: u16,
    dir: Dir,
}

impl Manager {
    /// With further variables of its environment.
    fn start(binary: &Path, broker: u16, env: &[(&str, &str)]) -> Self {
        let (dir, port) = (Dir::new(), free_port());
        let log = File::create(dir.path("manager.log")).expect("a log");
        let child = Command::new(binary)
            // Names of two releases.
            .env("MANAGER_TENANT_ID", TENANT)
            .env("MANAGER_DOMAIN_ID", TENANT)
            .env("MANAGER_ENTITY_ID", "manager")
            .env("MANAGER_CLIENT_ID", "manager")
            .env("MANAGER_API_KEY", "secret")
            .env("MANAGER_CLIENT_KEY", "secret")
            .env("MANAGER_CHANNEL_ID", CHANNEL)
            .env("MANAGER_MQTT_ADDRESS", format!("tcp://127.0.0.1:{broker}"))
            .env("MANAGER_HTTP_HOST", "127.0.0.1")
            .env("MANAGER_HTTP_PORT", port.to_string())
            .env("MANAGER_STORAGE_TYPE", "memory")
            .env("MANAGER_LOG_LEVEL", "debug")
            .envs(env.iter().copied())
            .current_dir(dir.path(""))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the manager starts");
        let mut manager = Self { child, port, dir };
        let deadline = Instant::now() + Duration::from_secs(20);
        while manager.try_call("GET", "/health", None).is_none() {
            let ended = manager.child.try_wait().expect("its state");
            assert!(ended.is_none(), "the manager ended: {}", manager.log());
            assert!(
                Instant::now() < deadline,
                "the manager does not listen after 20 s: {}",
                manager.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
        manager
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path("manager.log")).unwrap_or_default()
    }

    /// Status and body of an answer; `None` if it does not listen.
    fn try_call(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        exchange(self.port, method, path, body)
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.try_call(method, path, body)
            .unwrap_or_else(|| panic!("{method} {path}: no answer: {}", self.log()))
    }

    /// The answer's body; fails if it is no success.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, answer) = self.call(method, path, body);
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {answer}"
        );
        answer
    }

    fn get(&self, path: &str) -> Value {
        self.ask("GET", path, None)
    }

    /// Asks until the answer is `wanted`.
    fn await_get(&self, path: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.get(path);
            if wanted(&answer) {
                return answer;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: not so after 20 s, but {answer}"
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Manager {
    fn end(&mut self) {
        // It may have ended by itself; either way it's gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.end();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            println!("---- the manager's log");
            for line in &lines[lines.len().saturating_sub(20)..] {
                println!("{}", line.chars().take(300).collect::<String>());
            }
        }
    }
}

/// A proplet that the manager holds for alive.
struct Stage {
    proplet: Proplet,
    manager: Manager,
    /// Listens only, and plays the registry's proxy.
    peer: Peer,
    /// Between the proplet and the broker.
    proxy: Proxy,
    broker: Broker,
}

impl Stage {
    fn new(args: &[&str]) -> Option<Self> {
        Self::with_manager(args, &[])
    }

    /// With further variables of the manager's environment.
    fn with_manager(args: &[&str], env: &[(&str, &str)]) -> Option<Self> {
        let binary = binary("PROPELLER_MANAGER", "manager");
        let remedy = "see tests/manager, and set PROPELLER_MANAGER to the binary";
        if is_missing(binary.is_some(), "Propeller manager", remedy) {
            return None;
        }
        let broker = Broker::start(None)?;
        let peer = Peer::connect(broker.port, "proxy", None);
        let manager = Manager::start(&binary?, broker.port, env);
        let proxy = Proxy::start(broker.port);
        let proplet = Proplet::join(proxy.port, args);
        manager.await_get("/proplets", "the proplet is alive", |page| {
            let found = page["proplets"].as_array().into_iter().flatten();
            found.clone().any(|p| p["id"] == ID && p["alive"] == true)
        });
        Some(Self {
            proplet,
            manager,
            peer,
            proxy,
            broker,
        })
    }

    /// Creates a task of the module `text`, and returns its id.
    fn create(&self, text: &str, extra: &Value) -> String {
        let task = with(json!({"name": "main", "file": base64(&wasm(text))}), extra);
        let created = self.manager.ask("POST", "/tasks", Some(&task));
        let id = created["id"].as_str();
        id.unwrap_or_else(|| panic!("a task without an id: {created}"))
            .into()
    }

    fn start(&self, id: &str) {
        self.manager
            .ask("POST", &format!("/tasks/{id}/start"), None);
    }

    /// The task once it has ended.
    fn ended(&self, id: &str) -> Value {
        let path = format!("/tasks/{id}");
        self.manager.await_get(&path, "the task has ended", |task| {
            task["state"].as_u64() >= Some(COMPLETED)
        })
    }

    fn run(&self, text: &str, extra: &Value) -> Value {
        let id = self.create(text, extra);
        self.start(&id);
        self.ended(&id)
    }
}

fn assert_completed(task: &Value, results: &str) {
    assert_eq!(task["state"], COMPLETED, "{task}");
    assert_eq!(task["results"], results, "{task}");
    assert!(task["error"].is_null(), "{task}");
}

fn assert_failed(task: &Value, words: &str) {
    assert_eq!(task["state"], FAILED, "{task}");
    let error = task["error"].as_str().unwrap_or_default();
    assert!(error.contains(words), "no '{words}' in {task}");
}

#[test]
fn the_manager_lists_the_proplet_with_what_it_says_of_itself() {
    let Some(stage) = Stage::new(&["--description", "a test", "--tags", "red,blue"]) else {
        return;
    };
    let proplet = stage.manager.get(&format!("/proplets/{ID}"));
    assert_eq!(proplet["alive"], true, "{proplet}");
    let metadata = &proplet["metadata"];
    assert_eq!(metadata["description"], "a test");
    assert_eq!(metadata["tags"], json!(["red", "blue"]));
    assert_eq!(metadata["wasm_runtime"], "wamr");
    assert_eq!(metadata["cpu_arch"], std::env::consts::ARCH);
    // Not total_memory_bytes: the manager looks for Go integers, and JSON gives it floats.
    // Alive all the time, with the default heartbeat.
    let until = Instant::now() + Duration::from_secs(11);
    while Instant::now() < until {
        let proplet = stage.manager.get(&format!("/proplets/{ID}"));
        assert_eq!(proplet["alive"], true, "{proplet}");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn tasks_complete_fail_and_are_stopped() {
    let Some(stage) = Stage::new(&[]) else { return };
    let sum = stage.run(ADD, &json!({"name": "add", "inputs": ["20", "22"]}));
    assert_completed(&sum, "42");
    let results = stage
        .manager
        .get(&format!("/tasks/{}/results", sum["id"].as_str().unwrap()));
    assert_eq!(results["results"], "42");
    // The manager passes numbers on as strings.
    assert_completed(&stage.run(ADD, &json!({"inputs": [1, -3]})), "-2");

    let trap = r#"(module (func (export "main") unreachable))"#;
    assert_failed(&stage.run(trap, &json!({})), "unreachable");
    assert_failed(
        &stage.run(ADD, &json!({"inputs": ["1"]})),
        "expected 2 arguments but got 1",
    );
    let deadline = json!({"env": {"PROPLET_DEADLINE_MS": "300"}});
    assert_failed(&stage.run(LOOP, &deadline), "deadline of 300 ms exceeded");
    let bad = json!({"file": base64(b"\0asm\x01\0\0\0garbage")});
    assert_failed(&stage.run(ADD, &bad), "");

    let id = stage.create(LOOP, &json!({}));
    stage.start(&id);
    stage.proplet.expect_log(&format!("task {id} runs in slot"));
    stage
        .manager
        .ask("POST", &format!("/tasks/{id}/stop"), None);
    assert_failed(&stage.ended(&id), "task stopped");

    // Many at once; none of the results is overtaken by the manager's own note.
    let ids: Vec<String> = (0..20)
        .map(|n| {
            let id = stage.create(ADD, &json!({"inputs": [n.to_string(), "1"]}));
            stage.start(&id);
            id
        })
        .collect();
    for (n, id) in ids.iter().enumerate() {
        assert_completed(&stage.ended(id), &(n + 1).to_string());
    }

    let daemon = stage.create(LOOP, &json!({"daemon": true}));
    stage.start(&daemon);
    assert_completed(&stage.ended(&daemon), "");
    stage
        .manager
        .ask("POST", &format!("/tasks/{daemon}/stop"), None);
    stage
        .proplet
        .expect_log(&format!("task {daemon} failed: task stopped"));

    let everybody = stage.create(ADD, &json!({"inputs": ["2", "3"], "broadcast": true}));
    stage.start(&everybody);
    assert_completed(&stage.ended(&everybody), "5");
}

#[test]
fn an_image_comes_from_the_registry() {
    let Some(stage) = Stage::new(&[]) else { return };
    let image = "registry.example/embedded/adder:1";
    let extra = json!({"file": null, "image_url": image, "inputs": ["20", "22"]});
    let id = stage.create(ADD, &extra);
    stage.start(&id);
    let is_request = |m: &Message| m.topic == "registry/proplet";
    let request = stage.peer.expect(SOON, "the request", is_request);
    assert_eq!(request.body, json!({"app_name": image}));
    for chunk in chunks(image, &wasm(ADD), 32) {
        stage.peer.publish("registry/server", &chunk);
    }
    assert_completed(&stage.ended(&id), "42");
}

/// When a task was started and when it had ended, in RFC 3339 with nanoseconds; the manager
/// writes both in the same zone.
fn times(task: &Value) -> (&str, &str) {
    let time = |key: &str| task[key].as_str().unwrap_or_default();
    (time("start_time"), time("finish_time"))
}

#[test]
fn jobs_run_in_the_order_that_they_ask_for() {
    let Some(stage) = Stage::new(&[]) else { return };
    let spin = r#"(module (func (export "main") (param $n i32) (result i32) (local $i i32)
        (loop $l (br_if $l (i32.lt_s (local.tee $i (i32.add (local.get $i) (i32.const 1)))
            (i32.const 300000)))) (local.get $n)))"#;
    let task = |id: &str, n: u32, after: &[&str]| {
        json!({"id": id, "name": "main", "file": base64(&wasm(spin)), "inputs": [n.to_string()],
            "depends_on": after})
    };
    let id = |n: u32| format!("00000000-0000-4000-8000-{n:012}");
    for (base, mode, after) in [(100, "parallel", false), (200, "sequential", true)] {
        let tasks: Vec<Value> = (1..=3)
            .map(|n| {
                let before = id(base + n - 1);
                let after: &[&str] = if after && n > 1 { &[&before] } else { &[] };
                task(&id(base + n), n, after)
            })
            .collect();
        let job = json!({"name": mode, "execution_mode": mode, "tasks": tasks});
        let created = stage.manager.ask("POST", "/jobs", Some(&job));
        let job = created["job_id"].as_str().expect("a job's id");
        stage
            .manager
            .ask("POST", &format!("/jobs/{job}/start"), None);
        let tasks: Vec<Value> = (1..=3).map(|n| stage.ended(&id(base + n))).collect();
        for (n, task) in tasks.iter().enumerate() {
            assert_completed(task, &(n + 1).to_string());
        }
        if after {
            for pair in tasks.windows(2) {
                let ((_, ended), (started, _)) = (times(&pair[0]), times(&pair[1]));
                assert!(
                    ended <= started,
                    "{mode}: one ended {ended}, the next began {started}"
                );
            }
        }
    }
}

#[test]
fn a_workflow_follows_its_dependencies() {
    let Some(stage) = Stage::new(&[]) else { return };
    let task = |text: &str, extra: Value| {
        with(json!({"name": "main", "file": base64(&wasm(text))}), &extra)
    };
    let id = |n: u32| format!("00000000-0000-4000-8000-{n:012}");
    let trap = r#"(module (func (export "main") unreachable))"#;
    let workflow = json!({"tasks": [
        task(ADD, json!({"id": id(1), "inputs": ["1", "0"]})),
        task(ADD, json!({"id": id(2), "inputs": ["2", "0"], "depends_on": [id(1)]})),
        task(trap, json!({"id": id(3), "depends_on": [id(2)]})),
        task(ADD, json!({"id": id(4), "inputs": ["4", "0"], "depends_on": [id(3)],
            "run_if": "failure"})),
        task(ADD, json!({"id": id(5), "inputs": ["5", "0"], "depends_on": [id(3)],
            "run_if": "success"})),
    ]});
    let created = stage.manager.ask("POST", "/workflows", Some(&workflow));
    assert_eq!(
        created["tasks"].as_array().map(Vec::len),
        Some(5),
        "{created}"
    );
    stage.start(&id(1));
    let tasks: Vec<Value> = (1..=5).map(|n| stage.ended(&id(n))).collect();
    assert_completed(&tasks[0], "1");
    assert_completed(&tasks[1], "2");
    assert_failed(&tasks[2], "unreachable");
    assert_completed(&tasks[3], "4");
    assert_eq!(tasks[4]["state"], SKIPPED, "{}", tasks[4]);
    for (before, after) in [(0, 1), (1, 2), (2, 3)] {
        let ((_, ended), (started, _)) = (times(&tasks[before]), times(&tasks[after]));
        assert!(
            ended <= started,
            "one ended {ended}, the next began {started}"
        );
    }
}

#[test]
fn metrics_are_read_back() {
    let Some(stage) = Stage::new(&["--metrics-interval", "1"]) else {
        return;
    };
    // The manager's type is Go's Duration: nanoseconds.
    let profile = json!({"enabled": true, "interval": 1_000_000_000, "collect_cpu": true,
        "collect_memory": true, "export_to_mqtt": true, "retain_history": true});
    let id = stage.create(LOOP, &json!({"monitoring_profile": profile}));
    stage.start(&id);
    let some = |page: &Value| page["total"].as_u64() >= Some(3);
    let page = stage.manager.await_get(
        &format!("/tasks/{id}/metrics"),
        "three samples of the task",
        some,
    );
    let sample = &page["metrics"][1];
    assert_eq!(sample["task_id"], id, "{sample}");
    assert_eq!(sample["proplet_id"], ID, "{sample}");
    for key in ["cpu_percent", "memory_bytes", "memory_percent"] {
        assert!(
            sample["metrics"][key].as_f64() > Some(0.0),
            "metrics.{key}: {sample}"
        );
    }
    let page = stage.manager.await_get(
        &format!("/proplets/{ID}/metrics"),
        "three of the proplet",
        some,
    );
    let sample = &page["metrics"][1];
    assert_eq!(sample["proplet_id"], ID, "{sample}");
    for (group, key) in [
        ("cpu_metrics", "user_seconds"),
        ("memory_metrics", "rss_bytes"),
        ("memory_metrics", "heap_sys_bytes"),
    ] {
        let group = sample
            .get(group)
            .or_else(|| sample.get(group.trim_end_matches("_metrics")));
        let value = group.and_then(|g| g[key].as_f64());
        assert!(value > Some(0.0), "{key}: {sample}");
    }
    let history = stage.manager.get(&format!("/proplets/{ID}/alive-history"));
    assert!(history["total"].as_u64() >= Some(2), "{history}");
    stage
        .manager
        .ask("POST", &format!("/tasks/{id}/stop"), None);
    assert_failed(&stage.ended(&id), "task stopped");
}

#[test]
fn a_latent_task_is_invoked_over_http() {
    let Some(stage) = Stage::new(&[]) else { return };
    let id = stage.create(ADD, &json!({"inputs": ["1", "2"], "latent": true}));
    let path = format!("/tasks/{id}/invoke");
    // A manager that has the route names the task in what it answers now.
    let (status, answer) = stage.manager.call("POST", &path, None);
    if matches!(status, 404 | 405) && !answer.is_object() {
        let required = std::env::var_os("PROPLET_REQUIRE_INVOKE").is_some_and(|v| v == "1");
        assert!(
            !required,
            "this manager has no invoke route: {status} {answer}"
        );
        say_skipped("this manager has no invoke route");
        return;
    }
    stage.start(&id);
    stage
        .proplet
        .expect_log(&format!("latent task {id} is ready"));
    let results = |inputs: Value| {
        let body = json!({"inputs": inputs});
        stage.manager.ask("POST", &path, Some(&body))["results"].clone()
    };
    assert_eq!(stage.manager.ask("POST", &path, None)["results"], "3");
    assert_eq!(results(json!(["20", "22"])), "42");
    assert_eq!(results(json!([5, 6])), "11");
    let bad = json!({"inputs": ["1"]});
    let (status, answer) = stage.manager.call("POST", &path, Some(&bad));
    assert!(status >= 400, "{answer}");
    let text = answer.to_string();
    assert!(text.contains("expected 2 arguments but got 1"), "{answer}");

    stage
        .manager
        .ask("POST", &format!("/tasks/{id}/stop"), None);
    assert_failed(&stage.ended(&id), "task stopped");

    // Deployed everywhere: where it is not, the manager deploys it again, and says so.
    let id = stage.create(
        ADD,
        &json!({"inputs": ["3", "4"], "latent": true, "broadcast": true}),
    );
    let path = format!("/tasks/{id}/invoke");
    let (status, answer) = stage.manager.call("POST", &path, None);
    assert!(status >= 400, "{answer}");
    let text = answer.to_string();
    assert!(text.contains("has not been precompiled"), "{answer}");
    stage
        .proplet
        .expect_log(&format!("latent task {id} is ready"));
    assert_eq!(stage.manager.ask("POST", &path, None)["results"], "7");
}

#[test]
fn the_manager_keeps_a_proplet_whose_link_breaks() {
    let Some(mut stage) = Stage::new(&[]) else {
        return;
    };
    let endless = stage.create(LOOP, &json!({}));
    stage.start(&endless);
    stage
        .proplet
        .expect_log(&format!("task {endless} runs in slot"));
    let late = stage.create(LOOP, &json!({"env": {"PROPLET_DEADLINE_MS": "1000"}}));
    stage.start(&late);
    stage
        .proplet
        .expect_log(&format!("task {late} runs in slot"));
    stage.proxy.close();
    // It ends, and one starts, while the link is down; the manager holds the proplet for alive.
    stage
        .proplet
        .expect_log(&format!("task {late} failed: deadline of 1000 ms exceeded"));
    let sum = stage.create(ADD, &json!({"inputs": ["20", "22"]}));
    stage.start(&sum);
    stage.proxy.open();
    assert_failed(&stage.ended(&late), "deadline of 1000 ms exceeded");
    assert_completed(&stage.ended(&sum), "42");
    assert_eq!(stage.manager.get(&format!("/proplets/{ID}"))["alive"], true);
    stage
        .manager
        .ask("POST", &format!("/tasks/{endless}/stop"), None);
    assert_failed(&stage.ended(&endless), "task stopped");
    assert!(stage.proplet.is_running());
}

/// With storage in memory a manager knows nothing after its restart, and takes the metadata of the first
/// heartbeat that it gets.
#[test]
fn a_manager_that_has_lost_its_memory_knows_the_proplet_whole() {
    let Some(mut stage) = Stage::new(&["--description", "known", "--tags", "red"]) else {
        return;
    };
    let binary = binary("PROPELLER_MANAGER", "manager").expect("the stage has it");
    for _ in 0..2 {
        // Two of one name would take the broker's session from each other.
        stage.manager.end();
        stage.manager = Manager::start(&binary, stage.broker.port, &[]);
        let path = format!("/proplets/{ID}");
        let deadline = Instant::now() + Duration::from_secs(20);
        let known = loop {
            if let Some((200, known)) = stage.manager.try_call("GET", &path, None) {
                break known;
            }
            assert!(Instant::now() < deadline, "the manager does not know it");
            thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(known["metadata"]["description"], "known", "{known}");
        assert_eq!(known["metadata"]["tags"], json!(["red"]), "{known}");
        assert_eq!(known["metadata"]["wasm_runtime"], "wamr", "{known}");
    }
}
