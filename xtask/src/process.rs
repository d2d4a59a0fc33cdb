//! Starting other programs: say what is run, pass its output through, count the tests it reports.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::tree;

/// How many checks passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Checks that passed.
    pub(crate) passed: u64,
    /// Checks that failed.
    pub(crate) failed: u64,
}

impl Tally {
    /// One check with this outcome.
    pub(crate) fn one(passed: bool) -> Tally {
        Tally { passed: u64::from(passed), failed: u64::from(!passed) }
    }

    /// Adds another tally to this one.
    pub(crate) fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Whether nothing failed.
    pub(crate) fn clean(self) -> bool {
        self.failed == 0
    }
}

/// `cargo`, as the one that started this program, in the root of the checkout.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(tree::root());
    command
}

/// Runs a command with the terminal as its own; true when it succeeds.
pub(crate) fn passes(command: &mut Command) -> Result<bool> {
    announce(command);
    let status = command.status().with_context(|| format!("cannot start {}", line_of(command)))?;
    Ok(status.success())
}

/// Runs a command that prints `cargo test` summaries: its output goes through, the summaries are added up.
///
/// A run that fails without any failed test (it did not compile, it was killed) counts as one failure.
pub(crate) fn counted(command: &mut Command) -> Result<Tally> {
    announce(command);
    let began = Instant::now();
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {}", line_of(command)))?;
    let output = child.stdout.take().context("the child has no output")?;
    let mut tally = Tally::default();
    for line in BufReader::new(output).lines() {
        let line = line?;
        if let Some(found) = summary(&line) {
            tally.add(found);
        }
        println!("{line}");
    }
    let status = child.wait()?;
    if !status.success() && tally.clean() {
        tally.failed += 1;
    }
    println!("   {} passed, {} failed, {:.0} s", tally.passed, tally.failed, began.elapsed().as_secs_f64());
    Ok(tally)
}

/// The figures of one `test result: ok. 3 passed; 0 failed; …` line.
fn summary(line: &str) -> Option<Tally> {
    let rest = line.trim().strip_prefix("test result: ")?;
    let (_, figures) = rest.split_once(". ")?;
    let mut tally = Tally::default();
    for figure in figures.split(';') {
        match figure.trim().split_once(' ') {
            Some((count, "passed")) => tally.passed = count.parse().ok()?,
            Some((count, "failed")) => tally.failed = count.parse().ok()?,
            _ => {}
        }
    }
    Some(tally)
}

/// Where a program lies on the search path, the system folders included even when the path leaves them out.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn announce(command: &Command) {
    println!("── {}", line_of(command));
}

fn line_of(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut line = program.to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_line_gives_its_counts_and_other_lines_give_none() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s";
        assert_eq!(summary(line), Some(Tally { passed: 12, failed: 3 }));
        assert_eq!(summary("test agents_agree ... ok"), None);
        assert_eq!(summary("test result: nonsense"), None);
    }

    #[test]
    fn a_run_that_fails_without_a_failed_test_counts_as_one_failure() {
        let tally = counted(Command::new("false").args(["x"])).expect("false runs");
        assert_eq!(tally, Tally { passed: 0, failed: 1 });
    }
}
