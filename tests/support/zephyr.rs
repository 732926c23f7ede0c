//! Finds Zephyr, and builds the firmware for native_sim with it.

use proplet_testing::is_missing_unless;
use serde_json::Value;
use std::{
    env,
    env::consts::ARCH,
    ffi::{OsStr, OsString},
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// Lines of the build's output that a failed test shows.
const SHOWN: usize = 25;

fn root() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    path.canonicalize().expect("the tests lie in a repository")
}

fn is_zephyr(base: &Path) -> bool {
    base.join("share/zephyr-package/cmake").is_dir()
}

/// Where Zephyr is: what `ZEPHYR_BASE` says, or what `west zephyr-export` has noted in the home.
pub(crate) fn find(base: Option<&OsStr>, home: Option<&OsStr>) -> Option<PathBuf> {
    if let Some(base) = base.filter(|base| !base.is_empty()) {
        return Some(PathBuf::from(base)).filter(|base| is_zephyr(base));
    }
    let registry = Path::new(home?).join(".cmake/packages/Zephyr");
    let mut notes: Vec<PathBuf> = fs::read_dir(registry)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    notes.sort();
    notes.iter().find_map(|note| {
        // A note names <base>/share/zephyr-package/cmake.
        let package = fs::read_to_string(note).ok()?;
        let base = Path::new(package.trim()).ancestors().nth(3)?;
        is_zephyr(base).then(|| base.to_owned())
    })
}

/// The firmware, ready-made or built once for all tests of the process.
static FIRMWARE: OnceLock<Option<Result<PathBuf, String>>> = OnceLock::new();

fn firmware() -> Option<&'static Result<PathBuf, String>> {
    let found = || {
        if let Some(path) = env::var_os("PROPLET_FIRMWARE").map(PathBuf::from) {
            // Relative paths are the caller's, and tests run elsewhere.
            let paths = [root().join(&path), path.clone()];
            let found = paths.into_iter().find(|p| p.is_file());
            let error = || format!("PROPLET_FIRMWARE={}: no such file", path.display());
            return Some(found.ok_or_else(error));
        }
        let (base, home) = (env::var_os("ZEPHYR_BASE"), env::var_os("HOME"));
        find(base.as_deref(), home.as_deref()).map(|base| build(&base))
    };
    FIRMWARE.get_or_init(found).as_ref()
}

/// Whether there is neither a firmware nor the means to build one; says so.
pub(crate) fn is_missing() -> bool {
    is_missing_unless(
        "PROPLET_REQUIRE_ZEPHYR",
        firmware().is_some(),
        "Zephyr",
        "set ZEPHYR_BASE, or register it: west zephyr-export",
    )
}

/// The firmware's executable.
pub(crate) fn executable() -> &'static Path {
    let firmware = firmware().expect("the test has asked whether it is missing");
    firmware.as_ref().unwrap_or_else(|error| panic!("{error}"))
}

fn build(base: &Path) -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../zephyr");
    let output = dir.join("native_sim");
    let log = dir.join("native_sim.log");
    let root = root();
    let fragments = ["tls.conf", "tests/zephyr/proplet/tests.conf"]
        .map(|name| root.join(name).display().to_string());
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut configure = Command::new("cmake");
    configure.arg("-GNinja").arg("-S").arg(&root);
    configure.arg("-B").arg(&output);
    configure.arg("-DBOARD=native_sim/native/64");
    configure.arg(format!("-DEXTRA_CONF_FILE={}", fragments.join(";")));
    let mut make = Command::new("cmake");
    make.arg("--build").arg(&output);

    let wamr = wamr_root();
    fs::write(&log, "").map_err(|e| format!("{}: {e}", log.display()))?;
    for mut command in [configure, make] {
        command.env("ZEPHYR_BASE", base);
        // It's the host's compiler in any case, but without this Zephyr asks for its SDK.
        command.env("ZEPHYR_TOOLCHAIN_VARIANT", "host");
        clear_environment(&mut command);
        choose_rust(&mut command, &dir.join("rust"));
        if let Some(wamr) = &wamr {
            command.env("WAMR_ROOT", wamr);
        }
        run(command, &log)?;
    }
    Ok(output.join("zephyr/zephyr.exe"))
}

/// The sources of WAMR that the host is built with, unless the environment names others.
fn wamr_root() -> Option<OsString> {
    if let Some(root) = env::var_os("WAMR_ROOT") {
        return Some(root);
    }
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .arg("--manifest-path")
        .arg(root().join("Cargo.toml"))
        .output()
        .ok()?;
    let listing: Value = serde_json::from_slice(&output.stdout).ok()?;
    let packages = listing["packages"].as_array()?;
    let package = packages.iter().find(|p| p["name"] == "wamrx-sys")?;
    let manifest = Path::new(package["manifest_path"].as_str()?);
    Some(manifest.with_file_name("wasm-micro-runtime").into())
}

fn run(mut command: Command, path: &Path) -> Result<(), String> {
    let log = || File::options().append(true).open(path);
    let ended = log().and_then(|log_a| {
        let command = command.stdin(Stdio::null()).stdout(log_a).stderr(log()?);
        command.status()
    });
    let ended = match ended {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
    Err(format!(
        "the firmware can't be built: {command:?}: {ended}; see {}\n{last}",
        path.display()
    ))
}

/// Takes away what concerns the cargo that runs the tests: the build runs another one, for another
/// target. What tells cargo where its home, its registries and its proxies are, stays.
fn clear_environment(command: &mut Command) {
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        let concerns = [
            "CARGO",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "RUSTDOCFLAGS",
            "RUSTFLAGS",
            "RUST_RECURSION_COUNT",
        ]
        .contains(&name.as_ref())
            || ["CARGO_BUILD_", "CARGO_MANIFEST_", "CARGO_PKG_", "PROPLET_"]
                .iter()
                .any(|prefix| name.starts_with(prefix));
        if concerns {
            command.env_remove(&key);
        }
    }
}

/// The firmware needs `core` for a machine without a system. The Rust that runs the tests is right
/// if it has that target (`rustup target add`). Where it has not, Debian's compiler can build `core`
/// from its sources (packages rustc-web, cargo-web, rust-web-src, or those of its default Rust).
fn choose_rust(command: &mut Command, links: &Path) {
    let target = format!("{ARCH}-unknown-none");
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let printed = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", &target])
        .output();
    let has_core = printed.is_ok_and(|output| {
        let path = String::from_utf8_lossy(&output.stdout);
        output.status.success() && Path::new(path.trim()).is_dir()
    });
    let debian = Path::new("/usr/bin");
    let sources = Path::new("/usr/lib/rustlib/src/rust/library");
    if has_core || !debian.join("rustc").is_file() || !sources.is_dir() {
        return;
    }
    // Only Rust is to be Debian's, not the Python that Zephyr's packages are installed for.
    fs::create_dir_all(links).expect("the target directory can be written");
    for name in ["cargo", "cargo-clippy", "clippy-driver", "rustc"] {
        let (file, link) = (debian.join(name), links.join(name));
        if file.is_file() && !link.exists() {
            symlink(file, link).expect("the target directory can be written");
        }
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let path = [links.to_owned()]
        .into_iter()
        .chain(env::split_paths(&path));
    let path = env::join_paths(path).expect("the path was split before");
    command.env("PATH", path);
    command.env("RUSTC", debian.join("rustc"));
    command.env("RUSTC_BOOTSTRAP", "1");
    command.env("CARGO_UNSTABLE_BUILD_STD", "core,alloc");
}
