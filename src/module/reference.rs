//! Image references: where a module is, and which it must be.

use crate::{
    module::{hex::from_hex, table::Digest},
    text::clip,
};
use core::fmt;

/// Digits of a digest that an error shows.
const SHOWN: usize = 16;

/// Bytes of those digits.
const SHOWN_BYTES: usize = SHOWN / 2;

/// An image reference: where the module is, and which it must be.
///
/// `location`, or `location@sha256:<hex>`, or `location#sha256=<hex>`. The digest is that of the
/// module's bytes, which for an OCI image is that of its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference<'a> {
    /// A URL, or what the registry's proxy is asked for.
    pub location: &'a str,
    /// SHA-256 of the module.
    pub digest: Option<Digest>,
}

/// A malformed digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReferenceError<'a> {
    hex: &'a str,
    mark: &'static str,
}

impl fmt::Display for ReferenceError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "digest '{}': expected 64 hexadecimal digits behind {}",
            clip(self.hex, 72),
            self.mark
        )
    }
}

impl core::error::Error for ReferenceError<'_> {}

impl<'a> Reference<'a> {
    /// Takes a reference apart.
    ///
    /// # Errors
    /// The digest is not 64 hexadecimal digits.
    pub fn parse(reference: &'a str) -> Result<Self, ReferenceError<'a>> {
        for mark in ["@sha256:", "#sha256="] {
            if let Some((location, hex)) = reference.rsplit_once(mark) {
                let digest = Some(from_hex(hex).ok_or(ReferenceError { hex, mark })?);
                return Ok(Self { location, digest });
            }
        }
        Ok(Self {
            location: reference,
            digest: None,
        })
    }

    /// Whether the location is to be fetched over HTTP.
    pub fn is_http(&self) -> bool {
        let scheme = self.location.split_once("://").map_or("", |(s, _)| s);
        scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
    }
}

/// A module that is not the one that was asked for: the first bytes of both digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DigestMismatch {
    expected: [u8; SHOWN_BYTES],
    found: [u8; SHOWN_BYTES],
}

impl fmt::Display for DigestMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("digest mismatch: expected sha256:")?;
        self.expected
            .iter()
            .try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str("…, found sha256:")?;
        self.found.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str("…")
    }
}

impl core::error::Error for DigestMismatch {}

/// Refuses a module that is not the one that was asked for.
///
/// # Errors
/// The beginnings of both digests.
pub fn check(expected: Option<&Digest>, found: &Digest) -> Result<(), DigestMismatch> {
    match expected {
        Some(expected) if expected != found => {
            let head = |digest: &Digest| core::array::from_fn(|i| digest[i]);
            Err(DigestMismatch {
                expected: head(expected),
                found: head(found),
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::module::{hex::to_hex, table::digest};
    use std::{format, string::ToString as _};

    #[test]
    fn a_reference_says_where_and_which() {
        let hex = to_hex(&digest(b"module"));
        for location in ["http://host/a.wasm", "registry/app:1", "a@b"] {
            assert_eq!(
                Reference::parse(location),
                Ok(Reference {
                    location,
                    digest: None
                })
            );
            for mark in ["@sha256:", "#sha256="] {
                for hex in [hex.as_str(), &hex.to_uppercase()] {
                    let reference = format!("{location}{mark}{hex}");
                    let parsed = Reference::parse(&reference).unwrap();
                    assert_eq!(parsed.location, location);
                    assert_eq!(parsed.digest, Some(digest(b"module")));
                }
            }
        }
        for bad in [
            "",
            "12",
            &hex[1..],
            &format!("{hex}0"),
            &hex.replace('a', "g"),
        ] {
            if bad == hex {
                continue;
            }
            let reference = format!("app@sha256:{bad}");
            let error = Reference::parse(&reference).unwrap_err().to_string();
            assert!(error.contains("64 hexadecimal digits"), "{error}");
        }
    }

    #[test]
    fn schemes_choose_the_source() {
        for (reference, http) in [
            ("http://host/a", true),
            ("HTTPS://host/a", true),
            ("docker.io/org/app:1", false),
            ("oci://host/app", false),
            ("httpx", false),
        ] {
            assert_eq!(Reference::parse(reference).unwrap().is_http(), http);
        }
    }

    #[test]
    fn a_mismatch_names_both_digests() {
        let (a, b) = (digest(b"a"), digest(b"b"));
        assert_eq!(check(None, &a), Ok(()));
        assert_eq!(check(Some(&a), &a), Ok(()));
        let error = check(Some(&a), &b).unwrap_err().to_string();
        for digest in [a, b] {
            assert!(error.contains(&to_hex(&digest)[..SHOWN]), "{error}");
        }
    }
}
