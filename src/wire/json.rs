//! JSON in, as it comes: a tokeniser that is fed a document in pieces, cut anywhere.
//!
//! RFC 8259, strictly: UTF-8, escapes in whole surrogate pairs, brackets that match, numbers as they must
//! be. It keeps no text; its state is the same size whatever the document, and it does not recurse.

use super::error::{DEPTH_MAX, Error};

/// A piece of a text, decoded. Where the input is cut, it may end within a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'i> {
    /// Bytes of the input.
    Bytes(&'i [u8]),
    /// The character of an escape.
    Char(char),
}

impl Piece<'_> {
    /// Its bytes; those of an escape's character are made in `buf`.
    pub(super) fn bytes<'b>(&'b self, buf: &'b mut [u8; 4]) -> &'b [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Char(char) => char.encode_utf8(buf).as_bytes(),
        }
    }
}

/// A part of a document. A text is its begin (a key, a string or a number), its pieces and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'i> {
    OpenObject,
    OpenArray,
    Close,
    Key,
    String,
    Number,
    Piece(Piece<'i>),
    TextEnd,
    Bool(bool),
    Null,
}

impl Token<'_> {
    /// For errors.
    pub(super) const fn describe(&self) -> &'static str {
        match self {
            Self::OpenObject => "an object",
            Self::OpenArray => "an array",
            Self::Key | Self::String => "a string",
            Self::Number => "a number",
            Self::Bool(_) => "a boolean",
            Self::Null => "null",
            Self::Close | Self::Piece(_) | Self::TextEnd => "nothing",
        }
    }
}

/// Reads tokens from a document. Not to be used after an error.
#[derive(Debug)]
pub(super) struct Tokenizer {
    state: State,
    nesting: Nesting,
    /// Bytes of the document that have been read.
    at: usize,
    /// Bytes up to the end of the last text, for errors.
    after: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// A value is due; in an array that has just been opened its end may come instead.
    Value {
        may_close: bool,
    },
    /// A key is due; in an object that has just been opened its end may come instead.
    Key {
        may_close: bool,
    },
    /// The colon behind a key is due.
    Colon,
    /// A value has ended.
    Behind,
    /// Within a key or a string.
    Text {
        is_key: bool,
        escape: Escape,
    },
    /// Within a character of several bytes, in a key or a string.
    Char {
        is_key: bool,
        utf8: Utf8,
    },
    Number(Number),
    /// Within `true`, `false` or `null`.
    Literal {
        rest: &'static [u8],
        token: Token<'static>,
    },
    /// The document is whole.
    Whole,
}

/// Position within an escape. `at` is that of its backslash in the document.
#[derive(Debug, Clone, Copy)]
enum Escape {
    None,
    /// Behind the backslash.
    Begun {
        at: usize,
    },
    /// Behind `\u` and some hexadecimal digits, after the first half of a pair or not.
    Unicode {
        at: usize,
        high: Option<u16>,
        unit: u16,
        digits: u8,
    },
    /// The backslash of the second half of a pair is due.
    Low {
        at: usize,
        high: u16,
    },
    /// Its `u` is due.
    LowU {
        at: usize,
        high: u16,
    },
}

/// Rest of a character of several bytes.
#[derive(Debug, Clone, Copy)]
struct Utf8 {
    /// Position of its first byte.
    at: usize,
    left: u8,
    /// Range of the next byte.
    next: (u8, u8),
}

impl Utf8 {
    /// The rest behind a first byte of 0x80 or more.
    const fn begin(first: u8, at: usize) -> Option<Self> {
        let (left, next) = match first {
            0xc2..=0xdf => (1, (0x80, 0xbf)),
            0xe0 => (2, (0xa0, 0xbf)),
            0xe1..=0xec | 0xee | 0xef => (2, (0x80, 0xbf)),
            0xed => (2, (0x80, 0x9f)),
            0xf0 => (3, (0x90, 0xbf)),
            0xf1..=0xf3 => (3, (0x80, 0xbf)),
            0xf4 => (3, (0x80, 0x8f)),
            _ => return None,
        };
        Some(Self { at, left, next })
    }
}

/// Part of a number that has just been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    /// Nothing yet.
    Begin,
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

impl Number {
    /// After one more byte; `None` if that is no part of the number.
    const fn next(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Begin, b'-') => Self::Minus,
            (Self::Begin | Self::Minus, b'0') => Self::Zero,
            (Self::Begin | Self::Minus, b'1'..=b'9') | (Self::Integer, b'0'..=b'9') => {
                Self::Integer
            }
            (Self::Zero | Self::Integer, b'.') => Self::Point,
            (Self::Point | Self::Fraction, b'0'..=b'9') => Self::Fraction,
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Self::E,
            (Self::E, b'+' | b'-') => Self::Sign,
            (Self::E | Self::Sign | Self::Exponent, b'0'..=b'9') => Self::Exponent,
            _ => return None,
        })
    }

    const fn is_whole(self) -> bool {
        matches!(
            self,
            Self::Zero | Self::Integer | Self::Fraction | Self::Exponent
        )
    }
}

/// Kinds of the open containers.
#[derive(Debug, Clone, Copy, Default)]
struct Nesting {
    depth: u32,
    /// One bit a level, set for an object; the innermost is the lowest.
    objects: u32,
}

impl Nesting {
    fn open(&mut self, is_object: bool) -> Result<(), Error> {
        if self.depth == DEPTH_MAX {
            return Err(Error::Depth);
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u32::from(is_object);
        Ok(())
    }

    const fn is_in_object(self) -> bool {
        self.objects & 1 == 1
    }

    const fn close(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Whether a byte of a string stands for itself, alone.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7f) && byte != b'"' && byte != b'\\'
}

impl Tokenizer {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Value { may_close: false },
            nesting: Nesting {
                depth: 0,
                objects: 0,
            },
            at: 0,
            after: 0,
        }
    }

    /// Open containers.
    pub(super) const fn depth(&self) -> u32 {
        self.nesting.depth
    }

    /// The next token of the document, which goes on with `input`; what was read of that is taken off its
    /// front. `None` at its end.
    ///
    /// # Errors
    /// The document is none. There is no next token after that.
    pub(super) fn next<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Token<'i>>, Error> {
        while let Some(&byte) = input.first() {
            let token = match self.state {
                State::Text {
                    is_key,
                    escape: Escape::None,
                } => {
                    let plain = input.iter().position(|byte| !is_plain(*byte));
                    let plain = plain.unwrap_or(input.len());
                    if plain > 0 {
                        let piece = self.take(input, plain);
                        return Ok(Some(Token::Piece(Piece::Bytes(piece))));
                    }
                    self.special(is_key, byte, input)?
                }
                State::Text { is_key, escape } => self.escaped(is_key, escape, byte, input)?,
                State::Char { is_key, utf8 } => Some(self.char(is_key, utf8, input)?),
                State::Number(number) => Some(self.number(number, input)?),
                State::Literal { rest, token } => self.literal(rest, token, byte, input)?,
                _ if is_space(byte) => {
                    self.take(input, 1);
                    None
                }
                _ => self.structure(byte, input)?,
            };
            if token.is_some() {
                return Ok(token);
            }
        }
        Ok(None)
    }

    /// Ends the document.
    ///
    /// # Errors
    /// It is not whole.
    pub(super) const fn end(&self) -> Result<(), Error> {
        match self.state {
            State::Whole => Ok(()),
            State::Text {
                escape: Escape::Low { at, .. } | Escape::LowU { at, .. },
                ..
            } => Err(Error::Surrogate { at }),
            State::Char { utf8, .. } => Err(Error::Utf8 { at: utf8.at }),
            _ => Err(self.syntax()),
        }
    }

    const fn syntax(&self) -> Error {
        Error::Syntax { after: self.after }
    }

    fn take<'i>(&mut self, input: &mut &'i [u8], len: usize) -> &'i [u8] {
        let (taken, rest) = input.split_at(len);
        *input = rest;
        self.at += len;
        taken
    }

    /// Goes on behind a value, or within its container.
    const fn behind(&mut self) {
        self.state = match self.nesting.depth {
            0 => State::Whole,
            _ => State::Behind,
        };
    }

    /// Reads a byte between texts and literals, or begins one of those.
    fn structure<'i>(
        &mut self,
        byte: u8,
        input: &mut &'i [u8],
    ) -> Result<Option<Token<'i>>, Error> {
        let token = match (self.state, byte) {
            (State::Value { .. }, b'{') => {
                self.nesting.open(true)?;
                self.state = State::Key { may_close: true };
                Some(Token::OpenObject)
            }
            (State::Value { .. }, b'[') => {
                self.nesting.open(false)?;
                self.state = State::Value { may_close: true };
                Some(Token::OpenArray)
            }
            (State::Value { may_close: true }, b']') | (State::Key { may_close: true }, b'}') => {
                Some(self.close())
            }
            (State::Behind, b'}') if self.nesting.is_in_object() => Some(self.close()),
            (State::Behind, b']') if !self.nesting.is_in_object() => Some(self.close()),
            (State::Value { .. }, b'"') => {
                self.state = State::text(false);
                Some(Token::String)
            }
            (State::Key { .. }, b'"') => {
                self.state = State::text(true);
                Some(Token::Key)
            }
            (State::Colon, b':') => {
                self.state = State::Value { may_close: false };
                None
            }
            (State::Behind, b',') => {
                self.state = match self.nesting.is_in_object() {
                    true => State::Key { may_close: false },
                    false => State::Value { may_close: false },
                };
                None
            }
            (State::Value { .. }, b'-' | b'0'..=b'9') => {
                self.state = State::Number(Number::Begin);
                return Ok(Some(Token::Number));
            }
            (State::Value { .. }, b't') => {
                return Ok(self.begin_literal(b"true", Token::Bool(true)));
            }
            (State::Value { .. }, b'f') => {
                return Ok(self.begin_literal(b"false", Token::Bool(false)));
            }
            (State::Value { .. }, b'n') => return Ok(self.begin_literal(b"null", Token::Null)),
            (_, 0x80..) if Utf8::begin(byte, self.at).is_none() => {
                return Err(Error::Utf8 { at: self.at });
            }
            _ => return Err(self.syntax()),
        };
        self.take(input, 1);
        Ok(token)
    }

    const fn close(&mut self) -> Token<'static> {
        self.nesting.close();
        self.behind();
        Token::Close
    }

    const fn begin_literal<'i>(
        &mut self,
        rest: &'static [u8],
        token: Token<'static>,
    ) -> Option<Token<'i>> {
        self.state = State::Literal { rest, token };
        None
    }

    fn literal<'i>(
        &mut self,
        rest: &'static [u8],
        token: Token<'static>,
        byte: u8,
        input: &mut &'i [u8],
    ) -> Result<Option<Token<'i>>, Error> {
        let Some((_, rest)) = rest.split_first().filter(|(first, _)| **first == byte) else {
            return Err(self.syntax());
        };
        self.take(input, 1);
        if !rest.is_empty() {
            self.state = State::Literal { rest, token };
            return Ok(None);
        }
        self.behind();
        Ok(Some(token))
    }

    /// Reads digits up to the end of a number or of the input.
    fn number<'i>(&mut self, mut number: Number, input: &mut &'i [u8]) -> Result<Token<'i>, Error> {
        let mut len = 0;
        while let Some(next) = input.get(len).and_then(|byte| number.next(*byte)) {
            number = next;
            len += 1;
        }
        if len > 0 {
            self.state = State::Number(number);
            return Ok(Token::Piece(Piece::Bytes(self.take(input, len))));
        }
        if !number.is_whole() {
            return Err(self.syntax());
        }
        self.end_text();
        self.behind();
        Ok(Token::TextEnd)
    }

    const fn end_text(&mut self) {
        self.after = self.at;
    }

    /// Reads a byte of a string that does not stand for itself.
    fn special<'i>(
        &mut self,
        is_key: bool,
        byte: u8,
        input: &mut &'i [u8],
    ) -> Result<Option<Token<'i>>, Error> {
        let at = self.at;
        match byte {
            b'"' => {
                self.end_text();
                self.take(input, 1);
                match is_key {
                    true => self.state = State::Colon,
                    false => self.behind(),
                }
                Ok(Some(Token::TextEnd))
            }
            b'\\' => {
                self.take(input, 1);
                let escape = Escape::Begun { at };
                self.state = State::Text { is_key, escape };
                Ok(None)
            }
            0x80.. => {
                let utf8 = Utf8::begin(byte, at).ok_or(Error::Utf8 { at })?;
                self.state = State::Char { is_key, utf8 };
                Ok(Some(Token::Piece(Piece::Bytes(self.take(input, 1)))))
            }
            _ => Err(self.syntax()),
        }
    }

    /// Reads the rest of a character of several bytes, as far as the input has it.
    fn char<'i>(
        &mut self,
        is_key: bool,
        mut utf8: Utf8,
        input: &mut &'i [u8],
    ) -> Result<Token<'i>, Error> {
        let mut len = 0;
        while utf8.left > 0
            && let Some(byte) = input.get(len)
        {
            let (least, most) = utf8.next;
            if !(least..=most).contains(byte) {
                return Err(Error::Utf8 { at: utf8.at });
            }
            utf8.left -= 1;
            utf8.next = (0x80, 0xbf);
            len += 1;
        }
        self.state = match utf8.left {
            0 => State::text(is_key),
            _ => State::Char { is_key, utf8 },
        };
        Ok(Token::Piece(Piece::Bytes(self.take(input, len))))
    }

    /// Reads a byte of an escape.
    fn escaped<'i>(
        &mut self,
        is_key: bool,
        escape: Escape,
        byte: u8,
        input: &mut &'i [u8],
    ) -> Result<Option<Token<'i>>, Error> {
        let next = match escape {
            Escape::Begun { at } => match byte {
                b'u' => Escape::unicode(at, None),
                _ => return self.short_escape(is_key, byte, input).map(Some),
            },
            Escape::Unicode {
                at,
                high,
                unit,
                digits,
            } => {
                let digit = char::from(byte).to_digit(16).ok_or(self.syntax())? as u16;
                let unit = unit << 4 | digit;
                match digits {
                    3 => return self.unit(is_key, at, high, unit, input),
                    _ => Escape::Unicode {
                        at,
                        high,
                        unit,
                        digits: digits + 1,
                    },
                }
            }
            Escape::Low { at, high } if byte == b'\\' => Escape::LowU { at, high },
            Escape::LowU { at, high } if byte == b'u' => Escape::unicode(at, Some(high)),
            Escape::Low { at, .. } | Escape::LowU { at, .. } => {
                return Err(Error::Surrogate { at });
            }
            Escape::None => return Err(self.syntax()),
        };
        self.take(input, 1);
        self.state = State::Text {
            is_key,
            escape: next,
        };
        Ok(None)
    }

    fn short_escape<'i>(
        &mut self,
        is_key: bool,
        byte: u8,
        input: &mut &'i [u8],
    ) -> Result<Token<'i>, Error> {
        let char = match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            _ => return Err(self.syntax()),
        };
        self.take(input, 1);
        self.state = State::text(is_key);
        Ok(Token::Piece(Piece::Char(char)))
    }

    /// Takes a whole UTF-16 code unit, whose last digit is the input's first byte.
    fn unit<'i>(
        &mut self,
        is_key: bool,
        at: usize,
        high: Option<u16>,
        unit: u16,
        input: &mut &'i [u8],
    ) -> Result<Option<Token<'i>>, Error> {
        let char = match (high, unit) {
            (None, 0xd800..=0xdbff) => None,
            (Some(high), 0xdc00..=0xdfff) => {
                let (high, low) = (u32::from(high) - 0xd800, u32::from(unit) - 0xdc00);
                char::from_u32(0x1_0000 + (high << 10 | low))
            }
            (Some(_), _) | (None, 0xdc00..=0xdfff) => return Err(Error::Surrogate { at }),
            (None, _) => char::from_u32(unit.into()),
        };
        self.take(input, 1);
        let escape = match char {
            Some(_) => Escape::None,
            None => Escape::Low { at, high: unit },
        };
        self.state = State::Text { is_key, escape };
        Ok(char.map(|char| Token::Piece(Piece::Char(char))))
    }
}

impl State {
    const fn text(is_key: bool) -> Self {
        Self::Text {
            is_key,
            escape: Escape::None,
        }
    }
}

impl Escape {
    const fn unicode(at: usize, high: Option<u16>) -> Self {
        Self::Unicode {
            at,
            high,
            unit: 0,
            digits: 0,
        }
    }
}

/// Whether `bytes` are one JSON object, and nothing else.
pub fn is_object(mut bytes: &[u8]) -> bool {
    let mut tokens = Tokenizer::new();
    let mut first = true;
    loop {
        match tokens.next(&mut bytes) {
            Ok(None) => return tokens.end().is_ok(),
            Ok(Some(Token::OpenObject)) => {}
            Ok(Some(_)) if first => return false,
            Ok(Some(_)) => {}
            Err(_) => return false,
        }
        first = false;
    }
}

#[cfg(test)]
pub(crate) mod tests;
