//! Running other people's programs: with a deadline, with their output kept, and with an honest answer when they are missing.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long any one client may take before the test calls it stuck.
const DEADLINE: Duration = Duration::from_secs(180);

/// What a finished program left behind.
#[derive(Debug)]
pub struct Finished {
    /// The command as typed.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Finished {
    /// Its output, or an error with everything it said when it did not succeed.
    pub fn expect_success(self) -> Result<String> {
        if !self.status.success() {
            bail!("{} ended with {}\n{}{}", self.line, self.status, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }

    /// What it complained about, or an error when it succeeded after all.
    pub fn expect_failure(self) -> Result<String> {
        if self.status.success() {
            bail!("{} should have failed, and printed\n{}", self.line, self.stdout);
        }
        Ok(format!("{}{}", self.stdout, self.stderr))
    }
}

/// Runs a program to its end and gives its output; anything but success is an error that holds all it said.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    finish(Command::new(program).args(arguments))?.expect_success()
}

/// Runs a program that must fail, and gives what it said.
pub fn run_refused(program: &str, arguments: &[&str]) -> Result<String> {
    finish(Command::new(program).args(arguments))?.expect_failure()
}

/// Runs any command to its end, whatever that is; killed and reported when it takes longer than three minutes.
pub fn finish(command: &mut Command) -> Result<Finished> {
    finish_within(command, DEADLINE)
}

/// The same with another deadline.
pub fn finish_within(command: &mut Command, allowed: Duration) -> Result<Finished> {
    let line = line_of(command);
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    command.env("PATH", path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {line}"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = wait(&mut child, allowed)?;
    if status.is_none() {
        child.kill().ok();
        child.wait()?;
    }
    let output = |reader: std::thread::JoinHandle<String>| reader.join().unwrap_or_default();
    let (stdout, stderr) = (output(stdout), output(stderr));
    match status {
        Some(status) => Ok(Finished { line, status, stdout, stderr }),
        None => bail!("{line} was still running after {} s\n{stdout}{stderr}", allowed.as_secs()),
    }
}

/// Waits for a child to end, for as long as allowed; `None` when it is still running then.
pub fn wait(child: &mut Child, allowed: Duration) -> Result<Option<ExitStatus>> {
    let until = Instant::now() + allowed;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > until {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a condition holds; an error that names it when it does not within the time allowed.
pub fn eventually(what: &str, allowed: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + allowed;
    while !holds()? {
        if Instant::now() > until {
            bail!("not within {:.0} s: {what}", allowed.as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Sends a signal (`TERM`, `KILL`, `STOP` …) to one process.
pub fn signal(process: u32, name: &str) -> Result<()> {
    run("kill", &[&format!("-{name}"), &process.to_string()]).map(drop)
}

/// A TCP port of loopback that nobody listens on now.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Whether all these programs are there. With `CI=true` a missing one is a failure, otherwise it is named and the test
/// returns early.
///
/// # Panics
/// In CI, when a program is missing: nothing may be skipped there.
pub fn have(programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs.iter().copied().filter(|program| find(program).is_none()).collect();
    missing.is_empty() || skip(&format!("{} missing", missing.join(", ")))
}

/// Whether the test may do what only root may (loop devices, mounts); see [`have`] for what happens otherwise.
///
/// # Panics
/// In CI, when not root.
pub fn have_root() -> bool {
    let root = run("id", &["-u"]).is_ok_and(|id| id.trim() == "0");
    root || skip("needs root for loop devices and mounts")
}

/// Says that a test is skipped and why; always false.
///
/// # Panics
/// In CI, where nothing may be skipped.
pub fn skip(why: &str) -> bool {
    let ci = std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
    assert!(!ci, "CI skips nothing: {why}");
    eprintln!("SKIPPED: {why}");
    false
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn collect(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // An unreadable rest leaves what was read so far, which is what the report wants.
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn line_of(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
