//! When a message that nobody was subscribed to is sent again.

use crate::time::{Duration, Instant};

/// Seconds from the first message that nobody was subscribed to, to the next attempt; doubled for each further one.
const PAUSE_FIRST: u8 = 2;

/// Maximum of those seconds.
const PAUSE_MAX: u8 = 60;

/// Least time between two attempts, whatever says that somebody listens: commands may come in a flood.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Times of the attempts to find a subscriber, while there is none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probing {
    last: Instant,
    next: Instant,
    /// Seconds.
    pause: u8,
}

impl Probing {
    /// After a first message that nobody was subscribed to.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last: now,
            next: now + Duration::from_secs(PAUSE_FIRST.into()),
            pause: PAUSE_FIRST,
        }
    }

    /// Time of the next attempt.
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// Whether an attempt is due; the one after it is put off then.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let is_due = self.next <= now;
        if is_due {
            self.last = now;
            self.pause = self.pause.saturating_mul(2).min(PAUSE_MAX);
            self.next = now + Duration::from_secs(self.pause.into());
        }
        is_due
    }

    /// Takes note of a sign that somebody listens: the next attempt is due.
    pub(super) fn hint(&mut self, now: Instant) {
        self.next = self.next.min(now.max(self.last + PAUSE_MIN));
        self.pause = PAUSE_FIRST;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec::Vec;

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    /// Seconds at which attempts are made, up to that one.
    fn attempts(probing: &mut Probing, seconds: core::ops::Range<u64>) -> Vec<u64> {
        seconds.filter(|s| probing.take(at(*s))).collect()
    }

    #[test]
    fn attempts_are_put_off_up_to_a_minute() {
        let mut probing = Probing::new(at(0));
        let expected = [2, 6, 14, 30, 62, 122, 182];
        assert_eq!(attempts(&mut probing, 0..200), expected);
    }

    #[test]
    fn a_sign_of_a_listener_makes_the_next_attempt_due_once_a_second_at_most() {
        let mut probing = Probing::new(at(0));
        attempts(&mut probing, 0..100);
        for s in 100..103 {
            for _ in 0..1000 {
                probing.hint(at(s));
            }
            assert!(probing.take(at(s)));
            probing.hint(at(s));
            assert!(!probing.take(at(s)));
            assert_eq!(probing.next(), at(s + 1));
        }
        // Without further signs it is as at first.
        assert_eq!(attempts(&mut probing, 103..120), [103, 107, 115]);
    }
}
