//! The seam between the agent and the Wasm engine of a port.
//!
//! The agent calls an [`Engine`] on the control thread; guest code runs elsewhere, on worker
//! threads, and comes back through [`Engine::exited`]. No call of this trait may run
//! guest code or wait for a worker.

use crate::{
    memory::{Purpose, Shortage},
    task::caps::Caps,
    text::words,
    time::Duration,
    wire::pack::{List, Pairs},
};
use core::{
    fmt,
    ops::{Deref, DerefMut},
};

/// Most parameters a function may have to be called by a task.
pub const PARAMS_MAX: usize = 16;

/// An entry of the module table, below the capacity that the agent was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModuleId(pub u16);

/// A task's slot, below the number of slots that the agent was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub u16);

impl Slot {
    /// The slot of this index, which is below 65,535.
    pub const fn at(index: usize) -> Self {
        debug_assert!(index < u16::MAX as usize);
        Self(index as u16)
    }

    /// Its index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Type of a Wasm value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValType {
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
}

impl fmt::Display for ValType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
        })
    }
}

/// A Wasm value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// 32-bit integer; its sign is the reader's choice.
    I32(i32),
    /// 64-bit integer; its sign is the reader's choice.
    I64(i64),
    /// 32-bit float.
    F32(f32),
    /// 64-bit float.
    F64(f64),
}

/// Arguments of a call.
pub type Values = heapless::Vec<Value, PARAMS_MAX>;

/// Types of an exported function's parameters.
pub type Params = heapless::Vec<ValType, PARAMS_MAX>;

/// The arena from which the engine serves modules, instances and linear memories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaUsage {
    /// Size of the arena in bytes.
    pub total: usize,
    /// Bytes neither in use nor promised to a run that has not started yet.
    pub free: usize,
    /// The least that was ever not in use.
    pub free_min: usize,
    /// Of what is free, bytes that are the proplet's own: modules, instances and pages take none of them.
    pub reserve: usize,
    /// Pages of linear memory in use, of [`page_bytes`](Self::page_bytes) each.
    pub pages: u32,
    /// Bytes of such a page; 0 where the engine has none, and a linear memory is one block.
    pub page_bytes: u32,
}

impl ArenaUsage {
    /// Bytes that tasks may be given: the free ones without the reserve.
    #[must_use]
    pub const fn available(&self) -> usize {
        self.free.saturating_sub(self.reserve)
    }
}

/// Arena bytes that a module is going to take, beyond the buffer of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Parsing it.
    pub load: usize,
    /// One instance, and what all share, but not its linear memory.
    pub instance: usize,
}

/// Arena bytes that one more instance is going to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceNeeds {
    /// Its own: its state, what is kept of its call, and what its linear memory begins with: its tables,
    /// the pages that data lie in, and the first page of the guest's stack. The guest takes more as it
    /// writes.
    pub own: usize,
    /// Bytes among them that its linear memory begins with.
    pub memory: usize,
    /// Beside `own`, what it makes for all instances of its module if it is the first.
    pub shared: usize,
}

impl InstanceNeeds {
    /// All of it.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.own.saturating_add(self.shared)
    }

    /// Its purpose, for a refusal.
    #[must_use]
    pub const fn purpose(&self) -> Purpose {
        Purpose::Instance {
            memory: self.memory,
            makes_shared: self.shared > 0,
        }
    }
}

/// End of a guest's turn, so that the others have their share: one for all tasks of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preemption {
    /// Its work: branches and calls, counted. Shares are the same in every run.
    Fuel,
    /// Its processor time, by the clock.
    Time,
}

impl Preemption {
    /// Its name in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fuel => "fuel",
            Self::Time => "time",
        }
    }
}

/// A run's share of the processor against the others', from 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight(pub u8);

impl Weight {
    /// The most.
    pub const MAX: Self = Self(100);

    /// Of a task that asks for none. A turn of it is one slice.
    pub const DEFAULT: Self = Self(10);

    /// A turn of this weight, where that of the usual weight is `usual`; rounded down.
    pub const fn turn(self, usual: u64) -> u64 {
        usual.saturating_mul(self.0 as u64) / Self::DEFAULT.0 as u64
    }
}

/// Limits of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Operand stack in bytes.
    pub stack: u32,
    /// Most bytes of pages of linear memory that the guest may hold, whatever its module declares; `None`
    /// leaves only the arena as bound.
    pub memory_max: Option<u64>,
    /// Most work, in branches and calls, where the task or the device bounds it.
    pub work: Option<u64>,
    /// Its share of the processor.
    pub weight: Weight,
}

/// A value in the arena with bytes behind it, in one block. Given back when it is dropped.
pub trait Record<T> {
    /// A reader of the bytes that may go to other threads; it keeps the block, not the value.
    type Bytes: Deref<Target = [u8]> + fmt::Debug;

    /// The value.
    fn value(&self) -> &T;

    /// The value, to be changed.
    fn value_mut(&mut self) -> &mut T;

    /// The bytes.
    fn bytes(&self) -> &[u8];

    /// The bytes, to be written; none once they are [shared](Self::share).
    fn bytes_mut(&mut self) -> &mut [u8];

    /// A reader of the bytes.
    fn share(&mut self) -> Self::Bytes;
}

/// Data of a run beside its arguments. Its guest reads them by host functions.
#[derive(Debug)]
pub struct TaskData<B, R> {
    /// Bytes of the task's record: the packed inputs, the packed environment, and whatever else.
    text: Option<R>,
    /// Bytes of the packed inputs, and of the packed environment behind them.
    lens: (u32, u32),
    /// The model of a federated round.
    pub model: Option<B>,
    /// The data set to train it with.
    pub dataset: Option<B>,
    /// Capabilities of the guest.
    pub caps: Caps,
}

impl<B, R> TaskData<B, R> {
    /// Nothing, and no permission.
    pub const NONE: Self = Self {
        text: None,
        lens: (0, 0),
        model: None,
        dataset: None,
        caps: Caps::NONE,
    };
}

impl<B, R: Deref<Target = [u8]>> TaskData<B, R> {
    /// With the first `inputs` bytes of `text` as packed inputs, and the next `env` as packed
    /// environment.
    #[must_use]
    pub fn with_text(self, text: R, inputs: usize, env: usize) -> Self {
        Self {
            text: Some(text),
            lens: (inputs as u32, env as u32),
            ..self
        }
    }

    /// The task's inputs, as text.
    pub fn inputs(&self) -> List<'_> {
        let (inputs, _) = self.lens;
        let bytes = self.text.as_deref().and_then(|t| t.get(..inputs as usize));
        bytes.and_then(List::from_bytes).unwrap_or_default()
    }

    /// The task's environment.
    pub fn env(&self) -> Pairs<'_> {
        let (inputs, env) = (self.lens.0 as usize, self.lens.1 as usize);
        let bytes = self
            .text
            .as_deref()
            .and_then(|t| t.get(inputs..inputs + env));
        bytes.and_then(Pairs::from_bytes).unwrap_or_default()
    }
}

/// A function to call in a fresh instance of a module.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The module; it stays loaded until the run has exited.
    pub module: ModuleId,
    /// Name of the exported function.
    pub export: &'a str,
    /// Its arguments, of the types that [`Engine::params`] named.
    pub args: &'a [Value],
    /// Limits of the run, its start function included.
    pub limits: Limits,
}

/// Resources that a run has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunUsage {
    /// Processor time of its thread.
    pub cpu: Duration,
    /// Arena bytes it holds: linear memory, operand stack, instance.
    pub memory: usize,
    /// Pages of linear memory among them.
    pub pages: u32,
    /// Work done, in branches and calls.
    pub work: u64,
    /// Messages and log lines of the guest that exceeded a limit and were dropped.
    pub dropped: u32,
}

/// Bounds on what a guest says and gets, the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestLimits {
    /// Bytes of log that a guest may write in a second; what exceeds them is dropped.
    pub log_bytes: u32,
    /// Messages that a guest may publish in a second; what exceeds them is dropped.
    pub messages: u32,
    /// Most bytes of a message's topic and payload, in and out.
    pub message_bytes: u32,
    /// Most bytes of a result.
    pub result_bytes: u32,
}

impl GuestLimits {
    /// For a small device.
    pub const DEFAULT: Self = Self {
        log_bytes: 1024,
        messages: 10,
        message_bytes: 512,
        result_bytes: 1024,
    };
}

/// Resources that the proplet has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessUsage {
    /// Processor time in user mode, or all of it where the port can't tell.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// Resident bytes of the process, or RAM in use on a device.
    pub rss: u64,
    /// Steps of guests that took more than a second of processor time.
    pub slow_steps: u32,
    /// Time of the longest step that is under way; zero without one.
    pub longest_step: Duration,
}

/// Reason for which a run ended without a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure<B> {
    /// [`Engine::interrupt`] ended it.
    Interrupted,
    /// It trapped. The words, UTF-8, unless the arena had no room for them.
    Trap(Option<B>),
}

/// Stands for the words of a trap that the arena had no room for.
pub(crate) const TRAPPED: &str = "the guest trapped, and the arena has no room for the reason";

impl<B: Deref<Target = [u8]>> fmt::Display for Failure<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupted => "interrupted",
            Self::Trap(Some(words)) => core::str::from_utf8(words).unwrap_or(TRAPPED),
            Self::Trap(None) => TRAPPED,
        })
    }
}

/// Refusal of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineError<B> {
    /// The arena lacks room.
    Memory(Shortage),
    /// Anything else, in words, UTF-8.
    Words(B),
    /// Words that the arena had no room for. They are in the log.
    NoWords,
}

impl<B> From<Shortage> for EngineError<B> {
    fn from(shortage: Shortage) -> Self {
        Self::Memory(shortage)
    }
}

/// Stands for words that the arena had no room for.
pub(crate) const NO_WORDS: &str = "the arena had no room for the reason: it is in the log";

impl<B: Deref<Target = [u8]>> fmt::Display for EngineError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(shortage) => shortage.fmt(f),
            Self::Words(words) => f.write_str(core::str::from_utf8(words).unwrap_or(NO_WORDS)),
            Self::NoWords => f.write_str(NO_WORDS),
        }
    }
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Exit<B> {
    /// The slot that the run had.
    pub slot: Slot,
    /// Its first result, if the function has any.
    pub result: Result<Option<Value>, Failure<B>>,
    /// The last result that the guest published, UTF-8; it takes the place of `result`'s value.
    pub output: Option<B>,
    /// Resources that it used; `memory` is the most that it held.
    pub usage: RunUsage,
}

/// Request of a guest to the channel.
#[derive(Debug, PartialEq)]
pub enum Message<B> {
    /// To publish a message.
    Publish {
        /// The topic below the channel, UTF-8, and then the payload.
        bytes: B,
        /// Bytes of the topic.
        topic_len: usize,
    },
    /// To get the messages of a topic.
    Subscribe {
        /// The topic filter below the channel, UTF-8.
        filter: B,
    },
}

/// A Wasm engine: a bounded arena, a table of modules and workers that run guests.
pub trait Engine {
    /// Bytes in the arena, given back when dropped.
    type Buffer: DerefMut<Target = [u8]> + fmt::Debug;

    /// Bytes of a record.
    type Bytes: Deref<Target = [u8]> + fmt::Debug;

    /// A value in the arena, with bytes behind it.
    type Record<T>: Record<T, Bytes = Self::Bytes>;

    /// Present state of the arena.
    fn arena(&self) -> ArenaUsage;

    /// A block of `len` bytes of the arena, zeroed.
    ///
    /// # Errors
    /// The arena has no such block.
    fn allocate(&self, len: usize) -> Result<Self::Buffer, Shortage>;

    /// `value` in a block of the arena, with `len` bytes of 0 behind it.
    ///
    /// # Errors
    /// The arena has no such block.
    fn record<T>(&self, value: T, len: usize) -> Result<Self::Record<T>, Shortage>;

    /// Arena bytes that such a [record](Self::record) takes.
    fn record_bytes<T>(len: usize) -> usize;

    /// Makes `buffer` `len` bytes long, in place if the arena has room behind it. New bytes are 0.
    ///
    /// # Errors
    /// The arena has no such block; `buffer` is as before.
    fn resize(&self, buffer: &mut Self::Buffer, len: usize) -> Result<(), Shortage>;

    /// Words in the arena, cut at [`WORDS_MAX`](crate::text::WORDS_MAX) bytes; logged instead if it has no
    /// room for them.
    #[inline(never)]
    fn words(&self, args: fmt::Arguments<'_>) -> EngineError<Self::Buffer> {
        match words(args, |len| self.allocate(len).ok()) {
            Some(words) => EngineError::Words(words),
            None => {
                log::warn!("{args}");
                EngineError::NoWords
            }
        }
    }

    /// Arena bytes that the module `bytes` would take; found without allocating.
    ///
    /// # Errors
    /// `bytes` are no Wasm module.
    fn estimate(&self, bytes: &[u8], limits: &Limits) -> Result<Needs, EngineError<Self::Buffer>>;

    /// Parses a module, all of `bytes`, and keeps them.
    ///
    /// # Errors
    /// The bytes are no module for this engine, or the arena lacks room; nothing is kept then.
    fn load(
        &mut self,
        module: ModuleId,
        bytes: Self::Buffer,
    ) -> Result<(), EngineError<Self::Buffer>>;

    /// Frees a module; nothing if it is not loaded. No run uses it any more.
    fn unload(&mut self, module: ModuleId);

    /// Arena bytes that one more instance of a loaded module takes under `limits`.
    ///
    /// # Errors
    /// The module can't run within `limits`.
    fn instance_needs(
        &self,
        module: ModuleId,
        limits: &Limits,
    ) -> Result<InstanceNeeds, EngineError<Self::Buffer>>;

    /// Parameters of an exported function; `None` if there is no such function.
    ///
    /// # Errors
    /// The function has parameters that a task can't pass.
    fn params(
        &self,
        module: ModuleId,
        export: &str,
    ) -> Result<Option<Params>, EngineError<Self::Buffer>>;

    /// Makes an instance in a free slot and begins a run. Its end comes from
    /// [`exited`](Self::exited).
    ///
    /// # Errors
    /// The instance or its call can't be made; the slot is still free.
    fn spawn(
        &mut self,
        slot: Slot,
        call: &Call<'_>,
        data: TaskData<Self::Buffer, Self::Bytes>,
    ) -> Result<(), EngineError<Self::Buffer>>;

    /// Asks a run to end; it does so within a slice, and its exit says [`Failure::Interrupted`]
    /// unless it had already ended. Idempotent.
    fn interrupt(&mut self, slot: Slot);

    /// Resources that a run has used so far; its memory is what it holds now.
    fn usage(&self, slot: Slot) -> RunUsage;

    /// Resources that the proplet has used since boot.
    fn process(&self) -> ProcessUsage;

    /// The slot of the run that ended first of those whose exit was not taken, if any.
    fn exited(&mut self) -> Option<Slot>;

    /// Whether a run has ended, and its exit was not taken.
    fn has_exited(&self, slot: Slot) -> bool;

    /// Takes the exit of a run that has ended, and frees its slot. A message of its guest
    /// that was not taken is lost; `None` if there is no exit.
    fn take_exit(&mut self, slot: Slot) -> Option<Exit<Self::Buffer>>;

    /// The message of a guest that has waited for the longest time, given out once. Until it is taken
    /// that guest can send no more. The last message of a guest is kept until its exit is taken.
    fn poll_message(&mut self) -> Option<(Slot, Message<Self::Buffer>)>;

    /// The same of one run.
    fn take_message(&mut self, slot: Slot) -> Option<Message<Self::Buffer>>;

    /// Gives a message, whose topic is below the channel, to a run's guest. One that its inbox or
    /// the arena has no room for is dropped, and counted in the run's usage.
    fn deliver(&mut self, slot: Slot, topic: &str, payload: &[u8]);

    /// Counts a message for a run's guest that was dropped before it could be delivered.
    fn drop_message(&mut self, slot: Slot);
}
