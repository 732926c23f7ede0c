//! Strings one after the other in one buffer, each behind its length.

use super::error::Error;

/// Bytes of a length, little-endian.
const LEN: usize = 2;

/// Strings, packed: each is a `u16` length, little-endian, and that many bytes of UTF-8.
///
/// The bytes may be copied and read back by [`from_bytes`](Self::from_bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct List<'a> {
    bytes: &'a [u8],
}

impl<'a> List<'a> {
    /// A list of no strings.
    pub const EMPTY: Self = Self { bytes: &[] };

    /// The list whose [`as_bytes`](Self::as_bytes) these are, or several lists in one, their bytes
    /// one after the other; `None` for other bytes. Reads them all.
    pub fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        while !rest.is_empty() {
            (_, rest) = split(rest)?;
        }
        Some(Self { bytes })
    }

    /// The packed form.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Number of strings; counts them.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether it is empty.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + Clone + use<'a> {
        let mut rest = self.bytes;
        core::iter::from_fn(move || {
            let (text, after) = split(rest)?;
            rest = after;
            Some(text)
        })
    }
}

/// Strings by name, packed: a [`List`] of key, value, key, value…
///
/// A key may come twice; the last one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pairs<'a> {
    list: List<'a>,
}

impl<'a> Pairs<'a> {
    /// No pairs.
    pub const EMPTY: Self = Self { list: List::EMPTY };

    /// The pairs whose [`as_bytes`](Self::as_bytes) these are, or several in one, their bytes one
    /// after the other; `None` for other bytes. Reads them all.
    pub fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        let list = List::from_bytes(bytes)?;
        list.len().is_multiple_of(2).then_some(Self { list })
    }

    /// The packed form.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.list.as_bytes()
    }

    /// Number of pairs, those that a later one overrides included; counts them.
    pub fn len(&self) -> usize {
        self.list.len() / 2
    }

    /// Whether it is empty.
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The last value of `key`; looks at each pair.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        let same = self.iter().filter(|(name, _)| *name == key);
        same.last().map(|(_, value)| value)
    }

    /// Keys and values in order, those that a later pair overrides included.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + use<'a> {
        let mut list = self.list.iter();
        core::iter::from_fn(move || Some((list.next()?, list.next()?)))
    }
}

fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<LEN>()?;
    let (text, rest) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
    Some((core::str::from_utf8(text).ok()?, rest))
}

/// Progress of packing, which outlives a borrow of the buffer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Packed {
    /// Bytes written so far.
    len: usize,
    /// Begin of the string that is being written.
    begin: usize,
    /// That string found no room.
    is_over: bool,
}

/// Writes packed strings into a buffer, back to back, each at once or in pieces.
pub(crate) struct Packer<'s> {
    buf: &'s mut [u8],
    packed: Packed,
}

impl<'s> Packer<'s> {
    /// A packer that begins in this buffer.
    pub(crate) fn new(buf: &'s mut [u8]) -> Self {
        Self::resume(buf, Packed::default())
    }

    /// A packer that goes on in the same buffer.
    pub(crate) fn resume(buf: &'s mut [u8], packed: Packed) -> Self {
        Self { buf, packed }
    }

    pub(crate) const fn progress(&self) -> Packed {
        self.packed
    }

    /// Bytes written so far.
    pub(crate) const fn len(&self) -> usize {
        self.packed.len
    }

    /// Drops what was written from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.packed.len = self.packed.len.min(len);
    }

    /// Appends `text` whole, or nothing.
    pub(crate) fn push(&mut self, text: &str) -> Result<(), Error> {
        self.begin();
        self.extend(text.as_bytes());
        self.end()
    }

    /// Begins a string.
    pub(crate) fn begin(&mut self) {
        self.packed.begin = self.packed.len;
        self.packed.is_over = false;
        self.extend(&[0; LEN]);
    }

    /// Appends bytes to it.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        let free = self.buf.get_mut(self.packed.len..).unwrap_or_default();
        match free.get_mut(..bytes.len()) {
            Some(into) if !self.packed.is_over => {
                into.copy_from_slice(bytes);
                self.packed.len += bytes.len();
            }
            _ => self.packed.is_over = true,
        }
    }

    /// Ends it, or drops it where it found no room.
    pub(crate) fn end(&mut self) -> Result<(), Error> {
        let Packed {
            len,
            begin,
            is_over,
        } = self.packed;
        let head = u16::try_from((len - begin).saturating_sub(LEN));
        match (head, self.buf.get_mut(begin..begin + LEN)) {
            (Ok(head), Some(into)) if !is_over => {
                into.copy_from_slice(&head.to_le_bytes());
                Ok(())
            }
            _ => {
                self.packed.len = begin;
                let limit = self.buf.len();
                Err(Error::Packed { limit })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::{string::String, vec, vec::Vec};

    fn packed<'a>(buf: &'a mut [u8], texts: &[&str]) -> &'a [u8] {
        let mut packer = Packer::new(buf);
        for text in texts {
            packer.push(text).unwrap();
        }
        let len = packer.len();
        &buf[..len]
    }

    #[test]
    fn the_last_pair_counts() {
        let mut buf = [0; 64];
        let bytes = packed(&mut buf, &["a", "1", "b", "2", "a", "3"]);
        let pairs = Pairs::from_bytes(bytes).unwrap();
        assert_eq!(pairs.get("a"), Some("3"));
        assert_eq!(pairs.get("b"), Some("2"));
        assert_eq!(pairs.get(""), None);
        assert_eq!(pairs.len(), 3);
        assert!(pairs.iter().eq([("a", "1"), ("b", "2"), ("a", "3")]));
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [&[0][..], &[1, 0], &[2, 0, b'a'], &[1, 0, 0xff], &[0, 0, 0]] {
            assert_eq!(List::from_bytes(bytes), None);
        }
        assert_eq!(List::from_bytes(&[0, 0]).unwrap().len(), 1);
        assert_eq!(Pairs::from_bytes(&[0, 0]), None);
        assert!(List::from_bytes(&[]).unwrap().is_empty());
    }

    #[test]
    fn nothing_is_written_in_part() {
        let mut buf = [0xaa; 6];
        let mut packer = Packer::new(&mut buf);
        assert_eq!(packer.push("12345"), Err(Error::Packed { limit: 6 }));
        assert_eq!(packer.len(), 0);
        packer.push("1234").unwrap();
        assert_eq!(packer.push(""), Err(Error::Packed { limit: 6 }));
        assert_eq!(packer.len(), 6);
    }

    #[test]
    fn a_length_must_fit_u16() {
        let mut buf = vec![0; 70_000];
        let mut packer = Packer::new(&mut buf);
        assert!(packer.push(&"x".repeat(65_536)).is_err());
        packer.push(&"x".repeat(65_535)).unwrap();
    }

    proptest! {
        #[test]
        fn round_trip(texts: Vec<String>) {
            let mut buf = vec![0; texts.iter().map(|t| t.len() + LEN).sum()];
            let mut packer = Packer::new(&mut buf);
            for text in &texts {
                packer.push(text).unwrap();
            }
            let list = List::from_bytes(&buf).unwrap();
            prop_assert_eq!(list.len(), texts.len());
            prop_assert!(list.iter().eq(texts.iter()));
        }

        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            if let Some(pairs) = Pairs::from_bytes(&bytes) {
                let used: usize = pairs.iter().map(|(k, v)| k.len() + v.len() + 2 * LEN).sum();
                prop_assert_eq!(used, bytes.len());
            }
        }
    }
}
