//! Standard base64 with padding, as Go and the Linux proplet write it.

use super::error::Error;
use base64::{Engine as _, prelude::BASE64_STANDARD};

/// Characters that are decoded at a time.
const WINDOW: usize = 128;

/// Decodes a text that comes in pieces. Line breaks in it are passed over, as Go does.
#[derive(Debug)]
pub(crate) struct Decoder {
    window: [u8; WINDOW],
    len: usize,
    /// A group with padding has come, which only the last may have.
    is_padded: bool,
}

impl Decoder {
    /// A decoder of a new text.
    pub(crate) const fn new() -> Self {
        Self {
            window: [0; WINDOW],
            len: 0,
            is_padded: false,
        }
    }

    /// Takes a piece of the text, and gives `sink` what is decoded.
    ///
    /// # Errors
    /// [`Error::Base64`] if the text is none.
    pub(crate) fn push(
        &mut self,
        mut text: &[u8],
        sink: &mut (impl FnMut(&[u8]) + ?Sized),
    ) -> Result<(), Error> {
        while let Some((first, rest)) = text.split_first() {
            let room = WINDOW - self.len;
            let next = &text[..text.len().min(room)];
            let len = next.iter().position(|c| matches!(c, b'\r' | b'\n'));
            let len = len.unwrap_or(next.len());
            if len == 0 && matches!(first, b'\r' | b'\n') {
                text = rest;
                continue;
            }
            let (taken, rest) = text.split_at(len);
            self.window[self.len..self.len + len].copy_from_slice(taken);
            self.len += len;
            text = rest;
            if self.len == WINDOW {
                self.flush(sink)?;
            }
        }
        Ok(())
    }

    /// Ends the text.
    ///
    /// # Errors
    /// [`Error::Base64`] if it is none.
    pub(crate) fn end(&mut self, sink: &mut (impl FnMut(&[u8]) + ?Sized)) -> Result<(), Error> {
        self.flush(sink)
    }

    fn flush(&mut self, sink: &mut (impl FnMut(&[u8]) + ?Sized)) -> Result<(), Error> {
        let text = &self.window[..self.len];
        if text.is_empty() {
            return Ok(());
        }
        let mut bytes = [0; WINDOW / 4 * 3];
        let len = match self.is_padded {
            true => Err(Error::Base64),
            false => BASE64_STANDARD
                .decode_slice(text, &mut bytes)
                .map_err(|_| Error::Base64),
        }?;
        self.is_padded = text.last() == Some(&b'=');
        self.len = 0;
        sink(&bytes[..len]);
        Ok(())
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::{string::String, vec, vec::Vec};

    fn decode(text: &str, size: usize) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        let mut sink = |piece: &[u8]| all.extend_from_slice(piece);
        let mut decoder = Decoder::new();
        for piece in text.as_bytes().chunks(size) {
            decoder.push(piece, &mut sink)?;
        }
        decoder.end(&mut sink)?;
        Ok(all)
    }

    #[test]
    fn strict() {
        for text in [
            "QQ", "QQ=", "QQ===", "QR==", "Q===", "====", "=", "QU JD", "QUJ_", "QUJ-", "QQ==QUJD",
            "Ä===", "QQ=\n", "QQ==\n=",
        ] {
            for size in [1, 2, 3, 200] {
                assert_eq!(decode(text, size), Err(Error::Base64), "{text:?}");
            }
        }
        assert_eq!(decode("QQ==", 1), Ok(vec![b'A']));
        assert_eq!(decode("\r\nQU\nJ\nD\n\n", 1), Ok(b"ABC".to_vec()));
        assert_eq!(decode("", 1), Ok(vec![]));
    }

    #[test]
    fn padding_inside_is_refused_at_a_windows_end() {
        for len in 0..300 {
            let text = "A".repeat(len * 4 + 2) + "==QUJD";
            assert_eq!(decode(&text, 1 + len % 5), Err(Error::Base64));
        }
    }

    proptest! {
        #[test]
        fn round_trip(data: Vec<u8>, repeat in 1usize..20, size in 1usize..300) {
            let data = data.repeat(repeat);
            let text = BASE64_STANDARD.encode(&data);
            prop_assert_eq!(decode(&text, size), Ok(data));
        }

        #[test]
        fn as_another_decoder(text in "[A-Da-d+/=]{0,12}", fill in 0usize..60, size in 1usize..300) {
            let text = String::from("AAAA").repeat(fill) + &text;
            prop_assert_eq!(decode(&text, size).ok(), BASE64_STANDARD.decode(&text).ok());
        }
    }
}
