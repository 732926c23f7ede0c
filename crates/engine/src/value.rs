//! Values of the core as WAMR's, and back.

use proplet::engine::Value;

pub(crate) fn to_wamr(value: Value) -> wamr::Value {
    match value {
        Value::I32(v) => wamr::Value::I32(v),
        Value::I64(v) => wamr::Value::I64(v),
        Value::F32(v) => wamr::Value::F32(v),
        Value::F64(v) => wamr::Value::F64(v),
    }
}

pub(crate) fn from_wamr(value: wamr::Value) -> Value {
    match value {
        wamr::Value::I32(v) => Value::I32(v),
        wamr::Value::I64(v) => Value::I64(v),
        wamr::Value::F32(v) => Value::F32(v),
        wamr::Value::F64(v) => Value::F64(v),
    }
}
