//! What is left after crashes, failing disks, full disks and damage.
#![forbid(unsafe_code)]

mod volatile_disk;

use proptest::prelude::*;
use std::ops::ControlFlow;
use store::{Batch, Change, KeyRange, MemoryStore, MetaStore, StoreError, StoreView};
use store_redb::RedbStore;
use volatile_disk::VolatileDisk;

fn open(disk: &VolatileDisk) -> Result<RedbStore, StoreError> {
    RedbStore::on(Box::new(disk.clone()))
}

fn pairs(view: &dyn StoreView) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut pairs = Vec::new();
    view.scan(&KeyRange::all(), &mut |key, value| {
        pairs.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })
    .expect("a scan of a sound store");
    pairs
}

fn put(key: u8, value: &[u8]) -> Batch {
    Batch { changes: vec![Change::Put(vec![key], value.to_vec())] }
}

fn any_batch() -> impl Strategy<Value = Batch> {
    let change = prop_oneof![
        6 => (any::<u8>(), prop::collection::vec(any::<u8>(), 0..3000))
            .prop_map(|(key, value)| Change::Put(vec![key & 0x7f, key], value)),
        2 => any::<u8>().prop_map(|key| Change::Delete(vec![key & 0x7f, key])),
        1 => (any::<u8>(), any::<u8>())
            .prop_map(|(start, end)| Change::DeleteRange(KeyRange { start: vec![start & 0x7f], end: vec![end & 0x7f] })),
    ];
    prop::collection::vec(change, 0..12).prop_map(|changes| Batch { changes })
}

/// A cheap stream of bits from a seed.
fn bits(mut seed: u64) -> impl FnMut() -> bool {
    move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 63 == 1
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn it_holds_what_the_reference_holds(transactions in prop::collection::vec(prop::collection::vec(any_batch(), 1..4), 1..12)) {
        let disk = VolatileDisk::default();
        let (mut store, mut reference) = (open(&disk).unwrap(), MemoryStore::new());
        for batches in &transactions {
            let (before, kept) = (pairs(&reference), store.snapshot().unwrap());
            store.commit(batches).unwrap();
            reference.commit(batches).unwrap();
            prop_assert_eq!(pairs(&store), pairs(&reference));
            prop_assert_eq!(pairs(&*kept), before);
        }
        drop(store);
        prop_assert_eq!(pairs(&open(&disk).unwrap()), pairs(&reference));
    }

    #[test]
    fn after_a_crash_at_any_operation_every_commit_is_there_and_the_last_one_whole_or_not_at_all(
        transactions in prop::collection::vec(prop::collection::vec(any_batch(), 1..3), 1..8),
        crash_after in 0_u64..200,
        seed in any::<u64>(),
    ) {
        let disk = VolatileDisk::default();
        let (mut store, mut reference) = (open(&disk).unwrap(), MemoryStore::new());
        disk.fail_from(Some(disk.operations() + crash_after));
        let mut attempted = None;
        for batches in &transactions {
            let acknowledged = store.commit(batches).is_ok();
            let mut next = reference.clone();
            next.commit(batches).unwrap();
            if !acknowledged {
                attempted = Some(next);
                break;
            }
            reference = next;
        }
        disk.crash(bits(seed));
        drop(store);
        let found = pairs(&open(&disk).unwrap());
        let whole = attempted.is_some_and(|attempted| pairs(&attempted) == found);
        prop_assert!(whole || found == pairs(&reference));
    }

    #[test]
    fn a_damaged_file_is_refused_or_read_and_never_a_panic(
        cut in prop::option::of(0_usize..1 << 20),
        flips in prop::collection::vec((0_usize..1 << 20, 1_u8..), 0..20),
    ) {
        let disk = VolatileDisk::default();
        let mut store = open(&disk).unwrap();
        (0..50).for_each(|key| store.commit(&[put(key, &[key; 200])]).unwrap());
        disk.crash(|| true);
        drop(store);
        let mut bytes = disk.bytes();
        let length = bytes.len();
        flips.iter().for_each(|(at, bit)| bytes[at % length] ^= bit);
        bytes.truncate(cut.map_or(length, |cut| 1 + cut % length));
        disk.set_bytes(bytes);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if let Ok(store) = open(&disk) {
                let _ = store.scan(&KeyRange::all(), &mut |_, _| ControlFlow::Continue(()));
            }
        }));
        prop_assert!(outcome.is_ok());
    }
}

#[test]
fn what_a_crash_left_of_a_store_in_the_making_is_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata");
    std::fs::write(folder.path().join("metadata.new"), vec![0; 70_000]).unwrap();
    RedbStore::open_or_create(&path).unwrap().commit(&[put(1, b"one")]).unwrap();
    assert_eq!(pairs(&RedbStore::open_or_create(&path).unwrap()), [(vec![1], b"one".to_vec())]);
    assert!(!folder.path().join("metadata.new").exists());
    std::fs::write(&path, []).unwrap();
    assert!(matches!(RedbStore::open_or_create(&path), Err(StoreError::Corrupt(_))));
}

#[test]
fn a_full_disk_refuses_one_commit_and_the_store_goes_on() {
    let disk = VolatileDisk::default();
    let mut store = open(&disk).unwrap();
    store.commit(&[put(1, b"one")]).unwrap();
    disk.room_bytes(Some(disk.length_bytes()));
    assert_eq!(store.commit(&[put(2, &vec![2; 16 << 20])]), Err(StoreError::Full));
    assert_eq!(store.space().unwrap().available_bytes, Some(0));
    assert_eq!(pairs(&store), [(vec![1], b"one".to_vec())]);
    store.commit(&[put(3, b"three")]).unwrap();
    disk.room_bytes(None);
    store.commit(&[put(2, &vec![2; 16 << 20])]).unwrap();
    assert_eq!(pairs(&store).len(), 3);
}

#[test]
fn after_a_failed_sync_nothing_is_promised_until_it_is_opened_again() {
    let disk = VolatileDisk::default();
    let mut store = open(&disk).unwrap();
    store.commit(&[put(1, b"one")]).unwrap();
    let before = disk.operations();
    store.commit(&[put(1, b"two")]).unwrap();
    // The sync is the last thing a commit does.
    let last = disk.operations() - before;
    disk.fail_from(Some(disk.operations() + last));
    assert!(matches!(store.commit(&[put(1, b"new")]), Err(StoreError::Failed(_))));
    disk.fail_from(None);
    assert!(matches!(store.commit(&[put(2, b"more")]), Err(StoreError::Failed(_))));
    assert!(matches!(store.get(&[1]), Err(StoreError::Failed(_))));
    drop(store);
    let found = open(&disk).unwrap().get(&[1]).unwrap();
    assert!(matches!(found.as_deref(), Some(b"two" | b"new")), "{found:?}");
}

#[test]
fn what_is_not_a_store_is_refused_in_words_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata");
    std::fs::write(&path, vec![0x5a; 100_000]).unwrap();
    let error = RedbStore::open_or_create(&path).err().unwrap();
    assert!(matches!(&error, StoreError::Corrupt(message) if message.contains("metadata")), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), vec![0x5a; 100_000]);
}

#[test]
fn a_second_opener_is_refused_and_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata");
    let first = RedbStore::open_or_create(&path).unwrap();
    let error = RedbStore::open_or_create(&path).err().unwrap();
    assert!(error.to_string().contains("another process"), "{error}");
    drop(first);
    assert!(RedbStore::open(&path).is_ok());
    assert!(RedbStore::open(&folder.path().join("none")).is_err());
}

#[test]
fn a_newer_layout_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata");
    drop(RedbStore::open_or_create(&path).unwrap());
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let about = redb::TableDefinition::<&str, u32>::new("about");
    transaction.open_table(about).unwrap().insert("acreage layout", 9).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = RedbStore::open_or_create(&path).err().unwrap();
    assert!(matches!(error, StoreError::NewerVersion { found: 9, known: 1, .. }), "{error}");
}
