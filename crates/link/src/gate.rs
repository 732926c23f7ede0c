//! The transport under the MQTT client: messages go to an inbox in pieces, never to the client.
//!
//! An MQTT client wants a packet whole in its receive buffer before it does anything with it, and
//! acknowledges a message at once. So a [`Gate`] takes each PUBLISH itself, of any size and without
//! storing it, and hands its payload to an [`Inbox`] as it comes in. The client gets a stub in its place,
//! with the same packet identifier and no payload, when the inbox lets the message be acknowledged:
//! acknowledgements keep the order of the messages, and other packets pass those that are withheld. Of
//! those packets the client gets the parts that it uses, so none is longer than [`PACKET_MAX`].

mod activity;
mod connect;
mod error;
mod inbound;
mod inbox;
mod outgoing;
mod properties;
mod reply;
mod window;
mod withheld;

pub use activity::PeerActivity;
pub use connect::Edits;
pub use error::{Error, Fault};
pub use inbound::BUFFER_MIN;
pub use inbox::Inbox;
pub use reply::PACKET_MAX;

use connect::Connect;
use core::{
    fmt,
    future::{Future, pending, poll_fn},
    task::Poll,
};
use embassy_futures::{
    select::{Either3, select3},
    yield_now,
};
use embassy_time::{Duration, Instant, Timer, with_deadline};
use embedded_io_async::{ErrorType, Read, Write};
use inbound::{Inbound, Step};
use outgoing::Outgoing;
use reply::Reply;
use withheld::Withheld;

/// Bytes that are read between two rests in which others get their turn.
const BURST: usize = 64 * 1024;

/// Bytes of a CONNECT that are edited at once: all that minimq writes up to the end of its properties.
const EDITED: usize = 32;

/// Reason code of a PUBACK: the broker took the publication, and nobody is subscribed to its topic.
const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;

/// What a [`Gate`] holds to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// What the CONNECT says.
    pub connect: Edits,
    /// Longest wait to write a byte.
    pub patience: Duration,
}

/// Memory of a [`Gate`].
#[derive(Debug)]
pub struct Buffers<'w> {
    /// What is read at once: at least [`BUFFER_MIN`] bytes, and more make fewer reads.
    pub input: &'w mut [u8],
    /// Packets that go out together; what does not fit goes by itself.
    pub output: &'w mut [u8],
}

impl Buffers<'_> {
    /// The same, for one connection.
    pub(crate) fn reborrow(&mut self) -> Buffers<'_> {
        Buffers {
            input: self.input,
            output: self.output,
        }
    }
}

/// A transport for an MQTT 5 client that hands messages to an inbox, and bounds the time of a write.
///
/// What is written behind the CONNECT goes out before the next read, so that an acknowledgement and the
/// publications that the message brought about are one write. [`drain`](Self::drain) sends it where none
/// follows.
///
/// Reads and writes are as safe to cancel as those of the transport below.
pub struct Gate<'w, IO> {
    io: IO,
    inbox: &'w dyn Inbox,
    activity: &'w PeerActivity,
    limits: Limits,
    /// Since when writes have been tried in vain, over cancellations.
    stalled: Option<Instant>,
    connect: Connect,
    outgoing: Outgoing<'w>,
    inbound: Inbound<'w>,
    /// The packet that the client reads.
    reply: Reply,
    /// Bytes that were read since others had their turn.
    burst: usize,
}

impl<'w, IO> Gate<'w, IO> {
    /// A gate in `io`, before anything was said.
    pub fn new(
        io: IO,
        inbox: &'w dyn Inbox,
        activity: &'w PeerActivity,
        buffers: Buffers<'w>,
        limits: Limits,
    ) -> Self {
        Self {
            io,
            inbox,
            activity,
            limits,
            stalled: None,
            connect: Connect::Kind,
            outgoing: Outgoing::new(buffers.output),
            inbound: Inbound::new(buffers.input),
            reply: Reply::default(),
            burst: 0,
        }
    }

    /// Makes the next packet for the client the stub of a message.
    fn give_stub(&mut self, id: u16) {
        self.activity.has_stub.set(true);
        self.reply = Reply::stub(id);
    }

    /// Makes the next packet for the client an acknowledged message's, if there is one.
    fn acknowledge(&mut self) -> bool {
        let id = acknowledged(&mut self.inbound.withheld, self.inbox);
        id.map(|id| self.give_stub(id)).is_some()
    }
}

/// Takes the identifier of the message that may be acknowledged now.
fn acknowledged(withheld: &mut Withheld, inbox: &dyn Inbox) -> Option<u16> {
    withheld.take(|| inbox.take_acknowledgement())
}

impl<IO> fmt::Debug for Gate<'_, IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("inbound", &self.inbound)
            .field("reply", &self.reply)
            .finish_non_exhaustive()
    }
}

impl<IO> Drop for Gate<'_, IO> {
    fn drop(&mut self) {
        self.inbox.closed();
    }
}

impl<IO: Read + Write> Gate<'_, IO> {
    /// Waits for more bytes, for an acknowledgement, or until bytes are to go out. Returns whether the stream has ended.
    async fn fill(&mut self) -> Result<bool, Error<IO::Error>> {
        let due = self.outgoing.due();
        if due.is_some_and(|due| due <= Instant::now()) {
            self.drain().await?;
        }
        if self.burst >= BURST {
            self.burst = 0;
            Timer::after_ticks(0).await;
        }
        let Inbound {
            window, withheld, ..
        } = &mut self.inbound;
        let inbox = self.inbox;
        let room = window.room();
        if room.is_empty() {
            // The buffer is smaller than it must be.
            return Err(Fault::Malformed.into());
        }
        let acknowledgement = poll_fn(|_| match acknowledged(withheld, inbox) {
            Some(id) => Poll::Ready(id),
            None => Poll::Pending,
        });
        let due = async {
            match self.outgoing.due() {
                Some(due) => Timer::at(due).await,
                None => pending().await,
            }
        };
        let n = match select3(acknowledgement, self.io.read(room), due).await {
            Either3::First(id) => {
                self.give_stub(id);
                return Ok(false);
            }
            Either3::Second(read) => read.map_err(Error::Transport)?,
            Either3::Third(()) => return Ok(false),
        };
        window.fill(n);
        self.burst += n;
        self.activity.note(n);
        Ok(n == 0)
    }
}

impl<IO: ErrorType> ErrorType for Gate<'_, IO> {
    type Error = Error<IO::Error>;
}

impl<IO: Read + Write> Read for Gate<'_, IO> {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, Self::Error> {
        if out.is_empty() {
            return Ok(0);
        }
        while self.reply.is_read() && !self.acknowledge() {
            match self.inbound.advance(self.inbox, self.activity)? {
                Step::Starved => {
                    if self.fill().await? {
                        return Ok(0);
                    }
                }
                Step::Advanced => {}
                Step::Message => {
                    self.activity.delivered.set(true);
                    if !self.acknowledge() {
                        // The owner acts on this message before the next.
                        yield_now().await;
                    }
                }
                Step::Reply(reply) => self.reply = reply,
            }
        }
        let n = self.reply.read(out);
        if self.reply.is_read() {
            self.activity.has_stub.set(false);
            if let Some(code) = self.reply.puback() {
                self.activity
                    .is_unheard
                    .set(code == NO_MATCHING_SUBSCRIBERS);
            }
        }
        Ok(n)
    }
}

/// Waits for `io` until the peer has accepted nothing for `patience`, counted over waits that
/// were given up.
async fn patiently<T, E>(
    stalled: &mut Option<Instant>,
    patience: Duration,
    io: impl Future<Output = Result<T, E>>,
) -> Result<T, Error<E>> {
    let since = *stalled.get_or_insert_with(Instant::now);
    match with_deadline(since.saturating_add(patience), io).await {
        Ok(result) => {
            *stalled = None;
            result.map_err(Error::Transport)
        }
        Err(_) => Err(Error::Stalled),
    }
}

impl<IO: Write> Gate<'_, IO> {
    /// Hands all that was written to the transport.
    ///
    /// # Errors
    /// The transport's, or it takes nothing.
    pub async fn drain(&mut self) -> Result<(), Error<IO::Error>> {
        let patience = self.limits.patience;
        let is_dirty = !self.outgoing.bytes().is_empty();
        while !self.outgoing.bytes().is_empty() {
            let write = self.io.write(self.outgoing.bytes());
            match patiently(&mut self.stalled, patience, write).await? {
                0 => return Err(Error::Stalled),
                n => self.outgoing.take(n),
            }
        }
        match is_dirty {
            true => patiently(&mut self.stalled, patience, self.io.flush()).await,
            false => Ok(()),
        }
    }
}

impl<IO: Write> Write for Gate<'_, IO> {
    async fn write(&mut self, buf: &[u8]) -> Result<usize, Self::Error> {
        let Limits { connect, patience } = self.limits;
        if self.connect.is_done() {
            if self.outgoing.push(buf) {
                return Ok(buf.len());
            }
            self.drain().await?;
            if self.outgoing.push(buf) {
                return Ok(buf.len());
            }
            return patiently(&mut self.stalled, patience, self.io.write(buf)).await;
        }
        let mut edited = [0; EDITED];
        let edited = self.connect.edit(buf, &mut edited, &connect);
        let n = patiently(&mut self.stalled, patience, self.io.write(edited)).await?;
        self.connect.pass(&buf[..n.min(edited.len())]);
        Ok(n)
    }

    async fn flush(&mut self) -> Result<(), Self::Error> {
        match self.connect.is_done() {
            // The next read does it.
            true => Ok(()),
            false => patiently(&mut self.stalled, self.limits.patience, self.io.flush()).await,
        }
    }
}
