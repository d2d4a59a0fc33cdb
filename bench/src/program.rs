//! Programs: finding them, running them, pinning them to a core, and the processor time they have used.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Where a program lies on the search path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Where the `acre` to measure lies: `ACRE_BIN`, or beside this program.
pub(crate) fn acre() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("ACRE_BIN") {
        return Some(PathBuf::from(path));
    }
    let beside = std::env::current_exe().ok()?.parent()?.join("acre");
    beside.is_file().then_some(beside)
}

/// Runs a program to its end and gives its output; anything but success is an error with all it said.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command pinned to one core.
pub(crate) fn pinned(core: u32, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string()).arg(program);
    command
}

/// A server in the background; it ends with this value.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a pinned server and waits until its Unix socket takes connections.
    pub(crate) fn start(command: &mut Command, socket: &Path, log: &Path) -> Result<Server> {
        let file = File::create(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // taskset replaces itself by the server, so the child's id is the server's.
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let mut server = Server { child, log: log.to_path_buf() };
        let until = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{command:?} ended with {status}\n{}", server.said());
            }
            ensure!(Instant::now() < until, "{command:?} does not listen\n{}", server.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Processor time used so far, in microseconds: user and system, all threads, those that ended included.
    pub(crate) fn processor_micros(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name in parentheses may hold anything: count fields after it.
        let (_, fields) = stat.rsplit_once(')').context("no process name in /proc stat")?;
        let ticks = |index: usize| fields.split_whitespace().nth(index).and_then(|field| field.parse::<u64>().ok());
        let (user, system) = ticks(11).zip(ticks(12)).context("no times in /proc stat")?;
        // Linux has shown a hundred ticks a second to programs on every machine for twenty years.
        Ok((user + system) as f64 * 10_000.0)
    }

    /// The same to the nanosecond, for short runs: only threads that are there, counted by the scheduler.
    pub(crate) fn processor_micros_fine(&self) -> Result<f64> {
        let mut nanos = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            nanos += text.split(' ').next().and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
        }
        Ok(nanos as f64 / 1000.0)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM first, so that a server that keeps its files in order may do so.
        run(Command::new("kill").args(["-TERM", &self.child.id().to_string()])).ok();
        let until = Instant::now() + Duration::from_secs(10);
        while self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > until {
                self.child.kill().ok();
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child.wait().ok();
    }
}
