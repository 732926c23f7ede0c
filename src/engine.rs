//! The seam between the agent and the Wasm engine of a port.
//!
//! The agent calls an [`Engine`] on the control thread; guest code runs elsewhere, on a worker
//! thread a slot, and comes back through [`Engine::poll_exit`]. No call of this trait may run
//! guest code or wait for a worker.

use crate::time::Duration;
use core::fmt;

/// Most parameters a function may have to be called by a task.
pub const PARAMS_MAX: usize = 16;

/// Most bytes of a result or an error that are kept and sent.
pub const TEXT_MAX: usize = 192;

/// Text of a result or an error, cut at [`TEXT_MAX`] bytes.
pub type Text = heapless::String<TEXT_MAX>;

/// `args` as [`Text`]; what does not fit is cut at a character's boundary.
pub fn text(args: fmt::Arguments<'_>) -> Text {
    struct Cut(Text);
    impl fmt::Write for Cut {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            for c in s.chars() {
                self.0.push(c).map_err(|_| fmt::Error)?;
            }
            Ok(())
        }
    }
    let mut cut = Cut(Text::new());
    // An error here only says that the text was cut.
    let _ = fmt::write(&mut cut, args);
    cut.0
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
    /// One instance: its own state and its operand stack, but not its linear memory.
    pub instance: usize,
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
pub struct Exit {
    /// The slot that the run had.
    pub slot: Slot,
    /// Its first result, if the function has any.
    pub result: Result<Option<Value>, Failure>,
    /// What it used; `memory` is the most it held.
    pub usage: RunUsage,
}

/// A Wasm engine: a bounded arena, a table of modules and a worker for each slot.
pub trait Engine {
    /// Present state of the arena.
    fn arena(&self) -> ArenaUsage;

    /// Gives `module` a buffer of at least `len` bytes in the arena and keeps what it holds.
    ///
    /// # Errors
    /// The reason as text, if the arena has no such block.
    fn reserve(&mut self, module: ModuleId, len: usize) -> Result<(), Text>;

    /// The buffer of a reserved module that is not loaded yet; empty for any other.
    fn buffer(&mut self, module: ModuleId) -> &mut [u8];

    /// What the module in the first `len` bytes of the buffer would take; found without
    /// allocating.
    ///
    /// # Errors
    /// The reason as text, if they are no Wasm module.
    fn estimate(&mut self, module: ModuleId, len: usize, limits: &Limits) -> Result<Needs, Text>;

    /// Parses the first `len` bytes of the buffer.
    ///
    /// # Errors
    /// The reason as text; the module must be unloaded then.
    fn load(&mut self, module: ModuleId, len: usize) -> Result<(), Text>;

    /// Frees a module, loaded or only reserved; nothing if it is neither. No run uses it any more.
    fn unload(&mut self, module: ModuleId);

    /// Arena bytes that one more instance of a loaded module takes under `limits`.
    ///
    /// # Errors
    /// The reason as text, if the module can't run within `limits`.
    fn instance_bytes(&self, module: ModuleId, limits: &Limits) -> Result<usize, Text>;

    /// Parameters of an exported function; `None` if there is no such function.
    ///
    /// # Errors
    /// The reason as text, if it has parameters that a task can't pass.
    fn params(&self, module: ModuleId, export: &str) -> Result<Option<Params>, Text>;

    /// Starts a run on the worker of a free slot. Its end comes from [`poll_exit`](Self::poll_exit).
    fn spawn(&mut self, slot: Slot, call: &Call<'_>);

    /// Asks a run to end; it does so within a slice, and its exit says [`Failure::Interrupted`]
    /// unless it had already ended. Idempotent.
    fn interrupt(&mut self, slot: Slot);

    /// What a run has used so far; its memory is what it holds now.
    fn usage(&self, slot: Slot) -> RunUsage;

    /// What the proplet has used since boot.
    fn process(&self) -> ProcessUsage;

    /// The next run that has ended, if any.
    fn poll_exit(&mut self) -> Option<Exit>;
}
