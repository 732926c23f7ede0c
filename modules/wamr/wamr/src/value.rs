//! Values that cross between host and guest.

use crate::error::{Error, ErrorKind};

/// Parameters that a function called from the host can have.
pub const MAX_PARAMS: usize = 16;
/// Results that a function called from the host can have.
pub const MAX_RESULTS: usize = 4;

/// Room for the cells, of 32 bits, of all arguments or of all results.
pub(crate) const MAX_CELLS: usize = 2 * MAX_PARAMS;

/// The type of a [`Value`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValType {
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
}

impl ValType {
    /// Cells of 32 bits that a value of it takes.
    pub(crate) fn cells(&self) -> u32 {
        match self {
            Self::I32 | Self::F32 => 1,
            Self::I64 | Self::F64 => 2,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x7f => Self::I32,
            0x7e => Self::I64,
            0x7d => Self::F32,
            0x7c => Self::F64,
            _ => return None,
        })
    }
}

/// A number that a guest takes or returns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// 32-bit integer.
    I32(i32),
    /// 64-bit integer.
    I64(i64),
    /// 32-bit float.
    F32(f32),
    /// 64-bit float.
    F64(f64),
}

impl Value {
    /// The value's type.
    #[must_use]
    pub fn ty(&self) -> ValType {
        match self {
            Self::I32(_) => ValType::I32,
            Self::I64(_) => ValType::I64,
            Self::F32(_) => ValType::F32,
            Self::F64(_) => ValType::F64,
        }
    }

    /// The low cell, and the high one of a 64-bit value.
    pub(crate) fn cells(self) -> (u32, Option<u32>) {
        let wide = match self {
            Self::I32(v) => return (v.cast_unsigned(), None),
            Self::F32(v) => return (v.to_bits(), None),
            Self::I64(v) => v.cast_unsigned(),
            Self::F64(v) => v.to_bits(),
        };
        (wide as u32, Some((wide >> 32) as u32))
    }

    /// Takes a value of type `ty` off the cells.
    pub(crate) fn from_cells(ty: ValType, cells: &mut impl Iterator<Item = u32>) -> Self {
        let low = cells.next().unwrap_or_default();
        let mut wide = || u64::from(low) | u64::from(cells.next().unwrap_or_default()) << 32;
        match ty {
            ValType::I32 => Self::I32(low.cast_signed()),
            ValType::F32 => Self::F32(f32::from_bits(low)),
            ValType::I64 => Self::I64(wide().cast_signed()),
            ValType::F64 => Self::F64(f64::from_bits(wide())),
        }
    }
}

/// The type of a function that a host can call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    types: [ValType; MAX_PARAMS + MAX_RESULTS],
    params: u8,
    results: u8,
}

impl Signature {
    /// From WebAssembly's type bytes: the parameters, then the results.
    pub(crate) fn new(bytes: &[u8], params: usize, results: usize) -> Result<Self, Error> {
        let refuse = |what| Err(Error::new(ErrorKind::UnsupportedSignature, what));
        if params > MAX_PARAMS {
            return refuse(format_args!(
                "{params} parameters; at most {MAX_PARAMS} can be passed"
            ));
        }
        if results > MAX_RESULTS {
            return refuse(format_args!(
                "{results} results; at most {MAX_RESULTS} can be taken"
            ));
        }
        let mut types = [ValType::I32; MAX_PARAMS + MAX_RESULTS];
        for (ty, &byte) in types.iter_mut().zip(bytes) {
            match ValType::from_byte(byte) {
                Some(known) => *ty = known,
                None => return refuse(format_args!("a parameter or result is not a number")),
            }
        }
        // Both are at most MAX_PARAMS.
        Ok(Self {
            types,
            params: params as u8,
            results: results as u8,
        })
    }

    /// The parameters' types.
    #[must_use]
    pub fn params(&self) -> &[ValType] {
        self.types
            .get(..usize::from(self.params))
            .unwrap_or_default()
    }

    /// The results' types.
    #[must_use]
    pub fn results(&self) -> &[ValType] {
        let params = usize::from(self.params);
        self.types
            .get(params..params + usize::from(self.results))
            .unwrap_or_default()
    }
}
