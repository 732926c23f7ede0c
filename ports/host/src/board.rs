//! A simulated board: what guests find behind gpio and sensor on Linux.
//!
//! It has 16 pins, of which 14 and 15 are wired to each other; sensor 0, a weather station; and
//! sensor 1, a board that lies on a table with an accelerometer and a battery. What they measure
//! depends on the time alone.

use proplet_engine::{BoardError, Channel, PinMode};
use std::{
    f64::consts::TAU,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

const PINS: usize = 16;

/// Two pins with a wire between them.
const WIRE: [usize; 2] = [14, 15];

/// The board.
#[derive(Debug)]
pub struct Board {
    pins: Mutex<[Pin; PINS]>,
}

#[derive(Debug, Clone, Copy)]
struct Pin {
    mode: PinMode,
    /// Level that it drives, if it is an output.
    is_high: bool,
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

impl Board {
    /// All pins are inputs.
    pub const fn new() -> Self {
        let pin = Pin {
            mode: PinMode::Input,
            is_high: false,
        };
        Self {
            pins: Mutex::new([pin; PINS]),
        }
    }

    fn lock(&self) -> MutexGuard<'_, [Pin; PINS]> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prepares a pin; an output is low at first.
    ///
    /// # Errors
    /// There is no such pin.
    pub fn configure(&self, pin: u32, mode: PinMode) -> Result<(), BoardError> {
        *find(&mut self.lock()[..], pin)? = Pin {
            mode,
            is_high: false,
        };
        Ok(())
    }

    /// Sets an output's level.
    ///
    /// # Errors
    /// There is no such pin, or it is an input.
    pub fn write(&self, pin: u32, is_high: bool) -> Result<(), BoardError> {
        let mut pins = self.lock();
        let pin = find(&mut pins[..], pin)?;
        if pin.mode != PinMode::Output {
            return Err(BoardError::Failed);
        }
        pin.is_high = is_high;
        Ok(())
    }

    /// A pin's level: what it drives; or else what comes over the wire; or else its pull, which is
    /// down without one.
    ///
    /// # Errors
    /// There is no such pin.
    pub fn read(&self, pin: u32) -> Result<bool, BoardError> {
        let mut pins = self.lock();
        let own = *find(&mut pins[..], pin)?;
        let other = match usize::try_from(pin) {
            Ok(pin) if pin == WIRE[0] => Some(pins[WIRE[1]]),
            Ok(pin) if pin == WIRE[1] => Some(pins[WIRE[0]]),
            _ => None,
        };
        let drives = |pin: &Pin| pin.mode == PinMode::Output;
        let driver = Some(own).filter(drives).or(other.filter(drives));
        Ok(driver.map_or(own.mode == PinMode::InputPullUp, |driver| driver.is_high))
    }
}

fn find(pins: &mut [Pin], pin: u32) -> Result<&mut Pin, BoardError> {
    let index = usize::try_from(pin).map_err(|_| BoardError::Absent)?;
    pins.get_mut(index).ok_or(BoardError::Absent)
}

/// Measurement of a sensor at a time since boot, in millionths of the channel's unit.
///
/// # Errors
/// There is no such sensor, or it doesn't have the channel.
pub fn measure(sensor: u32, channel: Channel, now: Duration) -> Result<i64, BoardError> {
    let seconds = now.as_secs_f64();
    let wave = |mean: f64, swing: f64, period: f64| mean + swing * (seconds / period * TAU).sin();
    let value = match (sensor, channel) {
        (0, Channel::AmbientTemperature) => wave(21.0, 2.5, 600.0),
        (0, Channel::Humidity) => wave(45.0, -8.0, 600.0),
        (0, Channel::Pressure) => wave(101_325.0, 400.0, 3600.0),
        (0, Channel::Light) => wave(300.0, 250.0, 900.0),
        (1, Channel::AccelerationX) => wave(0.0, 0.02, 1.3),
        (1, Channel::AccelerationY) => wave(0.0, 0.02, 1.7),
        (1, Channel::AccelerationZ) => wave(9.806_65, 0.05, 1.1),
        (1, Channel::Voltage) => wave(3.7, 0.1, 7200.0),
        _ => return Err(BoardError::Absent),
    };
    Ok((value * 1e6).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_read_back_and_inputs_follow_their_pulls() {
        let board = Board::new();
        assert_eq!(board.read(0), Ok(false));
        assert_eq!(board.write(0, true), Err(BoardError::Failed));
        for (mode, level) in [
            (PinMode::InputPullUp, true),
            (PinMode::InputPullDown, false),
            (PinMode::Input, false),
        ] {
            assert_eq!(board.configure(0, mode), Ok(()));
            assert_eq!(board.read(0), Ok(level), "{mode:?}");
        }
        assert_eq!(board.configure(0, PinMode::Output), Ok(()));
        for level in [true, false, true] {
            assert_eq!(board.write(0, level), Ok(()));
            assert_eq!(board.read(0), Ok(level));
        }
        assert_eq!(board.configure(0, PinMode::Output), Ok(()));
        assert_eq!(board.read(0), Ok(false), "low at first");
        for pin in [16, u32::MAX] {
            assert_eq!(
                board.configure(pin, PinMode::Input),
                Err(BoardError::Absent)
            );
            assert_eq!(board.write(pin, true), Err(BoardError::Absent));
            assert_eq!(board.read(pin), Err(BoardError::Absent));
        }
    }

    #[test]
    fn two_pins_are_wired() {
        let board = Board::new();
        for (from, to) in [(14, 15), (15, 14)] {
            assert_eq!(board.configure(from, PinMode::Output), Ok(()));
            assert_eq!(board.configure(to, PinMode::InputPullUp), Ok(()));
            for level in [true, false] {
                assert_eq!(board.write(from, level), Ok(()));
                assert_eq!(board.read(to), Ok(level));
            }
            // No pin drives it now.
            assert_eq!(board.configure(from, PinMode::Input), Ok(()));
            assert_eq!(board.read(to), Ok(true));
            assert_eq!(board.read(from), Ok(false));
        }
        assert_eq!(board.configure(13, PinMode::Output), Ok(()));
        assert_eq!(board.write(13, true), Ok(()));
        assert_eq!(board.read(12), Ok(false));
    }

    #[test]
    fn sensors_measure_what_is_plausible_at_any_time() {
        let ranges = [
            (0, Channel::AmbientTemperature, 18..24),
            (0, Channel::Humidity, 36..54),
            (0, Channel::Pressure, 100_900..101_800),
            (0, Channel::Light, 40..560),
            (1, Channel::AccelerationX, -1..1),
            (1, Channel::AccelerationY, -1..1),
            (1, Channel::AccelerationZ, 9..10),
            (1, Channel::Voltage, 3..4),
        ];
        for second in (0..100_000).step_by(97) {
            let now = Duration::from_secs(second);
            for (sensor, channel, range) in &ranges {
                let value = measure(*sensor, *channel, now).expect("it has the channel");
                let range = range.start * 1_000_000..range.end * 1_000_000;
                assert!(range.contains(&value), "{channel:?} at {second} s: {value}");
                assert_eq!(measure(*sensor, *channel, now), Ok(value));
                assert_eq!(measure(1 - sensor, *channel, now), Err(BoardError::Absent));
            }
        }
        let temperature = |s| measure(0, Channel::AmbientTemperature, Duration::from_secs(s));
        assert_ne!(temperature(0), temperature(100));
    }
}
