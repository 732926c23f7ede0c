//! Numbers with units, as people write sizes and times: `64KiB`, `500ms`, `1m30s`.

use super::table::Unit;

/// Bytes of each unit of size; letters count as small ones.
const SIZES: [(&str, u64); 10] = [
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1_000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
];

/// Milliseconds of each unit of time.
const TIMES: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// Reads a number of `unit`s; `None` if it is none, or too large.
///
/// A plain number is in `unit`. A size may have a unit: K, M and G, or KiB, MiB and GiB, are powers of 1,024, and
/// KB, MB and GB of 1,000. A time may have ms, s, m and h, also several of them; of a time in seconds a part of
/// one counts as a whole second.
pub fn quantity(text: &str, unit: Unit) -> Option<u64> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    match unit {
        Unit::Count => None,
        Unit::Bytes => size(text),
        Unit::Milliseconds => time(text),
        Unit::Seconds => Some(time(text)?.div_ceil(1_000)),
    }
}

/// A number, and the letters that follow it, with what is behind them.
fn part(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number = text[..digits].parse().ok()?;
    let rest = text[digits..].trim_start_matches(' ');
    let letters = rest.find(|c: char| !c.is_ascii_alphabetic());
    let (letters, rest) = rest.split_at(letters.unwrap_or(rest.len()));
    Some((number, letters, rest))
}

fn size(text: &str) -> Option<u64> {
    let (number, letters, rest) = part(text)?;
    let (_, bytes) = SIZES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(letters))?;
    rest.is_empty().then(|| number.checked_mul(*bytes))?
}

fn time(mut text: &str) -> Option<u64> {
    let mut sum: u64 = 0;
    loop {
        let (number, letters, rest) = part(text)?;
        let (_, ms) = TIMES.iter().find(|(name, _)| *name == letters)?;
        sum = sum.checked_add(number.checked_mul(*ms)?)?;
        if rest.is_empty() {
            return Some(sum);
        }
        text = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Unit::{Bytes, Count, Milliseconds, Seconds};

    #[test]
    fn plain_numbers_are_in_the_settings_unit() {
        for unit in [Count, Bytes, Seconds, Milliseconds] {
            assert_eq!(quantity("0", unit), Some(0));
            assert_eq!(quantity("4096", unit), Some(4096));
            assert_eq!(quantity("18446744073709551615", unit), Some(u64::MAX));
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("1B", 1),
            ("64KiB", 65_536),
            ("64 KiB", 65_536),
            ("64K", 65_536),
            ("64k", 65_536),
            ("64KB", 64_000),
            ("16MiB", 16_777_216),
            ("16m", 16_777_216),
            ("16mb", 16_000_000),
            ("1G", 1 << 30),
            ("1gib", 1 << 30),
            ("1GB", 1_000_000_000),
        ] {
            assert_eq!(quantity(text, Bytes), Some(bytes), "{text}");
        }
    }

    #[test]
    fn times_have_units() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("1m", 60_000),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            ("1h1m1s1ms", 3_661_001),
        ] {
            assert_eq!(quantity(text, Milliseconds), Some(ms), "{text}");
            assert_eq!(quantity(text, Seconds), Some(ms.div_ceil(1_000)), "{text}");
        }
        assert_eq!(quantity("500ms", Seconds), Some(1));
        assert_eq!(quantity("0s", Seconds), Some(0));
    }

    #[test]
    fn what_is_no_quantity_is_none() {
        for (unit, texts) in [
            (Count, &["64K", "1s", "1 "][..]),
            (
                Bytes,
                &[
                    "KiB",
                    "1.5MiB",
                    "64KiBs",
                    "64K1",
                    "1s",
                    "16 777",
                    "17179869184G",
                ],
            ),
            (
                Seconds,
                &[
                    "s",
                    "1.5s",
                    "30S",
                    "1m 30",
                    "1m30",
                    "-1s",
                    "30 s1",
                    "ms",
                    "5124095576030432h",
                ],
            ),
            (Milliseconds, &["1KiB", "1µs", "18446744073709551616"]),
        ] {
            for text in texts.iter().chain(&["", " ", "x", "-1", "1,000", "0x10"]) {
                assert_eq!(quantity(text, unit), None, "'{text}' as {unit:?}");
            }
        }
    }
}
