//! Delays between attempts to connect.

use crate::time::Duration;

/// Delays that double from `first` to `most`, each stretched or shortened by up to a fifth so
/// that a fleet that lost its broker at one moment does not come back at one moment.
#[derive(Debug)]
pub struct Retry {
    first: Duration,
    most: Duration,
    next: Duration,
    random: u64,
}

impl Retry {
    /// Delays from `first` to `most`, before their jitter; a `first` beyond `most` is `most`. To
    /// differ, two devices need different seeds.
    pub const fn new(first: Duration, most: Duration, seed: u64) -> Self {
        Self {
            first,
            most,
            next: first,
            random: seed,
        }
    }

    /// The next delay is the first again.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }

    /// The delay before the next attempt.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next.min(self.most);
        self.next = delay.saturating_mul(2).min(self.most);
        // From 80 % to 120 % of it, in thousandths.
        let thousandths = 800 + u32::try_from(self.random() % 401).unwrap_or(200);
        delay.saturating_mul(thousandths) / 1000
    }

    /// SplitMix64: any seed will do, zero too.
    const fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = self.random;
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_within_a_fifth_up_to_the_most() {
        for seed in 0..100 {
            let mut retry = Retry::new(Duration::from_secs(1), Duration::from_secs(60), seed);
            for nominal in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
                let ms = retry.delay().as_millis();
                assert!(
                    (nominal * 800..=nominal * 1200).contains(&ms),
                    "{nominal} s: {ms} ms"
                );
            }
            retry.reset();
            assert!(retry.delay() <= Duration::from_millis(1200));
        }
    }

    /// Tests of what waits count on these.
    #[test]
    fn a_seed_always_gives_the_same_delays() {
        let mut retry = Retry::new(Duration::from_secs(1), Duration::from_secs(60), 1);
        for ms in [1048, 2102, 4412, 7704, 14_192, 36_640, 52_800, 54_420] {
            assert_eq!(retry.delay(), Duration::from_millis(ms));
        }
    }

    #[test]
    fn seeds_differ() {
        let delay =
            |seed| Retry::new(Duration::from_secs(1), Duration::from_secs(60), seed).delay();
        assert_ne!(delay(1), delay(2));
    }
}
