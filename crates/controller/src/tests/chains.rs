//! What must not grow with the number of snapshots.

use super::world::{AGENT, Host, World};
use api::{Request, SnapshotCreate};
use model::{DiskRegion, EntryRun, Generation, MapEntry, PageIndex, RegionIndex, VolumeId};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use store::keys::{Tag, WHOLE, summarized_after};
use store::{Key, KeyRange, StoreView};
use wire::{AgentMessage, ControllerMessage, Drop, MapCommit, Order, OrderOutcome, PageDelta, RequestId};

const PAGES: u32 = 8;
const SNAPSHOTS: u32 = 300;

/// What a view maps: each region's place, and when that was allocated.
type Map = BTreeMap<u64, (DiskRegion, Generation)>;

/// A volume that is mapped from end to end and is snapshotted again and again.
struct Chain {
    world: World,
    host: Host,
    generation: u32,
    map: Map,
    /// What each snapshot maps, and its id.
    snapshots: BTreeMap<u32, (VolumeId, Map)>,
    /// The bytes of all deltas that were committed, with their keys.
    delta_bytes: usize,
    random: u64,
}

impl Chain {
    fn new() -> Self {
        let mut world = World::with_pool(2048);
        let volume = world.create("a", u64::from(PAGES) << 26);
        let mut host = world.attach(AGENT, volume);
        world.grant(&mut host, PAGES * 1024, PAGES * 1024).unwrap();
        let places: Vec<DiskRegion> = std::mem::take(&mut host.free);
        let size = host.attachment.region_size;
        let mut commit = MapCommit::default();
        for (page, places) in (0..PAGES).zip(places.chunks(1024)) {
            let entry = |place: &DiskRegion| MapEntry::full(*place, size, Generation(1), Generation(1));
            let runs = (0..).zip(places).map(|(first, place)| EntryRun { first, count: 1, entry: entry(place) });
            commit.pages.push(PageDelta { page: PageIndex(page), runs: runs.collect() });
            commit.takes.extend(places.iter().map(|place| host.units(*place)));
        }
        world.commit_map(&host, commit).unwrap();
        let map = (0..).zip(places).map(|(region, place)| (region, (place, Generation(1)))).collect();
        Self { world, host, generation: 1, map, snapshots: BTreeMap::new(), delta_bytes: 0, random: 1 }
    }

    fn draw(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    /// Takes a snapshot, for which the volume's agent begins the next generation.
    fn snapshot(&mut self) {
        let name = format!("a@{}", self.generation);
        let create = SnapshotCreate { snapshots: vec![name.clone()], imported_from: None };
        let id = self.world.ask_later(Request::SnapshotCreate { create, scheduled: false, now_unix_seconds: 1 });
        self.world.settle();
        self.obey(Order::Commit);
        self.obey(Order::Freeze { begin: Some(Generation(self.generation + 1)) });
        let Some(Ok(api::Response::Snapshots(taken))) = self.world.replies.remove(&id) else {
            panic!("{name} is taken")
        };
        self.snapshots.insert(self.generation, (VolumeId(taken[0].id), self.map.clone()));
        self.obey(Order::Thaw {
            generation: Generation(self.generation + 1),
            frozen_through: Generation(self.generation),
        });
        self.generation += 1;
    }

    fn obey(&mut self, wanted: Order) {
        self.answer(wanted, OrderOutcome::Done);
    }

    fn answer(&mut self, wanted: Order, outcome: OrderOutcome) {
        let epoch = self.host.epoch();
        let command = self.world.take(AGENT, |message| match message {
            ControllerMessage::Order { command, order, .. } if *order == wanted => Some(*command),
            _ => None,
        });
        let command = command.unwrap_or_else(|| panic!("{wanted:?} is ordered"));
        self.world.send(AGENT, AgentMessage::OrderDone { command, epoch, outcome });
    }

    /// Gives regions new places.
    fn write(&mut self, regions: &[u64]) {
        let generation = Generation(self.generation);
        if self.host.free.len() < regions.len() {
            self.world.grant(&mut self.host, 64, 64).unwrap();
        }
        let size = self.host.attachment.region_size;
        let mut commit = MapCommit::default();
        for region in regions {
            let place = self.host.free.pop().expect("there is space");
            let entry = MapEntry::full(place, size, generation, generation);
            let (page, first) = (RegionIndex(*region).page(), RegionIndex(*region).slot());
            let run = EntryRun { first, count: 1, entry };
            match commit.pages.last_mut() {
                Some(last) if last.page == page => last.runs.push(run),
                _ => commit.pages.push(PageDelta { page, runs: vec![run] }),
            }
            commit.takes.push(self.host.units(place));
            let (before, born) = self.map.insert(*region, (place, generation)).expect("it is mapped");
            commit.drops.push(Drop { page, run: self.host.units(before), born });
        }
        let bytes = |delta: &PageDelta| 21 + store::table::encode(size, &delta.runs).len();
        self.delta_bytes += commit.pages.iter().map(bytes).sum::<usize>();
        self.world.commit_map(&self.host, commit).unwrap();
    }

    /// A commit that gives region 0 a place of its own, dropping the one it has.
    fn spare_commit(&mut self) -> (MapCommit, DiskRegion) {
        if self.host.free.is_empty() {
            self.world.grant(&mut self.host, 64, 64).unwrap();
        }
        let place = self.host.free.pop().expect("there is space");
        let (before, born) = self.map[&0];
        let entry = MapEntry::full(place, self.host.attachment.region_size, Generation(1), Generation(1));
        let runs = vec![EntryRun { first: 0, count: 1, entry }];
        let commit = MapCommit {
            pages: vec![PageDelta { page: PageIndex(0), runs }],
            takes: vec![self.host.units(place)],
            drops: vec![Drop { page: PageIndex(0), run: self.host.units(before), born }],
        };
        (commit, place)
    }

    /// A few regions of the first page and of another.
    fn write_some(&mut self) {
        let other = 1024 * self.draw(u64::from(PAGES));
        let mut regions = vec![self.draw(1024), self.draw(1024), other + self.draw(1024)];
        regions.sort_unstable();
        regions.dedup();
        self.write(&regions);
    }

    /// How many pairs one fetch of the first page reads; what it shows is right.
    fn fetch_live(&mut self) -> usize {
        let before = self.world.pairs_read;
        let expected: BTreeMap<u64, DiskRegion> =
            self.map.range(..1024).map(|(region, (place, _))| (*region, *place)).collect();
        assert_eq!(self.world.fetch(&self.host, 0).0, expected);
        self.world.pairs_read - before
    }

    fn fetch_snapshot(&mut self, generation: u32) -> usize {
        let (snapshot, map) = self.snapshots[&generation].clone();
        let (before, epoch, size) = (self.world.pairs_read, self.host.epoch(), self.host.attachment.region_size);
        for page in 0..PAGES {
            let request = RequestId(1_000_000 + u64::from(page));
            let message = AgentMessage::FetchSnapshotPage { request, epoch, snapshot, page: PageIndex(page) };
            self.world.send(AGENT, message);
            let found = self.world.take(AGENT, |message| match message {
                ControllerMessage::SnapshotPage { request: of, found, .. } if *of == request => Some(found.clone()),
                _ => None,
            });
            let runs = found.flatten().expect("the snapshot is there").runs;
            let slots = runs.iter().flat_map(|run| {
                (0..run.count).map(move |slot| (run.first + slot, store::table::entry_at(&run.entry, slot, size)))
            });
            let expected = map.range(PageIndex(page).first_region().0..).take(1024);
            let expected = expected.map(|(region, (place, born))| {
                (RegionIndex(*region).slot(), MapEntry::full(*place, size, *born, *born))
            });
            assert!(slots.eq(expected), "page {page} of generation {generation}");
        }
        self.world.pairs_read - before
    }

    fn delete(&mut self, generation: u32) -> usize {
        let before = self.world.pairs_read;
        let name = format!("a@{generation}");
        self.world.ask(Request::SnapshotDelete { name, force: true }).unwrap();
        self.snapshots.remove(&generation);
        self.world.pairs_read - before
    }

    /// Bytes of the table, and how many whole pages and summaries are among its values.
    fn table(&self) -> (usize, usize, usize) {
        let (mut bytes, mut whole, mut summaries) = (0, 0, 0);
        self.world
            .store
            .scan(&KeyRange::tag(Tag::Table), &mut |key, value| {
                bytes += key.len() + value.len();
                if let Some(Key::Table(_, _, _, sequence)) = Key::decode(key) {
                    whole += usize::from(sequence == WHOLE);
                    summaries += usize::from(summarized_after(sequence).is_some());
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        (bytes, whole, summaries)
    }
}

#[test]
fn a_chain_of_snapshots_costs_what_changed_and_every_one_of_them_reads_right() {
    let mut chain = Chain::new();
    let mut most = 0;
    for _ in 0..SNAPSHOTS {
        chain.snapshot();
        chain.write_some();
        most = most.max(chain.fetch_live());
    }
    assert!(most <= 16, "a fetch reads {most} values");
    let (bytes, whole, summaries) = chain.table();
    assert!(summaries > 10 && whole > PAGES as usize, "{summaries} summaries, {whole} whole pages");
    assert!(bytes < 5 * chain.delta_bytes, "{bytes} bytes are kept of deltas of {}", chain.delta_bytes);
    for generation in (1..=SNAPSHOTS).step_by(7) {
        let read = chain.fetch_snapshot(generation);
        assert!(read <= 16 * PAGES as usize, "reading snapshot {generation} reads {read} values");
    }
    chain.world.assert_clean();
}

#[test]
fn deleting_one_of_many_snapshots_reads_what_it_held_and_leaves_the_others_as_they_were() {
    let mut chain = Chain::new();
    for _ in 0..SNAPSHOTS {
        chain.snapshot();
        chain.write_some();
        chain.fetch_live();
    }
    // In the order of a schedule that thins them out, the newest ones and the oldest one too.
    let newest = SNAPSHOTS;
    let middle = (1..=SNAPSHOTS).filter(|generation| generation % 10 != 0);
    for generation in middle.chain([newest, 10]) {
        let read = chain.delete(generation);
        assert!(read <= 40, "deleting snapshot {generation} reads {read} values");
        if generation % 20 == 1 {
            chain.world.assert_clean();
            chain.fetch_live();
            let left: Vec<u32> = chain.snapshots.keys().copied().collect();
            for near in left.iter().filter(|left| left.abs_diff(generation) < 15) {
                chain.fetch_snapshot(*near);
            }
        }
    }
    for generation in chain.snapshots.keys().copied().collect::<Vec<_>>() {
        let read = chain.fetch_snapshot(generation);
        assert!(read <= 16 * PAGES as usize, "reading snapshot {generation} reads {read} values");
        chain.snapshot();
        chain.write_some();
    }
    chain.world.assert_clean();
}

#[test]
fn a_snapshot_is_taken_together_with_the_last_commit_or_not_at_all() {
    let mut chain = Chain::new();
    let ask = |chain: &mut Chain, name: &str| {
        let create = SnapshotCreate { snapshots: vec![name.into()], imported_from: None };
        let id = chain.world.ask_later(Request::SnapshotCreate { create, scheduled: false, now_unix_seconds: 1 });
        chain.world.settle();
        chain.obey(Order::Commit);
        id
    };
    let freeze = |next: u32| Order::Freeze { begin: Some(Generation(next)) };
    // The agent has begun a generation; of the one before there is no snapshot, and its number is passed over.
    let passed_over = |next: u32| Order::Thaw { generation: Generation(next), frozen_through: Generation(0) };
    // A commit that was never taken, nothing rests on.
    let id = ask(&mut chain, "a@lost");
    chain.answer(freeze(2), OrderOutcome::Committing { request: RequestId(77) });
    assert!(matches!(chain.world.replies.remove(&id), Some(Err(_))));
    chain.obey(passed_over(2));
    // One that is on its way becomes durable in one transaction with the snapshot, or fails with it.
    for (fails, next) in [(true, 3), (false, 4)] {
        let id = ask(&mut chain, "a@both");
        let (epoch, request) = (chain.host.epoch(), RequestId(100 + u64::from(fails)));
        let (commit, placed) = chain.spare_commit();
        let commits = chain.world.store.commits();
        if fails {
            chain.world.store.fail_commits(Some(store::StoreError::Full));
        }
        chain
            .world
            .event_without_commit(crate::Event::FromAgent(AGENT, AgentMessage::Commit { request, epoch, commit }));
        chain.answer(freeze(next), OrderOutcome::Committing { request });
        let result = chain.world.committed(&chain.host, request).expect("answered");
        assert_eq!(result.is_err(), fails);
        let reply = chain.world.replies.remove(&id).expect("answered");
        if fails {
            assert!(reply.is_err() && chain.world.recoveries == 1);
            chain.obey(passed_over(next));
            chain.host.free.push(placed);
        } else {
            assert!(reply.is_ok());
            assert_eq!(chain.world.store.commits(), commits + 1);
            chain.obey(Order::Thaw { generation: Generation(next), frozen_through: Generation(next - 1) });
        }
        chain.world.assert_clean();
    }
}
