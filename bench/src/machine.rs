//! The machine a run was made on, and the programs it was made with, as the results file tells them.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::program::{find, run};

/// Describes the machine; `folder` is where the disk files lie.
pub(crate) fn description(folder: &Path) -> Value {
    let file_system = said(Command::new("stat").args(["-f", "-c", "%T"]).arg(folder));
    let mount = said(Command::new("findmnt").args(["-n", "-o", "SOURCE,FSTYPE,OPTIONS", "-T"]).arg(folder));
    json!({
        "processor": line_of("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "memory_bytes": memory_bytes(),
        "kernel": said(Command::new("uname").arg("-r")),
        "file_system": file_system,
        "mount": mount,
        "load": std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
    })
}

/// The versions of the client and of the peers.
pub(crate) fn versions() -> Value {
    let version = |program: &str| match find(program) {
        Some(path) => said(Command::new(path).arg("--version")).lines().next().unwrap_or_default().to_owned(),
        None => "missing".to_owned(),
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
