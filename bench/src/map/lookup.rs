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
