//! Whether the broker is still there.
//!
//! minimq's own keep-alive does not see a broker that is gone: each publication, of heartbeats too,
//! puts its ping off, so on a proplet it never sends one. So a broker counts as gone that owes an
//! acknowledgement, and says nothing at all, for half a keep-alive; and where it owes none, a heartbeat
//! is sent at QoS 1 after as long a silence, as a probe.

use embassy_time::{Duration, Instant};
use minimq::{Op, Session};

/// Liveness of the broker on the present connection.
pub(crate) struct Liveness {
    /// Longest silence of a broker that owes an acknowledgement; unlimited without a keep-alive.
    silence_max: Option<Duration>,
    probe: Probe,
    /// Moment since which the broker owes an acknowledgement, if it does.
    owes_since: Option<Instant>,
}

/// A publication at QoS 0 that is sent at QoS 1 to hear from the broker.
enum Probe {
    /// None is under way.
    Idle,
    /// This one is.
    Sent(Op),
    /// The broker takes QoS 0 only.
    Unsupported,
}

impl Liveness {
    /// With a keep-alive in seconds; zero turns it off.
    pub(crate) fn new(keep_alive: u16) -> Self {
        let silence_max = Duration::from_secs(keep_alive.into()) / 2;
        Self {
            silence_max: (keep_alive != 0).then_some(silence_max),
            probe: Probe::Idle,
            owes_since: None,
        }
    }

    /// Begins anew, on a new connection.
    pub(crate) fn reset(&mut self) {
        self.probe = Probe::Idle;
        self.owes_since = None;
    }

    /// Whether a probe should be sent to a broker that was last heard at this moment.
    pub(crate) fn is_probe_due(&self, last_heard: Instant) -> bool {
        let is_silent = |max| last_heard.elapsed() >= max;
        matches!(self.probe, Probe::Idle) && self.silence_max.is_some_and(is_silent)
    }

    pub(crate) fn probe_sent(&mut self, op: Op) {
        self.probe = Probe::Sent(op);
    }

    /// Notes that the broker acknowledges no publication.
    pub(crate) fn disable_probes(&mut self) {
        self.probe = Probe::Unsupported;
    }

    /// Takes note of acknowledgements.
    pub(crate) fn settle(&mut self, session: &Session<'_>) {
        if matches!(self.probe, Probe::Sent(op) if !session.is_pending(&op)) {
            self.probe = Probe::Idle;
        }
    }

    /// The moment at which a broker that was last heard at `last_heard` counts as gone.
    pub(crate) fn deadline(
        &mut self,
        session: &Session<'_>,
        last_heard: Instant,
    ) -> Option<Instant> {
        if session.is_publish_quiescent() {
            self.owes_since = None;
            return None;
        }
        let since = *self.owes_since.get_or_insert_with(Instant::now);
        Some(since.max(last_heard).saturating_add(self.silence_max?))
    }
}
