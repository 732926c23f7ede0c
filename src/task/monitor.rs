//! Samples and aggregates of a run.

use crate::{
    engine::RunUsage,
    time::{Duration, Instant},
    wire::MonitoringProfile,
};

/// From the start of a run to its first sample.
const FIRST: Duration = Duration::from_millis(100);

/// Resources that a run used, at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When it was taken.
    pub at: Instant,
    /// Processor time since the sample before, in percent of one core.
    pub cpu_percent: f64,
    /// Arena bytes held.
    pub memory_bytes: u64,
    /// Pages of linear memory held.
    pub pages: u32,
    /// Branches and calls since the run's start.
    pub work: u64,
    /// Messages and log lines of its guest that exceeded a limit.
    pub dropped: u32,
    /// Aggregates of this run's samples, this one included.
    pub aggregate: Aggregate,
}

impl Sample {
    const NONE: Self = Self {
        at: Instant::BOOT,
        cpu_percent: 0.0,
        memory_bytes: 0,
        pages: 0,
        work: 0,
        dropped: 0,
        aggregate: Aggregate {
            cpu_sum: 0.0,
            cpu_max: 0.0,
            memory_sum: 0.0,
            memory_max: 0,
            count: 0,
        },
    };
}

/// Aggregates of a run's samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aggregate {
    cpu_sum: f64,
    /// Largest [`Sample::cpu_percent`].
    pub cpu_max: f64,
    memory_sum: f64,
    /// Largest [`Sample::memory_bytes`].
    pub memory_max: u64,
    /// Samples taken.
    pub count: u32,
}

impl Aggregate {
    fn add(&mut self, cpu_percent: f64, memory_bytes: u64) {
        self.cpu_sum += cpu_percent;
        self.cpu_max = self.cpu_max.max(cpu_percent);
        self.memory_sum += memory_bytes as f64;
        self.memory_max = self.memory_max.max(memory_bytes);
        self.count = self.count.saturating_add(1);
    }

    /// Mean of [`Sample::cpu_percent`]; 0 without samples.
    pub fn cpu_mean(&self) -> f64 {
        self.cpu_sum / f64::from(self.count.max(1))
    }

    /// Mean of [`Sample::memory_bytes`]; 0 without samples.
    pub fn memory_mean(&self) -> f64 {
        self.memory_sum / f64::from(self.count.max(1))
    }
}

/// The monitor of one run.
///
/// It keeps aggregates, not samples: a profile's history costs no memory, however long.
#[derive(Debug, Clone, Copy)]
pub struct Monitor {
    /// Metrics to collect, and their interval.
    pub profile: MonitoringProfile,
    started: Instant,
    next: Instant,
    /// Processor time at the latest sample, in nanoseconds.
    cpu: u64,
    latest: Sample,
}

impl Monitor {
    /// Begins with a run.
    pub fn new(profile: MonitoringProfile, now: Instant) -> Self {
        Self {
            profile,
            started: now,
            next: now + FIRST.min(profile.interval),
            cpu: 0,
            latest: Sample {
                at: now,
                ..Sample::NONE
            },
        }
    }

    /// Whether samples are wanted at all.
    pub fn exports(&self) -> bool {
        self.profile.exports()
    }

    /// When the next sample is due.
    pub fn next(&self) -> Option<Instant> {
        self.exports().then_some(self.next)
    }

    /// Takes a sample of `usage`. The next one is due an interval later, whenever this one was due:
    /// what was missed without a link is not made up for.
    pub fn sample(&mut self, usage: &RunUsage, now: Instant) -> &Sample {
        let wall = now.since(self.latest.at).as_secs_f64();
        let before = Duration::from_nanos(self.cpu);
        let busy = usage.cpu.saturating_sub(before).as_secs_f64();
        let cpu_percent = if wall > 0.0 { 100.0 * busy / wall } else { 0.0 };
        let memory_bytes = usage.memory as u64;
        let mut aggregate = self.latest.aggregate;
        aggregate.add(cpu_percent, memory_bytes);
        self.cpu = u64::try_from(usage.cpu.as_nanos()).unwrap_or(u64::MAX);
        self.next = now + self.profile.interval;
        self.latest = Sample {
            at: now,
            cpu_percent,
            memory_bytes,
            pages: usage.pages,
            dropped: usage.dropped,
            work: usage.work,
            aggregate,
        };
        &self.latest
    }

    /// From the run's start to the sample taken last.
    pub fn uptime(&self) -> Duration {
        self.latest.at.since(self.started)
    }

    /// The sample taken last.
    pub fn latest(&self) -> &Sample {
        &self.latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn usage(cpu_ms: u64, memory: usize) -> RunUsage {
        RunUsage {
            pages: 0,
            cpu: Duration::from_millis(cpu_ms),
            memory,
            work: cpu_ms * 10,
            dropped: 0,
        }
    }

    #[test]
    fn cpu_is_the_share_since_the_sample_before() {
        let mut monitor = Monitor::new(MonitoringProfile::STANDARD, at(1000));
        assert_eq!(monitor.next(), Some(at(1100)));
        let first = *monitor.sample(&usage(50, 1000), at(1100));
        assert!((first.cpu_percent - 50.0).abs() < 1e-9);
        assert_eq!(monitor.uptime(), Duration::from_millis(100));
        assert_eq!(monitor.next(), Some(at(11_100)));

        let second = *monitor.sample(&usage(1050, 3000), at(11_100));
        assert!((second.cpu_percent - 10.0).abs() < 1e-9);
        assert_eq!(second.aggregate.count, 2);
        assert!((second.aggregate.cpu_mean() - 30.0).abs() < 1e-9);
        assert!((second.aggregate.cpu_max - 50.0).abs() < 1e-9);
        assert!((second.aggregate.memory_mean() - 2000.0).abs() < 1e-9);
        assert_eq!(second.aggregate.memory_max, 3000);
    }

    #[test]
    fn a_run_that_ends_at_once_has_no_share() {
        let mut monitor = Monitor::new(MonitoringProfile::STANDARD, at(5));
        let sample = monitor.sample(&usage(1, 10), at(5));
        assert!(sample.cpu_percent.abs() < f64::EPSILON);
        assert_eq!(sample.aggregate.count, 1);
    }

    #[test]
    fn a_profile_may_turn_samples_off() {
        for (enabled, export_to_mqtt) in [(false, true), (true, false)] {
            let profile = MonitoringProfile {
                enabled,
                export_to_mqtt,
                ..MonitoringProfile::STANDARD
            };
            assert_eq!(Monitor::new(profile, at(0)).next(), None);
        }
    }
}
