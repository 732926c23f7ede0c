//! The main job, shown in one process: a broker, a proplet and a stand-in manager.

pub mod broker;
pub mod manager;
mod story;

use crate::{
    cli::{Cli, Command, Join},
    proplet::{HostAgent, Proplet, Stop, config, work},
};
use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use manager::Manager;
use proplet::{
    agent::{Delivery, Event, Qos, Status, Token},
    time::Instant,
    wire::TopicName,
};
use proplet_link::Application;
use std::{
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

const PROPLET: &str = "3fe95a65-74f1-4ede-bf20-ef565f04cecb";

/// Shows the main job. The exit code says whether all went as expected.
///
/// # Errors
/// If there is no broker, no proplet or no manager to show.
pub fn demo() -> Result<ExitCode> {
    let ports = broker::start()?;
    let join = settings(ports.v5)?;
    let manager = Manager::connect(ports.v4, &join.tenant, &join.channel, PROPLET)?;
    let Proplet { agent, workers } = Proplet::new(&join.limits, config(&join), None)?;
    let peak = Arc::new(Mutex::new(Status::default()));
    let mut watched = Watched {
        agent,
        peak: Arc::clone(&peak),
    };
    let stop: &'static Stop = Box::leak(Box::new(Stop::new()));
    let link = thread::Builder::new()
        .name("proplet".into())
        .spawn(move || {
            work(
                &join,
                &mut watched,
                workers,
                stop,
                &proplet_link::Status::new(),
            )
        })?;
    let passed = story::tell(&manager, &|| {
        *peak.lock().unwrap_or_else(PoisonError::into_inner)
    });
    stop.ask(workers);
    match link.join() {
        Ok(ended) => ended?,
        Err(_) => bail!("the proplet's thread panicked"),
    }
    Ok(if passed? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn settings(port: u16) -> Result<Join> {
    let broker = format!("mqtt://127.0.0.1:{port}");
    let cli = Cli::try_parse_from([
        "proplet",
        "join",
        "--broker",
        &broker,
        "--tenant",
        "demo",
        "--channel",
        "demo",
        "--id",
        PROPLET,
        "--heartbeat",
        "1",
        "--metrics-interval",
        "3",
    ])
    .context("settings of the demo")?;
    match cli.command {
        Some(Command::Join(join)) => Ok(*join),
        _ => bail!("settings of the demo"),
    }
}

/// The agent, with its highest figures on show.
struct Watched {
    agent: HostAgent,
    peak: Arc<Mutex<Status>>,
}

impl Application for Watched {
    type Token = Token;

    fn handle(&mut self, event: Event<'_>, now: Instant) {
        self.agent.handle(event, now);
        let status = self.agent.status();
        let mut peak = self.peak.lock().unwrap_or_else(PoisonError::into_inner);
        *peak = Status {
            running: peak.running.max(status.running),
            ..status
        };
    }

    fn published(&mut self, token: Token, delivery: Delivery, now: Instant) {
        self.agent.published(token, delivery, now);
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.agent.next_deadline(now)
    }

    fn poll_publish(&mut self, most: Qos, now: Instant) -> Option<(Token, Qos)> {
        Application::poll_publish(&mut self.agent, most, now)
    }

    fn topic(&self, token: Token) -> TopicName {
        self.agent.topic(token)
    }

    fn write(&self, token: Token, buf: &mut [u8], now: Instant) -> Option<usize> {
        Application::write(&self.agent, token, buf, now)
    }

    fn subscription(&self, index: usize) -> Option<TopicName> {
        self.agent.subscription(index)
    }

    fn will(&self, buf: &mut [u8]) -> Option<(TopicName, usize)> {
        Application::will(&self.agent, buf)
    }

    fn is_drained(&self) -> bool {
        self.agent.is_drained()
    }
}

/// How long the story waits for any one message.
const PATIENCE: Duration = Duration::from_secs(5);
