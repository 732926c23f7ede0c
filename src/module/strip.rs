//! Modules without their custom sections, which are dropped as the bytes come.

use super::{
    signature::{HEADER, Refusal, SECTION},
    table::Digest,
};
use core::ops::DerefMut;
use sha2::{Digest as _, Sha256};

/// Digests of a whole module, of which only some bytes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provenance {
    /// SHA-256 of the whole module.
    pub digest: Digest,
    /// SHA-256 of what its signature section signs, `None` without such a section; or the reason for which no
    /// signature counts.
    pub signed: Result<Option<Digest>, Refusal>,
}

/// A module without custom sections but the one of signatures, if that is its first section.
#[derive(Debug)]
pub struct Image<B> {
    /// The bytes that are kept.
    pub bytes: B,
    /// Digest of the whole, and of what is signed of it.
    pub provenance: Provenance,
}

/// Longest head of a section: id, length, and of a custom one the length of its name and [`SECTION`].
const HEAD_MAX: usize = 1 + 2 * LEB_MAX + SECTION.len();

/// Longest LEB128 of 32 bits.
const LEB_MAX: usize = 5;

/// Drops the custom sections of a module whose bytes are fed in pieces, cut anywhere.
///
/// Bytes that are no WebAssembly module pass unchanged, and those from the first malformed section on: so the
/// engine finds the fault. A custom section that is cut off leaves its head for the same reason.
#[derive(Debug, Clone)]
pub struct Stripper {
    whole: Sha256,
    /// All bytes behind the signature section.
    signed: Option<Sha256>,
    /// Bytes fed.
    len: usize,
    state: State,
    /// The head of the section that is read, or the beginning of the module's header.
    head: heapless::Vec<u8, HEAD_MAX>,
    /// Offset of that section in the whole.
    section: usize,
    fault: Option<Refusal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Within the module's header.
    Header,
    /// Within the head of a section, or before it.
    Head,
    /// Within a section, with this many bytes to come.
    Body(usize, Section),
    /// All bytes are kept.
    Verbatim,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    /// Not a custom one.
    Kept,
    /// The first one, with signatures.
    Signature,
    /// One with signatures behind others.
    LateSignature,
    /// A custom one.
    Custom,
}

impl Section {
    const fn is_kept(self) -> bool {
        matches!(self, Self::Kept | Self::Signature)
    }
}

impl Stripper {
    /// For a module.
    pub fn new() -> Self {
        Self {
            whole: Sha256::new(),
            signed: None,
            len: 0,
            state: State::Header,
            head: heapless::Vec::new(),
            section: 0,
            fault: None,
        }
    }

    /// Bytes that were fed.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte was fed.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads on. `keep` gets the bytes to keep, never more than were fed.
    pub fn feed(&mut self, bytes: &[u8], mut keep: impl FnMut(&[u8])) {
        self.whole.update(bytes);
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = match self.state {
                State::Header | State::Head => 1,
                State::Body(left, _) => left.min(rest.len()),
                State::Verbatim => rest.len(),
            };
            let (piece, behind) = rest.split_at(len);
            rest = behind;
            self.len = self.len.saturating_add(len);
            if let Some(signed) = &mut self.signed {
                signed.update(piece);
            }
            self.take(piece, &mut keep);
        }
    }

    /// Takes bytes of one state.
    fn take(&mut self, piece: &[u8], keep: &mut impl FnMut(&[u8])) {
        match self.state {
            State::Header | State::Head => {
                let pushed = self.head.extend_from_slice(piece);
                debug_assert!(pushed.is_ok(), "a head is no longer");
                self.state = match self.state {
                    State::Header => self.header(keep),
                    _ => self.section_head(keep),
                };
                if let State::Body(0, section) = self.state {
                    self.end_section(section);
                }
            }
            State::Body(left, section) => {
                if section.is_kept() {
                    keep(piece);
                }
                match left - piece.len() {
                    0 => self.end_section(section),
                    left => self.state = State::Body(left, section),
                }
            }
            State::Verbatim => keep(piece),
        }
    }

    fn header(&mut self, keep: &mut impl FnMut(&[u8])) -> State {
        if !HEADER.starts_with(&self.head) {
            return self.pass(Refusal::NotWasm, keep);
        }
        if self.head.len() < HEADER.len() {
            return State::Header;
        }
        self.release_head(keep);
        self.section = self.len;
        State::Head
    }

    fn section_head(&mut self, keep: &mut impl FnMut(&[u8])) -> State {
        let (left, custom) = match section_head(&self.head) {
            Head::Cut => return State::Head,
            Head::Malformed => return self.pass(Refusal::Section(self.section), keep),
            Head::Section { left, custom } => (left, custom),
        };
        let is_first = self.section == HEADER.len();
        let section = match custom {
            None => Section::Kept,
            Some(true) if is_first => Section::Signature,
            Some(true) => Section::LateSignature,
            Some(false) => Section::Custom,
        };
        if section.is_kept() {
            self.release_head(keep);
        }
        State::Body(left, section)
    }

    fn end_section(&mut self, section: Section) {
        match section {
            Section::Signature => self.signed = Some(Sha256::new()),
            Section::LateSignature => {
                let refusal = match self.signed {
                    Some(_) => Refusal::SECOND,
                    None => Refusal::NOT_FIRST,
                };
                self.fault.get_or_insert(refusal);
            }
            Section::Kept | Section::Custom => {}
        }
        self.head.clear();
        self.section = self.len;
        self.state = State::Head;
    }

    fn release_head(&mut self, keep: &mut impl FnMut(&[u8])) {
        keep(&self.head);
        self.head.clear();
    }

    /// Keeps all bytes from the head on.
    fn pass(&mut self, fault: Refusal, keep: &mut impl FnMut(&[u8])) -> State {
        self.release_head(keep);
        self.fault.get_or_insert(fault);
        State::Verbatim
    }

    /// Ends the module.
    pub fn end(mut self, mut keep: impl FnMut(&[u8])) -> Provenance {
        let fault = match self.state {
            State::Header => Some(Refusal::NotWasm),
            State::Head if self.head.is_empty() => None,
            State::Head | State::Body(..) => Some(Refusal::Section(self.section)),
            State::Verbatim => None,
        };
        if let Some(fault) = fault {
            self.pass(fault, &mut keep);
        }
        let signed = self.signed.map(|signed| signed.finalize().into());
        Provenance {
            digest: self.whole.finalize().into(),
            signed: self.fault.map_or(Ok(signed), Err),
        }
    }
}

impl Default for Stripper {
    fn default() -> Self {
        Self::new()
    }
}

/// Head of a section, as far as it has come.
enum Head {
    Cut,
    Malformed,
    Section {
        /// Bytes of the section behind the head.
        left: usize,
        /// Whether a custom section is one of signatures; `None` for any other section.
        custom: Option<bool>,
    },
}

fn section_head(head: &[u8]) -> Head {
    let Some((id, rest)) = head.split_first() else {
        return Head::Cut;
    };
    let (len, body) = match leb(rest) {
        Leb::Value(len, body) => (len, body),
        Leb::Cut => return Head::Cut,
        Leb::Malformed => return Head::Malformed,
    };
    if *id != 0 {
        let (left, custom) = (len, None);
        return Head::Section { left, custom };
    }
    match leb(body) {
        Leb::Cut if body.len() < len => Head::Cut,
        Leb::Value(name, behind) => custom_head(len, body, name, behind),
        _ => Head::Malformed,
    }
}

/// Head of a custom section of `len` bytes that begin with `body`, with a name of `name` bytes that begins with
/// `behind`.
fn custom_head(len: usize, body: &[u8], name: usize, behind: &[u8]) -> Head {
    let before_name = body.len() - behind.len();
    if before_name.saturating_add(name) > len {
        return Head::Malformed;
    }
    let may_be_signature = name == SECTION.len() && SECTION.as_bytes().starts_with(behind);
    if may_be_signature && behind.len() < name {
        return Head::Cut;
    }
    Head::Section {
        left: len - body.len(),
        custom: Some(may_be_signature),
    }
}

enum Leb<'a> {
    Cut,
    Malformed,
    /// The value, and the bytes behind it.
    Value(usize, &'a [u8]),
}

/// Reads an unsigned LEB128 of 32 bits: at most 5 bytes, no bit beyond the 32nd.
fn leb(bytes: &[u8]) -> Leb<'_> {
    let mut value: u64 = 0;
    for (index, byte) in bytes.iter().take(LEB_MAX).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return match u32::try_from(value) {
                Ok(value) => Leb::Value(value as usize, &bytes[index + 1..]),
                Err(_) => Leb::Malformed,
            };
        }
    }
    match bytes.len() < LEB_MAX {
        true => Leb::Cut,
        false => Leb::Malformed,
    }
}

/// Bytes that are copied at once where a module is stripped in its place.
const BLOCK: usize = 64;

/// Feeds the bytes of `buffer` from `from` to `to`, and puts those to keep at `len`, which is not behind `from`.
/// Returns their end.
pub fn feed_in_place(
    stripper: &mut Stripper,
    buffer: &mut [u8],
    (from, to): (usize, usize),
    mut len: usize,
) -> usize {
    let mut block = [0; BLOCK];
    let mut at = from;
    while at < to {
        let block = &mut block[..BLOCK.min(to - at)];
        block.copy_from_slice(&buffer[at..at + block.len()]);
        at += block.len();
        stripper.feed(block, |kept| len = put(buffer, len, kept));
    }
    len
}

/// Puts `bytes` at `at`, and returns their end.
pub(super) fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    let end = at + bytes.len();
    buffer[at..end].copy_from_slice(bytes);
    end
}

/// Strips a whole module in its place. Returns the number of bytes that are kept, and the digests of the whole.
pub fn strip_in_place(buffer: &mut [u8]) -> (usize, Provenance) {
    let mut stripper = Stripper::new();
    let whole = buffer.len();
    let mut len = feed_in_place(&mut stripper, buffer, (0, whole), 0);
    let provenance = stripper.end(|kept| len = put(buffer, len, kept));
    (len, provenance)
}

impl<B: DerefMut<Target = [u8]>> Image<B> {
    /// Moves what the engine gets to the front: all but the signature section, which has been looked at.
    /// Returns its length.
    pub fn drop_signature(&mut self) -> usize {
        let len = self.bytes.len();
        if !matches!(self.provenance.signed, Ok(Some(_))) {
            return len;
        }
        let end = HEADER.len();
        let Some(behind) = super::signature::behind_signature(&self.bytes) else {
            return len;
        };
        self.bytes.copy_within(behind.., end);
        len - (behind - end)
    }
}

#[cfg(test)]
mod tests;
