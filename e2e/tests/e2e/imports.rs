//! Images into volumes by `acre import`, compared with what qemu-img and nbdcopy make of the same.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::random::Random;
use e2e::server::{Options, Server};
use e2e::tool::{eventually, have, run};
use e2e::{KIB, MIB};

use crate::{noise, standin};

/// A sparse image: data of odd sizes here and there, holes between; gives how much was written.
fn image(path: &Path, size: u64, seed: u64) -> Result<u64> {
    let file = File::create(path)?;
    file.set_len(size)?;
    let (mut random, mut written) = (Random::new(seed), 0);
    for _ in 0..24 {
        let length = random.between(1, 512) * 512;
        let offset = random.below((size - length) / 512) * 512;
        file.write_all_at(&noise(random.bits(), length as usize), offset)?;
        written += length;
    }
    Ok(written)
}

/// The volume holds what the raw image holds.
fn compare(server: &Server, volume: &str, raw: &str) -> Result<()> {
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &server.uri(volume), raw]).map(drop)
}

#[test]
fn a_raw_image_comes_in_and_its_holes_take_no_space() -> Result<()> {
    if standin() || !have(&["qemu-img"]) {
        return Ok(());
    }
    let server = Server::start(Options::disk("1G"))?;
    let raw = server.folder().join("in.img").display().to_string();
    let written = image(raw.as_ref(), 256 * MIB, 1)?;
    let report = server.acre(&["import", &raw, "copy", "--region-size", "16k"])?;
    ensure!(report["size_bytes"] == 256 * MIB, "{report}");
    compare(&server, "copy", &raw)?;
    let shown = server.acre(&["volume", "show", "copy"])?;
    ensure!(shown["region_bytes"] == 16 * KIB, "{shown}");
    let used = shown["used_bytes"].as_u64().unwrap_or(0);
    ensure!(used > 0 && used <= written + 24 * 2 * 16 * KIB, "{used} bytes are used for {written} bytes of data");
    server.acre_refused(&["import", &raw, "copy"])?;
    server.audit()
}

#[test]
fn qcow2_images_of_every_kind_come_in_as_qemu_img_reads_them() -> Result<()> {
    if standin() || !have(&["qemu-img", "qemu-io"]) {
        return Ok(());
    }
    let server = Server::start(Options::disk("2G"))?;
    let path = |name: &str| server.folder().join(name).display().to_string();
    let raw = path("in.img");
    image(raw.as_ref(), 64 * MIB + 512, 2)?;
    let kinds: &[(&str, &[&str])] = &[
        ("v3", &["-o", "compat=1.1"]),
        ("v2", &["-o", "compat=0.10"]),
        ("small", &["-o", "cluster_size=512"]),
        ("large", &["-o", "cluster_size=2M"]),
        ("subclusters", &["-o", "extended_l2=on,cluster_size=128k"]),
        ("packed", &["-c"]),
        ("packed-small", &["-c", "-o", "cluster_size=4k"]),
        ("preallocated", &["-o", "preallocation=metadata"]),
    ];
    for (kind, options) in kinds {
        let qcow2 = path(&format!("{kind}.qcow2"));
        let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2"];
        arguments.extend(*options);
        arguments.extend([raw.as_str(), qcow2.as_str()]);
        run("qemu-img", &arguments)?;
        if !kind.starts_with("packed") {
            // Clusters, and parts of them, that are written again, zeroed and discarded.
            let io = ["write -z 1M 192k", "write -P 7 1100k 4k", "discard 3M 1M", "write -P 9 3200k 700"];
            for command in io {
                run("qemu-io", &["-f", "qcow2", "-c", command, &qcow2])?;
            }
        }
        server.acre(&["import", &qcow2, kind])?;
        run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &server.uri(kind), &qcow2])?;
    }
    server.audit()
}

#[test]
fn qcow2_images_that_are_not_read_are_refused_by_name() -> Result<()> {
    if standin() || !have(&["qemu-img"]) {
        return Ok(());
    }
    let server = Server::start(Options::disk("1G"))?;
    let path = |name: &str| server.folder().join(name).display().to_string();
    let raw = path("in.img");
    image(raw.as_ref(), 8 * MIB, 3)?;
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &raw, "-F", "raw", &path("backed.qcow2")])?;
    run("qemu-img", &["convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", &raw, &path("zstd.qcow2")])?;
    run("qemu-img", &["convert", "-O", "vmdk", &raw, &path("disk.vmdk")])?;
    for (file, word) in [("backed.qcow2", "on top of another image"), ("zstd.qcow2", "zstd"), ("disk.vmdk", "VMDK")] {
        let said = server.acre_refused(&["import", &path(file), "copy"])?;
        ensure!(said.contains(word) && said.contains("qemu-img convert"), "{file}: {said}");
    }
    server.acre_refused(&["volume", "show", "copy"])?;
    Ok(())
}

#[test]
fn exports_of_other_servers_come_in() -> Result<()> {
    if standin() || !have(&["qemu-img", "nbdkit"]) {
        return Ok(());
    }
    let mut server = Server::start(Options::disk("1G"))?;
    let raw = server.folder().join("in.img").display().to_string();
    image(raw.as_ref(), 64 * MIB, 4)?;
    let socket = server.folder().join("kit.sock");
    let mut kit = Command::new("nbdkit").args(["-f", "-U"]).arg(&socket).args(["file", &raw]).spawn()?;
    let came_in = eventually("nbdkit listens", Duration::from_secs(10), || Ok(socket.exists())).and_then(|()| {
        server.acre(&["import", &format!("nbd+unix:///?socket={}", socket.display()), "copy"])?;
        compare(&server, "copy", &raw)
    });
    kit.kill()?;
    kit.wait()?;
    came_in?;
    // And one of our own.
    server.create_volume("empty", "64M", &[])?;
    server.acre(&["import", &server.uri("copy"), "again"])?;
    compare(&server, "again", &raw)?;
    server.audit()
}

#[test]
fn an_import_that_was_killed_is_gone_on_with() -> Result<()> {
    if standin() || !have(&["qemu-img"]) {
        return Ok(());
    }
    let server = Server::start(Options::disk("2G"))?;
    let raw = server.folder().join("in.img");
    std::fs::write(&raw, noise(5, 256 << 20))?;
    let raw = raw.display().to_string();
    let mut child = server.acre_command().args(["import", &raw, "copy"]).spawn()?;
    eventually("the import has begun", Duration::from_secs(20), || {
        Ok(server.acre_raw(&["volume", "show", "copy.importing"])?.status.success())
    })?;
    child.kill()?;
    child.wait()?;
    let said = server.acre_refused(&["import", &raw, "copy"])?;
    ensure!(said.contains("--resume"), "{said}");
    server.acre(&["import", &raw, "copy", "--resume"])?;
    compare(&server, "copy", &raw)?;
    server.acre_refused(&["volume", "show", "copy.importing"])?;
    server.audit()
}
