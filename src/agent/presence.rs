//! The proplet's signs of life: discovery, heartbeats, metrics, and the clocks behind them.

use super::{
    event::{Delivery, Qos, Subject},
    probing::Probing,
};
use crate::{
    engine::ProcessUsage,
    time::{Duration, Instant},
    wire::report::Timestamp,
};

/// Time from the first heartbeat after discovery to the second: the first one may only have
/// introduced the proplet to the manager.
const SECOND_HEARTBEAT: Duration = Duration::from_secs(1);

/// Intervals of the periodic messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Intervals {
    /// Time between heartbeats.
    pub(super) heartbeat: Duration,
    /// Time between metrics; zero turns them off.
    pub(super) metrics: Duration,
}

/// The discovery message, sent once a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Discovery {
    Due,
    Sent,
    /// Nobody was subscribed to it.
    Unheard,
    Done,
}

#[derive(Debug, Clone, Copy)]
enum Connection {
    Down,
    Up {
        /// Time of the next heartbeat.
        heartbeat: Instant,
        /// Whether another one follows it after a second.
        repeats: bool,
        /// Time of the next metrics; `None` where they are off.
        metrics: Option<Instant>,
    },
}

/// Processor time, and its share of the time between two metrics.
#[derive(Debug)]
struct Load {
    cpu: Duration,
    at: Instant,
    percent: f64,
}

/// Owner of discovery, heartbeats, metrics' times and the wall clock.
#[derive(Debug)]
pub(super) struct Presence {
    intervals: Intervals,
    discovery: Discovery,
    /// Attempts to find a listener for it, while there is none.
    probing: Option<Probing>,
    connection: Connection,
    load: Load,
    /// Unix time in milliseconds at boot, if known.
    boot: Option<u64>,
}

impl Presence {
    /// Without a connection.
    pub(super) const fn new(intervals: Intervals) -> Self {
        Self {
            intervals,
            discovery: Discovery::Due,
            probing: None,
            connection: Connection::Down,
            load: Load {
                cpu: Duration::ZERO,
                at: Instant::BOOT,
                percent: 0.0,
            },
            boot: None,
        }
    }

    pub(super) const fn is_connected(&self) -> bool {
        matches!(self.connection, Connection::Up { .. })
    }

    pub(super) fn connect(&mut self, process: &ProcessUsage, now: Instant) {
        let interval = self.intervals.metrics;
        self.connection = Connection::Up {
            heartbeat: now,
            repeats: self.discovery != Discovery::Done,
            metrics: (!interval.is_zero()).then(|| now + interval),
        };
        self.measure(process, now);
    }

    pub(super) const fn disconnect(&mut self) {
        self.connection = Connection::Down;
    }

    fn is_discovery_due(&mut self, now: Instant) -> bool {
        match (self.discovery, &mut self.probing) {
            (Discovery::Due, _) => true,
            (Discovery::Unheard, Some(probing)) => probing.take(now),
            _ => false,
        }
    }

    /// The discovery message or a heartbeat, if one is due and needs no more than `most`.
    pub(super) fn poll(&mut self, most: Qos, now: Instant) -> Option<(Subject, Qos)> {
        if most >= Qos::AtLeastOnce && self.is_connected() && self.is_discovery_due(now) {
            self.discovery = Discovery::Sent;
            return Some((Subject::Discovery, Qos::AtLeastOnce));
        }
        let Connection::Up {
            heartbeat, repeats, ..
        } = &mut self.connection
        else {
            return None;
        };
        if *heartbeat > now || self.discovery == Discovery::Due {
            return None;
        }
        let interval = self.intervals.heartbeat;
        let pause = match core::mem::take(repeats) {
            true => SECOND_HEARTBEAT.min(interval),
            false => interval,
        };
        *heartbeat = now + pause;
        Some((Subject::Heartbeat, Qos::AtMostOnce))
    }

    /// Whether metrics are due; their next time is set then.
    pub(super) fn poll_metrics(&mut self, now: Instant) -> bool {
        match &mut self.connection {
            Connection::Up {
                metrics: Some(at), ..
            } if *at <= now => {
                *at = now + self.intervals.metrics;
                true
            }
            _ => false,
        }
    }

    /// Takes note of a sign that a manager listens.
    pub(super) fn hint(&mut self, now: Instant) {
        if let Some(probing) = &mut self.probing {
            probing.hint(now);
        }
    }

    /// Time of the next heartbeat, metrics or discovery message; none without a connection.
    pub(super) fn next_deadline(&self) -> [Option<Instant>; 3] {
        match self.connection {
            Connection::Up {
                heartbeat, metrics, ..
            } => {
                let probing = self
                    .probing
                    .filter(|_| self.discovery == Discovery::Unheard);
                let discovery = probing.map(|probing| probing.next());
                [Some(heartbeat), metrics, discovery]
            }
            Connection::Down => [None; 3],
        }
    }

    /// The fate of the discovery message.
    pub(super) fn discovered(&mut self, delivery: Delivery, now: Instant) {
        self.discovery = match delivery {
            Delivery::Unheard => {
                if self.probing.is_none() {
                    log::warn!(
                        "no manager is there: the discovery message is sent again when one may be"
                    );
                }
                self.probing.get_or_insert_with(|| Probing::new(now));
                Discovery::Unheard
            }
            Delivery::Lost => Discovery::Due,
            Delivery::Done => Discovery::Done,
            Delivery::Refused | Delivery::TooLarge => {
                log::error!(
                    "the broker refused the discovery message: the manager learns of this proplet by its heartbeats only"
                );
                Discovery::Done
            }
        };
    }

    /// Takes the processor's share since the last measurement.
    pub(super) fn measure(&mut self, process: &ProcessUsage, now: Instant) {
        let cpu = process.user + process.system;
        let wall = now.since(self.load.at).as_secs_f64();
        let busy = cpu.saturating_sub(self.load.cpu).as_secs_f64();
        self.load = Load {
            cpu,
            at: now,
            percent: if wall > 0.0 { 100.0 * busy / wall } else { 0.0 },
        };
    }

    /// Percent of a core between the last two measurements.
    pub(super) const fn cpu_percent(&self) -> f64 {
        self.load.percent
    }

    /// Sets the wall clock, in milliseconds since 1970.
    pub(super) fn set_wall_clock(&mut self, unix_ms: u64, now: Instant) {
        self.boot = unix_ms.checked_sub(now.as_millis());
    }

    /// `at` on the wall clock, if that is known.
    pub(super) fn timestamp(&self, at: Instant) -> Option<Timestamp> {
        Timestamp::from_unix_millis(self.boot?.checked_add(at.as_millis())?)
    }
}
