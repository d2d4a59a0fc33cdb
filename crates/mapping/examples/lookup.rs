//! Prints what a lookup costs and what tables occupy: a contiguous TiB, and 64 GiB of single blocks in random order.
//!
//! `cargo run --release -p mapping --example lookup`
#![allow(clippy::print_stdout, clippy::disallowed_types)]

use mapping::{PageTable, Segments};
use model::{
    BLOCK_BYTES, BlockRange, ByteRange, DiskRegion, Generation, LogicalDiskId, PageIndex, REGIONS_PER_PAGE,
    RegionIndex, RegionSize, UnitIndex,
};
use std::hint::black_box;
use std::time::Instant;

const SIZE: RegionSize = RegionSize::DEFAULT;
const LOOKUPS: u64 = 10_000_000;
const BORN: Generation = Generation(1);

/// Marsaglia's xorshift64: good enough to defeat caches and branch prediction.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * u128::from(limit)) >> 64) as u64
    }
}

fn place(region: u64) -> DiskRegion {
    DiskRegion { logical_disk: LogicalDiskId(0), unit: UnitIndex(region as u32 * SIZE.units()) }
}

fn empty(regions: u64) -> PageTable {
    let mut table = PageTable::new(SIZE);
    table.load_absent(PageIndex(0), PageIndex((regions / u64::from(REGIONS_PER_PAGE)) as u32));
    table
}

/// Nanoseconds for one call of `act`, over `count` calls.
fn nanoseconds_each(count: u64, mut act: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..count).for_each(|_| act());
    start.elapsed().as_nanos() as f64 / count as f64
}

fn report(name: &str, table: &PageTable, regions: u64, mapped_bytes_each: u64) {
    let mut random = Random(88_172_645_463_325_252);
    let entry = nanoseconds_each(LOOKUPS, || {
        black_box(table.entry(RegionIndex(random.below(regions))));
    });
    let mut segments = Segments::new();
    let mut read = |length: u64| {
        nanoseconds_each(LOOKUPS, || {
            segments.clear();
            let block = random.below(regions * SIZE.bytes() / BLOCK_BYTES - length / BLOCK_BYTES);
            let range = ByteRange::new(block * BLOCK_BYTES, length);
            black_box(table.resolve_read(range, &mut segments)).expect("every page is loaded");
        })
    };
    let (small, large) = (read(4 << 10), read(256 << 10));
    let resident = table.resident_bytes();
    let tebibytes = (regions * mapped_bytes_each) as f64 / (1_u64 << 40) as f64;
    println!("{name}");
    println!("  lookup {entry:.1} ns · resolve a 4 KiB read {small:.1} ns, a 256 KiB read {large:.1} ns");
    println!("  resident {resident} bytes ({:.2} a region)", resident as f64 / regions as f64);
    println!("  per TiB of address space: resident {:.2} MiB", resident as f64 / tebibytes / (1 << 20) as f64);
}

fn main() {
    let regions = SIZE.regions_in(1 << 40);
    let all = BlockRange::new(0, SIZE.blocks());
    let mut table = empty(regions);
    let mut next = 0;
    let write = nanoseconds_each(regions, || {
        table.map_region(RegionIndex(next), place(next), BORN);
        black_box(table.blocks_written(RegionIndex(next), place(next), all, BORN, Generation(0)));
        next += 1;
    });
    report("a TiB written in order, 64 KiB regions", &table, regions, SIZE.bytes());
    println!("  mapping and filling a region {write:.1} ns");

    let regions = SIZE.regions_in(64 << 30);
    let mut table = empty(regions);
    let mut random = Random(1_181_783_497_276_652_981);
    let mut order: Vec<u64> = (0..regions).collect();
    for index in (1..regions).rev() {
        order.swap(index as usize, random.below(index + 1) as usize);
    }
    let mut taken = 0;
    let write = nanoseconds_each(regions, || {
        let region = RegionIndex(order[taken]);
        let block = random.below(u64::from(SIZE.blocks())) as u32;
        let at = place(taken as u64);
        table.map_region(region, at, BORN);
        black_box(table.blocks_written(region, at, BlockRange::new(block, block + 1), BORN, Generation(0)));
        taken += 1;
    });
    report("64 GiB, one block at random in every region", &table, regions, SIZE.bytes());
    println!("  mapping a region and filling a block {write:.1} ns");
}
