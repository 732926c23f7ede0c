//! The capabilities time, timer and random.

use super::{arg, give, granted};
use crate::{exchange::Timer, platform::Platform};
use proplet::{task::caps::Cap, time::Duration};
use wamr::{Caller, HostError};

type Done = Result<(), HostError>;

pub(super) fn now_ms<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let now = granted::<P>(caller, Cap::Time)?.platform().now();
    if let Some(result) = args.first_mut() {
        *result = now.as_secs() * 1000 + u64::from(now.subsec_millis());
    }
    Ok(())
}

pub(super) fn sleep_ms<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let turns = granted::<P>(caller, Cap::Time)?;
    let time = Duration::from_millis(arg(args, 0).into());
    turns.sleep_until(caller, turns.platform().now() + time)
}

pub(super) fn timer_start<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let turns = granted::<P>(caller, Cap::Timer)?;
    let Some(timer) = Timer::new(turns.platform().now(), arg(args, 0)) else {
        return Err(caller.refuse(format_args!(
            "timer_start: a period of 0 ms, expected 1 or more"
        )));
    };
    turns.exchange().set_timer(Some(timer));
    Ok(())
}

pub(super) fn timer_wait<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let turns = granted::<P>(caller, Cap::Timer)?;
    let Some(timer) = turns.exchange().timer() else {
        return Err(caller.refuse(format_args!(
            "timer_wait: no timer runs, call timer_start first"
        )));
    };
    turns.sleep_until(caller, timer.next())?;
    let (times, timer) = timer.expired(turns.platform().now());
    turns.exchange().set_timer(Some(timer));
    give(args, times);
    Ok(())
}

pub(super) fn timer_stop<P: Platform>(caller: &mut Caller<'_>, _: &mut [u64]) -> Done {
    granted::<P>(caller, Cap::Timer)?.exchange().set_timer(None);
    Ok(())
}

/// A generator is slow: a guest that asks for much pays for it, and is stopped in between.
pub(super) fn random<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    /// Bytes between two looks at the interrupt.
    const PIECE: usize = 256;
    /// Bytes for a unit of work.
    const UNIT: u32 = 16;
    let turns = granted::<P>(caller, Cap::Random)?;
    let len = arg(args, 1);
    for piece in caller.bytes_mut(arg(args, 0), len)?.chunks_mut(PIECE) {
        if turns.is_interrupted() {
            return Err(caller.interrupted());
        }
        turns.platform().random(piece);
    }
    caller.charge(len / UNIT);
    Ok(())
}
