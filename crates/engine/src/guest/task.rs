//! The task and its result: what every guest may call.

use super::{DONE, Done, NONE, PIECE, arg, check_text, give, guest, is_at, piece};
use crate::{guest::Guest, platform::Platform};
use core::{
    fmt::{self, Write as _},
    task::Poll,
};
use log::Level;
use wamr::{Buffer, Caller, HostError};

/// Bytes of a guest's log line; what is beyond is cut.
const LINE_MAX: u32 = 160;

/// Bytes that a line counts of the log's limit beside its own.
const LINE_COST: u32 = 16;

/// Target of the log's records.
const LOG_TARGET: &str = "guest";

pub(super) fn get_proplet_id<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let id = guest::<P>(caller)?.config().proplet_id;
    give_copy(caller, args, id.as_bytes())
}

pub(super) fn get_model_data<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let model = guest::<P>(caller)?.data.model.as_deref();
    give_copy(caller, args, model.unwrap_or_default())
}

pub(super) fn get_dataset_data<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let dataset = guest::<P>(caller)?.data.dataset.as_deref();
    give_copy(caller, args, dataset.unwrap_or_default())
}

/// Puts a copy into memory of the guest's own malloc, as the C proplet does: it ends with a zero,
/// which the length does not count.
fn give_copy(caller: &mut Caller<'_>, args: &mut [u64], bytes: &[u8]) -> Done {
    let (offset_out, len_out) = (arg(args, 0), arg(args, 1));
    caller.check(offset_out, 4)?;
    caller.check(len_out, 4)?;
    give(args, 0);
    // The arena has less than 4 GiB.
    let len = bytes.len() as u32;
    let Ok(offset) = caller.alloc_in_guest(len + 1) else {
        return DONE;
    };
    caller.check(offset, len + 1)?;
    caller.write(offset, bytes)?;
    caller.write(offset + len, &[0])?;
    caller.write(offset_out, &offset.to_le_bytes())?;
    caller.write(len_out, &len.to_le_bytes())?;
    give(args, 1);
    DONE
}

pub(super) fn get_env<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let guest = guest::<P>(caller)?;
    let (key, key_len) = (arg(args, 0), arg(args, 1));
    caller.check(key, key_len)?;
    let value = variable(caller, guest, key, key_len)?;
    put(caller, args, value, arg(args, 2), arg(args, 3))
}

/// The value of a variable of the task, or else of one of the proplet's own. The key is looked at only
/// for names of its length, so that work is bounded by the environment and not by the key.
///
/// # Errors
/// The key is not in the guest's memory.
fn variable<'t, P: Platform>(
    caller: &Caller<'_>,
    guest: &'t Guest<P>,
    key: u32,
    key_len: u32,
) -> Result<Option<&'t [u8]>, HostError> {
    let is_key =
        |name: &str| Ok(name.len() == key_len as usize && is_at(caller, key, name.as_bytes())?);
    let data = &guest.data;
    let mut found = None;
    // The last one counts.
    for (name, value) in data.env().iter() {
        if is_key(name)? {
            found = Some(value.as_bytes());
        }
    }
    if found.is_some() {
        return Ok(found);
    }
    if is_key("PROPLET_ID")? {
        found = Some(guest.config().proplet_id.as_bytes());
    } else if is_key("MODEL_DATA")? {
        found = data.model.as_deref();
    } else if is_key("DATASET_DATA")? {
        found = data.dataset.as_deref();
    }
    Ok(found)
}

pub(super) fn get_input<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let index = arg(args, 0) as usize;
    let input = guest::<P>(caller)?.data.inputs().iter().nth(index);
    put(
        caller,
        args,
        input.map(str::as_bytes),
        arg(args, 1),
        arg(args, 2),
    )
}

/// Writes as much of `value` as `cap` bytes hold, and gives its length; or "none".
fn put(
    caller: &mut Caller<'_>,
    args: &mut [u64],
    value: Option<&[u8]>,
    offset: u32,
    cap: u32,
) -> Done {
    caller.check(offset, cap)?;
    let Some(value) = value else {
        give(args, NONE);
        return DONE;
    };
    let (start, _) = value.split_at(value.len().min(cap as usize));
    caller.write(offset, start)?;
    give(args, value.len() as u32);
    DONE
}

pub(super) fn publish_result<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let guest = guest::<P>(caller)?;
    let (offset, len) = (arg(args, 0), arg(args, 1));
    let limit = guest.config().limits.result_bytes;
    if len > limit {
        return Poll::Ready(Err(caller.refuse(format_args!(
            "publish_result: {len} bytes, and this proplet's limit is {limit}"
        ))));
    }
    check_text(caller, "publish_result", offset, len)?;
    let Some(mut output) = output_of(caller, guest, len as usize) else {
        return Poll::Ready(Err(caller.refuse(format_args!(
            "publish_result: the arena has no room for {len} bytes"
        ))));
    };
    caller.read(offset, &mut output)?;
    guest.mailbox(|e| e.output = Some(output));
    DONE
}

/// The block of the result before, if it is large enough, or a new one. If it is too small, it is
/// given back first.
fn output_of<P: Platform>(caller: &Caller<'_>, guest: &Guest<P>, len: usize) -> Option<Buffer> {
    let before = guest.mailbox(|e| e.output.take());
    match before.filter(|output| output.len() >= len) {
        Some(mut output) => {
            output.truncate(len);
            Some(output)
        }
        None => caller.runtime().try_buffer(len),
    }
}

pub(super) fn log<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let guest = guest::<P>(caller)?;
    let level = match arg(args, 0) {
        0 => Level::Error,
        1 => Level::Warn,
        2 => Level::Info,
        3 => Level::Debug,
        4 => Level::Trace,
        other => {
            return Poll::Ready(Err(
                caller.refuse(format_args!("log: level {other}, expected 0 to 4"))
            ));
        }
    };
    let (text, len) = (arg(args, 1), arg(args, 2));
    caller.check(text, len)?;
    if !log::log_enabled!(target: LOG_TARGET, level) {
        return DONE;
    }
    let line = Line::new(caller, text, len)?;
    let (now, limit) = (guest.platform().now(), guest.config().limits.log_bytes);
    if guest.mailbox(|e| e.may_log(now, line.cost(), limit)) {
        log::log!(target: LOG_TARGET, level, "slot {}: {line}", guest.slot.0);
    } else {
        guest.count_dropped();
    }
    DONE
}

/// A guest's text as one line of a log: cut, with a space for white space and U+FFFD for what else
/// is no text. It is copied as it is shown.
struct Line<'a, 'c> {
    caller: &'a Caller<'c>,
    offset: u32,
    /// Bytes that are shown.
    len: u32,
    /// Whether that is not all.
    is_cut: bool,
}

impl<'a, 'c> Line<'a, 'c> {
    /// Of text in the guest's memory.
    ///
    /// # Errors
    /// It is not there.
    fn new(caller: &'a Caller<'c>, offset: u32, len: u32) -> Result<Self, HostError> {
        let is_cut = len > LINE_MAX;
        let mut end = len.min(LINE_MAX);
        if is_cut {
            // Not within a character, which has four bytes at most: the first that is left out and two
            // before it.
            let mut around = [0; 3];
            caller.read(offset + LINE_MAX - 2, &mut around)?;
            let inside = around.iter().rev().take_while(|&byte| byte & 0xc0 == 0x80);
            end -= inside.count() as u32;
        }
        Ok(Self {
            caller,
            offset,
            len: end,
            is_cut,
        })
    }

    const fn cost(&self) -> u32 {
        self.len + LINE_COST
    }
}

impl fmt::Display for Line<'_, '_> {
    #[inline(never)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = [0; PIECE];
        let mut at = 0;
        while at < self.len {
            let (from, left) = (self.offset + at, self.len - at);
            let bytes = piece(self.caller, from, left, &mut buffer).map_err(|_| fmt::Error)?;
            at += bytes.len() as u32;
            let mut unseen = bytes.len();
            for chunk in bytes.utf8_chunks() {
                for c in chunk.valid().chars() {
                    f.write_char(match c {
                        '\t' | '\n' | '\r' => ' ',
                        c if c.is_control() => char::REPLACEMENT_CHARACTER,
                        c => c,
                    })?;
                }
                let no_text = chunk.invalid();
                unseen -= chunk.valid().len() + no_text.len();
                // A character that the piece's end cuts is the first of the next piece.
                if unseen == 0 && at < self.len && is_begun(no_text) {
                    at -= no_text.len() as u32;
                } else if !no_text.is_empty() {
                    f.write_char(char::REPLACEMENT_CHARACTER)?;
                }
            }
        }
        match self.is_cut {
            true => f.write_char('…'),
            false => Ok(()),
        }
    }
}

/// Whether more bytes may make these a character.
fn is_begun(bytes: &[u8]) -> bool {
    core::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}
