//! What a request pays for the map: reads through the agent, and the table alone.

use std::hint::black_box;
use std::time::Instant;

use agent::HostVolume;
use anyhow::Result;
use mapping::{PageTable, Segments};
use model::{ByteRange, VolumeId};
use serde::Serialize;
use store::KeyRange;

use crate::map::fill::branch_of;
use crate::map::measure::pages;
use crate::map::random::Random;
use crate::map::world::World;

/// How often each is measured; the medians count.
const ROUNDS: usize = 7;

/// Nanoseconds for one 4 KiB read at random.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cost {
    /// Over so many bytes.
    pub(crate) span_bytes: u64,
    /// The whole way through the agent, with a node that answers at once.
    pub(crate) request_nanos: f64,
    /// Which share of the reads asked a disk; the others found holes.
    pub(crate) from_disk: f64,
    /// Resolving the range in the table, to disk places.
    pub(crate) resolve_nanos: f64,
    /// Looking one region up.
    pub(crate) entry_nanos: f64,
}

/// Measures every span in turn, several times, so that the machine's moods hit all alike.
pub(crate) fn costs(
    world: &mut World,
    id: VolumeId,
    volume: &HostVolume,
    spans: &[u64],
    reads: u64,
) -> Result<Vec<Cost>> {
    let table = table_of(world, id, volume)?;
    let mut random = Random::new(3);
    let mut requests = vec![Vec::new(); spans.len()];
    let mut shares = vec![0.0; spans.len()];
    let mut resolves = vec![Vec::new(); spans.len()];
    let mut entries = vec![Vec::new(); spans.len()];
    for round in 0..=ROUNDS {
        for (index, span) in spans.iter().enumerate() {
            let (request, from_disk) = requests_nanos(world, volume, *span, reads, &mut random)?;
            shares[index] = from_disk;
            let resolve = resolve_nanos(&table, *span, reads, &mut random);
            let entry = entry_nanos(&table, *span, reads, &mut random);
            // The first round only warms.
            if round > 0 {
                requests[index].push(request);
                resolves[index].push(resolve);
                entries[index].push(entry);
            }
        }
    }
    let costs = spans.iter().enumerate().map(|(index, span)| Cost {
        span_bytes: *span,
        request_nanos: median(&mut requests[index]),
        from_disk: shares[index],
        resolve_nanos: median(&mut resolves[index]),
        entry_nanos: median(&mut entries[index]),
    });
    Ok(costs.collect())
}

/// Nanoseconds a read, and which share of them asked a disk.
fn requests_nanos(
    world: &mut World,
    volume: &HostVolume,
    span: u64,
    reads: u64,
    random: &mut Random,
) -> Result<(f64, f64)> {
    let mut disk_bytes = 0;
    let begun = Instant::now();
    for _ in 0..reads {
        disk_bytes += world.read(volume, random.below(span / 4096) * 4096, 4096)?;
    }
    Ok((begun.elapsed().as_nanos() as f64 / reads as f64, disk_bytes as f64 / (reads * 4096) as f64))
}

/// Reads of a map that does not fit in memory.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cold {
    /// What the whole map takes, in bytes.
    pub(crate) table_bytes: u64,
    /// What of it may be in memory, in bytes.
    pub(crate) limit_bytes: u64,
    /// Nanoseconds for one 4 KiB read at random over all of it, through agent and controller.
    pub(crate) request_nanos: f64,
    /// Which share of the reads met a page that was not there.
    pub(crate) missed: f64,
    /// What one such page costs, in nanoseconds: one read of the metadata store, and all around it.
    pub(crate) page_nanos: f64,
}

/// Measures reads over a span whose map is so many times larger than the memory it may take. `warm_nanos` is what a read
/// takes when all of it is there.
pub(crate) fn cold(
    world: &mut World,
    id: VolumeId,
    span: u64,
    times: u64,
    reads: u64,
    warm_nanos: f64,
) -> Result<Cold> {
    let table_bytes = world.report(id)?.table_bytes as u64;
    let limit_bytes = table_bytes / times;
    world.exchange_agent(limit_bytes as usize)?;
    let volume = world.attach(id)?;
    let mut random = Random::new(5);
    // Until memory is full, pages are fetched and none has to go.
    requests_nanos(world, &volume, span, reads / 2, &mut random)?;
    let before = world.report(id)?.counters.faults_page;
    let (request_nanos, _) = requests_nanos(world, &volume, span, reads, &mut random)?;
    let missed = (world.report(id)?.counters.faults_page - before) as f64 / reads as f64;
    let page_nanos = (request_nanos - warm_nanos) / missed;
    Ok(Cold { table_bytes, limit_bytes, request_nanos, missed, page_nanos })
}

fn resolve_nanos(table: &PageTable, span: u64, reads: u64, random: &mut Random) -> f64 {
    let begun = Instant::now();
    for _ in 0..reads {
        let mut segments = Segments::new();
        let range = ByteRange::new(random.below(span / 4096) * 4096, 4096);
        black_box(table.resolve_read(range, &mut segments)).ok();
        black_box(segments);
    }
    begun.elapsed().as_nanos() as f64 / reads as f64
}

fn entry_nanos(table: &PageTable, span: u64, reads: u64, random: &mut Random) -> f64 {
    let size = table.region_size();
    let begun = Instant::now();
    for _ in 0..reads {
        black_box(table.entry(size.region_of(random.below(span))));
    }
    begun.elapsed().as_nanos() as f64 / reads as f64
}

/// The agent's table again, made from the store.
fn table_of(world: &World, id: VolumeId, volume: &HostVolume) -> Result<PageTable> {
    let mut table = PageTable::new(volume.region_size);
    let range = KeyRange::table(branch_of(world.view(), id)?);
    pages(world.view(), &range, volume.region_size, |page, runs| table.load(page, &runs))?;
    Ok(table)
}

/// The middle one.
pub(crate) fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
