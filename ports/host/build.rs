//! Assembles `wat/*.wat` for the demo, so that no binary is kept in the repository.

use std::{env, fs, path::Path};

fn main() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wat");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    println!("cargo::rerun-if-changed={}", source.display());
    let files =
        fs::read_dir(&source).unwrap_or_else(|e| panic!("{} can't be read: {e}", source.display()));
    for file in files {
        let path = file.expect("an entry of wat/").path();
        if path.extension().is_none_or(|extension| extension != "wat") {
            continue;
        }
        let wasm = wat::parse_file(&path).unwrap_or_else(|e| panic!("{e}"));
        let name = path.with_extension("wasm");
        let name = name.file_name().expect("a file has a name");
        fs::write(Path::new(&out).join(name), wasm).expect("OUT_DIR can be written");
    }
}
