//! Standard base64 with padding, as Go and the Linux proplet write it.

use super::error::Error;
use base64::{Engine as _, prelude::BASE64_STANDARD};

/// Bytes that [`decode_chunks`] decodes at a time, on the stack.
const WINDOW: usize = 768;

/// Bytes that `text` decodes to, from its length and padding alone: exact if it decodes at all.
///
/// # Errors
/// [`Error::Base64`] if its length can't be.
pub fn decoded_len(text: &str) -> Result<usize, Error> {
    if !text.len().is_multiple_of(4) {
        return Err(Error::Base64);
    }
    let padding = text
        .bytes()
        .rev()
        .take(2)
        .take_while(|b| *b == b'=')
        .count();
    Ok(text.len() / 4 * 3 - padding)
}

/// Decodes `text` into the start of `buf` and returns the length.
///
/// # Errors
/// [`Error::Base64`] if `text` is not base64; a line break is not; [`Error::Decoded`] if `buf` is too
/// short. Then what `buf` holds is unspecified.
pub fn decode_into(text: &str, buf: &mut [u8]) -> Result<usize, Error> {
    let len = decoded_len(text)?;
    let limit = buf.len();
    let exact = buf.get_mut(..len).ok_or(Error::Decoded { len, limit })?;
    BASE64_STANDARD
        .decode_slice(text, exact)
        .map_err(|_| Error::Base64)
}

/// Decodes `text` piece by piece through a window of 768 bytes on the stack.
///
/// # Errors
/// [`Error::Base64`] if `text` is not base64; a line break is not; `sink` may have had pieces before.
pub fn decode_chunks(text: &str, mut sink: impl FnMut(&[u8])) -> Result<(), Error> {
    let mut window = [0; WINDOW];
    let mut pieces = text.as_bytes().chunks(WINDOW / 3 * 4).peekable();
    while let Some(piece) = pieces.next() {
        let len = BASE64_STANDARD
            .decode_slice(piece, &mut window)
            .map_err(|_| Error::Base64)?;
        // Only the last piece may be padded.
        if len < WINDOW && pieces.peek().is_some() {
            return Err(Error::Base64);
        }
        sink(window.get(..len).ok_or(Error::Base64)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::{string::String, vec, vec::Vec};

    fn by_chunks(text: &str) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        decode_chunks(text, |piece| all.extend_from_slice(piece)).map(|()| all)
    }

    fn at_once(text: &str) -> Result<Vec<u8>, Error> {
        let mut buf = vec![0; decoded_len(text)?];
        let len = decode_into(text, &mut buf)?;
        assert_eq!(len, buf.len());
        Ok(buf)
    }

    #[test]
    fn strict() {
        for text in [
            "QQ", "QQ=", "QQ===", "QR==", "Q===", "====", "=", "QUJD\n", "QU\nJ", "QU JD", "QUJ_",
            "QUJ-", "QQ==QUJD", "Ä===",
        ] {
            assert_eq!(at_once(text), Err(Error::Base64), "{text:?}");
            assert_eq!(by_chunks(text), Err(Error::Base64), "{text:?}");
        }
        assert_eq!(at_once("QQ=="), Ok(vec![b'A']));
        assert_eq!(by_chunks(""), Ok(vec![]));
    }

    #[test]
    fn padding_inside_is_refused_at_a_window_s_end() {
        let mut text = "A".repeat(1022);
        text.push_str("==QUJD");
        assert_eq!(at_once(&text), Err(Error::Base64));
        assert_eq!(by_chunks(&text), Err(Error::Base64));
    }

    #[test]
    fn short_buffer() {
        assert_eq!(
            decode_into("QUJD", &mut [0; 2]),
            Err(Error::Decoded { len: 3, limit: 2 })
        );
        assert_eq!(decode_into("QQ==", &mut [0; 1]), Ok(1));
        assert_eq!(decode_into("", &mut []), Ok(0));
    }

    proptest! {
        #[test]
        fn round_trip(data: Vec<u8>, repeat in 1usize..20) {
            let data = data.repeat(repeat);
            let mut text = vec![0; data.len().div_ceil(3) * 4];
            BASE64_STANDARD.encode_slice(&data, &mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            prop_assert_eq!(at_once(&text), Ok(data.clone()));
            prop_assert_eq!(by_chunks(&text), Ok(data));
        }

        #[test]
        fn all_agree(text in "[A-Da-d+/=\n]{0,12}", fill in 0usize..600) {
            let text = String::from("AAAA").repeat(fill) + &text;
            prop_assert_eq!(at_once(&text), by_chunks(&text));
        }
    }
}
