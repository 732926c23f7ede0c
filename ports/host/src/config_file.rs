//! A file of settings in TOML, as Propeller's provisioning writes it: a section for each proplet.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read as _},
    os::unix::fs::FileTypeExt as _,
    path::Path,
};
use toml::{Table, Value};

/// Most bytes of a file that is read.
const BYTES_MAX: u64 = 1 << 20;

/// Reason for which a file has no section to offer, in words that name the file.
#[derive(Debug)]
pub(crate) enum Problem {
    /// There is no such file; a directory is none.
    NotThere(String),
    /// It is right, but for the section.
    NoSection(String),
    /// It can't be read, or is no TOML.
    Unusable(String),
}

/// Reads a section of the file at `path`.
///
/// # Errors
/// See [`Problem`]. None quotes the file's content, which has secrets.
pub(crate) fn section(path: &Path, name: &str) -> Result<Table, Problem> {
    let file = path.display();
    let text = read(path)?;
    let mut all: Table = toml::from_str(&text).map_err(|e| {
        let before = e.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |text| text.matches('\n').count() + 1);
        let reason = e.message();
        Problem::Unusable(format!("{file}, line {line}: no TOML: {reason}"))
    })?;
    match all.remove(name) {
        Some(Value::Table(section)) => Ok(section),
        Some(other) => Err(Problem::Unusable(format!(
            "{file}: '{name}' has a value of type {}, expected a section [{name}]",
            other.type_str()
        ))),
        None => Err(Problem::NoSection(format!(
            "{file} has no section [{name}], but {}: --config-section or PROPLET_CONFIG_SECTION names one",
            sections(&all)
        ))),
    }
}

fn read(path: &Path) -> Result<String, Problem> {
    let file = path.display();
    let unusable = |reason: String| Problem::Unusable(format!("{file}: {reason}"));
    let metadata = fs::metadata(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Problem::NotThere(format!("{file} is not there")),
        _ => unusable(e.to_string()),
    })?;
    if metadata.is_dir() {
        let words = format!("{file} is a directory, expected a file");
        return Err(Problem::NotThere(words));
    }
    if metadata.file_type().is_fifo() {
        // To open it is to wait for whoever writes to it.
        return Err(unusable("it is a pipe, expected a file".into()));
    }
    let mut bytes = vec![];
    let source = File::open(path).map_err(|e| unusable(e.to_string()))?;
    let mut bounded = source.take(BYTES_MAX + 1);
    bounded
        .read_to_end(&mut bytes)
        .map_err(|e| unusable(e.to_string()))?;
    if bytes.len() as u64 > BYTES_MAX {
        let words = format!("it has more than {BYTES_MAX} bytes, the most that are read");
        return Err(unusable(words));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        unusable(format!("byte {at} is not UTF-8, expected a text in TOML"))
    })
}

/// Names of the sections, in brackets.
fn sections(all: &Table) -> String {
    let tables = all.iter().filter(|(_, value)| value.is_table());
    let names: Vec<String> = tables.map(|(name, _)| format!("[{name}]")).collect();
    match names.is_empty() {
        true => "no other either".into(),
        false => names.join(", "),
    }
}
