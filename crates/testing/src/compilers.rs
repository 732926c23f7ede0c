//! Compilers of guests.
//!
//! Each returns `None` where it is missing and the test may be skipped, which it says, and panics
//! where the guest does not compile.

use crate::{is_missing, scratch, skip};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's folder of guests.
pub fn guests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests")
}

/// A folder for compiled guests.
///
/// # Panics
///
/// If it can't be made.
pub fn built() -> PathBuf {
    let folder = scratch().join("guests");
    fs::create_dir_all(&folder).expect("the folder can be made");
    folder
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
}

/// clang and wasm-ld of one version: the newest that has one in its name, or else those without.
fn clang() -> Option<(PathBuf, PathBuf)> {
    let path = env::var_os("PATH")?;
    let find = |name: String| {
        let files = env::split_paths(&path).map(|folder| folder.join(&name));
        files.into_iter().find(|file| file.is_file())
    };
    let suffixes = (15..=25).rev().map(|version| format!("-{version}"));
    suffixes
        .chain([String::new()])
        .find_map(|suffix| find(format!("clang{suffix}")).zip(find(format!("wasm-ld{suffix}"))))
}

/// Compiles a C file with the guests' flags.
pub fn compile(source: &Path) -> Option<Vec<u8>> {
    let config = format!("--config={}", guests().join("c/wasm.cfg").display());
    compile_with(source, "wasm", &["-Wall", "-Wextra", "-Werror", &config])
}

/// The same by clang's own choice of a stack, 64 KiB, and of its place.
pub fn compile_plainly(source: &Path) -> Option<Vec<u8>> {
    let flags = ["--target=wasm32", "-O2", "-nostdlib", "-Wl,--no-entry"];
    compile_with(source, "plain.wasm", &flags)
}

fn compile_with(source: &Path, extension: &str, flags: &[&str]) -> Option<Vec<u8>> {
    let Some((clang, wasm_ld)) = clang() else {
        skip("no clang and wasm-ld (Debian: clang-19, lld-19)");
        return None;
    };
    let wasm = built().join(source.file_name()?).with_extension(extension);
    succeed(
        Command::new(clang)
            .args(flags)
            .arg(format!("-fuse-ld={}", wasm_ld.display()))
            .arg(source)
            .arg("-o")
            .arg(&wasm),
    );
    Some(fs::read(wasm).unwrap())
}

const TARGET: &str = "wasm32-unknown-unknown";

/// Whether rustc has a core library for [`TARGET`].
fn has_target() -> bool {
    let libraries = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .unwrap();
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    let found = Path::new(libraries.trim()).is_dir();
    let remedy = format!("rustup target add {TARGET}");
    !is_missing(found, &format!("core for {TARGET}"), &remedy)
}

/// Compiles a crate of one file as cargo's release profile does, with a stack of 1 MiB.
pub fn compile_rust_plainly(source: &Path) -> Option<Vec<u8>> {
    if !has_target() {
        return None;
    }
    let wasm = built().join("plain-rust.wasm");
    succeed(
        Command::new("rustc")
            .args(["--edition=2024", "--crate-type=cdylib", "--target", TARGET])
            .args(["-Copt-level=3", "-Cstrip=debuginfo"])
            .arg(source)
            .arg("-o")
            .arg(&wasm),
    );
    Some(fs::read(wasm).unwrap())
}

/// Builds a crate of guests/rust.
pub fn build_crate(package: &str) -> Option<Vec<u8>> {
    if !has_target() {
        return None;
    }
    let to = built().join("rust");
    succeed(
        Command::new(env!("CARGO"))
            .args(["build", "--release", "--locked", "--target", TARGET])
            .args(["--package", package])
            .arg("--manifest-path")
            .arg(guests().join("rust/Cargo.toml"))
            .arg("--target-dir")
            .arg(&to)
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS"),
    );
    let wasm = format!("release/{package}.wasm");
    Some(fs::read(to.join(TARGET).join(wasm)).unwrap())
}
