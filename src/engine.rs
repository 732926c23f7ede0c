//! The seam between the agent and the Wasm engine of a port.
//!
//! The agent calls an [`Engine`] on the control thread; guest code runs elsewhere, on worker
//! threads, and comes back through [`Engine::poll_exit`]. No call of this trait may run
//! guest code or wait for a worker.

use crate::{
    task::caps::Caps,
    time::Duration,
    wire::{List, Pairs},
};
use core::{fmt, ops::DerefMut};

/// Most parameters a function may have to be called by a task.
pub const PARAMS_MAX: usize = 16;

/// Most bytes of a result or an error that are kept and sent.
pub const TEXT_MAX: usize = 192;

/// Text of a result or an error, cut at [`TEXT_MAX`] bytes.
pub type Text = heapless::String<TEXT_MAX>;

/// `args` as [`Text`]; what does not fit is cut at a character's boundary.
///
/// Not inlined: callers on small stacks would hold a second text each.
#[inline(never)]
pub fn text(args: fmt::Arguments<'_>) -> Text {
    struct Cut<'a>(&'a mut Text);
    impl fmt::Write for Cut<'_> {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            for c in s.chars() {
                self.0.push(c).map_err(|_| fmt::Error)?;
            }
            Ok(())
        }
    }
    let mut text = Text::new();
    // An error here only says that the text was cut.
    let _ = fmt::write(&mut Cut(&mut text), args);
    text
}

/// The start of `s`, at most `max` bytes, cut at a character's boundary.
pub(crate) fn clip(s: &str, max: usize) -> &str {
    let mut end = max.min(s.len());
    while !s.is_char_boundary(end) {
        end -= 1;
    }
    &s[..end]
}

/// An entry of the module table, below the capacity that the agent was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModuleId(pub u8);

/// A run's slot, and so its worker, below the number of slots that the agent was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub u8);

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

/// What an exported function takes.
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
    /// Its own: its state, its linear memory, and what is kept of its call.
    pub own: usize,
    /// Beside that, what it makes for all instances of its module if it is the first.
    pub shared: usize,
}

impl InstanceNeeds {
    /// All of it.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.own.saturating_add(self.shared)
    }
}

/// Who takes the processor from a guest, so that the others have their share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preemption {
    /// The interpreter: it counts branches and calls, and the guest yields when a turn's are used
    /// up. Shares are the same in every run.
    Fuel,
    /// The system's scheduler, by its clock.
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

/// How a run shares the processor with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Who preempts it.
    pub preemption: Preemption,
    /// Its share against the others', from 1 to [`WEIGHT_MAX`](Self::WEIGHT_MAX).
    pub weight: u8,
}

impl Schedule {
    /// Most that a weight can be.
    pub const WEIGHT_MAX: u8 = 100;

    /// Weight of a task that asks for none. A turn of it is one slice.
    pub const WEIGHT: u8 = 10;

    /// Fuel, at the usual weight.
    pub const DEFAULT: Self = Self {
        preemption: Preemption::Fuel,
        weight: Self::WEIGHT,
    };

    /// A turn of this weight, where that of the usual weight is `slice`; at least 1.
    pub const fn turn(&self, slice: u32) -> u64 {
        let turn = slice as u64 * self.weight as u64 / Self::WEIGHT as u64;
        if turn == 0 { 1 } else { turn }
    }
}

/// Limits of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Operand stack in bytes.
    pub stack: u32,
    /// Most bytes of linear memory that the task asked to have. Below what the module says, its
    /// memory is made smaller: no longer standard Wasm, so only a task may ask for it.
    pub memory_cap: Option<u64>,
    /// Most bytes of linear memory that the device allows; a module that says more is refused.
    pub memory_max: Option<u64>,
    /// Most work, in branches and calls, where the task or the device bounds it.
    pub work: Option<u64>,
    /// Its share of the processor.
    pub schedule: Schedule,
}

/// What a run is given beside its arguments. Its guest reads it by host functions.
#[derive(Debug)]
pub struct TaskData<B> {
    /// The packed inputs, and then the packed environment; none where both are empty.
    text: Option<B>,
    /// Bytes of the packed inputs.
    inputs_len: usize,
    /// The model of a federated round.
    pub model: Option<B>,
    /// The data set to train it with.
    pub dataset: Option<B>,
    /// What the guest may call.
    pub caps: Caps,
}

impl<B> TaskData<B> {
    /// Nothing, and no permission.
    pub const NONE: Self = Self {
        text: None,
        inputs_len: 0,
        model: None,
        dataset: None,
        caps: Caps::NONE,
    };
}

impl<B: DerefMut<Target = [u8]>> TaskData<B> {
    /// With a copy of inputs and environment in `text`, which has exactly their bytes.
    pub fn with_text(self, mut text: B, inputs: List<'_>, env: Pairs<'_>) -> Self {
        let (inputs, env) = (inputs.as_bytes(), env.as_bytes());
        let (first, rest) = text.split_at_mut(inputs.len());
        first.copy_from_slice(inputs);
        rest.copy_from_slice(env);
        Self {
            inputs_len: inputs.len(),
            text: Some(text),
            ..self
        }
    }

    /// The task's inputs, as text.
    pub fn inputs(&self) -> List<'_> {
        let bytes = self.text.as_deref().and_then(|t| t.get(..self.inputs_len));
        bytes.and_then(List::from_bytes).unwrap_or_default()
    }

    /// The task's environment.
    pub fn env(&self) -> Pairs<'_> {
        let bytes = self.text.as_deref().and_then(|t| t.get(self.inputs_len..));
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

/// What a run has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunUsage {
    /// Processor time of its thread.
    pub cpu: Duration,
    /// Arena bytes it holds: linear memory, operand stack, instance.
    pub memory: usize,
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

/// What the whole proplet has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessUsage {
    /// Processor time in user mode, or all of it where the port can't tell.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// Resident bytes of the process, or RAM in use on a device.
    pub rss: u64,
}

/// Why a run ended without a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// [`Engine::interrupt`] ended it.
    Interrupted,
    /// It trapped, or could not be instantiated.
    Trap(Text),
}

/// The end of a run. Its slot is free again.
#[derive(Debug, Clone, PartialEq)]
pub struct Exit<B> {
    /// The slot that the run had.
    pub slot: Slot,
    /// Its first result, if the function has any.
    pub result: Result<Option<Value>, Failure>,
    /// What the guest last called its result, UTF-8; it takes the place of `result`'s value.
    pub output: Option<B>,
    /// What it used; `memory` is the most it held.
    pub usage: RunUsage,
}

/// What a guest wants of the channel.
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

/// A Wasm engine: a bounded arena, a table of modules and a worker for each slot.
pub trait Engine {
    /// Bytes in the arena, given back when dropped.
    type Buffer: DerefMut<Target = [u8]> + fmt::Debug;

    /// Present state of the arena.
    fn arena(&self) -> ArenaUsage;

    /// A block of `len` bytes of the arena, zeroed.
    ///
    /// # Errors
    /// The reason as text, if the arena has no such block.
    fn allocate(&mut self, len: usize) -> Result<Self::Buffer, Text>;

    /// Makes `buffer` `len` bytes long, where it is if the arena has room behind it. What is new is
    /// zeroed.
    ///
    /// # Errors
    /// The reason as text; `buffer` is as before.
    fn resize(&mut self, buffer: &mut Self::Buffer, len: usize) -> Result<(), Text>;

    /// What the module `bytes` would take; found without allocating.
    ///
    /// # Errors
    /// The reason as text, if they are no Wasm module.
    fn estimate(&self, bytes: &[u8], limits: &Limits) -> Result<Needs, Text>;

    /// Parses a module, all of `bytes`, and keeps them.
    ///
    /// # Errors
    /// The reason as text; nothing is kept then.
    fn load(&mut self, module: ModuleId, bytes: Self::Buffer) -> Result<(), Text>;

    /// Frees a module; nothing if it is not loaded. No run uses it any more.
    fn unload(&mut self, module: ModuleId);

    /// What one more instance of a loaded module takes under `limits`.
    ///
    /// # Errors
    /// The reason as text, if the module can't run within `limits`.
    fn instance_needs(&self, module: ModuleId, limits: &Limits) -> Result<InstanceNeeds, Text>;

    /// Parameters of an exported function; `None` if there is no such function.
    ///
    /// # Errors
    /// The reason as text, if it has parameters that a task can't pass.
    fn params(&self, module: ModuleId, export: &str) -> Result<Option<Params>, Text>;

    /// Starts a run on the worker of a free slot. Its end comes from [`poll_exit`](Self::poll_exit).
    fn spawn(&mut self, slot: Slot, call: &Call<'_>, data: TaskData<Self::Buffer>);

    /// Asks a run to end; it does so within a slice, and its exit says [`Failure::Interrupted`]
    /// unless it had already ended. Idempotent.
    fn interrupt(&mut self, slot: Slot);

    /// What a run has used so far; its memory is what it holds now.
    fn usage(&self, slot: Slot) -> RunUsage;

    /// What the proplet has used since boot.
    fn process(&self) -> ProcessUsage;

    /// The next run that has ended, if any. All that its guest had to say has been given out
    /// before, or is lost.
    fn poll_exit(&mut self) -> Option<Exit<Self::Buffer>>;

    /// What a run's guest has to say on the channel, if anything, given out once. Until then the
    /// guest can say no more. What it said last is kept beyond its exit, for as long as its slot
    /// has no other run.
    fn poll_message(&mut self, slot: Slot) -> Option<Message<Self::Buffer>>;

    /// Gives a message, whose topic is below the channel, to a run's guest. One that its inbox or
    /// the arena has no room for is dropped, and counted in the run's usage.
    fn deliver(&mut self, slot: Slot, topic: &str, payload: &[u8]);
}
