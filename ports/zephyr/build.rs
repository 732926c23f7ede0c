//! Makes Zephyr's boolean options known as `cfg`s, and declares to Rust what c/proplet.h declares to C.

use std::{env, path::Path};

/// The seam between C and Rust, without an include but the standard's.
const HEADER: &str = "c/proplet.h";

fn main() {
    zephyr_build::export_kconfig_bool_options();
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={HEADER}");
    println!("cargo::rerun-if-env-changed=ZEPHYR_BASE");
    let variable = |name| env::var(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let bindings = bindgen::Builder::default()
        .header(HEADER)
        .clang_arg(format!("--target={}", clang_target(&variable("TARGET"))))
        .clang_arg("-ffreestanding")
        // For a libclang without headers of its own, as zephyr-sys does it.
        .clang_arg(format!(
            "-I{}/lib/libc/minimal/include",
            variable("ZEPHYR_BASE")
        ))
        .allowlist_item("(?i)proplet_.*")
        .prepend_enum_name(false)
        .derive_default(true)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .use_core()
        .generate()
        .unwrap_or_else(|e| panic!("{HEADER}: {e}"));
    let to = Path::new(&variable("OUT_DIR")).join("header.rs");
    bindings
        .write_to_file(&to)
        .unwrap_or_else(|e| panic!("{}: {e}", to.display()));
}

/// clang's name of Rust's target: the extensions in a RISC-V's name change no layout.
fn clang_target(target: &str) -> String {
    for family in ["riscv32", "riscv64"] {
        if target.starts_with(family) {
            return format!("{family}-unknown-none-elf");
        }
    }
    target.to_owned()
}
