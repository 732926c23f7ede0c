//! A TCP proxy before the broker, to cut and to blind the proplet's connection.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

#[derive(Default)]
struct State {
    /// Connections are closed as soon as they are made.
    closed: AtomicBool,
    /// Bytes of the proplet are thrown away.
    mute: AtomicBool,
    ended: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl State {
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
        let state = Arc::new(State::default());
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
    thread::spawn(move || pump(up.0, up.1, || shared.mute.load(Ordering::Acquire)));
    thread::spawn(move || pump(broker, proplet, || false));
    Ok(())
}

fn pump(mut from: TcpStream, mut to: TcpStream, mute: impl Fn() -> bool) {
    let mut buf = [0; 64 * 1024];
    while let Ok(len @ 1..) = from.read(&mut buf) {
        if !mute() && to.write_all(&buf[..len]).is_err() {
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
