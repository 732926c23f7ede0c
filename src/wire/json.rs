//! JSON in: picojson behind a guard.
//!
//! The guard adds to picojson 0.2.3:
//! - Brackets must match. The parser keeps their kinds in 32 bits that wrap silently past 32
//!   levels, and takes either bracket for the other behind a number (`{"a":1]`).
//! - `\u` escapes of surrogates must come in adjacent pairs; it joins those with text between.
//! - A string with escapes that doesn't fit the buffer is left out and the scan goes on: the parser
//!   can be called again after `ScratchBufferFull`, which its documentation doesn't promise and a
//!   test of ours does. It never gives room back: the escaped strings of a document share the
//!   buffer, ignored ones included.
//! - Texts are given with their [`Place`], which outlives the parser.

use super::error::{DEPTH_MAX, Error};
use picojson::{Event, JsonNumber, ParseError, PullParser, SliceParser, String};

/// Where a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the payload.
    Payload { start: usize, len: usize },
    /// In the buffer for strings with escapes.
    Unescaped { start: usize, len: usize },
}

/// A key, a string's content or a number's digits, until the next token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'t> {
    pub(super) str: &'t str,
    pub(super) place: Place,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Token<'t> {
    OpenObject,
    OpenArray,
    Close,
    Key(Text<'t>),
    String(Text<'t>),
    Number(Text<'t>),
    Bool(bool),
    Null,
    /// A key or a string was left out, as its escapes found no room. May come several times for
    /// one string, and once for several in a row.
    Omitted,
    End,
}

impl Token<'_> {
    /// For errors.
    pub(super) const fn describe(&self) -> &'static str {
        match self {
            Self::OpenObject => "an object",
            Self::OpenArray => "an array",
            Self::Key(_) | Self::String(_) | Self::Omitted => "a string",
            Self::Number(_) => "a number",
            Self::Bool(_) => "a boolean",
            Self::Null => "null",
            Self::Close | Self::End => "nothing",
        }
    }
}

/// Reads tokens from a payload. Stop at the first error.
pub(super) struct Reader<'a, 's> {
    parser: SliceParser<'a, 's>,
    places: Places,
    nesting: Nesting,
    /// Bytes of the payload up to the last text's end.
    after: usize,
    /// The error that ended the part that the parser was given, if that isn't the whole.
    cut: Option<Error>,
}

impl<'a, 's> Reader<'a, 's> {
    /// A reader of `payload`. What is badly encoded is an error when it is reached.
    pub(super) fn new(payload: &'a [u8], unescaped: &'s mut [u8]) -> Self {
        let (valid, cut) = well_encoded(payload);
        Self {
            places: Places {
                payload: payload.as_ptr().addr(),
                unescaped: unescaped.as_ptr().addr(),
            },
            parser: SliceParser::with_buffer_from_slice(valid, unescaped),
            nesting: Nesting::default(),
            after: 0,
            cut,
        }
    }

    /// Open containers.
    pub(super) const fn depth(&self) -> u32 {
        self.nesting.depth
    }

    /// The next token; [`Token::End`] only after a whole document with nothing behind it.
    pub(super) fn next(&mut self) -> Result<Token<'_>, Error> {
        let syntax = self.cut.unwrap_or(Error::Syntax { after: self.after });
        let nesting = &mut self.nesting;
        let event = match self.parser.next_event() {
            Ok(event) => event,
            Err(ParseError::ScratchBufferFull) => return Ok(Token::Omitted),
            Err(_) => return Err(syntax),
        };
        let token = match event {
            Event::StartObject => nesting.open(true).map(|()| Token::OpenObject)?,
            Event::StartArray => nesting.open(false).map(|()| Token::OpenArray)?,
            Event::EndObject => nesting.close(true).map(|()| Token::Close).ok_or(syntax)?,
            Event::EndArray => nesting.close(false).map(|()| Token::Close).ok_or(syntax)?,
            Event::Key(key) => Token::Key(self.places.string(key).ok_or(syntax)?),
            Event::String(string) => Token::String(self.places.string(string).ok_or(syntax)?),
            Event::Number(number) => Token::Number(self.places.number(number).ok_or(syntax)?),
            Event::Bool(bool) => Token::Bool(bool),
            Event::Null => Token::Null,
            Event::EndDocument if self.cut.is_none() && nesting.depth == 0 => Token::End,
            Event::EndDocument => return Err(syntax),
        };
        if let Token::Key(text) | Token::String(text) | Token::Number(text) = &token
            && let Place::Payload { start, len } = text.place
        {
            self.after = start + len;
        }
        Ok(token)
    }

    /// Reads on until `depth` containers are open: the rest of one that was opened at that depth.
    pub(super) fn skip_to(&mut self, depth: u32) -> Result<(), Error> {
        while self.depth() > depth {
            self.next()?;
        }
        Ok(())
    }
}

/// Kinds of the open containers.
#[derive(Default)]
struct Nesting {
    depth: u32,
    /// One bit a level, set for an object; the innermost is the lowest.
    objects: u32,
}

impl Nesting {
    fn open(&mut self, object: bool) -> Result<(), Error> {
        if self.depth == DEPTH_MAX {
            return Err(Error::Depth);
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u32::from(object);
        Ok(())
    }

    fn close(&mut self, object: bool) -> Option<()> {
        if self.objects & 1 != u32::from(object) {
            return None;
        }
        self.depth = self.depth.checked_sub(1)?;
        self.objects >>= 1;
        Some(())
    }
}

/// Where the parser's texts come from, as addresses: it doesn't tell positions.
struct Places {
    payload: usize,
    unescaped: usize,
}

impl Places {
    fn string<'t>(&self, string: String<'t, 't>) -> Option<Text<'t>> {
        match string {
            String::Borrowed(str) => self.in_payload(str),
            String::Unescaped(str) => {
                let start = str.as_ptr().addr().checked_sub(self.unescaped)?;
                let len = str.len();
                Some(Text {
                    str,
                    place: Place::Unescaped { start, len },
                })
            }
        }
    }

    fn number<'t>(&self, number: JsonNumber<'t, 't>) -> Option<Text<'t>> {
        let (JsonNumber::Borrowed { raw, .. } | JsonNumber::Copied { raw, .. }) = number;
        self.in_payload(raw)
    }

    fn in_payload<'t>(&self, str: &'t str) -> Option<Text<'t>> {
        let start = str.as_ptr().addr().checked_sub(self.payload)?;
        let len = str.len();
        Some(Text {
            str,
            place: Place::Payload { start, len },
        })
    }
}

/// The part of `payload` before anything that is no UTF-8 or escapes half a surrogate pair, and
/// the error if there is.
fn well_encoded(payload: &[u8]) -> (&[u8], Option<Error>) {
    let (text, utf8) = match core::str::from_utf8(payload) {
        Ok(_) => (payload, None),
        Err(error) => {
            let at = error.valid_up_to();
            (
                payload.get(..at).unwrap_or_default(),
                Some(Error::Utf8 { at }),
            )
        }
    };
    match lone_surrogate(text) {
        Some(at) => (
            text.get(..at).unwrap_or_default(),
            Some(Error::Surrogate { at }),
        ),
        None => (text, utf8),
    }
}

/// Where the first `\u` escape is that is half a surrogate pair. A backslash outside a string is
/// an error to the parser, so all of them count.
fn lone_surrogate(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let rest = text.get(at..)?;
        at += rest.iter().position(|byte| *byte == b'\\')?;
        at += match code_unit(text, at) {
            None => 2,
            Some(0xD800..=0xDBFF) => match code_unit(text, at + 6) {
                Some(0xDC00..=0xDFFF) => 12,
                _ => return Some(at),
            },
            Some(0xDC00..=0xDFFF) => return Some(at),
            Some(_) => 6,
        };
    }
}

/// The UTF-16 code unit of the `\u` escape at `at`, if there is one.
fn code_unit(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at.checked_add(6)?)?.strip_prefix(b"\\u")?;
    let digits = core::str::from_utf8(digits).ok()?;
    u16::from_str_radix(digits, 16).ok()
}

/// Whether `bytes` are one JSON object, and nothing else.
pub fn is_object(bytes: &[u8]) -> bool {
    // Without room for escapes, what has them is left out, and checked nevertheless.
    let mut reader = Reader::new(bytes, &mut []);
    let mut first = true;
    loop {
        match reader.next() {
            Ok(Token::OpenObject) => {}
            Ok(Token::End) => return !first,
            Ok(_) if first => return false,
            Ok(_) => {}
            Err(_) => return false,
        }
        first = false;
    }
}
