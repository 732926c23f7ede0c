//! Compiles WAMR and the slice hook for targets with an operating system. For bare targets it
//! does nothing: there, Zephyr compiles the same list of sources.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The registry package that carries WAMR's sources, and its version in Cargo.lock.
const PACKAGE: &str = "wamrx-sys";
const VERSION: &str = "0.3.0";

/// Settings of the host build that Zephyr's has in Kconfig.
const CACHE_LINES: &str = "PROPLET_WAMR_BLOCK_ADDR_CACHE_SIZE";
/// Bytes of a page of linear memory; 0 for memories in one block.
const PAGE_BYTES: &str = "PROPLET_WAMR_PAGE_BYTES";

fn main() {
    if let Err(text) = build() {
        eprintln!("wamr-sys: {text}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rerun-if-env-changed=WAMR_ROOT");
    println!("cargo::rerun-if-env-changed={CACHE_LINES}");
    println!("cargo::rerun-if-env-changed={PAGE_BYTES}");
    println!("cargo::rerun-if-changed=build.rs");
    if variable("CARGO_CFG_TARGET_OS")? == "none" {
        return Ok(());
    }
    let wamr = wamr_root()?;
    for watched in ["config", "hook"] {
        println!("cargo::rerun-if-changed={}/{watched}", wamr_build::FOLDER);
    }

    let mut platforms = vec!["all", "posix"];
    if env::var_os("CARGO_FEATURE_PLAIN").is_some() {
        platforms.push("plain");
    }
    let mut c = cc::Build::new();
    wamr_build::add(&mut c, &wamr, &platforms)?;
    if variable("CARGO_CFG_TARGET_ARCH")? == "x86" {
        c.flags(wamr_build::X86_FLAGS);
    }
    println!("cargo::rustc-check-cfg=cfg(arena_seals)");
    if variable("PROFILE")? == "debug" {
        c.define("PROPLET_ARENA_SEALS", None);
        // For this package's own tests.
        println!("cargo::rustc-cfg=arena_seals");
    }
    if let Some(lines) = cache_lines()? {
        c.define("BLOCK_ADDR_CACHE_SIZE", lines.to_string().as_str());
    }
    if let Some(bytes) = page_bytes()? {
        c.define("PROPLET_PAGE_BYTES", bytes.to_string().as_str());
    }
    c.try_compile("wamr")
        .map_err(|e| format!("WAMR does not compile: {e}"))?;
    println!("cargo::rustc-link-lib=m");
    // For the programs that tests and benchmarks build of the same sources.
    println!("cargo::rustc-env=PROPLET_WAMR_CORE={}", wamr.display());
    println!(
        "cargo::rustc-env=PROPLET_WAMR_TARGET={}",
        variable("TARGET")?
    );
    Ok(())
}

/// The lines of the block address cache, where the environment says; else config/wamr_config.h does.
fn cache_lines() -> Result<Option<u32>, String> {
    let fits = |lines: u32| lines.is_power_of_two() && lines <= 1024;
    number(CACHE_LINES, fits, "a power of two from 1 to 1024")
}

/// Bytes of a page, in the same way.
fn page_bytes() -> Result<Option<u32>, String> {
    let fits = |bytes| [0, 512, 1024, 2048, 4096].contains(&bytes);
    number(PAGE_BYTES, fits, "a power of two from 512 to 4096, or 0")
}

/// A setting of the environment.
fn number(name: &str, fits: fn(u32) -> bool, expected: &str) -> Result<Option<u32>, String> {
    let Some(text) = env::var_os(name) else {
        return Ok(None);
    };
    let number = text.to_str().and_then(|text| text.parse().ok());
    number
        .filter(|number| fits(*number))
        .map(Some)
        .ok_or(format!("{name}: expected {expected}: {}", text.display()))
}

/// The folder of WAMR that holds `core/`.
fn wamr_root() -> Result<PathBuf, String> {
    if let Some(root) = env::var_os("WAMR_ROOT") {
        return checked(PathBuf::from(root), "WAMR_ROOT");
    }
    let offline = metadata(&["--offline", "--locked"]);
    let listing = offline.or_else(|_| metadata(&["--locked"])).map_err(|e| {
        format!("{e}\nIt was to find {PACKAGE} {VERSION}. Run `cargo fetch`, or set WAMR_ROOT.")
    })?;
    let package = listing["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|p| p["name"] == PACKAGE && p["version"] == VERSION)
        .ok_or(format!(
            "{PACKAGE} {VERSION} is not in Cargo.lock, and WAMR_ROOT is not set"
        ))?;
    let manifest = package["manifest_path"]
        .as_str()
        .ok_or("cargo metadata gave no path")?;
    checked(
        Path::new(manifest).with_file_name("wasm-micro-runtime"),
        PACKAGE,
    )
}

fn checked(root: PathBuf, origin: &str) -> Result<PathBuf, String> {
    let probe = root.join("core/iwasm/interpreter/wasm_interp_classic.c");
    println!("cargo::rerun-if-changed={}", probe.display());
    if probe.is_file() {
        Ok(root)
    } else {
        Err(format!(
            "{origin}: no WAMR sources: {} is missing",
            probe.display()
        ))
    }
}

fn metadata(flags: &[&str]) -> Result<Value, String> {
    let output = Command::new(variable("CARGO")?)
        .args(["metadata", "--format-version", "1"])
        .args(flags)
        .arg("--manifest-path")
        .arg(Path::new(&variable("CARGO_MANIFEST_DIR")?).join("Cargo.toml"))
        .output()
        .map_err(|e| format!("cargo metadata does not start: {e}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "cargo metadata {} failed: {}",
            flags.join(" "),
            text.trim()
        ));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|e| format!("{name}: {e}"))
}
