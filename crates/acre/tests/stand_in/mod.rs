//! A stand-in for the engines: pools, disks and volumes as plain lists, behind the real HTTP server.
#![forbid(unsafe_code)]
#![allow(dead_code, reason = "each test program uses a part of it")]

mod snapshots;

use acre::control::{ControlPlane, Pending};
use acre::http::{self, ApiState, Limits};
use acre::metrics::{MetricsSnapshot, VolumeMetrics};
use acre::tls::ServerTls;
use api::{
    AuditFinding, AuditReport, Disk, DiskAdd, DiskCounters, DiskState, Error, Extent, ExtentState, FindingKind,
    Listener, MetadataUsage, PhysicalRun, Pool, PoolCreate, PoolState, Request, Response, Schedule, Session, Snapshot,
    Status, Volume, VolumeCounters, VolumeCreate, VolumeMap, VolumeMapQuery, VolumeSpace, VolumeState, check_name,
};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use tempfile::TempDir;
use tokio::sync::watch;

/// The token of every server here.
pub(crate) const TOKEN: &str = "7f0c";

#[derive(Default)]
struct State {
    pools: Vec<Pool>,
    disks: Vec<Disk>,
    volumes: Vec<Volume>,
    snapshots: Vec<Snapshot>,
    snapshots_made: u32,
    schedules: Vec<Schedule>,
    /// Snapshots that hosts have attached.
    attached: BTreeSet<String>,
    is_damaged: bool,
}

/// The stand-in.
#[derive(Default)]
pub(crate) struct StandIn(Mutex<State>);

impl StandIn {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the audit finds something.
    pub(crate) fn damage(&self) {
        self.state().is_damaged = true;
    }

    /// As if a host had attached the volume and written to it.
    pub(crate) fn write(&self, name: &str, bytes: u64) {
        let mut state = self.state();
        let volume = state.volumes.iter_mut().find(|volume| volume.name == name).expect("the volume is there");
        volume.used_bytes += bytes;
        volume.sessions = vec![Session { epoch: 1, holder: "agent-0".into(), read_only: false }];
    }

    /// As if a host had attached the snapshot.
    pub(crate) fn attach(&self, snapshot: &str) {
        self.state().attached.insert(snapshot.into());
    }

    fn answer(&self, request: Request) -> Result<Response, Error> {
        let mut state = self.state();
        match request {
            Request::PoolCreate(pool) => state.create_pool(pool),
            Request::PoolList => Ok(Response::Pools(state.pools.clone())),
            Request::PoolShow { name } => state.pool(&name).map(Response::Pool),
            Request::PoolDelete { name } => {
                state.pool(&name)?;
                state.pools.retain(|pool| pool.name != name);
                Ok(Response::Done)
            }
            Request::DiskAdd(disk) => state.add_disk(disk),
            Request::DiskList { pool } => Ok(Response::Disks(
                state
                    .disks
                    .iter()
                    .filter(|disk| pool.as_ref().is_none_or(|pool| *pool == disk.pool))
                    .cloned()
                    .collect(),
            )),
            Request::DiskShow { id } => {
                let found = state.disks.iter().find(|disk| disk.id == id).cloned();
                found.map(Response::Disk).ok_or_else(|| Error::not_found(format!("there is no disk-{id}")))
            }
            Request::VolumeCreate(volume) => state.create_volume(volume),
            Request::VolumeList { pool } => Ok(Response::Volumes(
                state
                    .volumes
                    .iter()
                    .filter(|volume| pool.as_ref().is_none_or(|p| *p == volume.pool))
                    .cloned()
                    .collect(),
            )),
            Request::VolumeShow { name } => state.volume(&name).map(|volume| Response::Volume(volume.clone())),
            Request::VolumeSet { name, set } => {
                let volume = state.volume(&name)?;
                let limit = |old, new: Option<u64>| new.map_or(old, |new| (new != 0).then_some(new));
                volume.warn_bytes = limit(volume.warn_bytes, set.warn_bytes);
                volume.limit_bytes = limit(volume.limit_bytes, set.limit_bytes);
                volume.read_only = set.read_only.unwrap_or(volume.read_only);
                Ok(Response::Volume(volume.clone()))
            }
            Request::VolumeResize { name, resize } => {
                let volume = state.volume(&name)?;
                if resize.size_bytes < volume.size_bytes && !resize.shrink {
                    return Err(Error::needs_force("what lies beyond would be lost; allow it with --shrink"));
                }
                volume.size_bytes = resize.size_bytes;
                Ok(Response::Volume(volume.clone()))
            }
            Request::VolumeRename { name, rename } => {
                let volume = state.volume(&name)?;
                volume.name = rename.new_name;
                Ok(Response::Volume(volume.clone()))
            }
            Request::VolumeDelete { name, force, snapshots } => {
                let volume = state.volume(&name)?;
                if volume.snapshots > 0 && !snapshots {
                    return Err(Error::needs_force(format!("volume {name:?} has snapshots; say --snapshots")));
                }
                if !volume.sessions.is_empty() && !force {
                    return Err(Error::busy(format!(
                        "volume {name:?} is attached; to delete it all the same: --force"
                    )));
                }
                state.volumes.retain(|volume| volume.name != name);
                state.snapshots.retain(|snapshot| snapshot.volume != name);
                Ok(Response::Done)
            }
            Request::VolumeMap { name, query } => state.volume(&name).map(|volume| map_of(volume, query)),
            Request::Status => Ok(Response::Status(Box::new(state.status()))),
            Request::Audit => Ok(Response::Audit(state.audit())),
            other => state.answer_of_snapshots(other),
        }
    }
}

impl State {
    fn pool(&self, name: &str) -> Result<Pool, Error> {
        let found = self.pools.iter().find(|pool| pool.name == name).cloned();
        found.ok_or_else(|| Error::not_found(format!("there is no pool {name:?}")))
    }

    fn volume(&mut self, name: &str) -> Result<&mut Volume, Error> {
        let found = self.volumes.iter_mut().find(|volume| volume.name == name);
        found.ok_or_else(|| Error::not_found(format!("there is no volume {name:?}")))
    }

    fn create_pool(&mut self, new: PoolCreate) -> Result<Response, Error> {
        check_name("pool", &new.name)?;
        if self.pool(&new.name).is_ok() {
            return Err(Error::exists(format!("there is a pool {:?} already", new.name)));
        }
        let pool = Pool {
            id: self.pools.len() as u32 + 1,
            name: new.name,
            raid: new.raid,
            state: PoolState::Healthy,
            capacity_bytes: 10 << 30,
            used_bytes: 1 << 30,
            granted_bytes: 1 << 20,
            free_bytes: (9 << 30) - (1 << 20),
            provisioned_bytes: 0,
            logical_disks_bytes: 2 << 30,
            logical_disks: 1,
            disks: vec![1],
            volumes: 0,
            warn_bytes: new.warn_bytes,
            limit_bytes: new.limit_bytes,
            growth_bytes: new.growth_bytes.unwrap_or(1 << 30),
            alerts: Vec::new(),
        };
        self.pools.push(pool.clone());
        Ok(Response::Pool(pool))
    }

    fn add_disk(&mut self, new: DiskAdd) -> Result<Response, Error> {
        if new.path.ends_with("foreign") && !new.force {
            return Err(Error::needs_force(format!("{} holds something else; to take it: --force", new.path)));
        }
        let disk = Disk {
            id: self.disks.len() as u32 + 1,
            pool: new.pool.unwrap_or_else(|| "default".into()),
            path: new.path,
            state: DiskState::Online,
            size_bytes: new.size_bytes.unwrap_or(1 << 40),
            chunklet_bytes: 256 << 20,
            chunklets: 40,
            chunklets_used: 4,
            counters: DiskCounters { reads: 5, ..DiskCounters::default() },
        };
        self.disks.push(disk.clone());
        Ok(Response::Disk(disk))
    }

    fn create_volume(&mut self, new: VolumeCreate) -> Result<Response, Error> {
        check_name("volume", &new.name)?;
        let pool = new.pool.unwrap_or_else(|| "default".into());
        self.pool(&pool)?;
        if self.volume(&new.name).is_ok() {
            return Err(Error::exists(format!("there is a volume {:?} already", new.name)));
        }
        let volume = Volume {
            id: self.volumes.len() as u32 + 1,
            name: new.name,
            pool,
            state: VolumeState::Online,
            size_bytes: new.size_bytes,
            region_bytes: new.region_bytes.unwrap_or(64 << 10),
            used_bytes: 0,
            space: VolumeSpace::default(),
            snapshots: 0,
            origin: None,
            flattening_percent: None,
            warn_bytes: new.warn_bytes,
            limit_bytes: new.limit_bytes,
            read_only: new.read_only,
            sessions: Vec::new(),
            counters: VolumeCounters::default(),
            alerts: Vec::new(),
        };
        self.volumes.push(volume.clone());
        Ok(Response::Volume(volume))
    }

    fn status(&self) -> Status {
        Status {
            version: "0".into(),
            cluster: "c".repeat(32),
            uptime_seconds: 3700,
            threads: 2,
            io_engine: "uring".into(),
            listeners: vec![Listener { protocol: "nbd".into(), address: "127.0.0.1:10809".into(), tls: "off".into() }],
            pools: self.pools.clone(),
            disks: self.disks.len() as u32,
            volumes: self.volumes.len() as u32,
            sessions: 0,
            connections: 0,
            metadata: MetadataUsage { used_bytes: 1 << 20, free_bytes: 1 << 30 },
            tables: api::TableUsage {
                used_bytes: 3 << 20,
                limit_bytes: 64 << 20,
                pages: 5,
                ..api::TableUsage::default()
            },
            alerts: Vec::new(),
        }
    }

    fn audit(&self) -> AuditReport {
        let mut report = AuditReport { clean: true, volumes: self.volumes.len() as u32, ..AuditReport::default() };
        if self.is_damaged {
            report.add(AuditFinding {
                kind: FindingKind::Double,
                logical_disk: Some(1),
                unit: Some(4),
                units: 4,
                message: "ld-1+4 (4 units) is owned by volume-1 and by volume-2".into(),
            });
        }
        report
    }
}

/// A map of ten extents, two an answer at most.
fn map_of(volume: &Volume, query: VolumeMapQuery) -> Response {
    let region = volume.region_bytes;
    let first = query.offset / region;
    let count = u64::from(query.limit()).min(2).min(10 - first.min(10));
    let extents = (first..first + count).map(|index| Extent {
        offset_bytes: index * region,
        length_bytes: region,
        state: if index % 2 == 0 { ExtentState::Data } else { ExtentState::Zero },
        written_bytes: None,
        logical_disk: (index % 2 == 0).then_some(1),
        logical_offset_bytes: (index % 2 == 0).then_some(index * region),
        physical: if index % 2 == 0 {
            vec![PhysicalRun { disk: 1, offset_bytes: (1 << 20) + index * region, length_bytes: region }]
        } else {
            Vec::new()
        },
    });
    Response::VolumeMap(VolumeMap {
        volume: volume.name.clone(),
        size_bytes: volume.size_bytes,
        region_bytes: region,
        extents: extents.collect(),
        next_offset_bytes: (first + count < 10).then_some((first + count) * region),
        mapped_regions: 5,
        mapped_extents: 5,
        fragmentation: 0.25,
    })
}

impl ControlPlane for StandIn {
    fn request(&self, request: Request) -> Pending<'_, Result<Response, Error>> {
        Box::pin(async move { self.answer(request) })
    }

    fn metrics(&self) -> Pending<'_, Result<MetricsSnapshot, Error>> {
        let state = self.state();
        let volumes = state.volumes.iter().map(|volume| VolumeMetrics {
            name: volume.name.clone(),
            used_bytes: volume.used_bytes,
            ..VolumeMetrics::default()
        });
        let snapshot = MetricsSnapshot { volumes: volumes.collect(), ..MetricsSnapshot::default() };
        Box::pin(async move { Ok(snapshot) })
    }
}

/// A served stand-in.
pub(crate) struct Server {
    pub(crate) folder: TempDir,
    pub(crate) stand_in: Arc<StandIn>,
    /// The TCP listener's address.
    pub(crate) tcp: String,
    leave: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves a stand-in on a Unix socket and on TCP.
    pub(crate) fn start(limits: Limits) -> Self {
        Self::with_tls(limits, None)
    }

    /// The same, with TLS on TCP.
    pub(crate) fn with_tls(limits: Limits, tls: Option<ServerTls>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let stand_in = Arc::new(StandIn::default());
        let unix = format!("unix:{}", folder.path().join("api.sock").display());
        let mut listeners = http::bind(&unix.parse().expect("an address")).expect("a Unix socket");
        listeners.extend(http::bind(&"127.0.0.1:0".parse().expect("an address")).expect("a TCP socket"));
        let tcp = listeners[1].address().to_string();
        let state = ApiState { control: Arc::clone(&stand_in) as Arc<dyn ControlPlane>, token: TOKEN.into() };
        let (leave, leaving) = watch::channel(false);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(http::serve(listeners, state, tls.map(Arc::new), limits, leaving)).expect("it serves");
        });
        Self { folder, stand_in, tcp, leave, thread: Some(thread) }
    }

    /// Where its Unix socket is.
    pub(crate) fn unix(&self) -> String {
        format!("unix:{}", self.folder.path().join("api.sock").display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.leave.send_replace(true);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server ends without a panic");
        }
    }
}
