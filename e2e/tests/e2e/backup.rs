//! Snapshots out of one volume and into another by `acre export` and `acre import`, whole and step by step.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use e2e::random::Random;
use e2e::server::{Options, Server};
use e2e::tool::{eventually, have, run};
use e2e::{KIB, MIB};

use crate::{noise, standin};

const SIZE: u64 = 64 * MIB;

/// Writes, zeroes and trims a few pieces of a volume, and flushes.
fn scribble(server: &Server, volume: &str, random: &mut Random, size: u64) -> Result<()> {
    let mut session = server.session(volume)?;
    for _ in 0..random.between(4, 24) {
        let length = random.between(1, 128) * 512;
        let offset = random.below((size - length) / 512) * 512;
        let error = match random.below(4) {
            0 => session.trim(offset, length)?,
            1 => session.zero(offset, length, 0)?,
            _ => session.write(offset, &noise(random.bits(), length as usize), 0)?,
        };
        ensure!(error == 0, "error {error} at byte {offset}");
    }
    ensure!(session.flush()? == 0, "a flush failed");
    session.leave()
}

/// Two exports hold the same bytes.
fn compare(server: &Server, left: &str, right: &str) -> Result<()> {
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &server.uri(left), &server.uri(right)]).map(drop)
}

fn start() -> Result<Server> {
    let mut server = Server::start(Options::disk("4G"))?;
    server.create_volume("db", "64M", &[])?;
    Ok(server)
}

#[test]
fn twenty_incremental_streams_keep_a_copy_equal() -> Result<()> {
    if standin() || !have(&["qemu-img"]) {
        return Ok(());
    }
    let server = start()?;
    let mut random = Random::new(20);
    let path = |name: &str| server.folder().join(name).display().to_string();
    scribble(&server, "db", &mut random, SIZE)?;
    server.acre(&["snapshot", "create", "db@0"])?;
    server.acre(&["export", "db@0", &path("0")])?;
    server.acre(&["import", &path("0"), "copy"])?;
    compare(&server, "db@0", "copy@0")?;
    let mut size = SIZE;
    for step in 1..=20 {
        if step % 7 == 0 {
            size += MIB + 512;
            server.acre(&["volume", "resize", "db", &size.to_string()])?;
        }
        scribble(&server, "db", &mut random, size)?;
        let (old, new) = (format!("db@{}", step - 1), format!("db@{step}"));
        server.acre(&["snapshot", "create", &new])?;
        // A host that goes on writing is in no snapshot.
        scribble(&server, "db", &mut random, size)?;
        server.acre(&["export", &new, &path(&step.to_string()), "--since", &old])?;
        server.acre(&["import", &path(&step.to_string()), "copy"])?;
        compare(&server, &new, &format!("copy@{step}")).with_context(|| format!("step {step}"))?;
        compare(&server, &new, "copy").with_context(|| format!("step {step}"))?;
    }
    let again = server.acre(&["import", &path("20"), "copy"])?;
    ensure!(again["was_there"] == true, "{again}");
    server.audit()
}

#[test]
fn a_stream_goes_through_a_pipe() -> Result<()> {
    if standin() || !have(&["qemu-img"]) {
        return Ok(());
    }
    let server = start()?;
    scribble(&server, "db", &mut Random::new(3), SIZE)?;
    server.acre(&["snapshot", "create", "db@now"])?;
    let mut out = server.acre_command().args(["export", "db@now", "-"]).stdout(Stdio::piped()).spawn()?;
    let stream = out.stdout.take().context("a pipe")?;
    let status = server.acre_command().args(["import", "-", "copy"]).stdin(stream).stdout(Stdio::null()).status()?;
    ensure!(status.success() && out.wait()?.success(), "the pipe broke");
    compare(&server, "db@now", "copy@now")
}

#[test]
fn a_stream_that_was_damaged_is_refused_and_makes_no_volume() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let server = start()?;
    scribble(&server, "db", &mut Random::new(4), SIZE)?;
    server.acre(&["snapshot", "create", "db@now"])?;
    let path = server.folder().join("stream").display().to_string();
    server.acre(&["export", "db@now", &path])?;
    let whole = std::fs::read(&path)?;
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    for (bytes, word) in [(&damaged[..], "damaged"), (&whole[..whole.len() - 1], "cut off")] {
        std::fs::write(&path, bytes)?;
        let said = server.acre_refused(&["import", &path, "copy"])?;
        ensure!(said.contains(word), "refused without {word:?}: {said}");
        server.acre_refused(&["volume", "show", "copy"])?;
        server.acre(&["volume", "delete", "copy.importing", "--force"])?;
    }
    server.audit()
}

/// Starts `acre` with these arguments and kills it once `begun` holds.
fn kill_once(server: &Server, arguments: &[&str], begun: impl Fn() -> Result<bool>) -> Result<()> {
    let mut child = server.acre_command().args(arguments).stdout(Stdio::null()).spawn()?;
    eventually("it has begun", std::time::Duration::from_secs(20), || Ok(child.try_wait()?.is_some() || begun()?))?;
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn fill(server: &Server, seed: u64) -> Result<()> {
    let mut session = server.session("db")?;
    for index in 0..SIZE / MIB {
        let error = session.write(index * MIB, &noise(seed + index, MIB as usize), 0)?;
        ensure!(error == 0, "error {error} in MiB {index}");
    }
    ensure!(session.flush()? == 0, "a flush failed");
    session.leave()
}

#[test]
fn exports_and_imports_that_were_killed_are_gone_on_with() -> Result<()> {
    if standin() || !have(&["qemu-img"]) {
        return Ok(());
    }
    let server = start()?;
    let path = |name: &str| server.folder().join(name).display().to_string();
    let has_begun = |file: &str| {
        let length = std::fs::metadata(Path::new(file)).map_or(0, |about| about.len());
        Ok(length > 64 * KIB)
    };
    fill(&server, 100)?;
    server.acre(&["snapshot", "create", "db@a"])?;
    fill(&server, 9000)?;
    server.acre(&["snapshot", "create", "db@b"])?;
    let (full, step) = (path("full"), path("step"));
    kill_once(&server, &["export", "db@a", &full], || has_begun(&format!("{full}.partial")))?;
    if !Path::new(&full).exists() {
        server.acre(&["export", "db@a", &full])?;
    }
    kill_once(&server, &["export", "db@b", &step, "--since", "a"], || has_begun(&format!("{step}.partial")))?;
    if !Path::new(&step).exists() {
        server.acre(&["export", "db@b", &step, "--since", "a"])?;
    }
    kill_once(&server, &["import", &full, "copy"], || {
        Ok(server.acre_raw(&["volume", "show", "copy.importing"])?.status.success())
    })?;
    server.acre(&["import", &full, "copy", "--resume"])?;
    compare(&server, "db@a", "copy@a")?;
    kill_once(&server, &["import", &step, "copy"], || Ok(true))?;
    server.acre(&["import", &step, "copy", "--resume"])?;
    compare(&server, "db@b", "copy@b")?;
    server.audit()
}

#[test]
fn a_copy_that_was_written_to_is_rolled_back_first() -> Result<()> {
    if standin() || !have(&["qemu-img"]) {
        return Ok(());
    }
    let server = start()?;
    let path = |name: &str| server.folder().join(name).display().to_string();
    let mut random = Random::new(8);
    scribble(&server, "db", &mut random, SIZE)?;
    server.acre(&["snapshot", "create", "db@a"])?;
    scribble(&server, "db", &mut random, SIZE)?;
    server.acre(&["snapshot", "create", "db@b"])?;
    server.acre(&["export", "db@a", &path("full")])?;
    server.acre(&["export", "db@b", &path("step"), "--since", "db@a"])?;
    server.acre(&["import", &path("full"), "copy"])?;
    scribble(&server, "copy", &mut random, SIZE)?;
    // With --resume too, which takes what the stream itself has written for its own, and no more.
    for more in [&[][..], &["--resume"]] {
        let said = server.acre_refused(&[&["import", &path("step"), "copy"], more].concat())?;
        ensure!(said.contains("acre volume rollback copy@a"), "{said}");
    }
    server.acre(&["volume", "rollback", "copy@a", "--force"])?;
    server.acre(&["import", &path("step"), "copy"])?;
    compare(&server, "db@b", "copy@b")?;
    server.audit()
}

#[test]
fn a_step_is_refused_by_a_volume_that_is_no_copy_of_its_base() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = start()?;
    let step = server.folder().join("step").display().to_string();
    server.acre(&["snapshot", "create", "db@a"])?;
    scribble(&server, "db", &mut Random::new(9), SIZE)?;
    server.acre(&["snapshot", "create", "db@b"])?;
    server.acre(&["export", "db@b", &step, "--since", "a"])?;
    // Its size is right and its snapshot's name is too.
    server.create_volume("other", "64M", &[])?;
    server.acre(&["snapshot", "create", "other@a"])?;
    let said = server.acre_refused(&["import", &step, "other"])?;
    ensure!(said.contains("none of other's snapshots") && said.contains("db@a"), "{said}");
    let said = server.acre_refused(&["import", &step, "nobody"])?;
    ensure!(said.contains("there is no volume") && said.contains("full stream"), "{said}");
    server.audit()
}
