//! The machine a run was made on, and the programs it was made with, as the results file tells them.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::program::{find, run};

/// What the machine was like when a run began, to be compared with its end.
#[derive(Debug)]
pub(crate) struct Before {
    load: String,
    ticks: (u64, u64),
}

impl Before {
    /// Looks.
    pub(crate) fn now() -> Self {
        Self { load: load(), ticks: ticks(&std::fs::read_to_string("/proc/stat").unwrap_or_default()) }
    }

    /// Which part of the time, in parts of a hundred, the machine below gave to others since then.
    fn stolen_percent(&self) -> f64 {
        let (all, stolen) = ticks(&std::fs::read_to_string("/proc/stat").unwrap_or_default());
        let (all_before, stolen_before) = self.ticks;
        stolen.saturating_sub(stolen_before) as f64 / all.saturating_sub(all_before).max(1) as f64 * 100.0
    }
}

/// All processors' time in ticks, and how much of it was stolen by the machine below: the eighth figure.
fn ticks(stat: &str) -> (u64, u64) {
    let line = stat.lines().next().unwrap_or_default();
    // The last two are counted in the first two already.
    let figures: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|figure| figure.parse().ok()).collect();
    (figures.iter().sum(), figures.get(7).copied().unwrap_or_default())
}

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

/// Describes the machine; `folder` is where the disk files lie.
pub(crate) fn description(before: &Before, folder: &Path) -> Value {
    let file_system = said(Command::new("stat").args(["-f", "-c", "%T"]).arg(folder));
    let mount = said(Command::new("findmnt").args(["-n", "-o", "SOURCE,FSTYPE,OPTIONS", "-T"]).arg(folder));
    json!({
        "processor": line_of("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "memory_bytes": memory_bytes(),
        "kernel": said(Command::new("uname").arg("-r")),
        "file_system": file_system,
        "mount": mount,
        "load_before": before.load,
        "load_after": load(),
        "stolen_percent": before.stolen_percent(),
    })
}

/// The versions of the client and of the peers.
pub(crate) fn versions() -> Value {
    let version = |program: &str| {
        if find(program).is_none() {
            return "missing".to_owned();
        }
        let text = said(Command::new(program).arg("--version"));
        text.lines().next().unwrap_or_default().split(" (").next().unwrap_or_default().to_owned()
    };
    json!({"fio": version("fio"), "nbdkit": version("nbdkit"), "qemu-nbd": version("qemu-nbd")})
}

/// The commit that is measured.
pub(crate) fn commit(root: &Path) -> String {
    said(Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(root))
}

/// Now, in UTC, as it stands in names of files.
pub(crate) fn now() -> String {
    said(Command::new("date").args(["-u", "+%Y%m%dT%H%M%SZ"]))
}

fn said(command: &mut Command) -> String {
    run(command).map_or_else(|_| "unknown".to_owned(), |output| output.trim().to_owned())
}

fn line_of(file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
    line.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

fn memory_bytes() -> u64 {
    let total = line_of("/proc/meminfo", "MemTotal");
    total.trim_end_matches(" kB").parse::<u64>().unwrap_or_default() << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_the_eighth_figure_and_guests_are_not_counted_twice() {
        assert_eq!(ticks("cpu  10 1 2 80 3 0 1 3 5 5\ncpu0 1 1 1"), (100, 3));
        assert_eq!(ticks(""), (0, 0));
    }
}
