//! Starting after kill -9, with much mapped: a copy of the store's file, taken while it is open, is opened.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use model::VolumeId;
use rustix::fs::{Advice, fadvise};
use serde::Serialize;

use crate::map::mapper::Mapper;
use crate::map::measure::{contents, controller_bytes};
use crate::map::random::Random;
use crate::map::world::World;

/// How often each start is measured.
const ROUNDS: u64 = 5;
const PIB: u64 = 1 << 50;

/// How a store with much mapped starts.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Start {
    pub(crate) mapped_bytes: u64,
    pub(crate) scattered_bytes: u64,
    /// How long it took to build, in seconds.
    pub(crate) built_seconds: f64,
    pub(crate) file_bytes: u64,
    pub(crate) metadata_bytes: u64,
    pub(crate) allocation_bytes: u64,
    pub(crate) grant_pairs: u64,
    pub(crate) controller_bytes: u64,
    pub(crate) starts: Starts,
}

/// Starts from copies of one store.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Starts {
    /// With the file in the system's cache.
    pub(crate) warm: Vec<Times>,
    /// With nothing of it there.
    pub(crate) cold: Vec<Times>,
}

/// One start, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Times {
    pub(crate) open: f64,
    pub(crate) recover: f64,
    pub(crate) start: f64,
    pub(crate) attach: f64,
    pub(crate) first_read: f64,
    pub(crate) total: f64,
}

/// Builds a store with `contiguous_bytes` and then `scattered_bytes` mapped, and starts from it again and again.
pub(crate) fn measure(folder: &Path, contiguous_bytes: u64, scattered_bytes: u64) -> Result<Start> {
    let begun = Instant::now();
    let path = folder.join("mapped.redb");
    let (mut world, _) = World::open(&path)?;
    world.make_pool((contiguous_bytes + 2 * scattered_bytes) / 8 * 9 + (64 << 30))?;
    let volume = world.make_volume("mapped", PIB)?;
    let mut mapper = Mapper::attach(&mut world, volume)?;
    let region_bytes = model::RegionSize::DEFAULT.bytes();
    mapper.map_contiguous(&mut world, contiguous_bytes / region_bytes)?;
    mapper.map_scattered(&mut world, scattered_bytes / region_bytes)?;
    mapper.hold_a_grant(&mut world)?;
    let built_seconds = begun.elapsed().as_secs_f64();
    let kept = contents(world.view())?;
    let controller = controller_bytes(&path, folder)?;
    let file_bytes = world.file_bytes()?;
    let starts = starts(&path, folder, volume, contiguous_bytes + 2 * scattered_bytes)?;
    drop(world);
    std::fs::remove_file(&path)?;
    Ok(Start {
        mapped_bytes: contiguous_bytes + scattered_bytes,
        scattered_bytes,
        built_seconds,
        file_bytes,
        metadata_bytes: kept.bytes,
        allocation_bytes: kept.of("allocation").bytes,
        grant_pairs: kept.of("grants").pairs,
        controller_bytes: controller,
        starts,
    })
}

/// Kills whoever has the store open, so to speak, and starts from what is left of it, again and again.
pub(crate) fn starts(store: &Path, folder: &Path, volume: VolumeId, span_bytes: u64) -> Result<Starts> {
    let mut copies = Copies { path: store, folder, volume, span_bytes, made: 0 };
    Ok(Starts {
        warm: (0..ROUNDS).map(|_| copies.start(false)).collect::<Result<_>>()?,
        cold: (0..ROUNDS).map(|_| copies.start(true)).collect::<Result<_>>()?,
    })
}

/// Copies of a store that is open, each to be started from once.
struct Copies<'a> {
    path: &'a Path,
    folder: &'a Path,
    volume: VolumeId,
    span_bytes: u64,
    made: u64,
}

impl Copies<'_> {
    fn make(&mut self, cold: bool) -> Result<PathBuf> {
        self.made += 1;
        let path = self.folder.join(format!("killed-{}.redb", self.made));
        std::fs::copy(self.path, &path).context("copying the open store")?;
        let file = File::open(&path)?;
        file.sync_all()?;
        if cold {
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
        Ok(path)
    }

    fn start(&mut self, cold: bool) -> Result<Times> {
        let path = self.make(cold)?;
        let begun = Instant::now();
        let (mut world, parts) = World::open(&path)?;
        let settled = Instant::now();
        let volume = world.attach(self.volume)?;
        let attached = Instant::now();
        let mut random = Random::new(self.made);
        let offset = random.below(self.span_bytes / 4096) * 4096;
        let read = world.read(&volume, offset, 4096)?;
        let answered = Instant::now();
        ensure!(read <= 4096, "a read gives what was asked for");
        drop(world);
        std::fs::remove_file(&path)?;
        Ok(Times {
            open: millis(parts.open),
            recover: millis(parts.recover),
            start: millis(parts.start),
            attach: millis(attached - settled),
            first_read: millis(answered - attached),
            total: millis(answered - begun),
        })
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
