//! Builds capacity/main.c with WAMR and runs it: a program of its own, since it may have another
//! pointer width than the test or benchmark that asks for it.
#![allow(dead_code, reason = "the test uses a part of it")]

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use wamr_sys::sources as origin;

#[path = "../sources.rs"]
mod sources;

/// What a board has for guests, by default: 192 KiB.
pub(crate) const ARENA: u32 = 196_608;

/// Runs until it is stopped; no memory, no state.
pub(crate) const LOOP: &str = include_str!("../../../../wat/loop.wat");
/// `(memory 1 1)`, with state within its first 4 KiB.
pub(crate) const PAGE: &str = include_str!("page.wat");
/// State in a memory that WAMR shrinks.
pub(crate) const SHRUNK: &str = include_str!("shrunk.wat");

/// The pointers of a program, against those of this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Width {
    /// 32 bits, on the same processor.
    Bits32,
    /// As this process.
    Own,
}

/// One build of the program.
pub(crate) struct Program {
    path: PathBuf,
}

impl Program {
    /// Compiles it as build.rs compiles WAMR, with this many lines of block address cache.
    pub(crate) fn build(width: Width, cache_lines: u32) -> Result<Self, String> {
        let crate_root = Path::new(origin::CRATE);
        let path = scratch().join(format!("capacity-{width:?}-{cache_lines}"));
        let mut c = compiler(width);
        let (ours, wamr) = (crate_root.join(".."), Path::new(origin::WAMR));
        sources::add(&mut c, &ours, wamr, &["all", "posix"])?;
        if width == Width::Bits32 || cfg!(target_arch = "x86") {
            c.flags(sources::X86_FLAGS);
        }
        c.define("BLOCK_ADDR_CACHE_SIZE", cache_lines.to_string().as_str());
        c.file(crate_root.join("capacity/main.c"));
        let mut command = c
            .try_get_compiler()
            .map_err(|e| e.to_string())?
            .to_command();
        // What refers to absent parts of WAMR is never reached, and goes, as in a Rust link.
        command.arg("-Wl,--gc-sections").args(c.get_files());
        run(command.args(["-lm", "-lpthread", "-o"]).arg(&path))?;
        Ok(Self { path })
    }

    /// Runs it on a module; `mode` is as in capacity/main.c. The fields of its line, by name.
    pub(crate) fn run(
        &self,
        arena: u32,
        stack: u32,
        cap: u32,
        module: &Path,
        mode: Option<&str>,
    ) -> Result<HashMap<String, u64>, String> {
        let mut command = Command::new(&self.path);
        command.args([arena, stack, cap].map(|n| n.to_string()));
        let output = run(command.arg(module).args(mode))?;
        let field = |pair: &str| {
            let (key, value) = pair.split_once('=')?;
            Some((key.to_owned(), value.parse().ok()?))
        };
        let line = String::from_utf8_lossy(&output.stdout);
        line.split_whitespace()
            .map(|pair| field(pair).ok_or(format!("no key=number: {pair}")))
            .collect()
    }
}

/// Assembles a module into a file, for [`Program::run`].
pub(crate) fn assemble(name: &str, wat: &str) -> PathBuf {
    let path = scratch().join(format!("{name}.wasm"));
    let wasm = wat::parse_str(wat).expect("the module assembles");
    fs::write(&path, wasm).expect("the module can be written");
    path
}

/// What compiles the programs: the target of this process, and the compiler's first line about itself.
pub(crate) fn build_text() -> Result<String, String> {
    let compiler = compiler(Width::Own).try_get_compiler();
    let mut command = compiler.map_err(|e| e.to_string())?.to_command();
    let output = run(command.arg("--version"))?;
    let version = String::from_utf8_lossy(&output.stdout);
    let version = version.lines().next().unwrap_or_default();
    Ok(format!("{}, {version}, -O2", origin::TARGET))
}

/// Why no 32-bit program can be made and run here, and what to do about it.
pub(crate) fn no_32_bits() -> Result<(), String> {
    let (source, path) = (scratch().join("probe.c"), scratch().join("probe"));
    let text =
        "#include <stdio.h>\nint main(void) { return puts(\"\") < 0 || sizeof(void *) != 4; }\n";
    fs::write(&source, text).map_err(|e| format!("{}: {e}", source.display()))?;
    let probe = || {
        let compiler = compiler(Width::Bits32).try_get_compiler();
        let mut command = compiler.map_err(|e| e.to_string())?.to_command();
        run(command.arg(&source).arg("-o").arg(&path))?;
        run(&mut Command::new(&path))
    };
    probe().map(drop).map_err(|e| {
        let reason = e.lines().next().unwrap_or_default();
        format!("no C compiler for 32 bits (Debian: gcc-multilib): {reason}")
    })
}

/// A compiler that says nothing to cargo, which does not listen to a test.
fn compiler(width: Width) -> cc::Build {
    let own = origin::TARGET;
    let mut c = cc::Build::new();
    c.host(own).out_dir(scratch()).cargo_metadata(false);
    c.opt_level(2).debug(false).target(match width {
        Width::Bits32 => "i686-unknown-linux-gnu",
        Width::Own => own,
    });
    c
}

fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn run(command: &mut Command) -> Result<Output, String> {
    let name = command.get_program().to_owned();
    let output = command
        .output()
        .map_err(|e| format!("{}: {e}", name.display()))?;
    if output.status.success() {
        return Ok(output);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}: {text}", name.display(), output.status))
}
