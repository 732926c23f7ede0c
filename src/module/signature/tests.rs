extern crate std;

use super::*;
use crate::module::strip::strip_in_place;
use ed25519_compact::{KeyPair, Seed};
use proptest::prelude::*;
use std::{
    format,
    slice::from_ref,
    string::{String, ToString as _},
    vec,
    vec::Vec,
};

/// `(module (func (export "main") (result i32) (i32.const 42)))`, signed by `SecretKey::sign` of
/// wasmsign2 0.2.8 with the key of the seed 1, 32 times.
const WHOLE: &str = "\
    0061736d01000000\
    0075097369676e61747572650101010166016e766b2aae15b00f932b431408a38bf355b3ccb4d1e071349227522b\
    ee1ec0570143000140a014f5280927307e3b783ff09c238ea3618cf470e0f688883dcd0784a5736e80d5db64a8a3\
    91195a671127e4d4d253a1cdf19870a68e48cf77da3227758c8d02\
    0105016000017f03020100070801046d61696e00000a06010400412a0b";

/// The same module, by the same version: cut into two parts by `split`, then signed by
/// `sign_multi` with the keys of the seeds 1 and 2 and their key ids.
const PARTS: &str = "\
    0061736d01000000\
    00f201097369676e617475726501010101e201028ebb8daa67c5c5e07db3ab40b9619184d9a23ea4668b3f24e2b9\
    c531f4c970a1113c4f370255277f626e12804c8856744b6b1132fe1d7e71dfbaf33eb2920b17024f0c236c79a936\
    837526e7b8746a0140c6c07fd6c3cd6192aaedd90375a80ab805e2c841ed4816aa9e52d7838be0e318de24d12fa5\
    86e593ea077f89d4000115e36d61a8aed8e59ae446a3ae689a62004f0c0a4c04e8cdaae38617c52317014032c7b7\
    ea9b240e264ee786e1b0cd655a9f7aa3a104dfb11ad8be13f1c5f9e91c8bf0bdb378e775e604488d4ea443b3c78e\
    ec44e01250082e3f61961957c59d07\
    0105016000017f030201000024137369676e61747572655f64656c696d697465724c8ecf46c295d6b7637fb82d78\
    849866\
    070801046d61696e00000a06010400412a0b0024137369676e61747572655f64656c696d69746572912c682abd1b\
    57c4bf53955b34ee43e2";

/// Bytes of the second part of [`PARTS`].
const SECOND_PART: usize = 56;

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks_exact(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn pair(seed: u8) -> KeyPair {
    KeyPair::from_seed(Seed::new([seed; 32]))
}

fn key(seed: u8) -> PublicKey {
    *pair(seed).pk
}

/// The verdict on a module, which is that on its stripped bytes.
fn check(seeds: &[u8], module: &[u8]) -> Result<(), Refusal> {
    let keys: Vec<_> = seeds.iter().copied().map(key).collect();
    let trust = Trust::new(&keys);
    let verdict = trust.check(module);
    let mut kept = module.to_vec();
    let (len, provenance) = strip_in_place(&mut kept);
    assert_eq!(
        trust.check_stripped(&kept[..len], provenance.signed),
        verdict
    );
    verdict
}

fn leb(mut value: usize) -> Vec<u8> {
    let mut out = vec![];
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn block(bytes: &[u8]) -> Vec<u8> {
    [&leb(bytes.len()), bytes].concat()
}

fn section(name: &str, payload: &[u8]) -> Vec<u8> {
    let body = [&block(name.as_bytes()), payload].concat();
    [&[0][..], &block(&body)].concat()
}

fn sign(seed: u8, hashes: &[u8]) -> Vec<u8> {
    pair(seed)
        .sk
        .sign([&DOMAIN, hashes].concat(), None)
        .to_vec()
}

/// One signature's block.
fn entry(algorithm: u8, signature: &[u8]) -> Vec<u8> {
    block(&[&[0, algorithm][..], &block(signature)].concat())
}

/// One set's block.
fn set(hashes: &[u8], entries: &[Vec<u8>]) -> Vec<u8> {
    block(
        &[
            leb(hashes.len() / 32),
            hashes.to_vec(),
            leb(entries.len()),
            entries.concat(),
        ]
        .concat(),
    )
}

fn payload(sets: &[Vec<u8>]) -> Vec<u8> {
    [FORMAT.to_vec(), leb(sets.len()), sets.concat()].concat()
}

/// A module of `sections` behind a signature section with `payload`.
fn module(payload: &[u8], sections: &[u8]) -> Vec<u8> {
    [&HEADER[..], &section(SECTION, payload), sections].concat()
}

fn sections() -> Vec<u8> {
    split(&bytes(WHOLE)).unwrap().sections.to_vec()
}

/// Signed by each of `seeds`, in one set.
fn signed(seeds: &[u8], sections: &[u8]) -> Vec<u8> {
    let hash = digest(sections);
    let entries: Vec<_> = seeds
        .iter()
        .map(|seed| entry(ED25519, &sign(*seed, &hash)))
        .collect();
    module(&payload(&[set(&hash, &entries)]), sections)
}

fn malformed(refused: Result<(), Refusal>, words: &str) {
    let text = refused.unwrap_err().to_string();
    assert!(
        text.starts_with("signature section is malformed: "),
        "{text}"
    );
    assert!(text.contains(words), "no '{words}' in: {text}");
}

#[test]
fn what_wasmsign2_signed_is_accepted() {
    let whole = bytes(WHOLE);
    assert_eq!(signed(&[1], &sections()), whole);
    assert_eq!(check(&[1], &whole), Ok(()));
    assert_eq!(check(&[2, 3], &whole), Err(Refusal::Stranger));
    let parts = bytes(PARTS);
    for seeds in [&[1][..], &[2], &[1, 2], &[3, 2]] {
        assert_eq!(check(seeds, &parts), Ok(()), "{seeds:?}");
    }
    assert_eq!(check(&[3], &parts), Err(Refusal::Stranger));
    assert_eq!(check(&[], &parts), Err(Refusal::Stranger));
}

#[test]
fn refusals_are_told() {
    let whole = bytes(WHOLE);
    let keys = [key(1)];
    let trust = Trust::new(&keys);
    assert_eq!(trust.check(&whole), Ok(()));
    let refusal = |trust: &Trust<'_>, module: &[u8]| trust.check(module).unwrap_err().to_string();
    let unsigned = [&HEADER[..], &sections()].concat();
    assert_eq!(refusal(&trust, &unsigned), "module is not signed");
    assert_eq!(refusal(&trust, &HEADER), "module is not signed");
    assert_eq!(
        refusal(&Trust::new(&[key(2)]), &whole),
        "no trusted key has signed the module"
    );
    let mut altered = whole.clone();
    *altered.last_mut().unwrap() ^= 1;
    assert_eq!(
        refusal(&trust, &altered),
        "the module's bytes are not what was signed"
    );
    assert!(refusal(&trust, b"\0asm\x0d\0\x01\0").starts_with("not a WebAssembly module"));
    assert_eq!(
        refusal(&trust, &whole[..whole.len() - 1]),
        "the module's section at byte 148 is malformed"
    );
}

#[test]
fn a_module_cut_at_a_delimiter_is_refused() {
    let parts = bytes(PARTS);
    let cut = &parts[..parts.len() - SECOND_PART];
    assert!(split(cut).is_ok(), "it is cut between two sections");
    assert_eq!(check(&[1], cut), Err(Refusal::Altered));
}

#[test]
fn any_flipped_bit_is_refused() {
    let whole = bytes(WHOLE);
    let keys = [key(1)];
    let trust = Trust::new(&keys);
    let mut changed = whole.clone();
    for bit in 0..whole.len() * 8 {
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(trust.check(&changed).is_err(), "bit {bit}");
        changed[bit / 8] ^= 1 << (bit % 8);
    }
    assert_eq!(trust.check(&changed), Ok(()));
}

#[test]
fn a_flipped_bit_of_one_signature_leaves_the_others() {
    let parts = bytes(PARTS);
    let sections = split(&parts).unwrap().sections;
    let (mut changed, mut accepted) = (parts.clone(), 0);
    for bit in 0..parts.len() * 8 {
        changed[bit / 8] ^= 1 << (bit % 8);
        if check(&[1], &changed).is_ok() {
            accepted += 1;
            assert_eq!(split(&changed).unwrap().sections, sections, "bit {bit}");
        }
        changed[bit / 8] ^= 1 << (bit % 8);
    }
    // Two key ids of 12 bytes; of the other signature its algorithm and all of its 64 bytes.
    assert_eq!(accepted, 8 * (12 + 12 + 1 + 64));
}

#[test]
fn any_truncation_is_refused() {
    for whole in [bytes(WHOLE), bytes(PARTS), signed(&[1], &[])] {
        assert_eq!(check(&[1], &whole), Ok(()));
        for len in 0..whole.len() {
            assert!(check(&[1], &whole[..len]).is_err(), "{len}");
        }
    }
}

#[test]
fn only_the_first_section_has_signatures_and_only_once() {
    let whole = bytes(WHOLE);
    let sections = sections();
    let of_signatures = &whole[HEADER.len()..whole.len() - sections.len()];
    let moved = [&HEADER[..], &sections, of_signatures].concat();
    malformed(check(&[1], &moved), "not the module's first section");
    let late = [&HEADER[..], &section("name", &[]), &whole[8..]].concat();
    malformed(check(&[1], &late), "not the module's first section");
    // Also if the second one is signed as a section.
    for second in [section(SECTION, &[]), of_signatures.to_vec()] {
        let sections = [&sections[..], &second].concat();
        malformed(check(&[1], &signed(&[1], &sections)), "a second one");
        let sections = [&second[..], &sections].concat();
        malformed(check(&[1], &signed(&[1], &sections)), "a second one");
    }
}

#[test]
fn one_trusted_signature_suffices() {
    let sections = sections();
    let hash = digest(&sections);
    assert_eq!(check(&[3], &signed(&[1, 2, 3], &sections)), Ok(()));
    assert_eq!(check(&[9, 1], &signed(&[1, 2, 3], &sections)), Ok(()));

    let good = entry(ED25519, &sign(1, &hash));
    let others = [
        // Another algorithm, of any length; a bad signature; a signature of other bytes.
        set(&hash, &[entry(2, b"of another kind"), good.clone()]),
        set(&hash, &[entry(ED25519, &[0xff; 64]), good.clone()]),
        set(&hash, &[entry(ED25519, &sign(1, &[7; 32])), good.clone()]),
    ];
    for other in others {
        assert_eq!(check(&[1], &module(&payload(&[other]), &sections)), Ok(()));
    }
    let two = [set(&[7; 32], from_ref(&good)), set(&hash, from_ref(&good))];
    assert_eq!(check(&[1], &module(&payload(&two), &sections)), Ok(()));
}

#[test]
fn what_is_signed_must_be_the_whole_module() {
    let sections = sections();
    let hash = digest(&sections);
    let stale = digest(b"before");
    let by_two = |first: &[u8], second: &[u8]| {
        let hashes = [first, second].concat();
        let entry = entry(ED25519, &sign(1, &hashes));
        module(&payload(&[set(&hashes, &[entry])]), &sections)
    };
    assert_eq!(check(&[1], &by_two(&stale, &hash)), Ok(()));
    assert_eq!(check(&[1], &by_two(&hash, &stale)), Err(Refusal::Altered));
    // Trusted, but for something else; and the bytes' own set is a stranger's.
    let sets = [
        set(&stale, &[entry(ED25519, &sign(1, &stale))]),
        set(&hash, &[entry(ED25519, &sign(2, &hash))]),
    ];
    let both = module(&payload(&sets), &sections);
    assert_eq!(check(&[1], &both), Err(Refusal::Stranger));
    assert_eq!(check(&[2], &both), Ok(()));
    // The hash alone, without the domain.
    let bare = pair(1).sk.sign(hash, None);
    let bare = set(&hash, &[entry(ED25519, &*bare)]);
    let bare = module(&payload(&[bare]), &sections);
    assert_eq!(check(&[1], &bare), Err(Refusal::Stranger));
    for sets in [vec![], vec![set(&[], &[])], vec![set(&hash, &[])]] {
        let none = module(&payload(&sets), &sections);
        assert_eq!(check(&[1], &none), Err(Refusal::Altered));
    }
}

#[test]
fn weak_keys_and_malleable_signatures_are_refused() {
    let sections = sections();
    let hash = digest(&sections);
    let with = |signature: &[u8]| {
        module(
            &payload(&[set(&hash, &[entry(ED25519, signature)])]),
            &sections,
        )
    };
    // The neutral point as key and commitment: S = 0 satisfies the equation for any message.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let forged = with(&[neutral, [0; 32]].concat());
    for weak in [neutral, [0; 32], [0xff; 32]] {
        assert_eq!(Trust::new(&[weak]).check(&forged), Err(Refusal::Stranger));
    }
    // S + L satisfies the equation where S does.
    let order = bytes("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let mut signature = sign(1, &hash);
    assert_eq!(check(&[1], &with(&signature)), Ok(()));
    let mut carry = 0;
    for (byte, add) in signature[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert_eq!(check(&[1], &with(&signature)), Err(Refusal::Stranger));
}

#[test]
fn malformed_sections_are_told() {
    let sections = sections();
    let hash = digest(&sections);
    let good = entry(ED25519, &sign(1, &hash));
    let with = |payload: &[u8]| check(&[1], &module(payload, &sections));
    let with_set = |set: Vec<u8>| with(&payload(&[set]));
    let one = payload(&[set(&hash, from_ref(&good))]);
    assert_eq!(with(&one), Ok(()));

    for (at, words) in [(0, "version 1"), (1, "version 1"), (2, "SHA-256")] {
        let mut other = one.clone();
        other[at] = 2;
        malformed(with(&other), words);
    }
    malformed(with(&[]), "version 1");
    malformed(with(&FORMAT), "beyond its end");
    malformed(with(&[&one[..], &[0]].concat()), "bytes follow");
    malformed(with(&[1, 1, 1, 2, 2, 0, 0]), "beyond its end");
    malformed(
        with(&[1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        "beyond its end",
    );
    malformed(
        with_set(block(&[&set(&hash, &[])[1..], &[0]].concat())),
        "bytes follow",
    );
    let trailing = [&[0, ED25519][..], &block(&[0; 64]), &[0]].concat();
    malformed(with_set(set(&hash, &[block(&trailing)])), "bytes follow");
    for len in [0, 63, 65] {
        let short = set(&hash, &[entry(ED25519, &vec![0; len])]);
        malformed(with_set(short), "not 64 bytes");
    }
    malformed(
        with_set(set(&[0; 65 * 32], &[])),
        "more than 64 hashes in a set",
    );
    // 2^27 hashes are 2^32 bytes, which wrap to none on a 32-bit machine.
    let wrapping = block(&[0x80, 0x80, 0x80, 0x40, 0]);
    malformed(with_set(wrapping), "more than 64 hashes");

    let many = vec![good; SIGNATURES_MAX + 1];
    assert_eq!(with_set(set(&hash, &many[1..])), Ok(()));
    malformed(with_set(set(&hash, &many)), "more than 8 signatures");
    let apart: Vec<_> = many.iter().map(|one| set(&hash, from_ref(one))).collect();
    malformed(with(&payload(&apart)), "more than 8 signatures");
}

#[test]
fn lengths_of_sections_are_not_trusted() {
    for bad in [
        &[0][..],
        &[1, 1],
        &[1, 0x80],
        &[1, 0xff, 0xff, 0xff, 0xff, 0x0f],
        &[1, 0xff, 0xff, 0xff, 0xff, 0x1f],
        &[1, 0x80, 0x80, 0x80, 0x80, 0x80, 0],
        &[0, 0],
        &[0, 1, 1],
        &[0, 5, 0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0, 9, 9, b's', b'i', b'g', b'n', b'a', b't', b'u', b'r'],
    ] {
        let module = [&HEADER[..], bad].concat();
        assert_eq!(split(&module), Err(Refusal::Section(8)), "{bad:?}");
        let module = signed(&[1], bad);
        let at = module.len() - bad.len();
        assert_eq!(check(&[1], &module), Err(Refusal::Section(at)), "{bad:?}");
    }
    // Padded, as the specification allows.
    let padded = [&HEADER[..], &[1, 0x81, 0x80, 0x80, 0x80, 0, 7]].concat();
    assert_eq!(split(&padded).unwrap().sections.len(), 7);
}

#[test]
fn keys_are_read() {
    let (one, two) = (key(1), key(2));
    let hex: String = one.iter().map(|b| format!("{b:02x}")).collect();
    let base64 = "gTl3Dqh9F19Wo1Rmw0x+zMuNipG07jeiXfYPW4/Js5Q=";
    let keys = |text: &str| parse_keys::<2>(text).map(|keys| keys.to_vec());
    assert_eq!(keys(""), Ok(vec![]));
    // An empty list would be as good as none: everybody would be trusted.
    for none in [" , \n", ",", "\n"] {
        assert_eq!(keys(none).unwrap_err(), "there is no public key in it");
    }
    assert_eq!(keys(&hex), Ok(vec![one]));
    assert_eq!(keys(&hex.to_uppercase()), Ok(vec![one]));
    assert_eq!(keys(base64), Ok(vec![two]));
    assert_eq!(keys(&format!(" {hex}, {base64}\n")), Ok(vec![one, two]));
    // The bytes of wasmsign2's files, written so.
    assert_eq!(keys(&format!("01{hex}")), Ok(vec![one]));
    assert_eq!(
        keys("AYE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU"),
        Ok(vec![two])
    );
    assert_eq!(
        keys(&format!("{hex} {hex} {base64}")).unwrap_err(),
        "more than 2 trusted keys"
    );
    for bad in [
        &hex[1..],
        &hex[2..],
        &format!("02{hex}"),
        &format!("+{}", &hex[1..]),
        &format!("ä{}", &hex[2..]),
        &base64[..43],
        "AoE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU",
        "key",
    ] {
        let error = keys(&format!("{hex},{bad}")).unwrap_err();
        assert!(error.contains("64 hexadecimal digits"), "{bad}: {error}");
        assert!(
            error.contains(&format!("of {} bytes", bad.len())),
            "{error}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused(bytes: Vec<u8>) {
        prop_assert!(check(&[1], &bytes).is_err());
        let module = [&HEADER[..], &bytes].concat();
        prop_assert!(check(&[1], &module).is_err());
        let module = self::module(&bytes, &sections());
        prop_assert!(check(&[1], &module).is_err());
        let module = self::module(&[&FORMAT, &bytes[..]].concat(), &sections());
        prop_assert!(check(&[1], &module).is_err());
    }

    #[test]
    fn what_is_signed_is_accepted(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..4),
        signers in proptest::collection::vec(1u8..5, 1..=SIGNATURES_MAX),
    ) {
        let sections: Vec<u8> = payloads.iter().flat_map(|bytes| section("a", bytes)).collect();
        let module = signed(&signers, &sections);
        for seed in 1..5 {
            prop_assert_eq!(check(&[seed], &module).is_ok(), signers.contains(&seed));
        }
    }

    #[test]
    fn edits_that_are_accepted_leave_what_is_signed(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        parts: bool,
    ) {
        let original = bytes(if parts { PARTS } else { WHOLE });
        let mut module = original.clone();
        for (index, byte) in edits {
            *index.get_mut(&mut module[..]) = byte;
        }
        if check(&[1], &module).is_ok() {
            let sections = split(&module).unwrap().sections;
            prop_assert_eq!(sections, split(&original).unwrap().sections);
        }
    }

    #[test]
    fn any_text_is_keys_or_an_error(text: String, keyish in "[0-9a-fA-F+/=, ]{0,140}") {
        for text in [text, keyish] {
            if let Ok(keys) = parse_keys::<3>(&text) {
                prop_assert!(keys.len() <= 3);
            }
        }
    }
}
