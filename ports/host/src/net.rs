//! Sockets and names for the link, and the one `poll` in which its thread waits.

use crate::{
    clock::ALARM,
    platform::WakeFd,
    tls::{Session, Tls},
};
use embassy_time::Instant;
use embedded_io_async::{ErrorType, Read, Write};
use embedded_nal_async::{AddrType, Dns, TcpConnect};
use proplet_link::{Stack, TlsError, reactor::block_on};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt},
};
use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _},
    ops::Range,
    rc::{Rc, Weak},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Poll, Wake, Waker},
    thread,
    time::Duration,
};

thread_local! {
    /// Descriptors that the pending futures of this thread's task wait for; forgotten at each wake-up.
    /// A connection that is dropped meanwhile is closed, and waited for no more.
    static WAITS: RefCell<Vec<(Weak<TcpStream>, PollFlags)>> = const { RefCell::new(Vec::new()) };
    /// Whether the wake-up descriptor was set since [`woken`] was last ready.
    static WOKEN: Cell<bool> = const { Cell::new(false) };
}

struct Waking(&'static WakeFd);

impl Wake for Waking {
    fn wake(self: Arc<Self>) {
        self.0.set();
    }
}

/// Runs `future` on this thread, which sleeps until a socket, a timer or `wake` has something.
pub fn run<F: Future>(future: F, wake: &'static WakeFd) -> F::Output {
    let waker = Waker::from(Arc::new(Waking(wake)));
    block_on(&ALARM, &waker, future, |deadline| park(wake, deadline))
}

fn park(wake: &WakeFd, deadline: Option<Instant>) {
    let waits = WAITS.take().into_iter();
    let waits = waits.filter_map(|(stream, events)| Some((stream.upgrade()?, events)));
    let waits: Vec<_> = waits.collect();
    let mut fds = vec![PollFd::new(wake, PollFlags::IN)];
    fds.extend(
        waits
            .iter()
            .map(|(stream, events)| PollFd::new(stream, *events)),
    );
    let timeout = deadline.map(|at| {
        let left = at.as_micros().saturating_sub(Instant::now().as_micros());
        Timespec::try_from(Duration::from_micros(left)).unwrap_or(Timespec {
            tv_sec: i64::from(i32::MAX),
            tv_nsec: 0,
        })
    });
    wake.while_unset(|| {
        // EINTR is a wake-up like any other; nothing else can fail with valid descriptors.
        let _ = poll(&mut fds, timeout.as_ref());
        !fds[0].revents().is_empty()
    });
    if wake.clear() {
        WOKEN.set(true);
    }
}

/// Ready when the wake-up descriptor was set since it was last ready.
pub async fn woken() {
    poll_fn(|_| match WOKEN.take() {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

/// Tries `operation` whenever `stream` may be ready for `events`, or those that it asks for instead.
async fn ready<T>(
    stream: &Rc<TcpStream>,
    events: PollFlags,
    mut operation: impl FnMut(&TcpStream, &mut PollFlags) -> io::Result<T>,
) -> io::Result<T> {
    poll_fn(|_| {
        loop {
            let mut events = events;
            match operation(stream, &mut events) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    WAITS.with_borrow_mut(|waits| waits.push((Rc::downgrade(stream), events)));
                    return Poll::Pending;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                done => return Poll::Ready(done),
            }
        }
    })
    .await
}

/// The process's network.
#[derive(Debug)]
pub struct Network {
    wake: &'static WakeFd,
    lookup: Mutex<Option<Arc<Lookup>>>,
    tls: Tls,
}

/// A name that a thread looks up, because `getaddrinfo` blocks. The answer is for all who wait.
#[derive(Debug)]
struct Lookup {
    host: String,
    found: OnceLock<io::Result<Vec<IpAddr>>>,
}

impl Network {
    /// The network, whose look-ups end with `wake`.
    pub const fn new(wake: &'static WakeFd, tls: Tls) -> Self {
        Self {
            wake,
            lookup: Mutex::new(None),
            tls,
        }
    }

    /// The look-up of `host`: the one under way, so that a resolver that hangs holds one thread.
    fn lookup(&self, host: &str) -> io::Result<Arc<Lookup>> {
        let mut current = self.lookup.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lookup) = current.as_ref().filter(|lookup| lookup.host == host) {
            return Ok(Arc::clone(lookup));
        }
        let lookup = Arc::new(Lookup {
            host: host.into(),
            found: OnceLock::new(),
        });
        let (worker, wake) = (Arc::clone(&lookup), self.wake);
        thread::Builder::new()
            .name("resolver".into())
            .spawn(move || {
                let found = (worker.host.as_str(), 0)
                    .to_socket_addrs()
                    .map(|all| all.map(|a| a.ip()).collect());
                // It is set here only.
                let _ = worker.found.set(found);
                wake.set();
            })?;
        *current = Some(Arc::clone(&lookup));
        Ok(lookup)
    }

    /// Lets the next one who asks look the name up anew. Others may have asked for another name
    /// meanwhile.
    fn forget_lookup(&self, lookup: &Arc<Lookup>) {
        let mut current = self.lookup.lock().unwrap_or_else(PoisonError::into_inner);
        current.take_if(|current| Arc::ptr_eq(current, lookup));
    }
}

impl Dns for Network {
    type Error = io::Error;

    async fn get_host_by_name(&self, host: &str, addr_type: AddrType) -> io::Result<IpAddr> {
        let lookup = self.lookup(host)?;
        // A wake-up polls all that waits in the task.
        let found = poll_fn(|_| lookup.found.get().map_or(Poll::Pending, Poll::Ready)).await;
        self.forget_lookup(&lookup);
        let all = match found {
            Ok(all) => all,
            Err(e) => return Err(io::Error::new(e.kind(), e.to_string())),
        };
        all.iter()
            .copied()
            .find(|ip| match addr_type {
                AddrType::IPv4 => ip.is_ipv4(),
                AddrType::IPv6 => ip.is_ipv6(),
                AddrType::Either => true,
            })
            .ok_or_else(|| io::Error::new(ErrorKind::NotFound, "the name has no such address"))
    }

    async fn get_host_by_address(&self, _: IpAddr, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }
}

impl Stack for Network {
    fn has_tls(&self) -> bool {
        true
    }

    /// rustls fails where the peer has announced no end.
    fn has_authentic_end(&self) -> bool {
        true
    }

    async fn connect_tls(
        &self,
        remote: SocketAddr,
        host: &str,
    ) -> Result<Connection, TlsError<io::Error>> {
        let mut session = self.tls.session(host)?;
        let mut connection = self.connect(remote).await?;
        let shaken = ready(&connection.stream, PollFlags::IN, |stream, events| {
            session.handshake(stream, events)
        });
        shaken.await?;
        connection.tls = Some(session);
        Ok(connection)
    }
}

/// A TCP connection, with TLS on it or not; it closes when dropped.
#[derive(Debug)]
pub struct Connection {
    stream: Rc<TcpStream>,
    tls: Option<Session>,
    /// Bytes that were read ahead: MQTT headers are asked for byte by byte.
    ahead: Box<[u8; 4096]>,
    /// Part of it that is still to be given out.
    unread: Range<usize>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close(&self.stream);
        }
    }
}

impl TcpConnect for Network {
    type Error = io::Error;
    type Connection<'a> = Connection;

    async fn connect(&self, remote: SocketAddr) -> io::Result<Connection> {
        let family = match remote {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let stream = TcpStream::from(socket_with(family, SocketType::STREAM, flags, None)?);
        match connect(&stream, &remote) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(e) => return Err(e.into()),
        }
        let stream = Rc::new(stream);
        ready(&stream, PollFlags::OUT, |stream, _| {
            sockopt::socket_error(stream)??;
            // Without an error and without a peer, the connection is still being made.
            match stream.peer_addr() {
                Err(e) if e.kind() == ErrorKind::NotConnected => Err(ErrorKind::WouldBlock.into()),
                other => other.map(drop),
            }
        })
        .await?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            tls: None,
            ahead: Box::new([0; 4096]),
            unread: 0..0,
        })
    }
}

impl ErrorType for Connection {
    type Error = io::Error;
}

impl Read for Connection {
    async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() {
            if buf.len() >= self.ahead.len() {
                return receive(&self.stream, &mut self.tls, buf).await;
            }
            self.unread = 0..receive(&self.stream, &mut self.tls, &mut self.ahead[..]).await?;
        }
        let len = buf.len().min(self.unread.len());
        buf[..len].copy_from_slice(&self.ahead[self.unread.start..][..len]);
        self.unread.start += len;
        Ok(len)
    }
}

async fn receive(
    stream: &Rc<TcpStream>,
    tls: &mut Option<Session>,
    buf: &mut [u8],
) -> io::Result<usize> {
    ready(stream, PollFlags::IN, |mut stream, events| match tls {
        Some(tls) => tls.read(stream, events, buf),
        None => io::Read::read(&mut stream, buf),
    })
    .await
}

impl Write for Connection {
    async fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let tls = &mut self.tls;
        ready(&self.stream, PollFlags::OUT, |mut stream, _| match tls {
            Some(tls) => tls.write(stream, buf),
            None => io::Write::write(&mut stream, buf),
        })
        .await
    }

    async fn flush(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        ready(&self.stream, PollFlags::OUT, |stream, _| tls.flush(stream)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use embassy_futures::join::{join, join3};
    use embassy_time::with_timeout;
    use std::net::TcpListener;

    /// Longer than anything here takes.
    const SOON: embassy_time::Duration = embassy_time::Duration::from_secs(10);

    fn wake() -> &'static WakeFd {
        Box::leak(Box::new(WakeFd::new().expect("descriptors are left")))
    }

    #[test]
    fn bytes_go_both_ways() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let remote = listener.local_addr().unwrap();
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut copy = stream.try_clone().unwrap();
            io::copy(&mut copy, &mut stream).unwrap();
        });
        let wake = wake();
        let sent: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let got = run(
            async {
                let network = Network::new(wake, Tls::default());
                let mut connection = network.connect(remote).await.unwrap();
                let mut got = vec![0; sent.len()];
                let (mut out, mut back) = (0, 0);
                while back < got.len() {
                    out += connection
                        .write(&sent[out..(out + 1000).min(sent.len())])
                        .await
                        .unwrap();
                    back += connection.read(&mut got[back..]).await.unwrap();
                }
                got
            },
            wake,
        );
        assert_eq!(got, sent);
        peer.join().unwrap();
    }

    #[test]
    fn names_are_looked_up_and_refusals_are_errors() {
        let wake = wake();
        run(
            async {
                let network = Network::new(wake, Tls::default());
                let ip = network.get_host_by_name("localhost", AddrType::IPv4).await;
                assert!(ip.unwrap().is_loopback());
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let remote = listener.local_addr().unwrap();
                drop(listener);
                let refused = network.connect(remote).await.unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            },
            wake,
        );
    }

    /// `network` looks `host` up, until the answer is set.
    fn looks_up(network: &Network, host: &str) -> Arc<Lookup> {
        let lookup = Arc::new(Lookup {
            host: host.into(),
            found: OnceLock::new(),
        });
        let mut current = network.lookup.lock().unwrap();
        *current = Some(Arc::clone(&lookup));
        lookup
    }

    #[test]
    fn an_answer_is_for_all_who_wait_for_it() {
        let wake = wake();
        let ip = IpAddr::from([192, 0, 2, 1]);
        for (found, expected) in [
            (Ok(vec![ip]), Ok(ip)),
            (Err(ErrorKind::TimedOut.into()), Err(ErrorKind::TimedOut)),
        ] {
            let network = Network::new(wake, Tls::default());
            let lookup = looks_up(&network, "example.org");
            let ask = || network.get_host_by_name("example.org", AddrType::IPv4);
            let all = join3(ask(), ask(), async {
                // Both wait by now.
                thread::spawn(move || {
                    lookup.found.set(found).unwrap();
                    wake.set();
                });
            });
            let (one, other, ()) = run(with_timeout(SOON, all), wake).expect("both have it");
            for got in [one, other] {
                assert_eq!(got.map_err(|e| e.kind()), expected);
            }
            assert!(network.lookup.lock().unwrap().is_none());
        }
    }

    #[test]
    fn an_answer_does_not_end_the_look_up_of_another_name() {
        let wake = wake();
        let network = Network::new(wake, Tls::default());
        let lookup = looks_up(&network, "one");
        let asked = run(
            with_timeout(
                SOON,
                join(network.get_host_by_name("one", AddrType::IPv4), async {
                    looks_up(&network, "other");
                    lookup.found.set(Ok(vec![])).unwrap();
                    wake.set();
                }),
            ),
            wake,
        );
        let (found, ()) = asked.expect("it has an answer");
        assert_eq!(found.unwrap_err().kind(), ErrorKind::NotFound);
        let current = network.lookup.lock().unwrap();
        assert_eq!(current.as_ref().unwrap().host, "other");
    }
}
