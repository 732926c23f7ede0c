//! Assembles the workloads, so that no binary is kept in the repository.

use std::{env, fs, path::Path};

fn main() {
    let wat = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wat");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let bench = wat.join("bench");
    let entries =
        fs::read_dir(&bench).unwrap_or_else(|e| panic!("{} can't be read: {e}", bench.display()));
    let workloads = entries.map(|entry| entry.expect("an entry of wat/bench/").path());
    for path in workloads.chain([wat.join("loop.wat")]) {
        if path.extension().is_none_or(|extension| extension != "wat") {
            continue;
        }
        let wasm = wat::parse_file(&path).unwrap_or_else(|e| panic!("{e}"));
        let name = path.with_extension("wasm");
        let name = name.file_name().expect("a file has a name");
        fs::write(Path::new(&out).join(name), wasm).expect("OUT_DIR can be written");
    }
    println!("cargo::rerun-if-changed={}", bench.display());
    println!("cargo::rerun-if-changed={}", wat.join("loop.wat").display());
}
