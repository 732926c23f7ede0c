//! Bounded text for results, errors and logs.

use core::fmt;

/// Maximum number of bytes of a text that is made here and sent.
pub const TEXT_MAX: usize = 192;

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

/// The start of `s`, at most `max` bytes, cut at a character's boundary.
pub(crate) fn clip(s: &str, max: usize) -> &str {
    let mut end = max.min(s.len());
    while !s.is_char_boundary(end) {
        end -= 1;
    }
    &s[..end]
}
