//! The targets: the disk itself, the floor of the transport, the peers, and us. Each knows how to be set up and where fio
//! finds it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::fio::{self, Destination, Figures};
use crate::http;
use crate::metrics::Metrics;
use crate::plan::Plan;
use crate::program::{Server, acre, device_flushes, find, pinned, run};
use crate::workload::{EMPTY_BYTES, State, Workload};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// fio straight on a disk file: no server at all.
    Disk,
    /// nbdkit's null plugin: the transport and nothing behind it.
    Null,
    /// nbdkit's file plugin over the page cache: not what a disk is held to, but a quick server.
    File,
    /// qemu-nbd over a raw file, native asynchronous I/O, no cache.
    QemuRaw,
    /// qemu-nbd over a qcow2 image with 64 KiB clusters, the same way.
    Qcow2,
    /// Acreage.
    Acre,
}

/// Every target, with the name it has in reports.
pub(crate) const KINDS: &[(&str, Kind)] = &[
    ("disk", Kind::Disk),
    ("nbdkit-null", Kind::Null),
    ("nbdkit-file", Kind::File),
    ("qemu-raw", Kind::QemuRaw),
    ("qcow2", Kind::Qcow2),
    ("acre", Kind::Acre),
];

/// A target that is set up.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    kind: Kind,
    pub(crate) folder: PathBuf,
    pub(crate) server: Option<Server>,
}

impl Target {
    /// Sets a target up and writes its span in full; an error says what is missing.
    pub(crate) fn prepare(plan: &Plan, name: &'static str, kind: Kind, folder: &Path) -> Result<Target> {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let mut target = Target { name, kind, folder, server: None };
        target.launch(plan)?;
        // The others have a file that is written in full.
        if matches!(kind, Kind::Qcow2 | Kind::Acre) {
            fio::fill(plan, &target.destination("bench"))?;
        }
        Ok(target)
    }

    /// Whether this target can run a workload at all.
    pub(crate) fn can(&self, workload: &Workload) -> bool {
        workload.targets.contains(&self.name)
    }

    /// Runs one workload; the processor time is the server's where there is one.
    pub(crate) fn measure(&self, plan: &Plan, workload: &Workload) -> Result<Figures> {
        match (workload.state, self.kind) {
            (State::Empty, Kind::Qcow2) => self.first_writes_to_qcow2(plan, workload),
            (State::Empty, _) => self.on_an_empty_volume(|to| fio::measure(plan, workload, to)),
            (State::Mapped, _) => self.observed("bench", |to| fio::measure(plan, workload, to)),
        }
    }

    /// Runs something on a volume that nothing was written to, and deletes it.
    pub(crate) fn on_an_empty_volume(&self, run: impl FnOnce(&Destination) -> Result<Figures>) -> Result<Figures> {
        let size = EMPTY_BYTES.to_string();
        self.acre(&["volume", "create", "empty", &size])?;
        let figures = self.observed("empty", run);
        self.acre(&["volume", "delete", "empty", "--force"])?;
        figures
    }

    /// Runs something on a volume, and says what it cost the server.
    pub(crate) fn observed(&self, volume: &str, run: impl FnOnce(&Destination) -> Result<Figures>) -> Result<Figures> {
        let kernel = device_flushes(&self.folder);
        let Some(server) = &self.server else {
            let mut figures = run(&self.destination(volume))?;
            figures.kernel_barriers = for_each_flush(kernel, device_flushes(&self.folder), &figures);
            return Ok(figures);
        };
        let barriers = self.barriers();
        let before = server.processor_micros()?;
        let mut figures = run(&self.destination(volume))?;
        figures.processor_micros = (server.processor_micros()? - before) / figures.ios as f64;
        figures.kernel_barriers = for_each_flush(kernel, device_flushes(&self.folder), &figures);
        figures.barriers = for_each_flush(barriers, self.barriers(), &figures);
        if self.kind == Kind::File {
            // What it left in the page cache is not to be written while somebody else is measured.
            File::open(self.folder.join("disk.raw"))?.sync_all()?;
        }
        Ok(figures)
    }

    pub(crate) fn destination(&self, volume: &str) -> Destination {
        let socket = self.socket();
        match self.kind {
            Kind::Disk => Destination::File(self.shared_file()),
            Kind::Null | Kind::File => Destination::Nbd(format!("nbd+unix:///?socket={}", socket.display())),
            _ => Destination::Nbd(format!("nbd+unix:///{volume}?socket={}", socket.display())),
        }
    }

    /// The file that is measured by itself and below qemu-nbd.
    fn shared_file(&self) -> PathBuf {
        self.folder.with_file_name("shared.raw")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("nbd.sock")
    }

    fn launch(&mut self, plan: &Plan) -> Result<()> {
        let socket = self.socket();
        let mut command = match self.kind {
            Kind::Disk => return self.write_shared_file(plan),
            Kind::Null => {
                let mut command = pinned(&plan.cores.0, &find("nbdkit").context("nbdkit is missing")?);
                command.args(["--foreground", "--unix"]).arg(&socket).args(["null", "64G"]);
                command
            }
            Kind::File => {
                let file = self.folder.join("disk.raw");
                written_file(&file, plan.span_bytes)?;
                let mut command = pinned(&plan.cores.0, &find("nbdkit").context("nbdkit is missing")?);
                command.args(["--foreground", "--unix"]).arg(&socket).arg("file").arg(file);
                command
            }
            Kind::QemuRaw => {
                self.write_shared_file(plan)?;
                qemu_nbd(plan, &socket, "raw", &self.shared_file())?
            }
            Kind::Qcow2 => {
                let file = self.folder.join("disk.qcow2");
                create_qcow2(&file, plan.span_bytes)?;
                qemu_nbd(plan, &socket, "qcow2", &file)?
            }
            Kind::Acre => self.serve(plan)?,
        };
        self.server = Some(Server::start(&mut command, &socket, &self.folder.join("server.log"))?);
        if self.kind == Kind::Acre {
            self.acre(&["volume", "create", "bench", &plan.span_bytes.to_string()])?;
        }
        Ok(())
    }

    fn write_shared_file(&self, plan: &Plan) -> Result<()> {
        let file = self.shared_file();
        if std::fs::metadata(&file).is_ok_and(|found| found.len() == plan.span_bytes) {
            return Ok(());
        }
        written_file(&file, plan.span_bytes)
    }

    fn serve(&self, plan: &Plan) -> Result<Command> {
        let disk = self.folder.join("disk.raw");
        // The span, a region for each first write, and a quarter more for what is on its way back to the pool.
        let regions = plan.first_writes * (64 << 10);
        written_file(&disk, (plan.span_bytes + regions) / 4 * 5 + (1 << 30))?;
        serve(plan, &self.folder, &disk)
    }

    /// Runs an operator's command and gives its JSON.
    pub(crate) fn acre(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(acre().context("acre is not built")?);
        command.arg("--api").arg(format!("unix:{}", self.folder.join("api.sock").display()));
        let output = run(command.args(arguments).args(["--output", "json"]))?;
        Ok(serde_json::from_str(&output).unwrap_or(Value::Null))
    }

    /// What our server counts.
    pub(crate) fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::read(&http::get(&self.folder.join("api.sock"), "/metrics")?))
    }

    /// How many flushes our disks have seen, and how many commits our map.
    fn barriers(&self) -> Option<f64> {
        if self.kind != Kind::Acre {
            return None;
        }
        let metrics = self.metrics().ok()?;
        Some(metrics.sum("acre_disk_flushes_total") + metrics.sum("acre_map_commits_total"))
    }

    fn first_writes_to_qcow2(&self, plan: &Plan, workload: &Workload) -> Result<Figures> {
        let file = self.folder.join("empty.qcow2");
        let socket = self.folder.join("empty.sock");
        create_qcow2(&file, EMPTY_BYTES)?;
        // Where its next clusters will be is written beforehand, as our disk is.
        lengthen(&file, fio::writes(plan, workload) / 4 * 5 * (64 << 10))?;
        let mut command = qemu_nbd(plan, &socket, "qcow2", &file)?;
        let server = Server::start(&mut command, &socket, &self.folder.join("empty.log"))?;
        let destination = Destination::Nbd(format!("nbd+unix:///bench?socket={}", socket.display()));
        let before = server.thread_nanos()?;
        let mut figures = fio::measure(plan, workload, &destination)?;
        figures.processor_micros = server.thread_nanos()?.since(&before) as f64 / 1000.0 / figures.ios as f64;
        drop(server);
        std::fs::remove_file(file)?;
        Ok(figures)
    }
}

fn for_each_flush(before: Option<f64>, after: Option<f64>, figures: &Figures) -> Option<f64> {
    (figures.flushes > 0).then(|| Some((after? - before?) / figures.flushes as f64)).flatten()
}

/// Our server, its data, sockets and log in `folder`, with this disk.
pub(crate) fn serve(plan: &Plan, folder: &Path, disk: &Path) -> Result<Command> {
    let mut command = pinned(&plan.cores.0, &acre().context("acre is not built (cargo build --release -p acre)")?);
    command.arg("serve").arg("--data").arg(folder.join("data")).arg("--disk").arg(disk);
    command.arg("--nbd").arg(format!("unix:{}", folder.join("nbd.sock").display()));
    command.arg("--api").arg(format!("unix:{}", folder.join("api.sock").display()));
    if let Some(threads) = plan.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    // Further arguments, for trying things out.
    if let Ok(extra) = std::env::var("ACRE_BENCH_SERVE") {
        command.args(extra.split_whitespace());
    }
    Ok(command)
}

pub(crate) fn qemu_nbd(plan: &Plan, socket: &Path, format: &str, file: &Path) -> Result<Command> {
    let mut command = pinned(&plan.cores.0, &find("qemu-nbd").context("qemu-nbd is missing (qemu-utils)")?);
    command.args([
        "--persistent",
        "--shared=8",
        "--cache=none",
        "--aio=native",
        "--discard=unmap",
        "--export-name=bench",
    ]);
    command.arg(format!("--format={format}")).arg(format!("--socket={}", socket.display())).arg(file);
    Ok(command)
}

pub(crate) fn create_qcow2(file: &Path, size_bytes: u64) -> Result<()> {
    let mut command = Command::new(find("qemu-img").context("qemu-img is missing (qemu-utils)")?);
    run(command.args(["create", "-q", "-f", "qcow2"]).arg(file).arg(size_bytes.to_string())).map(drop)
}

/// Writes so many bytes behind an image's end, where its next clusters will be: a file system takes several times as long
/// over the first write to a place, and that is not what is compared.
pub(crate) fn lengthen(file: &Path, bytes: u64) -> Result<()> {
    let end = std::fs::metadata(file)?.len().div_ceil(1 << 20);
    let mut command = Command::new("dd");
    command.args(["if=/dev/zero", "bs=1M", "conv=notrunc,fsync", "oflag=direct", "status=none"]);
    command.arg(format!("of={}", file.display())).arg(format!("seek={end}")).arg(format!("count={}", bytes >> 20));
    run(&mut command).map(drop)
}

/// A file with every block written, so that no later write has to allocate. Its first and last MiB are zeroes: it looks
/// like an empty disk to whoever claims only those.
fn written_file(file: &Path, size_bytes: u64) -> Result<()> {
    let fill = Command::new(find("fio").context("fio is missing (apt-get install fio)")?)
        .args(["--name=fill", "--ioengine=io_uring", "--direct=1", "--rw=write", "--bs=1M", "--iodepth=4"])
        .args(["--output-format=json", "--end_fsync=1", "--fallocate=none", &format!("--size={size_bytes}")])
        .arg(format!("--filename={}", file.display()))
        .output()?;
    anyhow::ensure!(
        fill.status.success(),
        "cannot write {}: {}",
        file.display(),
        String::from_utf8_lossy(&fill.stderr)
    );
    let path = file.display().to_string();
    for seek in [0, (size_bytes >> 20) - 1] {
        let place = [format!("of={path}"), format!("seek={seek}")];
        run(Command::new("dd").args(["if=/dev/zero", "bs=1M", "count=1", "conv=notrunc", "status=none"]).args(place))?;
    }
    Ok(())
}
