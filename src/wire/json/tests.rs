//! The tokeniser against picojson and serde_json, whatever the pieces.

extern crate std;

use super::*;
use picojson::{Event, PullParser as _, SliceParser};
use proptest::{collection::vec, option, prelude::*, sample::Index, sample::select};
use serde_json::Value;
use std::{borrow::ToOwned, format, string::String, string::ToString, vec, vec::Vec};

/// A document in memory. Keys may come twice.
#[derive(Debug, Clone)]
pub(crate) enum Document {
    Object(Vec<(String, Document)>),
    Array(Vec<Document>),
    Text(String),
    /// In JSON's own digits.
    Number(String),
    Bool(bool),
    Null,
}

/// A part of a document, with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    OpenObject,
    OpenArray,
    Close,
    Key(String),
    Text(String),
    Number(String),
    Bool(bool),
    Null,
}

impl Document {
    fn parts(&self, parts: &mut Vec<Part>) {
        match self {
            Self::Object(members) => {
                parts.push(Part::OpenObject);
                for (key, value) in members {
                    parts.push(Part::Key(key.clone()));
                    value.parts(parts);
                }
                parts.push(Part::Close);
            }
            Self::Array(values) => {
                parts.push(Part::OpenArray);
                values.iter().for_each(|value| value.parts(parts));
                parts.push(Part::Close);
            }
            Self::Text(text) => parts.push(Part::Text(text.clone())),
            Self::Number(digits) => parts.push(Part::Number(digits.clone())),
            Self::Bool(value) => parts.push(Part::Bool(*value)),
            Self::Null => parts.push(Part::Null),
        }
    }

    /// Writes it with spaces and escapes that `style` chooses, again and again.
    pub(crate) fn write(&self, style: &[u8]) -> Vec<u8> {
        let mut writer = Writer {
            text: String::new(),
            style,
            turn: 0,
        };
        writer.document(self);
        writer.text.into_bytes()
    }
}

struct Writer<'s> {
    text: String,
    style: &'s [u8],
    turn: usize,
}

impl Writer<'_> {
    fn choice(&mut self) -> u8 {
        self.turn += 1;
        match self.style {
            [] => 0,
            style => style[self.turn % style.len()],
        }
    }

    fn space(&mut self) {
        let spaces = ["", "", "", " ", "\t", "\r\n", "  ", "\n"];
        let choice = usize::from(self.choice()) % spaces.len();
        self.text += spaces[choice];
    }

    fn token(&mut self, token: &str) {
        self.space();
        self.text += token;
        self.space();
    }

    fn document(&mut self, document: &Document) {
        match document {
            Document::Object(members) => {
                self.token("{");
                for (n, (key, value)) in members.iter().enumerate() {
                    self.comma(n);
                    self.string(key);
                    self.token(":");
                    self.document(value);
                }
                self.token("}");
            }
            Document::Array(values) => {
                self.token("[");
                for (n, value) in values.iter().enumerate() {
                    self.comma(n);
                    self.document(value);
                }
                self.token("]");
            }
            Document::Text(text) => self.string(text),
            Document::Number(digits) => self.text += digits,
            Document::Bool(value) => self.text += &value.to_string(),
            Document::Null => self.text += "null",
        }
    }

    fn comma(&mut self, n: usize) {
        if n > 0 {
            self.token(",");
        }
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        text.chars().for_each(|char| self.char(char));
        self.text.push('"');
    }

    fn char(&mut self, char: char) {
        let is_bare = char >= ' ' && char != '"' && char != '\\';
        let short = match char {
            '"' | '\\' | '/' => Some(char),
            '\u{8}' => Some('b'),
            '\u{c}' => Some('f'),
            '\n' => Some('n'),
            '\r' => Some('r'),
            '\t' => Some('t'),
            _ => None,
        };
        match (self.choice() % 4, short) {
            (0 | 1, _) if is_bare => self.text.push(char),
            (2, Some(short)) => self.text.extend(['\\', short]),
            _ => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    let escape = match self.choice() % 2 {
                        0 => format!("\\u{unit:04x}"),
                        _ => format!("\\u{unit:04X}"),
                    };
                    self.text += &escape;
                }
            }
        }
    }
}

/// Text of any characters, of those at the edges of their kinds above all.
fn any_text() -> impl Strategy<Value = String> {
    let edges = vec![
        '"',
        '\\',
        '/',
        '\u{8}',
        '\u{c}',
        '\n',
        '\r',
        '\t',
        '\0',
        '\u{1f}',
        ' ',
        'u',
        '\u{7f}',
        '\u{80}',
        '\u{7ff}',
        '\u{800}',
        '\u{d7ff}',
        '\u{e000}',
        '\u{ffff}',
        '\u{10000}',
        '\u{10ffff}',
    ];
    let chars = prop_oneof![
        select(edges),
        any::<char>(),
        (b' '..=b'~').prop_map(char::from)
    ];
    vec(chars, 0..8).prop_map(|chars| chars.into_iter().collect())
}

fn any_number() -> impl Strategy<Value = String> {
    let fraction = option::of(vec(0u8..10, 1..4));
    let exponent = option::of((
        select(vec!["e", "E"]),
        select(vec!["", "+", "-"]),
        0u16..280,
    ));
    let integer = prop_oneof![Just(0), 0u64..100, any::<u64>()];
    (any::<bool>(), integer, fraction, exponent).prop_map(
        |(is_negative, integer, fraction, exponent)| {
            let sign = if is_negative { "-" } else { "" };
            let mut digits = format!("{sign}{integer}");
            for (n, digit) in fraction.iter().flatten().enumerate() {
                digits += &format!("{}{digit}", if n == 0 { "." } else { "" });
            }
            if let Some((e, sign, power)) = exponent {
                digits += &format!("{e}{sign}{power}");
            }
            digits
        },
    )
}

fn any_value() -> impl Strategy<Value = Document> {
    let leaf = prop_oneof![
        Just(Document::Null),
        any::<bool>().prop_map(Document::Bool),
        any_number().prop_map(Document::Number),
        any_text().prop_map(Document::Text),
        // Base64, whole, padded and broken.
        select(vec!["", "AAAA", "AGFzbQE=", "QQ==", "QUJD\r\nQUJD", "QQ"])
            .prop_map(|text| Document::Text(text.to_owned())),
    ];
    leaf.prop_recursive(5, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Document::Array),
            vec((any_text(), inner), 0..4).prop_map(Document::Object),
        ]
    })
}

/// An object of any members, of which some have these names.
pub(crate) fn any_object(names: &'static [&'static str]) -> impl Strategy<Value = Document> {
    let known = select(names.to_vec()).prop_map(ToOwned::to_owned);
    let key = prop_oneof![3 => known, 1 => any_text()];
    vec((key, any_value()), 0..6).prop_map(Document::Object)
}

/// `bytes` in pieces of these sizes, again and again.
pub(crate) fn pieces<'a>(bytes: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = bytes;
    sizes.iter().cycle().map_while(move |size| {
        let (piece, behind) = rest.split_at(rest.len().min(*size));
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Part>, Error> {
    let mut tokens = Tokenizer::new();
    let (mut parts, mut text, mut kind) = (Vec::new(), Vec::new(), Token::Null);
    for mut piece in pieces {
        while let Some(token) = tokens.next(&mut piece)? {
            match token {
                Token::OpenObject => parts.push(Part::OpenObject),
                Token::OpenArray => parts.push(Part::OpenArray),
                Token::Close => parts.push(Part::Close),
                Token::Bool(value) => parts.push(Part::Bool(value)),
                Token::Null => parts.push(Part::Null),
                Token::Key => (text, kind) = (Vec::new(), Token::Key),
                Token::String => (text, kind) = (Vec::new(), Token::String),
                Token::Number => (text, kind) = (Vec::new(), Token::Number),
                Token::Piece(piece) => text.extend_from_slice(piece.bytes(&mut [0; 4])),
                Token::TextEnd => {
                    let text = String::from_utf8(core::mem::take(&mut text)).unwrap();
                    parts.push(match kind {
                        Token::Key => Part::Key(text),
                        Token::String => Part::Text(text),
                        _ => Part::Number(text),
                    });
                }
            }
        }
    }
    tokens.end()?;
    Ok(parts)
}

fn read_by_picojson(bytes: &[u8]) -> Vec<Part> {
    let mut scratch = vec![0; bytes.len()];
    let mut parser = SliceParser::with_buffer_from_slice(bytes, &mut scratch);
    let mut parts = Vec::new();
    loop {
        parts.push(match parser.next_event().unwrap() {
            Event::StartObject => Part::OpenObject,
            Event::StartArray => Part::OpenArray,
            Event::EndObject | Event::EndArray => Part::Close,
            Event::Key(text) => Part::Key(text.as_str().to_owned()),
            Event::String(text) => Part::Text(text.as_str().to_owned()),
            Event::Number(number) => Part::Number(number.as_str().to_owned()),
            Event::Bool(value) => Part::Bool(value),
            Event::Null => Part::Null,
            Event::EndDocument => return parts,
        });
    }
}

/// Whether serde_json takes it; `None` if it has read a number that it can't hold, and no further.
fn is_json(bytes: &[u8]) -> Option<bool> {
    match serde_json::from_slice::<Value>(bytes) {
        Err(error) if error.to_string().contains("out of range") => None,
        read => Some(read.is_ok()),
    }
}

proptest! {
    #[test]
    fn any_object_in_any_pieces_is_what_it_was_written_from(
        document in any_object(&["id", "file"]),
        style: Vec<u8>,
        sizes in vec(1usize..9, 1..6),
    ) {
        let bytes = document.write(&style);
        let mut parts = Vec::new();
        document.parts(&mut parts);
        let expected = Ok(parts);
        prop_assert_eq!(&read([&bytes[..]]), &expected);
        for at in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(at);
            prop_assert_eq!(&read([head, tail]), &expected, "cut at {}", at);
        }
        prop_assert_eq!(&read(bytes.chunks(1)), &expected);
        prop_assert_eq!(&read(pieces(&bytes, &sizes)), &expected);

        prop_assert_eq!(Ok(read_by_picojson(&bytes)), expected);
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        let plain: Value = serde_json::from_slice(&document.write(&[])).unwrap();
        prop_assert_eq!(value, plain);
    }

    /// With a byte changed, more or less it is taken or not as serde_json has it, and the pieces make no
    /// difference to the error either.
    #[test]
    fn a_spoilt_object_is_taken_if_serde_json_takes_it(
        document in any_object(&["id", "file"]),
        style: Vec<u8>,
        spoilt in vec((any::<Index>(), 0u8..3, any::<u8>()), 1..3),
        sizes in vec(1usize..9, 1..6),
    ) {
        let mut bytes = document.write(&style);
        for (at, change, byte) in spoilt {
            let at = at.index(bytes.len());
            match change {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                return Ok(());
            }
        }
        let whole = read([&bytes[..]]);
        prop_assert_eq!(&read(bytes.chunks(1)), &whole);
        prop_assert_eq!(&read(pieces(&bytes, &sizes)), &whole);
        // A number alone ends with the input, which the tokeniser does not see.
        let is_object = matches!(whole.as_deref(), Ok([Part::OpenObject, ..]));
        if let Some(is_json) = is_json(&bytes) && bytes.trim_ascii_start().first() == Some(&b'{') {
            prop_assert_eq!(is_object, is_json, "{}", String::from_utf8_lossy(&bytes));
        }
    }
}

#[test]
fn an_object_that_does_not_end_is_no_object() {
    for rest in [
        "",
        " ",
        "\"k\"",
        "\"k\":1,",
        "\"k\":[[",
        "\"k\":\"",
        "\"k\":\"\\",
    ] {
        let bytes = format!("{{{rest}");
        assert!(read([bytes.as_bytes()]).is_err(), "{bytes}");
        assert!(!is_object(bytes.as_bytes()), "{bytes}");
    }
}
