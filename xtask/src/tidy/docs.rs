//! Rules for pages: links resolve, the glossary defines each term once, the commands people are told to type exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;

use super::Breach;
use crate::tree;

/// Tasks that pages may name; kept beside the list in `main.rs` by the test below.
const TASKS: &[&str] = &["test", "tidy", "sim", "fuzz", "mutants", "bench"];

/// Checks every page of the checkout.
pub(super) fn check() -> Result<Vec<Breach>> {
    let mut breaches = Vec::new();
    for file in super::files(&[".md"])? {
        let text = std::fs::read_to_string(&file)?;
        breaches.extend(links(&file, &text));
        breaches.extend(commands(&file, &text));
        if tree::shown(&file) == "docs/glossary.md" {
            breaches.extend(repeated_terms(&text).into_iter().map(|term| {
                Breach::of_file(&file, format!("{term:?} is defined more than once; one name, one meaning"))
            }));
        }
    }
    Ok(breaches)
}

/// Links to files of the checkout, and to headings in them, that lead nowhere.
fn links(file: &Path, text: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let folder = file.parent().unwrap_or(file);
    for (number, line) in prose(text) {
        for target in link_targets(line) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let goal = if path.is_empty() { file.to_path_buf() } else { folder.join(path) };
            if !goal.exists() {
                breaches.push(Breach::of_line(file, number, format!("the link {target:?} leads nowhere")));
            } else if !heading.is_empty() && goal.extension().is_some_and(|ending| ending == "md") {
                let page = std::fs::read_to_string(&goal).unwrap_or_default();
                if !headings(&page).contains(heading) {
                    breaches.push(Breach::of_line(
                        file,
                        number,
                        format!("{} has no heading #{heading}", tree::shown(&goal)),
                    ));
                }
            }
        }
    }
    breaches
}

/// Commands in code blocks that do not exist. What `acre` understands is asked of `acre` itself, end to end.
fn commands(file: &Path, text: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (number, line) in code(text) {
        if let Some((_, rest)) = line.split_once("cargo xtask ") {
            let task = rest.split_whitespace().next().unwrap_or_default();
            if task.starts_with(|first: char| first.is_ascii_lowercase()) && !TASKS.contains(&task) {
                breaches.push(Breach::of_line(file, number, format!("cargo xtask has no task {task:?}")));
            }
        }
        let script = line.split_whitespace().next().unwrap_or_default();
        if script.starts_with("./") && !script.contains("acre-data") && !tree::root().join(script).exists() {
            breaches.push(Breach::of_line(file, number, format!("{script} does not exist")));
        }
    }
    breaches
}

/// Lines outside code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    split(text).filter(|(_, _, code)| !code).map(|(number, line, _)| (number, line))
}

/// Lines inside code blocks, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    split(text).filter(|(_, _, code)| *code).map(|(number, line, _)| (number, line))
}

fn split(text: &str) -> impl Iterator<Item = (usize, &str, bool)> {
    let mut inside = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            inside = !inside;
            return None;
        }
        Some((index + 1, line, inside))
    })
}

/// The targets of `[text](target)` in one line, those inside `code` left out.
fn link_targets(line: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    for (index, part) in line.split('`').enumerate() {
        // A link's text may be code: what follows the closing backtick is then in the next part.
        if index % 2 == 1 {
            continue;
        }
        let mut rest = part;
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, tail)) = after.split_once(')') else { break };
            targets.push(target.split_whitespace().next().unwrap_or_default());
            rest = tail;
        }
    }
    targets
}

/// The anchors of a page's headings.
fn headings(page: &str) -> BTreeSet<String> {
    let titles =
        prose(page).filter(|(_, line)| line.starts_with('#')).map(|(_, line)| line.trim_start_matches('#').trim());
    titles
        .map(|title| {
            let kept = title
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .collect::<String>();
            kept.replace(' ', "-")
        })
        .collect()
}

/// Terms that a glossary defines twice: a term is what stands in bold at the start of a line, list item or table row.
fn repeated_terms(text: &str) -> Vec<String> {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for (_, line) in prose(text) {
        let line = line.trim_start_matches(['|', '-', '*', ' ']);
        // Stripping list marks took the opening asterisks too: the term ends at the closing ones.
        if let Some((term, _)) = line.split_once("**").filter(|(term, _)| !term.is_empty() && term.len() < 60) {
            *counts.entry(term.trim_end_matches([':', '.']).trim().to_lowercase()).or_default() += 1;
        }
    }
    counts.into_iter().filter(|(_, count)| *count > 1).map(|(term, _)| term).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_link_and_a_missing_heading_are_seen_and_live_ones_are_not() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let page = folder.path().join("page.md");
        let text = "# One two\n[a](page.md#one-two) [b](https://example.org) [`c`](gone.md) [d](#three)\n```\n[e](gone.md)\n```\n";
        std::fs::write(&page, text).expect("the page is written");
        let messages: Vec<String> = links(&page, text).into_iter().map(|breach| breach.message).collect();
        assert_eq!(messages.len(), 2, "{messages:?}");
        assert!(messages[0].contains("gone.md") && messages[1].contains("#three"));
    }

    #[test]
    fn a_term_defined_twice_is_seen_in_lists_and_tables() {
        let text = "- **Region**: one.\n| **block** | 4 KiB |\n- **region** again\nplain **bold** later\n";
        assert_eq!(repeated_terms(text), ["region"]);
    }

    #[test]
    fn only_tasks_that_exist_may_be_named_in_code_blocks() {
        let page = tree::root().join("README.md");
        let text = "cargo xtask dance\n```sh\ncargo xtask test\ncargo xtask dance\n```\n";
        assert_eq!(commands(&page, text).len(), 1);
    }
}
