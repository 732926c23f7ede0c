//! Builds c/capacity.c with WAMR, or c/arena_model.c, and runs it: a program of its own, since it may
//! have another pointer width than the test or benchmark that asks for it.

use crate::{scratch, skip};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use wamr_sys::sources;

/// The folder of the programs.
const C: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/c");
/// Bytes of a board's arena, by default: 192 KiB.
pub const ARENA: u32 = 196_608;
/// Bytes of the arena of a guest whose instructions are counted.
const COUNTED_ARENA: &str = "16777216";

/// Upstream's workload without memory: 10,000 rounds of arithmetic.
pub const CPU: &str = include_str!("../../../wat/bench/cpu.wat");
/// Runs until it is stopped; no memory, no state.
pub const LOOP: &str = include_str!("../../../wat/loop.wat");
/// `(memory 1 1)`, with state within its first 4 KiB.
pub const PAGE: &str = include_str!("page.wat");
/// Upstream's workload with memory: 1,024 bytes of `(memory 1 1)`.
pub const MEM: &str = include_str!("../../../wat/bench/mem.wat");
/// The same with every byte of its 64 KiB in use.
pub const MEM_64K: &str = include_str!("../../../wat/bench/mem64k.wat");
/// Upstream's messages: a ring of 2,048 bytes of `(memory 1 1)`.
pub const MSG: &str = include_str!("../../../wat/bench/msg.wat");
/// 4,096 bytes of `(memory 1 1)`.
pub const CHECKSUM: &str = include_str!("../../../wat/bench/checksum.wat");

/// Bytes of a page of linear memory, by default.
pub const PAGE_BYTES: u32 = 1024;

/// The pointers of a program, against those of this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 32 bits, on the same processor.
    Bits32,
    /// As this process.
    Own,
}

/// One build of the program.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
}

impl Program {
    /// Compiles it as build.rs compiles WAMR, with this many lines of block address cache, and bytes
    /// of a page of linear memory: 0 for memories in one block.
    ///
    /// # Errors
    ///
    /// It does not compile: what the compiler says.
    pub fn build(width: Width, cache_lines: u32, page_bytes: u32) -> Result<Self, String> {
        let path = scratch().join(format!("capacity-{width:?}-{cache_lines}-{page_bytes}"));
        let mut c = with_wamr(width)?;
        c.define("BLOCK_ADDR_CACHE_SIZE", cache_lines.to_string().as_str());
        c.define("PROPLET_PAGE_BYTES", page_bytes.to_string().as_str());
        c.file(Path::new(C).join("capacity.c"));
        let mut command = c
            .try_get_compiler()
            .map_err(|e| e.to_string())?
            .to_command();
        // Code that refers to absent parts of WAMR is never reached, and goes, as in a Rust link.
        command.arg("-Wl,--gc-sections").args(c.get_files());
        run(command.args(["-lm", "-lpthread", "-o"]).arg(&path))?;
        Ok(Self { path })
    }

    /// Compiles c/arena_model.c, which has the arena in it and nothing else of WAMR. Undefined
    /// behaviour ends it.
    ///
    /// # Errors
    ///
    /// It does not compile: what the compiler says.
    pub fn build_arena_model(width: Width) -> Result<Self, String> {
        let path = scratch().join(format!("arena-model-{width:?}"));
        let compiler = with_wamr(width)?.try_get_compiler();
        let mut command = compiler.map_err(|e| e.to_string())?.to_command();
        command.args(["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]);
        command.arg(Path::new(C).join("arena_model.c"));
        run(command.args(["-lpthread", "-o"]).arg(&path))?;
        Ok(Self { path })
    }

    /// Runs it on a module; `mode` is as in c/capacity.c. Returns the fields of its line, by name.
    ///
    /// # Errors
    ///
    /// It ends with a reason, or its line has other fields than `key=number`.
    pub fn run(
        &self,
        arena: u32,
        stack: u32,
        module: &Path,
        mode: &str,
    ) -> Result<HashMap<String, u64>, String> {
        let mut command = Command::new(&self.path);
        command.args([arena, stack].map(|n| n.to_string()));
        Self::fields(command.arg(module).arg(mode))
    }

    /// Runs it with arguments as in c/arena_model.c. Returns the fields of its line, by name.
    ///
    /// # Errors
    ///
    /// It ends with a reason, or its line has other fields than `key=number`.
    pub fn run_model(&self, args: &[&str]) -> Result<HashMap<String, u64>, String> {
        Self::fields(Command::new(&self.path).args(args))
    }

    fn fields(command: &mut Command) -> Result<HashMap<String, u64>, String> {
        let output = run(command)?;
        let field = |pair: &str| {
            let (key, value) = pair.split_once('=')?;
            Some((key.to_owned(), value.parse().ok()?))
        };
        let line = String::from_utf8_lossy(&output.stdout);
        line.split_whitespace()
            .map(|pair| field(pair).ok_or(format!("no key=number: {pair}")))
            .collect()
    }

    /// The instructions that `run(n, 16)` of a module takes, hooked or not: what valgrind counts,
    /// less what it counts for `run(least, 16)`. `None` without valgrind.
    pub fn instructions(&self, hooked: bool, module: &Path, least: u32, n: u32) -> Option<u64> {
        let count = |n: u32| {
            let mode = format!("{}={n}", if hooked { "hook" } else { "plain" });
            let mut command = Command::new("valgrind");
            command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
            command.arg(&self.path).args([COUNTED_ARENA, "8192"]);
            let output = command.arg(module).arg(mode).output().ok()?;
            let text = String::from_utf8_lossy(&output.stderr);
            let line = text.lines().find(|line| line.contains("Collected :"))?;
            line.rsplit(' ').next()?.parse::<u64>().ok()
        };
        Some(count(n)? - count(least)?)
    }
}

/// Assembles a module into a file, for [`Program::run`].
///
/// # Panics
///
/// If the text is no module, or the file can't be written.
pub fn assemble(name: &str, wat: &str) -> PathBuf {
    let path = scratch().join(format!("{name}.wasm"));
    let wasm = wat::parse_str(wat).expect("the module assembles");
    fs::write(&path, wasm).expect("the module can be written");
    path
}

/// The target of this process, and the first line of the C compiler about itself.
///
/// # Errors
///
/// No compiler is found, or it does not run.
pub fn build_text() -> Result<String, String> {
    let compiler = compiler(Width::Own).try_get_compiler();
    let mut command = compiler.map_err(|e| e.to_string())?.to_command();
    let output = run(command.arg("--version"))?;
    let version = String::from_utf8_lossy(&output.stdout);
    let version = version.lines().next().unwrap_or_default();
    Ok(format!("{}, {version}, -O2", sources::TARGET))
}

/// Whether 32-bit programs can be made and run; where not, the test that asks is skipped, if it may be.
pub fn has_32_bits() -> bool {
    let tried = no_32_bits();
    if let Err(why) = &tried {
        skip(why);
    }
    tried.is_ok()
}

/// Tries to make a 32-bit program and to run it.
///
/// # Errors
///
/// Why that fails here, and the remedy.
pub fn no_32_bits() -> Result<(), String> {
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

/// A compiler with WAMR's sources and settings.
fn with_wamr(width: Width) -> Result<cc::Build, String> {
    let mut c = compiler(width);
    wamr_build::add(&mut c, Path::new(sources::WAMR), &["all", "posix", "plain"])?;
    if width == Width::Bits32 || cfg!(target_arch = "x86") {
        c.flags(wamr_build::X86_FLAGS);
    }
    Ok(c)
}

/// A compiler that says nothing to cargo, which does not listen to a test.
fn compiler(width: Width) -> cc::Build {
    let own = sources::TARGET;
    let mut c = cc::Build::new();
    c.host(own).out_dir(scratch()).cargo_metadata(false);
    c.opt_level(2).debug(false).target(match width {
        Width::Bits32 => "i686-unknown-linux-gnu",
        Width::Own => own,
    });
    c
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
