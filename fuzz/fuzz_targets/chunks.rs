//! Chunk assembly: any sequence of chunks, whole or in pieces, with lies about index, total and length, and lost
//! connections between them.
#![no_main]

use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use proplet::{
    engine::Engine as _,
    module::{
        chunks::{ChunkError, Chunks},
        strip::{Image, strip_in_place},
        table::digest,
    },
    testing::{FakeBuffer, FakeEngine},
};

/// More of it is an abort.
const ARENA: usize = 4096;

/// More chunks than that are left out of the oracle.
const TOTAL_MAX: u32 = 4;

#[derive(Arbitrary, Debug)]
struct Part {
    index: u32,
    total: u32,
    data: Vec<u8>,
    /// Bytes of a piece, or 0 if it comes whole.
    pieces: u8,
    /// Whether it breaks off.
    is_cut: bool,
    /// Whether the connection is lost before it.
    is_gap: bool,
}

fn take(
    part: &Part,
    chunks: &mut Chunks<FakeBuffer>,
    engine: &FakeEngine,
) -> Result<Option<Image<FakeBuffer>>, ChunkError> {
    let make_room = &mut |_: usize| {};
    if part.is_gap {
        chunks.note_gap();
    }
    if part.pieces > 0 && chunks.begin(part.index, part.total, engine, make_room)? {
        for piece in part.data.chunks(part.pieces.into()) {
            chunks.append(piece, engine, make_room)?;
        }
        if part.is_cut {
            chunks.note_gap();
        } else {
            chunks.end()?;
        }
    } else {
        chunks.accept((part.index, part.total), &part.data, engine, make_room)?;
    }
    let is_complete = chunks.is_complete();
    is_complete.then(|| chunks.finish(engine, make_room)).transpose()
}

/// Every module that chunks of these make.
fn modules(parts: &[Part], total: u32) -> Vec<Vec<u8>> {
    (0..total).fold(vec![vec![]], |heads, index| {
        let of_index = parts
            .iter()
            .filter(|p| (p.index, p.total) == (index, total));
        let tails: Vec<_> = of_index.map(|part| &part.data).collect();
        let longer = |head: &Vec<u8>| {
            let head = head.clone();
            let tails = tails.iter();
            tails
                .map(move |tail| [&head[..], tail].concat())
                .collect::<Vec<_>>()
        };
        heads.iter().flat_map(longer).collect()
    })
}

fuzz_target!(|parts: Vec<Part>| {
    let engine = FakeEngine::new(ARENA);
    let mut assembly = Chunks::new(ARENA);
    for (index, part) in parts.iter().enumerate() {
        let Ok(taken) = take(part, &mut assembly, &engine) else {
            break;
        };
        let Some(image) = taken else {
            continue;
        };
        if part.total <= TOTAL_MAX && index < 16 {
            let mut all = modules(&parts[..=index], part.total);
            let whole = all
                .iter_mut()
                .find(|whole| digest(whole) == image.provenance.digest);
            let whole = whole.expect("its chunks have come");
            let (len, provenance) = strip_in_place(whole);
            assert_eq!(
                (&*image.bytes, image.provenance),
                (&whole[..len], provenance)
            );
        }
        break;
    }
    drop(assembly);
    assert_eq!(engine.arena().free, ARENA, "something is left behind");
});
