//! An engine on a platform of plain threads, with the test as its agent.
//!
//! WAMR is one for a process: so is the bench, and tests that use it take turns. Its methods panic
//! where the test goes wrong.

use proplet::{
    engine::{
        Call, Engine, Exit, Failure, GuestLimits, Limits, ModuleId, Preemption, ProcessUsage,
        Record as _, RunUsage, Slot, TaskData, Value, Weight,
    },
    task::caps::Caps,
    time::Duration,
};
use proplet_engine::{
    BoardError, Channel, DeviceConfig, ModuleState, PinMode, Platform, QueueEntry, SlotState,
    WamrEngine, Workers, host_functions,
};
use std::{
    iter,
    mem::MaybeUninit,
    sync::{
        Condvar, LazyLock, Mutex, MutexGuard, Once, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};
use wamr::{Buffer, Bytes, Runtime};

/// The data of a task.
pub type Data = TaskData<Buffer, Bytes>;

/// Slots of [`bench()`].
pub const SLOTS: usize = 8;
/// The proplet's id.
pub const ID: &str = "3fe95a65-74f1-4ede-bf20-ef565f04cecb";
/// Bytes of the arena of [`bench()`]: a board's, by default.
pub const ARENA: usize = 192 * 1024;

/// Limits of a run that needs no others.
pub const LIMITS: Limits = Limits {
    stack: 4096,
    memory_max: None,
    work: None,
    weight: Weight::DEFAULT,
};

/// Limits of every guest.
pub const GUEST_LIMITS: GuestLimits = GuestLimits {
    log_bytes: 200,
    messages: 30,
    message_bytes: 4200,
    result_bytes: 512,
};

/// Bytes of a part in which a guest shows its memory.
pub const PART: usize = 4096;

/// Code that publishes the first `bytes` of a guest's memory in parts, on the topic of one byte at
/// `$topic`; `$at` is a local of it.
pub fn show_memory(bytes: usize) -> String {
    format!(
        r#"(local.set $at (i32.const 0))
            (loop $next
                (br_if $next (i32.eqz (call $publish
                    (local.get $topic) (i32.const 1) (local.get $at) (i32.const {PART}))))
                (local.set $at (i32.add (local.get $at) (i32.const {PART})))
                (br_if $next (i32.lt_u (local.get $at) (i32.const {bytes}))))"#
    )
}

/// One worker, slices that are only counted, and a clock that the test may set.
#[derive(Debug)]
pub struct Threads {
    woken: Mutex<bool>,
    changed: Condvar,
    /// Slices that have ended.
    pub slices: AtomicUsize,
    /// The slices at the last end of a run, or message.
    pub notified: AtomicUsize,
    /// A worker goes through it at each end of a step.
    gate: Mutex<()>,
    /// The worker waits for the gate, or is about to.
    is_at_gate: AtomicBool,
    /// Set: sleeping takes no time, and makes it pass.
    clock: Mutex<Option<Duration>>,
    pins: Mutex<[(PinMode, bool); PINS]>,
    random: AtomicU64,
    /// Calls of the generator and of the board's thread.
    pub effects: AtomicUsize,
    /// Something is to be measured.
    board: Mutex<bool>,
    board_changed: Condvar,
    stuck: Mutex<()>,
}

const PINS: usize = 4;

/// A sensor that does not answer while [`Threads::stick`] holds it.
pub const STUCK: u32 = 1_000_000;

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const RANDOM_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn random_byte(state: u64) -> u8 {
    (state ^ (state >> 29)).to_be_bytes()[0]
}

impl Threads {
    fn new() -> Self {
        Self {
            woken: Mutex::new(false),
            changed: Condvar::new(),
            slices: AtomicUsize::new(0),
            notified: AtomicUsize::new(0),
            gate: Mutex::new(()),
            is_at_gate: AtomicBool::new(false),
            clock: Mutex::new(None),
            pins: Mutex::new([(PinMode::Input, false); PINS]),
            random: AtomicU64::new(1),
            effects: AtomicUsize::new(0),
            board: Mutex::new(false),
            board_changed: Condvar::new(),
            stuck: Mutex::new(()),
        }
    }

    /// Stops the clock at a time, or lets it go again.
    pub fn set_clock(&self, now: Option<Duration>) {
        *lock(&self.clock) = now;
    }

    /// The next bytes of the generator, without taking them.
    pub fn random_ahead(&self, len: usize) -> Vec<u8> {
        let first = self.random.load(Ordering::SeqCst);
        let nth = |n: usize| first.wrapping_add(RANDOM_STEP.wrapping_mul(n as u64));
        (0..len).map(|n| random_byte(nth(n))).collect()
    }

    /// Holds the worker at the end of its present step, until the guard is dropped. It is there a
    /// moment after.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        lock(&self.gate)
    }

    /// Holds the worker, and waits until it is there.
    ///
    /// # Panics
    /// No guest ends a step within ten seconds.
    pub fn hold_step(&self) -> MutexGuard<'_, ()> {
        let held = self.hold();
        let began = Instant::now();
        while !self.is_at_gate.load(Ordering::SeqCst) {
            let waited = began.elapsed();
            assert!(waited < Duration::from_secs(10), "no step ends");
            thread::sleep(Duration::from_millis(1));
        }
        held
    }

    /// The sensor [`STUCK`] does not answer, until the guard is dropped.
    pub fn stick(&self) -> MutexGuard<'_, ()> {
        lock(&self.stuck)
    }

    fn wait_board(&self) {
        let idle = |wanted: &mut bool| !*wanted;
        let wanted = self.board_changed.wait_while(lock(&self.board), idle);
        *wanted.unwrap() = false;
    }

    fn pin(&self, pin: u32) -> Result<(PinMode, bool), BoardError> {
        let pins = lock(&self.pins);
        pins.get(pin as usize).copied().ok_or(BoardError::Absent)
    }
}

impl Platform for Threads {
    fn wait(&self, until: Option<Duration>) {
        if let (Some(until), Some(now)) = (until, &mut *lock(&self.clock)) {
            *now = until.max(*now);
            return;
        }
        let idle = |woken: &mut bool| !*woken;
        let time = until.map_or(Duration::from_secs(3600), |t| {
            t.saturating_sub(BEGAN.elapsed())
        });
        let woken = lock(&self.woken);
        let waited = self.changed.wait_timeout_while(woken, time, idle);
        *waited.unwrap().0 = false;
    }

    fn wake(&self) {
        *lock(&self.woken) = true;
        self.changed.notify_all();
    }

    fn worked(&self, _: u32) {
        self.slices.fetch_add(1, Ordering::SeqCst);
        self.is_at_gate.store(true, Ordering::SeqCst);
        let passed = lock(&self.gate);
        // While it is held: who holds it and reads true knows that the worker waits.
        self.is_at_gate.store(false, Ordering::SeqCst);
        drop(passed);
    }

    fn notify(&self) {
        let slices = self.slices.load(Ordering::SeqCst);
        self.notified.store(slices, Ordering::SeqCst);
    }

    fn thread_time(&self) -> Duration {
        self.now()
    }

    fn process(&self) -> ProcessUsage {
        ProcessUsage::default()
    }

    fn now(&self) -> Duration {
        lock(&self.clock).unwrap_or_else(|| BEGAN.elapsed())
    }

    /// No two calls give the same.
    fn random(&self, to: &mut [u8]) {
        self.effects.fetch_add(1, Ordering::SeqCst);
        for byte in to {
            *byte = random_byte(self.random.fetch_add(RANDOM_STEP, Ordering::SeqCst));
        }
    }

    /// Pins 0 to 3, of which 3 can't be an output.
    fn gpio_configure(&self, pin: u32, mode: PinMode) -> Result<(), BoardError> {
        self.pin(pin)?;
        if (pin, mode) == (3, PinMode::Output) {
            return Err(BoardError::Failed);
        }
        lock(&self.pins)[pin as usize] = (mode, mode == PinMode::InputPullUp);
        Ok(())
    }

    fn gpio_write(&self, pin: u32, is_high: bool) -> Result<(), BoardError> {
        match self.pin(pin)?.0 {
            PinMode::Output => lock(&self.pins)[pin as usize].1 = is_high,
            _ => return Err(BoardError::Failed),
        }
        Ok(())
    }

    fn gpio_read(&self, pin: u32) -> Result<bool, BoardError> {
        Ok(self.pin(pin)?.1)
    }

    fn wake_board(&self) -> bool {
        self.effects.fetch_add(1, Ordering::SeqCst);
        *lock(&self.board) = true;
        self.board_changed.notify_all();
        true
    }

    /// Sensor 0 has a temperature; sensor 1 has a voltage and can't be read. The sensor [`STUCK`]
    /// does not answer while it is stuck.
    fn sensor_read(&self, sensor: u32, channel: Channel) -> Result<i64, BoardError> {
        match (sensor, channel) {
            (0, Channel::AmbientTemperature) => Ok(-1_250_001),
            (1, Channel::Voltage) => Err(BoardError::Failed),
            (STUCK, _) => {
                drop(lock(&self.stuck));
                Ok(9)
            }
            _ => Err(BoardError::Absent),
        }
    }
}

/// The engine and its workers.
pub struct Bench {
    /// The engine.
    pub engine: WamrEngine<Threads>,
    /// Its workers, of which one runs, and the platform.
    pub workers: &'static Workers<Threads>,
}

/// The bench of this process, for one test at a time. The clock goes, and no module is loaded.
pub fn bench() -> MutexGuard<'static, Bench> {
    bench_of(SLOTS, ARENA)
}

/// As [`bench()`], with other numbers of slots and of bytes of the arena. The first call decides.
pub fn bench_of(slots: usize, arena: usize) -> MutexGuard<'static, Bench> {
    static BENCH: OnceLock<Mutex<Bench>> = OnceLock::new();
    let mut bench = lock(BENCH.get_or_init(|| Mutex::new(Bench::new(slots, arena))));
    bench.workers.platform().set_clock(None);
    bench.workers.set_slice(1000);
    bench.workers.set_preemption(Preemption::Fuel);
    bench.engine.unload(ModuleId(0));
    bench
}

impl Bench {
    /// Starts the engine, a worker and the board's thread. A process can have one.
    pub fn new(slots: usize, arena: usize) -> Self {
        let arena = leaked(arena, MaybeUninit::uninit);
        let natives = Box::leak(Box::new(host_functions::<Threads>()));
        let runtime = Runtime::init(arena, natives).unwrap();
        let config = DeviceConfig {
            proplet_id: ID,
            limits: GUEST_LIMITS,
            stack_bytes: LIMITS.stack,
            preemption: Preemption::Fuel,
            memory_commit: false,
        };
        let workers = Workers::new(
            runtime,
            Threads::new(),
            leaked(slots, SlotState::new),
            leaked(slots, || QueueEntry::FREE),
            (1000, 10),
            config,
        );
        let workers: &'static Workers<Threads> = Box::leak(Box::new(workers));
        let (has_begun, begun) = std::sync::mpsc::channel();
        thread::spawn(move || workers.run(|made| has_begun.send(made).unwrap()));
        begun.recv().unwrap().expect("the worker begins");
        thread::spawn(|| {
            loop {
                while workers.measure() {}
                workers.platform().wait_board();
            }
        });
        Self {
            engine: WamrEngine::new(workers, leaked(4, ModuleState::default)),
            workers,
        }
    }

    /// Free bytes of the arena.
    pub fn free(&self) -> usize {
        self.engine.arena().free
    }

    /// Assembles a module and loads it.
    ///
    /// # Errors
    ///
    /// The engine's refusal, in words.
    pub fn load(&mut self, module: u16, wat: &str) -> Result<(), String> {
        let wasm = wat::parse_str(wat).unwrap_or_else(|e| panic!("{e}"));
        self.load_bytes(module, &wasm)
    }

    /// Loads a module.
    ///
    /// # Errors
    ///
    /// The engine's refusal, in words.
    pub fn load_bytes(&mut self, module: u16, wasm: &[u8]) -> Result<(), String> {
        let mut buffer = self.engine.allocate(wasm.len()).map_err(words)?;
        buffer.copy_from_slice(wasm);
        self.engine.estimate(&buffer, &LIMITS).map_err(words)?;
        let loaded = self.engine.load(ModuleId(module), buffer);
        loaded.map_err(words)
    }

    /// A copy in the arena.
    pub fn copy(&mut self, bytes: &[u8]) -> Buffer {
        let mut copy = self.engine.allocate(bytes.len()).unwrap();
        copy.copy_from_slice(bytes);
        copy
    }

    /// The data of a task with these capabilities, inputs and variables of its environment.
    pub fn data(&mut self, caps: &str, inputs: &[&str], env: &[(&str, &str)]) -> Data {
        let inputs = pack(inputs.iter().copied());
        let env = pack(env.iter().flat_map(|(key, value)| [*key, *value]));
        let mut record = self.engine.record((), inputs.len() + env.len()).unwrap();
        let text = [&inputs[..], &env].concat();
        record.bytes_mut().copy_from_slice(&text);
        let mut data = TaskData::NONE.with_text(record.share(), inputs.len(), env.len());
        data.caps = Caps::parse(caps).unwrap();
        data
    }

    /// Calls `main` of module 0.
    pub fn spawn_with(&mut self, slot: u16, args: &[Value], limits: Limits, data: Data) {
        self.call(slot, "main", args, limits, data).unwrap();
    }

    /// Calls an export of module 0.
    ///
    /// # Errors
    ///
    /// The engine's refusal, in words.
    pub fn call(
        &mut self,
        slot: u16,
        export: &str,
        args: &[Value],
        limits: Limits,
        data: Data,
    ) -> Result<(), String> {
        let call = Call {
            module: ModuleId(0),
            export,
            args,
            limits,
        };
        self.engine.spawn(Slot(slot), &call, data).map_err(words)
    }

    /// Calls `main` of module 0, without data.
    pub fn spawn(&mut self, slot: u16, args: &[Value], limits: Limits) {
        self.spawn_with(slot, args, limits, TaskData::NONE);
    }

    /// The next exit.
    pub fn exit(&mut self) -> Exit<Buffer> {
        self.exit_while(|_| {})
    }

    /// The next exit; until then, and once before it is taken, does something again and again.
    pub fn exit_while(&mut self, mut each: impl FnMut(&mut WamrEngine<Threads>)) -> Exit<Buffer> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let exited = self.engine.exited();
            each(&mut self.engine);
            if let Some(slot) = exited {
                return self.engine.take_exit(slot).expect("it has ended");
            }
            assert!(Instant::now() < deadline, "no run has ended within 10 s");
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// Runs `main` of `wat` in slot 0.
    pub fn run(&mut self, wat: &str, args: &[Value], limits: Limits) -> Exit<Buffer> {
        self.load(0, wat).unwrap();
        self.spawn(0, args, limits);
        let exit = self.exit();
        self.engine.unload(ModuleId(0));
        exit
    }

    /// The words with which a task of `main` of `wat` is refused.
    pub fn refusal(&mut self, wat: &str) -> String {
        self.load(0, wat).unwrap();
        let refused = self.call(0, "main", &[], LIMITS, TaskData::NONE);
        self.engine.unload(ModuleId(0));
        refused.unwrap_err()
    }

    /// Interrupts the runs in these slots, none of which has ended; all end by that.
    pub fn stop_all(&mut self, slots: impl DoubleEndedIterator<Item = u16> + Clone) {
        for slot in slots.clone().rev() {
            self.engine.interrupt(Slot(slot));
        }
        for _ in slots {
            assert_eq!(self.exit().result, Err(Failure::Interrupted));
        }
    }

    /// Usage of the run in a slot.
    pub fn usage(&self, slot: u16) -> RunUsage {
        self.engine.usage(Slot(slot))
    }
}

fn words(refusal: impl std::fmt::Display) -> String {
    refusal.to_string()
}

/// Storage that lives as long as the process.
pub fn leaked<T>(len: usize, value: impl FnMut() -> T) -> &'static mut [T] {
    Box::leak(iter::repeat_with(value).take(len).collect())
}

/// Strings as the core packs them.
fn pack<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<u8> {
    texts
        .flat_map(|text| [&(text.len() as u16).to_le_bytes(), text.as_bytes()].concat())
        .collect()
}

/// The result that a guest published, as text.
///
/// # Panics
///
/// If it is no text.
#[must_use]
pub fn output(exit: &Exit<Buffer>) -> Option<&str> {
    let bytes = exit.output.as_deref();
    bytes.map(|bytes| str::from_utf8(bytes).expect("the result is text"))
}

/// The words of the trap that ended a run.
///
/// # Panics
///
/// If it ended otherwise.
pub fn trap(exit: &Exit<Buffer>) -> &str {
    match &exit.result {
        Err(Failure::Trap(Some(words))) => str::from_utf8(words).expect("a trap's words are text"),
        other => panic!("expected a trap, found {other:?}"),
    }
}

/// WAT that imports every host function under its own name.
///
/// # Panics
///
/// If a signature has a letter other than `i` and `I`.
#[must_use]
pub fn imports() -> String {
    let imports = host_functions::<Threads>().into_iter().map(|function| {
        let (name, signature) = (function.name.to_str(), function.signature.to_str());
        let (name, signature) = (name.unwrap(), signature.unwrap());
        let (params, results) = signature[1..].split_once(')').unwrap();
        let types = |letters: &str| -> String {
            let ty = |letter| match letter {
                'i' => " i32",
                'I' => " i64",
                other => panic!("{name} has a {other}"),
            };
            letters.chars().map(ty).collect()
        };
        let (params, results) = (types(params), types(results));
        format!(r#"(import "env" "{name}" (func ${name} (param{params}) (result{results})))"#)
    });
    imports.collect()
}

/// Lines that guests have logged.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "guest"
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target() == "guest" {
            let line = format!("{} {}", record.level(), record.args());
            lock(&LINES).push(line);
        }
    }

    fn flush(&self) {}
}

/// Lines that guests have logged since the last call. The first call installs the logger.
///
/// # Panics
///
/// If there is another logger.
pub fn lines() -> Vec<String> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Lines).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
    });
    std::mem::take(&mut lock(&LINES))
}
