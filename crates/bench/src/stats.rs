//! Figures of many runs, in bounded memory.

use proplet::time::Duration;

/// Least, mean and most of some durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// Number of values. Without any, the others are zero.
    pub count: u64,
    /// All together.
    pub sum: Duration,
    /// The shortest.
    pub least: Duration,
    /// The longest.
    pub most: Duration,
}

impl Spread {
    /// Of no durations.
    pub const NONE: Self = Self {
        count: 0,
        sum: Duration::ZERO,
        least: Duration::ZERO,
        most: Duration::ZERO,
    };

    pub(crate) fn add(&mut self, duration: Duration) {
        self.least = match self.count {
            0 => duration,
            _ => self.least.min(duration),
        };
        self.most = self.most.max(duration);
        self.sum += duration;
        self.count += 1;
    }

    /// The mean, in whole nanoseconds.
    pub fn mean(&self) -> Duration {
        let nanos = self.sum.as_nanos() / u128::from(self.count.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Iterations: runs that have ended, but for those that the bench interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Those that gave the workload's result: from their start until their end was known. Their
    /// number is the number of iterations that were right.
    pub latency: Spread,
    /// Those that trapped or gave another result.
    pub errors: u64,
}

impl Tally {
    /// Of no iterations.
    pub const NONE: Self = Self {
        latency: Spread::NONE,
        errors: 0,
    };

    /// Iterations, right or wrong.
    pub const fn iterations(&self) -> u64 {
        self.latency.count + self.errors
    }
}

/// Evenness of shares against those that were due by weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evenness {
    /// Jain's index of what each had against what it was due, from 1/n, one had all, to 1.
    pub jain: f64,
    /// The largest relative error of what one had against what it was due; 0.1 is a tenth.
    pub error: f64,
}

/// Evenness of `shares`, each an amount and its weight, at least 1. `None` if all amounts are 0.
pub fn evenness(shares: impl Iterator<Item = (u64, u8)> + Clone) -> Option<Evenness> {
    let total: f64 = shares.clone().map(|(amount, _)| amount as f64).sum();
    let weights: f64 = shares.clone().map(|(_, weight)| f64::from(weight)).sum();
    if total == 0.0 {
        return None;
    }
    let (mut count, mut sum, mut squares, mut error) = (0.0, 0.0, 0.0, 0.0_f64);
    for (amount, weight) in shares {
        let ratio = amount as f64 / total * weights / f64::from(weight);
        count += 1.0;
        sum += ratio;
        squares += ratio * ratio;
        error = error.max((ratio - 1.0).max(1.0 - ratio));
    }
    Some(Evenness {
        jain: sum * sum / (count * squares),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    fn of<const N: usize>(shares: [(u64, u8); N]) -> Option<Evenness> {
        evenness(shares.into_iter())
    }

    #[test]
    fn shares_as_their_weights_are_even() {
        for even in [
            of([(7, 1), (7, 1), (7, 1)]),
            of([(1000, 1), (2000, 2), (4000, 4), (8000, 8)]),
        ] {
            let Evenness { jain, error } = even.expect("there are amounts");
            assert!(close(jain, 1.0) && error < 1e-12, "{jain} {error}");
        }
    }

    #[test]
    fn one_that_has_all_is_one_over_n() {
        let even = of([(9, 10), (0, 10), (0, 10), (0, 10)]).expect("there are amounts");
        assert!(close(even.jain, 0.25) && close(even.error, 3.0), "{even:?}");
    }

    #[test]
    fn the_worst_error_counts_whichever_its_sign() {
        // Due 50 each: 0.2 off. Jain: 100² / (2 × (60² + 40²)).
        let even = of([(60, 5), (40, 5)]).expect("there are amounts");
        assert!(close(even.error, 0.2), "{even:?}");
        assert!(close(even.jain, 10_000.0 / 10_400.0), "{even:?}");
        // Due 75 and 25: the second has 0.4 less.
        let even = of([(85, 3), (15, 1)]).expect("there are amounts");
        assert!(close(even.error, 0.4), "{even:?}");
    }

    #[test]
    fn nothing_is_not_shared() {
        assert_eq!(of([(0, 1), (0, 2)]), None);
        assert_eq!(of([]), None);
    }

    #[test]
    fn a_spread_has_its_least_mean_and_most() {
        let mut spread = Spread::NONE;
        assert_eq!(spread.mean(), Duration::ZERO);
        for us in [5, 3, 10] {
            spread.add(Duration::from_micros(us));
        }
        assert_eq!(spread.count, 3);
        assert_eq!(spread.least, Duration::from_micros(3));
        assert_eq!(spread.mean(), Duration::from_micros(6));
        assert_eq!(spread.most, Duration::from_micros(10));
    }
}
