//! The limits that a task's environment asks for, within the device's.

use crate::{
    config::TaskLimits,
    engine::{Limits, Preemption, Weight},
    task::caps::{CAPS, Caps, CapsError},
    text::clip,
    time::Duration,
};
use core::fmt;

/// Milliseconds that a run may take, from the start of its function.
pub const DEADLINE_MS: &str = "PROPLET_DEADLINE_MS";
/// Branches and calls that a run may execute.
pub const WORK: &str = "PROPLET_WORK";
/// Bytes of a run's operand stack.
pub const STACK_BYTES: &str = "PROPLET_STACK_BYTES";
/// Most bytes of pages of linear memory that a run may hold.
pub const MEMORY_BYTES: &str = "PROPLET_MEMORY_BYTES";
/// A run's share of the processor against the others', 1 to 100; 10 if not given.
pub const WEIGHT: &str = "PROPLET_WEIGHT";
/// Preemption of a run, `fuel` or `time`: the device's own, or the task is refused.
pub const PREEMPTION: &str = "PROPLET_PREEMPTION";

/// Least operand stack in bytes: below it not even a small function's frame fits.
pub const STACK_MIN: u32 = 512;

/// A variable of a task's environment that asks for something that the device does not offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetError<'a> {
    /// The value is no number within the device's bounds.
    Number {
        /// The variable.
        key: &'static str,
        /// Its value.
        value: &'a str,
        /// The least that is allowed.
        min: u64,
        /// The most that is allowed; `u64::MAX` is no bound.
        max: u64,
    },
    /// The device preempts otherwise.
    Preemption {
        /// The value of [`PREEMPTION`].
        value: &'a str,
        /// The device's preemption.
        device: Preemption,
    },
    /// A capability that is not granted.
    Caps(CapsError<'a>),
}

impl fmt::Display for BudgetError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Number {
                key,
                value,
                min,
                max,
            } => {
                let value = clip(value, 24);
                write!(
                    f,
                    "{key}={value}: expected a number{} from {min}",
                    unit(key)
                )?;
                match max {
                    u64::MAX => Ok(()),
                    max => write!(f, " to {max}"),
                }
            }
            Self::Preemption { value, device } => write!(
                f,
                "{PREEMPTION}={}: expected {}",
                clip(value, 24),
                device.name()
            ),
            Self::Caps(error) => write!(f, "{CAPS}: {error}"),
        }
    }
}

impl core::error::Error for BudgetError<'_> {}

/// Unit of a variable's number, as an error names it.
fn unit(key: &str) -> &'static str {
    match key {
        DEADLINE_MS => " of milliseconds",
        WORK => " of branches and calls",
        STACK_BYTES | MEMORY_BYTES => " of bytes",
        _ => "",
    }
}

/// Bounds of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Limits that the engine enforces.
    pub limits: Limits,
    /// Limit that the agent enforces.
    pub deadline: Option<Duration>,
    /// Capabilities of the guest.
    pub caps: Caps,
}

impl Budget {
    /// Of a task that asks for nothing.
    pub fn of_device(device: &TaskLimits) -> Self {
        Self {
            limits: Limits {
                stack: device.stack.next_multiple_of(8),
                memory_max: device.memory,
                work: device.work,
                weight: Weight::DEFAULT,
            },
            deadline: device.deadline,
            caps: Caps::NONE,
        }
    }

    /// Reads a task's environment through `get`; what it doesn't set is the device's.
    ///
    /// # Errors
    /// The variable, its value and its range, if it's not a number within the device's bounds.
    pub fn from_env<'a>(
        get: impl Fn(&str) -> Option<&'a str>,
        device: &TaskLimits,
    ) -> Result<Self, BudgetError<'a>> {
        let read = |key, min, max| number(key, get(key), min, max);
        let deadline_max = device
            .deadline
            .map_or(u64::MAX, |d| d.as_millis().try_into().unwrap_or(u64::MAX));
        let stack = read(STACK_BYTES, STACK_MIN.into(), device.stack_max.into())?;
        let memory_max = device.memory.unwrap_or(u64::MAX);
        let memory = read(MEMORY_BYTES, device.page.into(), memory_max)?;
        let weight = read(WEIGHT, 1, Weight::MAX.0.into())?;
        check_preemption(get(PREEMPTION), device.preemption)?;
        let usual = Self::of_device(device);
        Ok(Self {
            limits: Limits {
                stack: stack.map_or(usual.limits.stack, |bytes| {
                    (bytes as u32).next_multiple_of(8)
                }),
                memory_max: memory.or(usual.limits.memory_max),
                work: read(WORK, 1, device.work.unwrap_or(u64::MAX))?.or(usual.limits.work),
                weight: weight.map_or(usual.limits.weight, |weight| Weight(weight as u8)),
            },
            deadline: read(DEADLINE_MS, 1, deadline_max)?
                .map(Duration::from_millis)
                .or(usual.deadline),
            caps: Caps::granted(get(CAPS), device.caps).map_err(BudgetError::Caps)?,
        })
    }
}

fn check_preemption(value: Option<&str>, device: Preemption) -> Result<(), BudgetError<'_>> {
    match value {
        Some(value) if value != device.name() => Err(BudgetError::Preemption { value, device }),
        _ => Ok(()),
    }
}

fn number<'a>(
    key: &'static str,
    value: Option<&'a str>,
    min: u64,
    max: u64,
) -> Result<Option<u64>, BudgetError<'a>> {
    let Some(value) = value else { return Ok(None) };
    match value.parse() {
        Ok(n) if (min..=max).contains(&n) => Ok(Some(n)),
        _ => Err(BudgetError::Number {
            key,
            value,
            min,
            max,
        }),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::config::Config;
    use std::string::{String, ToString as _};

    const DEVICE: TaskLimits = TaskLimits {
        deadline: Some(Duration::from_secs(60)),
        ..Config::DEFAULT.limits
    };

    fn with(key: &'static str, value: &'static str) -> Result<Budget, String> {
        Budget::from_env(|k| (k == key).then_some(value), &DEVICE).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_not_set_is_the_devices() {
        let budget = Budget::from_env(|_| None, &DEVICE).unwrap();
        assert_eq!(budget.deadline, Some(Duration::from_secs(60)));
        assert_eq!(
            budget.limits,
            Limits {
                stack: DEVICE.stack,
                memory_max: None,
                work: None,
                weight: Weight::DEFAULT,
            }
        );
    }

    #[test]
    fn a_task_says_how_it_shares_the_processor() {
        let weight = with(WEIGHT, "100").unwrap().limits.weight;
        assert_eq!((weight.turn(2000), weight.turn(1)), (20_000, 10));
        let weight = with(WEIGHT, "1").unwrap().limits.weight;
        assert_eq!((weight.turn(2000), weight.turn(10)), (200, 1));
        for bad in ["0", "101", "-1", "heavy", ""] {
            let error = with(WEIGHT, bad).unwrap_err();
            assert_eq!(
                error,
                std::format!("PROPLET_WEIGHT={bad}: expected a number from 1 to 100")
            );
        }
    }

    #[test]
    fn a_task_is_preempted_as_the_device_does_it_or_not_at_all() {
        let timed = TaskLimits {
            preemption: Preemption::Time,
            ..DEVICE
        };
        let with = |value: &'static str, device: &TaskLimits| {
            let refused = Budget::from_env(|k| (k == PREEMPTION).then_some(value), device).err();
            refused.map(|e| e.to_string())
        };
        assert_eq!(with("fuel", &DEVICE), None);
        assert_eq!(with("time", &timed), None);
        assert_eq!(
            with("time", &DEVICE).unwrap(),
            "PROPLET_PREEMPTION=time: expected fuel"
        );
        assert_eq!(
            with("luck", &timed).unwrap(),
            "PROPLET_PREEMPTION=luck: expected time"
        );
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_the_range() {
        assert_eq!(
            with(DEADLINE_MS, "60001").unwrap_err(),
            "PROPLET_DEADLINE_MS=60001: expected a number of milliseconds from 1 to 60000"
        );
        assert_eq!(
            with(WORK, "-1").unwrap_err(),
            "PROPLET_WORK=-1: expected a number of branches and calls from 1"
        );
        let paged = TaskLimits {
            memory: Some(49_152),
            page: 1024,
            ..DEVICE
        };
        for small in ["0", "100", "1023", "49153"] {
            let error = Budget::from_env(|k| (k == MEMORY_BYTES).then_some(small), &paged);
            assert_eq!(
                error.unwrap_err().to_string(),
                std::format!(
                    "PROPLET_MEMORY_BYTES={small}: expected a number of bytes from 1024 to 49152"
                )
            );
        }
        assert!(Budget::from_env(|k| (k == MEMORY_BYTES).then_some("1024"), &paged).is_ok());
        for (key, value) in [
            (DEADLINE_MS, "0"),
            (DEADLINE_MS, "1s"),
            (STACK_BYTES, "8"),
            (STACK_BYTES, "1000000"),
            (MEMORY_BYTES, "99999999999999999999999"),
        ] {
            assert!(with(key, value).is_err(), "{key}={value}");
        }
    }
}
