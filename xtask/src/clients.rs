//! The real clients that the end-to-end tests talk with, and what the benches run: which are there, how to get the others.

use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{find, passes};

/// A program that is run, and the Debian package that brings it.
#[derive(Debug)]
pub(crate) struct Client {
    program: &'static str,
    package: &'static str,
    shows: &'static str,
}

/// What the end-to-end tests run.
pub(crate) const OF_TESTS: &[Client] = &[
    Client { program: "nbdinfo", package: "libnbd-bin", shows: "libnbd's view: flags, map, sizes" },
    Client { program: "nbdcopy", package: "libnbd-bin", shows: "copies both ways" },
    Client { program: "nbdfuse", package: "libnbd-bin", shows: "filesystems" },
    Client { program: "nbdkit", package: "nbdkit", shows: "copies from and to another server" },
    Client { program: "qemu-img", package: "qemu-utils", shows: "convert, compare, map" },
    Client { program: "qemu-io", package: "qemu-utils", shows: "patterns with FUA" },
    Client { program: "fio", package: "fio", shows: "verified random I/O" },
    Client { program: "fusermount3", package: "fuse3", shows: "filesystems" },
    Client { program: "mkfs.ext4", package: "e2fsprogs", shows: "ext4" },
    Client { program: "mkfs.xfs", package: "xfsprogs", shows: "xfs" },
    Client { program: "losetup", package: "mount", shows: "filesystems" },
    Client { program: "fstrim", package: "util-linux", shows: "trimming filesystems" },
    Client { program: "openssl", package: "openssl", shows: "TLS sessions" },
    Client { program: "python3", package: "python3", shows: "socket activation" },
];

/// What the benches run.
pub(crate) const OF_BENCHES: &[Client] = &[
    Client { program: "fio", package: "fio", shows: "everything but what the map alone costs" },
    Client { program: "taskset", package: "util-linux", shows: "the same" },
    Client {
        program: "nbdkit",
        package: "nbdkit",
        shows: "the floor of the transport, and a server over the page cache",
    },
    Client { program: "qemu-nbd", package: "qemu-utils", shows: "the durable peer" },
    Client { program: "qemu-img", package: "qemu-utils", shows: "qcow2" },
];

/// Installs the clients that are missing where that is possible, and says what cannot be shown without the others.
///
/// With `CI=true` a missing client is an error: there, nothing may be skipped.
pub(crate) fn prepare(clients: &'static [Client]) -> Result<()> {
    let absent = missing(clients);
    if absent.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = absent.iter().map(|client| client.package).collect();
    packages.sort_unstable();
    packages.dedup();
    if is_root()? && find("apt-get").is_some() {
        install(&packages)?;
    } else {
        println!("not root, or no apt-get: install {} to run everything", packages.join(" "));
    }
    let absent = missing(clients);
    for client in &absent {
        println!("SKIPPED without {}: {}", client.program, client.shows);
    }
    if !absent.is_empty() && in_ci() {
        let names: Vec<&str> = absent.iter().map(|client| client.program).collect();
        bail!("CI skips nothing, and these clients are missing: {}", names.join(" "));
    }
    Ok(())
}

/// Whether this run is continuous integration, where nothing may be skipped.
pub(crate) fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

fn missing(clients: &'static [Client]) -> Vec<&'static Client> {
    clients.iter().filter(|client| find(client.program).is_none()).collect()
}

fn is_root() -> Result<bool> {
    let output = Command::new("id").arg("-u").output()?;
    Ok(output.stdout.trim_ascii() == b"0")
}

fn install(packages: &[&str]) -> Result<()> {
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-o", "DPkg::Lock::Timeout=120"]);
        command
    };
    let install =
        |command: &mut Command| passes(command.args(["install", "-y", "--no-install-recommends"]).args(packages));
    // The package lists may be too old, or not there at all: refresh them only when a first try fails.
    if !install(&mut apt())? {
        passes(apt().arg("update"))?;
        if !install(&mut apt())? {
            println!("apt-get could not install: {}", packages.join(" "));
        }
    }
    Ok(())
}
