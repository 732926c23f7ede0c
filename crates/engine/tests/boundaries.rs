//! Host functions at the boundaries of guest memory, and of the pieces in which they copy it.

use proplet::{
    engine::{Engine as _, Failure, Limits, Message, ModuleId, Slot, Value},
    time::Duration,
    wire::{check_guest_filter, check_guest_topic},
};
use proplet_engine::host_functions;
use proplet_testing::engine::{
    Bench, GUEST_LIMITS, ID, LIMITS, PART, Threads, bench, imports, lines, show_memory,
};
use std::{ops::Range, sync::atomic::Ordering};

/// The guest's memory in bytes.
const MEMORY: u32 = 65_536;
/// Each byte of it unless a case says otherwise; one is a topic, too.
const FILL: u8 = b'.';
/// Bytes that the host functions copy at a time.
const PIECE: usize = 64;
/// In place of the block that the guest's malloc gives: it traps where it is called.
const NO_HEAP: u32 = 0x8000_0001;
const OUT_OF_BOUNDS: &str = "out of bounds memory access";

/// Lengths around one, two and three pieces.
const LENGTHS: [usize; 11] = [
    0,
    1,
    PIECE - 1,
    PIECE,
    PIECE + 1,
    2 * PIECE - 1,
    2 * PIECE,
    2 * PIECE + 1,
    3 * PIECE - 1,
    3 * PIECE,
    3 * PIECE + 1,
];

/// One call of a host function, and what its guest has been given.
#[derive(Clone, Copy, Debug)]
struct Case<'a> {
    function: &'a str,
    args: [u32; 4],
    memory: &'a [(u32, &'a [u8])],
    /// The offset that the guest's malloc returns.
    heap: u32,
    env: &'a [(&'a str, &'a str)],
    inputs: &'a [&'a str],
    model: &'a [u8],
    incoming: Option<(&'a str, &'a [u8])>,
}

const fn case(function: &str, args: [u32; 4]) -> Case<'_> {
    Case {
        function,
        args,
        memory: &[],
        heap: NO_HEAP,
        env: &[],
        inputs: &[],
        model: &[],
        incoming: None,
    }
}

impl Case<'_> {
    fn image(&self) -> Vec<u8> {
        written(vec![FILL; MEMORY as usize], self.memory)
    }
}

fn written(mut memory: Vec<u8>, writes: &[(u32, &[u8])]) -> Vec<u8> {
    for (at, bytes) in writes {
        memory[*at as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    memory
}

/// The effects of a call.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    result: Option<Result<i32, String>>,
    /// The memory after it, unless it trapped.
    memory: Vec<u8>,
    said: Vec<String>,
    lines: Vec<String>,
    output: Option<String>,
    dropped: u32,
}

fn trapped(text: impl Into<String>) -> Outcome {
    Outcome {
        result: Some(Err(text.into())),
        ..Outcome::default()
    }
}

/// Of a call that has returned `value` and written to memory.
fn returned(case: &Case<'_>, value: i32, writes: &[(u32, &[u8])]) -> Outcome {
    Outcome {
        result: Some(Ok(value)),
        memory: written(case.image(), writes),
        ..Outcome::default()
    }
}

fn said(message: &Message<wamr::Buffer>) -> String {
    match message {
        Message::Publish { bytes, topic_len } => {
            let (topic, payload) = bytes.split_at(*topic_len);
            format!("{} {}", topic.escape_ascii(), payload.escape_ascii())
        }
        Message::Subscribe { filter } => format!("? {}", filter.escape_ascii()),
    }
}

fn publishes(topic: &[u8], payload: &[u8]) -> String {
    format!("{} {}", topic.escape_ascii(), payload.escape_ascii())
}

/// A guest that calls function `$f`, and then publishes its memory, in parts, on a topic of one byte. `$meet`: it
/// waits before until the test listens.
struct Caller {
    wasm: Vec<u8>,
    /// Where its memory's content lies.
    image: Range<usize>,
}

impl Caller {
    fn new() -> Self {
        let functions = host_functions::<Threads>();
        let arms = functions.iter().enumerate().map(|(i, function)| {
            let name = function.name.to_str().unwrap();
            let (params, result) = function.signature.to_str().unwrap()[1..]
                .split_once(')')
                .unwrap();
            let args = ["$a", "$b", "$c", "$d"][..params.len()]
                .iter()
                .map(|arg| format!("(local.get {arg})"))
                .collect::<String>();
            let call = match result {
                "i" => format!("(local.set $n (call ${name} {args}))"),
                "I" => format!("(local.set $n (i32.wrap_i64 (call ${name} {args})))"),
                _ => format!("(call ${name} {args})"),
            };
            format!("(if (i32.eq (local.get $f) (i32.const {i})) (then {call}))")
        });
        let marked = [b'#'; MEMORY as usize];
        let wat = format!(
            r#"(module {} (memory (export "memory") 1 1) (global $heap (mut i32) (i32.const 0))
            (func (export "malloc") (param i32) (result i32)
                (if (i32.eq (global.get $heap) (i32.const {})) (then (unreachable)))
                (global.get $heap))
            (func (export "free") (param i32))
            (data (i32.const 0) "{}")
            (func (export "main") (param $f i32) (param $a i32) (param $b i32) (param $c i32)
                (param $d i32) (param $topic i32) (param $heap i32) (param $meet i32) (result i32)
                (local $n i32) (local $at i32)
                (global.set $heap (local.get $heap))
                (if (local.get $meet) (then
                    (drop (call $subscribe (local.get $topic) (i32.const 1)))
                    (loop $again (br_if $again
                        (i32.eqz (call $subscribe (local.get $topic) (i32.const 1)))))))
                {}
                {}
                (local.get $n)))"#,
            imports(),
            NO_HEAP,
            str::from_utf8(&marked).unwrap(),
            arms.collect::<String>(),
            show_memory(MEMORY as usize)
        );
        let wasm = wat::parse_str(&wat).unwrap();
        let at = wasm.windows(marked.len()).position(|part| part == marked);
        let at = at.expect("the image is in one piece");
        Self {
            wasm,
            image: at..at + marked.len(),
        }
    }

    /// Makes the call and compares what it has done. A call that traps has no effect at all.
    #[track_caller]
    fn expect(&mut self, bench: &mut Bench, case: &Case<'_>, expected: &Outcome) {
        let before = bench.workers.platform().effects.load(Ordering::SeqCst);
        let outcome = self.outcome(bench, case, &expected.memory);
        if outcome != *expected {
            let changes = outcome.memory.iter().zip(&expected.memory);
            let first = changes.clone().position(|(is, should)| is != should);
            panic!("{case:?}\n{outcome:?}\nexpected {expected:?}\nmemory differs at {first:?}");
        }
        let after = bench.workers.platform().effects.load(Ordering::SeqCst);
        if let Some(Err(_)) = expected.result {
            assert_eq!(after, before, "{case:?} traps after an effect");
        }
    }

    /// `memory` is what it should be after the call, where that is known.
    fn outcome(&mut self, bench: &mut Bench, case: &Case<'_>, memory: &[u8]) -> Outcome {
        let image = case.image();
        let is_topic =
            |at: &usize| image[*at] == FILL && memory.get(*at).is_none_or(|byte| *byte == FILL);
        let topic = (0..MEMORY as usize).rfind(is_topic).expect("no topic left");
        self.wasm[self.image.clone()].copy_from_slice(&image);
        bench.load_bytes(0, &self.wasm).unwrap();
        let platform = bench.workers.platform();
        platform.set_clock(Some(Duration::from_secs(9)));
        let names = host_functions::<Threads>().map(|f| f.name.to_str().unwrap());
        let function = names.iter().position(|name| *name == case.function);
        let [a, b, c, d] = case.args;
        let is_met = case.incoming.is_some();
        let function = function.expect("a host function") as u32;
        let args = [function, a, b, c, d, topic as u32, case.heap, is_met.into()];
        let caps = "time,random,timer,publish,subscribe,gpio,sensor";
        let mut data = bench.data(caps, case.inputs, case.env);
        data.model = (!case.model.is_empty()).then(|| bench.copy(case.model));
        data.dataset = (!case.model.is_empty()).then(|| bench.copy(case.model));
        let limits = Limits {
            stack: 1024,
            ..LIMITS
        };
        lines();
        let args = args.map(|arg| Value::I32(arg.cast_signed()));
        bench.spawn_with(0, &args, limits, data);
        if let Some((topic, payload)) = case.incoming {
            bench.engine.deliver(Slot(0), topic, payload);
        }
        let mut outcome = Outcome::default();
        let exit = bench.exit_while(|engine| match engine.take_message(Slot(0)) {
            Some(Message::Publish { bytes, .. }) if bytes.len() == 1 + PART => {
                outcome.memory.extend_from_slice(&bytes[1..]);
            }
            Some(Message::Subscribe { .. }) if is_met => {}
            Some(message) => outcome.said.push(said(&message)),
            None => {}
        });
        outcome.lines = lines();
        outcome.dropped = exit.usage.dropped;
        outcome.output = exit.output.as_deref().map(|bytes| {
            let text = str::from_utf8(bytes);
            text.expect("a result is text").to_owned()
        });
        outcome.result = Some(match exit.result {
            Ok(Some(Value::I32(value))) => Ok(value),
            Err(ref trap @ Failure::Trap(Some(_))) => Err(trap.to_string()),
            ref other => panic!("{other:?}"),
        });
        drop(exit);
        bench.engine.unload(ModuleId(0));
        outcome
    }
}

/// Runs a test, after which all of the arena is free again that was before.
fn with_caller(test: impl FnOnce(&mut Bench, &mut Caller)) {
    let mut bench = bench();
    let before = bench.free();
    test(&mut bench, &mut Caller::new());
    assert_eq!(bench.free(), before);
}

/// Text of that length in which no two pieces are the same.
fn text(len: usize) -> String {
    (0..len)
        .map(|i| char::from(b'a' + ((i + i / PIECE) % 26) as u8))
        .collect()
}

/// A pointer of a host function: its argument's index, and its length.
#[derive(Clone, Copy)]
enum Pointer {
    Fixed(usize, u32),
    /// With the index of the length.
    Ranged(usize, usize),
}

use Pointer::{Fixed, Ranged};

/// All host functions, arguments with which they return, and their pointers.
const POINTERS: [(&str, [u32; 4], &[Pointer]); proplet_engine::HOST_FUNCTIONS] = [
    ("get_proplet_id", [0, 8, 0, 0], &[Fixed(0, 4), Fixed(1, 4)]),
    ("get_model_data", [0, 8, 0, 0], &[Fixed(0, 4), Fixed(1, 4)]),
    (
        "get_dataset_data",
        [0, 8, 0, 0],
        &[Fixed(0, 4), Fixed(1, 4)],
    ),
    ("get_env", [0, 3, 8, 8], &[Ranged(0, 1), Ranged(2, 3)]),
    ("get_input", [0, 8, 8, 0], &[Ranged(1, 2)]),
    ("publish_result", [0, 8, 0, 0], &[Ranged(0, 1)]),
    ("log", [2, 0, 8, 0], &[Ranged(1, 2)]),
    ("now_ms", [0; 4], &[]),
    ("sleep_ms", [0; 4], &[]),
    ("timer_start", [1, 0, 0, 0], &[]),
    // It traps, for want of a timer.
    ("timer_wait", [0; 4], &[]),
    ("timer_stop", [0; 4], &[]),
    ("random", [0, 8, 0, 0], &[Ranged(0, 1)]),
    ("publish", [0, 3, 8, 8], &[Ranged(0, 1), Ranged(2, 3)]),
    ("subscribe", [0, 3, 0, 0], &[Ranged(0, 1)]),
    ("receive", [0, 8, 64, 0], &[Ranged(0, 1), Fixed(2, 4)]),
    ("gpio_configure", [0, 3, 0, 0], &[]),
    ("gpio_write", [0, 1, 0, 0], &[]),
    ("gpio_read", [0; 4], &[]),
    ("sensor_read", [0; 4], &[Fixed(2, 8)]),
];

/// Ranges of `len` bytes, or of any: at the end of memory and of the address space, on both sides.
fn ranges(len: Option<u32>) -> Vec<(u32, u32)> {
    let lens: Vec<u32> = match len {
        Some(len) => vec![len],
        None => LENGTHS[1..].iter().map(|len| *len as u32).collect(),
    };
    let mut ranges = Vec::new();
    for len in lens {
        let last = MEMORY - len;
        for at in [0, last, last + 1, MEMORY - 1, MEMORY, MEMORY + 1] {
            ranges.push((at, len));
        }
        // The end is 2^32 - 1, 2^32, beyond.
        for at in [u32::MAX - len, u32::MAX - len + 1, u32::MAX] {
            ranges.push((at, len));
        }
        // Where the one page would end that the guest has less of.
        ranges.push((65_536 - len, len));
    }
    if len.is_none() {
        let nothing = [0, 1, MEMORY - 1, MEMORY, MEMORY + 1, u32::MAX];
        ranges.extend(nothing.map(|at| (at, 0)));
        ranges.extend([(0, MEMORY), (1, MEMORY), (0, MEMORY + 1), (MEMORY - 1, 2)]);
        let all = [0, 1, 8, MEMORY - 1, MEMORY, u32::MAX];
        ranges.extend(all.map(|at| (at, u32::MAX)));
        ranges.extend([(8, u32::MAX - 7), (8, u32::MAX - 8), (1 << 31, 1 << 31)]);
    }
    ranges
}

#[test]
fn what_lies_outside_of_memory_traps_before_any_effect() {
    with_caller(|bench, caller| {
        for name in host_functions::<Threads>().map(|f| f.name.to_str().unwrap()) {
            let (_, args, pointers) = POINTERS
                .iter()
                .find(|(known, ..)| *known == name)
                .unwrap_or_else(|| panic!("no pointers of {name}"));
            if name == "timer_wait" {
                let text = "timer_wait: no timer runs, call timer_start first";
                caller.expect(bench, &case(name, *args), &trapped(text));
                continue;
            }
            let valid = Case {
                heap: 3000,
                inputs: &["value"],
                ..case(name, *args)
            };
            let outcome = caller.outcome(bench, &valid, &[]);
            assert!(matches!(outcome.result, Some(Ok(_))), "{name} {outcome:?}");
            for pointer in *pointers {
                let (at, len, fixed) = match *pointer {
                    Fixed(at, len) => (at, None, Some(len)),
                    Ranged(at, len) => (at, Some(len), None),
                };
                for range in ranges(fixed) {
                    let mut args = *args;
                    args[at] = range.0;
                    if let Some(index) = len {
                        args[index] = range.1;
                    }
                    let is_inside = range.1 == 0
                        || u64::from(range.0) + u64::from(range.1) <= u64::from(MEMORY);
                    // A result has its limit before it has a place.
                    let limit = GUEST_LIMITS.result_bytes;
                    let is_over = name == "publish_result" && range.1 > limit;
                    let tried = Case { args, ..valid };
                    if is_over {
                        let text = format!(
                            "publish_result: {} bytes, and this proplet's limit is {limit}",
                            range.1
                        );
                        caller.expect(bench, &tried, &trapped(text));
                    } else if is_inside && name == "random" {
                        let bytes = bench.workers.platform().random_ahead(range.1 as usize);
                        let at = if range.1 > 0 { range.0 } else { 0 };
                        let expected = returned(&tried, 0, &[(at, &bytes)]);
                        caller.expect(bench, &tried, &expected);
                    } else if is_inside {
                        // No call here writes more than 8 bytes.
                        let mut memory = tried.image();
                        memory
                            .iter_mut()
                            .skip(range.0 as usize)
                            .take(8)
                            .for_each(|byte| *byte = 0);
                        let outcome = caller.outcome(bench, &tried, &memory);
                        let result = outcome.result.unwrap();
                        let is_done = match &result {
                            Ok(_) => true,
                            // Of the lengths of topics and messages there are rules.
                            Err(text) => text.contains(": the topic ") || text.contains("limit is"),
                        };
                        assert!(is_done, "{tried:?} {result:?}");
                    } else {
                        // Nor is there a call of malloc.
                        let tried = Case {
                            heap: NO_HEAP,
                            ..tried
                        };
                        caller.expect(bench, &tried, &trapped(OUT_OF_BOUNDS));
                    }
                }
            }
        }
    });
}

/// The middle of memory and its end.
fn places(len: usize) -> [u32; 2] {
    [1000, MEMORY - len as u32]
}

#[test]
fn values_of_any_length_are_written_whole_and_nothing_beside_them() {
    with_caller(|bench, caller| {
        for len in LENGTHS {
            let value = text(len);
            for (at, cap) in [len, len.saturating_sub(1), len + 1]
                .into_iter()
                .flat_map(|cap| places(cap).map(|at| (at, cap)))
            {
                let start = &value.as_bytes()[..len.min(cap)];
                let cap = cap as u32;
                let env = Case {
                    memory: &[(16, b"KEY")],
                    env: &[("KEY", "other"), ("KEY", &value)],
                    ..case("get_env", [16, 3, at, cap])
                };
                let expected = returned(&env, len as i32, &[(at, start)]);
                caller.expect(bench, &env, &expected);
                let input = Case {
                    inputs: &["other", &value],
                    ..case("get_input", [1, at, cap, 0])
                };
                let expected = returned(&input, len as i32, &[(at, start)]);
                caller.expect(bench, &input, &expected);
                if len == 0 {
                    continue;
                }
                // A message has a topic, and is left where there is too little room.
                let receive = Case {
                    incoming: Some((&value[..1], &value.as_bytes()[1..])),
                    ..case("receive", [at, cap, 16, 0])
                };
                let whole = if cap as usize >= len { start } else { &[] };
                let writes = [(at, whole), (16, &[1, 0, 0, 0])];
                let expected = returned(&receive, len as i32, &writes);
                caller.expect(bench, &receive, &expected);
            }
        }
    });
}

#[test]
fn copies_end_with_a_zero_at_the_last_byte_of_memory_at_most() {
    with_caller(|bench, caller| {
        for len in LENGTHS {
            let value = text(len);
            for (function, value) in [
                ("get_proplet_id", ID.as_bytes()),
                ("get_model_data", value.as_bytes()),
                ("get_dataset_data", value.as_bytes()),
            ] {
                let size = value.len() as u32;
                let copy = [value, &[0]].concat();
                let last = MEMORY - size - 1;
                for heap in [
                    1000,
                    last,
                    last + 1,
                    MEMORY,
                    u32::MAX - size,
                    u32::MAX - 1,
                    0,
                ] {
                    let case = Case {
                        heap,
                        model: value,
                        ..case(function, [16, 20, 0, 0])
                    };
                    let expected = match heap {
                        0 => returned(&case, 0, &[]),
                        1..MEMORY if heap <= last => returned(
                            &case,
                            1,
                            &[
                                (heap, &copy),
                                (16, &heap.to_le_bytes()),
                                (20, &size.to_le_bytes()),
                            ],
                        ),
                        _ => trapped(OUT_OF_BOUNDS),
                    };
                    caller.expect(bench, &case, &expected);
                }
            }
        }
    });
}

#[test]
fn a_key_is_compared_in_all_its_bytes() {
    with_caller(|bench, caller| {
        for len in LENGTHS {
            // Characters of one byte, or of two.
            let key = match len % 2 {
                0 => "é".repeat(len / 2),
                _ => text(len),
            };
            let longer = key.clone() + "x";
            let env = [(&key[..], "it"), (&longer, "not it")];
            for at in places(len) {
                let base = case("get_env", [at, len as u32, 16, 8]);
                let found = Case {
                    memory: &[(at, key.as_bytes())],
                    env: &env,
                    ..base
                };
                caller.expect(bench, &found, &returned(&found, 2, &[(16, b"it")]));
                let boundaries = [1, PIECE - 1, PIECE, 2 * PIECE - 1, 2 * PIECE, len];
                for byte in boundaries
                    .into_iter()
                    .filter(|byte| (1..=len).contains(byte))
                {
                    let mut other = key.clone().into_bytes();
                    other[byte - 1] ^= 1;
                    let absent = Case {
                        memory: &[(at, &other)],
                        ..found
                    };
                    caller.expect(bench, &absent, &returned(&absent, -1, &[]));
                }
            }
        }
        // The proplet's own are as exact.
        for (key, value) in [
            ("PROPLET_ID", ID),
            ("MODEL_DATA", "m"),
            ("DATASET_DATA", "m"),
        ] {
            let at = MEMORY - key.len() as u32;
            let own = Case {
                memory: &[(at, key.as_bytes())],
                model: b"m",
                ..case("get_env", [at, key.len() as u32, 16, 64])
            };
            let expected = returned(&own, value.len() as i32, &[(16, value.as_bytes())]);
            caller.expect(bench, &own, &expected);
            let [at, len, ..] = own.args;
            let part = Case {
                args: [at, len - 1, 16, 64],
                ..own
            };
            caller.expect(bench, &part, &returned(&part, -1, &[]));
        }
    });
}

#[test]
fn what_is_said_is_whole_at_any_length() {
    with_caller(|bench, caller| {
        for len in LENGTHS.into_iter().chain([96, 97, 255, 256, 257, 511, 512]) {
            let value = text(len);
            let bytes = value.as_bytes();
            for at in places(len) {
                let memory = [(at, bytes)];
                let of = |function, args| Case {
                    memory: &memory,
                    ..case(function, args)
                };
                let size = len as u32;
                let result = of("publish_result", [at, size, 0, 0]);
                let expected = Outcome {
                    output: Some(value.clone()),
                    ..returned(&result, 0, &[])
                };
                caller.expect(bench, &result, &expected);
                let payload = of("publish", [0, 1, at, size]);
                let expected = Outcome {
                    said: vec![publishes(b".", bytes)],
                    ..returned(&payload, 1, &[])
                };
                caller.expect(bench, &payload, &expected);
                expect_text(bench, caller, at, bytes);
            }
        }
        // Its last part has its own turn.
        for len in LENGTHS
            .into_iter()
            .chain([255, 256, 257, 319, 320, 321, 511, 512, 513, 4095])
        {
            for at in [0, MEMORY - len as u32] {
                let random = case("random", [at, len as u32, 0, 0]);
                let bytes = bench.workers.platform().random_ahead(len);
                caller.expect(bench, &random, &returned(&random, 0, &[(at, &bytes)]));
            }
        }
        for at in [0, 1000, MEMORY - 8] {
            let measure = case("sensor_read", [0, 0, at, 0]);
            let value = (-1_250_001_i64).to_le_bytes();
            caller.expect(bench, &measure, &returned(&measure, 1, &[(at, &value)]));
        }
    });
}

/// A log's line, made of text that is in one piece.
fn shown(bytes: &[u8]) -> String {
    const MAX: usize = 160;
    let is_inside = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let mut end = MAX.min(bytes.len());
    while bytes.len() > MAX && end > MAX - 3 && is_inside(end) {
        end -= 1;
    }
    let is_text = |c: char| match c {
        '\t' | '\n' | '\r' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    let line = String::from_utf8_lossy(&bytes[..end]);
    let cut = if end < bytes.len() { "…" } else { "" };
    line.chars().map(is_text).chain(cut.chars()).collect()
}

/// Says bytes in all ways that look at characters, and compares with what the standard library says of
/// them in one piece.
#[track_caller]
fn expect_text(bench: &mut Bench, caller: &mut Caller, at: u32, bytes: &[u8]) {
    let memory = [(at, bytes)];
    let len = bytes.len() as u32;
    let of = |function, args| Case {
        memory: &memory,
        ..case(function, args)
    };
    let refused = |function: &str, error: std::str::Utf8Error| {
        trapped(format!(
            "{function}: byte {} is not UTF-8",
            error.valid_up_to()
        ))
    };
    let result = of("publish_result", [at, len, 0, 0]);
    let expected = match str::from_utf8(bytes) {
        Ok(text) => Outcome {
            output: Some(text.to_owned()),
            ..returned(&result, 0, &[])
        },
        Err(error) => refused("publish_result", error),
    };
    caller.expect(bench, &result, &expected);

    let log = of("log", [2, at, len, 0]);
    let expected = Outcome {
        lines: vec![format!("INFO slot 0: {}", shown(bytes))],
        ..returned(&log, 0, &[])
    };
    caller.expect(bench, &log, &expected);

    for (function, rules, message) in [
        (
            "publish",
            check_guest_topic as fn(&str) -> _,
            publishes(bytes, b".."),
        ),
        (
            "subscribe",
            check_guest_filter,
            format!("? {}", bytes.escape_ascii()),
        ),
    ] {
        let case = of(function, [at, len, 0, 2]);
        let expected = match str::from_utf8(bytes).map(rules) {
            Ok(Ok(())) => Outcome {
                said: vec![message],
                ..returned(&case, 1, &[])
            },
            Ok(Err(rule)) => trapped(format!("{function}: {rule}")),
            Err(error) => refused(function, error),
        };
        caller.expect(bench, &case, &expected);
    }
}

#[test]
fn characters_are_whole_where_a_piece_ends_within_one() {
    const AROUND: [Range<usize>; 3] =
        [PIECE - 3..PIECE + 2, 2 * PIECE - 3..2 * PIECE + 2, 156..162];
    with_caller(|bench, caller| {
        for character in ["é", "€", "😀"] {
            for before in 0..character.len() {
                let text = text(before) + &character.repeat(168 / character.len());
                let whole = text.as_bytes();
                expect_text(bench, caller, 1000, whole);
                expect_text(bench, caller, MEMORY - whole.len() as u32, whole);
                for at in AROUND.into_iter().flatten() {
                    expect_text(bench, caller, MEMORY - at as u32, &whole[..at]);
                    for wrong in [0xff, 0x80, b'x', b'\n', 0xf0] {
                        let mut bytes = whole.to_vec();
                        bytes[at] = wrong;
                        expect_text(bench, caller, 1000, &bytes);
                    }
                }
            }
        }
        // Beginnings of no character: surrogates, too long forms, numbers
        // that are too large; and no text at all.
        for wrong in [
            &b"\xed\xa0\x80"[..],
            b"\xed\xa0",
            b"\xe0\x80\x80",
            b"\xc0\x80",
            b"\xf0\x8f\xbf\xbf",
            b"\xf4\x90\x80\x80",
            b"\xf0\x9f\x98",
            &[0x80; 200],
            &[0xf0; 200],
            &[0xe2; 200],
        ] {
            for at in AROUND.into_iter().flatten() {
                let ended = [text(at).as_bytes(), wrong].concat();
                expect_text(bench, caller, 1000, &ended);
                expect_text(bench, caller, 1000, &[&ended[..], b"then"].concat());
            }
        }
    });
}

#[test]
fn what_is_read_is_read_before_what_is_written() {
    with_caller(|bench, caller| {
        let value = text(100);
        // A value over its own key, wholly and in part.
        for at in [300 - 99, 300 - 1, 300, 301, 300 + 62, 300 + 63, 300 + 64] {
            let key = text(65);
            let env = Case {
                memory: &[(300, key.as_bytes())],
                env: &[(&key, &value)],
                ..case("get_env", [300, 65, at, 100])
            };
            let expected = returned(&env, 100, &[(at, value.as_bytes())]);
            caller.expect(bench, &env, &expected);
        }
        // Topic and payload of the same bytes.
        for at in [300, 301, 310, 395] {
            let publish = Case {
                memory: &[(300, value.as_bytes())],
                ..case("publish", [300, 96, at, 96])
            };
            let payload = &publish.image()[at as usize..][..96];
            let expected = Outcome {
                said: vec![publishes(&value.as_bytes()[..96], payload)],
                ..returned(&publish, 1, &[])
            };
            caller.expect(bench, &publish, &expected);
        }
        // The topic's length lies over the message, and a copy's length over its address, which lie over
        // the copy.
        for at in [297, 300, 363, 399, 400] {
            let receive = Case {
                incoming: Some((&value[..3], &value.as_bytes()[3..])),
                ..case("receive", [300, 100, at, 0])
            };
            let writes = [(300, value.as_bytes()), (at, &[3, 0, 0, 0])];
            caller.expect(bench, &receive, &returned(&receive, 100, &writes));
            for len_out in [at - 3, at, at + 3] {
                let copy = Case {
                    heap: 300,
                    model: value.as_bytes(),
                    ..case("get_model_data", [at, len_out, 0, 0])
                };
                let expected = returned(
                    &copy,
                    1,
                    &[
                        (300, value.as_bytes()),
                        (400, &[0]),
                        (at, &300_u32.to_le_bytes()),
                        (len_out, &100_u32.to_le_bytes()),
                    ],
                );
                caller.expect(bench, &copy, &expected);
            }
        }
    });
}
