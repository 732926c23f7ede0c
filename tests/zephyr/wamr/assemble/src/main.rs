//! `assemble HEADER WAT...`: a C header with an array `<file>_wasm` for each WAT file.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs, process};

fn main() {
    if let Err(text) = assemble() {
        eprintln!("assemble: {text}");
        process::exit(1);
    }
}

fn assemble() -> Result<(), String> {
    let mut args = env::args().skip(1);
    let header = args.next().ok_or("usage: assemble HEADER WAT...")?;
    let mut text = String::from("#include <stdint.h>\n");
    for path in args {
        let wasm = wat::parse_file(&path).map_err(|e| format!("{path}: {e}"))?;
        let stem = Path::new(&path).file_stem().and_then(|s| s.to_str());
        let stem = stem.ok_or_else(|| format!("{path}: not a file's name"))?;
        write!(text, "\nstatic const uint8_t {stem}_wasm[] = {{").expect("a String takes all");
        for byte in wasm {
            write!(text, "{byte},").expect("a String takes all");
        }
        text.push_str("};\n");
    }
    fs::write(&header, text).map_err(|e| format!("{header}: {e}"))
}
