//! `cargo xtask tidy`: the rules of the house that no compiler checks, and the two tools that check the rest.

mod docs;
mod layers;
mod sources;

use std::path::PathBuf;

use anyhow::Result;

use crate::mutants::list;
use crate::process::{Tally, cargo, passes};
use crate::tree;

/// One breach of a rule: where, and what to do about it.
pub(crate) struct Breach {
    /// The file, and the line where there is one.
    pub(crate) place: String,
    /// What is wrong and the way out.
    pub(crate) message: String,
}

impl Breach {
    /// A breach in a file as a whole.
    pub(crate) fn of_file(file: &std::path::Path, message: impl Into<String>) -> Breach {
        Breach { place: tree::shown(file), message: message.into() }
    }

    /// A breach on one line of a file, counted from one.
    pub(crate) fn of_line(file: &std::path::Path, line: usize, message: impl Into<String>) -> Breach {
        Breach { place: format!("{}:{line}", tree::shown(file)), message: message.into() }
    }
}

/// A rule looks at the whole checkout.
type Rule = fn() -> Result<Vec<Breach>>;

/// Runs every rule, then rustfmt and clippy; true when nothing is amiss.
pub(crate) fn run() -> Result<bool> {
    let mut total = Tally::default();
    let rules: [(&str, Rule); 4] =
        [("layers", layers::check), ("sources", sources::check), ("docs", docs::check), ("mutants", mutants)];
    for (name, rule) in rules {
        let breaches = rule()?;
        for breach in &breaches {
            println!("{}: {}", breach.place, breach.message);
        }
        println!(
            "── {name}: {}",
            if breaches.is_empty() { "fine".into() } else { format!("{} to mend", breaches.len()) }
        );
        total.add(Tally::one(breaches.is_empty()));
    }
    total.add(Tally::one(passes(&mut cargo(&["fmt", "--all", "--check"]))?));
    total.add(Tally::one(passes(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?));
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(total.clean())
}

/// The list of mutants must fit the sources it changes, and every end-to-end test must be in it.
fn mutants() -> Result<Vec<Breach>> {
    let file = tree::root().join(list::FILE);
    let faults = list::faults(&list::read()?, &tree::root())?;
    Ok(faults.into_iter().map(|fault| Breach::of_file(&file, fault)).collect())
}

/// Every file of ours with one of these endings, wherever it lies in the checkout.
fn files(endings: &[&str]) -> Result<Vec<PathBuf>> {
    tree::files(&tree::root(), endings)
}
