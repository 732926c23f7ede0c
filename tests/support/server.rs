//! An HTTP server on loopback, and the services of federated learning on it.

use super::ID;
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// A request that has come.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

#[derive(Default)]
struct State {
    requests: Mutex<Vec<Request>>,
    grown: Condvar,
    ended: AtomicBool,
}

impl State {
    fn requests(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server; it ends when dropped.
pub(crate) struct Server {
    pub(crate) port: u16,
    state: Arc<State>,
}

impl Server {
    /// Listens on a free port, and lets `answer` write what it wants to each request's connection,
    /// which is closed afterwards.
    pub(crate) fn start(answer: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let state = Arc::new(State::default());
        let (shared, answer) = (Arc::clone(&state), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.ended.load(Ordering::Acquire) {
                    return;
                }
                let (shared, answer) = (Arc::clone(&shared), Arc::clone(&answer));
                thread::spawn(move || serve(&shared, &*answer, stream));
            }
        });
        Self { port, state }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The requests so far that asked for `path`.
    pub(crate) fn asked(&self, path: &str) -> Vec<Request> {
        let requests = self.state.requests();
        requests
            .iter()
            .filter(|r| r.path == path)
            .cloned()
            .collect()
    }

    /// Waits for `count` requests for `path`.
    pub(crate) fn expect(&self, path: &str, count: usize) -> Vec<Request> {
        let deadline = Instant::now() + super::SOON;
        loop {
            let asked = self.asked(path);
            if asked.len() >= count {
                return asked;
            }
            assert!(
                Instant::now() < deadline,
                "{path} was asked for {} times",
                asked.len()
            );
            let requests = self.state.requests();
            let waited = self
                .state
                .grown
                .wait_timeout(requests, Duration::from_millis(50));
            drop(waited);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Release);
        // Lets the listener see it.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn serve(state: &State, answer: &dyn Fn(&Request, &mut TcpStream), mut stream: TcpStream) {
    let Some(request) = read(&stream) else { return };
    state.requests().push(request.clone());
    state.grown.notify_all();
    answer(&request, &mut stream);
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ').map(String::from);
    let (method, path) = (words.next()?, words.next()?);
    let mut len = 0;
    loop {
        let mut field = String::new();
        reader.read_line(&mut field).ok()?;
        let Some((name, value)) = field.split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            len = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, body })
}

/// A response with a length.
pub(crate) fn reply(stream: &mut TcpStream, status: u16, content_type: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status} -\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // The proplet may have gone.
    let _ = stream.write_all(&[head.as_bytes(), body].concat());
}

/// A good one with a module.
pub(crate) fn reply_module(stream: &mut TcpStream, module: &[u8]) {
    reply(stream, 200, "application/wasm", module);
}

fn reply_json(stream: &mut TcpStream, body: &Value) {
    reply(stream, 200, "application/json", body.to_string().as_bytes());
}

/// The coordinator's state of an experiment.
struct Experiment {
    /// The models, by version.
    models: Vec<Value>,
    updates: Vec<Value>,
}

/// Coordinator, model registry and data store of a federated experiment, and a server of its
/// module. The model of the next version is the mean of the updates to the one before, weighted by
/// their samples.
pub(crate) struct Coordinator {
    pub(crate) server: Server,
    experiment: Arc<Mutex<Experiment>>,
}

impl Coordinator {
    /// With a model to begin with, an object of arrays of numbers; a data set; and a module, at
    /// `/guest.wasm`.
    pub(crate) fn start(model: Value, dataset: Value, module: Vec<u8>) -> Self {
        let experiment = Arc::new(Mutex::new(Experiment {
            models: vec![model],
            updates: Vec::new(),
        }));
        let shared = Arc::clone(&experiment);
        let server = Server::start(move |request, stream| {
            let mut experiment = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let path = request.path.as_str();
            if let Some(version) = path.strip_prefix("/models/") {
                let version: Option<usize> = version.parse().ok();
                match version.and_then(|v| experiment.models.get(v)) {
                    Some(model) => reply_json(stream, model),
                    None => reply(stream, 404, "text/plain", b"no such model"),
                }
            } else if path == format!("/datasets/{ID}") {
                reply_json(stream, &dataset);
            } else if path == "/guest.wasm" {
                reply_module(stream, &module);
            } else if path == "/update" {
                let update = serde_json::from_slice(&request.body).expect("an update is JSON");
                experiment.updates.push(update);
                reply_json(stream, &json!({"status": "accepted"}));
            } else {
                reply_json(stream, &json!({}));
            }
        });
        Self { server, experiment }
    }

    /// Waits for `count` updates, makes the next model of them, and returns them.
    pub(crate) fn aggregate(&self, count: usize) -> Vec<Value> {
        self.server.expect("/update", count);
        let mut experiment = self
            .experiment
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let updates = std::mem::take(&mut experiment.updates);
        let samples = |u: &Value| u["num_samples"].as_f64().expect("a number of samples");
        let total: f64 = updates.iter().map(samples).sum();
        let mut model = experiment.models.last().expect("the first one").clone();
        for (name, weights) in model.as_object_mut().expect("an object") {
            for (i, weight) in weights.as_array_mut().into_iter().flatten().enumerate() {
                let mean: f64 = updates
                    .iter()
                    .map(|u| u["update"][name][i].as_f64().unwrap_or(0.0) * samples(u) / total)
                    .sum();
                *weight = json!(weight.as_f64().unwrap_or(0.0) + mean);
            }
        }
        experiment.models.push(model);
        updates
    }
}
