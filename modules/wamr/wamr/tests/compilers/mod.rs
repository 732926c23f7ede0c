//! Compilers of guests, for the tests of several packages.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(unreachable_pub, reason = "a module of test binaries")]

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's folder of guests.
pub fn guests() -> PathBuf {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut found = folders.map(|folder| folder.join("guests"));
    found
        .find(|guests| guests.is_dir())
        .expect("the repository has guests")
}

/// A folder for what the tests build.
pub fn built() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Says that a test is skipped for want of `tool`, or fails where none may be.
fn skip(tool: &str, remedy: &str) {
    assert!(
        env::var_os("PROPLET_REQUIRE_PEERS").is_none_or(|v| v != "1"),
        "no {tool}, and PROPLET_REQUIRE_PEERS=1 forbids to skip: {remedy}"
    );
    // What a test that passes prints is not shown, what it writes is.
    let line = format!("\nskipped: no {tool} ({remedy})\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
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
        skip("clang and wasm-ld", "Debian: clang-19, lld-19");
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
    let there = Path::new(libraries.trim()).is_dir();
    if !there {
        let remedy = format!("rustup target add {TARGET}");
        skip(&format!("core for {TARGET}"), &remedy);
    }
    there
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
