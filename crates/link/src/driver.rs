//! The agent's share of each wait: its ticks, the port's signals, and the shutdown.

use crate::{error::Stopped, time::agent_time};
use core::{cell::RefCell, future::Future, pin::Pin};
use embassy_futures::select::{Either3, select3};
use embassy_time::{Duration, Instant, Timer};
use log::info;
use proplet::{
    agent::{Agent, Event},
    engine::Engine,
};

/// Least time between two ticks for the same deadline, of an agent that does not move it.
const TICK_PAUSE: Duration = Duration::from_millis(5);

/// Longest wait for a timer: an early tick does no harm.
const TICK_MAX: Duration = Duration::from_secs(3600);

/// A port's message to its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// A worker has something to say: the agent gets a tick.
    Work,
    /// Shut down: drain the agent and end. A second one ends without waiting.
    Shutdown,
}

/// Phase of the link's life.
enum Phase {
    Running,
    /// A shutdown was asked for, and ends at this moment at the latest.
    ShuttingDown(Instant),
}

/// Serves the agent while the link waits for something.
pub(crate) struct AgentDriver<'r, 'a, E: Engine, N> {
    agent: &'r RefCell<Agent<'a, E>>,
    signal: N,
    phase: Phase,
    /// Longest time of a shutdown.
    grace: Duration,
    /// Moment of the last tick.
    ticked: Instant,
}

impl<'r, 'a, E: Engine, N: AsyncFnMut() -> Signal> AgentDriver<'r, 'a, E, N> {
    pub(crate) fn new(agent: &'r RefCell<Agent<'a, E>>, signal: N, grace: Duration) -> Self {
        Self {
            agent,
            signal,
            phase: Phase::Running,
            grace,
            ticked: Instant::MIN,
        }
    }

    pub(crate) fn tick(&mut self) {
        let now = Instant::now();
        self.ticked = now;
        self.agent.borrow_mut().handle(Event::Tick, agent_time(now));
    }

    pub(crate) fn accept(&mut self, signal: Signal) {
        let now = Instant::now();
        match (signal, &self.phase) {
            (Signal::Work, _) => {}
            (Signal::Shutdown, Phase::Running) => {
                info!("shutting down");
                self.phase = Phase::ShuttingDown(now.saturating_add(self.grace));
                let mut agent = self.agent.borrow_mut();
                agent.handle(Event::Shutdown, agent_time(now));
            }
            (Signal::Shutdown, Phase::ShuttingDown(_)) => {
                info!("shutting down now");
                self.phase = Phase::ShuttingDown(now);
            }
        }
    }

    /// Whether the grace period of a shutdown has passed.
    fn is_late(&self) -> bool {
        matches!(self.phase, Phase::ShuttingDown(end) if Instant::now() >= end)
    }

    /// Whether a shutdown was asked for, and its grace period has passed or the agent is drained.
    pub(crate) fn is_over(&self) -> bool {
        match self.phase {
            Phase::Running => false,
            Phase::ShuttingDown(_) => self.is_late() || self.agent.borrow().is_drained(),
        }
    }

    /// The moment at which the agent must be served at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        let ticked = self.ticked;
        let mut at = ticked.saturating_add(TICK_MAX);
        // A deadline that has passed since the last tick counts: none is passed over.
        if let Some(due) = self.agent.borrow().next_deadline(agent_time(ticked)) {
            let due = Instant::try_from_millis(due.as_millis()).unwrap_or(Instant::MAX);
            at = at.min(if due > ticked {
                due
            } else {
                // It had its tick, and still asks for that moment.
                ticked.saturating_add(TICK_PAUSE)
            });
        }
        match self.phase {
            Phase::Running => at,
            Phase::ShuttingDown(end) => at.min(end),
        }
    }

    /// Awaits `work` until a signal comes, which must be [accepted](Self::accept), or `at` has passed.
    ///
    /// Signals go first: messages could keep them waiting without end, which they can't do to
    /// messages. `work` is not taken by value: a future holds its arguments and pins them again.
    pub(crate) fn wait<'s, F: Future>(
        &'s mut self,
        work: Pin<&'s mut F>,
        at: Instant,
    ) -> impl Future<Output = Either3<Signal, F::Output, ()>> {
        select3((self.signal)(), work, Timer::at(at))
    }

    /// Awaits `work` while the agent is served, until the link is over.
    pub(crate) fn run_until<'s, T: 's>(
        &'s mut self,
        work: Pin<&'s mut impl Future<Output = T>>,
    ) -> impl Future<Output = Result<T, Stopped>> {
        self.run(work, Self::is_over)
    }

    /// Awaits `work` while the agent is served, until the grace period has passed: `work` may be that
    /// by which the agent is drained.
    pub(crate) fn finish<'s, T: 's>(
        &'s mut self,
        work: Pin<&'s mut impl Future<Output = T>>,
    ) -> impl Future<Output = Result<T, Stopped>> {
        self.run(work, Self::is_late)
    }

    async fn run<T>(
        &mut self,
        mut work: Pin<&mut impl Future<Output = T>>,
        is_over: fn(&Self) -> bool,
    ) -> Result<T, Stopped> {
        loop {
            self.tick();
            if is_over(self) {
                return Err(Stopped);
            }
            let at = self.deadline();
            match self.wait(work.as_mut(), at).await {
                Either3::First(signal) => self.accept(signal),
                Either3::Second(output) => return Ok(output),
                Either3::Third(()) => {}
            }
        }
    }
}
