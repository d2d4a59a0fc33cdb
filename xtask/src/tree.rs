//! Where things are: the root of the checkout, the build folder, and the files the rules look at.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or_else(|| here.to_path_buf(), Path::to_path_buf)
}

/// The folder that holds the programs of one build profile (`debug` or `release`).
///
/// This program lies in one of them itself, which spares asking cargo and honours `CARGO_TARGET_DIR`.
pub(crate) fn programs(profile: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where xtask itself lies")?;
    let target = own.parent().and_then(Path::parent).context("xtask does not lie in a build folder")?;
    Ok(target.join(profile))
}

/// Every file below `folder` whose name ends in one of `endings`, in a steady order; build output is left out.
pub(crate) fn files(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(next) = waiting.pop() {
        if !next.exists() {
            continue;
        }
        for item in std::fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let path = item?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_dir() {
                let output = matches!(name.as_str(), "target" | "acre-data" | "bench-results" | "corpus" | "artifacts");
                if !output && !name.starts_with('.') {
                    waiting.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A path as people name it: relative to the root of the checkout.
pub(crate) fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
