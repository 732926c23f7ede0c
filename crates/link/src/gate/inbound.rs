//! Packets of the broker, as they come in: what becomes of each, without a transport.

use super::{
    activity::PeerActivity,
    error::Fault,
    inbox::Inbox,
    properties::{
        Byte, MAXIMUM_PACKET_SIZE, MAXIMUM_QOS, Properties, RECEIVE_MAXIMUM, SERVER_KEEP_ALIVE,
    },
    reply::Reply,
    window::{Header, Stop, Window},
    withheld::{Admission, Owner, Withheld},
};
use log::{debug, warn};
use proplet::{
    agent::{MessageHead, Qos},
    wire::TOPIC_MAX,
};

/// Least number of bytes of the buffer for what comes in: the head of a message is read at once, which
/// is its fixed header, its topic, its packet identifier and the length of its properties.
pub const BUFFER_MIN: usize = 5 + 2 + TOPIC_MAX + 2 + 4;

const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBCOMP: u8 = 7;
const SUBACK: u8 = 9;
const UNSUBACK: u8 = 11;
const PINGRESP: u8 = 13;
const DISCONNECT: u8 = 14;

/// Properties of a CONNACK that minimq uses. It has no use for an assigned client identifier, because it
/// always names one.
const USED: [u8; 4] = [
    MAXIMUM_PACKET_SIZE,
    SERVER_KEEP_ALIVE,
    RECEIVE_MAXIMUM,
    MAXIMUM_QOS,
];

/// The packets of a connection.
#[derive(Debug)]
pub(super) struct Inbound<'w> {
    pub(super) window: Window<'w>,
    pub(super) withheld: Withheld,
    state: State,
    /// Whether the CONNACK has come, before which there are no messages.
    is_greeted: bool,
}

/// Position in the stream. Bytes that were counted here are taken out of the window.
#[derive(Debug)]
enum State {
    /// Before a packet, of which nothing was taken.
    Between,
    /// In a message that the inbox has begun to get.
    Message { properties: usize, payload: usize },
    /// In a topic that no agent can have a use for, with `rest` bytes of the packet behind it.
    LongTopic {
        first: u8,
        topic: usize,
        rest: usize,
    },
    /// In the rest of a packet; a message with this identifier is acknowledged at its end.
    Skip { left: usize, id: Option<u16> },
    /// In the properties of a CONNACK.
    Connack {
        reply: Reply,
        left: usize,
        properties: Properties,
    },
    /// In a SUBACK or UNSUBACK, behind the length of its properties.
    Suback {
        reply: Reply,
        properties: usize,
        codes: usize,
    },
}

/// Outcome of an [`advance`](Inbound::advance).
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing is left to do without more bytes.
    Starved,
    /// There is more to do.
    Advanced,
    /// A message has ended.
    Message,
    /// A packet is for the client.
    Reply(Reply),
}

impl<'w> Inbound<'w> {
    pub(super) const fn new(buf: &'w mut [u8]) -> Self {
        Self {
            window: Window::new(buf),
            withheld: Withheld::new(),
            state: State::Between,
            is_greeted: false,
        }
    }

    /// Takes the next bytes that belong together.
    pub(super) fn advance(
        &mut self,
        inbox: &dyn Inbox,
        activity: &PeerActivity,
    ) -> Result<Step, Fault> {
        let step = match self.state {
            State::Between => self.begin(inbox, activity),
            State::Message { .. } => Ok(self.message(inbox)),
            State::LongTopic { .. } => self.long_topic(activity),
            State::Skip { .. } => Ok(self.skip()),
            State::Connack { .. } => self.connack_properties(),
            State::Suback { .. } => self.suback_codes(),
        };
        match step {
            Err(Stop::Incomplete) => Ok(Step::Starved),
            Err(Stop::Fault(fault)) => Err(fault),
            Ok(step) => Ok(step),
        }
    }

    fn begin(&mut self, inbox: &dyn Inbox, activity: &PeerActivity) -> Result<Step, Stop> {
        let head = Header::new(self.window.bytes())?;
        let (state, step, len) = match head.first >> 4 {
            CONNACK if !self.is_greeted => connack(head, activity)?,
            DISCONNECT => disconnect(head, activity)?,
            _ if !self.is_greeted => return Err(Fault::Malformed.into()),
            PUBLISH => publish(head, &mut self.withheld, inbox, activity)?,
            PUBACK..=PUBCOMP => puback(head)?,
            SUBACK | UNSUBACK => suback(head)?,
            PINGRESP => skip_rest(head, &[])?,
            _ => return Err(Fault::Malformed.into()),
        };
        self.is_greeted = true;
        self.window.take(len);
        self.state = state;
        Ok(step)
    }

    fn message(&mut self, inbox: &dyn Inbox) -> Step {
        let State::Message {
            properties,
            payload,
        } = &mut self.state
        else {
            return Step::Advanced;
        };
        let is_payload = *properties == 0;
        let left = if is_payload { payload } else { properties };
        let piece = self.window.first(*left);
        let len = piece.len();
        match (*left, len) {
            (0, _) => {
                self.state = State::Between;
                inbox.end();
                return Step::Message;
            }
            (_, 0) => return Step::Starved,
            _ if is_payload => inbox.payload(piece),
            _ => {}
        }
        *left -= len;
        self.window.take(len);
        Step::Advanced
    }

    fn long_topic(&mut self, activity: &PeerActivity) -> Result<Step, Stop> {
        let State::LongTopic { first, topic, rest } = &mut self.state else {
            return Ok(Step::Advanced);
        };
        if *topic > 0 {
            return Ok(count(&mut self.window, topic));
        }
        let (id, left) = match qos(*first)? {
            Qos::AtMostOnce => (None, *rest),
            Qos::AtLeastOnce => {
                let mut head = Header::within(self.window.bytes(), *rest);
                let id = head.id()?;
                let left = head.left;
                self.window.take(2);
                let admission = self.withheld.admit(id);
                if admission == Admission::Excess {
                    activity.note_excess();
                }
                ((admission == Admission::New).then_some(id), left)
            }
        };
        self.state = State::Skip { left, id };
        Ok(Step::Advanced)
    }

    fn skip(&mut self) -> Step {
        let State::Skip { left, id } = &mut self.state else {
            return Step::Advanced;
        };
        if *left > 0 {
            return count(&mut self.window, left);
        }
        if let Some(id) = *id {
            self.withheld.push(id, Owner::Nobody);
        }
        self.state = State::Between;
        Step::Advanced
    }

    fn connack_properties(&mut self) -> Result<Step, Stop> {
        let State::Connack {
            reply,
            left,
            properties,
        } = &mut self.state
        else {
            return Ok(Step::Advanced);
        };
        if *left == 0 {
            return match properties.is_between() {
                true => Ok(self.finish()),
                false => Err(Fault::Malformed.into()),
            };
        }
        let bytes = self.window.first(*left);
        for byte in bytes {
            let (Byte::Id(id) | Byte::Value(id)) = properties.take(*byte)?;
            if USED.contains(&id) {
                reply.push_property(*byte)?;
            }
        }
        let len = bytes.len();
        Ok(count_to(&mut self.window, left, len))
    }

    fn suback_codes(&mut self) -> Result<Step, Stop> {
        let State::Suback {
            reply,
            properties,
            codes,
        } = &mut self.state
        else {
            return Ok(Step::Advanced);
        };
        if *properties > 0 {
            return Ok(count(&mut self.window, properties));
        }
        if *codes == 0 {
            return Ok(self.finish());
        }
        let bytes = self.window.first(*codes);
        reply.push(bytes)?;
        let len = bytes.len();
        Ok(count_to(&mut self.window, codes, len))
    }

    /// Ends a packet whose reply is complete.
    fn finish(&mut self) -> Step {
        match core::mem::replace(&mut self.state, State::Between) {
            State::Connack { reply, .. } | State::Suback { reply, .. } => Step::Reply(reply),
            _ => Step::Advanced,
        }
    }
}

/// Takes what has come in of `left` bytes.
fn count(window: &mut Window<'_>, left: &mut usize) -> Step {
    let len = window.first(*left).len();
    count_to(window, left, len)
}

/// Takes `len` of `left` bytes.
fn count_to(window: &mut Window<'_>, left: &mut usize, len: usize) -> Step {
    *left -= len;
    window.take(len);
    match len {
        0 => Step::Starved,
        _ => Step::Advanced,
    }
}

/// The state behind the head of a packet, the step that it makes, and the bytes of the head.
type Begun = Result<(State, Step, usize), Stop>;

/// Hands on a packet with this body, and skips the rest of it.
fn skip_rest(head: Header<'_>, body: &[u8]) -> Begun {
    let rest = State::Skip {
        left: head.left,
        id: None,
    };
    Ok((rest, Step::Reply(Reply::new(head.first, body)?), head.len))
}

fn connack(mut head: Header<'_>, activity: &PeerActivity) -> Begun {
    let body = head.take(2)?;
    let code = body[1];
    // That of a refusal has no use, and MQTT 3.1.1 has none: minimq refuses that.
    if head.left == 0 || code != 0 {
        activity.reason_code.set(Some(code));
        return match head.left {
            0 => skip_rest(head, body),
            _ => skip_rest(head, &[body[0], code, 0]),
        };
    }
    let left = head.varint()?;
    if left != head.left {
        return Err(Fault::Malformed.into());
    }
    activity.reason_code.set(Some(code));
    let state = State::Connack {
        reply: Reply::new(head.first, &[body[0], code, 0])?,
        left,
        properties: Properties::new(),
    };
    Ok((state, Step::Advanced, head.len))
}

fn disconnect(mut head: Header<'_>, activity: &PeerActivity) -> Begun {
    let body = head.take(head.left.min(1))?;
    if let Some(code) = body.first() {
        activity.reason_code.set(Some(*code));
    }
    skip_rest(head, body)
}

/// A PUBACK, or a packet of QoS 2, which minimq knows to be stale.
fn puback(mut head: Header<'_>) -> Begun {
    let id = head.take(2)?;
    match head.take(head.left.min(1))? {
        [] => skip_rest(head, id),
        code => skip_rest(head, &[id[0], id[1], code[0]]),
    }
}

fn suback(mut head: Header<'_>) -> Begun {
    let id = head.take(2)?;
    let properties = head.varint()?;
    let codes = head.left.checked_sub(properties);
    let state = State::Suback {
        reply: Reply::new(head.first, &[id[0], id[1], 0])?,
        properties,
        codes: codes.ok_or(Fault::Malformed)?,
    };
    Ok((state, Step::Advanced, head.len))
}

/// Quality of a message. QoS 2 was not asked for, in any subscription, so it breaks the protocol.
fn qos(first: u8) -> Result<Qos, Fault> {
    match (first >> 1) & 3 {
        0 => Ok(Qos::AtMostOnce),
        1 => Ok(Qos::AtLeastOnce),
        _ => Err(Fault::Malformed),
    }
}

fn publish(
    mut head: Header<'_>,
    withheld: &mut Withheld,
    inbox: &dyn Inbox,
    activity: &PeerActivity,
) -> Begun {
    let qos = qos(head.first)?;
    let is_again = head.first & 8 != 0;
    let len = match head.u16()? {
        // There are no aliases.
        0 => return Err(Fault::Malformed.into()),
        len @ 1..=TOPIC_MAX => len,
        len => return skip_long_topic(head, len),
    };
    let topic = head.take(len)?;
    let id = match qos {
        Qos::AtMostOnce => None,
        Qos::AtLeastOnce => Some(head.id()?),
    };
    let properties = head.varint()?;
    let payload = head.left.checked_sub(properties);
    let payload = payload.ok_or(Fault::Malformed)?;
    let topic = core::str::from_utf8(topic).map_err(|_| Fault::Malformed)?;
    let admission = id.map_or(Admission::New, |id| withheld.admit(id));
    match (admission, is_again) {
        (Admission::New, _) => {}
        (Admission::Repeated, true) => {
            debug!("{topic}: delivered again before its acknowledgement");
        }
        (Admission::Repeated, false) => {
            let id = id.unwrap_or_default();
            warn!("{topic}: skipped a message: the broker uses identifier {id} twice");
        }
        (Admission::Excess, _) => activity.note_excess(),
    }
    if admission != Admission::New {
        let (left, id) = (head.left, None);
        return Ok((State::Skip { left, id }, Step::Advanced, head.len));
    }
    if let Some(id) = id {
        withheld.push(id, Owner::Inbox);
    }
    inbox.begin(&MessageHead {
        topic,
        len: payload,
        qos,
        is_retained: head.first & 1 != 0,
        is_duplicate: is_again,
    });
    let state = State::Message {
        properties,
        payload,
    };
    Ok((state, Step::Advanced, head.len))
}

/// Skips a message whose topic has `len` bytes: with wildcards a guest may subscribe to topics that the
/// agent can't name, so it must not end the connection, to come again on the next one.
fn skip_long_topic(head: Header<'_>, len: usize) -> Begun {
    let rest = head.left.checked_sub(len).ok_or(Fault::Malformed)?;
    warn!("skipped a message with a topic of {len} bytes, the limit is {TOPIC_MAX}");
    let state = State::LongTopic {
        first: head.first,
        topic: len,
        rest,
    };
    Ok((state, Step::Advanced, head.len))
}
