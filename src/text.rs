//! Bounded text for results, errors and logs.

use core::{fmt, ops::DerefMut};

/// Maximum number of bytes of a text that is made here and sent.
pub const TEXT_MAX: usize = 192;

/// Maximum number of bytes of words that are kept in the arena: the reason for which a task failed, as the
/// manager gets it. All reasons fit, with their parts as long as they may be.
pub const WORDS_MAX: usize = 512;

/// Text of a result or an error, cut at [`TEXT_MAX`] bytes.
pub type Text = heapless::String<TEXT_MAX>;

/// `args` as [`Text`], cut at a character's boundary.
///
/// Not inlined: callers on small stacks would hold a second text each.
#[inline(never)]
pub fn text(args: fmt::Arguments<'_>) -> Text {
    struct Cut<'a>(&'a mut Text);
    impl fmt::Write for Cut<'_> {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            for c in s.chars() {
                self.0.push(c).map_err(|_| fmt::Error)?;
            }
            Ok(())
        }
    }
    let mut text = Text::new();
    // An error here only says that the text was cut.
    let _ = fmt::write(&mut Cut(&mut text), args);
    text
}

/// `args` in a buffer of their length that `make` gives, cut at [`WORDS_MAX`] bytes and a character's
/// boundary; `None` without a buffer. They take no room on the stack: they are formatted twice.
pub fn words<B: DerefMut<Target = [u8]>>(
    args: fmt::Arguments<'_>,
    make: impl FnOnce(usize) -> Option<B>,
) -> Option<B> {
    let mut buffer = make(Words::write(None, args))?;
    Words::write(Some(&mut buffer), args);
    Some(buffer)
}

/// Counts words, and puts them into place.
struct Words<'a> {
    to: Option<&'a mut [u8]>,
    len: usize,
}

impl<'a> Words<'a> {
    #[inline(never)]
    fn write(to: Option<&'a mut [u8]>, args: fmt::Arguments<'_>) -> usize {
        let mut words = Self { to, len: 0 };
        // As above.
        let _ = fmt::write(&mut words, args);
        words.len
    }
}

impl fmt::Write for Words<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let part = clip(s, WORDS_MAX - self.len);
        let end = self.len + part.len();
        if let Some(to) = &mut self.to {
            let to = to.get_mut(self.len..end).ok_or(fmt::Error)?;
            to.copy_from_slice(part.as_bytes());
        }
        self.len = end;
        match part.len() == s.len() {
            true => Ok(()),
            false => Err(fmt::Error),
        }
    }
}

/// The start of `s`, at most `max` bytes, cut at a character's boundary.
pub(crate) fn clip(s: &str, max: usize) -> &str {
    let mut end = max.min(s.len());
    while !s.is_char_boundary(end) {
        end -= 1;
    }
    &s[..end]
}

/// `s`, of which at most `max` bytes are shown: a longer one without its middle, since what tells it from
/// others is often at its end.
pub(crate) const fn shorten(s: &str, max: usize) -> Shortened<'_> {
    Shortened { s, max }
}

/// Shows a text by its ends.
pub(crate) struct Shortened<'a> {
    s: &'a str,
    max: usize,
}

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const GAP: &str = "…";
        let Self { s, max } = *self;
        if s.len() <= max {
            return f.write_str(s);
        }
        let half = max.saturating_sub(GAP.len()) / 2;
        let mut rest = s.len() - half;
        while !s.is_char_boundary(rest) {
            rest += 1;
        }
        f.write_str(clip(s, half))?;
        f.write_str(GAP)?;
        f.write_str(&s[rest..])
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::{format, string::String, vec, vec::Vec};

    fn words_of(args: fmt::Arguments<'_>) -> String {
        let made = words::<Vec<u8>>(args, |len| Some(vec![0; len]));
        String::from_utf8(made.unwrap()).unwrap()
    }

    #[test]
    fn words_are_as_long_as_they_are() {
        assert_eq!(words_of(format_args!("")), "");
        assert_eq!(words_of(format_args!("{}-{}", 1, "é")), "1-é");
        assert_eq!(words::<Vec<u8>>(format_args!("a"), |_| None), None);
    }

    #[test]
    fn a_long_text_is_shown_by_its_ends() {
        for letter in ["x", "é", "€", "🦀"] {
            for len in 0..40 {
                let whole = format!("a{}/v2", letter.repeat(len));
                let shown = format!("{}", shorten(&whole, 32));
                match whole.len() {
                    0..=32 => assert_eq!(shown, whole),
                    _ => {
                        assert!(shown.len() <= 32 && shown.len() > 24, "{shown}");
                        assert!(shown.starts_with('a') && shown.ends_with("/v2"));
                        assert!(shown.contains('…'));
                    }
                }
            }
        }
    }

    #[test]
    fn words_are_cut_between_characters() {
        for letter in ["x", "é", "€", "🦀"] {
            for prefix in 0..4 {
                let whole = format!("{}{}", "-".repeat(prefix), letter.repeat(WORDS_MAX));
                let cut = words_of(format_args!("{whole}{}", 7));
                assert!(whole.starts_with(&cut));
                assert!(cut.len() > WORDS_MAX - 4 && cut.len() <= WORDS_MAX);
            }
        }
    }
}
