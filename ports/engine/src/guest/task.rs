//! The task and its result: what every guest may call.

use super::{DONE, Done, NONE, arg, give, guest, text};
use crate::{guest::Guest, platform::Platform};
use core::{
    fmt::{self, Write as _},
    task::Poll,
};
use log::Level;
use wamr::{Buffer, Caller};

/// Bytes of a guest's log line; what is beyond is cut.
const LINE_MAX: usize = 160;

/// What a line counts of the log's limit beside its bytes.
const LINE_COST: u32 = 16;

/// What the log's records name as their target.
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
    caller.bytes(offset_out, 4)?;
    caller.bytes(len_out, 4)?;
    give(args, 0);
    // What is in the arena has less than 4 GiB.
    let len = bytes.len() as u32;
    let Ok(offset) = caller.alloc_in_guest(len + 1) else {
        return DONE;
    };
    let to = caller.bytes_mut(offset, len + 1)?;
    if let Some((end, to)) = to.split_last_mut() {
        to.copy_from_slice(bytes);
        *end = 0;
    }
    caller.write(offset_out, &offset.to_le_bytes())?;
    caller.write(len_out, &len.to_le_bytes())?;
    give(args, 1);
    DONE
}

pub(super) fn get_env<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let guest = guest::<P>(caller)?;
    let key = caller.bytes(arg(args, 0), arg(args, 1))?;
    let value = core::str::from_utf8(key)
        .ok()
        .and_then(|key| variable(guest, key));
    put(caller, args, value, arg(args, 2), arg(args, 3))
}

/// A variable of the task, or else one of the proplet's own.
fn variable<'t, P: Platform>(guest: &'t Guest<P>, key: &str) -> Option<&'t [u8]> {
    let data = &guest.data;
    if let Some(value) = data.env().get(key) {
        return Some(value.as_bytes());
    }
    match key {
        "PROPLET_ID" => Some(guest.config().proplet_id.as_bytes()),
        "MODEL_DATA" => data.model.as_deref(),
        "DATASET_DATA" => data.dataset.as_deref(),
        _ => None,
    }
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
    let to = caller.bytes_mut(offset, cap)?;
    let Some(value) = value else {
        give(args, NONE);
        return DONE;
    };
    for (to, from) in to.iter_mut().zip(value) {
        *to = *from;
    }
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
    let result = text(caller, "publish_result", offset, len)?;
    let Some(mut output) = output_of(caller, guest, result.len()) else {
        return Poll::Ready(Err(caller.refuse(format_args!(
            "publish_result: the arena has no room for {len} bytes"
        ))));
    };
    output.copy_from_slice(result.as_bytes());
    guest.exchange(|e| e.output = Some(output));
    DONE
}

/// The block of the result before, if it is large enough, or a new one. If it is too small, it is
/// given back first.
fn output_of<P: Platform>(caller: &Caller<'_>, guest: &Guest<P>, len: usize) -> Option<Buffer> {
    let before = guest.exchange(|e| e.output.take());
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
    let line = Line(caller.bytes(arg(args, 1), arg(args, 2))?);
    if !log::log_enabled!(target: LOG_TARGET, level) {
        return DONE;
    }
    let (now, limit) = (guest.platform().now(), guest.config().limits.log_bytes);
    if guest.exchange(|e| e.may_log(now, line.cost(), limit)) {
        log::log!(target: LOG_TARGET, level, "slot {}: {line}", guest.slot.0);
    } else {
        guest.count_dropped();
    }
    DONE
}

/// A guest's text as one line of a log: cut, with a space for white space and U+FFFD for what else
/// is no text.
struct Line<'a>(&'a [u8]);

impl Line<'_> {
    /// What is shown of it, and whether that is not all.
    fn cut(&self) -> (&[u8], bool) {
        let is_inside = |at: usize| self.0.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
        let mut end = LINE_MAX;
        // Not within a character, which has four bytes at most.
        while end > LINE_MAX - 3 && is_inside(end) {
            end -= 1;
        }
        match self.0.get(..end) {
            Some(start) if end < self.0.len() => (start, true),
            _ => (self.0, false),
        }
    }

    fn cost(&self) -> u32 {
        self.cut().0.len() as u32 + LINE_COST
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, is_cut) = self.cut();
        for chunk in bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                f.write_char(match c {
                    '\t' | '\n' | '\r' => ' ',
                    c if c.is_control() => char::REPLACEMENT_CHARACTER,
                    c => c,
                })?;
            }
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        match is_cut {
            true => f.write_char('…'),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::{format, string::String, vec};

    fn shown(bytes: &[u8]) -> String {
        format!("{}", Line(bytes))
    }

    #[test]
    fn a_line_of_log_is_text_on_one_line() {
        assert_eq!(shown(b""), "");
        assert_eq!(shown("Grüße, 21 °C".as_bytes()), "Grüße, 21 °C");
        assert_eq!(shown(b"a\tb\r\nc"), "a b  c");
        assert_eq!(
            shown(b"\x1b[31mred\0\x7f"),
            "\u{fffd}[31mred\u{fffd}\u{fffd}"
        );
        assert_eq!(shown(b"\xff\xfe ok \xc3"), "\u{fffd}\u{fffd} ok \u{fffd}");
        // C1 controls are controls.
        assert_eq!(shown("\u{9b}1m".as_bytes()), "\u{fffd}1m");
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        assert_eq!(shown(&[b'x'; LINE_MAX]), "x".repeat(LINE_MAX));
        let longer = shown(&[b'x'; LINE_MAX + 1]);
        assert_eq!(longer, "x".repeat(LINE_MAX) + "…");
        for before in 0..4 {
            let text = "x".repeat(before) + &"😀".repeat(100);
            let line = shown(text.as_bytes());
            let kept = line.strip_suffix('…').expect("it is cut");
            assert!(text.starts_with(kept), "{line}");
            assert!(kept.len() > LINE_MAX - 4 && kept.len() <= LINE_MAX);
        }
        // What is no text is cut all the same.
        let noise = vec![0x80; 100_000];
        assert_eq!(shown(&noise).chars().count(), LINE_MAX - 3 + 1);
        assert_eq!(Line(&noise).cost(), (LINE_MAX - 3) as u32 + LINE_COST);
        assert_eq!(Line(b"").cost(), LINE_COST);
    }
}
