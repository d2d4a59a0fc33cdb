//! Real filesystems on a volume, through nbdfuse and a loop device: fill, delete, trim, check, restart, mount again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::MIB;
use e2e::filesystem::{Attached, Mounted};
use e2e::server::Server;
use e2e::tool::{eventually, have, have_root, run};

use crate::{noise, serve};

/// A10, D2: ext4 lives on a volume, and what it trims the pool gets back.
#[test]
fn ext4_fills_trims_and_survives_a_restart() -> Result<()> {
    lives_on_a_volume("ext4", &["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,nodiscard"], &["e2fsck", "-fn"])
}

/// A10, D2: the same for xfs.
#[test]
fn xfs_fills_trims_and_survives_a_restart() -> Result<()> {
    lives_on_a_volume("xfs", &["mkfs.xfs", "-q", "-K"], &["xfs_repair", "-n"])
}

fn lives_on_a_volume(kind: &str, make: &[&str], check: &[&str]) -> Result<()> {
    if !have(&["nbdfuse", "losetup", "fusermount3", "fstrim", make[0], check[0]]) || !have_root() {
        return Ok(());
    }
    let mut server = serve("1G", "files", "2G")?;
    let sums = {
        let attached = Attached::new(server.folder(), &server.uri("files"))?;
        run(make[0], &[&make[1..], &[attached.device()]].concat())?;
        let mounted = Mounted::new(&attached, kind)?;
        let sums = fill_and_trim(&server, &mounted)?;
        mounted.leave()?;
        run(check[0], &[&check[1..], &[attached.device()]].concat())?;
        attached.leave()?;
        sums
    };
    server.stop()?;
    server.resume()?;
    let attached = Attached::new(server.folder(), &server.uri("files"))?;
    let mounted = Mounted::new(&attached, kind)?;
    ensure!(checksums(&mounted)? == sums, "files differ after the restart");
    mounted.leave()?;
    run(check[0], &[&check[1..], &[attached.device()]].concat())?;
    attached.leave()?;
    server.audit()?;
    server.stop()
}

/// Fills the filesystem, deletes most of it, trims, and checks that the pool follows. Gives the checksums of what stayed.
fn fill_and_trim(server: &Server, mounted: &Mounted) -> Result<String> {
    let folder = mounted.path();
    for index in 0..24_u64 {
        std::fs::write(folder.join(format!("bulk-{index}")), noise(index, 16 * MIB as usize))?;
    }
    std::fs::create_dir(folder.join("small"))?;
    for index in 0..500_u64 {
        std::fs::write(folder.join(format!("small/{index}")), noise(index, 100 + 37 * index as usize))?;
    }
    run("sync", &["-f", &folder.display().to_string()])?;
    let full = server.pool("used_bytes")?;
    ensure!(full >= 24 * 16 * MIB, "only {full} bytes are used with 384 MiB of files");
    for index in 2..24 {
        std::fs::remove_file(folder.join(format!("bulk-{index}")))?;
    }
    // A filesystem frees what was deleted in its own good time (xfs in the background): trim until it has.
    let path = folder.display().to_string();
    let mut used = full;
    let outcome = eventually("the pool follows the trim", Duration::from_secs(20), || {
        run("sync", &["-f", &path])?;
        run("fstrim", &[&path])?;
        run("sync", &["-f", &path])?;
        used = server.pool("used_bytes")?;
        Ok(used + 20 * 16 * MIB <= full)
    });
    outcome.with_context(|| format!("{used} bytes are used after the trim, {full} before"))?;
    checksums(mounted)
}

fn checksums(mounted: &Mounted) -> Result<String> {
    run("sh", &["-c", &format!("cd '{}' && find . -type f | sort | xargs md5sum", mounted.path().display())])
}
