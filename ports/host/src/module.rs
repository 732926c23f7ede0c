//! Files of modules.

use anyhow::{Context as _, Result, bail};
use proplet::module::format::{self, Format};
use std::path::Path;

/// Reads a module, as text (.wat) or binary (.wasm).
pub(crate) fn load(path: &Path) -> Result<Vec<u8>> {
    let file = path.display();
    let module = std::fs::read(path).with_context(|| format!("{file} can't be read"))?;
    match format::check(&module) {
        Ok(()) | Err(Format::Wat) => {}
        Err(other) => bail!("{file}: {other}"),
    }
    let module = wat::parse_bytes(&module).with_context(|| format!("{file} is no module"))?;
    Ok(module.into_owned())
}
