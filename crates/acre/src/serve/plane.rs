//! The engines as operators see them: the controller's answers, completed by what only this process knows.

use crate::control::{ControlPlane, Pending};
use crate::engine::{EngineHandle, EngineReport};
use crate::metrics::{DiskMetrics, MetricsSnapshot, VolumeMetrics};
use api::{Disk, DiskCounters, DiskState, Error, Request, Response, Status, Volume, VolumeCounters};
use model::{ByteSize, DiskId, VolumeId};
use reactor::Backend;
use std::sync::Arc;
use std::time::Instant;

/// What does not change while a server runs.
pub(super) struct Facts {
    pub(super) started: Instant,
    pub(super) threads: u32,
    pub(super) listeners: Vec<api::Listener>,
}

/// The engines behind the operator API.
pub(super) struct EnginePlane {
    engine: Arc<EngineHandle>,
    facts: Facts,
}

impl EnginePlane {
    pub(super) fn new(engine: Arc<EngineHandle>, facts: Facts) -> Self {
        Self { engine, facts }
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
    }

    async fn ask(&self, request: Request) -> Result<Response, Error> {
        if let Request::VolumeDelete { name, force: false, .. } = &request {
            self.check_empty(name).await?;
        }
        let response = self.engine.request(request).await?;
        self.completed(response).await
    }

    /// Refuses what would destroy data unasked. (What a host has not flushed yet does not count, but then the host has
    /// the volume attached, which the controller refuses.)
    async fn check_empty(&self, name: &str) -> Result<(), Error> {
        let shown = self.engine.request(Request::VolumeShow { name: name.into() }).await?;
        if let Response::Volume(volume) = shown
            && volume.used_bytes > 0
        {
            return Err(Error::needs_force(format!(
                "volume {name:?} holds {}; to delete it with its data: acre volume delete {name} --force",
                ByteSize(volume.used_bytes)
            )));
        }
        Ok(())
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
        let mut total = report.past;
        report.volumes.values().for_each(|volume| total.add(&volume.counters));
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
            table_bytes: report.volumes.values().map(|volume| volume.table_bytes as u64).sum(),
            connections: report.connections,
            sessions: u64::from(status.sessions),
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
        counters: volume.counters,
    }
}
