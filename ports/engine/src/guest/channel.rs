//! The capabilities publish and subscribe: messages below the channel.

use super::{DONE, Done, NONE, arg, give, granted, text};
use crate::{exchange::Exchange, guest::Guest, platform::Platform};
use core::task::Poll;
use proplet::{
    engine::Message,
    task::caps::Cap,
    wire::{check_guest_filter, check_guest_topic},
};
use wamr::{Buffer, Caller};

pub(super) fn publish<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let guest = granted::<P>(caller, Cap::Publish)?;
    let topic = text(caller, "publish", arg(args, 0), arg(args, 1))?;
    check_guest_topic(topic).map_err(|rule| caller.refuse(format_args!("publish: {rule}")))?;
    let payload = caller.bytes(arg(args, 2), arg(args, 3))?;
    let len = topic.len() + payload.len();
    let limit = guest.config().limits.message_bytes;
    if len > limit as usize {
        return Poll::Ready(Err(caller.refuse(format_args!(
            "publish: {len} bytes of topic and payload, and this proplet's limit is {limit}"
        ))));
    }
    let taken = say(caller, guest, len, |mut bytes| {
        let (first, rest) = bytes.split_at_mut(topic.len());
        first.copy_from_slice(topic.as_bytes());
        rest.copy_from_slice(payload);
        Message::Publish {
            bytes,
            topic_len: topic.len(),
        }
    });
    give(args, taken.into());
    DONE
}

pub(super) fn subscribe<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let guest = granted::<P>(caller, Cap::Subscribe)?;
    let topic = text(caller, "subscribe", arg(args, 0), arg(args, 1))?;
    check_guest_filter(topic).map_err(|rule| caller.refuse(format_args!("subscribe: {rule}")))?;
    let taken = say(caller, guest, topic.len(), |mut filter| {
        filter.copy_from_slice(topic.as_bytes());
        Message::Subscribe { filter }
    });
    give(args, taken.into());
    DONE
}

/// Hands the control thread a message of `len` bytes, unless the one before is on its way, the rate
/// is exceeded or the arena is full; the latter two count as dropped.
#[inline(never)]
fn say<P: Platform>(
    caller: &Caller<'_>,
    guest: &Guest<P>,
    len: usize,
    message: impl FnOnce(Buffer) -> Message<Buffer>,
) -> bool {
    if guest.exchange(|e| e.message.is_some()) {
        return false;
    }
    let (now, limit) = (guest.platform().now(), guest.config().limits.messages);
    let is_due = guest.exchange(|e| e.may_say(now, limit));
    let buffer = is_due.then(|| caller.runtime().try_buffer(len)).flatten();
    match buffer {
        Some(buffer) => {
            guest.workers.say(guest.slot, message(buffer));
            true
        }
        None => {
            guest.count_dropped();
            false
        }
    }
}

pub(super) fn receive<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Done {
    let guest = granted::<P>(caller, Cap::Subscribe)?;
    let (buf, cap, topic_len_out) = (arg(args, 0), arg(args, 1), arg(args, 2));
    caller.bytes(buf, cap)?;
    caller.bytes(topic_len_out, 4)?;
    let Some((topic_len, len)) = guest.exchange(|e| e.next_len()) else {
        give(args, NONE);
        return DONE;
    };
    if len <= cap as usize
        && let Some(message) = guest.exchange(Exchange::receive)
    {
        caller.write(buf, message.text())?;
    }
    caller.write(topic_len_out, &u32::from(topic_len).to_le_bytes())?;
    give(args, len as u32);
    DONE
}
