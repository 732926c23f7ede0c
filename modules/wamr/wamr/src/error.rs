//! Errors and traps, with words for the person who reads them.

use core::ffi::CStr;
use core::fmt::{self, Write};

/// Bytes of text that an error or a trap carries. All texts of this crate and its C code fit, for they shorten
/// the names in them ([`Name`]); others are cut.
const TEXT_MAX: usize = 160;

/// Bytes in which the C code leaves a text: WAMR puts up to 32 in front, which are taken off.
pub(crate) const C_TEXT: usize = 32 + TEXT_MAX + 1;

/// A bounded text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Text {
    len: u8,
    /// The last one is 0, for C.
    bytes: [u8; TEXT_MAX + 1],
}

impl Text {
    pub(crate) const EMPTY: Self = Self {
        len: 0,
        bytes: [0; TEXT_MAX + 1],
    };

    pub(crate) fn new(args: fmt::Arguments<'_>) -> Self {
        let mut text = Self::EMPTY;
        // The writer below cuts, and never fails.
        let _ = text.write_fmt(args);
        text
    }

    pub(crate) fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Up to its first NUL.
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl Write for Text {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        for c in more.chars() {
            let end = usize::from(self.len) + c.len_utf8();
            let room = self.bytes.get_mut(usize::from(self.len)..end);
            let Some(room) = room.filter(|_| end <= TEXT_MAX) else {
                break;
            };
            c.encode_utf8(room);
            // At most TEXT_MAX, which fits.
            self.len = end as u8;
        }
        Ok(())
    }
}

/// A name from a module or a task, as a text shows it: one of more than [`NAME_MAX`] bytes without its middle.
pub(crate) struct Name<'a>(pub(crate) &'a str);

/// Bytes of a name that a text shows.
const NAME_MAX: usize = 50;

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const GAP: &str = "...";
        let Self(name) = self;
        if name.len() <= NAME_MAX {
            return f.write_str(name);
        }
        let half = (NAME_MAX - GAP.len()) / 2;
        let is_boundary = |at: &usize| name.is_char_boundary(*at);
        let end = (0..=half).rev().find(is_boundary).unwrap_or_default();
        let start = (name.len() - half..).find(is_boundary).unwrap_or_default();
        let (first, last) = (name.get(..end), name.get(start..));
        f.write_str(first.unwrap_or_default())?;
        f.write_str(GAP)?;
        f.write_str(last.unwrap_or_default())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// How the texts begin that say what there was no room for, and which bound that is.
const OUT_OF_MEMORY: &str = "out of memory: ";

/// Why nothing was loaded, made or started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    text: Text,
}

/// Kind of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// [`Runtime::init`](crate::Runtime::init) was called before.
    AlreadyStarted,
    /// The arena has no room left for it.
    OutOfMemory,
    /// The bytes are no valid WebAssembly module, or use a feature that is not built in.
    BadModule,
    /// The module imports what the host doesn't offer, or with another type.
    UnknownImport,
    /// The module exports no function of that name.
    NoSuchFunction,
    /// The function has more or other parameters or results than a host call can pass.
    UnsupportedSignature,
    /// The module can't be instantiated: a segment lies outside its memory or table.
    BadInstance,
    /// The thread can't be prepared for running guests.
    Thread,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, args: fmt::Arguments<'_>) -> Self {
        Self {
            kind,
            text: Text::new(args),
        }
    }

    /// An error whose text is WAMR's, of `kind` unless the text says that memory ran out.
    pub(crate) fn from_wamr(kind: ErrorKind, text: &str) -> Self {
        const PREFIXES: [&str; 3] = [
            "WASM module load failed: ",
            "WASM module instantiate failed: ",
            "Exception: ",
        ];
        let text = PREFIXES
            .iter()
            .fold(text, |t, p| t.strip_prefix(p).unwrap_or(t));
        let kind = match text {
            "allocate memory failed"
            | "allocate linear memory failed"
            | "failed to allocate bitmaps" => ErrorKind::OutOfMemory,
            t if t.starts_with(OUT_OF_MEMORY) => ErrorKind::OutOfMemory,
            t if t.starts_with("unknown import") || t.starts_with("import ") => {
                ErrorKind::UnknownImport
            }
            _ => kind,
        };
        Self::new(kind, format_args!("{text}"))
    }

    /// Its words.
    #[must_use]
    pub fn text(&self) -> &str {
        self.text.as_str()
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.as_str())
    }
}

impl core::error::Error for Error {}

/// Why a call did not return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    kind: TrapKind,
    text: Text,
}

/// Kind of a [`Trap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrapKind {
    /// `unreachable` was executed.
    Unreachable,
    /// An access outside the linear memory, by the guest or by a host function on its behalf.
    MemoryOutOfBounds,
    /// An access outside a table.
    TableOutOfBounds,
    /// An indirect call of a function with another type.
    IndirectCallMismatch,
    /// An indirect call of an empty or absent table element.
    UndefinedElement,
    /// Integer division by zero.
    IntegerDivideByZero,
    /// An integer result that its type can't hold.
    IntegerOverflow,
    /// A conversion of a float that is not a number.
    InvalidConversion,
    /// The operand stack is used up.
    OperandStackOverflow,
    /// The native stack is used up, or the one that the guest keeps in its memory.
    StackOverflow,
    /// The guest would have done more work than it may.
    OutOfWork,
    /// The arena ran out during the call.
    OutOfMemory,
    /// A host function refused.
    Host,
    /// The call was refused; no guest code ran: no such function, or other arguments than it takes.
    BadCall,
    /// Anything else; the text says what.
    Other,
}

impl Trap {
    pub(crate) fn new(kind: TrapKind, args: fmt::Arguments<'_>) -> Self {
        Self {
            kind,
            text: Text::new(args),
        }
    }

    /// The trap that WAMR's exception text names; `fallback` where it names none that is known.
    pub(crate) fn from_exception(text: &str, fallback: TrapKind) -> Self {
        let text = text.strip_prefix("Exception: ").unwrap_or(text);
        let kind = match text {
            // It may tell of a memory.grow that failed before.
            t if t.starts_with("unreachable") => TrapKind::Unreachable,
            "out of bounds memory access" => TrapKind::MemoryOutOfBounds,
            "out of bounds table access" => TrapKind::TableOutOfBounds,
            "indirect call type mismatch" => TrapKind::IndirectCallMismatch,
            "undefined element" | "uninitialized element" => TrapKind::UndefinedElement,
            "integer divide by zero" => TrapKind::IntegerDivideByZero,
            "integer overflow" => TrapKind::IntegerOverflow,
            "invalid conversion to integer" => TrapKind::InvalidConversion,
            "wasm operand stack overflow" => TrapKind::OperandStackOverflow,
            // A guest's stack pointer that falls below 0 wraps.
            "native stack overflow"
            | "wasm auxiliary stack overflow"
            | "wasm auxiliary stack underflow" => TrapKind::StackOverflow,
            "allocate memory failed" => TrapKind::OutOfMemory,
            t if t.starts_with(OUT_OF_MEMORY) => TrapKind::OutOfMemory,
            "work budget exhausted" => TrapKind::OutOfWork,
            _ => fallback,
        };
        Self::new(kind, format_args!("{text}"))
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> TrapKind {
        self.kind
    }
}

impl From<Error> for Trap {
    /// The call that `error` prevented.
    fn from(error: Error) -> Self {
        Self {
            kind: TrapKind::BadCall,
            text: error.text,
        }
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.as_str())
    }
}

impl core::error::Error for Trap {}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::string::ToString as _;

    #[test]
    fn a_long_name_is_shown_without_its_middle() {
        let exact = "n".repeat(NAME_MAX);
        assert_eq!(Name(&exact).to_string(), exact);
        let long = std::format!("start{}end", "-".repeat(5000));
        let shown = Name(&long).to_string();
        assert!(shown.starts_with("start--") && shown.ends_with("--end"));
        assert!(shown.contains("-...-") && shown.len() <= NAME_MAX);
        for letters in 40..60 {
            let long = std::format!("{}{}", "x".repeat(letters % 3), "€".repeat(letters));
            let shown = Name(&long).to_string();
            assert!(
                shown.len() <= NAME_MAX && shown.len() > NAME_MAX - 9,
                "{shown}"
            );
            assert!(shown.ends_with('€'));
        }
    }
}
