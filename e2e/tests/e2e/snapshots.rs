//! Snapshots, clones, rollback and what changed, seen by real clients (C1–C4, C6, A10).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::filesystem::{Attached, Mounted};
use e2e::server::Server;
use e2e::tool::{eventually, have, have_root, run};
use e2e::{KIB, MIB};
use serde_json::Value;

use crate::{noise, serve, standin};

fn figure(value: &Value, path: &[&str]) -> Result<u64> {
    let found = path.iter().fold(value, |value, name| &value[*name]);
    found.as_u64().with_context(|| format!("no {path:?} in {value}"))
}

/// C3, C4: after a snapshot a write of 4 KiB takes one region and moves 4 KiB; the snapshot stays what it was, and one read
/// of the volume mixes both places.
#[test]
fn a_write_after_a_snapshot_costs_its_own_blocks_and_leaves_the_snapshot_alone() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = serve("1G", "base", "64M")?;
    let before = noise(1, 4 * MIB as usize);
    let mut session = server.session("base")?;
    session.write(0, &before, 0)?;
    session.flush()?;
    let used = server.pool("used_bytes")?;
    server.acre(&["snapshot", "create", "base@one"])?;
    ensure!(server.pool("used_bytes")? == used, "a snapshot takes no space");
    let block = noise(2, 4096);
    let written = server.disks_have("write_bytes")?;
    session.write(MIB + 8 * KIB, &block, 0)?;
    session.flush()?;
    let moved = server.disks_have("write_bytes")? - written;
    ensure!(moved == 4096, "a write of 4 KiB after a snapshot wrote {moved} bytes");
    ensure!(server.pool("used_bytes")? == used + 64 * KIB, "and takes one region");
    let mut after = before.clone();
    after[(MIB + 8 * KIB) as usize..][..4096].copy_from_slice(&block);
    ensure!(session.read(0, 4 * MIB)? == after, "the volume mixes both places");
    ensure!(server.session("base@one")?.read(0, 4 * MIB)? == before, "the snapshot is what it was");
    server.kill()?;
    server.resume()?;
    ensure!(server.session("base@one")?.read(0, 4 * MIB)? == before, "and still is after kill -9");
    ensure!(server.session("base")?.read(0, 4 * MIB)? == after);
    server.audit()?;
    server.stop()
}

/// A10: what only a snapshot held comes back when it is deleted, exactly as announced, in a full pool too.
#[test]
fn deleting_a_snapshot_frees_what_it_alone_held_even_in_a_full_pool() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = serve("64M", "full", "256M")?;
    let mut session = server.session("full")?;
    session.write(0, &noise(1, 8 * MIB as usize), 0)?;
    session.flush()?;
    server.acre(&["snapshot", "create", "full@old"])?;
    session.write(0, &noise(2, 4 * MIB as usize), 0)?;
    session.flush()?;
    let shown = server.acre(&["snapshot", "show", "full@old"])?;
    ensure!(figure(&shown, &["unique_bytes"])? == 4 * MIB, "{shown}");
    ensure!(figure(&shown, &["referenced_bytes"])? == 8 * MIB, "{shown}");
    let mut offset = 16 * MIB;
    while session.write(offset, &noise(offset, MIB as usize), 0)? == 0 {
        offset += MIB;
        ensure!(offset < 128 * MIB, "the pool never fills");
    }
    session.flush()?;
    let used = server.pool("used_bytes")?;
    server.acre(&["snapshot", "delete", "full@old"])?;
    server.pool_becomes("used_bytes", |now| now == used - 4 * MIB)?;
    eventually("the snapshot is gone", Duration::from_secs(10), || {
        Ok(server.acre(&["snapshot", "list"])? == Value::Array(Vec::new()))
    })?;
    ensure!(session.write(offset, &noise(offset, MIB as usize), 0)? == 0, "there is room again");
    server.expect_log("full");
    server.audit()?;
    server.stop()
}

/// C6: several volumes are cut at one moment while they are written to: whatever was acknowledged before the one write
/// that is in, is in.
#[test]
fn a_cut_through_two_volumes_under_load_is_consistent() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = serve("1G", "left", "64M")?;
    server.create_volume("right", "64M", &[])?;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (stop, mut left, mut right) = (Arc::clone(&stop), server.session("left")?, server.session("right")?);
        std::thread::spawn(move || -> Result<u64> {
            // One after the other: what the right one holds, the left one held before.
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let block = number.to_le_bytes().repeat(512);
                ensure!(left.write(0, &block, 0)? == 0 && right.write(0, &block, 0)? == 0, "a write failed");
            }
            Ok(number)
        })
    };
    let mut last = 0;
    for index in 0..20 {
        std::thread::sleep(Duration::from_millis(20));
        server.acre(&["snapshot", "create", &format!("left@{index}"), &format!("right@{index}")])?;
        let number = |volume: &str| -> Result<u64> {
            let bytes = server.session(&format!("{volume}@{index}"))?.read(0, 4096)?;
            ensure!(bytes.chunks(8).all(|word| word == &bytes[..8]), "{volume}@{index} holds half a block");
            Ok(u64::from_le_bytes(bytes[..8].try_into()?))
        };
        let (left, right) = (number("left")?, number("right")?);
        ensure!(left == right || left == right + 1, "cut {index}: left at {left}, right at {right}");
        ensure!(right >= last, "cut {index} is older than the one before");
        last = left;
    }
    stop.store(true, Ordering::Relaxed);
    let written = writer.join().expect("the writer does not panic")?;
    ensure!(last > 0 && written >= last, "the writer was under way: {written} writes, {last} seen");
    server.audit()?;
    server.stop()
}

/// A clone begins as its snapshot is and goes its own way; it outlives the snapshot's name and its volume.
#[test]
fn a_clone_goes_its_own_way_and_outlives_what_it_was_made_of() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = serve("1G", "golden", "64M")?;
    let golden = noise(1, 2 * MIB as usize);
    let mut session = server.session("golden")?;
    session.write(0, &golden, 0)?;
    session.flush()?;
    server.acre(&["snapshot", "create", "golden@image"])?;
    let used = server.pool("used_bytes")?;
    server.acre(&["clone", "golden@image", "vm"])?;
    ensure!(server.pool("used_bytes")? == used, "a clone takes no space");
    let mut vm = server.session("vm")?;
    ensure!(vm.read(0, 2 * MIB)? == golden, "the clone begins as the snapshot is");
    vm.write(4 * KIB, &noise(2, 4096), 0)?;
    vm.flush()?;
    ensure!(server.session("golden@image")?.read(0, 2 * MIB)? == golden, "the snapshot does not see it");
    ensure!(session.read(0, 2 * MIB)? == golden, "nor does the volume");
    session.leave()?;
    server.acre(&["volume", "delete", "golden", "--snapshots", "--force"])?;
    let mut expected = golden;
    expected[4096..8192].copy_from_slice(&noise(2, 4096));
    ensure!(vm.read(0, 2 * MIB)? == expected, "the clone outlives what it was made of");
    server.audit()?;
    vm.leave()?;
    server.acre(&["volume", "delete", "vm", "--force"])?;
    server.pool_becomes("used_bytes", |used| used == 0)?;
    server.audit()?;
    server.stop()
}

/// A volume `base` with 4 MiB of noise, its snapshot `s`, and a clone of that, `own`, that nobody has attached.
fn serve_clone() -> Result<(Server, Vec<u8>)> {
    let server = serve("1G", "base", "64M")?;
    let bytes = noise(1, 4 * MIB as usize);
    let mut session = server.session("base")?;
    session.write(0, &bytes, 0)?;
    session.leave()?;
    server.acre(&["snapshot", "create", "base@s"])?;
    server.acre(&["clone", "base@s", "own"])?;
    Ok((server, bytes))
}

/// A clone that nobody has attached is flattened, and then what it was made of can go for good.
#[test]
fn a_clone_is_flattened_and_stands_alone() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let (mut server, bytes) = serve_clone()?;
    server.acre(&["volume", "delete", "base", "--snapshots", "--force"])?;
    ensure!(server.acre(&["snapshot", "list"])?[0]["state"] == "kept_by_clones", "the snapshot stays for its clone");
    server.acre(&["clone", "flatten", "own"])?;
    eventually("nothing is shared any more", Duration::from_secs(20), || {
        let shown = server.acre(&["volume", "show", "own"])?;
        Ok(shown["origin"].is_null() && shown["flattening_percent"].is_null())
    })?;
    let shown = server.acre(&["volume", "show", "own"])?;
    ensure!(figure(&shown, &["space", "own_bytes"])? == 4 * MIB, "{shown}");
    server.pool_becomes("used_bytes", |used| used == 4 * MIB)?;
    ensure!(server.session("own")?.read(0, 4 * MIB)? == bytes, "it holds what it held");
    server.audit()?;
    server.stop()
}

/// What lies beyond its new end is its origin's, which keeps it.
#[test]
fn a_clone_that_nobody_has_attached_is_shrunk_and_its_origin_keeps_what_it_held() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let (mut server, bytes) = serve_clone()?;
    server.acre(&["volume", "resize", "own", "1M", "--shrink"])?;
    server.acre(&["volume", "resize", "own", "4M"])?;
    let held = server.session("own")?.read(0, 4 * MIB)?;
    let (kept, gone) = held.split_at(MIB as usize);
    ensure!(kept == &bytes[..MIB as usize] && gone.iter().all(|byte| *byte == 0), "what was beyond its end is zeroes");
    ensure!(server.session("base@s")?.read(0, 4 * MIB)? == bytes, "its origin holds what it held");
    ensure!(server.acre_refused(&["clone", "flatten", "--cancel", "own"])?.contains("not being flattened"));
    server.audit()?;
    server.stop()
}

/// A rollback is refused while hosts are there, and then makes the volume what it was; later snapshots stay.
#[test]
fn a_rollback_brings_back_what_was_and_keeps_later_snapshots() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = serve("1G", "state", "64M")?;
    let (first, second) = (noise(1, MIB as usize), noise(2, MIB as usize));
    let mut session = server.session("state")?;
    session.write(0, &first, 0)?;
    server.acre(&["snapshot", "create", "state@first"])?;
    session.write(0, &second, 0)?;
    server.acre(&["snapshot", "create", "state@second"])?;
    let refusal = server.acre_refused(&["volume", "rollback", "state@first"])?;
    ensure!(refusal.contains("state") && refusal.contains("attached"), "{refusal}");
    session.leave()?;
    eventually("the host has left", Duration::from_secs(10), || {
        Ok(server.acre_raw(&["volume", "rollback", "state@first"])?.expect_success().is_ok())
    })?;
    ensure!(server.session("state")?.read(0, MIB)? == first, "the volume is what it was");
    ensure!(server.session("state@second")?.read(0, MIB)? == second, "the later snapshot stays");
    server.audit()?;
    server.stop()
}

/// Incremental backup for any NBD client: a metadata context for each snapshot says what changed since.
#[test]
fn a_metadata_context_tells_what_changed_since_a_snapshot() -> Result<()> {
    if standin() || !have(&["nbdinfo"]) {
        return Ok(());
    }
    let mut server = serve("1G", "backed-up", "4M")?;
    let mut session = server.session("backed-up")?;
    session.write(0, &noise(1, MIB as usize), 0)?;
    server.acre(&["snapshot", "create", "backed-up@full"])?;
    session.write(64 * KIB, &noise(2, 8192), 0)?;
    session.trim(512 * KIB, 4096)?;
    session.write(3 * MIB, &noise(3, 4096), 0)?;
    let uri = server.uri("backed-up");
    let listed = run("nbdinfo", &["--list", &uri])?;
    ensure!(listed.contains("acre:changed-since:full"), "{listed}");
    let map = run("nbdinfo", &["--map=acre:changed-since:full", "--json", &uri])?;
    let map: Vec<Value> = serde_json::from_str(&map)?;
    let changed: Vec<(u64, u64, u64)> = (map.iter())
        .filter(|extent| extent["type"].as_u64() != Some(0))
        .map(|extent| Ok((figure(extent, &["offset"])?, figure(extent, &["length"])?, figure(extent, &["type"])?)))
        .collect::<Result<_>>()?;
    ensure!(
        changed == [(64 * KIB, 8192, 1), (512 * KIB, 4096, 3), (3 * MIB, 4096, 1)],
        "the context tells {changed:?}"
    );
    let diff = server.acre(&["diff", "backed-up@full", "backed-up"])?;
    let ranges: Vec<(u64, u64)> = (diff["ranges"].as_array().context("no ranges")?.iter())
        .map(|range| Ok((figure(range, &["offset_bytes"])?, figure(range, &["length_bytes"])?)))
        .collect::<Result<_>>()?;
    ensure!(ranges == [(64 * KIB, 8192), (512 * KIB, 4096), (3 * MIB, 4096)], "and the diff {ranges:?}");
    session.leave()?;
    server.stop()
}

/// C6: ext4 under load is snapshotted; the snapshot mounts, a clone of it mounts and is checked.
#[test]
fn ext4_under_load_is_snapshotted_and_its_clone_is_clean() -> Result<()> {
    snapshot_of_a_filesystem(
        "ext4",
        &["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,nodiscard"],
        &["e2fsck", "-fy"],
        "ro,noload",
    )
}

/// C6: the same for xfs, whose clone carries the same identifier as its origin.
#[test]
fn xfs_under_load_is_snapshotted_and_its_clone_is_clean() -> Result<()> {
    snapshot_of_a_filesystem("xfs", &["mkfs.xfs", "-q", "-K"], &["xfs_repair", "-n"], "ro,norecovery,nouuid")
}

fn snapshot_of_a_filesystem(kind: &str, make: &[&str], check: &[&str], read_only: &str) -> Result<()> {
    if standin() || !have(&["nbdfuse", "losetup", "fusermount3", "fsfreeze", make[0], check[0]]) || !have_root() {
        return Ok(());
    }
    let mut server = serve("2G", "files", "1G")?;
    let attached = Attached::new(server.folder(), &server.uri("files"))?;
    run(make[0], &[&make[1..], &[attached.device()]].concat())?;
    let mounted = Mounted::new(&attached, kind)?;
    std::fs::write(mounted.path().join("before"), noise(1, 8 * MIB as usize))?;
    // Frozen once, it is in its place and not in the filesystem's log alone: what is read only is mounted without that.
    let folder = mounted.path().display().to_string();
    let settle = || -> Result<()> {
        run("fsfreeze", &["--freeze", &folder])?;
        run("fsfreeze", &["--unfreeze", &folder]).map(drop)
    };
    settle()?;
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (stop, folder) = (Arc::clone(&stop), mounted.path().to_path_buf());
        std::thread::spawn(move || -> Result<u64> {
            let mut index = 0;
            while !stop.load(Ordering::Relaxed) {
                std::fs::write(folder.join(format!("load-{}", index % 64)), noise(index, 300 * KIB as usize))?;
                index += 1;
            }
            Ok(index)
        })
    };
    std::thread::sleep(Duration::from_millis(500));
    server.acre(&["snapshot", "create", "files@busy"])?;
    server.acre(&["clone", "files@busy", "copy"])?;
    std::thread::sleep(Duration::from_millis(300));
    stop.store(true, Ordering::Relaxed);
    let written = load.join().expect("the load does not panic")?;
    ensure!(written > 8, "the filesystem was under load: {written} files");
    std::fs::write(mounted.path().join("after"), "written when the snapshot was there")?;
    settle()?;
    see_before(&server, "copy", kind, if kind == "xfs" { "nouuid" } else { "rw" }, Some(check))?;
    see_before(&server, "files@busy", kind, read_only, None)?;
    mounted.leave()?;
    attached.leave()?;
    server.audit()?;
    server.stop()
}

/// Mounts an export, finds the file that was there before the snapshot and not the one that came after, and checks the
/// filesystem.
fn see_before(server: &Server, export: &str, kind: &str, options: &str, check: Option<&[&str]>) -> Result<()> {
    let folder = server.folder().join(export.replace('@', "-at-"));
    std::fs::create_dir_all(&folder)?;
    let attached = Attached::with(&folder, &server.uri(export), check.is_none())?;
    let mounted = Mounted::with(&attached, kind, options)?;
    let found = std::fs::read(mounted.path().join("before"))?;
    ensure!(found == noise(1, 8 * MIB as usize), "{export} holds another file than was synced before the snapshot");
    ensure!(!mounted.path().join("after").exists(), "{export} holds a file that was made after the snapshot");
    mounted.leave()?;
    if let Some(check) = check {
        run(check[0], &[&check[1..], &[attached.device()]].concat())?;
    }
    attached.leave()
}

/// qemu-img reads a snapshot's export like any image.
#[test]
fn qemu_img_converts_a_snapshot_that_is_compared_with_its_volume() -> Result<()> {
    if standin() || !have(&["qemu-img"]) {
        return Ok(());
    }
    let mut server = serve("1G", "image", "32M")?;
    let mut session = server.session("image")?;
    session.write(MIB, &noise(1, 3 * MIB as usize), 0)?;
    server.acre(&["snapshot", "create", "image@s"])?;
    let copy = server.folder().join("copy.qcow2").display().to_string();
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &server.uri("image@s"), &copy])?;
    run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &server.uri("image"), &copy])?;
    session.write(MIB, &noise(2, 4096), 0)?;
    session.flush()?;
    run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &server.uri("image@s"), &copy])?;
    session.leave()?;
    server.stop()
}

/// Mistakes are answered with the way out.
#[test]
fn what_is_not_allowed_is_refused_in_words() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = serve("1G", "v", "64M")?;
    server.acre(&["snapshot", "create", "v@a"])?;
    for (arguments, expected) in [
        (vec!["snapshot", "create", "v"], "@"),
        (vec!["snapshot", "create", "v@a"], "already"),
        (vec!["snapshot", "create", "v@b", "v@c"], "twice"),
        (vec!["snapshot", "create", "w@a"], "no volume"),
        (vec!["snapshot", "delete", "v@x"], "no snapshot"),
        (vec!["clone", "v@a", "v"], "already"),
        (vec!["clone", "flatten", "v"], "no clone"),
        (vec!["volume", "delete", "v"], "--snapshots"),
        (vec!["diff", "v", "v@a"], "@"),
    ] {
        let said = server.acre_refused(&arguments)?;
        ensure!(said.contains(expected), "{arguments:?} was refused without {expected:?}: {said}");
    }
    let mut reader = server.session("v@a")?;
    ensure!(reader.flags() & 2 != 0, "a snapshot is not shown as read-only: {:#x}", reader.flags());
    for error in [reader.write(0, &noise(1, 4096), 0)?, reader.trim(0, 4096)?, reader.zero(0, 4096, 0)?] {
        ensure!(error == e2e::client::error::PERM, "a write to a snapshot was answered with error {error}");
    }
    let said = server.acre_refused(&["snapshot", "delete", "v@a"])?;
    ensure!(said.contains("reading") && said.contains("force"), "{said}");
    reader.leave()?;
    server.stop()
}
