//! Declarations of `c/proplet.h`, which build.rs makes from it: its structs, numbers and functions.
#![allow(
    dead_code,
    missing_docs,
    non_camel_case_types,
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "they are the header's, which documents them, and some builds use a part of it"
)]

include!(concat!(env!("OUT_DIR"), "/header.rs"));
