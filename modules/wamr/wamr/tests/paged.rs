//! Linear memories by the page: to the byte what the specification says, and what they cost.

mod common;
mod samples;

use std::cell::RefCell;
use std::fmt::Write;
use std::task::Poll;
use std::time::Instant;

use common::{alone, load, memory_bytes, runtime_in};
use samples::Random;
use wamr::{
    Buffer, Caller, Error, ErrorKind, HostError, HostFunction, Instance, InstanceConfig, Module,
    ResumableCall, Runtime, ThreadEnv, Trap, TrapKind, Value, Worker, page_bytes,
};

/// Expected content of a memory, for the host to compare or to write.
type Context = RefCell<Vec<u8>>;

fn compare(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    let expected = caller.context::<Context>().unwrap().borrow();
    let mut found = vec![0xa5; expected.len()];
    let read = caller.read(args[0] as u32, &mut found);
    args[0] = u64::from(found == *expected);
    Poll::Ready(read)
}

fn write(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    let bytes = caller.context::<Context>().unwrap().borrow();
    let checked = caller.check(args[0] as u32, bytes.len() as u32);
    let written = caller.write(args[0] as u32, &bytes);
    assert!(checked.is_ok() || written.is_err());
    Poll::Ready(written)
}

static HOST: [HostFunction; 2] = [
    HostFunction {
        module: c"env",
        name: c"compare",
        signature: c"(i)i",
        call: compare,
    },
    HostFunction {
        module: c"env",
        name: c"write",
        signature: c"(i)",
        call: write,
    },
];

/// Room for 12,000 pages.
fn rt() -> Runtime {
    runtime_in(64 << 20, &HOST)
}

fn instantiate(module: &Module) -> Result<Instance, Error> {
    Instance::new(module, &InstanceConfig::default())
}

/// Calls a function to its end, in steps of `fuel`; how many.
fn call_in(
    instance: &mut Instance,
    worker: &mut Worker<'_>,
    (name, args): (&str, &[Value]),
    fuel: u32,
    context: &Context,
) -> Result<u32, Trap> {
    instance.set_work_left(u64::MAX);
    instance.call(name, args)?;
    let mut steps = 1;
    while instance.resume(worker, fuel, context)? != ResumableCall::Finished {
        steps += 1;
    }
    Ok(steps)
}

/// Calls a function of one result, or none.
fn call(
    instance: &mut Instance,
    worker: &mut Worker<'_>,
    name: &str,
    args: &[Value],
    context: &Context,
) -> Result<Option<Value>, Trap> {
    call_in(instance, worker, (name, args), 100_000, context)?;
    let mut result = [Value::I32(0)];
    Ok((instance.results(&mut result) == 1).then_some(result[0]))
}

/// Every load and store: its name, its type, its width, whether it extends the sign.
const ACCESSES: [(&str, &str, u32); 23] = [
    ("i32.load", "i32", 4),
    ("i64.load", "i64", 8),
    ("f32.load", "f32", 4),
    ("f64.load", "f64", 8),
    ("i32.load8_s", "i32", 1),
    ("i32.load8_u", "i32", 1),
    ("i32.load16_s", "i32", 2),
    ("i32.load16_u", "i32", 2),
    ("i64.load8_s", "i64", 1),
    ("i64.load8_u", "i64", 1),
    ("i64.load16_s", "i64", 2),
    ("i64.load16_u", "i64", 2),
    ("i64.load32_s", "i64", 4),
    ("i64.load32_u", "i64", 4),
    ("i32.store", "i32", 4),
    ("i64.store", "i64", 8),
    ("f32.store", "f32", 4),
    ("f64.store", "f64", 8),
    ("i32.store8", "i32", 1),
    ("i32.store16", "i32", 2),
    ("i64.store8", "i64", 1),
    ("i64.store16", "i64", 2),
    ("i64.store32", "i64", 4),
];

const SEGMENT: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

/// Makes the access behind it find its page where the last one was, if it is there.
const LOOKED_UP: &str = "(drop (i32.load8_u
    (i32.and (i32.add (local.get 0) (i32.const 3)) (i32.const -512))))";

/// A memory with a function for every way to it.
fn every_way(memory: &str) -> String {
    let mut text = format!(
        r#"(module (import "env" "compare" (func $compare (param i32) (result i32)))
        (import "env" "write" (func $write (param i32))) (memory {memory}) (data $s "{SEGMENT}")
        (func (export "compare") (param i32) (result i32) (call $compare (local.get 0)))
        (func (export "write") (param i32) (call $write (local.get 0)))
        (func (export "size") (result i32) (memory.size))
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
        (func (export "drop") (data.drop $s))
        (func (export "fill") (param i32 i32 i32)
            (memory.fill (local.get 0) (local.get 1) (local.get 2)))
        (func (export "copy") (param i32 i32 i32)
            (memory.copy (local.get 0) (local.get 1) (local.get 2)))
        (func (export "init") (param i32 i32 i32)
            (memory.init $s (local.get 0) (local.get 1) (local.get 2)))"#
    );
    for (name, ty, _) in ACCESSES {
        // Floats go in and out as their bits.
        let (outer, to, from) = match ty {
            "f32" => ("i32", "f32.reinterpret_i32", "i32.reinterpret_f32"),
            "f64" => ("i64", "f64.reinterpret_i64", "i64.reinterpret_f64"),
            ty => (ty, "", ""),
        };
        let value = "(local.get 1)".to_owned();
        let value = if to.is_empty() {
            value
        } else {
            format!("({to} {value})")
        };
        for offset in [0, 3, u32::MAX] {
            let head = format!(r#"(func (export "{name}+{offset}") (param i32"#);
            let first = if offset == 3 { LOOKED_UP } else { "" };
            let line = if name.contains("store") {
                format!("{head} {outer}) {first} ({name} offset={offset} (local.get 0) {value}))")
            } else {
                let load = format!("({name} offset={offset} (local.get 0))");
                let load = if from.is_empty() {
                    load
                } else {
                    format!("({from} {load})")
                };
                format!("{head}) (result {outer}) {first} {load})")
            };
            writeln!(text, "{line}").unwrap();
        }
    }
    text + ")"
}

fn extended(name: &str, ty: &str, bytes: &[u8]) -> Value {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let shift = 64 - 8 * bytes.len() as u32;
    let signed = i64::from_le_bytes(wide) << shift >> shift;
    let number = if name.ends_with("_s") {
        signed
    } else {
        i64::from_le_bytes(wide)
    };
    match ty {
        "i32" | "f32" => Value::I32(number as i32),
        _ => Value::I64(number),
    }
}

/// A guest, and what its memory must be.
struct Pair<'w, 'e> {
    guest: Instance,
    worker: &'w mut Worker<'e>,
    model: Context,
    dropped: bool,
    most: usize,
}

impl Pair<'_, '_> {
    fn call(&mut self, name: &str, args: &[Value]) -> Result<Option<Value>, Trap> {
        call(&mut self.guest, self.worker, name, args, &self.model)
    }

    fn ints(&mut self, name: &str, args: [u32; 3]) -> Result<Option<Value>, Trap> {
        self.call(name, &args.map(|arg| Value::I32(arg.cast_signed())))
    }

    fn same(&mut self) {
        let same = self.call("compare", &[Value::I32(0)]);
        assert_eq!(same, Ok(Some(Value::I32(1))));
    }

    /// An access at `at` with a static offset.
    fn access(&mut self, (name, ty, width): (&str, &str, u32), at: u32, offset: u32, value: u64) {
        let place = u64::from(at) + u64::from(offset);
        let end = place + u64::from(width);
        let fits = end <= self.model.borrow().len() as u64;
        let place = place as usize;
        let mut args = vec![Value::I32(at.cast_signed())];
        if name.contains("store") {
            args.push(match ty {
                "i32" | "f32" => Value::I32(value as i32),
                _ => Value::I64(value.cast_signed()),
            });
        }
        let found = self.call(&format!("{name}+{offset}"), &args);
        if !fits {
            let kind = found.unwrap_err().kind();
            assert_eq!(kind, TrapKind::MemoryOutOfBounds, "{name} {at}+{offset}");
            return;
        }
        let mut model = self.model.borrow_mut();
        let bytes = &mut model[place..place + width as usize];
        if name.contains("store") {
            assert_eq!(found, Ok(None), "{name} {at}+{offset}");
            bytes.copy_from_slice(&value.to_le_bytes()[..width as usize]);
        } else {
            assert_eq!(
                found,
                Ok(Some(extended(name, ty, bytes))),
                "{name} {at}+{offset}"
            );
        }
    }

    /// A bulk operation, with what it does to the model where `ok`.
    fn bulk(&mut self, name: &str, args: [u32; 3], ok: bool, does: impl FnOnce(&mut [u8])) {
        let found = self.ints(name, args).map_err(|trap| trap.kind());
        if ok {
            assert_eq!(found, Ok(None), "{name} {args:?}");
            does(&mut self.model.borrow_mut());
        } else {
            assert_eq!(found, Err(TrapKind::MemoryOutOfBounds), "{name} {args:?}");
        }
    }

    fn random_operation(&mut self, random: &mut Random) {
        let len = self.model.borrow().len() as u64;
        // Near the ends of small pages, of Wasm pages and of the memory.
        let mut place = || {
            let grain = [512, 1024, 4096, 65_536][random.below(4)];
            let at = random.below((len / grain + 1) as usize) as u64 * grain;
            (at + random.below(19) as u64).saturating_sub(9) as u32
        };
        let (to, from) = (place(), place());
        let size = [random.below(20), random.below(3000), random.below(150_000)][random.below(3)];
        let size = size as u32;
        let fits = |at: u32| u64::from(at) + u64::from(size) <= len;
        let range = |at: u32| at as usize..at as usize + size as usize;
        match random.below(12) {
            0 => {
                let value = random.below(3) as u32 * 0x55;
                self.bulk("fill", [to, value, size], fits(to), |model| {
                    model[range(to)].fill(value as u8);
                });
            }
            1 | 2 => self.bulk("copy", [to, from, size], fits(to) && fits(from), |model| {
                model.copy_within(range(from), to as usize);
            }),
            3 => {
                let (start, size) = (random.below(40) as u32, random.below(40) as u32);
                let end = start as usize + size as usize;
                let has = if self.dropped { 0 } else { SEGMENT.len() };
                let ok = u64::from(to) + u64::from(size) <= len && end <= has;
                self.bulk("init", [to, start, size], ok, |model| {
                    let bytes = &SEGMENT.as_bytes()[start as usize..end];
                    model[to as usize..to as usize + size as usize].copy_from_slice(bytes);
                });
            }
            4 if random.below(40) == 0 => {
                self.dropped = true;
                assert_eq!(self.call("drop", &[]), Ok(None));
            }
            4 if random.below(10) == 0 => {
                let pages = random.below(3);
                let grown = len as usize / 65_536 + pages <= self.most;
                let result = if grown { (len / 65_536) as i32 } else { -1 };
                let found = self.call("grow", &[Value::I32(pages as i32)]);
                assert_eq!(found, Ok(Some(Value::I32(result))));
                if grown {
                    let size = len as usize + pages * 65_536;
                    self.model.borrow_mut().resize(size, 0);
                }
            }
            5 => {
                let bytes: Vec<_> = (0..random.below(2500))
                    .map(|_| random.below(256) as u8)
                    .collect();
                let ok = bytes.is_empty() || u64::from(to) + bytes.len() as u64 <= len;
                let model = self.model.replace(bytes);
                let found = self.call("write", &[Value::I32(to.cast_signed())]);
                let bytes = self.model.replace(model);
                assert_eq!(found.is_ok(), ok);
                if ok && !bytes.is_empty() {
                    self.model.borrow_mut()[to as usize..to as usize + bytes.len()]
                        .copy_from_slice(&bytes);
                }
            }
            _ => {
                let access = ACCESSES[random.below(ACCESSES.len())];
                let value = (0..8).fold(0, |all, _| all << 8 | random.below(256) as u64);
                let offset = [0, 3, u32::MAX][random.below(8).saturating_sub(5)];
                self.access(access, to, offset, value);
            }
        }
    }
}

fn pair<'w, 'e>(worker: &'w mut Worker<'e>, memory: &str, pages: usize) -> Pair<'w, 'e> {
    let module = load(rt(), &every_way(memory)).unwrap();
    Pair {
        guest: instantiate(&module).unwrap(),
        worker,
        model: RefCell::new(vec![0; pages * 65_536]),
        dropped: false,
        most: 5,
    }
}

#[test]
fn every_access_at_every_end() {
    let _one = alone();
    let before = rt().memory().free;
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let with_worker = rt().memory().free;
    let mut pair = pair(&mut worker, "1 5", 1);
    let mut value = 0x0123_4567_89ab_cdef_u64;
    // Twice: what is absent at first is present then.
    for _ in 0..2 {
        for end in [512, 1024, 4096, 32_768, 65_536] {
            for access in ACCESSES {
                for at in end - 9..=end + 2 {
                    value = value.rotate_left(7) ^ u64::from(at);
                    pair.access(access, at, 0, value);
                    pair.access(access, at - 3, 3, value);
                }
            }
        }
        pair.same();
    }
    for access in ACCESSES {
        for at in [65_533, 1 << 31, u32::MAX - 7, u32::MAX - 1, u32::MAX] {
            pair.access(access, at, 0, value);
            pair.access(access, at, u32::MAX, value);
        }
        pair.access(access, 0, u32::MAX, value);
    }
    pair.same();
    drop(pair);
    assert_eq!(rt().memory().free, with_worker);
    drop(worker);
    drop(env);
    assert_eq!(rt().memory().free, before);
}

#[test]
fn random_operations_against_a_model() {
    let _one = alone();
    let before = rt().memory().free;
    for seed in 1..9 {
        let mut random = Random(seed);
        let env = ThreadEnv::enter(rt()).unwrap();
        let mut worker = Worker::new(&env, 4096).unwrap();
        let pages = seed as usize % 3;
        let mut pair = pair(&mut worker, &format!("{pages} 5"), pages);
        for round in 0..2000 {
            pair.random_operation(&mut random);
            if round % 50 == 0 {
                pair.same();
            }
        }
        pair.same();
    }
    assert_eq!(rt().memory().free, before);
}

#[test]
fn no_bytes_at_the_end_are_none() {
    let _one = alone();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let mut pair = pair(&mut worker, "1 5", 1);
    for name in ["fill", "copy", "init"] {
        pair.bulk(name, [65_536, 0, 0], true, |_| {});
        pair.bulk(name, [65_537, 0, 0], false, |_| {});
        pair.bulk(name, [65_536, 0, 1], false, |_| {});
        pair.bulk(name, [65_530, 0, 7], false, |_| {});
        pair.bulk(name, [0, 0, u32::MAX], false, |_| {});
    }
    pair.bulk("copy", [0, 65_536, 0], true, |_| {});
    pair.bulk("copy", [0, 65_535, 2], false, |_| {});
    pair.bulk("init", [0, SEGMENT.len() as u32, 0], true, |_| {});
    pair.bulk("init", [0, SEGMENT.len() as u32 + 1, 0], false, |_| {});
    pair.call("drop", &[]).unwrap();
    pair.call("drop", &[]).unwrap();
    pair.bulk("init", [0, 0, 1], false, |_| {});
    pair.bulk("init", [0, 0, 0], true, |_| {});
    pair.same();
}

#[test]
fn what_was_never_written_takes_nothing() {
    let _one = alone();
    if page_bytes() == 0 {
        return;
    }
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let mut pair = pair(&mut worker, "3 5", 3);
    pair.same();
    let held = pair.guest.usage().held;
    for access in ACCESSES.iter().filter(|access| access.0.contains("load")) {
        for at in (0..131_072).step_by(509) {
            pair.access(*access, at, 0, 0);
        }
    }
    pair.bulk("fill", [5, 0, 150_000], true, |_| {});
    pair.bulk("copy", [5, 70_000, 100_000], true, |_| {});
    pair.same();
    assert_eq!(pair.guest.usage().held, held);
    pair.access(("i32.store8", "i32", 1), 70_000, 0, 0);
    let taken = |pair: &Pair<'_, '_>| pair.guest.usage().held - held;
    assert_eq!(taken(&pair), memory_bytes(1, 1, 1));
    pair.access(("i32.store8", "i32", 1), 131_071, 0, 7);
    assert_eq!(taken(&pair), memory_bytes(1, 2, 2));
    pair.access(("i64.store", "i64", 8), 131_068, 0, 7);
    assert_eq!(taken(&pair), memory_bytes(2, 3, 3));
    pair.same();
}

#[test]
fn memories_grow_to_their_maximum_and_no_further() {
    let _one = alone();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let before = rt().memory().free;
    let mut pair = pair(&mut worker, "0 65536", 0);
    let mut pages = 0;
    for (more, grows) in [
        (0, true),
        (1, true),
        (2, true),
        (65_534, false),
        (65_533, true),
    ] {
        // A flat memory of 4 GiB finds no room.
        let grows = grows && (page_bytes() > 0 || more < 9);
        let result = if grows { pages } else { -1 };
        assert_eq!(
            pair.call("grow", &[Value::I32(more)]),
            Ok(Some(Value::I32(result)))
        );
        pages += if grows { more } else { 0 };
        assert_eq!(pair.call("size", &[]), Ok(Some(Value::I32(pages))));
    }
    if pages == 65_536 {
        assert_eq!(pair.guest.memory_len(), 1 << 32);
        for name in ["i32.store+0", "i32.store+3"] {
            let at = if name.ends_with('3') { -7 } else { -4 };
            let args = [Value::I32(at), Value::I32(0x1234)];
            assert_eq!(pair.call(name, &args), Ok(None));
            let args = [Value::I32(at + 1), Value::I32(0x1234)];
            let trap = pair.call(name, &args).unwrap_err();
            assert_eq!(trap.kind(), TrapKind::MemoryOutOfBounds);
        }
        assert_eq!(
            pair.call("i32.load+0", &[Value::I32(-4)]),
            Ok(Some(Value::I32(0x1234)))
        );
        assert_eq!(pair.ints("fill", [u32::MAX, 9, 1]), Ok(None));
        assert_eq!(pair.ints("copy", [4, u32::MAX, 1]), Ok(None));
        assert_eq!(
            pair.call("i32.load8_u+0", &[Value::I32(4)]),
            Ok(Some(Value::I32(9)))
        );
        for size in [2, u32::MAX] {
            assert!(pair.ints("fill", [u32::MAX, 9, size]).is_err());
        }
        pair.model = RefCell::new(b"ends".to_vec());
        for (at, ok) in [(-4, true), (-3, false), (-1, false)] {
            let at = [Value::I32(at)];
            assert_eq!(pair.call("write", &at).is_ok(), ok);
            let same = pair.call("compare", &at).ok();
            assert_eq!(same, ok.then_some(Some(Value::I32(1))));
        }
        // All but a byte, one place down, up, and away. Pages are taken only beside those there are.
        let held = pair.guest.usage().held;
        for (to, from, text) in [(0, 1, b"endss"), (1, 0, b"\0ends")] {
            assert_eq!(pair.ints("copy", [to, from, u32::MAX]), Ok(None));
            pair.model = RefCell::new(text.to_vec());
            let moved = pair.call("compare", &[Value::I32(-5)]);
            assert_eq!(moved, Ok(Some(Value::I32(1))));
        }
        assert!(pair.ints("copy", [1, 1, u32::MAX]).is_ok());
        assert!(pair.ints("copy", [2, 1, u32::MAX]).is_err());
        assert_eq!(pair.ints("fill", [1, 0, u32::MAX]), Ok(None));
        assert!(pair.guest.usage().held <= held + 4 * (page_bytes() + 8));
        pair.model = RefCell::new(vec![0; 1000]);
        for at in [1, -1000] {
            let zero = pair.call("compare", &[Value::I32(at)]);
            assert_eq!(zero, Ok(Some(Value::I32(1))));
        }
    }
    drop(pair);
    assert_eq!(rt().memory().free, before);
}

const GROWS: &str = r#"(module (memory 0)
    (func (export "all") (result i32)
        (loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) (memory.size))
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "store") (param i32) (i32.store8 (local.get 0) (i32.const 1)))
    (func (export "size") (result i32) (memory.size)))"#;

/// With and without room behind the places of its tables.
#[test]
fn a_memory_grows_to_its_last_page_one_by_one() {
    let _one = alone();
    if page_bytes() == 0 {
        return;
    }
    let module = load(rt(), GROWS).unwrap();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let before = rt().memory();
    for fuel in [100, 100_000] {
        let mut guest = instantiate(&module).unwrap();
        let fence = rt().buffer(8).unwrap();
        let context = Context::default();
        let start = Instant::now();
        let steps = call_in(&mut guest, &mut worker, ("all", &[]), fuel, &context);
        println!("fuel {fuel}: {steps:?}, {:?}", start.elapsed());
        let mut size = [Value::I32(0)];
        guest.results(&mut size);
        assert_eq!(size, [Value::I32(65_536)]);
        call(
            &mut guest,
            &mut worker,
            "store",
            &[Value::I32(-1)],
            &context,
        )
        .unwrap();
        drop((guest, fence));
        let after = rt().memory();
        assert_eq!(
            (after.free, after.largest_free),
            (before.free, before.largest_free)
        );
    }
}

#[test]
fn places_that_do_not_fit_are_no_growth_and_no_instance() {
    let _one = alone();
    if page_bytes() == 0 {
        return;
    }
    let before = rt().memory().free;
    let grows = load(rt(), GROWS).unwrap();
    let declares = load(rt(), "(module (memory 65536))").unwrap();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let context = Context::default();
    let hoard = all_but(100_000);
    let left = rt().memory().free;
    let mut guest = instantiate(&grows).unwrap();
    let mut ask = |name: &str, args: &[i32]| {
        let args: Vec<_> = args.iter().map(|n| Value::I32(*n)).collect();
        call(&mut guest, &mut worker, name, &args, &context)
    };
    for (pages, had) in [
        (1, 0),
        (65_535, -1),
        (65_536, -1),
        (50_000, -1),
        (-1, -1),
        (1, 1),
    ] {
        assert_eq!(ask("grow", &[pages]), Ok(Some(Value::I32(had))), "{pages}");
    }
    assert_eq!(ask("size", &[]), Ok(Some(Value::I32(2))));
    assert_eq!(ask("store", &[131_071]), Ok(None));
    let trap = ask("store", &[131_072]).unwrap_err();
    assert_eq!(trap.kind(), TrapKind::MemoryOutOfBounds);
    // To where the arena ends, one by one.
    let Ok(Some(Value::I32(most))) = ask("all", &[]) else {
        panic!("no size")
    };
    assert!(
        most > 100 && (most as usize) < left as usize / size_of::<usize>(),
        "{most}"
    );
    assert_eq!(ask("size", &[]), Ok(Some(Value::I32(most))));
    drop(guest);
    assert_eq!(rt().memory().free, left);
    let error = instantiate(&declares).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(error.to_string().contains("memory"), "{error}");
    assert_eq!(rt().memory().free, left);
    drop((hoard, grows, declares, worker));
    drop(env);
    assert_eq!(rt().memory().free, before);
}

#[test]
fn no_access_is_in_a_memory_of_no_pages() {
    let _one = alone();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let mut pair = pair(&mut worker, "0 5", 0);
    for access in ACCESSES {
        for at in [0, 1, 511, 65_535, 65_536, u32::MAX] {
            pair.access(access, at, 0, 1);
            pair.access(access, at, 3, 1);
            pair.access(access, at, u32::MAX, 1);
        }
    }
    for name in ["fill", "copy", "init"] {
        pair.bulk(name, [0, 0, 0], true, |_| {});
        pair.bulk(name, [1, 0, 0], false, |_| {});
        pair.bulk(name, [0, 0, 1], false, |_| {});
        pair.bulk(name, [0, 0, u32::MAX], false, |_| {});
    }
    pair.same();
}

#[test]
fn segments_are_written_and_dropped() {
    let _one = alone();
    let before = rt().memory().free;
    let at = 4096 - 10;
    let wat = every_way("1 5").replace(
        "(data $s",
        &format!(
            r#"(data $a (i32.const {at}) "first {SEGMENT}") (data (i32.const 65536) "")
            (data (i32.const {at}) "again")
            (func (export "again") (memory.init $a (i32.const 0) (i32.const 0) (i32.const 1)))
            (data $s"#
        ),
    );
    let module = load(rt(), &wat).unwrap();
    let loaded = rt().memory().free;
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = Worker::new(&env, 4096).unwrap();
    for _ in 0..3 {
        let guest = instantiate(&module).unwrap();
        assert!(guest.usage().held < 65_536 || page_bytes() == 0);
        let mut model = vec![0; 65_536];
        let text = format!("again {SEGMENT}");
        model[at..at + text.len()].copy_from_slice(text.as_bytes());
        let mut pair = Pair {
            guest,
            worker: &mut worker,
            model: RefCell::new(model),
            dropped: false,
            most: 5,
        };
        pair.same();
        let trap = pair.call("again", &[]).unwrap_err();
        assert_eq!(trap.kind(), TrapKind::MemoryOutOfBounds);
        pair.bulk("init", [0, 0, 5], true, |model| {
            model[..5].copy_from_slice(b"01234")
        });
        pair.same();
    }
    drop(worker);
    drop(env);
    assert_eq!(rt().memory().free, loaded);
    drop(module);
    for (at, text) in [(65_535, "xy"), (65_537, ""), (-1, "x"), (65_536, "x")] {
        let wat = format!(
            r#"(module (memory 1) (data (i32.const 0) "x") (data (i32.const {at}) "{text}"))"#
        );
        let module = load(rt(), &wat).unwrap();
        let error = instantiate(&module).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadInstance, "{error}");
        assert!(error.to_string().contains("out of bounds"), "{error}");
    }
    assert_eq!(rt().memory().free, before);
}

/// All of the arena but `bytes`.
fn all_but(bytes: u32) -> Vec<Buffer> {
    let mut all = Vec::new();
    for size in [1 << 22, 65_536, 4096] {
        while rt().memory().free > bytes + size as u32 + 64 {
            match rt().try_buffer(size) {
                Some(buffer) => all.push(buffer),
                None => break,
            }
        }
    }
    all
}

const TOUCHES: &str = r#"(module (memory 400)
    (func (export "touch") (param $step i32) (param $pages i32) (local $at i32)
        (loop $next
            (i32.store8 (local.get $at) (i32.const 7))
            (local.set $at (i32.add (local.get $at) (local.get $step)))
            (br_if $next (local.tee $pages (i32.sub (local.get $pages) (i32.const 1))))))
    (func (export "fill") (param $len i32)
        (memory.fill (i32.const 0) (i32.const 1) (local.get $len)))
    (func (export "sum") (param $step i32) (param $pages i32) (result i32) (local $at i32) (local $sum i32)
        (loop $next
            (local.set $sum (i32.add (local.get $sum) (i32.load8_u (local.get $at))))
            (local.set $at (i32.add (local.get $at) (local.get $step)))
            (br_if $next (local.tee $pages (i32.sub (local.get $pages) (i32.const 1)))))
        (local.get $sum)))"#;

#[test]
fn out_of_pages_is_a_trap_and_a_neighbour_runs_on() {
    let _one = alone();
    if page_bytes() == 0 {
        return;
    }
    let before = rt().memory().free;
    let module = load(rt(), TOUCHES).unwrap();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let context = Context::default();
    let step = Value::I32(page_bytes().cast_signed());
    let mut neighbour = instantiate(&module).unwrap();
    let mut greedy = instantiate(&module).unwrap();
    let seven = [step, Value::I32(7)];
    call(&mut neighbour, &mut worker, "touch", &seven, &context).unwrap();
    let hoard = all_but(100_000);
    for (name, args) in [
        ("touch", &[step, Value::I32(9000)][..]),
        ("fill", &[Value::I32(20_000_000)]),
    ] {
        for fuel in [1, 50, 100_000] {
            let trap = call_in(&mut greedy, &mut worker, (name, args), fuel, &context);
            let trap = trap.unwrap_err();
            assert_eq!(trap.kind(), TrapKind::OutOfMemory);
            assert!(
                trap.to_string().starts_with("out of memory: page "),
                "{trap}"
            );
            let sum = call(&mut neighbour, &mut worker, "sum", &seven, &context);
            assert_eq!(sum, Ok(Some(Value::I32(49))));
            call(&mut neighbour, &mut worker, "touch", &seven, &context).unwrap();
            // It can be called again, and has what it wrote.
            let sum = call(&mut greedy, &mut worker, "sum", &seven, &context);
            let each = if name == "touch" { 7 } else { 1 };
            assert_eq!(sum, Ok(Some(Value::I32(7 * each))));
        }
        println!("{:?}", rt().memory());
    }
    drop(greedy);
    let more = [step, Value::I32(20)];
    call(&mut neighbour, &mut worker, "touch", &more, &context).unwrap();
    drop((hoard, neighbour, module, worker));
    drop(env);
    assert_eq!(rt().memory().free, before);
}

/// Whatever asks for a page that is not there: the guest's or the host's.
#[test]
fn every_way_out_of_pages_is_a_trap() {
    let _one = alone();
    if page_bytes() == 0 {
        return;
    }
    let before = rt().memory().free;
    let module = load(rt(), &every_way("40")).unwrap();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let with_worker = rt().memory().free;
    let mut pair = Pair {
        guest: instantiate(&module).unwrap(),
        worker: &mut worker,
        model: Context::new(vec![9; 300_000]),
        dropped: false,
        most: 40,
    };
    let hoard = all_but(100_000);
    let mut out_of_pages = |name: &str, args: &[Value]| {
        let trap = pair.call(name, args).unwrap_err();
        assert_eq!(trap.kind(), TrapKind::OutOfMemory, "{name}: {trap}");
        assert!(trap.to_string().contains("page"), "{name}: {trap}");
    };
    out_of_pages("write", &[Value::I32(0)]);
    out_of_pages("fill", &[2_000_000, 1, 300_000].map(Value::I32));
    // Pages there are now, and room for none.
    out_of_pages("copy", &[1_000_000, 0, 300_000].map(Value::I32));
    out_of_pages("copy", &[30_000, 0, 90_000].map(Value::I32));
    out_of_pages("init", &[1_500_000, 0, 36].map(Value::I32));
    for (name, ty, _) in ACCESSES.iter().filter(|access| access.0.contains("store")) {
        let value = match *ty {
            "i32" | "f32" => Value::I32(-1),
            _ => Value::I64(-1),
        };
        out_of_pages(&format!("{name}+0"), &[Value::I32(1_600_000), value]);
    }
    // The host writes all or nothing.
    pair.model = Context::new(vec![0; 20_000]);
    pair.same();
    // What is there can be read and written, and loads of what is not are zeroes.
    pair.bulk("fill", [0, 9, 20_000], true, |model| model.fill(9));
    pair.same();
    let mut is = |at: i32, value: i64| {
        let found = pair.call("i64.load+0", &[Value::I32(at)]);
        assert_eq!(found, Ok(Some(Value::I64(value))));
    };
    is(1_500_000, 0);
    is(1_600_000, 0);
    assert_eq!(pair.ints("fill", [0, 0, 2_000_000]), Ok(None));
    pair.model = Context::new(vec![0; 2_000_000]);
    pair.same();
    // A store across two pages, of which one is there: none of it is written.
    let edge = page_bytes().cast_signed();
    let first = (0..).map(|i| i * edge).find(|at| {
        let args = [at + edge, 0].map(Value::I32);
        pair.call("i32.store8+0", &args).is_err()
    });
    let across = first.unwrap() + edge - 3;
    let args = [Value::I32(across), Value::I64(-1)];
    let trap = pair.call("i64.store+0", &args).unwrap_err();
    assert_eq!(trap.kind(), TrapKind::OutOfMemory);
    let found = pair.call("i64.load+0", &[Value::I32(across)]);
    assert_eq!(found, Ok(Some(Value::I64(0))));
    drop((pair, hoard));
    assert_eq!(rt().memory().free, with_worker);
    // The active segments, at an instance's start.
    let text = "x".repeat(60_000);
    let wat = format!(
        r#"(module (memory 4) (data (i32.const 9) "{text}") (data (i32.const 90000) "{text}"))"#
    );
    let large = load(rt(), &wat).unwrap();
    let hoard = all_but(60_000);
    let left = rt().memory().free;
    let error = instantiate(&large).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(error.to_string().contains("page"), "{error}");
    assert_eq!(rt().memory().free, left);
    drop((hoard, large, worker, module));
    drop(env);
    assert_eq!(rt().memory().free, before);
}

#[test]
fn every_page_can_be_touched_and_is_given_back() {
    let _one = alone();
    if page_bytes() == 0 {
        return;
    }
    let module = load(rt(), TOUCHES).unwrap();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let context = Context::default();
    let before = rt().memory();
    let mut guest = instantiate(&module).unwrap();
    // What it keeps of a call that has ended is there before.
    let one = [0, 1].map(Value::I32);
    call(&mut guest, &mut worker, "sum", &one, &context).unwrap();
    let held = guest.usage().held;
    let pages = 400 * 65_536 / page_bytes();
    let args = [page_bytes(), pages].map(|n| Value::I32(n.cast_signed()));
    for _ in 0..2 {
        call(&mut guest, &mut worker, "touch", &args, &context).unwrap();
        let all = memory_bytes(400, pages / 8, pages);
        assert_eq!((guest.usage().held - held, guest.pages()), (all, pages));
        let sum = call(&mut guest, &mut worker, "sum", &args, &context);
        assert_eq!(sum, Ok(Some(Value::I32(7 * pages.cast_signed()))));
    }
    let beyond = [page_bytes(), pages + 1].map(|n| Value::I32(n.cast_signed()));
    let trap = call(&mut guest, &mut worker, "touch", &beyond, &context).unwrap_err();
    assert_eq!(trap.kind(), TrapKind::MemoryOutOfBounds);
    drop(guest);
    let after = rt().memory();
    assert_eq!(
        (after.free, after.largest_free),
        (before.free, before.largest_free)
    );
}

/// Two of one module in turn on one worker: one writes all over its memory and beyond, the other's
/// stays as it is. Who comes after them finds zeroes.
#[test]
fn a_flood_leaves_the_neighbour_dry() {
    let _one = alone();
    let before = rt().memory().free;
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let module = load(rt(), &every_way("3 4")).unwrap();
    let mut random = Random(5);
    let mut dry = instantiate(&module).unwrap();
    let mut model = vec![0; 3 * 65_536];
    for _ in 0..200 {
        let (at, byte) = (random.below(model.len()), random.below(256));
        model[at] = byte as u8;
        let args = [at, byte].map(|n| Value::I32(n as i32));
        let context = Context::default();
        call(&mut dry, &mut worker, "i32.store8+0", &args, &context).unwrap();
    }
    let model = Context::new(model);
    let none = Context::default();
    let is_dry = |dry: &mut Instance, worker: &mut Worker<'_>| {
        let same = call(dry, worker, "compare", &[Value::I32(0)], &model);
        assert_eq!(same, Ok(Some(Value::I32(1))));
    };
    let mut flood = instantiate(&module).unwrap();
    let len = 3 * 65_536;
    let calls = [
        ("fill", [0, 0xff, len]),
        ("fill", [0, 0xee, len + 1]),
        ("fill", [len - 1, 0xee, -1]),
        ("copy", [1, 0, len - 1]),
        ("copy", [0, 1, -1]),
        ("init", [len - 36, 0, 36]),
        ("init", [len - 35, 0, 36]),
    ];
    for (name, args) in calls {
        flood.set_work_left(u64::MAX);
        flood.call(name, &args.map(Value::I32)).unwrap();
        while let Ok(ResumableCall::OutOfFuel) = flood.resume(&mut worker, 40, &none) {
            is_dry(&mut dry, &mut worker);
        }
    }
    for (name, _, width) in ACCESSES.iter().filter(|access| access.0.contains("store")) {
        for at in -9..9 {
            for end in [0, page_bytes() as i32, len] {
                let value = match *name {
                    name if name.starts_with("i64") || name.starts_with("f64") => Value::I64(-1),
                    _ => Value::I32(-1),
                };
                let args = [Value::I32(end + at), value];
                let stored = call(&mut flood, &mut worker, &format!("{name}+0"), &args, &none);
                let (from, to) = (i64::from(end + at), i64::from(end + at) + i64::from(*width));
                assert_eq!(stored.is_ok(), from >= 0 && to <= i64::from(len));
            }
        }
    }
    is_dry(&mut dry, &mut worker);
    let wet = Context::new(vec![0xff; 65_536 - 64]);
    let same = call(&mut flood, &mut worker, "compare", &[Value::I32(0)], &wet);
    assert_eq!(same, Ok(Some(Value::I32(1))));
    drop(flood);
    is_dry(&mut dry, &mut worker);
    let mut later = instantiate(&module).unwrap();
    let mut zeroes = vec![0; 3 * 65_536];
    for at in (5..zeroes.len()).step_by(512) {
        zeroes[at] = 1;
        let args = [at, 1].map(|n| Value::I32(n as i32));
        call(&mut later, &mut worker, "i32.store8+0", &args, &none).unwrap();
    }
    let zeroes = Context::new(zeroes);
    let same = call(
        &mut later,
        &mut worker,
        "compare",
        &[Value::I32(0)],
        &zeroes,
    );
    assert_eq!(same, Ok(Some(Value::I32(1))));
    drop((dry, later, module, worker));
    drop(env);
    assert_eq!(rt().memory().free, before);
}

/// First touches cost credit, and no work.
#[test]
fn touching_ends_the_slice_sooner_and_is_no_work() {
    let _one = alone();
    let module = load(rt(), TOUCHES).unwrap();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let context = Context::default();
    let args = [Value::I32(4096), Value::I32(300)];
    for fuel in [1, 10, 100] {
        let mut guest = instantiate(&module).unwrap();
        let mut go = || {
            let before = guest.work();
            let steps = call_in(&mut guest, &mut worker, ("touch", &args), fuel, &context).unwrap();
            (steps, guest.work() - before)
        };
        let (first, again) = (go(), go());
        println!("fuel {fuel}: {first:?}, then {again:?}");
        assert_eq!(first.1, again.1);
        assert!(first.0 > again.0 || page_bytes() == 0);
    }
}

#[test]
fn a_touch_takes_the_same_time_however_many_there_are() {
    let _one = alone();
    if page_bytes() == 0 {
        return;
    }
    let module = load(rt(), TOUCHES).unwrap();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let context = Context::default();
    let mut each = [f64::MAX; 2];
    for _ in 0..5 {
        for (each, pages) in each.iter_mut().zip([500, 6000]) {
            let mut guest = instantiate(&module).unwrap();
            let args = [Value::I32(4096), Value::I32(pages)];
            let start = Instant::now();
            call(&mut guest, &mut worker, "touch", &args, &context).unwrap();
            *each = each.min(start.elapsed().as_nanos() as f64 / f64::from(pages));
        }
    }
    println!("{each:.0?} ns for a touch, of 500 and of 6,000");
    assert!(each[1] < 5.0 * each[0], "{each:?}");
}

#[test]
fn ten_thousand_rounds_lose_nothing() {
    let _one = alone();
    let before = rt().memory();
    let module = load(rt(), TOUCHES).unwrap();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let context = Context::default();
    let mut random = Random(3);
    let mut ends = [0; 2];
    for _ in 0..10_000 {
        let mut guest = instantiate(&module).unwrap();
        let (name, args) = match random.below(3) {
            0 => ("fill", vec![Value::I32(random.below(200_000) as i32)]),
            _ => {
                let step = 1000 * random.below(900) as i32;
                let pages = 1 + random.below(30) as i32;
                ("touch", vec![Value::I32(step), Value::I32(pages)])
            }
        };
        guest.set_work_left(u64::MAX);
        guest.call(name, &args).unwrap();
        let fuel = random.below(200) as u32;
        let mut end = Ok(ResumableCall::OutOfFuel);
        for _ in 0..random.below(9) {
            if end == Ok(ResumableCall::OutOfFuel) {
                end = guest.resume(&mut worker, fuel, &context);
            }
        }
        ends[usize::from(end == Ok(ResumableCall::Finished))] += 1;
        assert!(end.is_ok(), "{end:?}");
    }
    // Left in the middle, and finished.
    assert!(ends.iter().all(|count| *count > 1000), "{ends:?}");
    drop((worker, module));
    drop(env);
    let after = rt().memory();
    assert_eq!(
        (after.free, after.largest_free),
        (before.free, before.largest_free)
    );
}
