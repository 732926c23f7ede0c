//! Any bytes as a module, cut anywhere: what is kept does not depend on the cuts, and the verdict on its signature
//! is that on the whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proplet::module::{
    signature::{HEADER, Trust},
    strip::{Provenance, Stripper, strip_in_place},
    table::digest,
};

fn strip(module: &[u8], piece: usize) -> (Vec<u8>, Provenance) {
    let mut stripper = Stripper::new();
    let mut kept = Vec::new();
    for piece in module.chunks(piece) {
        stripper.feed(piece, |bytes| kept.extend_from_slice(bytes));
    }
    let provenance = stripper.end(|bytes| kept.extend_from_slice(bytes));
    assert!(kept.len() <= module.len());
    (kept, provenance)
}

fn check(module: &[u8], piece: usize) {
    let (kept, provenance) = strip(module, piece);
    assert_eq!(provenance.digest, digest(module));
    let mut buffer = module.to_vec();
    let (len, in_place) = strip_in_place(&mut buffer);
    assert_eq!((&kept[..], provenance), (&buffer[..len], in_place));
    let trust = Trust::new(&[]);
    assert_eq!(
        trust.check_stripped(&kept, provenance.signed),
        trust.check(module)
    );
}

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (piece, bytes) = input;
    let piece = usize::from(piece).max(1);
    check(&bytes, piece);
    check(&[&HEADER[..], &bytes].concat(), piece);
});
