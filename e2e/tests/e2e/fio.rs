//! fio with verification: random I/O of every size, checked by its own checksums, over its NBD engine.

use anyhow::{Context, Result, ensure};
use e2e::tool::{have, run};
use serde_json::Value;

use crate::serve;

/// Runs one fio job against a volume and checks that it verified something and found nothing wrong.
pub(crate) fn fio(uri: &str, arguments: &[&str]) -> Result<()> {
    let target = format!("--uri={uri}");
    let mut all = vec![
        "--name=job",
        "--ioengine=nbd",
        &target,
        "--thread",
        "--output-format=json",
        "--verify_fatal=1",
        "--verify_state_save=0",
    ];
    all.extend(arguments);
    let output = run("fio", &all)?;
    let json = output.find('{').map(|begin| &output[begin..]).context("fio printed no JSON")?;
    let report: Value = serde_json::from_str(json)?;
    for job in report["jobs"].as_array().context("no jobs in fio's report")? {
        ensure!(job["error"] == 0, "fio found an error: {job:#}");
        ensure!(job["read"]["total_ios"].as_u64().unwrap_or(0) > 0, "fio verified nothing");
    }
    Ok(())
}

/// A1, A2, A6: first writes and rewrites of random sizes from one sector on, verified.
#[test]
fn fio_verifies_random_sizes_from_one_sector() -> Result<()> {
    if !have(&["fio"]) {
        return Ok(());
    }
    let server = serve("1G", "sizes", "8G")?;
    fio(
        &server.uri("sizes"),
        &[
            "--rw=randwrite",
            "--bsrange=512-128k",
            "--blockalign=512",
            "--size=64M",
            "--io_size=128M",
            "--iodepth=16",
            "--verify=crc32c",
            "--verify_backlog=512",
            "--randseed=1",
            "--fsync=64",
        ],
    )
}

#[test]
fn fio_verifies_four_jobs_beside_each_other() -> Result<()> {
    if !have(&["fio"]) {
        return Ok(());
    }
    let server = serve("1G", "jobs", "1T")?;
    fio(
        &server.uri("jobs"),
        &[
            "--rw=randwrite",
            "--bs=4k",
            "--size=16M",
            "--offset_increment=16M",
            "--numjobs=4",
            "--group_reporting",
            "--iodepth=32",
            "--verify=sha256",
            "--do_verify=1",
            "--randseed=2",
        ],
    )
}

#[test]
fn fio_verifies_a_sequential_stream_and_its_rewrite() -> Result<()> {
    if !have(&["fio"]) {
        return Ok(());
    }
    let server = serve("1G", "stream", "1G")?;
    fio(
        &server.uri("stream"),
        &["--rw=write", "--bs=256k", "--size=192M", "--iodepth=8", "--loops=2", "--verify=xxhash", "--do_verify=1"],
    )
}

/// Each block is trimmed, then written: what is read back is what came last.
#[test]
fn fio_verifies_blocks_that_are_trimmed_before_they_are_written() -> Result<()> {
    if !have(&["fio"]) {
        return Ok(());
    }
    let server = serve("1G", "trimmed", "1G")?;
    let uri = server.uri("trimmed");
    fio(&uri, &["--rw=write", "--bs=64k", "--size=32M", "--verify=crc32c", "--do_verify=1"])?;
    fio(&uri, &["--rw=trimwrite", "--bs=20k", "--size=32M", "--iodepth=1", "--verify=crc32c", "--do_verify=1"])
}
