//! Signed modules: whether a key that is trusted has signed a module.
//!
//! The format is that of WebAssembly's tool-conventions (Signatures.md) as `wasmsign2` writes it:
//! the first section is a custom one named `signature`, and what it signs is all that follows it.
//! Integers are LEB128; of "blocks", each is preceded by its length, which is where `wasmsign2`
//! differs from the text of the conventions.
//!
//! | field | what it is |
//! |---|---|
//! | version, content type, hash function | 1, 1, 1: SHA-256 of a module |
//! | count of sets | then each set, a block |
//! | set: count of hashes | then each hash, 32 bytes |
//! | set: count of signatures | then each signature, a block |
//! | signature: key id | a block, not signed, ignored |
//! | signature: algorithm | 1, Ed25519; others are skipped |
//! | signature: signature | a block of 64 bytes, over `wasmsig`, 1, 1, 1 and the set's hashes |
//!
//! Where delimiters cut a module into parts, its hashes are rolling: each is of all sections up to
//! a delimiter. Only the last hash of a set is looked at, and it must be of the whole module, so
//! one that was cut short at a delimiter is refused.

use super::{
    hex,
    table::{Digest, digest},
};
use crate::text::{Text, clip, text};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use core::fmt;

/// A public key that may sign modules: Ed25519, 32 bytes.
pub type PublicKey = [u8; 32];

/// An Ed25519 signature.
pub type Signature = [u8; 64];

/// Name of the custom section that holds signatures.
pub const SECTION: &str = "signature";

/// The first bytes of every WebAssembly module: magic and version.
pub const HEADER: [u8; 8] = *b"\0asm\x01\0\0\0";

/// Prefix of the hashes in a message that is signed; it ends with [`FORMAT`].
pub const DOMAIN: [u8; 10] = *b"wasmsig\x01\x01\x01";

/// Prefix of the sets in the section: version, content type and hash function.
pub const FORMAT: [u8; 3] = [DOMAIN[7], DOMAIN[8], DOMAIN[9]];

/// Says of a signature that it is Ed25519, and of a public key in a file.
pub const ED25519: u8 = 1;

/// Maximum number of signatures of a module: a stranger's module costs at most this many verifications
/// for each trusted key.
pub const SIGNATURES_MAX: usize = 8;

/// Most hashes of a set, as `wasmsign2` bounds them: a message is at most 2,058 bytes.
const HASHES_MAX: usize = 64;

/// Whom a proplet trusts.
#[derive(Clone, Copy, Debug)]
pub struct Trust<'a> {
    keys: &'a [PublicKey],
    /// A pointer, so that Ed25519 is linked only where a `Trust` is built.
    check: Check,
}

/// Whether one of the keys has signed the digest, by the payload of a signature section.
type Check = fn(&[PublicKey], &[u8], &Digest) -> Result<(), Refusal>;

impl<'a> Trust<'a> {
    /// Trusts the owners of `keys`; an empty list refuses every module. A key that is no point of the curve,
    /// or one of small order, has signed nothing.
    pub const fn new(keys: &'a [PublicKey]) -> Self {
        Self { keys, check }
    }

    /// Whether one of the keys has signed all of `module`, as it is before it is parsed.
    ///
    /// Costs a SHA-256 of the module, and a verification for each pair of a signature of these bytes
    /// and a key: 1.8 million instructions on a Cortex-M33, 4.7 million on an RV32IMC. Takes
    /// 6.5 KB of stack.
    ///
    /// # Errors
    /// The module is not signed by one of them.
    pub fn check(&self, module: &[u8]) -> Result<(), Refusal> {
        let parts = split(module)?;
        let payload = parts.signature.ok_or(Refusal::Unsigned)?;
        (self.check)(self.keys, payload, &digest(parts.sections))
    }

    /// Whether one of the keys has signed all of a module, of which `kept` has the signature section at least,
    /// and whose other sections hash to `signed`. Costs the verifications.
    ///
    /// # Errors
    /// The module is not signed by one of them.
    pub fn check_stripped(
        &self,
        kept: &[u8],
        signed: Result<Option<Digest>, Refusal>,
    ) -> Result<(), Refusal> {
        let signed = signed?.ok_or(Refusal::Unsigned)?;
        let (payload, _) = first_signature(kept).ok_or(Refusal::Unsigned)?;
        (self.check)(self.keys, payload, &signed)
    }
}

/// Refusal of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not begin as one.
    NotWasm,
    /// The section at this byte can't be told from what follows it.
    Section(usize),
    /// Without a signature section.
    Unsigned,
    /// The fault of its signature section.
    Malformed(&'static str),
    /// Its signature section has more of something than the limit.
    TooMany(&'static str, usize),
    /// Its signatures are for other bytes.
    Altered,
    /// Its bytes are what was signed, but not by a key that is trusted.
    Stranger,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWasm => {
                f.write_str("not a WebAssembly module: expected \\0asm and version 1 at its start")
            }
            Self::Section(at) => write!(f, "the module's section at byte {at} is malformed"),
            Self::Unsigned => f.write_str("module is not signed"),
            Self::Malformed(what) => write!(f, "signature section is malformed: {what}"),
            Self::TooMany(what, limit) => write!(
                f,
                "signature section is malformed: it has more than {limit} {what}"
            ),
            Self::Altered => f.write_str("the module's bytes are not what was signed"),
            Self::Stranger => f.write_str("no trusted key has signed the module"),
        }
    }
}

impl core::error::Error for Refusal {}

const CUT: Refusal = Refusal::Malformed("a length or count goes beyond its end");

impl Refusal {
    /// A second signature section.
    pub(super) const SECOND: Self = Self::Malformed("the module has a second one");

    /// A signature section behind another one.
    pub(super) const NOT_FIRST: Self = Self::Malformed("it is not the module's first section");
}

fn check(keys: &[PublicKey], payload: &[u8], actual: &Digest) -> Result<(), Refusal> {
    let (mut signed, mut trusted) = (false, false);
    for_each(payload, |hashes, signature| {
        if covers(hashes, actual) {
            signed = true;
            trusted = trusted || keys.iter().any(|key| verify(key, hashes, signature));
        }
    })?;
    match (signed, trusted) {
        (_, true) => Ok(()),
        (true, false) => Err(Refusal::Stranger),
        (false, false) => Err(Refusal::Altered),
    }
}

/// A module without its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// Payload of its signature section, for [`for_each`].
    pub signature: Option<&'a [u8]>,
    /// All other sections: what is signed.
    pub sections: &'a [u8],
}

/// Takes the signature section off a module. Sections other than custom ones are not looked into.
///
/// # Errors
/// If it is no sequence of sections, or if a signature section is not the first section.
pub fn split(module: &[u8]) -> Result<Parts<'_>, Refusal> {
    let sections = module.strip_prefix(&HEADER).ok_or(Refusal::NotWasm)?;
    let mut rest = Reader(sections);
    let mut parts = Parts {
        signature: None,
        sections,
    };
    while !rest.0.is_empty() {
        let at = sections.len() - rest.0.len();
        let payload = signature_section(&mut rest).ok_or(Refusal::Section(HEADER.len() + at))?;
        match (payload, at) {
            (None, _) => {}
            (Some(payload), 0) => {
                parts = Parts {
                    signature: Some(payload),
                    sections: rest.0,
                }
            }
            (Some(_), _) if parts.signature.is_some() => return Err(Refusal::SECOND),
            (Some(_), _) => return Err(Refusal::NOT_FIRST),
        }
    }
    Ok(parts)
}

/// Payload of the signature section that is the first of `module`, and the bytes of the module behind it.
fn first_signature(module: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = Reader(module.strip_prefix(&HEADER)?);
    let payload = signature_section(&mut rest)??;
    Some((payload, rest.0))
}

/// End of the signature section that is the first of `module`.
pub(super) fn behind_signature(module: &[u8]) -> Option<usize> {
    let (_, behind) = first_signature(module)?;
    Some(module.len() - behind.len())
}

/// Reads a section; its payload if it is one of signatures, else `Some(None)`.
fn signature_section<'a>(rest: &mut Reader<'a>) -> Option<Option<&'a [u8]>> {
    let id = rest.byte()?;
    let mut section = Reader(rest.block()?);
    if id != 0 {
        return Some(None);
    }
    let name = section.block()?;
    Some((name == SECTION.as_bytes()).then_some(section.0))
}

/// Whether `hashes` of a set are of a whole module whose sections hash to `actual`.
pub fn covers(hashes: &[u8], actual: &Digest) -> bool {
    hashes.len().is_multiple_of(actual.len()) && hashes.ends_with(actual)
}

/// Gives `sink` every Ed25519 signature in the payload of a signature section, in its order, with
/// the hashes that it signs.
///
/// # Errors
/// [`Refusal::Malformed`] or [`Refusal::TooMany`]; `sink` may have had signatures before.
pub fn for_each(payload: &[u8], mut sink: impl FnMut(&[u8], &Signature)) -> Result<(), Refusal> {
    let Some(sets) = payload.strip_prefix(&FORMAT) else {
        return Err(Refusal::Malformed(
            "expected version 1 for a module and SHA-256",
        ));
    };
    let mut sets = Reader(sets);
    let mut found = 0;
    for _ in 0..sets.u32().ok_or(CUT)? {
        let mut set = Reader(sets.block().ok_or(CUT)?);
        let hashes = set.hashes()?;
        for _ in 0..set.u32().ok_or(CUT)? {
            let signature = Reader(set.block().ok_or(CUT)?).signature()?;
            found += 1;
            if found > SIGNATURES_MAX {
                return Err(Refusal::TooMany("signatures", SIGNATURES_MAX));
            }
            if let Some(signature) = signature {
                sink(hashes, signature);
            }
        }
        set.end()?;
    }
    sets.end()
}

/// Verifies as strictly as there is need: refuses keys and commitments of small order, points and
/// scalars that are not canonical.
#[inline(never)]
fn verify(key: &PublicKey, hashes: &[u8], signature: &Signature) -> bool {
    let key = ed25519_compact::PublicKey::new(*key);
    let signature = ed25519_compact::Signature::new(*signature);
    let Ok(mut state) = key.verify_incremental(&signature) else {
        return false;
    };
    state.absorb(DOMAIN);
    state.absorb(hashes);
    state.verify().is_ok()
}

/// Bytes that are still to be read. After a failed read they are unspecified.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    /// An unsigned LEB128 of 32 bits: at most 5 bytes, no bit beyond the 32nd.
    fn u32(&mut self) -> Option<u32> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            let bits = u32::from(byte & 0x7f);
            if bits > u32::MAX >> shift {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn block(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(usize::try_from(len).ok()?)
    }

    fn hashes(&mut self) -> Result<&'a [u8], Refusal> {
        let count = self.u32().ok_or(CUT)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > HASHES_MAX {
            return Err(Refusal::TooMany("hashes in a set", HASHES_MAX));
        }
        self.take(count * size_of::<Digest>()).ok_or(CUT)
    }

    /// `None` if it is not Ed25519.
    fn signature(mut self) -> Result<Option<&'a Signature>, Refusal> {
        self.block().ok_or(CUT)?;
        let algorithm = self.byte().ok_or(CUT)?;
        let signature = self.block().ok_or(CUT)?;
        self.end()?;
        if algorithm != ED25519 {
            return Ok(None);
        }
        signature.try_into().map(Some).map_err(|_| {
            Refusal::Malformed("it has an Ed25519 signature whose length is not 64 bytes")
        })
    }

    fn end(&self) -> Result<(), Refusal> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Refusal::Malformed("bytes follow where it should end"))
        }
    }
}

/// Reads keys, separated by commas or white space: each 32 bytes as hexadecimal digits or standard
/// base64, or the 33 bytes of a public key file of `wasmsign2`, written so.
///
/// Whether a key is a point of the curve is not looked at: that would link Ed25519.
///
/// # Errors
/// The first word that is no key, a text without a key that is not empty, or the limit if
/// there are more than `N`.
pub fn parse_keys<const N: usize>(text: &str) -> Result<heapless::Vec<PublicKey, N>, Text> {
    let words = text.split(|c: char| c == ',' || c.is_whitespace());
    let mut keys = heapless::Vec::new();
    for word in words.filter(|word| !word.is_empty()) {
        let Some(key) = parse_key(word) else {
            return Err(unreadable(word));
        };
        if keys.push(key).is_err() {
            return Err(self::text(format_args!("more than {N} trusted keys")));
        }
    }
    if keys.is_empty() && !text.is_empty() {
        return Err(self::text(format_args!("there is no public key in it")));
    }
    Ok(keys)
}

fn unreadable(word: &str) -> Text {
    text(format_args!(
        "'{}' of {} bytes is no public key: expected 64 hexadecimal digits or 44 characters of base64",
        clip(word, 16),
        word.len(),
    ))
}

/// Most bytes of a key that is written: the key, and before it the byte that says what it is.
const WRITTEN_MAX: usize = 1 + size_of::<PublicKey>();

fn parse_key(word: &str) -> Option<PublicKey> {
    let mut bytes = [0; WRITTEN_MAX];
    let len = match word.len() {
        64 | 66 => hex::decode(word, &mut bytes)?,
        _ => BASE64_STANDARD.decode_slice(word, &mut bytes).ok()?,
    };
    key_from_bytes(bytes.get(..len)?)
}

/// The key in the bytes of a public key file: 32, or as `wasmsign2` writes them 33, of which the
/// first is [`ED25519`].
pub fn key_from_bytes(bytes: &[u8]) -> Option<PublicKey> {
    match bytes {
        [ED25519, key @ ..] if bytes.len() == WRITTEN_MAX => key.try_into().ok(),
        _ => bytes.try_into().ok(),
    }
}

#[cfg(test)]
mod tests;
