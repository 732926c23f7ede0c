//! The capabilities gpio and sensor: the board.

use super::{DONE, Done, arg, give, granted};
use crate::platform::{BoardError, PinMode, Platform};
use core::task::{Poll, ready};
use proplet::task::caps::Cap;
use wamr::{Caller, HostError};

/// Units of work of a measurement: a sensor on a bus takes its time.
const MEASUREMENT: u32 = 256;

pub(super) fn gpio_configure<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let guest = granted::<P>(caller, Cap::Gpio)?;
    let (pin, mode) = (arg(args, 0), arg(args, 1));
    let Some(mode) = PinMode::from_number(mode) else {
        return Poll::Ready(Err(
            caller.refuse(format_args!("gpio_configure: mode {mode}, expected 0 to 3"))
        ));
    };
    let result = guest.platform().gpio_configure(pin, mode);
    Poll::Ready(result.map_err(|e| pin_error(caller, "gpio_configure", pin, e)))
}

pub(super) fn gpio_write<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let guest = granted::<P>(caller, Cap::Gpio)?;
    let pin = arg(args, 0);
    let result = guest.platform().gpio_write(pin, arg(args, 1) != 0);
    Poll::Ready(result.map_err(|e| pin_error(caller, "gpio_write", pin, e)))
}

pub(super) fn gpio_read<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let guest = granted::<P>(caller, Cap::Gpio)?;
    let pin = arg(args, 0);
    let result = guest.platform().gpio_read(pin);
    let level = result.map_err(|e| pin_error(caller, "gpio_read", pin, e))?;
    give(args, level.into());
    DONE
}

#[cold]
fn pin_error(caller: &Caller<'_>, function: &str, pin: u32, error: BoardError) -> HostError {
    match error {
        BoardError::Absent => caller.refuse(format_args!("{function}: the board has no pin {pin}")),
        BoardError::Failed => caller.refuse(format_args!("{function}: pin {pin} can't do that")),
    }
}

pub(super) fn sensor_read<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let guest = granted::<P>(caller, Cap::Sensor)?;
    let (sensor, number, out) = (arg(args, 0), arg(args, 1), arg(args, 2));
    if !caller.is_asked_again() {
        caller.check(out, 8)?;
        caller.charge(MEASUREMENT);
        guest.measure(sensor, number);
    }
    match ready!(guest.measured()) {
        Ok(value) => {
            caller.write(out, &value.to_le_bytes())?;
            give(args, 1);
            DONE
        }
        Err(BoardError::Failed) => {
            give(args, 0);
            DONE
        }
        Err(BoardError::Absent) => Poll::Ready(Err(caller.refuse(format_args!(
            "sensor_read: the board has no sensor {sensor} with channel {number}"
        )))),
    }
}
