//! Refusals of messages.

use core::fmt;

/// Most levels of nesting, the outermost object included.
pub const DEPTH_MAX: u32 = u32::BITS;

/// Refusal of a message, or of the base64 text in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The payload is no UTF-8.
    Utf8 {
        /// Bytes before the offending one.
        at: usize,
    },
    /// A `\u` escape is half a surrogate pair.
    Surrogate {
        /// Bytes before the escape.
        at: usize,
    },
    /// The payload is no JSON document.
    Syntax {
        /// Bytes up to the last key, string or number that was read.
        after: usize,
    },
    /// The document is no object.
    NotObject,
    /// Containers are nested deeper than [`DEPTH_MAX`].
    Depth,
    /// A field's value is of the wrong type.
    Type {
        /// The field's name.
        field: &'static str,
        /// The right type.
        expected: &'static str,
        /// The type that was found.
        found: &'static str,
    },
    /// A required field is absent, null or empty.
    Missing(&'static str),
    /// Neither a module nor where to get it.
    NoModule,
    /// A field is too long.
    TooLong {
        /// The field's name.
        field: &'static str,
        /// Most bytes it may have.
        limit: usize,
    },
    /// The inputs and the environment don't fit the buffer for them.
    Packed {
        /// Its size in bytes, a length of two for each string included.
        limit: usize,
    },
    /// A chunk's index is not below the number of chunks.
    Index {
        /// The index.
        index: u32,
        /// The number of chunks.
        total: u32,
    },
    /// The text is no padded standard base64.
    Base64,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Utf8 { at } => write!(f, "payload is not UTF-8 at byte {at}"),
            Self::Surrogate { at } => {
                write!(f, "JSON has half a surrogate pair at byte {at}")
            }
            Self::Syntax { after } => {
                write!(f, "JSON is malformed or cut short after byte {after}")
            }
            Self::NotObject => f.write_str("expected a JSON object"),
            Self::Depth => write!(f, "JSON is nested deeper than {DEPTH_MAX} levels"),
            Self::Type {
                field,
                expected,
                found,
            } => write!(f, "field \"{field}\": expected {expected}, found {found}"),
            Self::Missing(field) => write!(f, "{field} is missing"),
            Self::NoModule => f.write_str("file and image_url are both missing"),
            Self::TooLong { field, limit } => write!(f, "{field} is longer than {limit} bytes"),
            Self::Packed { limit } => write!(f, "inputs and env take more than {limit} bytes"),
            Self::Index { index, total } => {
                write!(f, "chunk_idx {index} is not below total_chunks {total}")
            }
            Self::Base64 => f.write_str("text is not padded standard base64"),
        }
    }
}

impl core::error::Error for Error {}
