//! A response as it comes in: its head, then its body, handed on piece by piece.

use super::{
    error::{Awaited, ErrorKind, ResponseError},
    head::{self, Outcome},
};
use embassy_time::Timer;
use embedded_io_async::Read;
use proplet::http::{Part, Request};

/// Lets others have their turn, and the time limit be seen, where the peer is always ready.
pub(super) async fn pause() {
    Timer::after_ticks(0).await;
}

/// A body on its way to its receiver.
pub(super) struct Body<'a, F> {
    pub(super) receive: &'a mut F,
    pub(super) awaited: &'a mut Awaited,
    /// Maximum number of bytes.
    pub(super) limit: usize,
    /// Length that was announced.
    pub(super) len: Option<usize>,
    /// Bytes that were handed on.
    pub(super) received: usize,
}

impl<F> Body<'_, F> {
    /// Counts bytes that were handed on.
    pub(super) fn count(&mut self, bytes: usize) {
        self.received += bytes;
        *self.awaited = Awaited::Body {
            received: self.received,
            len: self.len,
        };
    }

    fn too_large(&self) -> ResponseError {
        let limit = self.limit;
        ResponseError::BodyTooLarge { limit }
    }

    fn cut_off(&self) -> ResponseError {
        let received = self.received;
        ResponseError::ChunksTruncated { received }
    }
}

/// The bytes of a connection, read through a buffer.
pub(super) struct Incoming<'a, IO> {
    io: &'a mut IO,
    buf: &'a mut [u8],
    /// Part of the buffer that is still to be used.
    start: usize,
    end: usize,
}

impl<'a, IO: Read> Incoming<'a, IO> {
    pub(super) fn new(io: &'a mut IO, buf: &'a mut [u8]) -> Self {
        Self {
            io,
            buf,
            start: 0,
            end: 0,
        }
    }

    fn unread(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// Whether there is no room for more beside what is unread.
    fn is_full(&self) -> bool {
        self.end - self.start == self.buf.len()
    }

    /// Reads more; zero bytes are the end of the connection. Moves the unread to the beginning.
    async fn fill<R>(&mut self) -> Result<usize, ErrorKind<R, IO::Error>> {
        self.buf.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let read = self.io.read(&mut self.buf[self.end..]).await;
        let n = read.map_err(ErrorKind::Transport)?;
        self.end += n;
        pause().await;
        Ok(n)
    }

    /// Reads heads up to the one that decides.
    pub(super) async fn head<R>(
        &mut self,
        request: &Request,
    ) -> Result<Outcome, ErrorKind<R, IO::Error>> {
        loop {
            let origin = self.buf.as_ptr() as usize;
            if let Some((len, outcome)) = head::read(self.unread(), origin, request)? {
                self.start += len;
                match outcome {
                    None => continue,
                    Some(outcome) => return Ok(outcome),
                }
            }
            if self.is_full() {
                let room = self.buf.len();
                return Err(ResponseError::Head { room }.into());
            }
            if self.fill().await? == 0 {
                let in_head = !self.unread().is_empty();
                return Err(ResponseError::Closed { in_head }.into());
            }
        }
    }

    /// Hands on the next `most` bytes, or as many as come before the connection ends, and returns how
    /// many.
    async fn copy<R, F>(
        &mut self,
        body: &mut Body<'_, F>,
        most: usize,
    ) -> Result<usize, ErrorKind<R, IO::Error>>
    where
        F: FnMut(Part<'_>) -> Result<(), R>,
    {
        let mut left = most;
        while left > 0 {
            if self.unread().is_empty() && self.fill().await? == 0 {
                break;
            }
            let n = left.min(self.unread().len());
            (body.receive)(Part::Bytes(&self.unread()[..n])).map_err(ErrorKind::Receiver)?;
            self.start += n;
            left -= n;
            body.count(n);
        }
        Ok(most - left)
    }

    /// A body of known length. Bytes behind it are ignored.
    pub(super) async fn fixed<R, F>(
        &mut self,
        body: &mut Body<'_, F>,
        len: usize,
    ) -> Result<(), ErrorKind<R, IO::Error>>
    where
        F: FnMut(Part<'_>) -> Result<(), R>,
    {
        match self.copy(body, len).await? {
            received if received < len => Err(ResponseError::Truncated { received, len }.into()),
            _ => Ok(()),
        }
    }

    /// A body that ends with the connection.
    pub(super) async fn rest<R, F>(
        &mut self,
        body: &mut Body<'_, F>,
    ) -> Result<(), ErrorKind<R, IO::Error>>
    where
        F: FnMut(Part<'_>) -> Result<(), R>,
    {
        let received = self.copy(body, body.limit).await?;
        let is_over =
            received < body.limit || (self.unread().is_empty() && self.fill().await? == 0);
        is_over.then_some(()).ok_or(body.too_large().into())
    }

    /// A body in chunks, with the trailer behind it.
    pub(super) async fn chunks<R, F>(
        &mut self,
        body: &mut Body<'_, F>,
    ) -> Result<(), ErrorKind<R, IO::Error>>
    where
        F: FnMut(Part<'_>) -> Result<(), R>,
    {
        loop {
            let size = chunk_size(self.line(body).await?)?;
            if size == 0 {
                break;
            }
            if size > body.limit - body.received {
                return Err(body.too_large().into());
            }
            if self.copy(body, size).await? < size {
                return Err(body.cut_off().into());
            }
            if self.line(body).await? != b"\r\n" {
                return Err(ResponseError::ChunkLength { size }.into());
            }
        }
        while self.line(body).await? != b"\r\n" {}
        Ok(())
    }

    /// The next line of a chunked body, with its end.
    async fn line<R, F>(&mut self, body: &Body<'_, F>) -> Result<&[u8], ErrorKind<R, IO::Error>> {
        loop {
            let unread = self.unread();
            if let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                let line = self.start..self.start + end + 1;
                self.start = line.end;
                return Ok(&self.buf[line]);
            }
            if self.is_full() {
                let room = self.buf.len();
                return Err(ResponseError::ChunkLine { room }.into());
            }
            if self.fill().await? == 0 {
                return Err(body.cut_off().into());
            }
        }
    }
}

/// The size in a chunk's first line; one too large for `usize` is too large for any limit.
fn chunk_size(line: &[u8]) -> Result<usize, ResponseError> {
    // httparse takes no digits for zero.
    let begins = line.first().is_some_and(u8::is_ascii_hexdigit);
    match httparse::parse_chunk_size(line) {
        Ok(httparse::Status::Complete((len, size))) if begins && len == line.len() => {
            Ok(usize::try_from(size).unwrap_or(usize::MAX))
        }
        _ => Err(ResponseError::ChunkSize),
    }
}
