//! TLS: sessions, certificates that open volumes, and attempts to slip past it. Fault 49.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use e2e::MIB;
use e2e::certificates::Authority;
use e2e::client::{Endpoint, Handshake, Stream, answer, option, option_bytes};
use e2e::server::{Options, Server};
use e2e::tool::{Finished, finish_within, free_port, have, run, run_refused};

use crate::standin;

/// A server that requires TLS on a port, with a client `alice` who may open `diary` and one `bob` who may open all.
struct Guarded {
    server: Server,
    authority: Authority,
    port: u16,
}

impl Guarded {
    fn start(policy: &str) -> Result<Guarded> {
        let port = free_port()?;
        // The folder comes first, because the server's arguments name files in it.
        let certificates = tempfile::tempdir()?.keep();
        let authority = Authority::new(&certificates)?;
        let clients = certificates.join("clients.toml");
        std::fs::write(&clients, "[clients]\nalice = [\"diary\"]\nbob = [\"*\"]\n")?;
        let mut options = Options::disk("1G");
        let clients = clients.display().to_string();
        for (name, value) in [
            ("--nbd", format!("127.0.0.1:{port}")),
            ("--tls", policy.to_owned()),
            ("--tls-cert", authority.path("server-cert.pem")),
            ("--tls-key", authority.path("server-key.pem")),
        ] {
            options = options.with(name).with(value);
        }
        if policy == "require" {
            // Rules for clients make sense only where nobody may leave TLS out.
            options = options.with("--tls-client-ca").with(authority.path("ca-cert.pem"));
            options = options.with("--tls-clients").with(clients);
        }
        let mut server = Server::start(options)?;
        server.create_volume("diary", "64M", &[])?;
        server.create_volume("ledger", "64M", &[])?;
        Ok(Guarded { server, authority, port })
    }

    fn uri(&self, volume: &str, certificates: &std::path::Path) -> String {
        format!("nbds://localhost:{}/{volume}?tls-certificates={}", self.port, certificates.display())
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::Tcp(format!("127.0.0.1:{}", self.port))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        std::fs::remove_dir_all(std::path::Path::new(&self.authority.path("x")).with_file_name("")).ok();
    }
}

#[test]
fn a_tls_session_carries_data_both_ways() -> Result<()> {
    if !have(&["nbdcopy", "nbdinfo", "openssl"]) || standin() {
        return Ok(());
    }
    let mut guarded = Guarded::start("require")?;
    let alice = guarded.authority.client("alice")?;
    let uri = guarded.uri("diary", &alice);
    run("nbdinfo", &["--is", "tls", &uri])?;
    let (source, target) = (guarded.server.folder().join("in.img"), guarded.server.folder().join("out.img"));
    std::fs::write(&source, crate::noise(1, 64 * MIB as usize))?;
    run("nbdcopy", &["--flush", &source.display().to_string(), &uri])?;
    run("nbdcopy", &[&uri, &target.display().to_string()])?;
    run("cmp", &[&source.display().to_string(), &target.display().to_string()])?;
    guarded.server.audit()?;
    guarded.server.stop()
}

#[test]
fn a_client_certificate_opens_its_volumes_and_no_others() -> Result<()> {
    if !have(&["nbdinfo", "openssl"]) || standin() {
        return Ok(());
    }
    let guarded = Guarded::start("require")?;
    let (alice, bob, mallory) =
        (guarded.authority.client("alice")?, guarded.authority.client("bob")?, guarded.authority.client("mallory")?);
    let nobody = guarded.authority.anonymous()?;
    run("nbdinfo", &["--size", &guarded.uri("diary", &alice)])?;
    run("nbdinfo", &["--size", &guarded.uri("diary", &bob)])?;
    run("nbdinfo", &["--size", &guarded.uri("ledger", &bob)])?;
    run_refused("nbdinfo", &["--size", &guarded.uri("ledger", &alice)])?;
    run_refused("nbdinfo", &["--size", &guarded.uri("diary", &mallory)])?;
    run_refused("nbdinfo", &["--size", &guarded.uri("diary", &nobody)])?;
    // A list tells a client nothing of what it may not open.
    let list = run("nbdinfo", &["--list", "--json", &guarded.uri("", &alice)])?;
    ensure!(list.contains("diary") && !list.contains("ledger"), "alice sees {list}");
    Ok(())
}

#[test]
fn nothing_but_starttls_is_answered_where_tls_is_required() -> Result<()> {
    if !have(&["nbdinfo", "openssl"]) || standin() {
        return Ok(());
    }
    let guarded = Guarded::start("require")?;
    run_refused("nbdinfo", &["--size", &format!("nbd://localhost:{}/diary", guarded.port)])?;
    let mut handshake = Handshake::open(&guarded.endpoint())?;
    for number in [option::LIST, option::INFO, option::GO, option::STRUCTURED_REPLY, option::SET_META_CONTEXT] {
        let outcome = handshake.outcome(number, &[0, 0, 0, 5, b'd', b'i', b'a', b'r', b'y', 0, 0])?;
        ensure!(outcome == answer::ERR_TLS_REQD, "option {number} was answered with {outcome:#x}");
    }
    ensure!(Handshake::open(&guarded.endpoint())?.export_name("diary").is_err(), "EXPORT_NAME slipped past TLS");
    Ok(())
}

#[test]
fn plaintext_behind_starttls_is_not_taken_for_what_comes_under_tls() -> Result<()> {
    if !have(&["nbdinfo", "openssl"]) || standin() {
        return Ok(());
    }
    let guarded = Guarded::start("allow")?;
    let mut handshake = Handshake::open(&guarded.endpoint())?;
    let mut bytes = option_bytes(option::STARTTLS, &[]);
    bytes.extend(option_bytes(option::LIST, &[]));
    handshake.stream().write_all(&bytes)?;
    let reply = handshake.reply(option::STARTTLS);
    // Refusing the whole thing is as right as agreeing and then hearing no TLS.
    if reply.is_ok_and(|reply| reply.kind == answer::ACK) {
        let mut rest = Vec::new();
        handshake.stream().read_to_end(&mut rest).ok();
        let magic = 0x0003_e889_0455_65a9_u64.to_be_bytes();
        ensure!(!rest.windows(8).any(|window| window == magic), "an injected option was answered: {rest:?}");
    }
    // Nor is it answered within the session, once that is up.
    let (injected, ended) = behind_somebody_in_the_middle(&guarded)?;
    ensure!(
        !injected || ended.status.success(),
        "an option injected behind STARTTLS was heard in the session: {}",
        ended.stderr
    );
    // Others come and go as before.
    let bob = guarded.authority.client("bob")?;
    run("nbdinfo", &["--size", &guarded.uri("ledger", &bob)]).map(drop)
}

/// A real client whose connection leads through somebody who puts an option of their own behind its STARTTLS. Tells
/// whether the server agreed to TLS all the same, and how the client fared.
fn behind_somebody_in_the_middle(guarded: &Guarded) -> Result<(bool, Finished)> {
    let middle = TcpListener::bind("127.0.0.1:0")?;
    let bob = guarded.authority.client("bob")?;
    let port = middle.local_addr()?.port();
    let uri = format!("nbds://localhost:{port}/ledger?tls-certificates={}", bob.display());
    let server = guarded.endpoint().connect()?;
    let injecting = std::thread::spawn(move || inject(&middle, server));
    let ended = finish_within(Command::new("nbdinfo").args(["--size", &uri]), Duration::from_secs(20))?;
    // Should the client never have come, nobody is to wait for it.
    TcpStream::connect(("127.0.0.1", port)).ok();
    let injected = injecting.join().map_err(|_| anyhow!("the thread in the middle panicked"))??;
    Ok((injected, ended))
}

/// Passes a handshake on up to STARTTLS, adds LIST, and passes on everything after; whether STARTTLS was acknowledged.
fn inject(middle: &TcpListener, mut server: Stream) -> Result<bool> {
    let (mut client, _) = middle.accept()?;
    let mut greeting = [0; 18];
    server.read_exact(&mut greeting)?;
    client.write_all(&greeting)?;
    let mut flags_and_option = [0; 20];
    client.read_exact(&mut flags_and_option)?;
    let mut bytes = flags_and_option.to_vec();
    bytes.extend(option_bytes(option::LIST, &[]));
    server.write_all(&bytes)?;
    let mut reply = [0; 20];
    if server.read_exact(&mut reply).is_err() || reply[12..16] != answer::ACK.to_be_bytes() {
        return Ok(false);
    }
    client.write_all(&reply)?;
    let (mut upstream, mut sender) = (server.duplicate()?, client.try_clone()?);
    let up = std::thread::spawn(move || std::io::copy(&mut sender, &mut upstream));
    std::io::copy(&mut server, &mut client).ok();
    client.shutdown(Shutdown::Both).ok();
    // How the passing on ended says nothing: both ends are gone.
    up.join().ok();
    Ok(true)
}
