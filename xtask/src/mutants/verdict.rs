//! Runs named end-to-end tests against one server and says of each how it ended.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::cargo;

/// How long one server's tests may take together. A client that hangs is ended by its test after three minutes.
const PATIENCE: Duration = Duration::from_secs(420);

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It passed: it noticed nothing.
    Passed,
    /// It failed.
    Failed,
    /// It did not run to its end.
    Unfinished,
}

/// Runs these tests, and no others, against the server at `acre`.
pub(crate) fn of(tests: &[&str], acre: &Path) -> Result<BTreeMap<String, Verdict>> {
    let mut verdicts: BTreeMap<String, Verdict> =
        tests.iter().map(|test| ((*test).to_owned(), Verdict::Unfinished)).collect();
    let mut command = cargo(&["test", "--quiet", "--workspace", "--exclude", "sim", "--test", "e2e", "--"]);
    command.args(["--exact", "--format=pretty"]).args(tests);
    command.env("ACRE_BIN", acre).env("RUST_LIB_BACKTRACE", "0").env("RUST_BACKTRACE", "0");
    // A group of its own, so that tests that hang are ended together with the servers and clients they started.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().context("cannot start cargo test")?;
    let output = child.stdout.take().context("the tests have no output")?;
    let complaints = child.stderr.take().context("the tests have no output for errors")?;
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    // Read away, so that nobody waits for room: how a test failed is not asked, only that it did.
    let said = std::thread::spawn(move || std::io::read_to_string(complaints).unwrap_or_default());
    let until = Instant::now() + PATIENCE;
    let mut hung = false;
    loop {
        match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if let Some((test, verdict)) = ended(&line)
                    && let Some(known) = verdicts.get_mut(test)
                {
                    *known = verdict;
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                hung = true;
                Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status()?;
                break;
            }
        }
    }
    child.wait()?;
    if !hung && verdicts.values().all(|verdict| *verdict == Verdict::Unfinished) {
        println!("{}", said.join().unwrap_or_default());
    }
    Ok(verdicts)
}

/// The test and its end that a line of `cargo test` tells.
fn ended(line: &str) -> Option<(&str, Verdict)> {
    let (test, end) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    match end.trim() {
        "ok" => Some((test, Verdict::Passed)),
        "FAILED" => Some((test, Verdict::Failed)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_test_is_read_and_other_lines_are_not() {
        assert_eq!(ended("test space::a_test ... ok"), Some(("space::a_test", Verdict::Passed)));
        assert_eq!(ended("test space::a_test ... FAILED"), Some(("space::a_test", Verdict::Failed)));
        assert_eq!(ended("test result: FAILED. 0 passed; 1 failed"), None);
        assert_eq!(ended("test space::a_test has been running for over 60 seconds"), None);
    }
}
