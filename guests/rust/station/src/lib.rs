//! A weather station: measures, publishes, sleeps, and says what it has measured.
//! `guests/c/station.c` does the same. It asks for `PROPLET_CAPS=timer,time,publish,sensor`, and
//! takes the variables `TOPIC` (`station/temperature` if not set) and `PERIOD_MS` (1000).
//!
//! ```sh
//! cargo build --release --target wasm32-unknown-unknown --manifest-path guests/rust/station/Cargo.toml
//! ```
#![no_std]

use core::num::NonZeroU32;
use proplet_guest::{Channel, Level, ReadError, Timer};

/// Bytes of the longest text of microdegrees: a sign, 19 digits and a point.
const TEXT: usize = 22;

/// Microdegrees as degrees, with six decimals.
fn decimal(micro: i64, to: &mut [u8; TEXT]) -> &str {
    let mut value = micro.unsigned_abs();
    let mut start = TEXT;
    let mut put = |byte: u8| {
        start -= 1;
        to[start] = byte;
    };
    let mut digits = 0;
    // From the last one, with at least one before the point.
    while value > 0 || digits < 7 {
        if digits == 6 {
            put(b'.');
        }
        put(b'0' + (value % 10) as u8);
        value /= 10;
        digits += 1;
    }
    if micro < 0 {
        put(b'-');
    }
    str::from_utf8(&to[start..]).unwrap_or_default()
}

fn period_ms() -> Option<NonZeroU32> {
    let mut buf = [0; 8];
    let text = proplet_guest::env("PERIOD_MS", &mut buf).ok()?;
    str::from_utf8(text).ok()?.parse().ok()
}

/// Publishes that many measurements, one a period; returns how many there were. The result is their
/// mean.
#[unsafe(export_name = "main")]
extern "C" fn run(count: i32) -> i32 {
    let mut buf = [0; 64];
    let topic = match proplet_guest::env("TOPIC", &mut buf) {
        Ok(topic) => str::from_utf8(topic).unwrap_or_default(),
        Err(ReadError::Absent) => "station/temperature",
        Err(ReadError::TooLong(_)) => {
            proplet_guest::log(Level::Error, "TOPIC is longer than 64 bytes");
            return 0;
        }
    };
    let mut timer = Timer::start(period_ms().unwrap_or(NonZeroU32::new(1000).unwrap()));
    let (mut sum, mut measured) = (0, 0);
    let mut text = [0; TEXT];
    for _ in 0..count {
        timer.wait();
        let Some(micro) = proplet_guest::sensor_read(0, Channel::AmbientTemperature) else {
            proplet_guest::log(Level::Warn, "sensor 0 can't be read");
            continue;
        };
        while !proplet_guest::publish(topic, decimal(micro, &mut text).as_bytes()) {
            proplet_guest::sleep_ms(1);
        }
        sum += micro;
        measured += 1;
    }
    if measured > 0 {
        proplet_guest::set_result(decimal(sum / i64::from(measured), &mut text));
    }
    measured
}
