//! Fills a volume through the engines, and says what the map then takes.

use std::path::Path;
use std::time::{Duration, Instant};

use agent::HostVolume;
use anyhow::{Context, Result};
use api::VolumeMapQuery;
use controller::inspect::volume_map;
use model::{BranchId, VolumeId};
use serde::Serialize;
use store::records::{Record, VolumeRecord};
use store::{Key, KeyRange, StoreView};

use crate::map::measure::{Contents, compacted_bytes, contents, controller_bytes, folded, per_tib};
use crate::map::random::Random;
use crate::map::world::World;

/// What the map of one fill came to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    /// How many host writes.
    pub(crate) writes: u64,
    /// How many host flushes.
    pub(crate) flushes: u64,
    /// Space of mapped regions, in bytes.
    pub(crate) mapped_bytes: u64,
    pub(crate) regions: u64,
    /// Runs contiguous on both sides.
    pub(crate) extents: u64,
    /// 0 is contiguous throughout, 1 scattered throughout.
    pub(crate) fragmentation: f64,
    /// Regions that were put right beside a neighbour.
    pub(crate) adjoining: u64,
    /// Granted, not mapped.
    pub(crate) granted_regions: u64,
    /// The agent's table.
    pub(crate) table_bytes: u64,
    pub(crate) table_bytes_per_tib: f64,
    pub(crate) table_bytes_per_region: f64,
    /// A controller of this store, in memory, as it is after a start.
    pub(crate) controller_bytes: u64,
    /// What its allocation bitmaps and the rest take for each TiB mapped (in this store, all volumes).
    pub(crate) controller_bytes_per_tib: f64,
    /// Keys and values that came with this fill.
    pub(crate) metadata_bytes: u64,
    pub(crate) metadata_bytes_per_tib: f64,
    pub(crate) metadata_bytes_per_region: f64,
    /// Of them the table, as it is and with every page folded.
    pub(crate) table_pairs: u64,
    pub(crate) table_stored_bytes: u64,
    pub(crate) table_folded_bytes: u64,
    pub(crate) grant_pairs: u64,
    pub(crate) allocation_stored_bytes: u64,
    /// The store's file, as it lies there, and written afresh.
    pub(crate) file_bytes: u64,
    pub(crate) file_compacted_bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) nanos_per_write: f64,
    /// The same without the store's transactions.
    pub(crate) engine_nanos_per_write: f64,
    /// For each region mapped for the first time, if any was.
    pub(crate) nanos_per_region: Option<f64>,
    pub(crate) engine_nanos_per_region: Option<f64>,
    pub(crate) transactions: u64,
    pub(crate) commits: u64,
}

/// How a volume is filled.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fill {
    /// Sequential writes of so many bytes.
    Sequential { span_bytes: u64, write_bytes: u32 },
    /// One 4 KiB write into each region, regions in random order.
    EachOnce { span_bytes: u64 },
    /// So many 4 KiB writes anywhere.
    Random { span_bytes: u64, writes: u64 },
}

/// Where a fill takes place.
pub(crate) struct Place<'a> {
    pub(crate) world: &'a mut World,
    pub(crate) id: VolumeId,
    pub(crate) volume: HostVolume,
    /// What the store held before the first fill of this volume.
    pub(crate) before: Contents,
    pub(crate) folder: &'a Path,
}

impl Place<'_> {
    /// Fills, flushing after every `flush_bytes` of written data (or as much as one write).
    pub(crate) fn fill(&mut self, fill: Fill, flush_every: u64) -> Result<Figures> {
        let begun = Instant::now();
        let (committing, transactions) = (self.world.committing, self.world.transactions);
        let commits = self.world.report(self.id)?.counters.commits;
        let assigned = self.world.report(self.id)?.counters.regions_assigned;
        let (mut writes, mut flushes) = (0, 0);
        let mut random = Random::new(42);
        let (count, mut order) = self.plan(fill, &mut random);
        let mut next = order.drain(..);
        for at in 0..count {
            let (offset, length) = match fill {
                Fill::Sequential { write_bytes, .. } => (at * u64::from(write_bytes), write_bytes),
                Fill::EachOnce { .. } => {
                    let region = u64::from(next.next().context("each region is drawn once")?);
                    let size = self.volume.region_size;
                    (region * size.bytes() + random.below(u64::from(size.blocks())) * 4096, 4096)
                }
                Fill::Random { span_bytes, .. } => (random.below(span_bytes / 4096) * 4096, 4096),
            };
            self.world.write(&self.volume, offset, length)?;
            writes += 1;
            if writes % flush_every == 0 || writes == count {
                self.world.flush(&self.volume)?;
                flushes += 1;
            }
        }
        let took = begun.elapsed();
        let committing = self.world.committing - committing;
        let mut figures = self.figures(took, took.saturating_sub(committing), assigned, writes)?;
        figures.flushes = flushes;
        figures.transactions = self.world.transactions - transactions;
        figures.commits = self.world.report(self.id)?.counters.commits - commits;
        Ok(figures)
    }

    fn plan(&self, fill: Fill, random: &mut Random) -> (u64, Vec<u32>) {
        match fill {
            Fill::Sequential { span_bytes, write_bytes } => (span_bytes / u64::from(write_bytes), Vec::new()),
            Fill::Random { writes, .. } => (writes, Vec::new()),
            Fill::EachOnce { span_bytes } => {
                let regions = span_bytes / self.volume.region_size.bytes();
                let mut order: Vec<u32> = (0..regions as u32).collect();
                random.shuffle(&mut order);
                (regions, order)
            }
        }
    }

    fn figures(&self, took: Duration, engines: Duration, assigned: u64, writes: u64) -> Result<Figures> {
        let report = self.world.report(self.id)?;
        let view = self.world.view();
        let now = contents(view)?;
        let map = volume_map(view, self.id, VolumeMapQuery { offset: 0, limit: Some(1) })
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let size = self.volume.region_size;
        let mapped_bytes = map.mapped_regions * size.bytes();
        let branch = branch_of(view, self.id)?;
        let table_folded = folded(view, &KeyRange::table(branch), size)?;
        let table = now.of("table").bytes - self.before.of("table").bytes;
        let controller = controller_bytes(self.world.path(), self.folder)?;
        let per_region = |bytes: u64| bytes as f64 / map.mapped_regions as f64;
        let assigned = report.counters.regions_assigned - assigned;
        let nanos = |time: Duration, of: u64| time.as_nanos() as f64 / of as f64;
        let metadata_bytes = now.since(&self.before);
        Ok(Figures {
            writes,
            flushes: 0,
            mapped_bytes,
            regions: map.mapped_regions,
            extents: map.mapped_extents,
            fragmentation: map.fragmentation,
            adjoining: report.counters.regions_adjoining,
            granted_regions: report.granted_regions,
            table_bytes: report.table_bytes as u64,
            table_bytes_per_tib: per_tib(report.table_bytes as u64, mapped_bytes),
            table_bytes_per_region: per_region(report.table_bytes as u64),
            controller_bytes: controller,
            controller_bytes_per_tib: per_tib(controller, mapped_bytes),
            metadata_bytes,
            metadata_bytes_per_tib: per_tib(metadata_bytes, mapped_bytes),
            metadata_bytes_per_region: per_region(metadata_bytes),
            table_pairs: now.of("table").pairs - self.before.of("table").pairs,
            table_stored_bytes: table,
            table_folded_bytes: table_folded.bytes,
            grant_pairs: now.of("grants").pairs,
            allocation_stored_bytes: now.of("allocation").bytes - self.before.of("allocation").bytes,
            file_bytes: self.world.file_bytes()?,
            file_compacted_bytes: compacted_bytes(view, &self.folder.join("compacted.redb"))?,
            seconds: took.as_secs_f64(),
            nanos_per_write: nanos(took, writes),
            engine_nanos_per_write: nanos(engines, writes),
            nanos_per_region: (assigned > 0).then(|| nanos(took, assigned)),
            engine_nanos_per_region: (assigned > 0).then(|| nanos(engines, assigned)),
            transactions: 0,
            commits: 0,
        })
    }
}

/// The branch that a volume's table is under.
pub(crate) fn branch_of(view: &impl StoreView, volume: VolumeId) -> Result<BranchId> {
    let record = view.get(&Key::Volume(volume).encode())?.context("the volume has a record")?;
    Ok(VolumeRecord::decode(&record)?.branch)
}
