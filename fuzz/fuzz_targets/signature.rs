//! Any bytes as a module, as the payload of a signature section, and as edits of a signed module:
//! what is accepted has the sections that were signed.
#![no_main]

use ed25519_compact::{KeyPair, Seed};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use proplet::module::{
    signature::{self, DOMAIN, ED25519, FORMAT, HEADER, Trust},
    table::digest,
};
use std::sync::LazyLock;

const SECTIONS: [u8; 10] = *b"\x01\x04\x01\x60\0\0\x03\x02\x01\0";

#[derive(Arbitrary, Debug)]
enum Input {
    Module(Vec<u8>),
    Payload(Vec<u8>),
    Edits(Vec<Edit>),
    Keys(String),
}

#[derive(Arbitrary, Debug)]
enum Edit {
    Set(u16, u8),
    Insert(u16, u8),
    Remove(u16),
}

static PAIR: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::from_seed(Seed::new([1; 32])));

static SIGNED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let signed = module(&signed_payload(&PAIR));
    assert_eq!(Trust::new(&[*PAIR.pk]).check(&signed), Ok(()));
    signed
});

fuzz_target!(|input: Input| {
    let keys = [*PAIR.pk];
    let trust = Trust::new(&keys);
    match input {
        Input::Module(bytes) => {
            let _ = trust.check(&bytes);
            assert!(trust.check(&[&HEADER[..], &bytes].concat()).is_err());
        }
        Input::Payload(bytes) => {
            let payload = [&FORMAT[..], &bytes].concat();
            assert!(trust.check(&module(&payload)).is_err(), "forged");
        }
        Input::Edits(edits) => {
            let mut module = SIGNED.clone();
            edits.iter().for_each(|edit| apply(edit, &mut module));
            if trust.check(&module).is_ok() {
                let parts = signature::split(&module).expect("it was accepted");
                assert_eq!(parts.sections, SECTIONS);
            }
        }
        Input::Keys(text) => {
            if let Ok(keys) = signature::parse_keys::<4>(&text) {
                assert!(keys.len() * 44 <= text.len());
            }
        }
    }
});

fn apply(edit: &Edit, module: &mut Vec<u8>) {
    match *edit {
        Edit::Set(at, byte) => {
            if let Some(place) = module.get_mut(usize::from(at)) {
                *place = byte;
            }
        }
        Edit::Insert(at, byte) => module.insert(usize::from(at) % (module.len() + 1), byte),
        Edit::Remove(at) => {
            if usize::from(at) < module.len() {
                module.remove(usize::from(at));
            }
        }
    }
}

fn block(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("a short block");
    // LEB128, padded to three bytes.
    let len = [len as u8 | 0x80, (len >> 7) as u8 | 0x80, (len >> 14) as u8];
    [&len[..], bytes].concat()
}

fn module(payload: &[u8]) -> Vec<u8> {
    let body = [&[9][..], signature::SECTION.as_bytes(), payload].concat();
    [&HEADER[..], &[0], &block(&body), &SECTIONS].concat()
}

fn signed_payload(pair: &KeyPair) -> Vec<u8> {
    let hash = digest(&SECTIONS);
    let signature = pair.sk.sign([&DOMAIN[..], &hash].concat(), None);
    let entry = [&[0, ED25519][..], &block(&*signature)].concat();
    let set = [&[1][..], &hash, &[1], &block(&entry)].concat();
    [&FORMAT[..], &[1], &block(&set)].concat()
}
