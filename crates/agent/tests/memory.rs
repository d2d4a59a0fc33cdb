//! Memory for tables has a limit: pages go and come back, and nobody can tell but by the time it takes.
#![allow(missing_docs)]

mod cluster;

use agent::{
    Agent, AgentConfig, Counters, Effect, Event, HostId, IoId, IoKind, IoRequest, IoResult, StatusExtent, VolumeSlot,
};
use cluster::{Cluster, Outcome, write};
use model::{
    BlockBitmap, BlockRange, BranchId, BufferPool, ClusterId, DiskRegion, EntryRun, Epoch, Generation, IoError, Layer,
    LayerStack, LogicalDiskId, MapEntry, PageIndex, Place, RegionSize, Term, Time, UnitIndex, VolumeId,
};
use wire::{AgentMessage, Attachment, ControllerMessage, Credentials};

const PAGE_BYTES: u64 = 16 << 20;
const LIMIT: usize = 60_000;

/// A volume of 64 pages, of which the limit holds about a dozen that are written at random.
fn narrow(limit: usize) -> Cluster {
    Cluster::with_tables(64 * PAGE_BYTES, RegionSize::MIN, 4096, 11, limit)
}

fn counters(cluster: &Cluster) -> Counters {
    cluster.agent.reports()[0].counters
}

/// Writes one block in so many regions, each another value; gives where, and which.
fn fill(cluster: &mut Cluster, blocks: u64) -> Vec<(u64, u8)> {
    let offset = |index: u64| index * 7_919 % (64 * 1024) * 16_384;
    let written: Vec<_> = (0..blocks).map(|index| (offset(index), (index % 250 + 1) as u8)).collect();
    for (offset, value) in &written {
        assert_eq!(cluster.write(*offset, &[*value; 4096]), Outcome::Done);
    }
    written
}

#[test]
fn what_was_evicted_is_fetched_again_and_says_the_same() {
    let mut cluster = narrow(LIMIT);
    let written = fill(&mut cluster, 2500);
    for (offset, value) in &written {
        assert_eq!(cluster.read(*offset, 8192), [[*value; 4096], [0; 4096]].concat(), "at {offset}");
    }
    let counted = counters(&cluster);
    assert!(counted.evictions > 500 && counted.faults_page > 500 && counted.early_commits > 0, "{counted:?}");
    cluster.restart_agent_after_flush();
    for (offset, value) in &written {
        assert_eq!(cluster.read(*offset, 4096), [*value; 4096], "at {offset}, after a restart");
    }
    cluster.audit();
}

#[test]
fn the_limit_holds_while_a_volume_is_filled_at_random() {
    let mut cluster = narrow(LIMIT);
    fill(&mut cluster, 2500);
    assert!(cluster.table_bytes_most <= LIMIT, "{} bytes", cluster.table_bytes_most);
    assert!(cluster.agent.table_bytes_used() > LIMIT / 2, "what there is is used");
    assert_eq!(cluster.agent.table_bytes_used(), cluster.agent.table_bytes_recounted());
    let mut roomy = narrow(usize::MAX);
    fill(&mut roomy, 2500);
    assert!(roomy.table_bytes_most > LIMIT * 3 / 2, "it would have taken {}", roomy.table_bytes_most);
    assert_eq!((counters(&roomy).evictions, counters(&roomy).early_commits), (0, 0));
}

#[test]
fn the_limit_holds_with_many_writes_at_once_and_all_of_them_end() {
    let mut cluster = narrow(LIMIT);
    let mut written = Vec::new();
    for round in 0..40_u64 {
        let ids: Vec<_> = (0..64_u64)
            .map(|index| {
                let offset = (round * 64 + index) * 7_919 % (64 * 1024) * 16_384;
                written.push((offset, (index + 1) as u8));
                cluster.submit(write(offset, &[(index + 1) as u8; 4096], false))
            })
            .collect();
        cluster.settle();
        for id in ids {
            assert_eq!(cluster.done.remove(&id), Some(Outcome::Done));
        }
    }
    // A write that was planned before the limit was reached may still make its page larger.
    assert!(cluster.table_bytes_most <= LIMIT + 16_384, "{} bytes", cluster.table_bytes_most);
    for (offset, value) in written {
        assert_eq!(cluster.read(offset, 4096), [value; 4096], "at {offset}");
    }
}

#[test]
fn changes_that_cannot_be_committed_stay_and_at_twice_the_limit_no_more_are_made() {
    let mut cluster = narrow(LIMIT);
    let mut written = fill(&mut cluster, 400);
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
    cluster.fail_commits = u32::MAX;
    let mut refused = 0;
    for index in 400..4000_u64 {
        let offset = index * 7_919 % (64 * 1024) * 16_384;
        match cluster.write(offset, &[3; 4096]) {
            Outcome::Done => written.push((offset, 3)),
            Outcome::Failed(IoError::Device) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 0 && written.len() > 500, "{refused} refused");
    assert!(cluster.table_bytes_most > LIMIT, "changes are never evicted");
    assert!(cluster.table_bytes_most < 2 * LIMIT + 4096, "{} bytes", cluster.table_bytes_most);
    for (offset, value) in &written {
        assert_eq!(cluster.read(*offset, 4096), [*value; 4096], "at {offset}");
    }
    cluster.fail_commits = 0;
    cluster.pass(1_000_000);
    assert_eq!(cluster.write(4096, &[4; 4096]), Outcome::Done, "what failed long ago is tried again first");
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
    assert!(cluster.agent.table_bytes_used() <= LIMIT, "once they are durable, pages go");
    cluster.restart_agent();
    for (offset, value) in &written {
        assert_eq!(cluster.read(*offset, 4096), [*value; 4096], "at {offset}, after a restart");
    }
}

#[test]
fn a_page_with_a_write_in_flight_stays() {
    let mut cluster = narrow(1);
    fill(&mut cluster, 200);
    cluster.run(IoKind::Flush);
    // One in place, one for zeroes beside data, one that reads what surrounds it first, one trim of parts of blocks.
    let writes = [
        write(0, &[9; 4096], false),
        write(PAGE_BYTES, &[[9; 4096], [0; 4096]].concat(), false),
        write(2 * PAGE_BYTES + 100, &[9; 100], false),
        IoKind::Zero { offset: 3 * PAGE_BYTES + 7_919, length: PAGE_BYTES, fua: false, keep_space: false },
    ];
    let ids: Vec<_> = writes.into_iter().map(|kind| cluster.submit(kind)).collect();
    for page in 4..64 {
        cluster.submit(IoKind::Prefetch { offset: page * PAGE_BYTES, length: 1 });
        cluster.settle_controller();
    }
    assert!(cluster.agent.table_bytes_used() > 24 << 10, "the pages of these writes are there");
    cluster.settle();
    for id in ids {
        assert_eq!(cluster.done.remove(&id), Some(Outcome::Done));
    }
    cluster.run(IoKind::Flush);
    assert_eq!(cluster.agent.table_bytes_used(), 0, "nothing is left that cannot go");
    assert_eq!(cluster.read(PAGE_BYTES, 8192), [[9; 4096], [0; 4096]].concat());
    assert_eq!(cluster.read(2 * PAGE_BYTES + 100, 100), [9; 100]);
}

#[test]
fn what_needs_many_pages_at_once_gets_them_without_any_memory_to_spare() {
    let mut cluster = narrow(1);
    fill(&mut cluster, 300);
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
    assert_eq!(cluster.run(IoKind::Prefetch { offset: 0, length: 64 * PAGE_BYTES }), Outcome::Done);
    assert_eq!(cluster.read(PAGE_BYTES - 4096, 33 << 20).len(), 33 << 20, "a read of four pages");
    let ends = write(3 * PAGE_BYTES - 4096, &vec![5; (16 << 20) + 8192], false);
    assert_eq!(cluster.run(ends), Outcome::Done);
    assert_eq!(cluster.read(3 * PAGE_BYTES - 4096, 4096), [5; 4096]);
    assert_eq!(cluster.trim(1, 64 * PAGE_BYTES - 2), Outcome::Done);
    cluster.run(IoKind::Flush);
    assert!(cluster.mapped_units() <= 2);
}

#[test]
fn a_status_scan_goes_on_while_its_pages_come_and_go() {
    let scan = |limit| {
        let mut cluster = narrow(limit);
        fill(&mut cluster, 1000);
        assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
        let (mut at, mut found) = (0, Vec::new());
        while at < 64 * PAGE_BYTES {
            let kind = IoKind::Status { offset: at, length: 64 * PAGE_BYTES - at, extents_max: 50 };
            let Outcome::Status(extents) = cluster.run(kind) else { panic!("a status was refused") };
            assert!(!extents.is_empty());
            for (length, zero) in extents {
                match found.last_mut() {
                    Some((before, same)) if *same == zero => *before += length,
                    _ => found.push((length, zero)),
                }
                at += length;
            }
        }
        found
    };
    assert_eq!(scan(1), scan(usize::MAX));
}

/// An agent with volumes whose pages are all alike, and no node at all.
struct Tables {
    agent: Agent,
    buffers: BufferPool,
    slots: Vec<VolumeSlot>,
    fetches: u64,
    done: Vec<(IoId, IoResult)>,
}

impl Tables {
    fn new(volumes: u32, table_bytes_max: usize) -> Self {
        let config = AgentConfig { table_bytes_max, ..AgentConfig::default() };
        let buffers = BufferPool::new(1 << 20);
        let mut tables = Self { agent: Agent::new(config), buffers, slots: Vec::new(), fetches: 0, done: Vec::new() };
        for volume in (1..=volumes).map(VolumeId) {
            tables.step(Event::HostAttach { host: HostId(u64::from(volume.0)), volume });
        }
        assert_eq!(tables.slots.len() as u32, volumes);
        tables
    }

    fn step(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let mut out = Vec::new();
            self.agent.step(Time(0), event, &mut self.buffers, &mut out);
            for effect in out {
                match effect {
                    Effect::HostAttached { result, .. } => self.slots.push(result.expect("attached").slot),
                    Effect::Reply { id, result } => self.done.push((id, result)),
                    Effect::ToController(message) => events.push(Event::FromController(self.answer(message))),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn answer(&mut self, message: AgentMessage) -> ControllerMessage {
        match message {
            AgentMessage::Attach { request, volume, .. } => {
                let attachment = Attachment {
                    volume,
                    branch: BranchId(volume.0),
                    credentials: Credentials {
                        cluster: ClusterId(1),
                        term: Term(1),
                        epoch: Epoch(u64::from(volume.0)),
                    },
                    size_bytes: 1 << 44,
                    region_size: RegionSize::DEFAULT,
                    generation: Generation(1),
                    frozen_through: Generation(0),
                    read_only: false,
                    layouts: Vec::new(),
                    written: Vec::new(),
                };
                ControllerMessage::Attached { request, result: Ok(attachment) }
            }
            AgentMessage::FetchPage { request, epoch, page } => {
                self.fetches += 1;
                let runs = (0..500).map(|index| one_block(index * 2, page)).collect();
                let absent_until = PageIndex(page.0 + 1);
                ControllerMessage::Page { request, epoch, page, runs, absent_until }
            }
            other => panic!("{other:?}"),
        }
    }

    fn run(&mut self, volume: usize, kind: IoKind) -> IoResult {
        let request = IoRequest { id: IoId(1), volume: self.slots[volume], kind };
        self.step(Event::Io(request));
        self.done.pop().expect("answered").1
    }

    /// Looks at one page; tells whether it had to be fetched.
    fn look(&mut self, volume: usize, page: u64) -> bool {
        let before = self.fetches;
        let offset = page * RegionSize::DEFAULT.page_bytes();
        let IoResult::Done = self.run(volume, IoKind::Prefetch { offset, length: 1 }) else { panic!("not done") };
        self.fetches > before
    }

    fn table_bytes(&self, volume: usize) -> usize {
        self.agent.reports()[volume].table_bytes
    }
}

/// A region of which one block is written: it takes a run of its own.
fn one_block(slot: u16, page: PageIndex) -> EntryRun {
    let mut blocks = BlockBitmap::none(RegionSize::DEFAULT.blocks());
    blocks.insert(BlockRange::new(page.0 % 16, page.0 % 16 + 1));
    let unit = UnitIndex(u32::from(slot) * 4);
    let place = Place::Region(DiskRegion { logical_disk: LogicalDiskId(1), unit });
    let layer = Layer { place, blocks, born: Generation(1), written: Generation(1) };
    EntryRun { first: slot, count: 1, entry: MapEntry::Layers(LayerStack::from_iter([layer])) }
}

#[test]
fn a_small_table_keeps_its_pages_however_much_a_large_one_wants() {
    let mut tables = Tables::new(2, 1 << 20);
    (0..20).for_each(|page| assert!(tables.look(1, page)));
    (0..400).for_each(|page| assert!(tables.look(0, page)));
    assert!(tables.agent.table_bytes_used() <= 1 << 20);
    assert!((0..20).all(|page| !tables.look(1, page)), "it takes less than its share");
    assert!(tables.table_bytes(0) > 512 << 10, "what it leaves the other has");
}

#[test]
fn two_large_tables_come_to_the_same_size() {
    let mut tables = Tables::new(2, 1 << 20);
    (0..400).for_each(|page| assert!(tables.look(0, page)));
    (0..400).for_each(|page| assert!(tables.look(1, page)));
    let (one, other) = (tables.table_bytes(0), tables.table_bytes(1));
    assert!(one.abs_diff(other) < 100 << 10, "{one} and {other} bytes");
    assert!(one + other > 800 << 10);
    assert_eq!(tables.agent.table_bytes_used(), tables.agent.table_bytes_recounted());
}

#[test]
fn a_page_that_is_used_again_and_again_stays() {
    let mut tables = Tables::new(1, 1 << 20);
    assert!(tables.look(0, 5000));
    for page in 0..400 {
        assert!(tables.look(0, page));
        assert!(!tables.look(0, 5000), "after {page} others");
    }
}

#[test]
fn a_page_says_the_same_whenever_it_comes() {
    let mut tables = Tables::new(1, 100_000);
    let extents = |tables: &mut Tables, page: u64| -> Vec<StatusExtent> {
        let bytes = RegionSize::DEFAULT.page_bytes();
        let kind = IoKind::Status { offset: page * bytes, length: bytes, extents_max: 4096 };
        let IoResult::Status(extents) = tables.run(0, kind) else { panic!("no status") };
        extents
    };
    let first: Vec<_> = (0..60).map(|page| extents(&mut tables, page)).collect();
    assert_eq!(first[3].len(), 1001);
    for (page, seen) in first.iter().enumerate() {
        assert_eq!(extents(&mut tables, page as u64), *seen, "page {page}");
    }
    assert!(tables.fetches > 110 && tables.agent.evictions() > 100);
}

#[test]
fn what_a_detached_volume_had_is_nobodys() {
    let mut cluster = narrow(LIMIT);
    fill(&mut cluster, 100);
    assert!(cluster.agent.table_bytes_used() > 0);
    cluster.step(Event::HostDetach { host: HostId(1) });
    cluster.pass(3_000_000_000);
    assert!(cluster.detached);
    assert_eq!(cluster.agent.table_bytes_used(), 0);
}
