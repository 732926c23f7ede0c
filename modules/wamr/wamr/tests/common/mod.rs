//! What the tests share: one runtime for the process, and short ways to load and to call.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(unreachable_pub, reason = "a module of test binaries")]

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use wamr::{
    Error, HostFunction, Instance, InstanceConfig, Module, Runtime, Supervisor, ThreadEnv, Trap,
    Value, Verdict,
};

/// The arena of the device, by default.
pub const ARENA: usize = 192 * 1024;

/// The runtime of this process. The arena is shared: tests that measure it take [`alone`].
pub fn runtime(host: &'static [HostFunction]) -> Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    *RUNTIME.get_or_init(|| {
        let arena = Box::leak(Box::new_uninit_slice(ARENA));
        arena.fill(MaybeUninit::new(0xa5));
        Runtime::init(arena, host).expect("the runtime starts")
    })
}

/// One test at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn load_bytes(runtime: Runtime, wasm: &[u8]) -> Result<Module, Error> {
    let mut buffer = runtime.buffer(wasm.len())?;
    buffer.copy_from_slice(wasm);
    Module::load(buffer)
}

pub fn load(runtime: Runtime, wat: &str) -> Result<Module, Error> {
    load_bytes(
        runtime,
        &wat::parse_str(wat).expect("the test's WAT assembles"),
    )
}

/// A supervisor that gives slices of one length until a budget is spent.
pub struct Budget {
    pub slice: u32,
    pub budget: u64,
    pub done: AtomicU64,
    pub asked: AtomicU64,
}

impl Budget {
    pub fn new(slice: u32, budget: u64) -> Self {
        Self {
            slice,
            budget,
            done: AtomicU64::new(0),
            asked: AtomicU64::new(0),
        }
    }

    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Supervisor for Budget {
    fn slice(&self, work: u32, _: u32) -> Verdict {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let done = self.done.fetch_add(u64::from(work), Ordering::Relaxed) + u64::from(work);
        if done >= self.budget {
            Verdict::Interrupt
        } else {
            Verdict::Continue(self.slice)
        }
    }
}

/// A million units of work: what ends does not need more, what doesn't is stopped.
pub fn budget() -> Budget {
    Budget::new(1000, 1_000_000)
}

/// Loads, instantiates and calls `run`.
pub fn run(
    runtime: Runtime,
    wat: &str,
    args: &[Value],
    results: &mut [Value],
) -> Result<usize, Trap> {
    let env = ThreadEnv::enter(runtime).expect("the thread enters");
    let module = load(runtime, wat)?;
    let mut instance = Instance::new(&env, &module, &InstanceConfig::default())?;
    instance.call("run", args, results, &budget())
}
