//! The main job, shown in one process: a broker, a proplet and a stand-in manager.

pub mod broker;
pub mod manager;
mod story;

use crate::{
    cli::{Command, Join},
    proplet::{Proplet, Stop, config, work},
    sources,
};
use anyhow::{Context as _, Result, bail};
use manager::Manager;
use proplet::agent::AgentStatus;
use std::{
    cell::RefCell,
    future::poll_fn,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
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
    let peak = Arc::new(Mutex::new(AgentStatus::default()));
    let shown = Arc::clone(&peak);
    let stop: &'static Stop = Box::leak(Box::new(Stop::new()));
    let link = thread::Builder::new()
        .name("proplet".into())
        .spawn(move || {
            let agent = RefCell::new(agent);
            // A start and the end of its run are never in the same poll: the run takes longer.
            let show = poll_fn(|_| {
                raise(&shown, agent.borrow().status());
                Poll::Pending
            });
            work(&join, &agent, workers, stop, show)
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
    let cli = sources::flags(&[
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

/// Shows the present status, with the highest number of runs so far.
fn raise(peak: &Mutex<AgentStatus>, status: AgentStatus) {
    let mut peak = peak.lock().unwrap_or_else(PoisonError::into_inner);
    *peak = AgentStatus {
        running: peak.running.max(status.running),
        ..status
    };
}

/// Longest wait of the story for any one message.
const PATIENCE: Duration = Duration::from_secs(5);
