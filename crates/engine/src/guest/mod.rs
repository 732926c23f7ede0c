//! The functions that guests may call, as module `env`.
//!
//! Pointers and lengths of a guest are checked before anything has an effect, and a length is
//! checked in full, also where less is written. No bytes are nowhere: their pointer is not looked
//! at. Guest memory is copied, into the arena or by pieces; what was checked is read again to be
//! copied, and is the same, since the guest waits. A call that breaks a rule traps, and the text says
//! which; what only exceeds a rate is dropped and counted. What has to wait is pending, and its guest
//! is left until then. Frames are small: the interpreter's worker has little native stack.

mod board;
mod channel;
mod clock;
mod task;

use crate::{
    mailbox::{Mailbox, Measurement, Wanted, micros},
    platform::{BoardError, Platform},
    run_queue::Yield,
    worker::{DeviceConfig, Workers},
};
use core::{cell::Cell, ffi::CStr, task::Poll};
use proplet::{
    engine::{Slot, TaskData},
    task::caps::{CAPS, Cap},
    time::Duration,
};
use wamr::{Buffer, Bytes, Caller, HostError, HostFunction};

/// The context of a task's host functions.
#[derive(Debug)]
pub(crate) struct Guest<P: 'static> {
    workers: &'static Workers<P>,
    data: TaskData<Buffer, Bytes>,
    slot: Slot,
    /// Until when its host function waits, in microseconds since boot; [`WOKEN`](Self::WOKEN) is until
    /// it is woken.
    wake: Cell<u64>,
}

impl<P> Guest<P> {
    const WOKEN: u64 = u64::MAX;

    /// Where it goes when its host function waits.
    pub(crate) fn waits(&self) -> Yield {
        match self.wake.get() {
            Self::WOKEN => Yield::Block,
            until => Yield::Sleep(until),
        }
    }
}

impl<P: Platform> Guest<P> {
    pub(crate) const fn new(
        workers: &'static Workers<P>,
        slot: Slot,
        data: TaskData<Buffer, Bytes>,
    ) -> Self {
        Self {
            workers,
            data,
            slot,
            wake: Cell::new(Self::WOKEN),
        }
    }

    const fn config(&self) -> &DeviceConfig {
        &self.workers.config
    }

    const fn platform(&self) -> &P {
        self.workers.platform()
    }

    /// Changes its part that the control thread sees, too. A guest that runs has one: the default is
    /// never returned.
    fn mailbox<R: Default>(&self, change: impl FnOnce(&mut Mailbox) -> R) -> R {
        let state = self.workers.slot(self.slot);
        critical_section::with(|cs| state.mailbox(cs, change)).unwrap_or_default()
    }

    fn count_dropped(&self) {
        self.workers.slot(self.slot).count_dropped();
    }

    /// Pending until that time since boot.
    fn wait_until<T>(&self, until: Duration) -> Poll<T> {
        self.wake.set(micros(until));
        Poll::Pending
    }

    /// Has a sensor's channel measured, of the number that the guest gave.
    fn measure(&self, sensor: u32, channel: u32) {
        self.mailbox(|e| e.measurement = Measurement::Wanted(Wanted { sensor, channel }));
    }

    /// The measurement, once it is made; the guest is woken then.
    fn measured(&self) -> Poll<Result<i64, BoardError>> {
        match self.mailbox(Mailbox::measured) {
            Some(result) => Poll::Ready(result),
            None => {
                self.wake.set(Self::WOKEN);
                Poll::Pending
            }
        }
    }
}

/// Number of host functions.
pub const HOST_FUNCTIONS: usize = 20;

type Done = Poll<Result<(), HostError>>;

/// Return of a function that has given its result.
const DONE: Done = Poll::Ready(Ok(()));

type Function = fn(&mut Caller<'_>, &mut [u64]) -> Done;

/// The functions that guests may import; docs/host-api.md says what they do.
pub const fn host_functions<P: Platform>() -> [HostFunction; HOST_FUNCTIONS] {
    [
        function(c"get_proplet_id", c"(ii)i", task::get_proplet_id::<P>),
        function(c"get_model_data", c"(ii)i", task::get_model_data::<P>),
        function(c"get_dataset_data", c"(ii)i", task::get_dataset_data::<P>),
        function(c"get_env", c"(iiii)i", task::get_env::<P>),
        function(c"get_input", c"(iii)i", task::get_input::<P>),
        function(c"publish_result", c"(ii)", task::publish_result::<P>),
        function(c"log", c"(iii)", task::log::<P>),
        function(c"now_ms", c"()I", clock::now_ms::<P>),
        function(c"sleep_ms", c"(i)", clock::sleep_ms::<P>),
        function(c"timer_start", c"(i)", clock::timer_start::<P>),
        function(c"timer_wait", c"()i", clock::timer_wait::<P>),
        function(c"timer_stop", c"()", clock::timer_stop::<P>),
        function(c"random", c"(ii)", clock::random::<P>),
        function(c"publish", c"(iiii)i", channel::publish::<P>),
        function(c"subscribe", c"(ii)i", channel::subscribe::<P>),
        function(c"receive", c"(iii)i", channel::receive::<P>),
        function(c"gpio_configure", c"(ii)", board::gpio_configure::<P>),
        function(c"gpio_write", c"(ii)", board::gpio_write::<P>),
        function(c"gpio_read", c"(i)i", board::gpio_read::<P>),
        function(c"sensor_read", c"(iii)i", board::sensor_read::<P>),
    ]
}

const fn function(name: &'static CStr, signature: &'static CStr, call: Function) -> HostFunction {
    HostFunction {
        module: c"env",
        name,
        signature,
        call,
    }
}

/// The guest that calls.
///
/// # Errors
/// No run of this proplet calls.
fn guest<'a, P: Platform>(caller: &Caller<'a>) -> Result<&'a Guest<P>, HostError> {
    const NONE: HostError = HostError::new(c"no run of this proplet calls");
    caller.context().ok_or(NONE)
}

/// The guest that calls what needs a capability.
///
/// # Errors
/// `cap` is not granted.
fn granted<'a, P: Platform>(caller: &Caller<'a>, cap: Cap) -> Result<&'a Guest<P>, HostError> {
    let guest = guest::<P>(caller)?;
    match guest.data.caps.has(cap) {
        true => Ok(guest),
        false => Err(caller.refuse(format_args!(
            "capability '{}' is not granted: {CAPS}",
            cap.name()
        ))),
    }
}

/// A 32-bit argument.
fn arg(args: &[u64], index: usize) -> u32 {
    args.get(index).map_or(0, |arg| *arg as u32)
}

/// A 32-bit result.
fn give(args: &mut [u64], result: u32) {
    if let Some(first) = args.first_mut() {
        *first = result.into();
    }
}

/// Stands for "none" in a result.
const NONE: u32 = u32::MAX;

/// Bytes of guest memory that are copied to the native stack at a time. A topic is the only larger copy
/// there, and none is there while the guest's malloc runs. More than the 4 bytes of a character: a piece
/// that begins with one has all of it.
const PIECE: usize = 64;

/// A copy of the first [`PIECE`] of `len` bytes of guest memory, or of all.
///
/// # Errors
/// They are not in the guest's memory.
fn piece<'b>(
    caller: &Caller<'_>,
    offset: u32,
    len: u32,
    buffer: &'b mut [u8; PIECE],
) -> Result<&'b [u8], HostError> {
    let (piece, _) = buffer.split_at_mut(PIECE.min(len as usize));
    caller.read(offset, piece)?;
    Ok(piece)
}

/// Checks text of the guest.
///
/// # Errors
/// It is not in the guest's memory, or no UTF-8.
fn check_text(caller: &Caller<'_>, function: &str, offset: u32, len: u32) -> Result<(), HostError> {
    caller.check(offset, len)?;
    match invalid_at(caller, offset, len)? {
        None => Ok(()),
        Some(at) => Err(caller.refuse(format_args!("{function}: byte {at} is not UTF-8"))),
    }
}

/// Of text that is in the guest's memory, the first byte that is not UTF-8.
///
/// # Errors
/// None, since the text is in the guest's memory.
#[inline(never)]
fn invalid_at(caller: &Caller<'_>, offset: u32, len: u32) -> Result<Option<u32>, HostError> {
    let mut buffer = [0; PIECE];
    let mut at = 0;
    while at < len {
        let piece = piece(caller, offset + at, len - at, &mut buffer)?;
        let end = at + piece.len() as u32;
        match core::str::from_utf8(piece) {
            Ok(_) => at = end,
            Err(e) => {
                at += e.valid_up_to() as u32;
                // A character that the piece's end cuts is the first of the next piece.
                if e.error_len().is_some() || end == len {
                    return Ok(Some(at));
                }
            }
        }
    }
    Ok(None)
}

/// Whether the bytes of `text` are those in the guest's memory.
///
/// # Errors
/// The guest's memory has fewer bytes.
#[inline(never)]
fn is_at(caller: &Caller<'_>, offset: u32, text: &[u8]) -> Result<bool, HostError> {
    let mut buffer = [0; PIECE];
    let mut at = 0;
    for expected in text.chunks(PIECE) {
        let len = expected.len() as u32;
        if piece(caller, offset + at, len, &mut buffer)? != expected {
            return Ok(false);
        }
        at += len;
    }
    Ok(true)
}
