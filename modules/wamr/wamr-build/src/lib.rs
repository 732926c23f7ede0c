//! The sources of WAMR and of the slice hook, and their flags: for the build script of `wamr-sys`,
//! and for tests that build a C program around them.

use std::fs;
use std::path::Path;

/// The folder that holds `config/` and `hook/`.
pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Further flags for 32-bit x86: a compiler that is left alone takes the x87, which rounds an f64
/// twice. Every other target has arithmetic as WebAssembly wants it.
pub const X86_FLAGS: [&str; 2] = ["-msse2", "-mfpmath=sse"];

/// Adds the sources, the include directories and the settings. `wamr` is the folder that holds
/// `core/`; `platforms` are those of the list whose sources are taken.
///
/// # Errors
///
/// The list can't be read, or a line of it is not `platform kind path`.
pub fn add(c: &mut cc::Build, wamr: &Path, platforms: &[&str]) -> Result<(), String> {
    let ours = Path::new(FOLDER);
    c.flag("-include")
        .flag(path_text(&ours.join("config/wamr_config.h"))?);
    c.flag_if_supported("-fno-strict-aliasing").warnings(false);
    // The same in every profile: an interpreter that is not optimised is ten times slower, and -O3
    // is no faster than -O2 and makes the slice hook dearer.
    c.opt_level(2);
    let list = ours.join("config/sources.list");
    let text = fs::read_to_string(&list).map_err(|e| format!("{}: {e}", list.display()))?;
    for line in text.lines() {
        add_line(c, line, ours, wamr, platforms)?;
    }
    Ok(())
}

/// Adds what one line of the list names: `platform kind path`.
fn add_line(
    c: &mut cc::Build,
    line: &str,
    ours: &Path,
    wamr: &Path,
    platforms: &[&str],
) -> Result<(), String> {
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
    if !platforms.contains(&platform) {
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

fn path_text(path: &Path) -> Result<&str, String> {
    path.to_str()
        .ok_or(format!("{}: not UTF-8", path.display()))
}
