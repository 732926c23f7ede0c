//! Means that the tests share: one runtime for the process, and short ways to load and to call.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(unreachable_pub, reason = "a module of test binaries")]

use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use wamr::{
    Error, HostFunction, Instance, InstanceConfig, Module, ResumableCall, Runtime, ThreadEnv, Trap,
    Value, Worker,
};

/// The arena of the device, by default.
pub const ARENA: usize = 192 * 1024;

/// The runtime of this process. The arena is shared: tests that measure it take [`alone`].
pub fn runtime(host: &'static [HostFunction]) -> Runtime {
    runtime_in(ARENA, host)
}

/// The same in an arena of `bytes`. The first call decides.
pub fn runtime_in(bytes: usize, host: &'static [HostFunction]) -> Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    *RUNTIME.get_or_init(|| {
        let arena = Box::leak(Box::new_uninit_slice(bytes));
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

/// Arena bytes of branches, leaves and pages of a paged memory.
pub fn memory_bytes(branches: u32, leaves: u32, pages: u32) -> u32 {
    const LEAF_PAGES: u32 = 8;
    let (page, pointer) = (wamr::page_bytes(), usize::BITS / 8);
    let block = |len: u32| (len + 4).next_multiple_of(8);
    branches * block(65_536 / page / LEAF_PAGES * pointer)
        + leaves * block(LEAF_PAGES * pointer)
        + pages * block(page)
}

/// How a call is cut into steps, and the work that it may do: the context of host functions.
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

/// An instance, and the means to call it to its end in one go.
#[derive(Debug)]
pub struct Guest {
    instance: Instance,
    stack_bytes: u32,
}

impl Guest {
    pub fn new(module: &Module, config: &InstanceConfig) -> Result<Self, Error> {
        Ok(Self {
            instance: Instance::new(module, config)?,
            stack_bytes: match config.stack_bytes {
                u32::MAX => 4096,
                bytes => bytes,
            },
        })
    }

    /// Runs what the module wants run first, then the function. The worker exists meanwhile.
    pub fn call(
        &mut self,
        name: &str,
        args: &[Value],
        results: &mut [Value],
        budget: &Budget,
    ) -> Result<usize, Trap> {
        self.start(budget)?;
        self.instance.call(name, args)?;
        self.finish(budget)?;
        Ok(self.instance.results(results))
    }

    pub fn start(&mut self, budget: &Budget) -> Result<(), Trap> {
        while self.instance.initialise()? {
            self.finish(budget)?;
        }
        Ok(())
    }

    fn finish(&mut self, budget: &Budget) -> Result<(), Trap> {
        let env = ThreadEnv::enter(self.runtime()).expect("the thread enters");
        let mut worker = Worker::new(&env, self.stack_bytes)?;
        let before = self.instance.work();
        self.instance.set_work_left(budget.budget - budget.done());
        loop {
            budget.asked.fetch_add(1, Ordering::Relaxed);
            let ended = self.instance.resume(&mut worker, budget.slice, budget);
            if ended.is_err() || ended == Ok(ResumableCall::Finished) {
                let done = self.instance.work() - before;
                budget.done.fetch_add(done, Ordering::Relaxed);
                return ended.map(drop);
            }
        }
    }

    fn runtime(&self) -> Runtime {
        runtime(&[])
    }
}

impl Deref for Guest {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl DerefMut for Guest {
    fn deref_mut(&mut self) -> &mut Instance {
        &mut self.instance
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
    let module = load(runtime, wat)?;
    let mut guest = Guest::new(&module, &InstanceConfig::default())?;
    guest.call("run", args, results, &budget())
}
