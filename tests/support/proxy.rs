//! A TCP proxy before the broker, to cut, to stall and to blind the proplet's connection.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// What becomes of a connection on which so many bytes have come from the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    None,
    /// It is cut.
    Cut(usize),
    /// No more come, and nobody is told.
    Stall(usize),
}

impl Limit {
    const fn bytes(self) -> usize {
        match self {
            Self::None => usize::MAX,
            Self::Cut(bytes) | Self::Stall(bytes) => bytes,
        }
    }
}

struct State {
    limit: Mutex<Limit>,
    /// Connections that have come to their limit.
    limited: AtomicUsize,
    /// Connections are closed as soon as they are made.
    closed: AtomicBool,
    /// Bytes of the proplet are thrown away.
    mute: AtomicBool,
    ended: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl State {
    fn limit(&self) -> Limit {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<State>,
}

impl Proxy {
    /// Listens on a free port and forwards to `broker` on loopback.
    pub(crate) fn start(broker: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let state = Arc::new(State {
            limit: Mutex::new(Limit::None),
            limited: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            streams: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.ended.load(Ordering::Acquire) {
                    return;
                }
                if !shared.closed.load(Ordering::Acquire) {
                    // Where the broker is gone, the stream is dropped: that's a refusal.
                    let _ = connect(&shared, stream, broker);
                }
            }
        });
        Self { port, state }
    }

    /// Cuts what is connected, and refuses what comes until [`open`](Self::open).
    pub(crate) fn close(&self) {
        self.state.closed.store(true, Ordering::Release);
        self.cut();
    }

    /// Lets connections through again, both ways.
    pub(crate) fn open(&self) {
        self.state.mute.store(false, Ordering::Release);
        self.state.closed.store(false, Ordering::Release);
    }

    /// Throws away what the proplet sends: its acknowledgements too.
    pub(crate) fn mute(&self) {
        self.state.mute.store(true, Ordering::Release);
    }

    /// Limits each connection, the present one from now on.
    pub(crate) fn limit(&self, limit: Limit) {
        *self
            .state
            .limit
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = limit;
    }

    /// Waits until `count` connections have come to their limit.
    pub(crate) fn await_limited(&self, count: usize) {
        let deadline = Instant::now() + 3 * super::SOON;
        while self.state.limited.load(Ordering::Acquire) < count {
            assert!(Instant::now() < deadline, "no connection is at its limit");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Cuts what is connected.
    pub(crate) fn cut(&self) {
        for stream in self.state.streams().drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn connect(state: &Arc<State>, proplet: TcpStream, port: u16) -> std::io::Result<()> {
    let broker = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    for stream in [&proplet, &broker] {
        stream.set_nodelay(true)?;
        state.streams().push(stream.try_clone()?);
    }
    let up = (proplet.try_clone()?, broker.try_clone()?);
    let shared = Arc::clone(state);
    thread::spawn(move || {
        pump(up.0, up.1, |len| {
            match shared.mute.load(Ordering::Acquire) {
                true => (0, true),
                false => (len, true),
            }
        });
    });
    let meter = Meter {
        state: Arc::clone(state),
        limit: Limit::None,
        passed: 0,
    };
    thread::spawn(move || meter.pump(broker, proplet));
    Ok(())
}

/// Counts the bytes of a connection.
struct Meter {
    state: Arc<State>,
    /// The limit for which they are counted.
    limit: Limit,
    passed: usize,
}

impl Meter {
    fn pump(mut self, from: TcpStream, to: TcpStream) {
        pump(from, to, |len| self.pass(len));
    }

    /// How many of `len` bytes pass, and whether the connection goes on behind them.
    fn pass(&mut self, len: usize) -> (usize, bool) {
        let limit = self.state.limit();
        if limit != self.limit {
            (self.limit, self.passed) = (limit, 0);
        }
        let passed = len.min(limit.bytes() - self.passed);
        self.passed += passed;
        let is_at_limit = self.passed == limit.bytes();
        if is_at_limit && passed > 0 {
            self.state.limited.fetch_add(1, Ordering::AcqRel);
        }
        (passed, !is_at_limit || matches!(limit, Limit::Stall(_)))
    }
}

/// Passes on what comes, as much as `pass` lets through of each read; the rest of that is thrown away.
fn pump(mut from: TcpStream, mut to: TcpStream, mut pass: impl FnMut(usize) -> (usize, bool)) {
    let mut buf = [0; 64 * 1024];
    while let Ok(len @ 1..) = from.read(&mut buf) {
        let (passed, goes_on) = pass(len);
        if to.write_all(&buf[..passed]).is_err() {
            break;
        }
        if !goes_on {
            // The proplet reads, and answers, what has passed.
            thread::sleep(Duration::from_millis(200));
            break;
        }
    }
    // The other side is to know; it may know already.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Release);
        self.cut();
        // Wakes the thread that listens; where that fails, it has ended.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}
