//! `proplet run`: one module, without a broker.

use crate::{cli, clock, module::load, proplet::Proplet};
use anyhow::{Result, anyhow};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use proplet::{
    agent::{Delivery, Event, Qos},
    config::Config,
    wire::{Outbound, Topics},
};
use rustix::event::Timespec;
use serde_json::{Map, Value, json};
use std::time::Duration;

const TASK: &str = "run";
/// Name of its tenant, its channel and its proplet.
const LOCAL: &str = "local";

/// Most bytes of a message beside a result that its guest has published.
const MESSAGE_BYTES: usize = 4096;
/// Most bytes of JSON that one of a result takes: `\u0001`.
const ESCAPE_BYTES: usize = 6;

/// Runs the module as a task that an agent gets by message, and returns its result.
///
/// # Errors
/// The file can't be read or assembled, or the task failed.
pub fn run(options: &cli::Run) -> Result<String> {
    let module = load(&options.file)?;
    let config = Config {
        proplet_id: LOCAL,
        tenant: LOCAL,
        channel: LOCAL,
        result_delay: Duration::ZERO,
        metrics_interval: Duration::ZERO,
        heartbeat: Duration::from_secs(3600),
        ..Config::DEFAULT
    };
    // The arena is this one task's, unless it is as on a board.
    let mut limits = options.limits.clone();
    if limits.memory_max_bytes == 0 && limits.like.is_none() {
        limits.memory_max_bytes = limits.arena_bytes;
    }
    let Proplet { mut agent, workers } = Proplet::new(&limits, config, None)?;
    let env: Map<String, Value> = options
        .env
        .iter()
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    let start = json!({"id": TASK, "name": options.export, "inputs": options.inputs, "env": env,
        "file": BASE64_STANDARD.encode(&module)});
    agent.handle(Event::Connected, clock::now());
    agent.handle(
        Event::Message {
            topic: "m/local/c/local/control/manager/start",
            payload: start.to_string().as_bytes(),
        },
        clock::now(),
    );
    let topics = Topics::new(LOCAL, LOCAL)?;
    let results = topics.name(Outbound::Results);
    let metrics = topics.name(Outbound::TaskMetrics);
    let result_max = options.limits.result_max_bytes as usize;
    let mut buf = vec![0; MESSAGE_BYTES + ESCAPE_BYTES * result_max];
    loop {
        while let Some(publication) = agent.poll_publish(Qos::AtLeastOnce, clock::now()) {
            let token = publication.token;
            let topic = agent.topic(token);
            let is_result = topic == results;
            // The others have no reader here: a guest's message need not be JSON, nor fit.
            let message = if is_result || (topic == metrics && options.stats) {
                let len = agent.write(token, &mut buf, clock::now())?;
                serde_json::from_slice(&buf[..len])?
            } else {
                Value::Null
            };
            agent.handle(Event::Published(token, Delivery::Done), clock::now());
            if let Some(metrics) = message.get("metrics") {
                eprintln!("{metrics}");
            }
            if is_result {
                return match message["error"].as_str() {
                    Some(error) => Err(anyhow!("{error}")),
                    None => Ok(message["results"].as_str().unwrap_or_default().into()),
                };
            }
        }
        let left = agent
            .next_deadline(clock::now())
            .map_or(Duration::MAX, |at| at.since(clock::now()));
        let timeout = Timespec::try_from(left.min(Duration::from_secs(3600))).ok();
        let exits = workers.platform().exits();
        // An early return is as good as any.
        exits.wait(timeout.as_ref());
        exits.clear();
        agent.handle(Event::Tick, clock::now());
    }
}
