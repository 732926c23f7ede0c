//! Arguments from text to Wasm values, and results back.

use crate::{
    engine::{Params, ValType, Value, Values},
    text::{Text, clip, text},
};
use core::fmt;

/// Refusal of a task's inputs by a function's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgError<'a> {
    /// Number of inputs and of parameters differ.
    Count {
        /// Parameters of the function.
        expected: usize,
        /// Inputs of the task.
        found: usize,
    },
    /// An input is no value of its parameter's type.
    Parse {
        /// Position, from 0.
        index: usize,
        /// Type of the parameter.
        ty: ValType,
        /// The input.
        input: &'a str,
    },
}

impl fmt::Display for ArgError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { expected, found } => {
                write!(f, "expected {expected} arguments but got {found}")
            }
            Self::Parse { index, ty, input } => {
                // Long inputs would push the reason out of a bounded error.
                let shown = clip(input, 32);
                let dots = if shown.len() < input.len() { "…" } else { "" };
                write!(
                    f,
                    "failed to parse input {index} '{shown}{dots}' as {ty}: expected {}",
                    match ty {
                        ValType::I32 => "a decimal or 0x number of 32 bits",
                        ValType::I64 => "a decimal or 0x number of 64 bits",
                        ValType::F32 | ValType::F64 => "a decimal number",
                    }
                )
            }
        }
    }
}

/// Parses each input by the type of its parameter.
///
/// Integers are signed or unsigned decimal, or hexadecimal after `0x`, with an optional sign;
/// all bit patterns of the type can be written either way. Floats are what Rust's `parse` reads.
///
/// # Errors
/// The count or the first input that doesn't fit.
pub fn parse<'a>(
    params: &Params,
    inputs: impl Iterator<Item = &'a str> + Clone,
) -> Result<Values, ArgError<'a>> {
    let (expected, found) = (params.len(), inputs.clone().count());
    if expected != found {
        return Err(ArgError::Count { expected, found });
    }
    inputs
        .zip(params)
        .enumerate()
        .map(|(index, (input, &ty))| value(input, ty).ok_or(ArgError::Parse { index, ty, input }))
        .collect()
}

fn value(input: &str, ty: ValType) -> Option<Value> {
    match ty {
        ValType::I32 => {
            let n = integer(input)?;
            i32::try_from(n)
                .or_else(|_| u32::try_from(n).map(u32::cast_signed))
                .ok()
                .map(Value::I32)
        }
        ValType::I64 => {
            let n = integer(input)?;
            i64::try_from(n)
                .or_else(|_| u64::try_from(n).map(u64::cast_signed))
                .ok()
                .map(Value::I64)
        }
        ValType::F32 => input.parse().ok().map(Value::F32),
        ValType::F64 => input.parse().ok().map(Value::F64),
    }
}

fn integer(input: &str) -> Option<i128> {
    let (negative, digits) = match input.as_bytes().first()? {
        b'-' => (true, &input[1..]),
        b'+' => (false, &input[1..]),
        _ => (false, input),
    };
    let (radix, digits) = match digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        Some(hex) => (16, hex),
        None => (10, digits),
    };
    // `from_str_radix` would take a second sign.
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let n = i128::from_str_radix(digits, radix).ok()?;
    Some(if negative { -n } else { n })
}

/// A result as the Linux proplet words it: the value in decimal, empty without one.
/// A float whose decimal form exceeds [`TEXT_MAX`](crate::text::TEXT_MAX) has an exponent.
pub fn format(value: Option<Value>) -> Text {
    /// Digits of the longest `f64` without an exponent would not fit.
    const PLAIN: core::ops::Range<f64> = 1e-100..1e100;
    match value {
        None => Text::new(),
        Some(Value::I32(v)) => text(format_args!("{v}")),
        Some(Value::I64(v)) => text(format_args!("{v}")),
        Some(Value::F32(v)) => text(format_args!("{v}")),
        Some(Value::F64(v)) if v == 0.0 || !v.is_finite() || PLAIN.contains(&v.abs()) => {
            text(format_args!("{v}"))
        }
        Some(Value::F64(v)) => text(format_args!("{v:e}")),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    fn one(input: &str, ty: ValType) -> Option<Value> {
        let params = Params::from_slice(&[ty]).unwrap();
        parse(&params, [input].into_iter()).ok().map(|v| v[0])
    }

    #[test]
    fn integers_are_signed_unsigned_or_hex() {
        assert_eq!(one("20", ValType::I32), Some(Value::I32(20)));
        assert_eq!(one("-2147483648", ValType::I32), Some(Value::I32(i32::MIN)));
        assert_eq!(one("4294967295", ValType::I32), Some(Value::I32(-1)));
        assert_eq!(one("0xffffffff", ValType::I32), Some(Value::I32(-1)));
        assert_eq!(one("-0x1", ValType::I32), Some(Value::I32(-1)));
        assert_eq!(one("+7", ValType::I64), Some(Value::I64(7)));
        assert_eq!(
            one("18446744073709551615", ValType::I64),
            Some(Value::I64(-1))
        );
        for bad in [
            "", "-", "+", "0x", "--1", "-+1", "0x-1", "1.5", "1e3", " 1", "1 ", "٣", "x", "0b1",
        ] {
            assert_eq!(one(bad, ValType::I32), None, "{bad:?}");
            assert_eq!(one(bad, ValType::I64), None, "{bad:?}");
        }
        assert_eq!(one("4294967296", ValType::I32), None);
        assert_eq!(one("-2147483649", ValType::I32), None);
        assert_eq!(one("18446744073709551616", ValType::I64), None);
        assert_eq!(one(&"9".repeat(60), ValType::I64), None);
    }

    #[test]
    fn floats() {
        assert_eq!(one("1.5", ValType::F32), Some(Value::F32(1.5)));
        assert_eq!(one("-1e300", ValType::F64), Some(Value::F64(-1e300)));
        assert_eq!(one("inf", ValType::F64), Some(Value::F64(f64::INFINITY)));
        assert_eq!(one("0x1p3", ValType::F64), None);
    }

    #[test]
    fn errors_say_what_was_expected() {
        let params = Params::from_slice(&[ValType::I32, ValType::I32]).unwrap();
        let error = parse(&params, ["1"].into_iter()).unwrap_err();
        assert_eq!(error.to_string(), "expected 2 arguments but got 1");
        let error = parse(&params, ["1", "two"].into_iter()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to parse input 1 'two' as i32: expected a decimal or 0x number of 32 bits"
        );
        let long = "é".repeat(500);
        let error = parse(&params, ["1", &long].into_iter()).unwrap_err();
        assert!(error.to_string().len() < 160, "{error}");
    }

    #[test]
    fn results_are_decimal() {
        assert_eq!(format(None), "");
        assert_eq!(format(Some(Value::I32(-1))), "-1");
        assert_eq!(format(Some(Value::I64(i64::MIN))), "-9223372036854775808");
        assert_eq!(format(Some(Value::F32(0.1))), "0.1");
        assert_eq!(format(Some(Value::F64(42.0))), "42");
        assert_eq!(format(Some(Value::F64(f64::NAN))), "NaN");
    }

    proptest! {
        #[test]
        fn any_integer_round_trips(v: i64) {
            prop_assert_eq!(one(&v.to_string(), ValType::I64), Some(Value::I64(v)));
            prop_assert_eq!(one(&v.cast_unsigned().to_string(), ValType::I64), Some(Value::I64(v)));
        }

        #[test]
        fn any_float_round_trips(bits: u64) {
            let v = f64::from_bits(bits);
            let text = format(Some(Value::F64(v)));
            let back: f64 = text.parse().unwrap();
            prop_assert!(back == v || v.is_nan());
        }

        #[test]
        fn no_input_panics(input: std::string::String) {
            for ty in [ValType::I32, ValType::I64, ValType::F32, ValType::F64] {
                let _ = one(&input, ty);
            }
        }
    }
}
