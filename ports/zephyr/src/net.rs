//! Sockets and names for the link, and the one poll in which the control thread sleeps.

use crate::{
    clock::ALARM,
    ffi::{self, Address, Answer, Errno, Request, Socket, Wait},
    header,
};
use core::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    net::{IpAddr, SocketAddr},
    ops::Range,
    pin::Pin,
    task::Poll,
};
use critical_section::Mutex;
use embassy_time::Instant;
use embedded_io_async::{ErrorKind, ErrorType, Read, Write};
use embedded_nal_async::{AddrType, Dns, TcpConnect};
use proplet_link::{Stack, TlsError, reactor::block_on};
use zephyr::raw;

/// Sockets that the pending futures of the control thread's task wait for; forgotten at each wake-up.
static WAITS: Mutex<RefCell<heapless::Vec<Wait, { header::PROPLET_WAITS_MAX as usize }>>> =
    Mutex::new(RefCell::new(heapless::Vec::new()));

/// Whether Wi-Fi is up, where there is any.
static UP: Mutex<Cell<bool>> = Mutex::new(Cell::new(!cfg!(CONFIG_PROPLET_WIFI)));

/// Longest sleep, so that the watchdog is fed in time.
const SLEEP_MAX_MS: u64 = 1000;

/// Tells whether Wi-Fi is up.
#[cfg(CONFIG_PROPLET_WIFI)]
pub fn set_up(up: bool) {
    critical_section::with(|cs| UP.borrow(cs).set(up));
}

/// Runs `future` on the control thread, which sleeps until a socket, a timer or a wake-up has
/// something. Before it sleeps it feeds the watchdog, unless `is_alive` says no. The future stays
/// where it is: it is large, and a move would be a second one on the stack.
pub fn run<F: Future>(future: Pin<&mut F>, is_alive: fn() -> bool) -> F::Output {
    block_on(&ALARM, &ffi::waker(), future, |deadline| {
        if is_alive() {
            ffi::watchdog_feed();
        }
        park(deadline);
    })
}

fn park(deadline: Option<Instant>) {
    let waits = critical_section::with(|cs| core::mem::take(&mut *WAITS.borrow_ref_mut(cs)));
    let left = deadline.map_or(SLEEP_MAX_MS, |at| {
        let us = at.as_micros().saturating_sub(Instant::now().as_micros());
        // Never early: a task that is woken before its time sleeps again at once.
        us.div_ceil(1000).min(SLEEP_MAX_MS)
    });
    ffi::net_wait(&waits, left as i32);
}

/// Sleeps on the control thread, while nothing else goes on there, so long or until a wake-up.
#[cfg(CONFIG_PROPLET_BENCH)]
pub fn sleep(time: core::time::Duration) {
    let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    ffi::watchdog_feed();
    park(Some(
        Instant::now() + embassy_time::Duration::from_micros(us),
    ));
}

fn wait_for(wait: Wait) {
    critical_section::with(|cs| {
        let mut waits = WAITS.borrow_ref_mut(cs);
        // A socket may be in a poll only once.
        match waits.iter_mut().find(|other| other.fd == wait.fd) {
            Some(other) => other.events |= wait.events,
            // One that finds no room is repeated after the longest sleep.
            None => drop(waits.push(wait)),
        }
    });
}

/// Failure of a connection, or of a name's resolution.
#[derive(Debug, Clone, Copy)]
pub enum Error {
    /// Of a socket or of the dialer.
    Socket(Errno),
    /// There is a TCP connection, and the certificate at its end is not what it should be.
    Certificate(&'static str),
    /// There is a TCP connection, and no TLS on it.
    Handshake,
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Socket(errno)
    }
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Socket(errno) => errno.fmt(f),
            Self::Certificate(fault) => write!(f, "the certificate is refused: {fault}"),
            Self::Handshake => f.write_str(
                "the TLS handshake failed: check that the port speaks TLS, and whether the server wants a certificate (mqtt_tls_cert, mqtt_tls_key)",
            ),
        }
    }
}

impl core::error::Error for Error {}

const INVALID: Errno = Errno(raw::EINVAL as i32);
const NO_ENTRY: Errno = Errno(raw::ENOENT as i32);

impl embedded_io_async::Error for Error {
    fn kind(&self) -> ErrorKind {
        let Self::Socket(errno) = self else {
            return ErrorKind::InvalidData;
        };
        match errno.0 as u32 {
            raw::ECONNREFUSED => ErrorKind::ConnectionRefused,
            raw::ECONNRESET => ErrorKind::ConnectionReset,
            raw::ECONNABORTED => ErrorKind::ConnectionAborted,
            raw::ENOTCONN => ErrorKind::NotConnected,
            raw::ETIMEDOUT => ErrorKind::TimedOut,
            raw::ENOENT => ErrorKind::NotFound,
            raw::ENOMEM | raw::ENOBUFS | raw::ENFILE => ErrorKind::OutOfMemory,
            raw::ENETUNREACH | raw::EHOSTUNREACH | raw::EADDRNOTAVAIL => {
                ErrorKind::AddrNotAvailable
            }
            raw::EPIPE => ErrorKind::BrokenPipe,
            _ => ErrorKind::Other,
        }
    }
}

/// The device's network.
#[derive(Debug)]
pub struct Network {
    /// Whether Zephyr's TLS has a CA to trust.
    pub has_tls: bool,
}

impl Stack for Network {
    fn is_up(&self) -> bool {
        // A wired interface wakes no thread: the longest sleep bounds how late this is seen.
        critical_section::with(|cs| UP.borrow(cs).get()) && ffi::net_is_up()
    }

    fn has_tls(&self) -> bool {
        self.has_tls
    }

    async fn connect_tls(
        &self,
        remote: SocketAddr,
        host: &str,
    ) -> Result<Connection, TlsError<Error>> {
        if !self.has_tls {
            return Err(TlsError::Unsupported);
        }
        let to = from_socket_addr(remote);
        // The name is copied as soon as the dialer is free, and is no part of the future.
        let begin = || Request::connect(&to, Some(&c_string::<HOST_MAX>(host).ok_or(INVALID)?));
        let (answer, flags) = dialer(true, begin).await;
        let error = match answer {
            Ok(answer) => return Ok(connection(answer)?),
            Err(_) if flags != 0 => Error::Certificate(certificate_fault(flags)),
            Err(e) if e.0 as u32 == raw::ECONNABORTED => Error::Handshake,
            Err(e) => Error::Socket(e),
        };
        Err(error.into())
    }
}

/// Waits until the dialer takes a request and has done it.
async fn dialer(
    dials: bool,
    mut begin: impl FnMut() -> Result<Request, Errno>,
) -> (Result<Answer, Errno>, u32) {
    let mut request = None;
    // The dialer wakes the task at the end of each request.
    poll_fn(|_| {
        if request.is_none() {
            match begin() {
                Ok(begun) => request = Some(begun),
                Err(Errno::BUSY) => return Poll::Pending,
                Err(e) => return Poll::Ready((Err(e), 0)),
            }
        }
        match request.as_mut().and_then(|r| r.poll(dials)) {
            Some(done) => Poll::Ready(done),
            None => Poll::Pending,
        }
    })
    .await
}

/// Bytes of a host's name, with its NUL.
const HOST_MAX: usize = header::PROPLET_HOST_MAX as usize + 1;

/// `text` with a NUL behind it; `None` if it has one or has no room.
pub fn c_string<const N: usize>(text: &str) -> Option<heapless::CString<N>> {
    let mut copy = heapless::CString::new();
    copy.extend_from_bytes(text.as_bytes()).ok()?;
    (copy.as_bytes().len() == text.len()).then_some(copy)
}

impl Dns for Network {
    type Error = Error;

    async fn get_host_by_name(&self, host: &str, addr_type: AddrType) -> Result<IpAddr, Error> {
        let begin = || Request::resolve(&c_string::<HOST_MAX>(host).ok_or(INVALID)?);
        let (answer, _) = dialer(false, begin).await;
        match answer? {
            Answer::Address(address) => Some(to_ip(&address)),
            Answer::Socket(_) => None,
        }
        .filter(|ip| match addr_type {
            AddrType::IPv4 => ip.is_ipv4(),
            AddrType::IPv6 => ip.is_ipv6(),
            AddrType::Either => true,
        })
        .ok_or(Error::Socket(NO_ENTRY))
    }

    async fn get_host_by_address(&self, _: IpAddr, _: &mut [u8]) -> Result<usize, Error> {
        Err(Error::Socket(Errno(raw::ENOTSUP as i32)))
    }
}

fn to_ip(address: &Address) -> IpAddr {
    match u32::from(address.family) {
        header::PROPLET_IPV6 => IpAddr::from(address.bytes),
        _ => {
            let [a, b, c, d, ..] = address.bytes;
            IpAddr::from([a, b, c, d])
        }
    }
}

fn from_socket_addr(remote: SocketAddr) -> Address {
    let mut address = Address {
        port: remote.port(),
        ..Address::default()
    };
    match remote.ip() {
        IpAddr::V4(ip) => {
            address.family = header::PROPLET_IPV4 as u8;
            address.bytes[..4].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            address.family = header::PROPLET_IPV6 as u8;
            address.bytes = ip.octets();
        }
    }
    address
}

/// A certificate's fault in words, and a remedy.
fn certificate_fault(flags: u32) -> &'static str {
    match flags {
        f if f & header::PROPLET_CERTIFICATE_OTHER_NAME != 0 => {
            "it is for another name: check mqtt_broker_host or the URL, or let the certificate name that host"
        }
        f if f & header::PROPLET_CERTIFICATE_NOT_TRUSTED != 0 => {
            "no CA of mqtt_tls_ca has signed it: check mqtt_tls_ca"
        }
        f if f & header::PROPLET_CERTIFICATE_EXPIRED != 0 => "it has expired: renew it",
        f if f & header::PROPLET_CERTIFICATE_FUTURE != 0 => {
            "it is not valid yet: check the device's clock"
        }
        f if f & header::PROPLET_CERTIFICATE_REVOKED != 0 => "it is revoked",
        _ => "it is not acceptable: its key or signature is too weak, or its use another",
    }
}

impl TcpConnect for Network {
    type Error = Error;
    type Connection<'a> = Connection;

    async fn connect(&self, remote: SocketAddr) -> Result<Connection, Error> {
        let to = from_socket_addr(remote);
        let (answer, _) = dialer(true, || Request::connect(&to, None)).await;
        connection(answer?)
    }
}

fn connection(answer: Answer) -> Result<Connection, Error> {
    match answer {
        Answer::Socket(socket) => Ok(Connection {
            socket,
            ahead: [0; AHEAD],
            unread: 0..0,
        }),
        Answer::Address(_) => Err(Error::Socket(INVALID)),
    }
}

/// Bytes that are read at once: MQTT headers are asked for byte by byte.
const AHEAD: usize = 256;

/// A TCP or TLS connection; it closes when dropped.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    ahead: [u8; AHEAD],
    /// The part of it that is still to be given out.
    unread: Range<usize>,
}

impl ErrorType for Connection {
    type Error = Error;
}

/// Tries `operation` whenever the socket may be ready for `events`.
async fn ready<T>(
    fd: i32,
    events: u32,
    mut operation: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Error> {
    poll_fn(|_| match operation() {
        Err(Errno::AGAIN) => {
            wait_for(Wait { fd, events });
            Poll::Pending
        }
        done => Poll::Ready(done.map_err(Error::Socket)),
    })
    .await
}

async fn receive(socket: &Socket, buf: &mut [u8]) -> Result<usize, Error> {
    ready(socket.fd(), header::PROPLET_READ, || socket.read(buf)).await
}

impl Read for Connection {
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        if self.unread.is_empty() {
            if buf.len() >= AHEAD {
                return receive(&self.socket, buf).await;
            }
            self.unread = 0..receive(&self.socket, &mut self.ahead).await?;
        }
        let len = buf.len().min(self.unread.len());
        buf[..len].copy_from_slice(&self.ahead[self.unread.start..][..len]);
        self.unread.start += len;
        Ok(len)
    }
}

impl Write for Connection {
    async fn write(&mut self, buf: &[u8]) -> Result<usize, Error> {
        let socket = &self.socket;
        ready(socket.fd(), header::PROPLET_WRITE, || socket.write(buf)).await
    }

    async fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
