//! The capabilities time, timer and random.

use super::{DONE, Done, PIECE, arg, give, granted};
use crate::{
    mailbox::{Timer, micros, millis},
    platform::Platform,
};
use core::task::Poll;
use proplet::{task::caps::Cap, time::Duration};
use wamr::{Caller, HostError};

pub(super) fn now_ms<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let now = granted::<P>(caller, Cap::Time)?.platform().now();
    if let Some(result) = args.first_mut() {
        *result = millis(now);
    }
    DONE
}

/// Asked again, it has the time of its end in the place of that of its sleep.
pub(super) fn sleep_ms<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let guest = granted::<P>(caller, Cap::Time)?;
    let now = guest.platform().now();
    let Some(time) = args.first_mut() else {
        return DONE;
    };
    if !caller.is_asked_again() {
        let end = now + Duration::from_millis(*time as u32 as u64);
        *time = micros(end);
    }
    match *time > micros(now) {
        true => guest.wait_until(Duration::from_micros(*time)),
        false => DONE,
    }
}

pub(super) fn timer_start<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let guest = granted::<P>(caller, Cap::Timer)?;
    let Some(timer) = Timer::new(guest.platform().now(), arg(args, 0)) else {
        return Poll::Ready(Err(caller.refuse(format_args!(
            "timer_start: a period of 0 ms, expected 1 or more"
        ))));
    };
    guest.mailbox(|e| e.timer = Some(timer));
    DONE
}

pub(super) fn timer_wait<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let guest = granted::<P>(caller, Cap::Timer)?;
    let Some(timer) = guest.mailbox(|e| e.timer) else {
        return Poll::Ready(Err(caller.refuse(format_args!(
            "timer_wait: no timer runs, call timer_start first"
        ))));
    };
    let now = guest.platform().now();
    if now < timer.next() {
        return guest.wait_until(timer.next());
    }
    let (times, timer) = timer.expired(now);
    guest.mailbox(|e| e.timer = Some(timer));
    give(args, times);
    DONE
}

pub(super) fn timer_stop<P: Platform>(caller: &mut Caller<'_>, _: &mut [u64]) -> Done {
    granted::<P>(caller, Cap::Timer)?.mailbox(|e| e.timer = None);
    DONE
}

/// A generator is slow: a guest that asks for much pays for it, and has it by turns. Asked again, the
/// arguments are those of the rest.
pub(super) fn random<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    /// Bytes before others have their turn.
    const TURN: u32 = 256;
    /// Bytes for a unit of work.
    const UNIT: u32 = 16;
    let guest = granted::<P>(caller, Cap::Random)?;
    let (offset, len) = (arg(args, 0), arg(args, 1));
    if !caller.is_asked_again() {
        caller.check(offset, len)?;
        caller.charge(len / UNIT);
    }
    let turn = len.min(TURN);
    fill(caller, guest.platform(), offset, turn)?;
    if turn == len {
        return DONE;
    }
    give(args, offset + turn);
    if let Some(rest) = args.get_mut(1) {
        *rest = u64::from(len - turn);
    }
    guest.wait_until(guest.platform().now())
}

/// Fills memory that is the guest's.
///
/// # Errors
/// None, since the memory is the guest's.
#[inline(never)]
fn fill<P: Platform>(
    caller: &mut Caller<'_>,
    platform: &P,
    offset: u32,
    len: u32,
) -> Result<(), HostError> {
    let mut buffer = [0; PIECE];
    let mut at = 0;
    while at < len {
        let (piece, _) = buffer.split_at_mut(PIECE.min((len - at) as usize));
        platform.random(piece);
        caller.write(offset + at, piece)?;
        at += piece.len() as u32;
    }
    Ok(())
}
