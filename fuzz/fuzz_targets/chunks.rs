//! Chunk assembly: any sequence of chunks, with lies about index, total and length.
#![no_main]

use base64::{Engine as _, prelude::BASE64_STANDARD};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use proplet::{
    engine::{ArenaUsage, Call, Engine, Exit, InstanceNeeds, Limits, Message, ModuleId, Needs, Params, ProcessUsage, Record, RunUsage, Slot, TaskData}, text::Text,
    module::chunks::Chunks,
    wire::Chunk,
};

const ARENA: usize = 4096;

/// An arena with room for one buffer, and nothing to run in it.
struct OneBuffer;

/// No record is ever made.
enum NoRecord {}

impl<T> Record<T> for NoRecord {
    type Bytes = Vec<u8>;

    fn value(&self) -> &T {
        match *self {}
    }

    fn value_mut(&mut self) -> &mut T {
        match *self {}
    }

    fn bytes(&self) -> &[u8] {
        match *self {}
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match *self {}
    }

    fn share(&mut self) -> Vec<u8> {
        match *self {}
    }
}

impl Engine for OneBuffer {
    type Buffer = Vec<u8>;
    type Bytes = Vec<u8>;
    type Record<T> = NoRecord;

    fn arena(&self) -> ArenaUsage {
        ArenaUsage {
            total: ARENA,
            free: ARENA,
            free_min: ARENA,
            reserve: 0,
            pages: 0,
            page_bytes: 0,
        }
    }

    fn allocate(&mut self, len: usize) -> Result<Vec<u8>, Text> {
        assert!(len <= ARENA, "allocated {len} bytes without admission");
        Ok(vec![0; len])
    }

    fn record<T>(&mut self, _: T, _: usize) -> Result<NoRecord, Text> {
        unreachable!("chunks are in buffers")
    }

    fn record_bytes<T>(_: usize) -> usize {
        unreachable!("chunks are in buffers")
    }

    fn resize(&mut self, buffer: &mut Vec<u8>, len: usize) -> Result<(), Text> {
        assert!(len <= 2 * ARENA, "allocated {len} bytes without admission");
        buffer.resize(len, 0);
        Ok(())
    }

    fn estimate(&self, _: &[u8], _: &Limits) -> Result<Needs, Text> {
        unreachable!("chunks are not parsed")
    }

    fn load(&mut self, _: ModuleId, _: Vec<u8>) -> Result<(), Text> {
        unreachable!("chunks are not parsed")
    }

    fn unload(&mut self, _: ModuleId) {}

    fn instance_needs(&self, _: ModuleId, _: &Limits) -> Result<InstanceNeeds, Text> {
        unreachable!("nothing runs")
    }

    fn params(&self, _: ModuleId, _: &str) -> Result<Option<Params>, Text> {
        unreachable!("nothing runs")
    }

    fn spawn(&mut self, _: Slot, _: &Call<'_>, _: TaskData<Vec<u8>, Vec<u8>>) -> Result<(), Text> {
        unreachable!("nothing runs")
    }

    fn interrupt(&mut self, _: Slot) {}

    fn usage(&self, _: Slot) -> RunUsage {
        RunUsage::default()
    }

    fn process(&self) -> ProcessUsage {
        ProcessUsage::default()
    }

    fn exited(&mut self) -> Option<Slot> {
        None
    }

    fn has_exited(&self, _: Slot) -> bool {
        false
    }

    fn take_exit(&mut self, _: Slot) -> Option<Exit<Vec<u8>>> {
        None
    }

    fn poll_message(&mut self) -> Option<(Slot, Message<Vec<u8>>)> {
        None
    }

    fn take_message(&mut self, _: Slot) -> Option<Message<Vec<u8>>> {
        None
    }

    fn deliver(&mut self, _: Slot, _: &str, _: &[u8]) {}
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
    let mut engine = OneBuffer;
    let mut assembly = Chunks::new(ARENA);
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
                if let Some(module) = done {
                    taken.sort_by_key(|(index, _)| *index);
                    let whole: Vec<u8> = taken.into_iter().flat_map(|(_, bytes)| bytes).collect();
                    assert_eq!(module, whole);
                    return;
                }
            }
        }
    }
});
