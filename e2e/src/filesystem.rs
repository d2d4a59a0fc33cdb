//! A volume as a block device and a mount, where the kernel has no NBD: nbdfuse shows it as a file, a loop device makes the
//! file a disk. Everything is undone when the value is dropped, also after a failed test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::tool::{eventually, run, wait};

/// A volume behind a loop device.
#[derive(Debug)]
pub struct Attached {
    fuse: Child,
    folder: PathBuf,
    device: String,
}

impl Attached {
    /// Attaches an export; `folder` is where the file that stands for it appears.
    pub fn new(folder: &Path, uri: &str) -> Result<Attached> {
        Attached::with(folder, uri, false)
    }

    /// The same, perhaps to be read only.
    pub fn with(folder: &Path, uri: &str, read_only: bool) -> Result<Attached> {
        let point = folder.join("fuse");
        std::fs::create_dir_all(&point)?;
        let mut command = Command::new("nbdfuse");
        if read_only {
            command.arg("--readonly");
        }
        command.arg(&point).arg(uri).stdin(Stdio::null()).stdout(Stdio::null());
        let fuse = command.spawn().context("cannot start nbdfuse")?;
        let mut attached = Attached { fuse, folder: folder.to_path_buf(), device: String::new() };
        let file = point.join("nbd");
        eventually("nbdfuse shows the volume", Duration::from_secs(10), || Ok(file.is_file()))?;
        let file = file.display().to_string();
        let access: &[&str] = if read_only { &["--read-only"] } else { &[] };
        let device = run("losetup", &[&["--find", "--show"], access, &[file.as_str()]].concat())?;
        attached.device = device.trim().to_owned();
        Ok(attached)
    }

    /// The device, such as `/dev/loop3`.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Detaches; an error when anything still holds it.
    pub fn leave(mut self) -> Result<()> {
        run("losetup", &["--detach", &self.device])?;
        self.device.clear();
        run("fusermount3", &["-u", &self.folder.join("fuse").display().to_string()])?;
        let ended = wait(&mut self.fuse, Duration::from_secs(20))?;
        ensure!(ended.is_some_and(|status| status.success()), "nbdfuse ended with {ended:?}");
        Ok(())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if !self.device.is_empty() {
            run("losetup", &["--detach", &self.device]).ok();
        }
        if self.fuse.try_wait().is_ok_and(|status| status.is_none()) {
            run("fusermount3", &["-u", "-z", &self.folder.join("fuse").display().to_string()]).ok();
            self.fuse.kill().ok();
            self.fuse.wait().ok();
        }
    }
}

/// A mounted filesystem.
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
    mounted: bool,
}

impl Mounted {
    /// Mounts the filesystem of this kind that lies on a device.
    pub fn new(attached: &Attached, kind: &str) -> Result<Mounted> {
        Mounted::with(attached, kind, "rw")
    }

    /// The same with these options of `mount -o`.
    pub fn with(attached: &Attached, kind: &str, options: &str) -> Result<Mounted> {
        let path = attached.folder.join("mount");
        std::fs::create_dir_all(&path)?;
        run("mount", &["-t", kind, "-o", options, &attached.device, &path.display().to_string()])?;
        Ok(Mounted { path, mounted: true })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts; an error when that fails.
    pub fn leave(mut self) -> Result<()> {
        self.mounted = false;
        run("umount", &[&self.path.display().to_string()]).map(drop)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.mounted {
            run("umount", &["-l", &self.path.display().to_string()]).ok();
        }
    }
}
