//! Whole images in and out: nbdcopy and qemu-img, both ways, compared.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, ensure};
use e2e::random::Random;
use e2e::tool::{have, run};
use e2e::{KIB, MIB};
use serde_json::Value;

use crate::{noise, serve, standin};

/// A sparse image: data of odd sizes here and there, holes between.
fn image(path: &Path, size: u64, seed: u64) -> Result<u64> {
    let file = File::create(path)?;
    file.set_len(size)?;
    let mut random = Random::new(seed);
    let mut written = 0;
    for _ in 0..24 {
        let length = random.between(1, 512) * 512;
        let offset = random.below((size - length) / 512) * 512;
        file.write_all_at(&noise(random.bits(), length as usize), offset)?;
        written += length;
    }
    Ok(written)
}

/// A5, A6: in by one client, out by the same, compared; the pool holds the data and not the holes.
#[test]
fn nbdcopy_brings_an_image_in_and_out_unchanged() -> Result<()> {
    if !have(&["nbdcopy"]) {
        return Ok(());
    }
    let server = serve("1G", "copied", "256M")?;
    let (source, target) = (server.folder().join("in.img"), server.folder().join("out.img"));
    let written = image(&source, 256 * MIB, 1)?;
    let uri = server.uri("copied");
    run("nbdcopy", &["--flush", "--requests=64", &source.display().to_string(), &uri])?;
    run("nbdcopy", &[&uri, &target.display().to_string()])?;
    run("cmp", &[&source.display().to_string(), &target.display().to_string()])?;
    if !standin() {
        let used = server.pool("used_bytes")?;
        let most = written + 24 * 2 * 64 * KIB;
        ensure!(used > 0 && used <= most, "{used} bytes are used for {written} bytes of data");
    }
    Ok(())
}

#[test]
fn nbdcopy_over_many_connections_agrees_with_one() -> Result<()> {
    if !have(&["nbdcopy", "nbdkit"]) {
        return Ok(());
    }
    let mut server = serve("1G", "left", "128M")?;
    server.create_volume("right", "128M", &[])?;
    let source = server.folder().join("in.img");
    image(&source, 128 * MIB, 2)?;
    let (left, right) = (server.uri("left"), server.uri("right"));
    run("nbdcopy", &["--flush", "--connections=1", &source.display().to_string(), &left])?;
    run("nbdcopy", &["--flush", "--connections=4", "--requests=16", &left, &right])?;
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &left, &right])?;
    // From another server's export, with its own idea of holes.
    let copy = format!("nbdcopy --flush \"$uri\" \"{right}\" && nbdcopy \"{right}\" \"$uri\"");
    run("nbdkit", &["--exit-with-parent", "-U", "-", "memory", "128M", "--run", &copy])?;
    Ok(())
}

#[test]
fn qemu_img_converts_in_and_out_and_compares() -> Result<()> {
    if !have(&["qemu-img"]) {
        return Ok(());
    }
    let server = serve("1G", "converted", "256M")?;
    let path = |name: &str| server.folder().join(name).display().to_string();
    let (raw, qcow2, back) = (path("in.img"), path("in.qcow2"), path("back.qcow2"));
    image(raw.as_ref(), 256 * MIB, 3)?;
    let uri = server.uri("converted");
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &raw, &qcow2])?;
    run("qemu-img", &["convert", "-n", "-W", "-f", "qcow2", "-O", "raw", &qcow2, &uri])?;
    run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &uri, &qcow2])?;
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, &back])?;
    run("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", &back, &raw])?;
    let info: Value = serde_json::from_str(&run("qemu-img", &["info", "--output=json", &uri])?)?;
    ensure!(info["virtual-size"] == 256 * MIB, "{info:#}");
    Ok(())
}

#[test]
fn qemu_img_map_tells_data_from_zeroes() -> Result<()> {
    if !have(&["qemu-img", "qemu-io"]) {
        return Ok(());
    }
    let server = serve("1G", "drawn", "64M")?;
    let uri = server.uri("drawn");
    crate::clients::qemu_io(&uri, &["write -P 1 1M 1M", "write -P 1 9M 128k", "flush"])?;
    let map: Value = serde_json::from_str(&run("qemu-img", &["map", "-f", "raw", "--output=json", &uri])?)?;
    let mut data = 0;
    for extent in map.as_array().cloned().unwrap_or_default() {
        let (start, length) = (extent["start"].as_u64().unwrap_or(0), extent["length"].as_u64().unwrap_or(0));
        if extent["data"] == Value::Bool(true) {
            ensure!(
                (MIB..2 * MIB).contains(&start) || (9 * MIB..10 * MIB).contains(&start),
                "data at {start}: {map:#}"
            );
            data += length;
        }
    }
    ensure!((MIB + 128 * KIB..=MIB + 256 * KIB).contains(&data), "{data} bytes of data: {map:#}");
    Ok(())
}
