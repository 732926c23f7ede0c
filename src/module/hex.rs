//! Bytes in hexadecimal digits.

use crate::module::table::Digest;
use heapless::String;

/// Reads pairs of digits into the start of `bytes`, as far as that reaches; how many pairs there are.
/// `None` if one of those it reads is malformed. A digit left over is not read.
pub(crate) fn decode(text: &str, bytes: &mut [u8]) -> Option<usize> {
    let digit = |c: u8| char::from(c).to_digit(16);
    let (pairs, _) = text.as_bytes().as_chunks::<2>();
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
    }
    Some(pairs.len())
}

/// The digest that 64 digits are; `None` for any other text.
pub fn from_hex(hex: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    let is_whole = hex.len() == 2 * digest.len();
    decode(hex, &mut digest).filter(|_| is_whole)?;
    Some(digest)
}

/// A digest in 64 digits, in lower case.
pub fn to_hex(digest: &Digest) -> String<64> {
    let mut hex = String::new();
    for byte in digest {
        for digit in [byte >> 4, byte & 15] {
            // There is room for 64.
            let _ = hex.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    hex
}
