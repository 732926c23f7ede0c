//! Formats that are sent in place of a module, recognised by how they begin.

use core::fmt;

/// A format that is not that of a core module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// No byte at all.
    Empty,
    /// Compressed by gzip.
    Gzip,
    /// Compressed by zstd.
    Zstd,
    /// A tar archive.
    Tar,
    /// A zip archive.
    Zip,
    /// A native program or object.
    Elf,
    /// HTML or XML.
    Markup,
    /// A JSON object or array.
    Json,
    /// WebAssembly text.
    Wat,
    /// A module in base64, which the message already is.
    Base64,
    /// A WebAssembly component.
    Component,
    /// A module that was compiled for WAMR ahead of time.
    Aot,
}

impl fmt::Display for Format {
    /// What the module is, and what to do about it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the module is ")?;
        f.write_str(match self {
            Self::Empty => "empty",
            Self::Gzip => "gzip-compressed: send it unpacked",
            Self::Zstd => "zstd-compressed: send it unpacked",
            Self::Tar => "a tar archive: send the .wasm file that is in it",
            Self::Zip => "a zip archive: send the .wasm file that is in it",
            Self::Elf => "a native ELF file: compile it to WebAssembly",
            Self::Markup => "an HTML or XML page: does its URL name the file itself?",
            Self::Json => "JSON, such as a registry's manifest: name the .wasm file itself",
            Self::Wat => "WebAssembly text: assemble it to .wasm first",
            Self::Base64 => "encoded in base64 twice: encode it once",
            Self::Component => "a WebAssembly component: this proplet takes core modules",
            Self::Aot => "compiled ahead of time for WAMR: send the .wasm file",
        })
    }
}

impl core::error::Error for Format {}

/// Refuses bytes that are known to be something else than a core module. Whether the others are one, the
/// engine says.
///
/// # Errors
/// Their format.
pub fn check(bytes: &[u8]) -> Result<(), Format> {
    match recognise(bytes) {
        Some(format) => Err(format),
        None => Ok(()),
    }
}

fn recognise(bytes: &[u8]) -> Option<Format> {
    const MAGIC: [(&[u8], Format); 8] = [
        (b"\x1f\x8b", Format::Gzip),
        (b"\x28\xb5\x2f\xfd", Format::Zstd),
        (b"PK\x03\x04", Format::Zip),
        (b"\x7fELF", Format::Elf),
        (b"\0asm\x0d\0\x01\0", Format::Component),
        (b"\0aot", Format::Aot),
        // Of the magic number and a version's first byte.
        (b"AGFzbQEA", Format::Base64),
        (b"AGFzbQ0A", Format::Base64),
    ];
    if bytes.is_empty() {
        return Some(Format::Empty);
    }
    let magic = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic));
    if let Some((_, format)) = magic {
        return Some(*format);
    }
    match is_tar(bytes) {
        true => Some(Format::Tar),
        false => text(bytes),
    }
}

/// Whether the first entry of an archive is in a form of POSIX or GNU.
fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar")
}

/// Text, by its first character behind a byte order mark and blanks.
fn text(bytes: &[u8]) -> Option<Format> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match bytes.trim_ascii_start() {
        [b'<', ..] => Some(Format::Markup),
        [b'{' | b'[', ..] => Some(Format::Json),
        [b'(', ..] | [b';', b';', ..] => Some(Format::Wat),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::{string::ToString as _, vec};

    #[test]
    fn a_module_is_left_to_the_engine() {
        for bytes in [
            &b"\0asm\x01\0\0\0"[..],
            b"\0asm\x02\0\0\0",
            b"\0asm",
            b"\0",
            b"main()",
            b"\x1f",
            b"   ",
        ] {
            assert_eq!(check(bytes), Ok(()), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_module_is_named() {
        let mut tar = vec![0; 512];
        tar[..6].copy_from_slice(b"a.wasm");
        tar[257..262].copy_from_slice(b"ustar");
        for (bytes, format) in [
            (&b""[..], Format::Empty),
            (b"\x1f\x8b\x08\0\0\0\0\0", Format::Gzip),
            (b"\x28\xb5\x2f\xfd\x04\0", Format::Zstd),
            (&tar, Format::Tar),
            (b"PK\x03\x04\x14\0", Format::Zip),
            (b"\x7fELF\x02\x01", Format::Elf),
            (b"<!DOCTYPE html><html>", Format::Markup),
            (b"\xef\xbb\xbf\r\n <?xml", Format::Markup),
            (b"{\"schemaVersion\":2}", Format::Json),
            (b"  (module)", Format::Wat),
            (b";; a comment\n(module)", Format::Wat),
            (b"AGFzbQEAAAABBQFgAAF/", Format::Base64),
            (b"\0asm\x0d\0\x01\0", Format::Component),
            (b"\0aot\x04\0\0\0", Format::Aot),
        ] {
            assert_eq!(check(bytes), Err(format));
            let words = format.to_string();
            assert!(words.starts_with("the module is ") && words.len() <= 96);
        }
        // What is cut before the mark of an archive can't be told.
        assert_eq!(check(&tar[..261]), Ok(()));
    }
}
