//! The demo's story, and its expectations.

use super::{
    PATIENCE,
    manager::{Manager, Message},
};
use anyhow::{Result, bail};
use proplet::agent::AgentStatus;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

const ADDITION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/addition.wasm"));
const FNV1A: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/fnv1a.wasm"));
const LOOP: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/loop.wasm"));

/// Instances of one module that run at once.
const INSTANCES: usize = 24;

/// Rounds of each: enough that all are running before the first is done.
const ROUNDS: u32 = 400_000;

struct Story<'a> {
    manager: &'a Manager,
    status: &'a dyn Fn() -> AgentStatus,
    began: Instant,
    checks: Vec<Check>,
    heartbeats: usize,
}

struct Check {
    what: &'static str,
    expected: String,
    found: String,
}

/// Shows it all, prints a line an event and a table at the end; returns whether everything was as
/// expected.
pub(super) fn tell(manager: &Manager, status: &dyn Fn() -> AgentStatus) -> Result<bool> {
    let mut story = Story {
        manager,
        status,
        began: Instant::now(),
        checks: Vec::new(),
        heartbeats: 0,
    };
    println!("{:>9}  {:<3} {:<15} message", "time", "", "topic");
    story.presence()?;
    story.addition()?;
    story.many()?;
    story.latent()?;
    story.endless()?;
    Ok(story.summary())
}

impl Story<'_> {
    fn presence(&mut self) -> Result<()> {
        let discovery = self.expect("discovery", |m| m.topic.ends_with("/create"))?;
        let runtime = &discovery.body["metadata"]["wasm_runtime"];
        self.check("discovery names the Wasm runtime", "wamr", runtime);
        self.expect("a heartbeat", |m| m.topic.ends_with("/alive"))?;
        Ok(())
    }

    fn addition(&mut self) -> Result<()> {
        self.start("addition", "add", ADDITION, json!({"inputs": ["20", "22"]}))?;
        let results = self.results("addition")?;
        self.check("addition: 20 + 22", "42", &results.body["results"]);
        Ok(())
    }

    fn many(&mut self) -> Result<()> {
        let parses = (self.status)().parses;
        let ids: Vec<String> = (1..=INSTANCES).map(|n| format!("fnv1a-{n}")).collect();
        let extra = json!({"inputs": [ROUNDS.to_string()]});
        self.announce(
            &format!("fnv1a-1 … fnv1a-{INSTANCES}"),
            "main",
            FNV1A,
            &extra,
        );
        for id in &ids {
            self.manager.start(id, "main", FNV1A, extra.clone())?;
        }
        let mut results = BTreeMap::new();
        while results.len() < ids.len() {
            let message =
                self.expect("24 results", |m| is_results(m) && m.body["task_id"] != "")?;
            let id = message.body["task_id"].as_str().unwrap_or_default();
            results.insert(id.to_owned(), message.body["results"].clone());
        }
        let expected = json!(fnv1a(ROUNDS).to_string());
        let right = results.values().filter(|r| **r == expected).count();
        let status = (self.status)();
        self.check("24 instances: right results", INSTANCES, right);
        self.check("24 instances: at once", INSTANCES, status.running);
        self.check("24 instances: parses", 1, status.parses - parses);
        Ok(())
    }

    fn latent(&mut self) -> Result<()> {
        self.start("latent", "add", ADDITION, json!({"latent": true}))?;
        let mut sums = Vec::new();
        for n in 1..=5 {
            let (id, inputs) = (format!("call-{n}"), json!([n.to_string(), "100"]));
            self.sent("manager/invoke", &format!("latent, {id}: {inputs}"));
            self.manager.invoke("latent", &id, &inputs)?;
            let results = self.expect("invoke_results", |m| {
                m.topic.ends_with("/invoke_results") && m.body["invocation_id"] == id
            })?;
            sums.push(results.body["results"].as_str().unwrap_or("?").to_owned());
        }
        self.check(
            "latent deployment, invoked five times",
            "101 102 103 104 105",
            sums.join(" "),
        );
        Ok(())
    }

    fn endless(&mut self) -> Result<()> {
        let before = self.heartbeats;
        let env = json!({"env": {"PROPLET_DEADLINE_MS": "1500"}});
        self.start("late", "main", LOOP, env)?;
        self.start("endless", "main", LOOP, json!({}))?;
        let late = self.results("late")?;
        self.check(
            "endless loop, ended by its deadline",
            "deadline of 1500 ms exceeded",
            &late.body["error"],
        );
        self.expect("a heartbeat", |m| m.topic.ends_with("/alive"))?;
        self.sent("manager/stop", "endless");
        let asked = Instant::now();
        self.manager.stop("endless")?;
        let stopped = self.results("endless")?;
        let took = stopped.at.duration_since(asked);
        self.check(
            "endless loop, ended by a stop",
            "task stopped",
            &stopped.body["error"],
        );
        self.check("stop to results under 100 ms", true, took.as_millis() < 100);
        let beats = self.heartbeats - before;
        self.check("heartbeats during the loops, 1 s apart", true, beats >= 2);
        Ok(())
    }

    fn start(&self, id: &str, name: &str, module: &[u8], extra: Value) -> Result<()> {
        self.announce(id, name, module, &extra);
        self.manager.start(id, name, module, extra)
    }

    fn announce(&self, id: &str, name: &str, module: &[u8], extra: &Value) {
        let size = module.len();
        let gist = format!("{id}: {name}, {size} bytes of Wasm, {extra}");
        self.sent("manager/start", &gist);
    }

    fn results(&mut self, id: &str) -> Result<Message> {
        self.expect("results", |m| is_results(m) && m.body["task_id"] == id)
    }

    /// Shows messages up to the first that is wanted.
    fn expect(&mut self, what: &str, wanted: impl Fn(&Message) -> bool) -> Result<Message> {
        let deadline = Instant::now() + PATIENCE;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let Some(message) = self.manager.next(left) else {
                break;
            };
            if message.topic.starts_with("control/manager/") {
                continue;
            }
            self.heartbeats += usize::from(message.topic.ends_with("/alive"));
            // Two samples from each of 24 runs would hide what matters.
            let sample = message.topic.ends_with("/task_metrics");
            let id = message.body["task_id"].as_str().unwrap_or_default();
            if !(sample && id.starts_with("fnv1a-")) {
                self.received(&message);
            }
            if wanted(&message) {
                return Ok(message);
            }
        }
        bail!("{what}: nothing of it after {} s", PATIENCE.as_secs())
    }

    fn sent(&self, topic: &str, gist: &str) {
        line(self.began.elapsed(), "──▶", topic, gist);
    }

    fn received(&self, message: &Message) {
        let topic = message.topic.trim_start_matches("control/proplet/");
        line(
            message.at - self.began,
            "◀──",
            topic,
            &gist(topic, &message.body),
        );
    }

    fn check(&mut self, what: &'static str, expected: impl Shown, found: impl Shown) {
        let (expected, found) = (expected.shown(), found.shown());
        self.checks.push(Check {
            what,
            expected,
            found,
        });
    }

    fn summary(&self) -> bool {
        println!();
        println!("{:<40} {:<29} {:<29}", "check", "expected", "found");
        for check in &self.checks {
            let verdict = if check.expected == check.found {
                "ok"
            } else {
                "DIFFERS"
            };
            println!(
                "{:<40} {:<29} {:<29} {verdict}",
                check.what, check.expected, check.found
            );
        }
        let wrong = self.checks.iter().filter(|c| c.expected != c.found).count();
        println!(
            "\n{} of {} as expected, {} heartbeats, {:.1} s",
            self.checks.len() - wrong,
            self.checks.len(),
            self.heartbeats,
            self.began.elapsed().as_secs_f64()
        );
        wrong == 0
    }
}

fn line(time: Duration, arrow: &str, topic: &str, gist: &str) {
    println!("{:>7.3} s  {arrow} {topic:<15} {gist}", time.as_secs_f64());
}

fn is_results(message: &Message) -> bool {
    message.topic == "control/proplet/results"
}

/// FNV-1a over `rounds` bytes, each the low byte of its index: what the guest computes.
fn fnv1a(rounds: u32) -> i32 {
    let hash = (0..rounds).fold(0x811c_9dc5_u32, |hash, i| {
        (hash ^ (i & 0xff)).wrapping_mul(0x0100_0193)
    });
    hash.cast_signed()
}

fn gist(topic: &str, body: &Value) -> String {
    let text = |key: &str| body[key].as_str().unwrap_or_default();
    match topic {
        "create" => format!(
            "proplet {} with {} on {}",
            text("proplet_id"),
            body["metadata"]["wasm_runtime"],
            body["metadata"]["cpu_arch"]
        ),
        "alive" => text("status").into(),
        "results" | "invoke_results" => {
            let call = body["invocation_id"].as_str();
            let call = call.map(|id| format!(", {id}")).unwrap_or_default();
            match body["error"].as_str() {
                Some(error) => format!("{}{call}: error: {error}", text("task_id")),
                None => format!("{}{call}: {}", text("task_id"), text("results")),
            }
        }
        "task_metrics" => format!(
            "{}: {:.0} % of a core, {} bytes",
            text("task_id"),
            body["metrics"]["cpu_percent"].as_f64().unwrap_or_default(),
            body["metrics"]["memory_bytes"]
        ),
        "metrics" => format!(
            "{:.0} % of a core, arena {} of {} bytes",
            body["cpu_metrics"]["percent"].as_f64().unwrap_or_default(),
            body["memory_metrics"]["heap_inuse_bytes"],
            body["memory_metrics"]["heap_sys_bytes"]
        ),
        _ => body.to_string(),
    }
}

/// A value as the table shows it.
trait Shown {
    fn shown(&self) -> String;
}

impl Shown for &str {
    fn shown(&self) -> String {
        (*self).into()
    }
}

impl Shown for String {
    fn shown(&self) -> String {
        self.clone()
    }
}

impl Shown for &Value {
    fn shown(&self) -> String {
        self.as_str().map_or_else(|| self.to_string(), Into::into)
    }
}

impl Shown for usize {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for u32 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for i32 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for bool {
    fn shown(&self) -> String {
        (if *self { "yes" } else { "no" }).into()
    }
}
