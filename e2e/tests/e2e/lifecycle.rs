//! Starting, stopping, starting again; supervisors; disks that are not ours; what is safe by default.

use std::fs::File;
use std::io::Read;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::client::{Command, Endpoint, Handshake, Stream, command};
use e2e::server::{Options, Server, acre_path};
use e2e::tool::{eventually, finish, free_port, have, run, signal, wait};
use e2e::{KIB, MIB, TIB, http};

use crate::{noise, serve, standin};

/// A6, D6: data, volumes and settings are there again after an orderly stop and after a kill.
#[test]
fn everything_is_there_after_a_restart() -> Result<()> {
    let mut server = serve("1G", "kept", "1G")?;
    let mut session = server.session("kept")?;
    for index in 0..64 {
        ensure!(session.write(index * 5 * MIB, &noise(index, 48 << 10), 0)? == 0);
    }
    ensure!(session.flush()? == 0);
    for round in 0..3 {
        if round == 1 {
            server.kill()?
        } else {
            server.stop()?
        }
        server.resume()?;
        let mut session = server.session("kept")?;
        for index in 0..64 {
            ensure!(session.read(index * 5 * MIB, 48 * KIB)? == noise(index, 48 << 10), "lost: {index}, round {round}");
        }
        server.audit()?;
    }
    server.stop()
}

/// SIGTERM is an orderly leave: what was acknowledged is there afterwards, flushed or not.
#[test]
fn sigterm_keeps_what_was_acknowledged_without_a_flush() -> Result<()> {
    let mut server = serve("1G", "drained", "1G")?;
    let mut session = server.session("drained")?;
    for index in 0..200 {
        ensure!(session.write(index * MIB, &noise(index, 4096), 0)? == 0);
    }
    for index in 200..232 {
        let payload = noise(index, 4096);
        let request =
            Command { kind: command::WRITE, offset: index * MIB, length: 4096, payload, ..Command::default() };
        session.submit(&request)?;
    }
    let began = Instant::now();
    server.stop()?;
    ensure!(began.elapsed() < Duration::from_secs(10), "leaving took {:?}", began.elapsed());
    server.resume()?;
    let mut session = server.session("drained")?;
    for index in 0..200 {
        ensure!(session.read(index * MIB, 4096)? == noise(index, 4096), "the write at {index} MiB is lost");
    }
    server.audit()?;
    server.stop()
}

#[test]
fn a_second_start_on_the_same_folder_is_refused_and_harms_nothing() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = serve("1G", "only", "64M")?;
    let mut session = server.session("only")?;
    let said = server.start_refused()?;
    ensure!(said.contains("data"), "the refusal does not name the folder: {said}");
    ensure!(!said.contains("panicked"), "{said}");
    ensure!(session.write(0, &noise(1, 4096), 0)? == 0 && session.read(0, 4096)? == noise(1, 4096));
    ensure!(server.session("only")?.size_bytes() == 64 * MIB, "the first server's sockets are gone");
    server.stop()
}

/// Somebody else's data on a disk is not overwritten.
#[test]
fn a_disk_with_somebody_elses_data_is_refused_and_left_alone() -> Result<()> {
    if !have(&["mkfs.ext4"]) || standin() {
        return Ok(());
    }
    let server = Server::prepare(Options::disk("512M"))?;
    let disk = server.folder().join("disk-0");
    File::create(&disk)?.set_len(512 * MIB)?;
    run("mkfs.ext4", &["-q", "-F", &disk.display().to_string()])?;
    let before = run("md5sum", &[&disk.display().to_string()])?;
    let said = server.start_refused()?;
    ensure!(said.contains("disk-0") && said.to_lowercase().contains("force"), "no way out is named: {said}");
    ensure!(run("md5sum", &[&disk.display().to_string()])? == before, "the disk was changed");
    Ok(())
}

/// Fault 50, in small: a disk of another cluster is not ours.
#[test]
fn a_disk_of_another_cluster_is_refused() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut first = serve("512M", "theirs", "1G")?;
    ensure!(first.session("theirs")?.write(0, &noise(1, 1 << 20), 1)? == 0);
    first.stop()?;
    let disk = first.folder().join("disk-0").display().to_string();
    let second = Server::prepare(Options { disks: vec![disk.clone()], ..Options::disk("1G") })?;
    let said = second.start_refused()?;
    ensure!(said.contains("disk-0") && !said.contains("panicked"), "{said}");
    first.resume()?;
    ensure!(first.session("theirs")?.read(0, MIB)? == noise(1, 1 << 20));
    first.stop()
}

/// A disk that is gone is missed, never replaced in silence by an empty one.
#[test]
fn a_missing_disk_is_never_replaced_by_an_empty_one() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = serve("512M", "missed", "1G")?;
    ensure!(server.session("missed")?.write(0, &noise(1, 1 << 20), 1)? == 0);
    server.stop()?;
    let (disk, aside) = (server.folder().join("disk-0"), server.folder().join("aside"));
    std::fs::rename(&disk, &aside)?;
    server.expect_log("disk");
    if server.resume().is_ok() {
        // Serving what is left is right as long as nothing false is read.
        let read = server.session("missed").and_then(|mut session| session.read(0, MIB));
        ensure!(read.is_err(), "a volume on a missing disk was read");
        server.kill()?;
    }
    std::fs::rename(&aside, &disk)?;
    server.resume()?;
    ensure!(server.session("missed")?.read(0, MIB)? == noise(1, 1 << 20));
    server.audit()?;
    server.stop()
}

#[test]
fn one_connection_is_served_on_standard_input_and_output() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let server = Server::prepare(Options::disk("512M"))?;
    let (ours, theirs) = UnixStream::pair()?;
    let mut serve = std::process::Command::new(acre_path());
    serve.current_dir(server.folder()).arg("serve").arg("--data").arg(server.data());
    serve.args(["--disk", "disk-0:512M", "--stdio"]);
    serve.stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs.try_clone()?)));
    serve.stdout(Stdio::from(std::os::fd::OwnedFd::from(theirs))).stderr(Stdio::piped());
    let mut child = serve.spawn()?;
    // The command holds their end of the pair until it is gone.
    drop(serve);
    ours.set_read_timeout(Some(Duration::from_secs(20)))?;
    let outcome = one_session(Stream::Unix(ours));
    let status = wait(&mut child, Duration::from_secs(20))?;
    if status.is_none() {
        child.kill()?;
        child.wait()?;
    }
    let mut said = String::new();
    child.stderr.take().context("no stderr")?.read_to_string(&mut said)?;
    outcome.with_context(|| said.clone())?;
    ensure!(status.is_some_and(|status| status.success()), "it ended with {status:?} after its client left: {said}");
    Ok(())
}

fn one_session(stream: Stream) -> Result<()> {
    let mut session = Handshake::over(stream)?.go("demo")?;
    ensure!(session.size_bytes() == TIB, "the volume demo has {} bytes", session.size_bytes());
    ensure!(session.write(GIB_HALF, &noise(1, 8192), 1)? == 0 && session.read(GIB_HALF, 8192)? == noise(1, 8192));
    session.leave()
}

const GIB_HALF: u64 = 512 * MIB;

/// libnbd starts the server the way systemd would: with a listening socket.
#[test]
fn a_socket_handed_over_by_a_supervisor_is_served() -> Result<()> {
    if !have(&["nbdcopy", "nbdinfo", "python3"]) || standin() {
        return Ok(());
    }
    let mut server = Server::prepare(Options::disk("512M"))?;
    let socket = server.folder().join("given.sock");
    // Only the handing over is Python: what a supervisor does before exec.
    let script = "import os,socket,sys\n\
        s=socket.socket(socket.AF_UNIX);s.bind(sys.argv[1]);s.listen(8)\n\
        os.dup2(s.fileno(),3);os.set_inheritable(3,True)\n\
        os.environ.update(LISTEN_FDS='1',LISTEN_PID=str(os.getpid()))\n\
        os.execv(sys.argv[2],sys.argv[2:])";
    let api = server.folder().join("api.sock");
    let log = File::create(server.folder().join("server.log"))?;
    let mut serve = std::process::Command::new("python3");
    serve.current_dir(server.folder()).args(["-c", script]).arg(&socket).arg(acre_path());
    serve.arg("serve").arg("--data").arg(server.data()).args(["--disk", "disk-0:512M", "--api"]);
    serve.arg(format!("unix:{}", api.display())).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = serve.spawn()?;
    let uri = format!("nbd+unix:///demo?socket={}", socket.display());
    let bound = eventually("the supervisor has its socket", Duration::from_secs(10), || {
        Ok(UnixStream::connect(&socket).is_ok())
    });
    let served = bound.and_then(|()| run("nbdinfo", &["--size", &uri]));
    signal(child.id(), "TERM")?;
    let status = wait(&mut child, Duration::from_secs(20))?;
    if status.is_none() {
        child.kill()?;
        child.wait()?;
    }
    ensure!(served?.trim().parse::<u64>()? == TIB);
    ensure!(status.is_some_and(|status| status.success()), "it ended with {status:?}");
    server.expect_log("never");
    server.judge_log()
}

#[test]
fn a_supervisor_is_told_when_it_is_ready_and_when_it_leaves() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut options = Options::disk("512M");
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("notify");
    let supervisor = UnixDatagram::bind(&path)?;
    supervisor.set_read_timeout(Some(Duration::from_secs(20)))?;
    options.environment.push(("NOTIFY_SOCKET".into(), path.display().to_string()));
    let mut server = Server::start(options)?;
    let mut heard = String::new();
    let mut hear = || -> Result<String> {
        let mut bytes = [0; 1000];
        let length = supervisor.recv(&mut bytes)?;
        heard.push_str(&String::from_utf8_lossy(&bytes[..length]));
        Ok(heard.clone())
    };
    ensure!(hear()?.contains("READY=1"));
    server.stop()?;
    ensure!(hear()?.contains("STOPPING=1"));
    Ok(())
}

/// The API over TCP wants the token; the Unix socket is guarded by its permissions.
#[test]
fn the_api_over_tcp_wants_the_token() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let port = free_port()?;
    let mut server = Server::start(Options::disk("512M").with("--api").with(format!("127.0.0.1:{port}")))?;
    let endpoint = Endpoint::Tcp(format!("127.0.0.1:{port}"));
    let address = format!("127.0.0.1:{port}");
    let mut command = std::process::Command::new(acre_path());
    command.args(["--api", &address, "volume", "list"]).env_remove("ACRE_API_TOKEN").current_dir("/");
    finish(&mut command)?.expect_failure()?;
    let token = std::fs::read_to_string(server.data().join("api-token"))?;
    let paths: Vec<String> = openapi_paths(&server)?;
    ensure!(paths.len() >= 5, "the API describes only {paths:?}");
    for path in paths.iter().map(|path| path.replace("{name}", "demo").replace("{id}", "1")) {
        let refused = http::get(&endpoint, &path, &[])?;
        ensure!(refused.status == 401 || refused.status == 405, "{path} without a token: {}", refused.status);
        let wrong = http::get(&endpoint, &path, &["Authorization: Bearer wrong"])?;
        ensure!(wrong.status == 401 || wrong.status == 405, "{path} with a wrong token: {}", wrong.status);
        let header = format!("Authorization: Bearer {}", token.trim());
        let allowed = http::get(&endpoint, &path, &[&header])?;
        ensure!(allowed.status != 401, "{path} with the token: {allowed:?}");
    }
    let mode = |path: &std::path::Path| -> Result<u32> {
        Ok(std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path)?.permissions()) & 0o777)
    };
    ensure!(mode(&server.data().join("api-token"))? & 0o077 == 0, "others may read the token");
    ensure!(mode(&server.data())? & 0o077 == 0, "others may enter the data directory");
    for socket in ["api.sock", "nbd.sock"] {
        ensure!(mode(&server.folder().join(socket))? & 0o007 == 0, "others may use {socket}");
    }
    server.stop()
}

/// The paths that the API's own description names.
fn openapi_paths(server: &Server) -> Result<Vec<String>> {
    for path in ["/openapi.json", "/v1/openapi.json", "/api/openapi.json"] {
        let answer = http::get(&server.api(), path, &[])?;
        if answer.status == 200 {
            let document: serde_json::Value = serde_json::from_str(&answer.body)?;
            let paths = document["paths"].as_object().context("no paths in the OpenAPI document")?;
            return Ok(paths.keys().filter(|path| !path.contains("openapi") && *path != "/healthz").cloned().collect());
        }
    }
    anyhow::bail!("no OpenAPI document is served")
}

#[test]
fn no_listener_leaves_loopback_without_tls_unless_told() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let port = free_port()?;
    // The first address is for documentation: on no machine anybody listens there, even were it not refused.
    let addresses = ["192.0.2.1", "0.0.0.0"];
    for (listener, address) in addresses.iter().flat_map(|address| [("--nbd", address), ("--api", address)]) {
        let options = Options::disk("512M").with(listener).with(format!("{address}:{port}"));
        let server = Server::prepare(options)?;
        let said = server.start_refused()?;
        ensure!(
            said.contains("--allow-plaintext-off-loopback"),
            "{listener} {address}: the way out is not named: {said}"
        );
    }
    let options = Options::disk("512M").with("--nbd").with(format!("0.0.0.0:{port}"));
    let mut server = Server::start(options.with("--allow-plaintext-off-loopback"))?;
    server.expect_log("plaintext");
    server.expect_log("loopback");
    server.stop()
}

/// What a new user types first: everything is there without a single option.
#[test]
fn the_first_start_makes_a_pool_a_disk_and_a_volume_and_says_what_to_type() -> Result<()> {
    let ports_are_free = || [10809, 7770].iter().all(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok());
    if standin() || (!ports_are_free() && !e2e::tool::skip("the default ports are in use")) {
        return Ok(());
    }
    let folder = tempfile::Builder::new().prefix("acre-").tempdir()?;
    let log = folder.path().join("said");
    let mut serve = std::process::Command::new(acre_path());
    let output = File::create(&log)?;
    serve.current_dir(folder.path()).arg("serve").stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut child = serve.spawn()?;
    // What to paste is said last, when everything is there.
    let told = || Ok(std::fs::read_to_string(&log)?.contains("nbdinfo"));
    let outcome =
        eventually("it says what to type", Duration::from_secs(20), told).and_then(|()| first_look(folder.path()));
    signal(child.id(), "TERM")?;
    let status = wait(&mut child, Duration::from_secs(20))?;
    if status.is_none() {
        child.kill()?;
        child.wait()?;
    }
    let said = std::fs::read_to_string(&log)?;
    outcome.with_context(|| said.clone())?;
    for word in ["nbdinfo", "qemu-img convert", "mount", "acre-data"] {
        ensure!(said.contains(word), "the first start does not tell about {word}:\n{said}");
    }
    ensure!(status.is_some_and(|status| status.success()), "it ended with {status:?}:\n{said}");
    Ok(())
}

fn first_look(folder: &std::path::Path) -> Result<()> {
    Endpoint::Unix(folder.join("acre-data/nbd.sock")).connect()?;
    let mut session = Handshake::open(&Endpoint::Tcp("127.0.0.1:10809".into()))?.go("demo")?;
    ensure!(session.size_bytes() == TIB);
    ensure!(session.write(0, &noise(1, 4096), 1)? == 0);
    let mut command = std::process::Command::new(acre_path());
    let output = finish(command.current_dir(folder).args(["volume", "list", "--output", "json"]))?.expect_success()?;
    ensure!(output.contains("demo"), "{output}");
    Ok(())
}
