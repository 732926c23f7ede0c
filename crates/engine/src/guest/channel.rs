//! The capabilities publish and subscribe: messages below the channel.

use super::{DONE, Done, NONE, arg, check_text, give, granted};
use crate::{guest::Guest, mailbox::Mailbox, platform::Platform};
use core::task::Poll;
use proplet::{
    engine::Message,
    task::caps::Cap,
    wire::{GUEST_TOPIC_MAX, check_guest_filter, check_guest_topic, check_guest_topic_len},
};
use wamr::{Buffer, Caller, HostError};

pub(super) fn publish<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let guest = granted::<P>(caller, Cap::Publish)?;
    let (topic, topic_len) = (arg(args, 0), arg(args, 1));
    let (payload, payload_len) = (arg(args, 2), arg(args, 3));
    check_topic(caller, "publish", topic, topic_len, check_guest_topic)?;
    caller.check(payload, payload_len)?;
    let topic_len = topic_len as usize;
    let len = topic_len + payload_len as usize;
    let limit = guest.config().limits.message_bytes;
    if len > limit as usize {
        return Poll::Ready(Err(caller.refuse(format_args!(
            "publish: {len} bytes of topic and payload, and this proplet's limit is {limit}"
        ))));
    }
    let taken = say(caller, guest, len, |mut bytes| {
        let (first, rest) = bytes.split_at_mut(topic_len);
        caller.read(topic, first)?;
        caller.read(payload, rest)?;
        Ok(Message::Publish { bytes, topic_len })
    })?;
    give(args, taken.into());
    DONE
}

pub(super) fn subscribe<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let guest = granted::<P>(caller, Cap::Subscribe)?;
    let (topic, len) = (arg(args, 0), arg(args, 1));
    check_topic(caller, "subscribe", topic, len, check_guest_filter)?;
    let taken = say(caller, guest, len as usize, |mut filter| {
        caller.read(topic, &mut filter)?;
        Ok(Message::Subscribe { filter })
    })?;
    give(args, taken.into());
    DONE
}

/// Rules of a topic or of a filter.
type Rules = fn(&str) -> Result<(), &'static str>;

/// Checks a topic or filter of the guest: that it is text comes first, however long it is.
///
/// # Errors
/// It is not in the guest's memory, no UTF-8, or breaks a rule.
fn check_topic(
    caller: &Caller<'_>,
    function: &str,
    offset: u32,
    len: u32,
    rules: Rules,
) -> Result<(), HostError> {
    check_text(caller, function, offset, len)?;
    let kept = match check_guest_topic_len(len as usize) {
        Ok(()) => check_rules(caller, offset, len, rules)?,
        broken => broken,
    };
    kept.map_err(|rule| caller.refuse(format_args!("{function}: {rule}")))
}

/// Holds text that is in the guest's memory to the rules; it has [`GUEST_TOPIC_MAX`] bytes at most.
///
/// # Errors
/// None, since the text is in the guest's memory.
#[inline(never)]
fn check_rules(
    caller: &Caller<'_>,
    offset: u32,
    len: u32,
    rules: Rules,
) -> Result<Result<(), &'static str>, HostError> {
    let mut buffer = [0; GUEST_TOPIC_MAX];
    let (topic, _) = buffer.split_at_mut(GUEST_TOPIC_MAX.min(len as usize));
    caller.read(offset, topic)?;
    // That it is text has been checked.
    Ok(rules(core::str::from_utf8(topic).unwrap_or_default()))
}

/// Hands the control thread a message of `len` bytes, unless the one before is on its way, the rate
/// is exceeded or the arena is full; the latter two count as dropped.
///
/// # Errors
/// Those of `message`, which makes it in its bytes of the arena.
#[inline(never)]
fn say<P: Platform>(
    caller: &Caller<'_>,
    guest: &Guest<P>,
    len: usize,
    message: impl FnOnce(Buffer) -> Result<Message<Buffer>, HostError>,
) -> Result<bool, HostError> {
    if guest.mailbox(|e| e.message.is_some()) {
        return Ok(false);
    }
    let (now, limit) = (guest.platform().now(), guest.config().limits.messages);
    let is_due = guest.mailbox(|e| e.may_say(now, limit));
    let buffer = is_due.then(|| caller.runtime().try_buffer(len)).flatten();
    match buffer {
        Some(buffer) => {
            guest.workers.say(guest.slot, message(buffer)?);
            Ok(true)
        }
        None => {
            guest.count_dropped();
            Ok(false)
        }
    }
}

pub(super) fn receive<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let guest = granted::<P>(caller, Cap::Subscribe)?;
    let (buf, cap, topic_len_out) = (arg(args, 0), arg(args, 1), arg(args, 2));
    caller.check(buf, cap)?;
    caller.check(topic_len_out, 4)?;
    let Some((topic_len, len)) = guest.mailbox(|e| e.next_len()) else {
        give(args, NONE);
        return DONE;
    };
    if len <= cap as usize
        && let Some(message) = guest.mailbox(Mailbox::receive)
    {
        caller.write(buf, message.text())?;
    }
    caller.write(topic_len_out, &u32::from(topic_len).to_le_bytes())?;
    give(args, len as u32);
    DONE
}
