//! The agent's engine.

use crate::{platform::Platform, worker::Workers};
use proplet::engine::{
    ArenaUsage, Call, Engine, Exit, InstanceNeeds, Limits, Message, ModuleId, Needs, Params,
    ProcessUsage, RunUsage, Slot, TaskData, Text, ValType, Value, text,
};
use wamr::{Buffer, ErrorKind, Module, Runtime};

/// Memory of one entry of the module table.
#[derive(Debug, Default)]
pub struct ModuleState(Option<Module>);

/// WAMR as the agent's engine; it belongs to the control thread.
#[derive(Debug)]
pub struct WamrEngine<P: 'static> {
    runtime: Runtime,
    workers: &'static Workers<P>,
    modules: &'static mut [ModuleState],
}

impl<P: Platform> WamrEngine<P> {
    /// `modules` is as long as the agent's module table.
    pub const fn new(
        runtime: Runtime,
        workers: &'static Workers<P>,
        modules: &'static mut [ModuleState],
    ) -> Self {
        Self {
            runtime,
            workers,
            modules,
        }
    }

    fn state(&mut self, module: ModuleId) -> &mut Option<Module> {
        &mut self.modules[usize::from(module.0)].0
    }

    fn module(&self, module: ModuleId) -> Result<&Module, Text> {
        let loaded = self.modules[usize::from(module.0)].0.as_ref();
        loaded.ok_or_else(|| text(format_args!("module {} is not loaded", module.0)))
    }
}

fn words(error: wamr::Error) -> Text {
    text(format_args!("{error}"))
}

pub(crate) fn to_wamr(value: Value) -> wamr::Value {
    match value {
        Value::I32(v) => wamr::Value::I32(v),
        Value::I64(v) => wamr::Value::I64(v),
        Value::F32(v) => wamr::Value::F32(v),
        Value::F64(v) => wamr::Value::F64(v),
    }
}

pub(crate) fn from_wamr(value: wamr::Value) -> Value {
    match value {
        wamr::Value::I32(v) => Value::I32(v),
        wamr::Value::I64(v) => Value::I64(v),
        wamr::Value::F32(v) => Value::F32(v),
        wamr::Value::F64(v) => Value::F64(v),
    }
}

impl<P: Platform> Engine for WamrEngine<P> {
    type Buffer = Buffer;

    fn arena(&self) -> ArenaUsage {
        let memory = self.runtime.memory();
        ArenaUsage {
            total: memory.total as usize,
            free: (memory.free as usize).saturating_sub(self.workers.promised()),
            free_min: memory.min_free as usize,
        }
    }

    fn allocate(&mut self, len: usize) -> Result<Buffer, Text> {
        self.runtime.buffer(len).map_err(words)
    }

    fn resize(&mut self, buffer: &mut Buffer, len: usize) -> Result<(), Text> {
        buffer.resize(len).map_err(words)
    }

    /// Without the linear memory: a module may say how much of that it uses, but that is known
    /// only when it is loaded.
    fn estimate(&self, wasm: &[u8], _: &Limits) -> Result<Needs, Text> {
        let needs = wamr::estimate(wasm).map_err(words)?;
        Ok(Needs {
            // The buffer is there already.
            load: bytes(needs.load.saturating_sub(wasm.len() as u64)),
            instance: bytes(needs.tables + needs.instance + needs.call),
        })
    }

    fn load(&mut self, module: ModuleId, bytes: Buffer) -> Result<(), Text> {
        *self.state(module) = Some(Module::load(bytes).map_err(words)?);
        Ok(())
    }

    fn unload(&mut self, module: ModuleId) {
        *self.state(module) = None;
    }

    fn instance_needs(&self, module: ModuleId, limits: &Limits) -> Result<InstanceNeeds, Text> {
        let module = self.module(module)?;
        let needs = module.needs();
        let memory = module.memory().map_or(0, |memory| {
            u64::from(memory.page_bytes) * u64::from(memory.initial_pages)
        });
        let saved = memory - initial_memory(memory, limits)?;
        let memory = needs.linear_memory.saturating_sub(saved);
        // The first run's instance makes what all share.
        let shared = match module.is_shared() {
            true => 0,
            false => needs.tables,
        };
        Ok(InstanceNeeds {
            // Of what all share, an instance has a part twice while it is made; what its call will
            // keep has its room then.
            own: bytes(needs.instance + needs.call.max(needs.copy) + memory),
            shared: bytes(shared),
        })
    }

    fn params(&self, module: ModuleId, export: &str) -> Result<Option<Params>, Text> {
        let signature = match self.module(module)?.function(export) {
            Ok(signature) => signature,
            Err(e) if e.kind() == ErrorKind::NoSuchFunction => return Ok(None),
            Err(e) => return Err(words(e)),
        };
        let params = signature.params().iter().map(|ty| match ty {
            wamr::ValType::I32 => ValType::I32,
            wamr::ValType::I64 => ValType::I64,
            wamr::ValType::F32 => ValType::F32,
            wamr::ValType::F64 => ValType::F64,
        });
        Ok(Some(params.collect()))
    }

    fn spawn(&mut self, slot: Slot, call: &Call<'_>, data: TaskData<Buffer>) {
        let needs = self.instance_needs(call.module, &call.limits);
        let bytes = needs.map_or(0, |needs| needs.total());
        if let Some(module) = &self.modules[usize::from(call.module.0)].0 {
            self.workers.spawn(slot, module.clone(), call, data, bytes);
        } else {
            debug_assert!(false, "module {} is not loaded", call.module.0);
        }
    }

    fn interrupt(&mut self, slot: Slot) {
        self.workers.interrupt(slot);
    }

    fn usage(&self, slot: Slot) -> RunUsage {
        self.workers.usage(slot)
    }

    fn process(&self) -> ProcessUsage {
        self.workers.platform().process()
    }

    fn poll_exit(&mut self) -> Option<Exit<Buffer>> {
        self.workers.poll_exit()
    }

    fn poll_message(&mut self, slot: Slot) -> Option<Message<Buffer>> {
        self.workers.poll_message(slot)
    }

    fn deliver(&mut self, slot: Slot, topic: &str, payload: &[u8]) {
        self.workers.deliver(self.runtime, slot, topic, payload);
    }
}

/// More than the address space is as much as all of it: neither fits.
fn bytes(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Bytes of linear memory that a module which says `initial` bytes begins with.
fn initial_memory(initial: u64, limits: &Limits) -> Result<u64, Text> {
    /// What WAMR cuts a memory to a multiple of.
    const GRAIN: u64 = 4096;
    match (limits.memory_cap, limits.memory_max) {
        (Some(cap), _) if cap < initial => Ok(cap / GRAIN * GRAIN),
        (None, Some(max)) if initial > max => Err(text(format_args!(
            "the module needs {initial} bytes of memory, this proplet allows {max}"
        ))),
        _ => Ok(initial),
    }
}
