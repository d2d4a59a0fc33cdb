//! A server in memory: volumes and snapshots as plain bytes, asked directly and read and written over real NBD sockets.

use crate::config::Address;
use crate::transfer::Operator;
use api::{
    Diff, DiffKind, DiffQuery, DiffRange, Error, ErrorKind, Request, Response, Snapshot, SnapshotIdentity,
    SnapshotState, Status, Volume, VolumeCounters, VolumeSpace, VolumeState, split_snapshot_name,
};
use nbd::memory::MemoryServer;
use nbd::server::{ExportInfo, Limits, ServerConfig, TlsPolicy};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard};
use tempfile::TempDir;

const BLOCK: usize = 4096;
const SECTOR: usize = 512;

#[derive(Clone, Default)]
struct Taken {
    id: u32,
    name: String,
    bytes: Vec<u8>,
    imported_from: Option<SnapshotIdentity>,
}

#[derive(Clone, Default)]
struct Disk {
    bytes: Vec<u8>,
    region_bytes: u64,
    snapshots: Vec<Taken>,
}

#[derive(Default)]
struct World {
    cluster: u128,
    next_id: u32,
    disks: BTreeMap<String, Disk>,
    /// Connections break once so many bytes have gone through them.
    budget_bytes: Option<usize>,
    connections: usize,
}

/// The stand-in.
pub(super) struct StandIn {
    world: Arc<Mutex<World>>,
    pub(super) folder: TempDir,
}

impl StandIn {
    pub(super) fn start(cluster: u128) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Arc::new(Mutex::new(World { cluster, next_id: cluster as u32 * 100, ..World::default() }));
        let listener = UnixListener::bind(folder.path().join("nbd.sock")).unwrap();
        let shared = Arc::clone(&world);
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let world = Arc::clone(&shared);
                world.lock().unwrap().connections += 1;
                std::thread::spawn(move || {
                    serve(socket, &world);
                    world.lock().unwrap().connections -= 1;
                });
            }
        });
        Self { world, folder }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// The world once every connection has ended: what was written on one that broke may come late.
    fn settled(&self) -> MutexGuard<'_, World> {
        loop {
            let world = self.world();
            if world.connections == 0 {
                return world;
            }
            drop(world);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    pub(super) fn nbd(&self) -> Address {
        Address::Unix(self.folder.path().join("nbd.sock"))
    }

    pub(super) fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.folder.path().join("nbd.sock").display())
    }

    pub(super) fn make(&self, name: &str, bytes: Vec<u8>) {
        let disk = Disk { bytes, region_bytes: 16 << 10, snapshots: Vec::new() };
        self.world().disks.insert(name.into(), disk);
    }

    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.settled().disks.get_mut(name).unwrap().bytes);
    }

    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        self.settled().view(name).unwrap()
    }

    pub(super) fn take(&self, full: &str) {
        self.settled().take(full, None).unwrap();
    }

    pub(super) fn rollback(&self, full: &str) {
        let bytes = self.bytes(full);
        self.change(full.split_once('@').unwrap().0, |live| *live = bytes);
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.world().disks.keys().cloned().collect()
    }

    pub(super) fn snapshots(&self, name: &str) -> usize {
        self.world().disks[name].snapshots.len()
    }

    pub(super) fn break_after(&self, bytes: Option<usize>) {
        self.world().budget_bytes = bytes;
    }
}

impl Operator for StandIn {
    fn ask(&self, request: &Request) -> Result<Response, Error> {
        let mut world = self.world();
        match request {
            Request::Status => Ok(Response::Status(Box::new(world.status()))),
            Request::VolumeShow { name } => world.volume(name).map(Response::Volume),
            Request::VolumeCreate(create) => {
                assert!(!world.disks.contains_key(&create.name));
                let bytes = vec![0; create.size_bytes as usize];
                let region_bytes = create.region_bytes.unwrap_or(65536);
                world.disks.insert(create.name.clone(), Disk { bytes, region_bytes, snapshots: Vec::new() });
                world.volume(&create.name).map(Response::Volume)
            }
            Request::VolumeRename { name, rename } => {
                let disk = world.disks.remove(name).unwrap();
                world.disks.insert(rename.new_name.clone(), disk);
                world.volume(&rename.new_name).map(Response::Volume)
            }
            Request::VolumeResize { name, resize } => {
                let bytes = &mut world.disks.get_mut(name).unwrap().bytes;
                assert!(resize.shrink || resize.size_bytes >= bytes.len() as u64);
                bytes.resize(resize.size_bytes as usize, 0);
                world.volume(name).map(Response::Volume)
            }
            Request::SnapshotList { volume: Some(volume) } => {
                let taken = world.disks.get(volume).map(|disk| disk.snapshots.clone()).unwrap_or_default();
                Ok(Response::Snapshots(taken.iter().map(|taken| shown(volume, taken)).collect()))
            }
            Request::SnapshotShow { name } => {
                let (volume, short) = split_snapshot_name(name)?;
                let disk = world.disks.get(volume).ok_or_else(|| missing(volume))?;
                let taken = disk.snapshots.iter().find(|taken| taken.name == short).ok_or_else(|| missing(name))?;
                Ok(Response::Snapshot(shown(volume, taken)))
            }
            Request::SnapshotCreate { create, .. } => {
                let shown = world.take(&create.snapshots[0], create.imported_from)?;
                Ok(Response::Snapshots(vec![shown]))
            }
            Request::Diff(query) => world.diff(query).map(Response::Diff),
            other => Err(Error::internal(format!("nobody asks {other:?} here"))),
        }
    }
}

fn missing(name: &str) -> Error {
    Error { kind: ErrorKind::NotFound, message: format!("there is no {name}") }
}

fn shown(volume: &str, taken: &Taken) -> Snapshot {
    Snapshot {
        id: taken.id,
        name: format!("{volume}@{}", taken.name),
        volume: volume.into(),
        state: SnapshotState::Ready,
        created_unix_seconds: u64::from(taken.id),
        size_bytes: taken.bytes.len() as u64,
        referenced_bytes: 0,
        unique_bytes: 0,
        scheduled: false,
        imported_from: taken.imported_from,
        clones: Vec::new(),
        progress_percent: None,
    }
}

impl World {
    fn view(&self, name: &str) -> Option<Vec<u8>> {
        match name.split_once('@') {
            None => self.disks.get(name).map(|disk| disk.bytes.clone()),
            Some((volume, short)) => {
                let taken = &self.disks.get(volume)?.snapshots;
                taken.iter().find(|taken| taken.name == short).map(|taken| taken.bytes.clone())
            }
        }
    }

    fn take(&mut self, full: &str, imported_from: Option<SnapshotIdentity>) -> Result<Snapshot, Error> {
        let (volume, short) = split_snapshot_name(full)?;
        self.next_id += 1;
        let id = self.next_id;
        let disk = self.disks.get_mut(volume).ok_or_else(|| missing(volume))?;
        assert!(disk.snapshots.iter().all(|taken| taken.name != short));
        disk.snapshots.push(Taken { id, name: short.into(), bytes: disk.bytes.clone(), imported_from });
        Ok(shown(volume, &disk.snapshots[disk.snapshots.len() - 1]))
    }

    fn diff(&self, query: &DiffQuery) -> Result<Diff, Error> {
        let view = |name: &str| self.view(name).ok_or_else(|| missing(name));
        let (from, to) = (query.from.as_deref().map_or(Ok(Vec::new()), view)?, view(&query.to)?);
        let mut ranges: Vec<DiffRange> = Vec::new();
        let mut next_offset_bytes = None;
        for (index, block) in to.chunks(BLOCK).enumerate().skip(query.offset as usize / BLOCK) {
            let start = index * BLOCK;
            let mut old = from.get(start..from.len().min(start + BLOCK)).unwrap_or_default().to_vec();
            old.resize(block.len(), 0);
            if old == block {
                continue;
            }
            let kind = if block.iter().all(|byte| *byte == 0) { DiffKind::Zero } else { DiffKind::Data };
            let is_full = ranges.len() == 3;
            match ranges.last_mut() {
                Some(last) if last.kind == kind && last.offset_bytes + last.length_bytes == start as u64 => {
                    last.length_bytes += block.len() as u64;
                }
                // Small answers, so that there are many.
                _ if is_full => {
                    next_offset_bytes = Some(start as u64);
                    break;
                }
                _ => ranges.push(DiffRange { offset_bytes: start as u64, length_bytes: block.len() as u64, kind }),
            }
        }
        Ok(Diff {
            from: query.from.clone(),
            to: query.to.clone(),
            size_bytes: to.len() as u64,
            from_size_bytes: from.len() as u64,
            ranges,
            next_offset_bytes,
            data_bytes: 0,
            zero_bytes: 0,
        })
    }

    fn volume(&self, name: &str) -> Result<Volume, Error> {
        let disk = self.disks.get(name).ok_or_else(|| missing(name))?;
        Ok(Volume {
            id: 1,
            name: name.into(),
            pool: "default".into(),
            state: VolumeState::Online,
            size_bytes: disk.bytes.len() as u64,
            region_bytes: disk.region_bytes,
            used_bytes: 0,
            space: VolumeSpace::default(),
            snapshots: 0,
            origin: None,
            flattening_percent: None,
            warn_bytes: None,
            limit_bytes: None,
            read_only: false,
            sessions: Vec::new(),
            counters: VolumeCounters::default(),
            alerts: Vec::new(),
        })
    }

    fn status(&self) -> Status {
        Status {
            version: String::new(),
            cluster: format!("{:032x}", self.cluster),
            uptime_seconds: 0,
            threads: 1,
            io_engine: String::new(),
            listeners: Vec::new(),
            pools: Vec::new(),
            disks: 0,
            volumes: 0,
            sessions: 0,
            connections: 0,
            metadata: api::MetadataUsage::default(),
            tables: api::TableUsage::default(),
            alerts: Vec::new(),
        }
    }

    /// Whether a connection may move so many bytes more.
    fn may_move(&mut self, bytes: usize) -> bool {
        let left = self.budget_bytes.map(|budget| budget.checked_sub(bytes));
        match left {
            None => true,
            Some(None) => false,
            Some(left) => {
                self.budget_bytes = left;
                true
            }
        }
    }
}

/// The export that an option of the handshake names.
fn named(bytes: &[u8]) -> Option<String> {
    let at = bytes.windows(8).position(|window| window == b"IHAVEOPT")?;
    let code = u32::from_be_bytes(*bytes.get(at + 8..)?.first_chunk()?);
    let length = u32::from_be_bytes(*bytes.get(at + 16..)?.first_chunk()?);
    let name = bytes.get(at + 20..at + 20 + length as usize)?;
    matches!(code, 7 | 10).then(|| String::from_utf8_lossy(name).into_owned())
}

fn serve(mut socket: UnixStream, world: &Mutex<World>) {
    let config = ServerConfig { tls: TlsPolicy::Off, limits: Limits::default() };
    let mut server = MemoryServer::new(config, ExportInfo::new("nothing", 0));
    let mut buffer = vec![0; 64 << 10];
    loop {
        loop {
            let said = server.say(1 << 20);
            if said.is_empty() {
                break;
            }
            if !world.lock().unwrap().may_move(said.len()) || socket.write_all(&said).is_err() {
                return;
            }
        }
        let Ok(length @ 1..) = socket.read(&mut buffer) else { return };
        if !world.lock().unwrap().may_move(length) {
            return;
        }
        let mut heard = &buffer[..length];
        if let Some(name) = named(heard)
            && let Some(bytes) = world.lock().unwrap().view(&name)
        {
            server.export = ExportInfo::new(name, bytes.len() as u64);
            let sectors = bytes.as_chunks::<SECTOR>().0.iter().enumerate();
            let held = sectors.filter(|(_, sector)| sector.iter().any(|byte| *byte != 0));
            server.sectors = held.map(|(index, sector)| (index as u64, *sector)).collect();
        }
        while !heard.is_empty() {
            let taken = server.hear(heard);
            heard = &heard[taken..];
            if taken == 0 {
                let said = server.say(1 << 20);
                if socket.write_all(&said).is_err() {
                    return;
                }
            }
        }
        // What a host was told is written is there for everybody, before it is told.
        if let Some(disk) = world.lock().unwrap().disks.get_mut(&server.export.name) {
            disk.bytes.fill(0);
            for (index, sector) in &server.sectors {
                if let Some(place) = disk.bytes.get_mut(*index as usize * SECTOR..(*index as usize + 1) * SECTOR) {
                    place.copy_from_slice(sector);
                }
            }
        }
    }
}
