//! Bytes that are kept of modules, whatever their source, and chunks of more than one version.

use super::*;
use crate::module::{hex::to_hex, signature::HEADER, table::digest};

/// A custom section of `len` bytes in all.
fn custom(len: usize) -> Vec<u8> {
    let body = len - 6;
    let mut section = std::vec![0];
    section.extend((0..5).map(|i| (body >> (7 * i)) as u8 & 0x7f | if i < 4 { 0x80 } else { 0 }));
    section.push(4);
    section.extend(b"name");
    section.resize(len, b'n');
    section
}

/// A module whose exports are `text`, with `len` bytes of custom sections.
fn wasm(text: &str, len: usize) -> Vec<u8> {
    let text = format!("\n{text}\n");
    let code = [&[10, text.len() as u8][..], text.as_bytes()].concat();
    [&HEADER[..], &custom(len / 2), &code, &custom(len - len / 2)].concat()
}

fn fetched(id: &str, image: &str) -> Json {
    with(task(id), json!({"file": null, "image_url": image}))
}

fn pinned(image: &str, module: &[u8]) -> String {
    format!("{image}@sha256:{}", to_hex(&digest(module)))
}

fn chunk_text(app: &str, index: usize, total: usize, bytes: &[u8]) -> String {
    let data = BASE64_STANDARD.encode(bytes);
    format!(r#"{{"app_name":"{app}","chunk_idx":{index},"total_chunks":{total},"data":"{data}"}}"#)
}

impl Bench {
    /// A message as it comes, in pieces.
    fn message(&mut self, topic: &str, payload: &str) {
        self.beginning(topic, payload);
        self.handle(Event::MessageEnd);
    }

    fn beginning(&mut self, topic: &str, payload: &str) {
        let topic = format!("m/t/c/c/{topic}");
        self.handle(Event::MessageBegin(MessageHead {
            topic: &topic,
            len: payload.len(),
            qos: Qos::AtMostOnce,
            is_retained: false,
            is_duplicate: false,
        }));
        for piece in payload.as_bytes().chunks(50) {
            self.handle(Event::MessageBytes(piece));
        }
    }

    /// A chunk as the registry's proxy writes it.
    fn proxy_chunk(&mut self, app: &str, module: &[u8], size: usize, index: usize) {
        let parts: Vec<_> = module.chunks(size).collect();
        let text = chunk_text(app, index, parts.len(), parts[index]);
        self.message("registry/server", &text);
    }

    /// All chunks of a module, in their turn.
    fn proxy_sends(&mut self, app: &str, module: &[u8], size: usize) {
        for index in 0..module.len().div_ceil(size) {
            self.proxy_chunk(app, module, size, index);
        }
    }

    fn asked(&mut self) -> usize {
        let out = self.drain();
        out.iter().filter(|(t, _)| t == "registry/proplet").count()
    }

    fn asked_until(&mut self, ms: u64) -> usize {
        let out = self.run_until(ms);
        let asked = out.iter().filter(|(_, t, _)| t == "registry/proplet");
        asked.count() + self.asked()
    }

    fn running(&self) -> usize {
        self.agent.engine().running.len()
    }

    fn free(&self) -> usize {
        self.agent.engine().arena().free
    }
}

/// A source, and how it sends a module.
type Source = (&'static str, fn(&mut Bench, &[u8]));

const SOURCES: [Source; 7] = [
    ("inline", |bench, module| {
        let start = with(task("a"), json!({"file": BASE64_STANDARD.encode(module)}));
        bench.message("control/manager/start", &start.to_string());
    }),
    ("chunks", |bench, module| {
        bench.start(fetched("a", "app"));
        bench.proxy_sends("app", module, 3000);
    }),
    ("one chunk", |bench, module| {
        bench.start(fetched("a", "app"));
        bench.proxy_sends("app", module, 50_000);
    }),
    // The data come before it is known whose they are.
    ("chunks by the block", |bench, module| {
        bench.start(fetched("a", "app"));
        for (index, part) in (0..).zip(module.chunks(3000)) {
            let total = module.len().div_ceil(3000) as u32;
            bench.chunk("app", index, total, part);
        }
    }),
    ("chunks in any order", |bench, module| {
        bench.start(fetched("a", &pinned("app", module)));
        let total = module.len().div_ceil(3000) as u32;
        let mut parts: Vec<_> = (0..).zip(module.chunks(3000)).collect();
        parts[1..].rotate_left(1);
        for _ in 0..2 {
            for (index, part) in &parts {
                bench.chunk("app", *index, total, part);
            }
        }
    }),
    ("HTTP", |bench, module| {
        bench.start(fetched("a", "http://host/app"));
        let id = bench.exchange("http://host/app");
        let now = bench.now;
        let _ = bench
            .agent
            .respond(id, Part::Begin(Some(module.len())), now);
        for piece in module.chunks(7) {
            if let Err(reason) = bench.agent.respond(id, Part::Bytes(piece), now) {
                return bench.break_off(id, &reason.to_string());
            }
        }
        bench.agent.respond(id, Part::End, now).unwrap();
    }),
    ("HTTP without a length", |bench, module| {
        bench.start(fetched("a", &pinned("http://host/app", module)));
        let id = bench.exchange("http://host/app");
        let now = bench.now;
        let _ = bench.agent.respond(id, Part::Begin(None), now);
        match bench.agent.respond(id, Part::Bytes(module), now) {
            Ok(()) => bench.agent.respond(id, Part::End, now).unwrap(),
            Err(reason) => bench.break_off(id, &reason.to_string()),
        }
    }),
];

fn with_limit(limit: usize) -> Bench {
    let mut config = config();
    config.limits.module_bytes = limit;
    online(config, Room::SMALL)
}

/// 99 % of TinyGo's smallest program is for debuggers.
#[test]
fn custom_sections_take_no_room_whatever_the_source() {
    let module = wasm(ADD, 40_000);
    for (name, send) in SOURCES {
        let mut bench = with_limit(100);
        send(&mut bench, &module);
        assert_eq!(
            bench.running(),
            1,
            "{name}: {:?}",
            bench.results_until(2000)
        );
        let taken = 10_000 - bench.free();
        assert!(taken < LOAD + INSTANCE + 100, "{name}: {taken}");
        bench.exit(0, Ok(None));
        assert!(bench.arena_is_free());
    }
}

#[test]
fn the_limit_is_on_what_is_kept_whatever_the_source() {
    let module = wasm(ADD, 40_000);
    for (name, send) in SOURCES {
        let mut bench = with_limit(30);
        send(&mut bench, &module);
        let results = bench.results_until(2000);
        let error = results.first().and_then(|body| body["error"].as_str());
        let error = error.unwrap_or_else(|| panic!("{name}: {results:?}"));
        assert!(error.ends_with("this proplet takes 30"), "{name}: {error}");
        assert!(bench.arena_is_free());
    }
}

/// One bit of a custom section is another module.
#[test]
fn the_digest_is_of_the_whole_whatever_the_source() {
    let module = wasm(ADD, 4000);
    let mut other = module.clone();
    other[100] ^= 1;
    let mut bench = Bench::online();
    bench.start(with(
        task("a"),
        json!({"file": BASE64_STANDARD.encode(&other), "image_url": pinned("x", &module)}),
    ));
    bench.start(fetched("b", &pinned("app", &module)));
    bench.proxy_sends("app", &other, 900);
    bench.start(fetched("c", &pinned("http://host/app", &module)));
    let id = bench.exchange("http://host/app");
    bench.respond(id, &other);
    let results = bench.results_until(2000);
    assert_eq!(results.len(), 3);
    for result in results {
        let error = result["error"].as_str().unwrap();
        assert!(error.contains("digest mismatch"), "{error}");
    }
    assert!(bench.arena_is_free());
}

/// A debugging section that is cut off is the module's fault, though it is never kept.
#[test]
fn a_module_that_is_cut_off_in_what_is_dropped_is_not_whole() {
    let module = wasm(ADD, 1000);
    let kept = |module: &[u8]| {
        let mut bench = Bench::online();
        bench.start(with(
            task("a"),
            json!({"file": BASE64_STANDARD.encode(module)}),
        ));
        10_000 - LOAD - INSTANCE - bench.free()
    };
    let whole = kept(&module);
    let cut = kept(&module[..module.len() - 1]);
    assert!(cut > whole, "the engine sees the head of a section");
}

/// The arena has room for the module, not for one of its chunks besides.
#[test]
fn a_chunk_goes_into_the_module_as_it_comes() {
    let module = format!("{ADD}\n{}", "x".repeat(8980)).into_bytes();
    for size in [4500, 9000] {
        let mut bench = Bench::online();
        bench.start(fetched("a", "app"));
        bench.proxy_sends("app", &module, size);
        assert_eq!(bench.running(), 1, "{:?}", bench.results_until(2000));
        bench.exit(0, Ok(None));
        assert!(bench.arena_is_free());
    }
}

/// Its beginning stays where it is; the connection that brings it again continues there.
#[test]
fn a_chunk_that_breaks_off_is_taken_when_it_comes_again() {
    let module = wasm(ADD, 3000);
    for (last_key, is_taken) in [("", true), (r#","chunk_idx":1"#, false)] {
        let mut bench = Bench::online();
        bench.start(fetched("a", "app"));
        let first = chunk_text("app", 0, 2, &module[..2000]);
        bench.beginning("registry/server", &first[..1500]);
        bench.handle(Event::MessagesCut);
        bench.handle(Event::Disconnected);
        bench.handle(Event::Connected);
        // The last of equal keys counts: then it is not the chunk that it began as.
        let first = format!("{}{last_key}}}", &first[..first.len() - 1]);
        bench.message("registry/server", &first);
        bench.proxy_chunk("app", &module, 2000, 1);
        assert_eq!(bench.running(), usize::from(is_taken));
        bench.proxy_sends("app", &module, 2000);
        assert_eq!(bench.running(), 1);
        bench.exit(0, Ok(None));
        assert!(bench.arena_is_free());
    }
}

#[test]
fn a_stop_while_its_chunk_is_read_leaves_nothing() {
    let module = wasm(ADD, 3000);
    let mut bench = Bench::online();
    bench.start(fetched("a", "app"));
    let first = chunk_text("app", 0, 2, &module[..2000]);
    bench.beginning("registry/server", &first);
    assert!(!bench.arena_is_free());
    bench.run_until(62_000);
    assert!(bench.arena_is_free(), "it was given up");
    bench.handle(Event::MessageEnd);
    bench.proxy_chunk("app", &module, 2000, 1);
    assert!(bench.arena_is_free());
}

/// 11 for 22: half of a module that was pushed anew meanwhile.
#[test]
fn chunks_of_two_versions_are_never_one_module() {
    let [one, two] = ["main()\n1111()", "main()\n2222()"].map(str::as_bytes);
    let exports = |bench: &Bench| {
        let module = bench.agent.engine().running[0].module;
        bench.agent.engine().params(module, "2222").unwrap()
    };
    // The one who asked first has given up.
    let mut bench = Bench::online();
    bench.start(with(fetched("a", "app"), json!({"name": "main"})));
    bench.proxy_chunk("app", one, 7, 0);
    assert_eq!(bench.results_until(62_000).len(), 1);
    assert!(bench.arena_is_free(), "it is dropped");
    bench.start(with(fetched("b", "app"), json!({"name": "main"})));
    assert_eq!(bench.asked(), 1);
    bench.proxy_chunk("app", two, 7, 1);
    assert_eq!(bench.running(), 0);
    bench.proxy_sends("app", two, 7);
    assert!(exports(&bench).is_some());

    // Or its connection was lost.
    for pieces in [true, false] {
        let mut bench = Bench::online();
        bench.start(with(fetched("a", "app"), json!({"name": "main"})));
        let send = |bench: &mut Bench, module: &[u8], index: usize| match pieces {
            true => bench.proxy_chunk("app", module, 12, index),
            false => {
                let part = module.chunks(12).nth(index).unwrap();
                bench.chunk("app", index as u32, 2, part);
            }
        };
        send(&mut bench, one, 0);
        bench.handle(Event::Disconnected);
        bench.handle(Event::Connected);
        assert_eq!(bench.asked(), 1);
        send(&mut bench, two, 1);
        assert_eq!(bench.running(), 0);
        send(&mut bench, two, 0);
        // The first was compared only if it came in pieces.
        assert_eq!(bench.asked(), usize::from(pieces));
        send(&mut bench, two, 0);
        send(&mut bench, two, 1);
        assert!(exports(&bench).is_some());
    }
}

/// Chunks in any order may be of two versions; then the module is asked for once more.
#[test]
fn the_digest_decides() {
    let [one, two] = ["main()\n1111()", "main()\n2222()"].map(str::as_bytes);
    let mut bench = Bench::online();
    bench.start(with(
        fetched("a", &pinned("app", two)),
        json!({"name": "main"}),
    ));
    assert_eq!(bench.asked(), 1);
    bench.proxy_chunk("app", one, 7, 1);
    bench.proxy_chunk("app", two, 7, 0);
    assert_eq!((bench.running(), bench.asked()), (0, 1));
    bench.proxy_chunk("app", two, 7, 1);
    bench.proxy_chunk("app", two, 7, 0);
    assert_eq!(bench.running(), 1);

    // What came in its turn is what the registry has.
    let mut bench = Bench::online();
    bench.start(fetched("a", &pinned("app", two)));
    bench.proxy_sends("app", one, 7);
    let results = bench.results_until(2000);
    let error = results[0]["error"].as_str().unwrap();
    assert!(error.contains("digest mismatch"), "{error}");
    assert!(bench.arena_is_free());
}

/// The last chunk, then the others from the last on: no stream of a registry that keeps to its order.
fn backwards(bench: &mut Bench, module: &[u8]) {
    for index in (0..module.len().div_ceil(7)).rev() {
        bench.proxy_chunk("app", module, 7, index);
    }
}

/// They may be of two versions: what the registry sends of the second shows it, or nothing comes.
#[test]
fn a_module_whose_chunks_came_in_any_order_is_held() {
    let [one, two] = ["main()\n1111()\nend()", "main()\n2222()\nend()"].map(str::as_bytes);
    let held = |module| {
        let mut bench = Bench::online();
        bench.start(with(fetched("a", "app"), json!({"name": "main"})));
        assert_eq!(bench.asked(), 1);
        backwards(&mut bench, module);
        bench
    };
    // Nothing comes.
    let mut bench = held(one);
    assert_eq!(bench.asked_until(2999), 0);
    assert_eq!(bench.running(), 0);
    let next = bench.agent.next_deadline(bench.now);
    assert_eq!(next.map(Instant::as_millis), Some(3000));
    assert_eq!(bench.asked_until(3000), 0);
    assert_eq!(bench.running(), 1);
    bench.exit(0, Ok(None));
    assert!(bench.arena_is_free());

    // Each chunk puts it off.
    let mut bench = held(one);
    bench.run_until(2500);
    bench.proxy_chunk("app", one, 7, 1);
    bench.run_until(4499);
    assert_eq!(bench.running(), 0);
    bench.run_until(4500);
    assert_eq!(bench.running(), 1);

    // So does the beginning of one, until it ends.
    let mut bench = held(one);
    let again = chunk_text("app", 0, 3, &one[..7]);
    bench.beginning("registry/server", &again);
    bench.run_until(4000);
    bench.handle(Event::MessageEnd);
    bench.run_until(5999);
    assert_eq!(bench.running(), 0);
    bench.run_until(6000);
    assert_eq!(bench.running(), 1);

    // It is sent again from its beginning.
    let mut bench = held(one);
    bench.proxy_chunk("app", one, 7, 0);
    bench.proxy_chunk("app", one, 7, 1);
    assert_eq!(bench.running(), 0);
    bench.proxy_chunk("app", one, 7, 2);
    assert_eq!(bench.running(), 1);

    // Another version is.
    let mut bench = held(one);
    bench.proxy_sends("app", two, 7);
    assert_eq!((bench.running(), bench.asked()), (0, 1));
    bench.run_until(10_000);
    assert_eq!(bench.running(), 0, "a chunk is missing");
    bench.proxy_sends("app", two, 7);
    assert_eq!(bench.running(), 1);
    let module = bench.agent.engine().running[0].module;
    let params = bench.agent.engine().params(module, "2222");
    assert!(params.unwrap().is_some());

    // A start that knows its digest need not wait.
    for (image, running) in [(pinned("app", one), 2), (pinned("app", two), 0)] {
        let mut bench = Bench::online();
        bench.start(with(fetched("a", "app"), json!({"name": "main"})));
        bench.start(with(fetched("b", &image), json!({"name": "main"})));
        assert_eq!(bench.asked(), 1);
        backwards(&mut bench, one);
        assert_eq!(bench.running(), running);
        // The other one has its own turn: these were not one after the other.
        assert_eq!(bench.asked_until(3000), usize::from(running == 0));
        assert_eq!(bench.running(), running.max(1));
        bench.proxy_sends("app", two, 7);
        assert_eq!(bench.running(), 2);
    }
}

/// The rest of a version may be lost with the connection: quiet is no sign then.
#[test]
fn a_module_over_a_lost_connection_is_asked_for_again() {
    let [one, two] = ["main()\n1111()\nend()", "main()\n2222()\nend()"].map(str::as_bytes);
    let fetching = || {
        let mut bench = Bench::online();
        bench.start(with(fetched("a", "app"), json!({"name": "main"})));
        assert_eq!(bench.asked(), 1);
        bench
    };
    let lost = |bench: &mut Bench| {
        bench.handle(Event::MessagesCut);
        bench.handle(Event::Disconnected);
        bench.run_until(5000);
        assert_eq!(bench.running(), 0);
        bench.handle(Event::Connected);
        assert_eq!(bench.asked(), 1);
    };
    let mut bench = fetching();
    bench.proxy_chunk("app", one, 7, 0);
    bench.proxy_chunk("app", one, 7, 1);
    lost(&mut bench);
    bench.proxy_chunk("app", two, 7, 2);
    assert_eq!(bench.asked_until(6999), 0);
    assert_eq!(bench.asked_until(7000), 1);
    assert_eq!(bench.running(), 0);
    backwards(&mut bench, two);
    assert_eq!(bench.asked_until(9000), 0);
    assert_eq!(bench.running(), 1);

    // It was whole already.
    let mut bench = fetching();
    backwards(&mut bench, one);
    lost(&mut bench);
    bench.proxy_sends("app", one, 7);
    assert_eq!(bench.running(), 1);
    bench.exit(0, Ok(None));
    assert!(bench.arena_is_free());
}

/// It is larger than the arena, and nothing of it is kept.
#[test]
fn an_early_chunk_without_room_is_passed_over() {
    let module = wasm(ADD, 35_900);
    for (first, asked) in [(2, 1), (1, 0)] {
        let mut bench = Bench::online();
        bench.start(fetched("a", "app"));
        assert_eq!(bench.asked(), 1);
        bench.proxy_chunk("app", &module, 12_000, first);
        assert_eq!(bench.asked(), asked);
        bench.proxy_sends("app", &module, 12_000);
        assert_eq!(bench.running(), 1);
        bench.exit(0, Ok(None));
        assert!(bench.arena_is_free());
    }
}

/// A start that comes when half of another version is here has its own turn.
#[test]
fn a_late_start_with_another_digest_asks_for_itself() {
    let [one, two] = ["main()\n1111()", "main()\n2222()"].map(str::as_bytes);
    let start =
        |id: &str, module| with(fetched(id, &pinned("app", module)), json!({"name": "main"}));
    let mut bench = Bench::online();
    bench.start(start("a", one));
    assert_eq!(bench.asked(), 1);
    bench.proxy_chunk("app", one, 12, 0);
    bench.start(start("b", two));
    assert_eq!(bench.asked(), 0, "it waits for those that come");
    bench.proxy_chunk("app", one, 12, 1);
    assert_eq!((bench.running(), bench.asked()), (1, 1));
    bench.proxy_sends("app", two, 12);
    assert_eq!(bench.running(), 2);
}

/// The last who leaves a fetch hands on its bytes to those who wait for the same ones.
#[test]
fn the_next_who_waits_takes_over_what_has_come() {
    let module = wasm(ADD, 3000);
    let of_any = String::from("app");
    for (first, second, is_wanted) in [
        (of_any.clone(), pinned("app", &module), true),
        (pinned("app", &module), of_any, true),
        (pinned("app", &module), pinned("app", b"another"), false),
    ] {
        let mut bench = Bench::online();
        bench.start(fetched("a", &first));
        bench.start(fetched("b", &second));
        assert_eq!(bench.asked(), 1, "one request for one location");
        bench.proxy_chunk("app", &module, 2000, 0);
        let free = bench.free();
        bench.send("control/manager/stop", json!({"id": "a"}));
        assert!(bench.free() <= free + 50);
        assert_eq!(bench.asked(), 0);
        bench.proxy_sends("app", &module, 2000);
        assert_eq!(bench.running(), usize::from(is_wanted));
    }
    let mut bench = Bench::online();
    bench.start(fetched("a", "http://host/app"));
    bench.start(fetched("b", &pinned("http://host/app", &module)));
    let id = bench.exchange("http://host/app");
    assert_eq!(
        bench.agent.poll_request(),
        None,
        "one request for one location"
    );
    bench.send("control/manager/stop", json!({"id": "a"}));
    bench.respond(id, &module);
    assert_eq!(bench.running(), 1);
}

/// Three starts of one location: the bytes are in the arena once, and go to those whose digest they have.
#[test]
fn all_who_want_these_bytes_share_them() {
    let module = format!("{ADD}\n{}", "x".repeat(8000)).into_bytes();
    let mut bench = Bench::online();
    bench.start(fetched("a", "app"));
    bench.start(fetched("b", &pinned("app", &module)));
    bench.start(fetched("c", "app"));
    assert_eq!(bench.asked(), 1);
    bench.proxy_sends("app", &module, 1000);
    assert_eq!(bench.running(), 3);
    assert_eq!(bench.agent.engine().loads, 1);
}
