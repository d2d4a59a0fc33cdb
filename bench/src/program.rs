//! Programs: finding them, running them, pinning them to a core, and the processor time they have used.

use std::collections::BTreeMap;
use std::ffi::OsString;
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

/// A command pinned to a list of cores, as `taskset -c` takes it.
pub(crate) fn pinned(cores: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(cores).arg(program);
    command
}

/// What the threads of a process have counted so far, by their ids.
#[derive(Debug)]
pub(crate) struct PerThread(BTreeMap<OsString, u64>);

impl PerThread {
    /// How much the threads that are here have counted since. A thread that has ended meanwhile has taken its count along:
    /// what it did last is missing, what it did before is not taken off the others.
    pub(crate) fn since(&self, before: &PerThread) -> u64 {
        let growth =
            |(thread, count): (&OsString, &u64)| count.saturating_sub(before.0.get(thread).copied().unwrap_or(0));
        self.0.iter().map(growth).sum()
    }
}

/// A server in the background; it ends with this value.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a pinned server.
    pub(crate) fn spawn(command: &mut Command, log: &Path) -> Result<Server> {
        let file = File::create(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // taskset replaces itself by the server, so the child's id is the server's.
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Server { child, log: log.to_path_buf() })
    }

    /// Starts a pinned server and waits until its Unix socket takes connections.
    pub(crate) fn start(command: &mut Command, socket: &Path, log: &Path) -> Result<Server> {
        let mut server = Server::spawn(command, log)?;
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

    /// The processor time of each of its threads, in nanoseconds, as the scheduler counts it: for short runs.
    pub(crate) fn thread_nanos(&self) -> Result<PerThread> {
        self.per_thread("schedstat", |text| text.split(' ').next()?.parse().ok())
    }

    fn per_thread(&self, file: &str, count: impl Fn(&str) -> Option<u64>) -> Result<PerThread> {
        let mut counts = BTreeMap::new();
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let thread = thread?;
            // One that ends meanwhile has nothing to tell.
            let text = std::fs::read_to_string(thread.path().join(file)).unwrap_or_default();
            counts.insert(thread.file_name(), count(&text).unwrap_or_default());
        }
        Ok(PerThread(counts))
    }

    /// What it has in memory, in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc status")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kibibytes << 10)
    }

    /// How often each of its threads has gone to sleep of its own accord: about how often it was woken.
    pub(crate) fn sleeps(&self) -> Result<PerThread> {
        self.per_thread("status", |text| {
            text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
        })
    }

    /// Kills it without a warning and waits until it is gone.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// What it has printed.
    pub(crate) fn said(&self) -> String {
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

/// How many flushes the device under this place has been sent since the machine started; none where the kernel does not say.
pub(crate) fn device_flushes(place: &Path) -> Option<f64> {
    use std::os::unix::fs::MetadataExt;
    let device = std::fs::metadata(place).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let mut folder = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    if folder.join("partition").exists() {
        folder.pop();
    }
    flushes_of(&std::fs::read_to_string(folder.join("stat")).ok()?)
}

/// The sixteenth field of a block device's `stat`: flush requests completed.
fn flushes_of(stat: &str) -> Option<f64> {
    stat.split_whitespace().nth(15)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushes_are_the_sixteenth_field() {
        let stat = "29498 5683 2797986 12196 7325 19801 2352440 23044 0 8840 37836 5332 35 315336 1739 844 856";
        assert_eq!(flushes_of(stat), Some(844.0));
        assert_eq!(flushes_of("1 2 3"), None);
    }

    #[test]
    fn a_thread_that_ends_takes_nothing_off_the_others() {
        let counts = |counts: &[(&str, u64)]| {
            PerThread(counts.iter().map(|(thread, count)| (OsString::from(thread), *count)).collect())
        };
        let before = counts(&[("1", 100), ("2", 5_000)]);
        assert_eq!(counts(&[("1", 130), ("3", 7)]).since(&before), 37);
    }
}
