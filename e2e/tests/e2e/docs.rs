//! What the pages tell people to type exists.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use e2e::server::acre_path;
use e2e::tool::finish;

use crate::standin;

/// Every page of the checkout.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."));
    let mut pages = vec![root.join("README.md")];
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = item.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// The words of an `acre` command line up to its first argument, or none when the line is no such command.
fn command_words(line: &str) -> Option<Vec<String>> {
    let line = line.trim().trim_start_matches("$ ");
    let rest = line.strip_prefix("acre ").or_else(|| line.strip_prefix("cargo run --release -- "))?;
    let plain =
        |word: &&str| word.starts_with(|first: char| first.is_ascii_lowercase()) && !word.contains(['|', '/', '.']);
    let words: Vec<String> = rest.split_whitespace().take_while(plain).take(2).map(str::to_owned).collect();
    (!words.is_empty()).then_some(words)
}

#[test]
fn the_commands_in_the_pages_exist() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut checked = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap_or_default();
        let mut inside = false;
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                inside = !inside;
                continue;
            }
            let Some(mut words) = command_words(line).filter(|_| inside) else { continue };
            if !["pool", "disk", "volume"].contains(&words[0].as_str()) {
                words.truncate(1);
            }
            let ended = finish(std::process::Command::new(acre_path()).args(&words).arg("--help"))?;
            ensure!(ended.status.success(), "{} tells to type {line:?}: {}", page.display(), ended.stderr);
            checked += 1;
        }
    }
    println!("{checked} commands exist");
    Ok(())
}
