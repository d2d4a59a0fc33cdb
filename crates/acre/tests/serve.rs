//! `acre serve` as a process: its first start, its second, its end, and what it refuses.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests have clocks, threads and processes")]

use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server may take to start or to leave.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder to serve in.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn acre(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_acre"));
        command.current_dir(self.folder.path());
        for variable in ["ACRE_API", "ACRE_API_TOKEN", "ACRE_DATA", "ACRE_OUTPUT", "ACRE_LOG", "NOTIFY_SOCKET"] {
            command.env_remove(variable);
        }
        command
    }

    /// `acre serve` on this folder, with one disk of 1 GiB and no listener that another test could have too.
    fn serve(&self) -> Command {
        let mut command = self.acre();
        command.args(["serve", "--threads", "1", "--disk", "disk:1G", "--nbd", "unix:nbd.sock"]);
        command.args(["--api", "unix:acre-data/api.sock"]);
        command
    }

    fn start(&self, command: &mut Command) -> Running {
        let log = std::fs::File::create(self.path("log")).expect("a log");
        let said = log.try_clone().expect("the log");
        let child = command.stdin(Stdio::null()).stdout(said).stderr(log).spawn().expect("acre starts");
        let mut running = Running(Some(child));
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains("See how things are") {
            assert!(running.is_alive() && Instant::now() < deadline, "{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        running
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// An operator's command to the server of this folder, which must succeed.
    fn run(&self, line: &str) -> Value {
        let output = self.acre().args(line.split(' ')).args(["--output", "json"]).output().expect("acre runs");
        assert!(output.status.success(), "{line}: {}", complaint(&output));
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A server, killed at the end whatever happens.
struct Running(Option<Child>);

impl Running {
    fn is_alive(&mut self) -> bool {
        self.0.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_none()))
    }

    fn id(&self) -> u32 {
        self.0.as_ref().expect("it runs").id()
    }

    /// SIGTERM; gives the exit code.
    fn stop(mut self) -> Option<i32> {
        let told = Command::new("kill").args(["-TERM", &self.id().to_string()]).status().expect("kill runs");
        assert!(told.success());
        let deadline = Instant::now() + PATIENCE;
        while self.is_alive() {
            assert!(Instant::now() < deadline, "it does not leave");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.0.take().and_then(|mut child| child.wait().ok()).and_then(|status| status.code())
    }

    /// SIGKILL.
    fn kill(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").mode() & 0o777
}

#[test]
fn the_first_start_makes_everything_and_every_later_one_finds_it() {
    let place = Place::new();
    let server = place.start(place.serve().args(["--api", "127.0.0.1:0"]));
    assert!(place.log().contains("nbdinfo 'nbd+unix:///demo?socket="), "{}", place.log());
    assert_eq!((mode(&place.path("acre-data")), mode(&place.path("acre-data/api.sock"))), (0o700, 0o600));
    assert_eq!((mode(&place.path("nbd.sock")), mode(&place.path("acre-data/api-token"))), (0o600, 0o600));
    let status = place.run("status");
    assert_eq!(status["volumes"], 1);
    assert_eq!(place.run("volume show demo")["size_bytes"], 1_u64 << 40);
    assert_eq!(place.run("disk list")[0]["size_bytes"], 1 << 30);
    // Over TCP the token of the data directory is found by itself; another is refused.
    let tcp = status["listeners"].as_array().and_then(|all| all.last()).and_then(|last| last["address"].as_str());
    let tcp = tcp.expect("a TCP listener").to_owned();
    assert_eq!(place.run(&format!("--api {tcp} pool list")).as_array().map(Vec::len), Some(1));
    let refused = place.acre().args(["--api", &tcp, "--token", "0", "pool", "list"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(8));
    place.run("volume create kept 3G");
    assert_eq!(server.stop(), Some(0), "{}", place.log());
    assert!(!place.path("nbd.sock").exists() && !place.path("acre-data/api.sock").exists());

    let server = place.start(&mut place.serve());
    assert_eq!(place.run("volume list").as_array().map(Vec::len), Some(2));
    assert_eq!(place.run("disk list").as_array().map(Vec::len), Some(1));
    assert_eq!(place.run("status")["cluster"], status["cluster"]);
    assert_eq!(server.stop(), Some(0));
    assert!(!place.log().contains("WARN") && !place.log().contains("ERROR"), "{}", place.log());
}

#[test]
fn a_second_server_on_the_same_directory_is_refused_and_so_is_an_offline_audit() {
    let place = Place::new();
    let server = place.start(&mut place.serve());
    for arguments in [["serve", "--data", "acre-data"], ["audit", "--data", "acre-data"]] {
        let output = place.acre().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{}", complaint(&output));
        assert!(complaint(&output).contains(&format!("process {}", server.id())), "{}", complaint(&output));
    }
    server.kill();
    let report = place.run("audit --data acre-data");
    assert_eq!(report["clean"], true);
    assert_eq!(report["volumes"], 1);
    let nothing = place.acre().args(["audit", "--data", "nothing"]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(3));
    assert_eq!(place.start(&mut place.serve()).stop(), Some(0));
}

/// Writes 4 KiB to a volume over NBD, durably, and leaves.
fn write_block(socket: &Path, volume: &str) {
    let mut host = UnixStream::connect(socket).unwrap();
    host.read_exact(&mut [0; 18]).unwrap();
    let length = (volume.len() as u32).to_be_bytes();
    // Flags (fixed newstyle, no zeroes), then EXPORT_NAME; the answer is a size and flags.
    let choice = [&3_u32.to_be_bytes()[..], b"IHAVEOPT", &1_u32.to_be_bytes(), &length, volume.as_bytes()].concat();
    host.write_all(&choice).unwrap();
    host.read_exact(&mut [0; 10]).unwrap();
    let request = |flags: u16, kind: u16, length: u32| {
        let head = [0x2560_9513_u32.to_be_bytes(), ((u32::from(flags) << 16) | u32::from(kind)).to_be_bytes()].concat();
        [&head[..], &[7; 8], &0_u64.to_be_bytes(), &length.to_be_bytes()].concat()
    };
    host.write_all(&[request(1, 1, 4096), vec![0x5a; 4096]].concat()).unwrap();
    let mut reply = [0; 16];
    host.read_exact(&mut reply).unwrap();
    assert_eq!(reply[4..8], [0; 4], "the write succeeds");
    host.write_all(&request(0, 2, 0)).unwrap();
}

#[test]
fn a_volume_that_holds_data_is_deleted_by_force_alone() {
    let place = Place::new();
    let server = place.start(&mut place.serve());
    place.run("volume create empty 1G");
    place.run("volume delete empty");
    write_block(&place.path("nbd.sock"), "demo");
    let output = place.acre().args(["volume", "delete", "demo"]).output().unwrap();
    assert_eq!(output.status.code(), Some(9), "{}", complaint(&output));
    assert!(
        complaint(&output).contains("holds 64 KiB") && complaint(&output).contains("--force"),
        "{}",
        complaint(&output)
    );
    assert_eq!(place.run("volume map demo")["mapped_regions"], 1);
    place.run("volume delete demo --force");
    assert_eq!(place.run("volume list").as_array().map(Vec::len), Some(0));
    assert_eq!(place.run("audit")["clean"], true);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_listener_off_loopback_without_tls_is_refused_unless_told_in_so_many_words() {
    let place = Place::new();
    let output = place.serve().args(["--nbd", "0.0.0.0:0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(complaint(&output).contains("--allow-plaintext-off-loopback"), "{}", complaint(&output));
    let server = place.start(place.serve().args(["--nbd", "0.0.0.0:0", "--allow-plaintext-off-loopback"]));
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_service_manager_is_told_and_its_environment_understood() {
    let place = Place::new();
    let manager = UnixDatagram::bind(place.path("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let server = place.start(place.serve().env("NOTIFY_SOCKET", place.path("notify")));
    let heard = || {
        let mut bytes = [0; 64];
        let length = manager.recv(&mut bytes).expect("a word in time");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    assert_eq!(heard(), "READY=1");
    assert_eq!(server.stop(), Some(0));
    assert_eq!(heard(), "STOPPING=1");
}

#[test]
fn on_standard_input_and_output_one_client_is_served_and_then_it_leaves() {
    let place = Place::new();
    let mut command = place.acre();
    command.args(["serve", "--stdio", "--threads", "1", "--disk", "disk:1G", "--log", "warn"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A client that wants no zeroes and says ABORT: flags, magic, option 2, no data.
    let abort = [&3_u32.to_be_bytes()[..], b"IHAVEOPT", &2_u32.to_be_bytes(), &0_u32.to_be_bytes()].concat();
    child.stdin.as_mut().unwrap().write_all(&abort).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", complaint(&output));
    assert!(output.stdout.starts_with(b"NBDMAGICIHAVEOPT"), "nothing but NBD may be on standard output");
    assert_eq!(complaint(&output), "");
}

#[test]
fn a_host_that_is_connected_does_not_keep_it_from_leaving() {
    let place = Place::new();
    let server = place.start(place.serve().args(["--nbd", "127.0.0.1:0"]));
    let status = place.run("status");
    let listeners = status["listeners"].as_array().unwrap();
    let tcp =
        listeners.iter().filter_map(|listener| listener["address"].as_str()).find(|address| address.contains("127"));
    let _host = TcpStream::connect(tcp.unwrap()).unwrap();
    assert_eq!(server.stop(), Some(0));
}
