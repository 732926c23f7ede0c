//! Stored form of a module: the bytes that are kept of it, and behind them a seal, by which both its digest and
//! its signature can be verified again.
//!
//! | bytes of the seal | what they are |
//! |---|---|
//! | 1 | 1 if the module has a signature section, which is the first of those kept; else 0 |
//! | 32 | SHA-256 of what that section signs, else 0 |
//! | 32 | SHA-256 of `proplet module`, the whole module's digest, the 33 bytes before, and the kept bytes |
//!
//! A whole module without a seal, as earlier versions stored it, is known by its digest.

use super::{
    strip::{Image, Provenance, strip_in_place},
    table::{Digest, digest},
};
use core::ops::Deref;
use sha2::{Digest as _, Sha256};

/// Bytes of a seal.
pub const SEAL_LEN: usize = HASH_AT + size_of::<Digest>();

/// Offset of the hash in a seal.
const HASH_AT: usize = 1 + size_of::<Digest>();

/// Says what is hashed.
const DOMAIN: &[u8] = b"proplet module";

/// Seal of a module. One whose signature can't count is sealed as without.
pub fn seal<B: Deref<Target = [u8]>>(image: &Image<B>) -> [u8; SEAL_LEN] {
    let mut seal = [0; SEAL_LEN];
    if let Ok(Some(signed)) = &image.provenance.signed {
        seal[0] = 1;
        seal[1..HASH_AT].copy_from_slice(signed);
    }
    let hash = hash(&image.provenance.digest, &seal[..HASH_AT], &image.bytes);
    seal[HASH_AT..].copy_from_slice(&hash);
    seal
}

fn hash(whole: &Digest, head: &[u8], kept: &[u8]) -> Digest {
    let hasher = Sha256::new().chain_update(DOMAIN);
    let hasher = hasher.chain_update(whole).chain_update(head);
    hasher.chain_update(kept).finalize().into()
}

/// Verifies what was stored of the module with this digest. Returns the number of bytes at its start that are
/// kept of the module, and the digests of the whole. `None` if it is damaged, or of another module.
pub fn unseal(stored: &mut [u8], whole: &Digest) -> Option<(usize, Provenance)> {
    if let Some(unsealed) = read(stored, whole) {
        return Some(unsealed);
    }
    (digest(stored) == *whole).then(|| strip_in_place(stored))
}

fn read(stored: &[u8], whole: &Digest) -> Option<(usize, Provenance)> {
    let (kept, seal) = stored.split_last_chunk::<SEAL_LEN>()?;
    let (head, expected) = seal.split_at(HASH_AT);
    if hash(whole, head, kept) != *expected {
        return None;
    }
    let (flag, signed) = head.split_first()?;
    let signed = match flag {
        0 => None,
        _ => Some(signed.try_into().ok()?),
    };
    let provenance = Provenance {
        digest: *whole,
        signed: Ok(signed),
    };
    Some((kept.len(), provenance))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::module::signature::{HEADER, Refusal};
    use std::{vec, vec::Vec};

    fn whole() -> Vec<u8> {
        let signature = [&[0, 12, 9][..], b"signature", b"se"].concat();
        let custom = [0, 5, 1, b'x', 1, 2, 3];
        [&HEADER[..], &signature, &custom, &[10, 1, 7]].concat()
    }

    fn image() -> Image<Vec<u8>> {
        let mut bytes = whole();
        let (len, provenance) = strip_in_place(&mut bytes);
        bytes.truncate(len);
        Image { bytes, provenance }
    }

    #[test]
    fn what_was_sealed_is_known_again() {
        let image = image();
        let whole = image.provenance.digest;
        assert!(matches!(image.provenance.signed, Ok(Some(_))));
        let mut stored = [&image.bytes[..], &seal(&image)].concat();
        assert_eq!(
            unseal(&mut stored, &whole),
            Some((image.bytes.len(), image.provenance))
        );
        assert_eq!(unseal(&mut stored, &[7; 32]), None, "of another module");
        for bit in 0..stored.len() * 8 {
            stored[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(&mut stored, &whole), None, "bit {bit}");
            stored[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..stored.len() {
            assert_eq!(unseal(&mut stored[..len].to_vec(), &whole), None);
        }
    }

    #[test]
    fn a_whole_module_is_known_by_its_digest() {
        let image = image();
        let mut stored = whole();
        let (len, provenance) = unseal(&mut stored, &image.provenance.digest).unwrap();
        assert_eq!(
            (&stored[..len], provenance),
            (&image.bytes[..], image.provenance)
        );
        let mut text = vec![b'x'; 100];
        let text_digest = digest(&text);
        let (len, provenance) = unseal(&mut text, &text_digest).unwrap();
        assert_eq!((len, provenance.signed), (100, Err(Refusal::NotWasm)));
    }

    #[test]
    fn a_signature_that_can_not_count_is_none() {
        let mut image = image();
        image.provenance.signed = Err(Refusal::SECOND);
        let mut stored = [&image.bytes[..], &seal(&image)].concat();
        let (_, provenance) = unseal(&mut stored, &image.provenance.digest).unwrap();
        assert_eq!(provenance.signed, Ok(None));
    }
}
