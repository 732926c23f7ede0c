//! The agent's engine.

use crate::{
    platform::Platform,
    task::Refused,
    worker::{Workers, reserve},
};
use proplet::config::TaskLimits;
use proplet::{
    engine::{
        ArenaUsage, Call, Engine, EngineError, Exit, InstanceNeeds, Limits, Message, ModuleId,
        Needs, Params, ProcessUsage, RunUsage, Slot, TaskData, ValType,
    },
    memory::Shortage,
};
use wamr::{Buffer, Bytes, ErrorKind, Module};

/// Memory of one entry of the module table.
#[derive(Debug, Default)]
pub struct ModuleState(Option<Module>);

/// A value in the arena, with bytes behind it.
#[derive(Debug)]
pub struct Record<T>(wamr::Record<T>);

impl<T> proplet::engine::Record<T> for Record<T> {
    type Bytes = Bytes;

    fn value(&self) -> &T {
        self.0.value()
    }

    fn value_mut(&mut self) -> &mut T {
        self.0.value_mut()
    }

    fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }

    fn share(&mut self) -> Bytes {
        self.0.share()
    }
}

/// WAMR as the agent's engine; it belongs to the control thread.
#[derive(Debug)]
pub struct WamrEngine<P: 'static> {
    workers: &'static Workers<P>,
    modules: &'static mut [ModuleState],
}

impl<P: Platform> WamrEngine<P> {
    /// `modules` is as long as the agent's module table.
    pub const fn new(workers: &'static Workers<P>, modules: &'static mut [ModuleState]) -> Self {
        Self { workers, modules }
    }

    fn state(&mut self, module: ModuleId) -> &mut Option<Module> {
        &mut self.modules[usize::from(module.0)].0
    }

    /// An instance that would fit finds the arena in pieces, or it does not fit.
    fn no_room(&self, needs: &InstanceNeeds) -> Shortage {
        Shortage::Pieces {
            purpose: needs.purpose(),
            need: needs.total(),
            free: self.arena().available(),
            largest: self.workers.runtime.memory().largest_free as usize,
        }
    }

    fn no_block(&self, len: usize) -> Shortage {
        let free = self.arena().free;
        Shortage::Block { len, free }
    }

    /// Arena bytes that a linear memory begins with.
    fn memory(&self, needs: &wamr::Needs) -> u64 {
        match self.workers.config.memory_commit {
            true => needs.memory.committed,
            false => needs.memory.made,
        }
    }

    /// Refuses a memory of which more is taken at the start than the task may hold.
    fn check_memory(&self, module: &Module, limits: &Limits) -> Result<(), EngineError<Buffer>> {
        if !self.workers.config.memory_commit && wamr::page_bytes() > 0 {
            return Ok(());
        }
        let pages = module.memory().map_or(0, |memory| memory.initial_pages);
        let declared = u64::from(pages) * u64::from(WASM_PAGE);
        match limits.memory_max {
            Some(max) if declared > max => Err(self.words(format_args!(
                "out of memory: the module's memory of {declared} bytes is taken at the start, the task may have {max} of it"
            ))),
            _ => Ok(()),
        }
    }

    fn module(&self, module: ModuleId) -> Result<&Module, EngineError<Buffer>> {
        let loaded = self.modules[usize::from(module.0)].0.as_ref();
        loaded.ok_or_else(|| self.words(format_args!("module {} is not loaded", module.0)))
    }
}

impl<P: Platform> Engine for WamrEngine<P> {
    type Buffer = Buffer;

    type Bytes = Bytes;

    type Record<T> = Record<T>;

    fn arena(&self) -> ArenaUsage {
        let memory = self.workers.runtime.memory();
        ArenaUsage {
            total: memory.total as usize,
            free: memory.free as usize,
            free_min: memory.min_free as usize,
            reserve: reserve(memory.total) as usize,
            pages: memory.pages,
            page_bytes: wamr::page_bytes(),
        }
    }

    fn allocate(&self, len: usize) -> Result<Buffer, Shortage> {
        let buffer = self.workers.runtime.try_buffer(len);
        buffer.ok_or_else(|| self.no_block(len))
    }

    fn record<T>(&self, value: T, len: usize) -> Result<Record<T>, Shortage> {
        let record = self.workers.runtime.record(value, len);
        record
            .map(Record)
            .map_err(|_| self.no_block(Self::record_bytes::<T>(len)))
    }

    fn record_bytes<T>(len: usize) -> usize {
        wamr::Record::<T>::block_bytes(len)
    }

    fn resize(&self, buffer: &mut Buffer, len: usize) -> Result<(), Shortage> {
        buffer.resize(len).map_err(|_| self.no_block(len))
    }

    /// Without the linear memory: what that takes is known only when the module is loaded.
    fn estimate(&self, wasm: &[u8], _: &Limits) -> Result<Needs, EngineError<Buffer>> {
        let needs = wamr::estimate(wasm).map_err(|e| self.words(format_args!("{e}")))?;
        Ok(Needs {
            // The buffer is there already.
            load: bytes(needs.load.saturating_sub(wasm.len() as u64)),
            instance: bytes(needs.tables + needs.instance + needs.call),
        })
    }

    fn load(&mut self, module: ModuleId, bytes: Buffer) -> Result<(), EngineError<Buffer>> {
        let loaded = Module::load(bytes).map_err(|e| self.words(format_args!("{e}")))?;
        *self.state(module) = Some(loaded);
        Ok(())
    }

    fn unload(&mut self, module: ModuleId) {
        *self.state(module) = None;
    }

    fn instance_needs(
        &self,
        module: ModuleId,
        limits: &Limits,
    ) -> Result<InstanceNeeds, EngineError<Buffer>> {
        let module = self.module(module)?;
        self.check_memory(module, limits)?;
        let needs = module.needs();
        // The first run's instance makes what all share.
        let shared = match module.is_shared() {
            true => 0,
            false => needs.tables,
        };
        Ok(InstanceNeeds {
            // Of what all share, an instance has a part twice while it is made; what its call will
            // keep has its room then.
            own: bytes(needs.instance + needs.call.max(needs.copy) + self.memory(&needs))
                .saturating_add(Workers::<P>::task_bytes(module)),
            memory: bytes(self.memory(&needs)),
            shared: bytes(shared),
        })
    }

    fn params(
        &self,
        module: ModuleId,
        export: &str,
    ) -> Result<Option<Params>, EngineError<Buffer>> {
        let signature = match self.module(module)?.function(export) {
            Ok(signature) => signature,
            Err(e) if e.kind() == ErrorKind::NoSuchFunction => return Ok(None),
            Err(e) => return Err(self.words(format_args!("{e}"))),
        };
        let params = signature.params().iter().map(|ty| match ty {
            wamr::ValType::I32 => ValType::I32,
            wamr::ValType::I64 => ValType::I64,
            wamr::ValType::F32 => ValType::F32,
            wamr::ValType::F64 => ValType::F64,
        });
        Ok(Some(params.collect()))
    }

    fn spawn(
        &mut self,
        slot: Slot,
        call: &Call<'_>,
        data: TaskData<Buffer, Bytes>,
    ) -> Result<(), EngineError<Buffer>> {
        let needs = self.instance_needs(call.module, &call.limits)?;
        let need = u32::try_from(needs.total()).unwrap_or(u32::MAX);
        let module = self.module(call.module)?;
        let spawned = match self.workers.runtime.promise(need) {
            Some(_promise) => self.workers.spawn(slot, module, call, data),
            None => Err(Refused::NoRoom),
        };
        spawned.map_err(|refused| match refused {
            Refused::Taken => self.words(format_args!("slot {} is not free", slot.0)),
            Refused::Error(error) => self.words(format_args!("{error}")),
            Refused::Trap(trap) => self.words(format_args!("{trap}")),
            Refused::NoRoom => self.no_room(&needs).into(),
        })
    }

    fn interrupt(&mut self, slot: Slot) {
        self.workers.interrupt(slot);
    }

    fn usage(&self, slot: Slot) -> RunUsage {
        self.workers.usage(slot)
    }

    fn process(&self) -> ProcessUsage {
        let platform = self.workers.platform();
        ProcessUsage {
            slow_steps: self.workers.slow_steps(),
            longest_step: self.workers.longest_step(platform.now()),
            ..platform.process()
        }
    }

    fn exited(&mut self) -> Option<Slot> {
        self.workers.queue(|queue| queue.ended())
    }

    fn has_exited(&self, slot: Slot) -> bool {
        self.workers.queue(|queue| queue.has_ended(slot))
    }

    fn take_exit(&mut self, slot: Slot) -> Option<Exit<Buffer>> {
        self.workers.take_exit(slot)
    }

    fn poll_message(&mut self) -> Option<(Slot, Message<Buffer>)> {
        self.workers.poll_message()
    }

    fn take_message(&mut self, slot: Slot) -> Option<Message<Buffer>> {
        self.workers.take_message(slot)
    }

    fn drop_message(&mut self, slot: Slot) {
        self.workers.drop_message(slot);
    }

    fn deliver(&mut self, slot: Slot, topic: &str, payload: &[u8]) {
        self.workers.deliver(slot, topic, payload);
    }
}

/// Limits of a device with an arena of `arena_bytes`: the linear memory that a task may write to is a
/// quarter of the arena where they don't say, but for flat memories, and a page at least.
#[must_use]
pub fn with_memory(limits: TaskLimits, arena_bytes: u64) -> TaskLimits {
    let page = memory_least();
    let quarter = (wamr::page_bytes() > 0).then_some(arena_bytes / 4);
    let most = limits.memory.or(quarter);
    TaskLimits {
        memory: most.map(|bytes| bytes.max(page.into())),
        page,
        ..limits
    }
}

/// The least bytes that a bound on a task's linear memory can be: one page, of WebAssembly where memories
/// are flat.
#[must_use]
pub fn memory_least() -> u32 {
    match wamr::page_bytes() {
        0 => WASM_PAGE,
        page => page,
    }
}

const WASM_PAGE: u32 = 65_536;

/// More than the address space is as much as all of it: neither fits.
fn bytes(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
