//! Chunk assembly: any sequence of chunks, with lies about index, total and length.
#![no_main]

use base64::{Engine as _, prelude::BASE64_STANDARD};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use proplet::{
    engine::{
        ArenaUsage, Call, Engine, Exit, Limits, ModuleId, Needs, Params, ProcessUsage, RunUsage,
        Slot, Text,
    },
    module::assembly::Assembly,
    time::Instant,
    wire::Chunk,
};

const ARENA: usize = 4096;

/// One buffer, and nothing to run in it.
#[derive(Default)]
struct Buffer(Vec<u8>);

impl Engine for Buffer {
    fn arena(&self) -> ArenaUsage {
        ArenaUsage {
            total: ARENA,
            free: ARENA - self.0.len(),
            free_min: 0,
        }
    }

    fn reserve(&mut self, _: ModuleId, len: usize) -> Result<(), Text> {
        assert!(len <= ARENA, "reserved {len} bytes without admission");
        self.0.resize(len.max(self.0.len()), 0);
        Ok(())
    }

    fn buffer(&mut self, _: ModuleId) -> &mut [u8] {
        &mut self.0
    }

    fn estimate(&mut self, _: ModuleId, _: usize, _: &Limits) -> Result<Needs, Text> {
        unreachable!("assembly doesn't parse")
    }

    fn load(&mut self, _: ModuleId, _: usize) -> Result<(), Text> {
        unreachable!("assembly doesn't parse")
    }

    fn unload(&mut self, _: ModuleId) {}

    fn instance_bytes(&self, _: ModuleId, _: &Limits) -> Result<usize, Text> {
        unreachable!("assembly runs nothing")
    }

    fn params(&self, _: ModuleId, _: &str) -> Result<Option<Params>, Text> {
        unreachable!("assembly runs nothing")
    }

    fn spawn(&mut self, _: Slot, _: &Call<'_>) {
        unreachable!("assembly runs nothing")
    }

    fn interrupt(&mut self, _: Slot) {}

    fn usage(&self, _: Slot) -> RunUsage {
        RunUsage::default()
    }

    fn process(&self) -> ProcessUsage {
        ProcessUsage::default()
    }

    fn poll_exit(&mut self) -> Option<Exit> {
        None
    }
}

#[derive(Arbitrary, Debug)]
struct Part {
    index: u32,
    total: u32,
    data: Data,
}

#[derive(Arbitrary, Debug)]
enum Data {
    Bytes(Vec<u8>),
    Text(String),
}

fuzz_target!(|parts: Vec<Part>| {
    let module = ModuleId(0);
    let mut engine = Buffer::default();
    let mut assembly = Assembly::begin("app", module, Instant::BOOT).expect("a short name");
    let mut taken: Vec<(u32, Vec<u8>)> = Vec::new();
    for part in parts {
        let data = match &part.data {
            Data::Bytes(bytes) => BASE64_STANDARD.encode(bytes),
            Data::Text(text) => text.clone(),
        };
        let chunk = Chunk {
            app_name: "app",
            chunk_idx: part.index,
            total_chunks: part.total,
            data: &data,
        };
        let before = assembly.progress().0;
        match assembly.accept(&chunk, &mut engine) {
            Err(_) => return,
            Ok(done) => {
                if assembly.progress().0 > before {
                    let bytes = BASE64_STANDARD.decode(&data).expect("it was accepted");
                    taken.push((part.index, bytes));
                }
                if let Some(len) = done {
                    taken.sort_by_key(|(index, _)| *index);
                    let whole: Vec<u8> = taken.into_iter().flat_map(|(_, bytes)| bytes).collect();
                    assert_eq!(engine.0[..len], whole);
                    return;
                }
            }
        }
    }
});
