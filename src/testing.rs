//! An engine and a store for tests: an arena in numbers, modules in name only, runs that end when the
//! test says so. Behind the feature `testing`, with std.

extern crate std;

use crate::{
    engine::*,
    memory::Shortage,
    module::table::Digest,
    store::{NOTE_MAX, Store},
    text::{Text, text},
    time::Duration,
};
use std::{
    cell::Cell,
    collections::VecDeque,
    ops::{Deref, DerefMut},
    rc::Rc,
    string::String,
    sync::{Arc, Mutex, MutexGuard},
    vec::Vec,
};

/// Bytes that the fake takes for an instance.
pub const INSTANCE: usize = 100;

/// Bytes that the fake takes for parsing.
pub const LOAD: usize = 10;

/// Bytes that count while they live.
#[derive(Debug, PartialEq, Eq)]
pub struct FakeBuffer {
    bytes: Vec<u8>,
    used: Rc<Cell<usize>>,
}

impl Deref for FakeBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for FakeBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for FakeBuffer {
    fn drop(&mut self) {
        self.used.set(self.used.get() - self.bytes.len());
    }
}

/// A value, and bytes that count while they live.
#[derive(Debug)]
pub struct FakeRecord<T> {
    value: T,
    bytes: Rc<FakeBuffer>,
}

/// Bytes of a record.
#[derive(Debug, Clone)]
pub struct FakeBytes(Rc<FakeBuffer>);

impl Deref for FakeBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<T> Record<T> for FakeRecord<T> {
    type Bytes = FakeBytes;

    fn value(&self) -> &T {
        &self.value
    }

    fn value_mut(&mut self) -> &mut T {
        &mut self.value
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        Rc::get_mut(&mut self.bytes).map_or(&mut [], |bytes| &mut **bytes)
    }

    fn share(&mut self) -> FakeBytes {
        FakeBytes(Rc::clone(&self.bytes))
    }
}

/// A run that was begun.
#[derive(Debug)]
pub struct Spawned {
    /// Its slot.
    pub slot: Slot,
    /// Its module.
    pub module: ModuleId,
    /// Name of the function that it calls.
    pub export: String,
    /// Arguments of the call.
    pub args: Vec<Value>,
    /// Its limits.
    pub limits: Limits,
    /// Data of its task.
    pub data: TaskData<FakeBuffer, FakeBytes>,
}

/// A module is text: `export(params)` lines, such as `main(i32 i32)`. `trap` as first line makes
/// it unloadable.
#[derive(Debug)]
pub struct FakeEngine {
    total: usize,
    used: Rc<Cell<usize>>,
    modules: Vec<(ModuleId, FakeBuffer)>,
    /// Runs under way.
    pub running: Vec<Spawned>,
    /// Those of them that were interrupted.
    pub interrupted: Vec<Slot>,
    /// Usage of each run.
    pub usage: RunUsage,
    exits: VecDeque<Exit<FakeBuffer>>,
    messages: VecDeque<(Slot, Message<FakeBuffer>)>,
    /// Messages that guests were given, with their topics.
    pub delivered: Vec<(Slot, String, Vec<u8>)>,
    /// Slots whose guests did not get a message.
    pub dropped: Vec<Slot>,
    /// Number of modules that were loaded.
    pub loads: usize,
}

impl FakeEngine {
    /// With an arena of `total` bytes.
    pub fn new(total: usize) -> Self {
        Self {
            total,
            used: Rc::new(Cell::new(0)),
            modules: Vec::new(),
            running: Vec::new(),
            interrupted: Vec::new(),
            usage: RunUsage::default(),
            exits: VecDeque::new(),
            messages: VecDeque::new(),
            delivered: Vec::new(),
            dropped: Vec::new(),
            loads: 0,
        }
    }

    /// The run in `slot`.
    pub fn run(&self, slot: Slot) -> &Spawned {
        let mut runs = self.running.iter();
        runs.find(|run| run.slot == slot).expect("it runs")
    }

    /// Ends the run in `slot`.
    pub fn exit(&mut self, slot: Slot, result: Result<Option<Value>, Failure<FakeBuffer>>) {
        self.exit_with(slot, result, None);
    }

    /// Ends the run in `slot`, whose guest has published `output` as its result.
    pub fn exit_with(
        &mut self,
        slot: Slot,
        result: Result<Option<Value>, Failure<FakeBuffer>>,
        output: Option<&str>,
    ) {
        let index = self
            .running
            .iter()
            .position(|run| run.slot == slot)
            .expect("nothing runs in this slot");
        self.running.remove(index);
        let output = output.map(|text| self.copy(text.as_bytes()));
        self.exits.push_back(Exit {
            slot,
            result,
            output,
            usage: RunUsage {
                cpu: Duration::from_millis(1),
                memory: INSTANCE,
                work: 7,
                pages: 2,
                dropped: 0,
            },
        });
    }

    /// Ends what was interrupted.
    pub fn exit_interrupted(&mut self) {
        for slot in std::mem::take(&mut self.interrupted) {
            self.exit(slot, Err(Failure::Interrupted));
        }
    }

    /// The guest in `slot` publishes.
    pub fn publish(&mut self, slot: Slot, topic: &str, payload: &[u8]) {
        let bytes = self.copy(&[topic.as_bytes(), payload].concat());
        let topic_len = topic.len();
        let message = Message::Publish { bytes, topic_len };
        self.messages.push_back((slot, message));
    }

    /// The guest in `slot` subscribes.
    pub fn subscribe(&mut self, slot: Slot, filter: &str) {
        let filter = self.copy(filter.as_bytes());
        self.messages
            .push_back((slot, Message::Subscribe { filter }));
    }

    /// A trap with these words, as far as there is room for them.
    pub fn trap(&self, words: &str) -> Failure<FakeBuffer> {
        let copy = self.allocate(words.len()).ok();
        Failure::Trap(copy.map(|mut copy| {
            copy.copy_from_slice(words.as_bytes());
            copy
        }))
    }

    fn copy(&self, bytes: &[u8]) -> FakeBuffer {
        let mut copy = self.allocate(bytes.len()).expect("there is room");
        copy.copy_from_slice(bytes);
        copy
    }

    fn exports(&self, module: ModuleId) -> String {
        let (_, bytes) = self
            .modules
            .iter()
            .find(|(id, _)| *id == module)
            .expect("module is not loaded");
        String::from_utf8_lossy(bytes).into_owned()
    }
}

impl Engine for FakeEngine {
    type Buffer = FakeBuffer;
    type Bytes = FakeBytes;
    type Record<T> = FakeRecord<T>;

    fn arena(&self) -> ArenaUsage {
        let taken = self.modules.len() * LOAD + self.running.len() * INSTANCE;
        let free = self.total - self.used.get() - taken;
        ArenaUsage {
            total: self.total,
            free,
            free_min: free,
            reserve: 0,
            pages: 3,
            page_bytes: 1024,
        }
    }

    fn allocate(&self, len: usize) -> Result<FakeBuffer, Shortage> {
        let mut buffer = FakeBuffer {
            bytes: Vec::new(),
            used: Rc::clone(&self.used),
        };
        let free = self.arena().free;
        if len > free {
            return Err(Shortage::Block { len, free });
        }
        self.resize(&mut buffer, len)?;
        Ok(buffer)
    }

    fn record<T>(&self, value: T, len: usize) -> Result<FakeRecord<T>, Shortage> {
        let bytes = Rc::new(self.allocate(len)?);
        Ok(FakeRecord { value, bytes })
    }

    fn record_bytes<T>(len: usize) -> usize {
        len
    }

    fn resize(&self, buffer: &mut FakeBuffer, len: usize) -> Result<(), Shortage> {
        let old = buffer.bytes.len();
        assert!(len <= old + self.arena().free, "not admitted");
        self.used.set(self.used.get() + len - old);
        buffer.bytes.resize(len, 0);
        Ok(())
    }

    fn estimate(&self, bytes: &[u8], _: &Limits) -> Result<Needs, EngineError<FakeBuffer>> {
        if bytes.starts_with(b"trap") {
            return Err(self.words(format_args!("magic header not detected")));
        }
        Ok(Needs {
            load: LOAD,
            instance: INSTANCE,
        })
    }

    fn load(&mut self, module: ModuleId, bytes: FakeBuffer) -> Result<(), EngineError<FakeBuffer>> {
        assert!(
            self.modules.iter().all(|(id, _)| *id != module),
            "it is taken"
        );
        self.modules.push((module, bytes));
        self.loads += 1;
        Ok(())
    }

    fn unload(&mut self, module: ModuleId) {
        assert!(
            self.running.iter().all(|run| run.module != module),
            "unloaded a module that runs"
        );
        self.modules.retain(|(id, _)| *id != module);
    }

    fn instance_needs(
        &self,
        module: ModuleId,
        _: &Limits,
    ) -> Result<InstanceNeeds, EngineError<FakeBuffer>> {
        self.exports(module);
        Ok(InstanceNeeds {
            own: INSTANCE,
            memory: 0,
            shared: 0,
        })
    }

    fn params(
        &self,
        module: ModuleId,
        export: &str,
    ) -> Result<Option<Params>, EngineError<FakeBuffer>> {
        let exports = self.exports(module);
        Ok(exports.lines().find_map(|line| {
            let (name, rest) = line.split_once('(')?;
            (name == export).then(|| {
                rest.trim_end_matches(')')
                    .split_whitespace()
                    .map(|ty| match ty {
                        "i64" => ValType::I64,
                        "f32" => ValType::F32,
                        "f64" => ValType::F64,
                        _ => ValType::I32,
                    })
                    .collect()
            })
        }))
    }

    fn spawn(
        &mut self,
        slot: Slot,
        call: &Call<'_>,
        data: TaskData<FakeBuffer, FakeBytes>,
    ) -> Result<(), EngineError<FakeBuffer>> {
        assert!(self.running.iter().all(|run| run.slot != slot));
        self.running.push(Spawned {
            slot,
            module: call.module,
            export: call.export.into(),
            args: call.args.to_vec(),
            limits: call.limits,
            data,
        });
        Ok(())
    }

    fn interrupt(&mut self, slot: Slot) {
        let runs = self.running.iter().any(|run| run.slot == slot);
        assert!(runs || self.has_exited(slot));
        if runs {
            self.interrupted.push(slot);
        }
    }

    fn usage(&self, _: Slot) -> RunUsage {
        self.usage
    }

    fn process(&self) -> ProcessUsage {
        ProcessUsage::default()
    }

    fn exited(&mut self) -> Option<Slot> {
        self.exits.front().map(|exit| exit.slot)
    }

    fn has_exited(&self, slot: Slot) -> bool {
        self.exits.iter().any(|exit| exit.slot == slot)
    }

    fn take_exit(&mut self, slot: Slot) -> Option<Exit<FakeBuffer>> {
        let index = self.exits.iter().position(|exit| exit.slot == slot)?;
        self.messages.retain(|(of, _)| *of != slot);
        self.exits.remove(index)
    }

    fn poll_message(&mut self) -> Option<(Slot, Message<FakeBuffer>)> {
        self.messages.pop_front()
    }

    fn take_message(&mut self, slot: Slot) -> Option<Message<FakeBuffer>> {
        let index = self.messages.iter().position(|(of, _)| *of == slot)?;
        self.messages.remove(index).map(|(_, message)| message)
    }

    fn drop_message(&mut self, slot: Slot) {
        self.dropped.push(slot);
    }

    fn deliver(&mut self, slot: Slot, topic: &str, payload: &[u8]) {
        self.delivered.push((slot, topic.into(), payload.to_vec()));
    }
}

/// Contents of a [`FakeStore`].
#[derive(Debug, Default)]
pub struct Kept {
    /// Modules by their digests.
    pub modules: Vec<(Digest, Vec<u8>)>,
    /// Records by their indexes.
    pub records: Vec<(u8, Vec<u8>)>,
    /// Notes by their indexes.
    pub notes: Vec<(u8, Vec<u8>)>,
    /// Whether no further module finds room.
    pub is_full: bool,
    /// Whether writing and removing notes fails.
    pub fails: bool,
    /// Writes and removals of notes so far.
    pub note_writes: usize,
}

/// Notes that a [`FakeStore`] has room for.
pub const NOTES: u8 = 4;

/// A store in memory; clones share it, as the boots of a device do.
#[derive(Debug, Clone, Default)]
pub struct FakeStore(Arc<Mutex<Kept>>);

impl FakeStore {
    /// A store of its own with what is in this one now.
    pub fn copy(&self) -> Self {
        let copy = Self::default();
        {
            let (from, mut to) = (self.kept(), copy.kept());
            to.modules.clone_from(&from.modules);
            to.records.clone_from(&from.records);
            to.notes.clone_from(&from.notes);
        }
        copy
    }

    /// Its contents, locked.
    pub fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("no test panics with it")
    }
}

impl Store for FakeStore {
    fn module_len(&mut self, digest: &Digest) -> Option<usize> {
        let kept = self.kept();
        let found = kept.modules.iter().find(|(known, _)| known == digest);
        found.map(|(_, bytes)| bytes.len())
    }

    fn read_module(&mut self, digest: &Digest, into: &mut [u8]) -> Result<(), Text> {
        let kept = self.kept();
        let found = kept.modules.iter().find(|(known, _)| known == digest);
        into.copy_from_slice(&found.expect("it is there").1);
        Ok(())
    }

    fn write_module(&mut self, digest: &Digest, bytes: &[u8], seal: &[u8]) -> Result<(), Text> {
        let has = self.module_len(digest).is_some();
        let mut kept = self.kept();
        match (has, kept.is_full) {
            (true, _) => Ok(()),
            (false, true) => Err(text(format_args!("the store is full"))),
            (false, false) => {
                kept.modules.push((*digest, [bytes, seal].concat()));
                Ok(())
            }
        }
    }

    fn remove_module(&mut self, digest: &Digest) -> Result<(), Text> {
        self.kept().modules.retain(|(known, _)| known != digest);
        Ok(())
    }

    fn read_record(&mut self, index: u8, into: &mut [u8]) -> Result<Option<usize>, Text> {
        let kept = self.kept();
        let found = kept.records.iter().find(|(at, _)| *at == index);
        Ok(found.map(|(_, bytes)| {
            into[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        }))
    }

    fn write_record(&mut self, index: u8, bytes: &[u8]) -> Result<(), Text> {
        self.remove_record(index)?;
        self.kept().records.push((index, bytes.to_vec()));
        Ok(())
    }

    fn remove_record(&mut self, index: u8) -> Result<(), Text> {
        self.kept().records.retain(|(at, _)| *at != index);
        Ok(())
    }

    fn notes(&self) -> u8 {
        NOTES
    }

    fn read_note(&mut self, index: u8, into: &mut [u8]) -> Result<Option<usize>, Text> {
        let kept = self.kept();
        let found = kept.notes.iter().find(|(at, _)| *at == index);
        Ok(found.map(|(_, bytes)| {
            into[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        }))
    }

    fn write_note(&mut self, index: u8, bytes: &[u8]) -> Result<(), Text> {
        assert!(index < NOTES && (1..=NOTE_MAX).contains(&bytes.len()));
        let mut kept = self.kept();
        if kept.fails {
            return Err(text(format_args!("the medium fails")));
        }
        kept.note_writes += 1;
        kept.notes.retain(|(at, _)| *at != index);
        kept.notes.push((index, bytes.to_vec()));
        Ok(())
    }

    fn remove_note(&mut self, index: u8) -> Result<(), Text> {
        let mut kept = self.kept();
        if kept.fails {
            return Err(text(format_args!("the medium fails")));
        }
        kept.note_writes += 1;
        kept.notes.retain(|(at, _)| *at != index);
        Ok(())
    }
}
