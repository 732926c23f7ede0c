//! An engine for tests of the core: an arena in numbers, modules in name only, runs that end
//! when the test says so.

extern crate std;

use crate::{engine::*, time::Duration};
use std::{collections::VecDeque, string::String, vec::Vec};

/// What the fake takes for an instance.
pub(crate) const INSTANCE: usize = 100;

/// What the fake takes for parsing.
pub(crate) const LOAD: usize = 10;

#[derive(Debug, Clone)]
pub(crate) struct Spawned {
    pub(crate) slot: Slot,
    pub(crate) module: ModuleId,
    pub(crate) export: String,
    pub(crate) args: Vec<Value>,
    pub(crate) limits: Limits,
}

/// A module is text: `export(params)` lines, such as `main(i32 i32)`. `trap` as first line makes
/// it unloadable.
#[derive(Debug)]
pub(crate) struct FakeEngine {
    total: usize,
    buffers: Vec<(ModuleId, Vec<u8>, bool)>,
    pub(crate) running: Vec<Spawned>,
    pub(crate) interrupted: Vec<Slot>,
    pub(crate) usage: RunUsage,
    exits: VecDeque<Exit>,
    pub(crate) loads: usize,
}

impl FakeEngine {
    pub(crate) fn new(total: usize) -> Self {
        Self {
            total,
            buffers: Vec::new(),
            running: Vec::new(),
            interrupted: Vec::new(),
            usage: RunUsage::default(),
            exits: VecDeque::new(),
            loads: 0,
        }
    }

    /// Ends the run in `slot`.
    pub(crate) fn exit(&mut self, slot: Slot, result: Result<Option<Value>, Failure>) {
        let index = self
            .running
            .iter()
            .position(|run| run.slot == slot)
            .expect("nothing runs in this slot");
        self.running.remove(index);
        self.exits.push_back(Exit {
            slot,
            result,
            usage: RunUsage {
                cpu: Duration::from_millis(1),
                memory: INSTANCE,
                work: 7,
            },
        });
    }

    /// Ends what was interrupted.
    pub(crate) fn exit_interrupted(&mut self) {
        for slot in std::mem::take(&mut self.interrupted) {
            self.exit(slot, Err(Failure::Interrupted));
        }
    }

    fn exports(&self, module: ModuleId) -> String {
        let (_, bytes, _) = self
            .buffers
            .iter()
            .find(|(id, _, loaded)| *id == module && *loaded)
            .expect("module is not loaded");
        String::from_utf8_lossy(bytes).into_owned()
    }
}

impl Engine for FakeEngine {
    fn arena(&self) -> ArenaUsage {
        let modules: usize = self
            .buffers
            .iter()
            .map(|(_, bytes, loaded)| bytes.len() + if *loaded { LOAD } else { 0 })
            .sum();
        let free = self.total - modules - self.running.len() * INSTANCE;
        ArenaUsage {
            total: self.total,
            free,
            free_min: free,
        }
    }

    fn reserve(&mut self, module: ModuleId, len: usize) -> Result<(), Text> {
        let old = self.buffer(module).to_vec();
        assert!(len <= old.len() + self.arena().free, "not admitted");
        self.unload(module);
        let mut bytes = old;
        bytes.resize(len.max(bytes.len()), 0);
        self.buffers.push((module, bytes, false));
        Ok(())
    }

    fn buffer(&mut self, module: ModuleId) -> &mut [u8] {
        self.buffers
            .iter_mut()
            .find(|(id, _, loaded)| *id == module && !loaded)
            .map_or(&mut [], |(_, bytes, _)| bytes)
    }

    fn estimate(&mut self, module: ModuleId, len: usize, _: &Limits) -> Result<Needs, Text> {
        if self.buffer(module)[..len].starts_with(b"trap") {
            return Err(text(format_args!("magic header not detected")));
        }
        Ok(Needs {
            load: LOAD,
            instance: INSTANCE,
        })
    }

    fn load(&mut self, module: ModuleId, len: usize) -> Result<(), Text> {
        let entry = self
            .buffers
            .iter_mut()
            .find(|(id, _, _)| *id == module)
            .expect("module is not reserved");
        entry.1.truncate(len);
        entry.2 = true;
        self.loads += 1;
        Ok(())
    }

    fn unload(&mut self, module: ModuleId) {
        assert!(
            self.running.iter().all(|run| run.module != module),
            "unloaded a module that runs"
        );
        self.buffers.retain(|(id, _, _)| *id != module);
    }

    fn instance_bytes(&self, module: ModuleId, _: &Limits) -> Result<usize, Text> {
        self.exports(module);
        Ok(INSTANCE)
    }

    fn params(&self, module: ModuleId, export: &str) -> Result<Option<Params>, Text> {
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

    fn spawn(&mut self, slot: Slot, call: &Call<'_>) {
        assert!(self.running.iter().all(|run| run.slot != slot));
        self.running.push(Spawned {
            slot,
            module: call.module,
            export: call.export.into(),
            args: call.args.to_vec(),
            limits: call.limits,
        });
    }

    fn interrupt(&mut self, slot: Slot) {
        assert!(self.running.iter().any(|run| run.slot == slot));
        self.interrupted.push(slot);
    }

    fn usage(&self, _: Slot) -> RunUsage {
        self.usage
    }

    fn process(&self) -> ProcessUsage {
        ProcessUsage::default()
    }

    fn poll_exit(&mut self) -> Option<Exit> {
        self.exits.pop_front()
    }
}
