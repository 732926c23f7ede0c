//! The agent's HTTP requests beside its session, in virtual time.

mod support;

use embassy_futures::select::{Either3, select3};
use embedded_io_async::{ErrorKind, ErrorType, Read, Write};
use embedded_nal_async::{AddrType, Dns, TcpConnect};
use proplet_link::{Buffers, LinkConfig, LinkStatus, Stack, gate::BUFFER_MIN, run};
use std::{
    cell::{Cell, RefCell},
    future::{Future, pending},
    net::{IpAddr, SocketAddr},
    rc::Rc,
};
use support::{
    Fault, Net, Signals, Stream, after, at, now,
    proplet::{CONFIG, Guests, ID, Log, agent, task_id, topic},
    simulate,
};

/// A module of which each guest ends at once.
const MODULE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nmain()";

/// A server that answers each request after a while, in one piece.
struct Server {
    /// Milliseconds up to the answer; never without.
    delay: Cell<Option<u64>>,
    says: Cell<&'static str>,
    /// Requests, with their milliseconds.
    requests: RefCell<Vec<(u64, String)>>,
    open: Cell<usize>,
}

/// The broker, and the server at port 80.
struct Network {
    broker: Net,
    server: Rc<Server>,
}

enum Connection {
    Broker(Stream),
    Server(Exchange),
}

struct Exchange {
    server: Rc<Server>,
    unread: Option<&'static [u8]>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.server.open.set(self.server.open.get() - 1);
    }
}

impl ErrorType for Connection {
    type Error = Fault;
}

impl Read for Connection {
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize, Fault> {
        let exchange = match self {
            Self::Broker(stream) => return stream.read(buf).await,
            Self::Server(exchange) => exchange,
        };
        if exchange.unread.is_none() {
            match exchange.server.delay.get() {
                Some(ms) => after(ms).await,
                None => pending().await,
            }
            exchange.unread = Some(exchange.server.says.get().as_bytes());
        }
        exchange
            .unread
            .as_mut()
            .unwrap()
            .read(buf)
            .await
            .map_err(|e| match e {})
    }
}

impl Write for Connection {
    async fn write(&mut self, buf: &[u8]) -> Result<usize, Fault> {
        match self {
            Self::Broker(stream) => stream.write(buf).await,
            Self::Server(exchange) => {
                let text = String::from_utf8(buf.into()).unwrap();
                exchange.server.requests.borrow_mut().push((now(), text));
                Ok(buf.len())
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

impl TcpConnect for Network {
    type Error = Fault;
    type Connection<'a> = Connection;

    async fn connect(&self, remote: SocketAddr) -> Result<Connection, Fault> {
        if remote.port() != 80 {
            return Ok(Connection::Broker(self.broker.connect(remote).await?));
        }
        self.server.open.set(self.server.open.get() + 1);
        Ok(Connection::Server(Exchange {
            server: Rc::clone(&self.server),
            unread: None,
        }))
    }
}

impl Dns for Network {
    type Error = Fault;

    async fn get_host_by_name(&self, _: &str, _: AddrType) -> Result<IpAddr, Fault> {
        Ok(IpAddr::from([192, 0, 2, 1]))
    }

    async fn get_host_by_address(&self, _: IpAddr, _: &mut [u8]) -> Result<usize, Fault> {
        Err(Fault(ErrorKind::Unsupported))
    }
}

impl Stack for Network {
    fn is_up(&self) -> bool {
        self.broker.is_up()
    }
}

struct World {
    broker: Net,
    server: Rc<Server>,
    log: Rc<RefCell<Log>>,
}

impl World {
    fn start(&self, id: &str) {
        let json = format!(
            r#"{{"id":"{id}","name":"main","image_url":"http://server/{id}","proplet_id":"{ID}"}}"#
        );
        let topic = topic("control/manager/start");
        self.broker.publish(&topic, json.as_bytes());
    }

    fn stop(&self, id: &str) {
        let json = format!(r#"{{"id":"{id}","proplet_id":"{ID}"}}"#);
        let topic = topic("control/manager/stop");
        self.broker.publish(&topic, json.as_bytes());
    }

    /// Results: milliseconds, tasks, and messages.
    fn results(&self) -> Vec<(u64, String, String)> {
        let published = self.broker.published(&topic("control/proplet/results"));
        let results = published.into_iter();
        results
            .map(|(at, said)| (at, task_id(&said).into(), said))
            .collect()
    }

    /// Paths that were asked for, with their milliseconds.
    fn requests(&self) -> Vec<(u64, String)> {
        let requests = self.server.requests.borrow();
        let path = |text: &String| text.split(' ').nth(1).unwrap().to_owned();
        requests
            .iter()
            .map(|(at, text)| (*at, path(text)))
            .collect()
    }
}

/// Runs the link with two HTTP exchanges at once while `script` does.
fn simulate_link<F: Future<Output = ()>>(script: impl FnOnce(World) -> F) {
    let signals = Signals::default();
    let guests = Guests::new(agent(CONFIG), &signals);
    let network = Network {
        broker: Net::new(),
        server: Rc::new(Server {
            delay: Cell::new(Some(10_000)),
            says: Cell::new(MODULE),
            requests: RefCell::default(),
            open: Cell::new(0),
        }),
    };
    let world = World {
        broker: network.broker.clone(),
        server: Rc::clone(&network.server),
        log: Rc::clone(&guests.log),
    };
    let config = LinkConfig {
        host: "192.0.2.1",
        proplet_id: ID,
        ..LinkConfig::DEFAULT
    };
    let status = LinkStatus::new();
    let mut rx = [0; BUFFER_MIN];
    let (mut tx, mut will) = ([0; 2048], [0; 128]);
    let mut heads = [[0; 512]; 2];
    let buffers = Buffers {
        rx: &mut rx,
        output: &mut [0; 64],
        tx: &mut tx,
        will: &mut will,
        http: heads.each_mut().map(|head| &mut head[..]),
    };
    let signal = async || signals.next().await;
    let script = script(world);
    simulate(async {
        let link = run(&network, &guests.agent, &config, buffers, signal, &status);
        match select3(script, link, guests.run()).await {
            Either3::First(()) => {}
            Either3::Second(ended) => panic!("the link has ended: {ended:?}"),
            Either3::Third(never) => match never {},
        }
    });
    // The connections went with the link.
    drop(guests);
    assert_eq!(network.server.open.get(), 0);
}

#[test]
fn a_module_is_asked_for_at_once_and_its_guest_reports_as_soon_as_it_is_there() {
    simulate_link(async |world| {
        at(9_000).await;
        world.start("a");
        at(20_000).await;
        assert_eq!(world.requests(), [(9_000, "/a".into())]);
        let log = world.log.borrow();
        assert_eq!(log.running, [(19_000, 1), (19_000, 0)]);
        let [(at, id, _)] = &world.results()[..] else {
            panic!("{:?}", world.results());
        };
        assert_eq!((*at, &**id), (19_000, "a"));
    });
}

#[test]
fn a_failure_is_told_at_once_and_in_words() {
    simulate_link(async |world| {
        at(9_000).await;
        world.server.says.set("HTTP/1.1 404 Not Found\r\n\r\n");
        world.start("a");
        at(20_000).await;
        let [(at, id, said)] = &world.results()[..] else {
            panic!("{:?}", world.results());
        };
        assert_eq!((*at, &**id), (19_000, "a"));
        let words = "module http://server/a: HTTP 404 from server:80";
        assert!(said.contains(words), "{said}");
    });
}

#[test]
fn there_are_as_many_exchanges_at_once_as_buffers() {
    simulate_link(async |world| {
        at(9_000).await;
        for id in ["a", "b", "c"] {
            world.start(id);
        }
        at(10_000).await;
        assert_eq!(world.server.open.get(), 2);
        at(40_000).await;
        let paths = ["/a", "/b", "/c"].map(String::from);
        let times = [9_000, 9_000, 19_000];
        assert_eq!(
            world.requests(),
            Vec::from_iter(times.into_iter().zip(paths))
        );
        assert_eq!(world.results().len(), 3);
    });
}

#[test]
fn an_exchange_that_is_no_longer_wanted_is_given_up() {
    simulate_link(async |world| {
        at(9_000).await;
        world.server.delay.set(None);
        world.start("a");
        at(12_000).await;
        assert_eq!(world.server.open.get(), 1);
        world.stop("a");
        at(12_001).await;
        assert_eq!(world.server.open.get(), 0);
        // The client is free for the next one.
        world.server.delay.set(Some(1));
        world.start("b");
        at(13_000).await;
        assert_eq!(world.requests()[1], (12_001, "/b".into()));
    });
}

#[test]
fn an_exchange_waits_for_a_network_and_is_bounded_in_time() {
    simulate_link(async |world| {
        at(9_000).await;
        world.server.delay.set(None);
        world.broker.with(|w| w.up = false);
        world.start("a");
        at(15_000).await;
        assert_eq!(world.requests(), []);
        world.broker.with(|w| w.up = true);
        at(15_001).await;
        let asked = world.requests()[0].0;
        assert!((15_000..=15_001).contains(&asked), "{asked}");
        at(60_000).await;
        let [(at, _, said)] = &world.results()[..] else {
            panic!("{:?}", world.results());
        };
        assert_eq!(*at, asked + 30_000);
        assert!(said.contains("no answer within 30 s"), "{said}");
    });
}
