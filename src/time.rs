//! Monotonic time, passed in by the caller: the core reads no clock.

pub use core::time::Duration;

/// Milliseconds since the proplet booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Instant {
    ms: u64,
}

impl Instant {
    /// The moment of boot.
    pub const BOOT: Self = Self { ms: 0 };

    /// `ms` milliseconds after boot.
    pub const fn from_millis(ms: u64) -> Self {
        Self { ms }
    }

    /// Milliseconds since boot.
    pub const fn as_millis(self) -> u64 {
        self.ms
    }

    /// Time since `earlier`; zero if that is later than `self`.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.ms.saturating_sub(earlier.ms))
    }
}

impl core::ops::Add<Duration> for Instant {
    type Output = Self;

    /// Saturates, so a deadline too far away to represent is never reached. A fraction of a
    /// millisecond rounds up: nothing that waits for an instant is early.
    fn add(self, rhs: Duration) -> Self {
        // In 64 bits: a division of 128 is long on a board.
        let part = u64::from(rhs.subsec_nanos().div_ceil(1_000_000));
        let ms = rhs.as_secs().saturating_mul(1000).saturating_add(part);
        Self {
            ms: self.ms.saturating_add(ms),
        }
    }
}
