//! Builds capacity/main.c with WAMR, or arena/model.c, and runs it: a program of its own, since it may
//! have another pointer width than the test or benchmark that asks for it.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use wamr_sys::sources as origin;

/// What a board has for guests, by default: 192 KiB.
pub(crate) const ARENA: u32 = 196_608;
/// What a guest has whose instructions are counted.
const COUNTED_ARENA: &str = "16777216";

/// Upstream's workload without memory: 10,000 rounds of arithmetic.
pub(crate) const CPU: &str = include_str!("../../../../wat/bench/cpu.wat");
/// Runs until it is stopped; no memory, no state.
pub(crate) const LOOP: &str = include_str!("../../../../wat/loop.wat");
/// `(memory 1 1)`, with state within its first 4 KiB.
pub(crate) const PAGE: &str = include_str!("page.wat");
/// Upstream's workload with memory: 1,024 bytes of `(memory 1 1)`.
pub(crate) const MEM: &str = include_str!("../../../../wat/bench/mem.wat");
/// The same with every byte of its 64 KiB in use.
pub(crate) const MEM_64K: &str = include_str!("../../../../wat/bench/mem64k.wat");
/// Upstream's messages: a ring of 2,048 bytes of `(memory 1 1)`.
pub(crate) const MSG: &str = include_str!("../../../../wat/bench/msg.wat");
/// 4,096 bytes of `(memory 1 1)`.
pub(crate) const CHECKSUM: &str = include_str!("../../../../wat/bench/checksum.wat");

/// Bytes of a page of linear memory, by default.
pub(crate) const PAGE_BYTES: u32 = 1024;

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
    /// Compiles it as build.rs compiles WAMR, with this many lines of block address cache, and bytes
    /// of a page of linear memory: 0 for memories in one block.
    pub(crate) fn build(width: Width, cache_lines: u32, page_bytes: u32) -> Result<Self, String> {
        let crate_root = Path::new(origin::CRATE);
        let path = scratch().join(format!("capacity-{width:?}-{cache_lines}-{page_bytes}"));
        let mut c = with_wamr(width)?;
        c.define("BLOCK_ADDR_CACHE_SIZE", cache_lines.to_string().as_str());
        c.define("PROPLET_PAGE_BYTES", page_bytes.to_string().as_str());
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

    /// Compiles arena/model.c, which has the arena in it and nothing else of WAMR. What C leaves
    /// undefined ends it.
    pub(crate) fn build_arena_model(width: Width) -> Result<Self, String> {
        let path = scratch().join(format!("arena-model-{width:?}"));
        let compiler = with_wamr(width)?.try_get_compiler();
        let mut command = compiler.map_err(|e| e.to_string())?.to_command();
        command.args(["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]);
        command.arg(Path::new(origin::CRATE).join("arena/model.c"));
        run(command.args(["-lpthread", "-o"]).arg(&path))?;
        Ok(Self { path })
    }

    /// Runs it on a module; `mode` is as in capacity/main.c. The fields of its line, by name.
    pub(crate) fn run(
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

    /// Runs it with arguments as in arena/model.c. The fields of its line, by name.
    pub(crate) fn run_model(&self, args: &[&str]) -> Result<HashMap<String, u64>, String> {
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
}

impl Program {
    /// The instructions that `run(n, 16)` of a module takes, hooked or not: what valgrind counts,
    /// less what it counts for `run(least, 16)`. `None` without valgrind.
    pub(crate) fn instructions(
        &self,
        hooked: bool,
        module: &Path,
        least: u32,
        n: u32,
    ) -> Option<u64> {
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

/// Whether 32-bit programs can be made and run; where not, the test that asks is skipped, if it may be.
pub(crate) fn has_32_bits() -> bool {
    let Err(why) = no_32_bits() else { return true };
    let required = env::var_os("PROPLET_REQUIRE_PEERS").is_some_and(|v| v == "1");
    assert!(!required, "PROPLET_REQUIRE_PEERS=1 forbids to skip: {why}");
    let line = format!("\nskipped: {why}\n");
    // What a test that passes prints is not shown, what it writes is.
    std::io::stderr()
        .write_all(line.as_bytes())
        .expect("stderr can be written");
    false
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

/// A compiler with WAMR's sources and settings.
fn with_wamr(width: Width) -> Result<cc::Build, String> {
    let mut c = compiler(width);
    wamr_build::add(&mut c, Path::new(origin::WAMR), &["all", "posix", "plain"])?;
    if width == Width::Bits32 || cfg!(target_arch = "x86") {
        c.flags(wamr_build::X86_FLAGS);
    }
    Ok(c)
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
