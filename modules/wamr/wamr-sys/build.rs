//! Compiles WAMR and the slice hook for targets with an operating system. For bare targets it
//! does nothing: there, Zephyr compiles the same list of sources.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The registry package that carries WAMR's sources, and its version in Cargo.lock.
const PACKAGE: &str = "wamrx-sys";
const VERSION: &str = "0.3.0";

fn main() {
    if let Err(text) = build() {
        eprintln!("wamr-sys: {text}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rerun-if-env-changed=WAMR_ROOT");
    println!("cargo::rerun-if-changed=build.rs");
    if variable("CARGO_CFG_TARGET_OS")? == "none" {
        return Ok(());
    }
    let ours = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    let wamr = wamr_root()?;
    let sources = ours.join("config/sources.list");
    for watched in ["config", "hook"] {
        println!("cargo::rerun-if-changed={}", ours.join(watched).display());
    }

    let mut c = cc::Build::new();
    c.flag("-include")
        .flag(path_text(&ours.join("config/wamr_config.h"))?);
    c.flag_if_supported("-fno-strict-aliasing").warnings(false);
    // The same in every profile: an interpreter that is not optimised is ten times slower, and -O3
    // is no faster than -O2 and makes the slice hook dearer.
    c.opt_level(2);
    for line in read(&sources)?.lines() {
        add(&mut c, line, &wamr, &ours)?;
    }
    c.try_compile("wamr")
        .map_err(|e| format!("WAMR does not compile: {e}"))?;
    println!("cargo::rustc-link-lib=m");
    Ok(())
}

/// Adds what one line of the list names: `platform kind path`.
fn add(c: &mut cc::Build, line: &str, wamr: &Path, ours: &Path) -> Result<(), String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(());
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let [platform, kind, path] = words[..] else {
        return Err(format!(
            "config/sources.list: expected `platform kind path`: {line}"
        ));
    };
    let plain = env::var_os("CARGO_FEATURE_PLAIN").is_some();
    if !(matches!(platform, "all" | "posix") || platform == "plain" && plain) {
        return Ok(());
    }
    let full = if path.starts_with("core") {
        wamr.join(path)
    } else {
        ours.join(path)
    };
    match kind {
        "src" => c.file(full),
        "inc" => c.include(full),
        _ => {
            return Err(format!(
                "config/sources.list: expected `src` or `inc`: {line}"
            ));
        }
    };
    Ok(())
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

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn path_text(path: &Path) -> Result<&str, String> {
    path.to_str()
        .ok_or(format!("{}: not UTF-8", path.display()))
}
