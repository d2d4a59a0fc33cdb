//! What is measured: us, with snapshots and clones made while we serve, and qcow2, with those made while nobody does.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::fio::{self, Destination, Figures, Job};
use crate::http;
use crate::metrics::Metrics;
use crate::plan::Plan;
use crate::program::{Server, find, run};
use crate::target::{Kind, Target, create_qcow2, lengthen, qemu_nbd};

/// How long deleting what a round left may take.
const EMPTIED_WITHIN: Duration = Duration::from_secs(120);

/// Acreage.
pub(crate) struct Ours {
    target: Target,
}

impl Ours {
    /// Starts a server with a written disk file that has room for `room_bytes` beside the volume `bench`, which is filled.
    pub(crate) fn start(plan: &Plan, folder: &Path, room_bytes: u64) -> Result<Self> {
        let plan = Plan { first_writes: room_bytes >> 16, ..plan.clone() };
        Ok(Self { target: Target::prepare(&plan, "acre", Kind::Acre, folder)? })
    }

    /// Deletes these volumes with their snapshots, and waits until their space is back.
    pub(crate) fn empty(&self, volumes: &[&str]) -> Result<()> {
        for volume in volumes {
            self.target.acre(&["volume", "delete", volume, "--force", "--snapshots"])?;
        }
        let until = Instant::now() + EMPTIED_WITHIN;
        loop {
            let pool = self.target.acre(&["pool", "show", "default"])?;
            if pool["used_bytes"] == 0 && pool["granted_bytes"] == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < until, "the space of deleted volumes does not come back: {pool}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Makes a volume of so many bytes and writes all of it.
    pub(crate) fn fill(&self, plan: &Plan, volume: &str, bytes: u64) -> Result<()> {
        self.target.acre(&["volume", "create", volume, &bytes.to_string()])?;
        let plan = Plan { span_bytes: bytes, ..plan.clone() };
        fio::fill(&plan, &self.target.destination(volume))
    }

    /// Takes `VOL@NAME` and gives how long that took.
    pub(crate) fn snapshot(&self, full: &str) -> Result<Duration> {
        http::post(&self.api(), "/v1/snapshots", &json!({"snapshots": [full]}))
    }

    /// Makes a clone of `VOL@NAME`.
    pub(crate) fn clone(&self, snapshot: &str, name: &str) -> Result<Duration> {
        http::post(&self.api(), "/v1/clones", &json!({"snapshot": snapshot, "name": name}))
    }

    /// What the server counts.
    pub(crate) fn metrics(&self) -> Result<Metrics> {
        self.target.metrics()
    }

    /// Where the API listens.
    pub(crate) fn api(&self) -> PathBuf {
        self.target.folder.join("api.sock")
    }

    /// Where fio finds a volume or a snapshot.
    pub(crate) fn destination(&self, export: &str) -> Destination {
        self.target.destination(export)
    }

    /// Runs one job on a volume or a snapshot.
    pub(crate) fn measure(&self, plan: &Plan, export: &str, job: &Job) -> Result<Figures> {
        let server = self.target.server.as_ref().context("the server was started")?;
        observed(plan, server, job, &self.target.destination(export))
    }
}

/// qcow2 images; each run has a qemu-nbd of its own, because snapshots are taken in between.
pub(crate) struct Qcow2 {
    folder: PathBuf,
}

impl Qcow2 {
    /// A folder for images.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let folder = folder.join("qcow2");
        std::fs::create_dir_all(&folder)?;
        find("qemu-nbd").context("qemu-nbd is missing (qemu-utils)")?;
        Ok(Self { folder })
    }

    /// Makes an image, writes all of it, and has room for so many bytes more.
    pub(crate) fn fill(&self, plan: &Plan, image: &str, room_bytes: u64) -> Result<()> {
        let file = self.folder.join(image);
        if file.exists() {
            std::fs::remove_file(&file)?;
        }
        create_qcow2(&file, plan.span_bytes)?;
        self.served(plan, image, |_, to| fio::fill(plan, to))?;
        lengthen(&file, room_bytes)
    }

    /// Makes an image that begins as `base` is, with room for so many bytes.
    pub(crate) fn overlay(&self, base: &str, image: &str, extended_l2: bool, room_bytes: u64) -> Result<()> {
        let file = self.folder.join(image);
        if file.exists() {
            std::fs::remove_file(&file)?;
        }
        let mut command = Command::new(find("qemu-img").context("qemu-img is missing (qemu-utils)")?);
        command.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base]);
        if extended_l2 {
            command.args(["-o", "extended_l2=on"]);
        }
        run(command.arg(image).current_dir(&self.folder))?;
        lengthen(&file, room_bytes)
    }

    /// Takes an internal snapshot and gives how long that took.
    pub(crate) fn snapshot(&self, image: &str, name: &str) -> Result<Duration> {
        let mut command = Command::new(find("qemu-img").context("qemu-img is missing (qemu-utils)")?);
        let begun = Instant::now();
        run(command.args(["snapshot", "-c", name, image]).current_dir(&self.folder))?;
        Ok(begun.elapsed())
    }

    /// Removes an image.
    pub(crate) fn remove(&self, image: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.folder.join(image))?)
    }

    /// Runs one job on an image.
    pub(crate) fn measure(&self, plan: &Plan, image: &str, job: &Job) -> Result<Figures> {
        self.served(plan, image, |server, to| observed(plan, server, job, to))
    }

    fn served<R>(&self, plan: &Plan, image: &str, act: impl FnOnce(&Server, &Destination) -> Result<R>) -> Result<R> {
        let socket = self.folder.join("nbd.sock");
        let mut command = qemu_nbd(plan, &socket, "qcow2", &self.folder.join(image))?;
        let server = Server::start(&mut command, &socket, &self.folder.join("server.log"))?;
        act(&server, &Destination::Nbd(format!("nbd+unix:///bench?socket={}", socket.display())))
    }
}

fn observed(plan: &Plan, server: &Server, job: &Job, to: &Destination) -> Result<Figures> {
    let before = server.thread_nanos()?;
    let mut figures = fio::job::<&str>(plan, job, to, &[])?;
    figures.processor_micros = server.thread_nanos()?.since(&before) as f64 / 1000.0 / figures.ios as f64;
    Ok(figures)
}
