//! A server of our own on a fresh folder: start it, talk to it, stop or kill it, start it again, and judge its log.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Endpoint, Session};
use crate::http;
use crate::standin::Standin;
use crate::tool::{self, Finished, eventually, finish, finish_within, signal};

/// How long a server may take to answer after its start.
const START_ALLOWED: Duration = Duration::from_secs(20);
/// How long a server may take to leave after SIGTERM.
const STOP_ALLOWED: Duration = Duration::from_secs(20);

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Disks, as `--disk` takes them; names without a slash lie in the test's folder.
    pub disks: Vec<String>,
    /// Further arguments of `acre serve`.
    pub extra: Vec<String>,
    /// Further environment.
    pub environment: Vec<(String, String)>,
}

impl Options {
    /// One disk of this size (`1G`, `300M`).
    pub fn disk(size: &str) -> Options {
        Options { disks: vec![format!("disk-0:{size}")], extra: Vec::new(), environment: Vec::new() }
    }

    /// The same with one more argument of `acre serve`.
    #[must_use]
    pub fn with(mut self, argument: impl Into<String>) -> Options {
        self.extra.push(argument.into());
        self
    }

    /// The same with one more disk, as `--disk` takes it.
    #[must_use]
    pub fn with_disk(mut self, disk: &str) -> Options {
        self.disks.push(disk.to_owned());
        self
    }
}

/// A running (or killed) server with its folder.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    options: Options,
    child: Option<Child>,
    expected: Vec<String>,
    standin: Option<Standin>,
}

impl Server {
    /// Starts a server on a fresh folder and waits until it answers.
    pub fn start(options: Options) -> Result<Server> {
        let mut server = Server::prepare(options)?;
        server.resume()?;
        Ok(server)
    }

    /// A fresh folder with nothing started in it.
    pub fn prepare(options: Options) -> Result<Server> {
        // Short, because the path of a Unix socket has room for 107 bytes.
        let base = std::env::var_os("ACRE_E2E_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let folder = tempfile::Builder::new().prefix("acre-").tempdir_in(base).context("no folder for the test")?;
        Ok(Server { folder, options, child: None, expected: Vec::new(), standin: Standin::wanted() })
    }

    /// Whether tests run against a stand-in, which has no operator's commands.
    pub fn is_standin(&self) -> bool {
        self.standin.is_some()
    }

    /// Starts the server again after [`Server::stop`] or [`Server::kill`] and waits until it answers.
    pub fn resume(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_until_ready()
    }

    /// Starts the server without waiting for it.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the server runs already");
        if let Some(standin) = &mut self.standin {
            return standin.launch(self.folder.path());
        }
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = self.serve_command();
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("cannot start acre serve")?);
        Ok(())
    }

    /// `acre serve` with this test's arguments, not started.
    pub fn serve_command(&self) -> Command {
        let mut command = Command::new(acre_path());
        command.current_dir(self.folder()).arg("serve").arg("--data").arg(self.data());
        command.args(["--nbd", &format!("unix:{}", self.nbd_path().display())]);
        command.args(["--api", &format!("unix:{}", self.api_path().display())]);
        for disk in &self.options.disks {
            command.args(["--disk", disk]);
        }
        command.args(&self.options.extra);
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a server that must refuse to serve, and gives what it said. One that serves after all is ended, and an error.
    pub fn start_refused(&self) -> Result<String> {
        finish_within(&mut self.serve_command(), START_ALLOWED)?.expect_failure()
    }

    /// Waits until the server answers; an error with its log when it ended or stayed silent instead.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        if let Some(standin) = &self.standin {
            return standin.wait_until_ready();
        }
        let until = Instant::now() + START_ALLOWED;
        loop {
            let child = self.child.as_mut().context("no server was started")?;
            if let Some(status) = child.try_wait()? {
                self.child = None;
                bail!("acre serve ended with {status} at its start; its log:\n{}", self.log());
            }
            let listens = Endpoint::Unix(self.nbd_path()).connect().is_ok();
            if listens && http::get(&self.api(), "/metrics", &[]).is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("acre serve does not answer after {} s; its log:\n{}", START_ALLOWED.as_secs(), self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks the server to leave (SIGTERM), waits until it has, and judges its log.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(standin) = &mut self.standin {
            return standin.kill();
        }
        let mut child = self.child.take().context("no server runs")?;
        signal(child.id(), "TERM")?;
        let Some(status) = tool::wait(&mut child, STOP_ALLOWED)? else {
            child.kill()?;
            child.wait()?;
            bail!("acre serve was still there {} s after SIGTERM; its log:\n{}", STOP_ALLOWED.as_secs(), self.log());
        };
        ensure!(status.success(), "acre serve ended with {status} after SIGTERM; its log:\n{}", self.log());
        self.judge_log()
    }

    /// Kills the server (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(standin) = &mut self.standin {
            return standin.kill();
        }
        let mut child = self.child.take().context("no server runs")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// The server's process id.
    ///
    /// # Panics
    /// When no server runs.
    pub fn process(&self) -> u32 {
        self.child.as_ref().expect("a server runs").id()
    }

    /// Whether the server is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_none()))
    }

    /// The test's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The server's data directory.
    pub fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    fn nbd_path(&self) -> PathBuf {
        self.folder().join("nbd.sock")
    }

    fn api_path(&self) -> PathBuf {
        self.folder().join("api.sock")
    }

    /// Where the NBD of a volume is served.
    pub fn nbd(&self, volume: &str) -> Endpoint {
        match &self.standin {
            Some(standin) => standin.endpoint(volume),
            None => Endpoint::Unix(self.nbd_path()),
        }
    }

    /// Where the operator API is served.
    pub fn api(&self) -> Endpoint {
        Endpoint::Unix(self.api_path())
    }

    /// A volume's NBD URI, as clients take it.
    pub fn uri(&self, volume: &str) -> String {
        match self.nbd(volume) {
            Endpoint::Unix(path) => format!("nbd+unix:///{volume}?socket={}", path.display()),
            Endpoint::Tcp(address) => format!("nbd://{address}/{volume}"),
        }
    }

    /// A connection to a volume by our own client.
    pub fn session(&self, volume: &str) -> Result<Session> {
        Session::open(&self.nbd(volume), volume)
    }

    /// Runs an operator's command with `--output json` and gives what it printed; null when it printed nothing.
    pub fn acre(&self, arguments: &[&str]) -> Result<Value> {
        let mut arguments = arguments.to_vec();
        arguments.extend(["--output", "json"]);
        let output = self.acre_raw(&arguments)?.expect_success()?;
        if output.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&output).with_context(|| format!("{arguments:?} printed no JSON: {output}"))
    }

    /// Runs an operator's command that must fail, and gives what it said.
    pub fn acre_refused(&self, arguments: &[&str]) -> Result<String> {
        self.acre_raw(arguments)?.expect_failure()
    }

    /// Runs an operator's command and gives everything about how it ended.
    pub fn acre_raw(&self, arguments: &[&str]) -> Result<Finished> {
        finish(self.acre_command().args(arguments))
    }

    /// `acre` with this server's address, ready for an operator's command.
    pub fn acre_command(&self) -> Command {
        let mut command = Command::new(acre_path());
        command.current_dir(self.folder()).args(["--api", &format!("unix:{}", self.api_path().display())]);
        command
    }

    /// Makes a volume with these further arguments of `acre volume create`.
    pub fn create_volume(&mut self, name: &str, size: &str, extra: &[&str]) -> Result<()> {
        if let Some(standin) = &mut self.standin {
            return standin.create_volume(self.folder.path(), name, size);
        }
        let mut arguments = vec!["volume", "create", name, size];
        arguments.extend(extra);
        self.acre(&arguments).map(drop)
    }

    /// Deletes a volume, its data with it.
    pub fn delete_volume(&mut self, name: &str) -> Result<()> {
        if let Some(standin) = &mut self.standin {
            return standin.delete_volume(self.folder.path(), name);
        }
        self.acre(&["volume", "delete", name, "--force"]).map(drop)
    }

    /// One figure of what `acre pool show default` tells, in bytes (`used_bytes`, `free_bytes`, `granted_bytes` …).
    pub fn pool(&self, figure: &str) -> Result<u64> {
        if self.is_standin() {
            return self.standin_pool(figure);
        }
        let pool = self.acre(&["pool", "show", "default"])?;
        pool[figure].as_u64().with_context(|| format!("no {figure} in {pool}"))
    }

    /// Waits until a figure of the pool satisfies a condition; gives its last value either way.
    pub fn pool_becomes(&self, figure: &str, holds: impl Fn(u64) -> bool) -> Result<u64> {
        let mut last = 0;
        let outcome = eventually(&format!("the pool's {figure} is as it should be"), Duration::from_secs(10), || {
            last = self.pool(figure)?;
            Ok(holds(last))
        });
        outcome.with_context(|| format!("last seen: {last}"))?;
        Ok(last)
    }

    /// What all disks together have done, one counter of `acre disk list` (`reads`, `writes`, `flushes` …).
    pub fn disks_have(&self, counter: &str) -> Result<u64> {
        let disks = self.acre(&["disk", "list"])?;
        let disks = disks.as_array().with_context(|| format!("not a list of disks: {disks}"))?;
        disks.iter().map(|disk| disk["counters"][counter].as_u64().context("no such counter")).sum()
    }

    /// Runs `acre audit` against the running server; an error with the findings when it is not clean.
    pub fn audit(&self) -> Result<()> {
        if self.is_standin() {
            return Ok(());
        }
        let report = self.acre(&["audit"])?;
        ensure!(report["clean"] == Value::Bool(true), "the audit found: {report:#}");
        Ok(())
    }

    /// Runs `acre audit` on the data directory of a server that is not running.
    pub fn audit_offline(&self) -> Result<()> {
        if self.is_standin() {
            return Ok(());
        }
        let mut command = Command::new(acre_path());
        command.arg("audit").arg("--data").arg(self.data()).args(["--output", "json"]);
        let output = finish(&mut command)?.expect_success()?;
        let report: Value =
            serde_json::from_str(&output).with_context(|| format!("audit printed no JSON: {output}"))?;
        ensure!(report["clean"] == Value::Bool(true), "the offline audit found: {report:#}");
        Ok(())
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder().join("server.log")
    }

    /// Tells that lines with this text may warn: the test provokes them.
    pub fn expect_log(&mut self, text: &str) {
        self.expected.push(text.to_owned());
    }

    /// An error when the log holds a warning, an error or a panic that the test did not provoke.
    pub fn judge_log(&self) -> Result<()> {
        let log = self.log();
        let bad = |line: &&str| {
            let loud = [" WARN ", " ERROR ", "panicked at"].iter().any(|mark| plain(line).contains(mark));
            loud && !self.expected.iter().any(|text| line.contains(text))
        };
        let lines: Vec<&str> = log.lines().filter(bad).take(20).collect();
        ensure!(lines.is_empty(), "unexpected lines in the server's log:\n{}", lines.join("\n"));
        Ok(())
    }

    /// Keeps the test's folder after the test and says where it lies.
    pub fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder().to_path_buf()
    }

    fn standin_pool(&self, figure: &str) -> Result<u64> {
        ensure!(figure == "used_bytes", "a stand-in only knows what its files take");
        let mut used = 0;
        for item in std::fs::read_dir(self.folder())? {
            let item = item?;
            if item.path().extension().is_some_and(|ending| ending == "raw") {
                used += item.metadata()?.blocks() * 512;
            }
        }
        Ok(used)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The test is over, well or badly: only leave nothing behind.
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking() {
            eprintln!("the server's log ended so:\n{}", tail(&self.log(), 40));
        }
    }
}

/// Where the `acre` under test lies: `ACRE_BIN`, or beside the test in the build folder.
pub fn acre_path() -> PathBuf {
    if let Some(path) = std::env::var_os("ACRE_BIN") {
        return PathBuf::from(path);
    }
    let own = std::env::current_exe().unwrap_or_default();
    // target/debug/deps/e2e-… and target/debug/kill-campaign both find target/debug/acre.
    let beside = |levels: usize| own.ancestors().nth(levels).map(|folder| folder.join("acre"));
    [beside(1), beside(2)].into_iter().flatten().find(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("acre"))
}

/// A log line without its colours.
fn plain(line: &str) -> String {
    let mut plain = String::with_capacity(line.len() + 2);
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    format!(" {plain} ")
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
