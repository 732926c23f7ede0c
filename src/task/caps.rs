//! Capabilities: host functions that a task's guest may call beyond those of all guests.

use crate::text::clip;
use core::fmt;

/// Capabilities that a task asks for, separated by commas.
pub const CAPS: &str = "PROPLET_CAPS";

/// A permission to call some host functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cap {
    /// The clock, and to sleep.
    Time,
    /// Random bytes.
    Random,
    /// A periodic timer.
    Timer,
    /// To publish below the channel.
    Publish,
    /// To receive what is published below the channel.
    Subscribe,
    /// The board's pins.
    Gpio,
    /// The board's sensors.
    Sensor,
}

impl Cap {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Time,
        Self::Random,
        Self::Timer,
        Self::Publish,
        Self::Subscribe,
        Self::Gpio,
        Self::Sensor,
    ];

    /// Its name in settings and environments.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Random => "random",
            Self::Timer => "timer",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Gpio => "gpio",
            Self::Sensor => "sensor",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Refusal of a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapsError<'a> {
    /// The name is no capability.
    Unknown(&'a str),
    /// The device does not allow it.
    Forbidden(Cap),
}

impl fmt::Display for CapsError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(
                f,
                "'{}' is no capability: expected time, random, timer, publish, subscribe, gpio or sensor",
                clip(name, 24)
            ),
            Self::Forbidden(cap) => write!(
                f,
                "this proplet's setting caps does not allow '{}'",
                cap.name()
            ),
        }
    }
}

impl core::error::Error for CapsError<'_> {}

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caps(u8);

impl Caps {
    /// None.
    pub const NONE: Self = Self(0);

    /// Capabilities that reach nothing but the task itself: the default of a device.
    pub const HARMLESS: Self = Self(Cap::Time.bit() | Cap::Random.bit() | Cap::Timer.bit());

    /// Reads names, separated by commas; the empty text has none.
    ///
    /// # Errors
    /// The first name that is no capability.
    pub fn parse(names: &str) -> Result<Self, CapsError<'_>> {
        let mut caps = Self::NONE;
        for name in names.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            let cap = Cap::ALL.into_iter().find(|cap| cap.name() == name);
            caps.0 |= cap.ok_or(CapsError::Unknown(name))?.bit();
        }
        Ok(caps)
    }

    /// Capabilities that a task asks for by [`CAPS`], within those that the device allows.
    ///
    /// # Errors
    /// The first capability that the device does not allow, or a name that is no capability.
    pub fn granted(asked: Option<&str>, allowed: Self) -> Result<Self, CapsError<'_>> {
        let asked = Self::parse(asked.unwrap_or_default())?;
        let mut excess = Cap::ALL.into_iter();
        match excess.find(|&cap| asked.has(cap) && !allowed.has(cap)) {
            None => Ok(asked),
            Some(cap) => Err(CapsError::Forbidden(cap)),
        }
    }

    /// Whether `cap` is one of them.
    pub const fn has(self, cap: Cap) -> bool {
        self.0 & cap.bit() != 0
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::string::ToString as _;

    #[test]
    fn names_are_read_and_the_rest_is_refused_by_name() {
        for cap in Cap::ALL {
            let caps = Caps::parse(cap.name()).unwrap();
            assert!(Cap::ALL.into_iter().all(|c| caps.has(c) == (c == cap)));
        }
        let caps = Caps::parse(" time, gpio,").unwrap();
        assert!(caps.has(Cap::Time) && caps.has(Cap::Gpio) && !caps.has(Cap::Sensor));
        assert_eq!(Caps::parse(""), Ok(Caps::NONE));
        let error = Caps::parse("time,GPIO").unwrap_err().to_string();
        assert!(
            error.starts_with("'GPIO' is no capability: expected time, "),
            "{error}"
        );
    }

    #[test]
    fn nothing_is_granted_that_is_not_asked_for_and_allowed() {
        let allowed = Caps::parse("time,publish").unwrap();
        assert_eq!(Caps::granted(None, allowed), Ok(Caps::NONE));
        assert_eq!(
            Caps::granted(Some("publish"), allowed),
            Caps::parse("publish")
        );
        assert_eq!(
            Caps::granted(Some("time,gpio"), allowed)
                .unwrap_err()
                .to_string(),
            "this proplet's setting caps does not allow 'gpio'"
        );
        assert!(Caps::granted(Some("root"), allowed).is_err());
    }
}
