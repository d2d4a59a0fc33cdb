//! Micro-benchmarks: the steps that every request, commit or allocation takes, each alone.
//!
//! The figure in a benchmark's doc comment is what it must hold on the machine of `docs/performance.md`. Where machines
//! differ, the floors ([`floors`]) are measured in the same run, and the figure is also told as a multiple of one of them:
//! a step that leaves its multiple has become slower, whatever the machine.
//!
//! `cargo bench -p micro [-- NAME]`

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mapping::{PageTable, Segments};
use model::{
    BlockBitmap, BlockRange, BufferPool, ByteRange, DiskRegion, EntryRun, Generation, Layer, LayerStack, LogicalDiskId,
    MapEntry, PageIndex, Place, REGIONS_PER_PAGE, RegionIndex, RegionSize, Time, UnitIndex, UnitRun, zero_scan,
};
use nbd::protocol::{OPTION_MAGIC, REQUEST_MAGIC, command, option};
use nbd::server::{Connection, Event, ExportInfo, ReadSegment, RequestKind, ServerConfig};
use pool::{Allocator, Wish};

const BLOCK: usize = model::BLOCK_BYTES as usize;
/// Slots of a table page.
const PAGE_SLOTS: u16 = REGIONS_PER_PAGE as u16;
/// Requests that arrive in one receive.
const BATCH: usize = 64;

/// Numbers that look random and are the same in every run (xorshift64, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn regions_of_64k() -> RegionSize {
    RegionSize::from_bytes(64 << 10).expect("64 KiB is a region size")
}

fn place(region: u64) -> DiskRegion {
    let unit = region as u32 * regions_of_64k().units();
    DiskRegion { logical_disk: LogicalDiskId(1), unit: UnitIndex(unit) }
}

/// An entry for one region of which one 4 KiB block is written: what random writes leave.
fn one_block(region: u64, block: u32) -> MapEntry {
    let mut blocks = BlockBitmap::none(regions_of_64k().blocks());
    blocks.insert(BlockRange::new(block, block + 1));
    let layer = Layer { place: Place::Region(place(region)), blocks, born: Generation(1), written: Generation(1) };
    MapEntry::Layers(LayerStack::from_iter([layer]))
}

fn floors(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("floor");
    let from = vec![7_u8; BLOCK];
    let mut to = vec![0_u8; BLOCK];
    group.throughput(Throughput::Bytes(BLOCK as u64));
    // What moving a block costs in cache: 90 ns.
    group.bench_function("copy-4k", |bencher| bencher.iter(|| black_box(&mut to).copy_from_slice(black_box(&from))));
    group.throughput(Throughput::Elements(1));
    // What a dependent step in a table of this size costs: the cache's latency, 20 ns.
    let mut chain: Vec<u32> = (0..1 << 18).collect();
    let mut numbers = Numbers(9);
    for index in (1..chain.len()).rev() {
        chain.swap(index, numbers.below(index as u64) as usize);
    }
    let mut at = 0;
    group.bench_function("load-1m", |bencher| {
        bencher.iter(|| {
            at = chain[at as usize];
            black_box(at)
        });
    });
}

/// A look-up finds a region's place in a table of a TiB.
///
/// - `lookup/contiguous`, written from end to end: at most 25 ns.
/// - `lookup/scattered`, 4 GiB of regions with one block each, 1,024 runs a page: at most 150 ns, of which the search in a page
///   takes most.
/// - `lookup/resolve-4k`, a request's range to the place on a disk: at most 90 ns over `contiguous`.
fn lookup(criterion: &mut Criterion) {
    let size = regions_of_64k();
    let pages_of_tib = (1_u64 << 40 >> 16) / u64::from(REGIONS_PER_PAGE);
    let mut contiguous = PageTable::new(size);
    for page in 0..pages_of_tib {
        let first = page * u64::from(REGIONS_PER_PAGE);
        let entry = MapEntry::full(place(first), size, Generation(1), Generation(1));
        let run = EntryRun { first: 0, count: PAGE_SLOTS, entry };
        contiguous.load(PageIndex(page as u32), &[run]);
    }
    let mut numbers = Numbers(5);
    let mut scattered = PageTable::new(size);
    let scattered_regions = (4_u64 << 30) >> 16;
    for page in 0..scattered_regions / u64::from(REGIONS_PER_PAGE) {
        let run = |slot: u16| {
            let entry = one_block(numbers.below(1 << 24), numbers.below(16) as u32);
            EntryRun { first: slot, count: 1, entry }
        };
        let runs: Vec<EntryRun> = (0..PAGE_SLOTS).map(run).collect();
        scattered.load(PageIndex(page as u32), &runs);
    }
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(1));
    let tib_regions = pages_of_tib * u64::from(REGIONS_PER_PAGE);
    group.bench_function("contiguous", |bencher| {
        bencher.iter(|| {
            black_box(contiguous.entry(RegionIndex(numbers.below(tib_regions))));
        });
    });
    group.bench_function("scattered", |bencher| {
        bencher.iter(|| {
            black_box(scattered.entry(RegionIndex(numbers.below(scattered_regions))));
        });
    });
    group.bench_function("resolve-4k", |bencher| {
        bencher.iter(|| {
            let range = ByteRange::new(numbers.below(1 << 28) * BLOCK as u64, BLOCK as u64);
            let mut segments = Segments::new();
            contiguous.resolve_read(range, &mut segments).expect("everything is mapped");
            black_box(segments)
        });
    });
    group.finish();
}

/// The pool's allocator gives regions out on a logical disk of a TiB.
///
/// - `allocate/run-256`, a grant behind the last one, and giving it back: at most 2.5 us.
/// - `allocate/fragmented`, the same where every other region is taken, so that it comes in pieces: at most 180 us (0.7 us a region).
fn allocation(criterion: &mut Criterion) {
    let units = (1_u64 << 40 >> 14) as u32;
    let disk = LogicalDiskId(1);
    let per_region = regions_of_64k().units();
    let wish = |near| Wish { units_per_region: per_region, regions: 256, near };
    let mut group = criterion.benchmark_group("allocate");
    group.throughput(Throughput::Elements(256));
    let mut free = Allocator::new();
    free.add_disk(disk, units);
    let mut near: Option<UnitRun> = None;
    group.bench_function("run-256", |bencher| {
        bencher.iter(|| {
            let runs = free.allocate(wish(near));
            near = runs.last().copied();
            for run in &runs {
                free.free(*run).expect("it was given out");
            }
            black_box(runs)
        });
    });
    let mut fragmented = Allocator::new();
    let small = 1 << 18;
    fragmented.add_disk(disk, small);
    let whole = fragmented.allocate(Wish { units_per_region: per_region, regions: small / per_region, near: None });
    assert_eq!(whole.len(), 1, "the disk was empty");
    for region in (0..small / per_region).step_by(2) {
        let start = UnitIndex(region * per_region);
        fragmented.free(UnitRun { logical_disk: disk, start, count: per_region }).expect("it was given out");
    }
    group.bench_function("fragmented", |bencher| {
        bencher.iter(|| {
            let runs = fragmented.allocate(wish(None));
            for run in &runs {
                fragmented.free(*run).expect("it was given out");
            }
            black_box(runs.len())
        });
    });
    group.finish();
}

/// A commit encodes the entries that changed of a page, once; a fetch decodes them.
///
/// - `delta/encode-1`, one region: at most 200 ns.
/// - `delta/encode-256`, 256 scattered regions: at most 45 ns each, a checksum over all of them included.
/// - `delta/decode-256`: at most 130 ns each; everything is checked.
fn delta(criterion: &mut Criterion) {
    let size = regions_of_64k();
    let mut numbers = Numbers(3);
    let mut run = |slot: u16| {
        let entry = one_block(numbers.below(1 << 24), numbers.below(16) as u32);
        EntryRun { first: slot * 4, count: 1, entry }
    };
    let runs: Vec<EntryRun> = (0..256).map(&mut run).collect();
    let mut group = criterion.benchmark_group("delta");
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode-1", |bencher| {
        bencher.iter(|| store::table::encode(size, black_box(&runs[..1])));
    });
    group.throughput(Throughput::Elements(runs.len() as u64));
    group.bench_function("encode-256", |bencher| {
        bencher.iter(|| store::table::encode(size, black_box(&runs)));
    });
    let encoded = store::table::encode(size, &runs);
    group.bench_function("decode-256", |bencher| {
        bencher.iter(|| store::table::decode(black_box(&encoded)).expect("it was just encoded"));
    });
    group.finish();
}

/// A write looks for blocks of zeroes in its data.
///
/// - `zero-scan/zeroes-64k`: at most 1.5 times `floor/copy-4k` for each 4 KiB.
/// - `zero-scan/data-64k`: at most 6 ns for each 4 KiB, since data shows in a block's first bytes.
fn zeroes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("zero-scan");
    group.throughput(Throughput::Bytes(16 * BLOCK as u64));
    for (name, byte) in [("zeroes-64k", 0), ("data-64k", 7)] {
        let data = vec![byte; 16 * BLOCK];
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut blocks = 0;
                zero_scan::data_runs(black_box(&data), 0, |run| blocks += run.end - run.start);
                black_box(blocks)
            });
        });
    }
    group.finish();
}

/// A record of the metadata store is sealed and opened again, both with a checksum over it (CRC-32C).
///
/// - `checksum/seal-4k`: at most 12 times `floor/copy-4k`, with the copy and the memory it goes to.
/// - `checksum/open-4k`: at most 5 times `floor/copy-4k`.
fn checksum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    group.throughput(Throughput::Bytes(BLOCK as u64));
    let body = vec![7_u8; BLOCK];
    group.bench_function("seal-4k", |bencher| bencher.iter(|| store::codec::seal(black_box(&body))));
    let record = store::codec::seal(&body);
    group.bench_function("open-4k", |bencher| {
        bencher.iter(|| store::codec::open("a record", black_box(&record)).expect("it was just sealed").len());
    });
    group.finish();
}

/// A connection in the transmission phase.
fn connection(pool: &mut BufferPool) -> Connection {
    let mut connection = Connection::new(Arc::new(ServerConfig::default()), Time(0));
    let mut hello = 1_u32.to_be_bytes().to_vec();
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend(option::EXPORT_NAME.to_be_bytes());
    hello.extend(0_u32.to_be_bytes());
    let mut heard = 0;
    while heard < hello.len() {
        heard += connection.received_bytes(&hello[heard..], pool);
        while let Some(event) = connection.next_event(pool) {
            match event {
                Event::OpenExport { .. } => connection.export_opened(Ok(ExportInfo::new("", 1 << 40))),
                other => panic!("the handshake ends with an export, not {other:?}"),
            }
        }
    }
    assert!(connection.is_in_transmission());
    connection.write_output(&mut Vec::new(), usize::MAX, pool);
    connection
}

/// One request's header and, for a write, its data.
fn request(out: &mut Vec<u8>, kind: u16, cookie: u64, offset: u64) {
    out.extend(REQUEST_MAGIC.to_be_bytes());
    out.extend(0_u16.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend((BLOCK as u32).to_be_bytes());
}

/// Hears all of `bytes`, answers every request at once, and sends the replies in one batch.
fn serve(connection: &mut Connection, bytes: &[u8], pool: &mut BufferPool) -> usize {
    let (mut heard, mut served) = (0, 0);
    while heard < bytes.len() {
        heard += connection.received_bytes(&bytes[heard..], pool);
        while let Some(event) = connection.next_event(pool) {
            let Event::Request(request) = event else { panic!("a request, not {event:?}") };
            served += 1;
            match request.kind {
                RequestKind::Read { .. } => {
                    let buffer = pool.take(BLOCK);
                    let data = ReadSegment::Data { buffer, start: 0, length: BLOCK as u32 };
                    connection.reply_read(request.id, [data]);
                }
                RequestKind::Write { data, .. } => {
                    pool.put(data);
                    connection.reply_ok(request.id);
                }
                other => panic!("a read or a write, not {other:?}"),
            }
        }
    }
    while let Some(batch) = connection.take_output(1024) {
        let bytes = batch.slices().map(<[u8]>::len).sum();
        connection.output_sent(batch, bytes, pool);
    }
    served
}

/// A connection takes 64 requests that came in one receive apart and queues their replies: time for all of them.
///
/// - `nbd/read-4k`: at most 160 ns a request, buffers taken and put back included.
/// - `nbd/write-4k`: at most 300 ns a request over twice `floor/copy-4k`, for data is copied in here, not received in place.
fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nbd");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, kind, payload) in [("read-4k", command::READ, 0), ("write-4k", command::WRITE, BLOCK)] {
        let mut pool = BufferPool::new(64 << 20);
        let mut connection = connection(&mut pool);
        let mut bytes = Vec::new();
        for index in 0..BATCH as u64 {
            request(&mut bytes, kind, index, index * BLOCK as u64);
            bytes.resize(bytes.len() + payload, 7);
        }
        assert_eq!(serve(&mut connection, &bytes, &mut pool), BATCH);
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || (),
                |()| black_box(serve(&mut connection, black_box(&bytes), &mut pool)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(micro, floors, lookup, allocation, delta, zeroes, checksum, parsing);
criterion_main!(micro);
