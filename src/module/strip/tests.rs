extern crate std;

use super::*;
use crate::module::{signature::split, table::digest};
use proptest::{collection::vec, prelude::*};
use std::{vec, vec::Vec};

/// Feeds `module` in pieces of these lengths, the last again and again.
fn strip(module: &[u8], pieces: &[usize]) -> (Vec<u8>, Provenance) {
    let mut stripper = Stripper::new();
    let mut kept = Vec::new();
    let mut rest = module;
    for len in pieces.iter().copied().chain(std::iter::repeat(usize::MAX)) {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at(len.clamp(1, rest.len()));
        let before = kept.len();
        stripper.feed(piece, |bytes| kept.extend_from_slice(bytes));
        assert!(kept.len() - before <= piece.len() + HEAD_MAX);
        assert!(kept.len() <= module.len() - behind.len());
        rest = behind;
    }
    assert_eq!(stripper.len(), module.len());
    let provenance = stripper.end(|bytes| kept.extend_from_slice(bytes));
    (kept, provenance)
}

fn leb(mut value: usize, padded: bool) -> Vec<u8> {
    let mut out = vec![];
    while value > 0x7f || (padded && out.len() < 4) {
        out.push(value as u8 & 0x7f | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn section(id: u8, payload: &[u8], padded: bool) -> Vec<u8> {
    [&[id][..], &leb(payload.len(), padded), payload].concat()
}

fn custom(name: &[u8], payload: &[u8], padded: bool) -> Vec<u8> {
    let body = [&leb(name.len(), padded), name, payload].concat();
    section(0, &body, padded)
}

/// Result for a module of which `kept` is to be kept.
fn expected(module: &[u8], kept: &[u8]) -> (Vec<u8>, Provenance) {
    let signed = split(module).map(|parts| parts.signature.map(|_| digest(parts.sections)));
    let provenance = Provenance {
        digest: digest(module),
        signed,
    };
    (kept.to_vec(), provenance)
}

/// A section, and whether it is kept.
fn any_section() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let payload = || vec(any::<u8>(), 0..200);
    prop_oneof![
        (1u8..14, payload(), any::<bool>())
            .prop_map(|(id, payload, padded)| (section(id, &payload, padded), true)),
        (vec(any::<u8>(), 0..14), payload(), any::<bool>())
            .prop_filter("its name is another", |(name, ..)| *name != b"signature")
            .prop_map(|(name, payload, padded)| (custom(&name, &payload, padded), false)),
        (
            prop_oneof![
                Just("name"),
                Just("producers"),
                Just("signatures"),
                Just("signaturE")
            ],
            payload()
        )
            .prop_map(|(name, payload)| (custom(name.as_bytes(), &payload, false), false)),
    ]
}

fn any_module() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let signature = vec(any::<u8>(), 0..150).prop_map(|p| custom(b"signature", &p, false));
    let first = proptest::option::of(signature);
    let late = proptest::option::weighted(0.1, Just(custom(b"signature", b"late", true)));
    (first, vec(any_section(), 0..8), late).prop_map(|(first, sections, late)| {
        let mut whole = HEADER.to_vec();
        let mut kept = HEADER.to_vec();
        // As the first section it would be kept.
        let late = late.filter(|_| first.is_some() || !sections.is_empty());
        if let Some(section) = first {
            whole.extend(&section);
            kept.extend(&section);
        }
        for (section, is_kept) in sections {
            whole.extend(&section);
            if is_kept {
                kept.extend(&section);
            }
        }
        whole.extend(late.into_iter().flatten());
        (whole, kept)
    })
}

proptest! {
    /// The oracle knows the sections, since it has put them together.
    #[test]
    fn any_pieces_of_a_module_give_its_sections_without_the_custom_ones(
        (whole, kept) in any_module(),
        pieces in vec(1usize..40, 0..60),
    ) {
        let wanted = expected(&whole, &kept);
        prop_assert_eq!(&strip(&whole, &pieces), &wanted);
        prop_assert_eq!(&strip(&whole, &[]), &wanted);
        prop_assert_eq!(&strip(&whole, &vec![1; whole.len()]), &wanted);
        let mut buffer = whole;
        let (len, provenance) = strip_in_place(&mut buffer);
        prop_assert_eq!((buffer[..len].to_vec(), provenance), wanted);
    }

    /// One that is cut off or changed gives the same however it is cut, with the verdict of the whole.
    #[test]
    fn pieces_do_not_matter_whatever_the_bytes_are(
        (mut whole, _) in any_module(),
        cut in any::<prop::sample::Index>(),
        change in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        pieces in vec(1usize..40, 0..60),
    ) {
        if let Some((at, byte)) = change {
            let at = at.index(whole.len());
            whole[at] = byte;
        }
        whole.truncate(cut.index(whole.len() + 1));
        let (kept, provenance) = strip(&whole, &pieces);
        prop_assert_eq!(&expected(&whole, &kept).1, &provenance);
        let mut buffer = whole.clone();
        let (len, in_place) = strip_in_place(&mut buffer);
        prop_assert_eq!((&buffer[..len], in_place), (&kept[..], provenance));
        // The fault of a module is one of what is kept.
        let is_module = |bytes| !matches!(split(bytes), Err(Refusal::NotWasm | Refusal::Section(_)));
        prop_assert_eq!(is_module(&whole), is_module(&kept));
        // There is no more to drop.
        if provenance.signed.is_ok() {
            prop_assert_eq!(&strip(&kept, &[]).0, &kept);
        }
    }

    #[test]
    fn bytes_that_are_no_module_pass_unchanged(bytes in vec(any::<u8>(), 0..100)) {
        prop_assume!(!bytes.starts_with(&HEADER));
        let (kept, provenance) = strip(&bytes, &[3, 3, 3]);
        prop_assert_eq!(&kept, &bytes);
        prop_assert_eq!(provenance.signed, Err(Refusal::NotWasm));
        prop_assert_eq!(provenance.digest, digest(&bytes));
    }
}

/// A component and a compiled file pass, so that the engine names them.
#[test]
fn other_formats_pass_unchanged() {
    let producers = custom(b"producers", b"someone", false);
    for start in [
        &b"\0asm\x0d\0\x01\0"[..],
        b"\0aot\x03\0\0\0",
        b"\x1f\x8b\x08\0",
    ] {
        let whole = [start, &producers].concat();
        assert_eq!(strip(&whole, &[5]).0, whole);
    }
}

#[test]
fn a_custom_section_that_is_cut_off_leaves_its_head() {
    let code = section(10, b"code", false);
    let debug = custom(b".debug_info", &[7; 300], false);
    let whole = [&HEADER[..], &code, &debug].concat();
    let (kept, _) = strip(&whole, &[]);
    assert_eq!(kept, [&HEADER[..], &code].concat());
    let cut = &whole[..whole.len() - 1];
    let (kept, provenance) = strip(cut, &[]);
    assert_eq!(
        provenance.signed,
        Err(Refusal::Section(HEADER.len() + code.len()))
    );
    assert!(kept.starts_with(&cut[..HEADER.len() + code.len() + 1]));
    assert!(kept.len() <= HEADER.len() + code.len() + HEAD_MAX);
}

#[test]
fn the_signature_section_is_kept_until_it_has_been_looked_at() {
    let signature = custom(b"signature", b"sets", false);
    let code = section(10, b"code", false);
    let names = custom(b"name", b"main", false);
    let whole = [&HEADER[..], &signature, &names, &code].concat();
    let (bytes, provenance) = strip(&whole, &[]);
    assert_eq!(bytes, [&HEADER[..], &signature, &code].concat());
    assert_eq!(
        provenance.signed,
        Ok(Some(digest(&[names, code.clone()].concat())))
    );
    let mut image = Image { bytes, provenance };
    let len = image.drop_signature();
    assert_eq!(image.bytes[..len], [&HEADER[..], &code].concat());
}
