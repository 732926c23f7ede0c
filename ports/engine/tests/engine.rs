//! The engine with real guests and real threads, and the test as the agent.
//!
//! WAMR is one for a process, and the arena's figures are compared: so this is one test.

use proplet::{
    engine::{
        Call, Engine, Exit, Failure, Limits, ModuleId, Preemption, ProcessUsage, Schedule, Slot,
        Text, Value,
    },
    time::Duration,
};
use proplet_engine::{Job, ModuleState, Platform, SlotState, WamrEngine, Workers, host_functions};
use std::{
    mem::MaybeUninit,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};
use wamr::Runtime;

const SLOTS: usize = 8;
const ID: &str = "3fe95a65-74f1-4ede-bf20-ef565f04cecb";
const LIMITS: Limits = Limits {
    stack: 4096,
    memory_cap: None,
    memory_max: None,
    work: None,
    schedule: Schedule::DEFAULT,
};
const TIMED: Limits = Limits {
    schedule: Schedule {
        preemption: Preemption::Time,
        ..Schedule::DEFAULT
    },
    ..LIMITS
};

/// Doors that stay open, and turns that are only counted: the kernel shares the cores out.
struct Threads {
    open: Mutex<[bool; SLOTS]>,
    changed: Condvar,
    turns: AtomicUsize,
}

impl Platform for Threads {
    fn wait(&self, slot: Slot) {
        let open = self.open.lock().unwrap();
        let shut = |open: &mut [bool; SLOTS]| !open[usize::from(slot.0)];
        let mut open = self.changed.wait_while(open, shut).unwrap();
        open[usize::from(slot.0)] = false;
    }

    fn wake(&self, slot: Slot) {
        self.open.lock().unwrap()[usize::from(slot.0)] = true;
        self.changed.notify_all();
    }

    fn schedule(&self, _: Slot, _: Schedule) {}
    fn take_turn(&self, _: Slot, _: bool) {
        self.turns.fetch_add(1, Ordering::SeqCst);
    }

    fn give_way(&self, _: Slot) {}
    fn end_turn(&self, _: Slot) {}
    fn hurry(&self, _: Slot) {}

    fn exited(&self) {
        self.changed.notify_all();
    }

    /// Any clock that goes will do here.
    fn thread_time(&self, _: Slot) -> Duration {
        static BEGAN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        BEGAN.elapsed()
    }

    fn process(&self) -> ProcessUsage {
        ProcessUsage::default()
    }
}

struct Bench {
    engine: WamrEngine<Threads>,
    workers: &'static Workers<Threads>,
}

impl Bench {
    fn new() -> Self {
        let arena = Box::leak(vec![MaybeUninit::uninit(); 192 * 1024].into_boxed_slice());
        let natives = Box::leak(Box::new(host_functions::<Threads>()));
        let runtime = Runtime::init(arena, natives).unwrap();
        let platform = Threads {
            open: Mutex::new([false; SLOTS]),
            changed: Condvar::new(),
            turns: AtomicUsize::new(0),
        };
        let states: Vec<SlotState> = (0..SLOTS).map(|_| SlotState::new()).collect();
        let jobs: Vec<Job> = (0..SLOTS).map(|_| Job::NONE).collect();
        let workers = Workers::new(platform, states.leak(), jobs.leak(), 1000, ID);
        let workers: &'static Workers<Threads> = Box::leak(Box::new(workers));
        for slot in 0..SLOTS as u8 {
            thread::spawn(move || workers.run(Slot(slot), runtime));
        }
        let modules: Vec<ModuleState> = (0..4).map(|_| ModuleState::default()).collect();
        Self {
            engine: WamrEngine::new(runtime, workers, modules.leak()),
            workers,
        }
    }

    fn load(&mut self, module: u8, wat: &str) -> Result<(), Text> {
        let (module, wasm) = (ModuleId(module), wat::parse_str(wat).unwrap());
        let loaded = self.engine.reserve(module, wasm.len()).and_then(|()| {
            self.engine.buffer(module)[..wasm.len()].copy_from_slice(&wasm);
            self.engine.estimate(module, wasm.len(), &LIMITS)?;
            self.engine.load(module, wasm.len())
        });
        if loaded.is_err() {
            self.engine.unload(module);
        }
        loaded
    }

    fn spawn(&mut self, slot: u8, args: &[Value], limits: Limits) {
        let call = Call {
            module: ModuleId(0),
            export: "main",
            args,
            limits,
        };
        self.engine.spawn(Slot(slot), &call);
    }

    fn exit(&mut self) -> Exit {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(exit) = self.engine.poll_exit() {
                return exit;
            }
            assert!(Instant::now() < deadline, "no run has ended within 10 s");
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Runs `main` of `wat` in slot 0.
    fn run(&mut self, wat: &str, args: &[Value], limits: Limits) -> Exit {
        self.load(0, wat).unwrap();
        self.spawn(0, args, limits);
        let exit = self.exit();
        self.engine.unload(ModuleId(0));
        exit
    }
}

fn trap(exit: &Exit) -> &str {
    match &exit.result {
        Err(Failure::Trap(text)) => text,
        other => panic!("expected a trap, found {other:?}"),
    }
}

#[test]
fn guests_run_end_and_leave_nothing_behind() {
    let mut bench = Bench::new();
    let before = bench.engine.arena().free;

    for limits in [LIMITS, TIMED] {
        results(&mut bench, limits);
        memories(&mut bench, limits);
        interrupts(&mut bench, limits);
    }
    budgets(&mut bench);
    turns(&mut bench);
    greed(&mut bench);
    host_function(&mut bench);
    refusals(&mut bench);

    assert_eq!(
        bench.engine.arena().free,
        before,
        "the arena is as before, to the byte"
    );
}

fn results(bench: &mut Bench, limits: Limits) {
    let add = r#"(module (func (export "main") (param i64 f64) (result f64)
        (f64.add (f64.convert_i64_s (local.get 0)) (local.get 1))))"#;
    let exit = bench.run(add, &[Value::I64(-40), Value::F64(0.5)], limits);
    assert_eq!(exit.result, Ok(Some(Value::F64(-39.5))));
    assert!(
        exit.usage.memory > 4096,
        "at least its stack: {:?}",
        exit.usage
    );
    let none = r#"(module (func (export "main")))"#;
    assert_eq!(bench.run(none, &[], limits).result, Ok(None));
    let initialised = r#"(module (global $g (mut i32) (i32.const 0))
        (func (export "_initialize") (global.set $g (i32.const 7)))
        (func (export "main") (result i32) (global.get $g)))"#;
    let exit = bench.run(initialised, &[], limits);
    assert_eq!(exit.result, Ok(Some(Value::I32(7))));
    let recursion = r#"(module (func $f (export "main") (call $f)))"#;
    assert!(trap(&bench.run(recursion, &[], limits)).contains("stack overflow"));
}

fn budgets(bench: &mut Bench) {
    let limits = Limits {
        work: Some(12_345),
        ..LIMITS
    };
    let main = r#"(module (func (export "main") (loop (br 0))))"#;
    let start = r#"(module (func $s (loop (br 0))) (start $s) (func (export "main")))"#;
    let initialize =
        r#"(module (func (export "_initialize") (loop (br 0))) (func (export "main")))"#;
    for wat in [main, start, initialize] {
        let exit = bench.run(wat, &[], limits);
        assert_eq!(
            trap(&exit),
            "work budget of 12345 branches and calls exhausted"
        );
        assert_eq!(exit.usage.work, 12_345, "the budget is kept to the branch");
    }
}

fn memories(bench: &mut Bench, limits: Limits) {
    let store = r#"(module (memory 1 1) (func (export "main") (param i32)
        (i32.store (local.get 0) (i32.const 1))))"#;
    let cap = Limits {
        memory_cap: Some(4096),
        ..limits
    };
    let ok = bench.run(store, &[Value::I32(4092)], cap);
    assert_eq!(ok.result, Ok(None));
    assert!(ok.usage.memory < 20_000, "{:?}", ok.usage);
    let beyond = bench.run(store, &[Value::I32(4093)], cap);
    assert!(trap(&beyond).contains("out of bounds"));
    bench.load(1, store).unwrap();
    let small = Limits {
        memory_max: Some(4096),
        ..limits
    };
    assert_eq!(
        bench
            .engine
            .instance_bytes(ModuleId(1), &small)
            .unwrap_err(),
        "the module needs 65536 bytes of memory, this proplet allows 4096"
    );
    bench.engine.unload(ModuleId(1));
}

fn interrupts(bench: &mut Bench, limits: Limits) {
    let endless = r#"(module (func (export "main") (loop (br 0))))"#;
    bench.load(0, endless).unwrap();
    for slot in 0..SLOTS as u8 {
        bench.spawn(slot, &[], limits);
    }
    for (slot, slice) in [5, 0, 7, 2, 1, 3, 6, 4]
        .into_iter()
        .zip([1, 7, 100, 1_000_000].into_iter().cycle())
    {
        // While they run.
        bench.workers.set_slice(slice);
        thread::sleep(Duration::from_millis(2));
        bench.engine.interrupt(Slot(slot));
        bench.engine.interrupt(Slot(slot));
        let exit = bench.exit();
        assert_eq!(
            (exit.slot, &exit.result),
            (Slot(slot), &Err(Failure::Interrupted))
        );
        assert!(exit.usage.cpu > Duration::ZERO);
    }
    bench.workers.set_slice(1000);
    bench.engine.unload(ModuleId(0));
    let start = r#"(module (func $s (loop (br 0))) (start $s) (func (export "main")))"#;
    bench.load(0, start).unwrap();
    bench.spawn(0, &[], limits);
    bench.engine.interrupt(Slot(0));
    assert_eq!(bench.exit().result, Err(Failure::Interrupted));
    // An interrupt does not outlive its run.
    bench.engine.unload(ModuleId(0));
    let quick = r#"(module (func (export "main")))"#;
    assert_eq!(bench.run(quick, &[], limits).result, Ok(None));
}

/// A turn is as long as the weight and the slice say, also when the slice changes in the middle.
fn turns(bench: &mut Bench) {
    let count = r#"(module (func (export "main") (param i32)
        (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))"#;
    // A unit less than whole turns.
    for (weight, slice, expected) in [
        (10, 1000, 100),
        (20, 1000, 50),
        (1, 1000, 1000),
        (40, 1, 25_000),
    ] {
        let limits = Limits {
            schedule: Schedule {
                weight,
                ..Schedule::DEFAULT
            },
            ..LIMITS
        };
        bench.workers.set_slice(slice);
        let before = bench.workers.platform().turns.load(Ordering::SeqCst);
        let exit = bench.run(count, &[Value::I32(99_999)], limits);
        let turns = bench.workers.platform().turns.load(Ordering::SeqCst) - before;
        assert_eq!((exit.result, exit.usage.work), (Ok(None), 99_999));
        assert_eq!(turns, expected, "weight {weight}, slice {slice}");
    }
    bench.workers.set_slice(1000);
    let before = bench.workers.platform().turns.load(Ordering::SeqCst);
    let exit = bench.run(count, &[Value::I32(99_999)], TIMED);
    assert_eq!((exit.result, exit.usage.work), (Ok(None), 99_999));
    let turns = bench.workers.platform().turns.load(Ordering::SeqCst) - before;
    assert_eq!(turns, 0, "the kernel gives the turns");
}

/// What asks for more than there is gets less, or traps, and leaves nothing behind.
fn greed(bench: &mut Bench) {
    let grow = r#"(module (memory 0) (func (export "main") (result i32)
        (loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
        (memory.size)))"#;
    // A memory grows into a new block: two and three pages at once do not fit 192 KiB.
    let before = bench.engine.arena().free;
    assert_eq!(bench.run(grow, &[], LIMITS).result, Ok(Some(Value::I32(2))));
    assert_eq!(bench.engine.arena().free, before);
    let segment = r#"(module (memory 1 1) (data (i32.const 65530) "too far out")
        (func (export "main")))"#;
    trap(&bench.run(segment, &[], LIMITS));
    let large = r#"(module (memory 4 4) (func (export "main")))"#;
    let exit = bench.run(large, &[], LIMITS);
    assert!(trap(&exit).contains("memory"), "{exit:?}");
    assert_eq!(bench.engine.arena().free, before);
}

/// The guest returns the id's length if its bytes are right, else a negative number.
fn host_function(bench: &mut Bench) {
    let guest = |pages: u32| {
        format!(
            r#"(module
            (import "env" "get_proplet_id" (func $get (param i32 i32) (result i32)))
            (memory (export "memory") {pages} {pages})
            (global $next (mut i32) (i32.const 1024))
            (func (export "malloc") (param i32) (result i32)
                (global.get $next)
                (global.set $next (i32.add (global.get $next) (local.get 0))))
            (func (export "free") (param i32))
            (data (i32.const 64) "{ID}")
            (func (export "main") (param $offset i32) (param $len i32) (result i32)
                (local $i i32) (local $at i32)
                (if (i32.ne (call $get (local.get $offset) (local.get $len)) (i32.const 1))
                    (then (return (i32.const -1))))
                (local.set $at (i32.load (local.get $offset)))
                (block $same (loop $next
                    (br_if $same (i32.ge_u (local.get $i) (i32.load (local.get $len))))
                    (if (i32.ne
                            (i32.load8_u (i32.add (local.get $at) (local.get $i)))
                            (i32.load8_u offset=64 (local.get $i)))
                        (then (return (i32.const -2))))
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (br $next)))
                (i32.load (local.get $len))))"#
        )
    };
    let at = |offset: i32, len: i32| [Value::I32(offset), Value::I32(len)];
    let exit = bench.run(&guest(1), &at(0, 4), LIMITS);
    assert_eq!(exit.result, Ok(Some(Value::I32(ID.len() as i32))));
    for (offset, len) in [(65_533, 0), (0, 65_533), (-1, 0), (0, -4), (i32::MIN, 0)] {
        let exit = bench.run(&guest(1), &at(offset, len), LIMITS);
        trap(&exit);
    }
    let without_malloc = r#"(module
        (import "env" "get_proplet_id" (func $get (param i32 i32) (result i32)))
        (memory 1 1)
        (func (export "main") (result i32) (call $get (i32.const 0) (i32.const 4))))"#;
    let exit = bench.run(without_malloc, &[], LIMITS);
    assert_eq!(exit.result, Ok(Some(Value::I32(0))));
}

fn refusals(bench: &mut Bench) {
    let import = r#"(module (import "env" "foo" (func)) (func (export "main")))"#;
    let error = bench.load(0, import).unwrap_err();
    assert!(error.contains("env") && error.contains("foo"), "{error}");
    let other = r#"(module (import "env" "get_proplet_id" (func (param i64) (result i32))))"#;
    assert!(bench.load(0, other).is_err());
    bench.load(0, "(module (func (export \"main\")))").unwrap();
    let missing = bench.engine.params(ModuleId(0), "other");
    assert_eq!(missing, Ok(None));
    bench.engine.unload(ModuleId(0));
}
