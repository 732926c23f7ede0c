//! Time as embassy counts it, and as the core does.

use embassy_time::{Duration, Instant};

/// A duration in ticks; one that exceeds those is as good as unlimited.
pub(crate) fn ticks(duration: core::time::Duration) -> Duration {
    duration.try_into().unwrap_or(Duration::MAX)
}

/// A moment as the agent counts it.
pub(crate) fn agent_time(now: Instant) -> proplet::time::Instant {
    proplet::time::Instant::from_millis(now.as_millis())
}
