//! The engines as operators see them: the controller's answers, completed by what only this process knows.

use crate::control::{ControlPlane, Pending};
use crate::engine::{EngineHandle, EngineReport};
use crate::metrics::{DiskMetrics, MetricsSnapshot, VolumeMetrics};
use api::{Disk, DiskCounters, DiskState, Error, Request, Response, Status, TableUsage, Volume, VolumeCounters};
use model::{ByteSize, DiskId, VolumeId};
use reactor::Backend;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What does not change while a server runs.
pub(super) struct Facts {
    pub(super) started: Instant,
    pub(super) threads: u32,
    pub(super) table_bytes_max: u64,
    pub(super) listeners: Vec<api::Listener>,
}

/// The engines behind the operator API.
pub(super) struct EnginePlane {
    engine: Arc<EngineHandle>,
    facts: Facts,
    schedule_failures: Arc<AtomicU64>,
}

impl EnginePlane {
    pub(super) fn new(engine: Arc<EngineHandle>, facts: Facts) -> Self {
        Self { engine, facts, schedule_failures: Arc::default() }
    }

    /// Where failures of scheduled snapshots are counted.
    pub(super) fn schedule_failures(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.schedule_failures)
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What the data threads have counted. They answer between two rounds, so this waits, off the async thread.
    async fn report(&self) -> Result<EngineReport, Error> {
        let engine = Arc::clone(&self.engine);
        tokio::task::spawn_blocking(move || engine.report())
            .await
            .map_err(|error| Error::internal(format!("counting ended in a panic: {error}")))
    }

    async fn completed(&self, mut response: Response) -> Result<Response, Error> {
        match &mut response {
            Response::Disk(disk) => count_disk(disk, &self.report().await?),
            Response::Disks(disks) => {
                let report = self.report().await?;
                disks.iter_mut().for_each(|disk| count_disk(disk, &report));
            }
            Response::Volume(volume) => count_volume(volume, &self.report().await?),
            Response::Volumes(volumes) => {
                let report = self.report().await?;
                volumes.iter_mut().for_each(|volume| count_volume(volume, &report));
            }
            Response::Status(status) => self.complete_status(status, &self.report().await?),
            _ => {}
        }
        Ok(response)
    }

    fn complete_status(&self, status: &mut Status, report: &EngineReport) {
        status.version = env!("CARGO_PKG_VERSION").into();
        status.uptime_seconds = self.facts.started.elapsed().as_secs();
        status.threads = self.facts.threads;
        status.io_engine = match self.engine.backend() {
            Backend::Uring => "uring",
            Backend::Fallback => "fallback",
            Backend::Auto => "auto",
        }
        .into();
        status.listeners.clone_from(&self.facts.listeners);
        status.connections = u32::try_from(report.connections).unwrap_or(u32::MAX);
        status.tables = self.tables(report);
    }

    fn tables(&self, report: &EngineReport) -> TableUsage {
        let total = report.total();
        TableUsage {
            used_bytes: report.volumes.values().map(|volume| volume.table_bytes as u64).sum(),
            limit_bytes: self.facts.table_bytes_max,
            pages: report.volumes.values().map(|volume| volume.table_pages as u64).sum(),
            misses: total.faults_page,
            evictions: total.evictions,
            early_commits: total.early_commits,
        }
    }

    async fn ask(&self, request: Request) -> Result<Response, Error> {
        if let Request::VolumeDelete { name, force, snapshots } = &request
            && let Response::Volume(volume) = self.engine.request(Request::VolumeShow { name: name.clone() }).await?
        {
            check_deletion(&volume, *force, *snapshots)?;
        }
        let response = self.engine.request(request).await?;
        self.completed(response).await
    }

    async fn gather(&self) -> Result<MetricsSnapshot, Error> {
        let other = || Error::internal("the engine answered another question than was asked");
        let Response::Status(status) = self.engine.request(Request::Status).await? else { return Err(other()) };
        let Response::Disks(disks) = self.engine.request(Request::DiskList { pool: None }).await? else {
            return Err(other());
        };
        let Response::Volumes(volumes) = self.engine.request(Request::VolumeList { pool: None }).await? else {
            return Err(other());
        };
        let report = self.report().await?;
        let total = report.total();
        Ok(MetricsSnapshot {
            uptime_seconds: self.facts.started.elapsed().as_secs_f64(),
            pools: status.pools,
            disks: disks.into_iter().map(|disk| disk_metrics(disk, &report)).collect(),
            volumes: volumes.into_iter().map(|volume| volume_metrics(volume, &report)).collect(),
            faults: vec![("page", total.faults_page), ("grant", total.faults_grant)],
            regions_assigned: total.regions_assigned,
            regions_adjoining: total.regions_adjoining,
            map_commits: total.commits,
            flush_rounds: total.flush_rounds,
            pauses: total.pauses,
            pause_seconds: total.pause_nanos as f64 / 1e9,
            pause_seconds_max: total.pause_nanos_max as f64 / 1e9,
            tables: self.tables(&report),
            connections: report.connections,
            sessions: u64::from(status.sessions),
            schedule_failures: self.schedule_failures.load(Ordering::Relaxed),
            metadata: status.metadata,
            alerts: status.alerts,
        })
    }
}

impl ControlPlane for EnginePlane {
    fn request(&self, request: Request) -> Pending<'_, Result<Response, Error>> {
        Box::pin(self.ask(request))
    }

    fn metrics(&self) -> Pending<'_, Result<MetricsSnapshot, Error>> {
        Box::pin(self.gather())
    }
}

/// Refuses what would destroy data unasked, and says all it takes. (What a host has not flushed yet does not count, but
/// then the host has the volume attached, which the controller refuses.)
fn check_deletion(volume: &Volume, force: bool, snapshots: bool) -> Result<(), Error> {
    let lacks_snapshots = volume.snapshots > 0 && !snapshots;
    let lacks_force = volume.used_bytes > 0 && !force;
    if !lacks_snapshots && !lacks_force {
        return Ok(());
    }
    let name = &volume.name;
    let has = match volume.snapshots {
        0 => String::new(),
        1 => "has a snapshot".into(),
        count => format!("has {count} snapshots"),
    };
    let and = if has.is_empty() || volume.used_bytes == 0 { "" } else { " and " };
    let holds = if volume.used_bytes == 0 { String::new() } else { format!("holds {}", ByteSize(volume.used_bytes)) };
    let what = if volume.snapshots == 0 { "its data" } else { "all of that" };
    let with_snapshots = if volume.snapshots == 0 { "" } else { " --snapshots" };
    let with_force = if volume.used_bytes == 0 && !force { "" } else { " --force" };
    Err(Error::needs_force(format!(
        "volume {name:?} {has}{and}{holds}; to delete it with {what}: acre volume delete {name}{with_snapshots}{with_force}"
    )))
}

fn count_disk(disk: &mut Disk, report: &EngineReport) {
    let Some((counted, failed)) = report.disks.get(&DiskId(disk.id)) else { return };
    disk.counters = DiskCounters {
        reads: counted.reads,
        read_bytes: counted.read_bytes,
        writes: counted.writes,
        write_bytes: counted.write_bytes,
        flushes: counted.flushes,
        discards: counted.discards,
        errors: counted.errors,
    };
    if *failed {
        disk.state = DiskState::Failed;
    }
}

fn count_volume(volume: &mut Volume, report: &EngineReport) {
    let Some(found) = report.volumes.get(&VolumeId(volume.id)) else { return };
    let counted = &found.counters;
    volume.counters = VolumeCounters {
        reads: counted.reads,
        read_bytes: counted.read_bytes,
        hole_bytes: counted.hole_bytes,
        writes: counted.writes,
        write_bytes: counted.write_bytes,
        zero_write_bytes: counted.zero_write_bytes,
        trims: counted.zeroes,
        flushes: counted.flushes,
        faults_page: counted.faults_page,
        faults_grant: counted.faults_grant,
        out_of_space: counted.out_of_space,
        errors: counted.failed,
    };
}

fn disk_metrics(mut disk: Disk, report: &EngineReport) -> DiskMetrics {
    count_disk(&mut disk, report);
    DiskMetrics {
        id: disk.id,
        online: disk.state == DiskState::Online,
        pool: disk.pool,
        path: disk.path,
        size_bytes: disk.size_bytes,
        counters: disk.counters,
    }
}

fn volume_metrics(mut volume: Volume, report: &EngineReport) -> VolumeMetrics {
    count_volume(&mut volume, report);
    VolumeMetrics {
        name: volume.name,
        pool: volume.pool,
        size_bytes: volume.size_bytes,
        used_bytes: volume.used_bytes,
        snapshots: u64::from(volume.snapshots),
        snapshots_bytes: volume.space.snapshots_bytes,
        counters: volume.counters,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ErrorKind, VolumeSpace, VolumeState};

    fn volume(used_bytes: u64, snapshots: u32) -> Volume {
        Volume {
            id: 1,
            name: "web".into(),
            pool: "default".into(),
            state: VolumeState::Online,
            size_bytes: 1 << 30,
            region_bytes: 64 << 10,
            used_bytes,
            space: VolumeSpace::default(),
            snapshots,
            origin: None,
            flattening_percent: None,
            warn_bytes: None,
            limit_bytes: None,
            read_only: false,
            sessions: Vec::new(),
            counters: VolumeCounters::default(),
            alerts: Vec::new(),
        }
    }

    #[test]
    fn a_deletion_that_would_destroy_something_is_told_the_whole_command_that_does_it() {
        let refused = |used, count, force, snapshots| {
            let error = check_deletion(&volume(used, count), force, snapshots).unwrap_err();
            assert_eq!(error.kind, ErrorKind::NeedsForce);
            error.message
        };
        assert_eq!(
            refused(64 << 20, 0, false, false),
            "volume \"web\" holds 64 MiB; to delete it with its data: acre volume delete web --force"
        );
        assert_eq!(
            refused(64 << 20, 3, true, false),
            "volume \"web\" has 3 snapshots and holds 64 MiB; to delete it with all of that: acre volume delete web \
             --snapshots --force"
        );
        assert_eq!(
            refused(0, 1, false, false),
            "volume \"web\" has a snapshot; to delete it with all of that: acre volume delete web --snapshots"
        );
        assert!(refused(1, 1, false, true).ends_with(" --snapshots --force"));
        for (used, count, force, snapshots) in
            [(0, 0, false, false), (1, 0, true, false), (0, 2, false, true), (1, 2, true, true)]
        {
            assert_eq!(check_deletion(&volume(used, count), force, snapshots), Ok(()));
        }
    }
}
