//! What must not grow with what is mapped.

use super::world::{AGENT, World};
use crate::{Controller, Survivors};
use api::VolumeCreate;
use model::{EntryRun, Generation, MapEntry, PageIndex};
use std::ops::ControlFlow;
use store::keys::Tag;
use store::{KeyRange, MemoryView, StoreError, StoreView, Visitor};
use wire::{MapCommit, PageDelta};

/// A store whose tables must not be read.
struct NoTables(MemoryView);

impl StoreView for NoTables {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get(key)
    }

    fn scan(&self, range: &KeyRange, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.0.scan(range, &mut |key, value| {
            assert_ne!(key[0], Tag::Table as u8, "a table page is read");
            visitor(key, value)
        })
    }

    fn scan_back(&self, range: &KeyRange, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.0.scan_back(range, &mut |key, value| {
            assert_ne!(key[0], Tag::Table as u8, "a table page is read");
            visitor(key, value)
        })
    }
}

fn pairs(world: &World, tag: Tag) -> (usize, usize) {
    let (mut count, mut bytes) = (0, 0);
    world
        .store
        .scan(&KeyRange::tag(tag), &mut |key, value| {
            count += 1;
            bytes += key.len() + value.len();
            ControlFlow::Continue(())
        })
        .unwrap();
    (count, bytes)
}

#[test]
fn a_contiguous_fill_stays_small_and_recovery_reads_no_table_page() {
    let mut world = World::with_pool(64 << 10);
    let create = VolumeCreate { name: "a".into(), size_bytes: 1 << 40, ..VolumeCreate::default() };
    let volume = world.create_with(create);
    let mut host = world.attach(AGENT, volume);
    let size = host.attachment.region_size;
    for page in 0..512_u32 {
        world.grant(&mut host, 1024, 1024).unwrap();
        let places: Vec<_> = host.free.drain(..1024).collect();
        let entry = MapEntry::full(places[0], size, Generation(1), Generation(1));
        assert_eq!(places[1023], places[0].offset_by(1023, size), "a stream is contiguous");
        let runs = vec![EntryRun { first: 0, count: 1024, entry }];
        let mut take = host.units(places[0]);
        take.count *= 1024;
        let pages = vec![PageDelta { page: PageIndex(page), runs }];
        world.commit_map(&host, MapCommit { pages, takes: vec![take], ..MapCommit::default() }).unwrap();
    }
    assert_eq!(world.volume("a").used_bytes, 32 << 30);
    let (count, bytes) = pairs(&world, Tag::Table);
    assert!(count == 512 && bytes < 512 * 64, "{bytes} bytes for 32 GiB");
    let (_, bytes) = pairs(&world, Tag::Allocation);
    assert!(bytes < 64 * 100, "{bytes} bytes of allocation for 32 GiB");
    world.assert_clean();
    Controller::recover(world.config.clone(), &NoTables(world.store.view()), Survivors::default()).unwrap();
}
