//! Memory: the server's maps keep to their limit, whatever is written, and nobody can tell but by the time it takes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::server::{Options, Server};
use e2e::tool::have;

use crate::fio::fio;
use crate::standin;

/// What `--table-memory` says, and what of that the one data thread has on which the volume lives.
const LIMIT: f64 = 1_048_576.0;
const THREADS: f64 = 8.0;
/// What the guide says may come on top: the directory, and what the sixteen writes in flight make of their pages.
const BESIDE: f64 = 16.0 * 1024.0;

fn samples(server: &Server) -> Result<BTreeMap<String, f64>> {
    Ok(e2e::http::samples(&e2e::http::get(&server.api(), "/metrics", &[])?.body))
}

fn figure(server: &Server, name: &str) -> Result<f64> {
    samples(server)?.get(name).copied().with_context(|| format!("no {name}"))
}

/// 6,000 blocks at random in 4 GiB would take 210 KB and more of table; the thread has 128 KiB. fio verifies what it
/// wrote, and again after kill -9.
#[test]
fn a_map_keeps_to_its_limit_while_blocks_are_written_at_random() -> Result<()> {
    if standin() || !have(&["fio"]) {
        return Ok(());
    }
    let options = Options::disk("1G").with("--table-memory").with("1M").with("--threads").with("8");
    let mut server = Server::start(options)?;
    server.create_volume("scattered", "4G", &["--region-size", "16k"])?;
    let job = [
        "--rw=randwrite",
        "--bs=4k",
        "--size=4G",
        "--number_ios=6000",
        "--iodepth=16",
        "--verify=crc32c",
        "--do_verify=1",
        "--randseed=5",
        "--end_fsync=1",
    ];
    let ended = AtomicBool::new(false);
    let uri = server.uri("scattered");
    let most = std::thread::scope(|scope| -> Result<f64> {
        let watch = scope.spawn(|| -> Result<f64> {
            let mut most = 0_f64;
            while !ended.load(Ordering::Relaxed) {
                most = most.max(figure(&server, "acre_table_bytes")?);
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(most)
        });
        let outcome = fio(&uri, &job);
        ended.store(true, Ordering::Relaxed);
        let most = watch.join().expect("whoever watches does not panic");
        outcome.and(most)
    })?;
    let seen = samples(&server)?;
    ensure!(seen["acre_table_limit_bytes"] == LIMIT, "{seen:?}");
    ensure!(most > LIMIT / THREADS / 2.0, "what there is was not used: {most} bytes at most");
    ensure!(most <= LIMIT / THREADS + BESIDE, "the map took {most} bytes");
    for (name, least) in [
        ("acre_table_misses_total", 300.0),
        ("acre_table_evictions_total", 300.0),
        ("acre_table_early_commits_total", 1.0),
        ("acre_table_pages", 1.0),
    ] {
        ensure!(seen[name] >= least, "{name} is {}", seen[name]);
    }
    let status = server.acre(&["status"])?;
    let tables = &status["tables"];
    ensure!(tables["limit_bytes"] == 1_048_576 && tables["evictions"].as_u64() > Some(0), "{tables}");
    let said = server.acre_raw(&["status"])?.expect_success()?;
    ensure!(said.contains("tables") && said.contains("of 1 MiB") && said.contains("evicted"), "{said}");
    server.audit()?;
    server.kill()?;
    server.resume()?;
    let verify: Vec<_> = job.into_iter().chain(["--verify_only=1"]).collect();
    fio(&server.uri("scattered"), &verify)?;
    server.stop()
}

#[test]
fn a_limit_that_is_none_is_refused() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let said = Server::prepare(Options::disk("1G").with("--table-memory").with("64k"))?.start_refused()?;
    ensure!(said.contains("too little for tables"), "{said}");
    Ok(())
}
