//! Proposals to WebAssembly 1.0 that this build takes.

/// Proposals that modules may use, beyond WebAssembly 1.0, by the names that compilers' features and the
/// custom section `target_features` have for them. `tests/proposals.rs` runs a module of each, and shows that
/// others are refused; `config/wamr_config.h` has the switches.
pub const PROPOSALS: [&str; 6] = [
    "mutable-globals",
    "sign-ext",
    "nontrapping-fptoint",
    "multivalue",
    "bulk-memory",
    "reference-types",
];
