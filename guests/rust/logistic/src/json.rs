//! JSON, as far as a round has it: a reader that keeps nothing but its place, and a writer into a
//! buffer. With serde, as `linear` has it, this guest would have several times its size.

/// What is left of a text. Its methods take what they read; `None` is text that is not as expected.
/// Values that are skipped are looked at no closer than their brackets and strings need.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub const fn new(text: &'a [u8]) -> Self {
        Self { rest: text }
    }

    fn next(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    /// The next byte that is no white space, which stays.
    fn peek(&mut self) -> Option<u8> {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.rest {
            self.rest = rest;
        }
        self.rest.first().copied()
    }

    /// Takes `byte`, if it is the next.
    fn takes(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.takes(byte).then_some(())
    }

    /// A string without its quotes, with its escapes as they are.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let start = self.rest;
        loop {
            match self.next()? {
                b'"' => return start.get(..start.len() - self.rest.len() - 1),
                b'\\' => drop(self.next()?),
                _ => {}
            }
        }
    }

    /// An object: hands each key, and the reader at its value, to `field`, which takes the value.
    pub fn object(
        &mut self,
        mut field: impl FnMut(&'a [u8], &mut Self) -> Option<()>,
    ) -> Option<()> {
        self.expect(b'{')?;
        if self.takes(b'}') {
            return Some(());
        }
        loop {
            let key = self.string()?;
            self.expect(b':')?;
            field(key, self)?;
            if !self.takes(b',') {
                return self.expect(b'}');
            }
        }
    }

    /// An array: hands the reader at each item to `item`, which takes it.
    pub fn array(&mut self, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.expect(b'[')?;
        if self.takes(b']') {
            return Some(());
        }
        loop {
            item(self)?;
            if !self.takes(b',') {
                return self.expect(b']');
            }
        }
    }

    /// An array of `N` numbers.
    pub fn numbers<const N: usize>(&mut self) -> Option<[f64; N]> {
        let (mut numbers, mut count) = ([0.0; N], 0);
        self.array(|reader| {
            *numbers.get_mut(count)? = reader.number()?;
            count += 1;
            Some(())
        })?;
        (count == N).then_some(numbers)
    }

    /// A number, exact for up to 15 digits and as many decimals.
    pub fn number(&mut self) -> Option<f64> {
        let negative = self.takes(b'-');
        // Digits beyond these don't reach an f64.
        const MANTISSA_MAX: u64 = u64::MAX / 10 - 1;
        let (mut mantissa, mut exponent) = (0_u64, 0_i32);
        let (mut digits, mut decimals) = (0, false);
        while let Some(&byte) = self.rest.first() {
            match byte {
                b'0'..=b'9' if mantissa <= MANTISSA_MAX => {
                    mantissa = mantissa * 10 + u64::from(byte - b'0');
                    exponent -= i32::from(decimals);
                }
                b'0'..=b'9' => exponent += i32::from(!decimals),
                b'.' if digits > 0 && !decimals => decimals = true,
                _ => break,
            }
            digits += i32::from(byte != b'.');
            self.next();
        }
        if let Some(b'e' | b'E') = self.rest.first() {
            self.next();
            exponent = exponent.saturating_add(self.exponent()?);
        }
        let value = scale(mantissa as f64, exponent);
        (digits > 0 && value.is_finite()).then_some(if negative { -value } else { value })
    }

    fn exponent(&mut self) -> Option<i32> {
        let negative = match self.rest.first()? {
            b'+' | b'-' => self.next()? == b'-',
            _ => false,
        };
        let (mut value, mut digits) = (0_i32, 0);
        while let Some(&byte @ b'0'..=b'9') = self.rest.first() {
            value = value
                .saturating_mul(10)
                .saturating_add(i32::from(byte - b'0'));
            digits += 1;
            self.next();
        }
        (digits > 0).then_some(if negative { -value } else { value })
    }

    /// Takes a value of any kind, however deep it is.
    pub fn skip(&mut self) -> Option<()> {
        let mut depth = 0_u32;
        loop {
            match self.peek()? {
                b'"' => drop(self.string()?),
                b'{' | b'[' => {
                    depth += 1;
                    self.next();
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.next();
                }
                b',' | b':' if depth > 0 => drop(self.next()),
                b',' | b':' => return None,
                _ => self.word(),
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// A number, or true, false or null.
    fn word(&mut self) {
        let is_more =
            |b: &u8| !matches!(b, b',' | b':' | b'}' | b']' | b'"' | b'{' | b'[' | ..=b' ');
        while self.rest.first().is_some_and(is_more) {
            self.next();
        }
    }
}

/// `value` times ten to the power of `exponent`.
fn scale(value: f64, exponent: i32) -> f64 {
    // Powers up to 10^22 are exact, and a quotient by one is the nearest number there is.
    let mut power = 1.0;
    for _ in 0..exponent.unsigned_abs().min(400) {
        power *= 10.0;
    }
    match exponent {
        _ if value == 0.0 => 0.0,
        ..0 => value / power,
        _ => value * power,
    }
}

/// Decimals of a number that is written.
const DECIMALS: u32 = 12;

/// Writes into a buffer.
pub struct Writer<'b> {
    buf: &'b mut [u8],
    len: usize,
    is_full: bool,
}

impl<'b> Writer<'b> {
    pub const fn new(buf: &'b mut [u8]) -> Self {
        Self {
            buf,
            len: 0,
            is_full: false,
        }
    }

    fn byte(&mut self, byte: u8) {
        match self.buf.get_mut(self.len) {
            Some(to) => {
                *to = byte;
                self.len += 1;
            }
            None => self.is_full = true,
        }
    }

    /// Text as it is.
    pub fn text(&mut self, text: &str) {
        text.bytes().for_each(|byte| self.byte(byte));
    }

    /// A string, with its quotes.
    pub fn string(&mut self, text: &[u8]) {
        self.byte(b'"');
        for &byte in text {
            match byte {
                b'"' | b'\\' => {
                    self.byte(b'\\');
                    self.byte(byte);
                }
                ..b' ' => {
                    self.text("\\u00");
                    for digit in [byte >> 4, byte & 15] {
                        self.byte(if digit < 10 { b'0' } else { b'a' - 10 } + digit);
                    }
                }
                _ => self.byte(byte),
            }
        }
        self.byte(b'"');
    }

    /// A number with up to twelve decimals; `None` if it is none or has more than six digits before
    /// them.
    pub fn number(&mut self, value: f64) -> Option<()> {
        const ONE: u64 = 10_u64.pow(DECIMALS);
        if value.is_nan() || value.abs() >= 1e6 {
            return None;
        }
        let scaled = (value.abs() * ONE as f64 + 0.5) as u64;
        if value < 0.0 && scaled > 0 {
            self.byte(b'-');
        }
        self.integer(scaled / ONE);
        let (mut rest, mut unit) = (scaled % ONE, ONE / 10);
        if rest > 0 {
            self.byte(b'.');
        }
        while rest > 0 {
            self.byte(b'0' + (rest / unit) as u8);
            rest %= unit;
            unit /= 10;
        }
        Some(())
    }

    pub fn integer(&mut self, value: u64) {
        let mut unit = 1;
        while value / unit >= 10 {
            unit *= 10;
        }
        while unit > 0 {
            self.byte(b'0' + (value / unit % 10) as u8);
            unit /= 10;
        }
    }

    /// What has been written; `None` if the buffer was too small.
    pub fn finish(self) -> Option<&'b str> {
        if self.is_full {
            return None;
        }
        let buf: &'b [u8] = self.buf;
        str::from_utf8(buf.get(..self.len)?).ok()
    }
}
