//! Modules over HTTP, from servers good and bad.

use crate::support::{
    ADD, Request, SOON, Server, Stage, is_alive, reply, reply_module, start_image, stop, wasm, with,
};
use proplet::module::{hex::to_hex, table::digest};
use serde_json::{Value, json};
use std::{
    io::Write as _,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

impl Stage {
    fn fetch(&self, id: &str, url: &str, extra: &Value) {
        let extra = with(json!({"name": "add", "inputs": ["20", "22"]}), extra);
        self.peer
            .publish("control/manager/start", &start_image(id, url, &extra));
    }

    fn assert_sum(&self, id: &str) {
        let body = self.peer.results(id).body;
        assert_eq!(body["results"], "42", "{body}");
    }
}

fn serves_add() -> Server {
    Server::start(|_, stream| reply_module(stream, &wasm(ADD)))
}

fn write(stream: &mut TcpStream, text: &str, body: &[u8]) {
    // The proplet may have gone.
    let _ = stream.write_all(&[text.as_bytes(), body].concat());
}

#[test]
fn a_module_is_fetched_and_run() {
    let Some(stage) = Stage::new(&[]) else { return };
    let server = serves_add();
    stage.fetch("sum", &server.url("/add.wasm?tag=1"), &json!({}));
    stage.assert_sum("sum");
    let asked = server.asked("/add.wasm?tag=1");
    assert_eq!((asked.len(), asked[0].method.as_str()), (1, "GET"));
}

#[test]
fn a_digest_is_held_to_and_not_sent() {
    let Some(stage) = Stage::new(&[]) else { return };
    let server = serves_add();
    let hex = to_hex(&digest(&wasm(ADD)));
    for (id, mark) in [("at", "@sha256:"), ("hash", "#sha256=")] {
        stage.fetch(id, &server.url(&format!("/add{mark}{hex}")), &json!({}));
        stage.assert_sum(id);
    }
    assert!(!server.asked("/add").is_empty());
    let wrong = "ab".repeat(32);
    stage.fetch(
        "wrong",
        &server.url(&format!("/add@sha256:{wrong}")),
        &json!({}),
    );
    stage.assert_error("wrong", "digest mismatch: expected sha256:abababababababab");
    stage.fetch("short", &server.url("/add@sha256:12"), &json!({}));
    stage.assert_error("short", "64 hexadecimal digits");
}

#[test]
fn redirects_are_followed_and_a_loop_ends() {
    let Some(stage) = Stage::new(&[]) else { return };
    let server = Server::start(|request: &Request, stream| match request.path.as_str() {
        "/a" => write(
            stream,
            "HTTP/1.1 302 -\r\nLocation: /b/c\r\nContent-Length: 0\r\n\r\n",
            b"",
        ),
        "/b/c" => write(
            stream,
            "HTTP/1.1 308 -\r\nLocation: d.wasm\r\nContent-Length: 0\r\n\r\n",
            b"",
        ),
        "/b/d.wasm" => reply_module(stream, &wasm(ADD)),
        _ => write(
            stream,
            "HTTP/1.1 301 -\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n",
            b"",
        ),
    });
    stage.fetch("sum", &server.url("/a"), &json!({}));
    stage.assert_sum("sum");
    stage.fetch("loop", &server.url("/loop"), &json!({}));
    stage.assert_error("loop", "too many redirects");
}

#[test]
fn what_a_server_does_wrong_is_told() {
    let Some(stage) = Stage::new(&["--module-max-bytes", "20000"]) else {
        return;
    };
    let server = Server::start(|request: &Request, stream| {
        let module = wasm(ADD);
        match request.path.as_str() {
            "/missing" => reply(stream, 404, "text/plain", b"no such thing"),
            "/broken" => reply(stream, 500, "text/plain", b""),
            "/page" => reply(stream, 200, "text/html; charset=utf-8", &module),
            "/cut" => write(
                stream,
                "HTTP/1.1 200 -\r\nContent-Length: 1000\r\n\r\n",
                &module,
            ),
            "/large" => write(
                stream,
                "HTTP/1.1 200 -\r\nContent-Length: 20001\r\n\r\n",
                &[0; 20_001],
            ),
            "/endless" => {
                write(stream, "HTTP/1.1 200 -\r\n\r\n", b"");
                while stream.write_all(&[0; 1000]).is_ok() {}
            }
            "/garbage" => write(stream, "what is it?\r\n\r\n", b""),
            "/nothing" => {}
            "/empty" => reply(stream, 200, "application/wasm", b""),
            "/packed" => reply(stream, 200, "application/wasm", b"\x28\xb5\x2f\xfd\x04"),
            _ => reply(stream, 200, "application/wasm", b"no module at all"),
        }
    });
    for (path, words) in [
        ("/missing", "HTTP 404"),
        ("/broken", "HTTP 500"),
        ("/page", "text/html"),
        ("/cut", "of 1000 bytes"),
        ("/large", "20000"),
        ("/endless", "20000"),
        ("/garbage", "127.0.0.1"),
        ("/nothing", "127.0.0.1"),
        ("/empty", "the module is empty"),
        ("/packed", "the module is zstd-compressed"),
        ("/words", "not a WebAssembly module"),
    ] {
        stage.fetch(path, &server.url(path), &json!({}));
        stage.assert_error(path, words);
    }
    let unused = crate::support::free_port();
    stage.fetch(
        "refused",
        &format!("http://127.0.0.1:{unused}/a"),
        &json!({}),
    );
    stage.assert_error("refused", "refused");
    stage.fetch("nobody", "http://no.such.host.invalid/a", &json!({}));
    stage.assert_error("nobody", "no.such.host.invalid");
    stage.fetch("url", "http:///a", &json!({}));
    stage.assert_error("url", "");
    // And then all is well.
    let good = serves_add();
    stage.fetch("sum", &good.url("/"), &json!({}));
    stage.assert_sum("sum");
}

#[test]
fn chunked_bodies_and_bodies_without_a_length_are_modules_too() {
    let Some(stage) = Stage::new(&[]) else { return };
    let server = Server::start(|request: &Request, stream| {
        let module = wasm(ADD);
        if request.path == "/close" {
            return write(stream, "HTTP/1.0 200 OK\r\n\r\n", &module);
        }
        let head = "HTTP/1.1 200 -\r\nTransfer-Encoding: chunked\r\nContent-Type: Application/WASM\r\n\r\n";
        write(stream, head, b"");
        for piece in module.chunks(7) {
            write(stream, &format!("{:x};x=y\r\n", piece.len()), piece);
            write(stream, "\r\n", b"");
        }
        if request.path == "/chunked" {
            write(stream, "0\r\nTrailer: x\r\n\r\n", b"");
        }
    });
    for id in ["/chunked", "/close"] {
        stage.fetch(id, &server.url(id), &json!({}));
        stage.assert_sum(id);
    }
    stage.fetch("cut", &server.url("/cut"), &json!({}));
    stage.assert_error("cut", "");
}

#[test]
fn a_slow_server_holds_nobody_up_and_one_fetch_serves_all() {
    let Some(stage) = Stage::new(&[]) else { return };
    let open = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&open);
    let server = Server::start(move |_, stream| {
        let module = wasm(ADD);
        let head = format!("HTTP/1.1 200 -\r\nContent-Length: {}\r\n\r\n", module.len());
        write(stream, &head, &module[..10]);
        while !gate.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(5));
        }
        write(stream, "", &module[10..]);
    });
    for id in ["a", "b", "c"] {
        stage.fetch(id, &server.url("/"), &json!({}));
    }
    server.expect("/", 1);
    assert_eq!(
        stage.run("inline", ADD, &json!({"inputs": ["1", "2"]}))["results"],
        "3"
    );
    let heartbeats = stage.peer.all(is_alive).len();
    stage
        .peer
        .expect_count(SOON, "a heartbeat", heartbeats + 1, is_alive);
    stage.peer.publish("control/manager/stop", &stop("c"));
    stage.assert_error("c", "task stopped");
    open.store(true, Ordering::Release);
    stage.assert_sum("a");
    stage.assert_sum("b");
    assert_eq!(server.asked("/").len(), 1);
}

#[test]
fn a_module_of_64_kib_takes_little_more_than_itself() {
    let Some(stage) = Stage::new(&["--arena-bytes", "196608"]) else {
        return;
    };
    let text = ADD.replacen(
        "(module",
        &format!(r#"(module (@custom "large" "{}")"#, "x".repeat(64 * 1024)),
        1,
    );
    let module = wasm(&text);
    assert!(module.len() > 64 * 1024);
    let server = Server::start(move |_, stream| reply_module(stream, &module));
    // The arena has room for it twice, but not three times.
    stage.fetch("one", &server.url("/large"), &json!({}));
    stage.assert_sum("one");
}

#[test]
fn a_latent_task_comes_over_http_too() {
    let Some(stage) = Stage::new(&[]) else { return };
    let server = serves_add();
    stage.fetch("latent", &server.url("/"), &json!({"latent": true}));
    stage.proplet.expect_log("latent task latent is ready");
    let invoke = crate::support::invoke("latent", "i1", &json!({"inputs": ["2", "3"]}));
    stage.peer.publish("control/manager/invoke", &invoke);
    let answer = stage.peer.expect(SOON, "its answer", |m| {
        m.topic.ends_with("invoke_results") && m.body["invocation_id"] == "i1"
    });
    assert_eq!(answer.body["results"], "5");
}
