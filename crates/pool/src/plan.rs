//! How a pool grows: the next logical disk, out of chunklets that are free.

use crate::ChunkletMap;
use model::{LogicalDiskId, LogicalDiskLayout, PoolId, RaidLevel, RegionSize, UNIT_BYTES};
use std::collections::BTreeMap;

/// The largest logical disk, in bytes: what `u32` units reach, and a little less so that no end overflows.
pub const GROWTH_BYTES_MAX: u64 = (1 << 46) - (1 << 30);
/// The most physical disks one row spreads over.
const WIDTH_MAX: usize = 32;
/// How many bytes go to one disk of a row before the next gets some.
const STEP_BYTES: u32 = 256 << 10;

/// By how much a pool with disks of `capacity_bytes` grows at a time unless told: 8 GiB, less on small pools, more on
/// those that would otherwise end up with very many logical disks.
#[must_use]
pub fn default_growth_bytes(capacity_bytes: u64) -> u64 {
    (capacity_bytes / 16).min((8 << 30).max(capacity_bytes / 128)).max(1)
}

/// A new logical disk of about `growth_bytes` (at least one row; at most what is free), out of the free chunklets of
/// `disks`: as wide as it can be, each row on different physical disks, the emptier disks first. `None` when no chunklet
/// is free. Takes nothing: [`ChunkletMap::take`] what it names.
#[must_use]
pub fn plan(
    id: LogicalDiskId,
    pool: PoolId,
    raid: RaidLevel,
    growth_bytes: u64,
    disks: &[&ChunkletMap],
) -> Option<LogicalDiskLayout> {
    let mut disks = best_group(disks)?;
    let chunklet_bytes = disks[0].chunklet_bytes();
    let width = disks.len().min(WIDTH_MAX);
    let row_bytes = chunklet_bytes * width as u64;
    let rows_max = (growth_bytes.min(GROWTH_BYTES_MAX) / row_bytes).max(1).next_multiple_of(rows_together(row_bytes));
    let mut rows = Vec::new();
    for _ in 0..rows_max {
        // Stable and by free count, so that equal disks keep their columns and their chunklets their neighbours.
        disks.sort_by_key(|disk| std::cmp::Reverse(disk.free()));
        if disks[width - 1].free() == 0 {
            break;
        }
        let mut row: Vec<_> = disks[..width].iter_mut().filter_map(ChunkletMap::take_lowest).collect();
        row.sort_unstable();
        rows.push(row);
    }
    debug_assert!(rows.iter().all(|row| row.len() == width));
    let layout = LogicalDiskLayout { id, pool, raid, step_bytes: STEP_BYTES, chunklet_bytes, rows };
    (layout.data_bytes() / UNIT_BYTES <= u64::from(u32::MAX)).then_some(layout)
}

/// How many rows it takes to hold whole regions of every size. One, but for the small chunklets of small disks.
fn rows_together(row_bytes: u64) -> u64 {
    let largest = RegionSize::MAX.bytes();
    largest >> row_bytes.trailing_zeros().min(largest.trailing_zeros())
}

/// Of the disks with a free chunklet, those of one chunklet size: the size that most disks have, or else that has the
/// most free bytes. (A row is of one size.)
fn best_group(disks: &[&ChunkletMap]) -> Option<Vec<ChunkletMap>> {
    let mut groups: BTreeMap<u64, Vec<ChunkletMap>> = BTreeMap::new();
    for disk in disks.iter().filter(|disk| disk.free() > 0) {
        groups.entry(disk.chunklet_bytes()).or_default().push((*disk).clone());
    }
    let free_bytes = |group: &[ChunkletMap]| -> u64 {
        group.iter().map(|disk| u64::from(disk.free()) * disk.chunklet_bytes()).sum()
    };
    groups.into_values().max_by_key(|group| (group.len().min(WIDTH_MAX), free_bytes(group)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::DiskId;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn disk(id: u32, chunklets: u64) -> ChunkletMap {
        ChunkletMap::new(DiskId(id), (chunklets + 2) * MIB, MIB).unwrap()
    }

    fn plan_of(disks: &[ChunkletMap], growth_bytes: u64) -> Option<LogicalDiskLayout> {
        let disks: Vec<_> = disks.iter().collect();
        plan(LogicalDiskId(1), PoolId(1), RaidLevel::Raid0, growth_bytes, &disks)
    }

    fn take_all(disks: &mut [ChunkletMap], layout: &LogicalDiskLayout) {
        for chunklet in layout.rows.iter().flatten() {
            let disk = disks.iter_mut().find(|disk| disk.disk() == chunklet.disk).unwrap();
            disk.take(chunklet.byte_offset).unwrap();
        }
    }

    #[test]
    fn one_disk_gives_a_linear_logical_disk_of_neighbouring_chunklets() {
        let layout = plan_of(&[disk(1, 20)], 4 * MIB).unwrap();
        let offsets: Vec<_> = layout.rows.iter().map(|row| row[0].byte_offset / MIB).collect();
        assert_eq!(offsets, [1, 2, 3, 4]);
    }

    #[test]
    fn logical_disks_of_small_chunklets_hold_whole_regions_of_every_size() {
        let layout = plan_of(&[disk(1, 20), disk(2, 20), disk(3, 20)], MIB).unwrap();
        assert_eq!(layout.data_bytes(), 12 * MIB);
        assert_eq!([1, 2, 3, 4, 256].map(|mib| rows_together(mib * MIB)), [4, 2, 4, 1, 1]);
    }

    #[test]
    fn the_default_growth_suits_small_and_large_pools() {
        assert_eq!(default_growth_bytes(16 << 30), 1 << 30);
        assert_eq!(default_growth_bytes(1 << 40), 8 << 30);
        assert_eq!(default_growth_bytes(128 << 40), 1 << 40);
    }

    proptest! {
        #[test]
        fn growing_uses_every_chunklet_once_and_rows_span_different_disks(
            sizes in prop::collection::vec(1_u64..40, 1..6), growth in 1_u64..64,
        ) {
            let mut disks: Vec<_> = sizes.iter().enumerate().map(|(id, chunklets)| disk(id as u32, *chunklets)).collect();
            let total: u32 = disks.iter().map(ChunkletMap::count).sum();
            let mut taken = 0;
            while let Some(layout) = plan_of(&disks, growth * MIB) {
                let width = layout.rows[0].len();
                prop_assert_eq!(width, disks.iter().filter(|disk| disk.free() > 0).count(), "widest first");
                for row in &layout.rows {
                    prop_assert_eq!(row.len(), width);
                    prop_assert!(row.windows(2).all(|pair| pair[0].disk < pair[1].disk));
                }
                let row = width as u64 * MIB;
                prop_assert!(layout.data_bytes() <= (growth * MIB).max(row) + (rows_together(row) - 1) * row);
                take_all(&mut disks, &layout);
                taken += layout.rows.iter().map(|row| row.len() as u32).sum::<u32>();
            }
            prop_assert_eq!(taken, total);
        }
    }
}
