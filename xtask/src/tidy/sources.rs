//! Rules for source files: an opening line, a bounded size, honest names, no unfinished marks, unsafe code in one crate only.

use std::path::Path;

use anyhow::Result;

use super::Breach;
use crate::tree;

/// A file longer than this does not fit a reader's head.
const LINES_MAX: usize = 800;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc"];

/// Marks of work left for later, spelled in halves so that this file does not find itself.
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// The only crate that may hold unsafe code.
const UNSAFE_CRATE: &str = "crates/reactor/";

/// Checks every source file, script and page.
pub(super) fn check() -> Result<Vec<Breach>> {
    let mut breaches = Vec::new();
    for file in super::files(&[".rs", ".md", ".toml", ".sh", ".py"])? {
        let text = std::fs::read_to_string(&file)?;
        breaches.extend(marks(&file, &text));
        if file.extension().is_some_and(|ending| ending == "rs") {
            breaches.extend(rust_file(&file, &text));
        }
    }
    Ok(breaches)
}

fn marks(file: &Path, text: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for mark in UNFINISHED.iter().filter(|mark| has_word(line, mark)) {
            breaches.push(Breach::of_line(
                file,
                index + 1,
                format!("{mark}: finish it, or open an issue and drop the mark"),
            ));
        }
    }
    let shown = tree::shown(file);
    for part in shown.split(['/', '.']) {
        if EMPTY_NAMES.contains(&part) {
            breaches.push(Breach::of_file(file, format!("{part:?} names nothing; name the noun that is inside")));
        }
    }
    breaches
}

fn rust_file(file: &Path, text: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    if !text.starts_with("//!") {
        breaches.push(Breach::of_file(file, "does not open with `//!`; say what the file holds"));
    }
    let count = text.lines().count();
    if count > LINES_MAX {
        breaches.push(Breach::of_file(file, format!("{count} lines, more than {LINES_MAX}; split it by noun")));
    }
    let shown = tree::shown(file);
    if shown.starts_with(UNSAFE_CRATE) {
        return breaches;
    }
    if is_crate_root(&shown) && !text.contains("#![forbid(unsafe_code)]") {
        breaches.push(Breach::of_file(file, "lacks #![forbid(unsafe_code)]; only crates/reactor may go without"));
    }
    for (index, line) in text.lines().enumerate() {
        if has_word(code_of(line), "unsafe") {
            breaches.push(Breach::of_line(file, index + 1, "unsafe code; it lives in crates/reactor alone"));
        }
    }
    breaches
}

/// Whether a path is where the compiler starts on a library or a program. Tests are held to the rule by the word alone.
fn is_crate_root(shown: &str) -> bool {
    shown.ends_with("src/lib.rs") || shown.ends_with("src/main.rs") || shown.contains("/src/bin/")
}

/// A line without its comment and without the insides of its plain string literals.
fn code_of(line: &str) -> &str {
    let code = line.split("//").next().unwrap_or(line);
    code.split('"').next().unwrap_or(code)
}

/// Whether a word stands in a text with no letter, digit or underscore beside it.
fn has_word(text: &str, word: &str) -> bool {
    let joins = |character: Option<char>| character.is_some_and(|found| found.is_alphanumeric() || found == '_');
    text.match_indices(word).any(|(start, _)| {
        !joins(text[..start].chars().next_back()) && !joins(text[start + word.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(name: &str, text: &str) -> Vec<String> {
        let file = tree::root().join(name);
        marks(&file, text).into_iter().chain(rust_file(&file, text)).map(|breach| breach.message).collect()
    }

    #[test]
    fn a_file_that_keeps_the_rules_passes() {
        let text = "//! Holds nothing.\n#![forbid(unsafe_code)]\n// unsafe code would be refused here\n";
        assert!(complaints("crates/model/src/lib.rs", text).is_empty());
    }

    #[test]
    fn each_rule_is_seen() {
        let long = "//! Long.\n".repeat(LINES_MAX + 1);
        assert!(complaints("crates/model/src/long.rs", &long)[0].contains("split it by noun"));
        assert!(complaints("crates/model/src/bare.rs", "use std;\n")[0].contains("open with `//!`"));
        assert!(complaints("crates/model/src/helpers.rs", "//! X.\n")[0].contains("names nothing"));
        assert!(
            complaints("crates/model/src/a.rs", "//! A.\nfn f() { unsafe { g() } }\n")[0].contains("reactor alone")
        );
        let unfinished = format!("//! A.\n// {}: later\n", UNFINISHED[0]);
        assert!(complaints("crates/model/src/a.rs", &unfinished)[0].contains("open an issue"));
        assert!(complaints("crates/model/src/lib.rs", "//! A.\n")[0].contains("forbid"));
    }

    #[test]
    fn the_reactor_may_hold_unsafe_code() {
        assert!(complaints("crates/reactor/src/ring.rs", "//! Ring.\nfn f() { unsafe { g() } }\n").is_empty());
    }
}
