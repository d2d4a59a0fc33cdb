//! How long a store takes to open after kill -9, with the metadata of 10 TiB. In release builds only: with its debug
//! assertions on, redb walks the file at every opening.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_types)]

use model::{BranchId, Generation, PageIndex};
use std::time::{Duration, Instant};
use store::{Batch, Key, KeyRange, MetaStore, StoreView};
use store_redb::{RedbStore, WALKED_BYTES_MAX};

/// Table pages of 64 MiB each in 10 TiB.
const PAGES: u32 = 163_840;

fn fill(store: &mut RedbStore, value_bytes: usize) {
    for first in (0..PAGES).step_by(8192) {
        let mut batch = Batch::new();
        for page in first..(first + 8192).min(PAGES) {
            batch.put(Key::Table(BranchId(1), PageIndex(page), Generation(1), 0), vec![page as u8; value_bytes]);
        }
        store.commit(&[batch]).expect("there is room");
    }
}

/// The file as a process killed here would leave it.
fn open_after_kill(value_bytes: usize) -> (u64, Duration) {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, left) = (folder.path().join("metadata"), folder.path().join("left"));
    let mut store = RedbStore::open_or_create(&path).expect("a new store");
    fill(&mut store, value_bytes);
    std::fs::copy(&path, &left).expect("a copy");
    let started = Instant::now();
    let found = RedbStore::open(&left)
        .expect("a store")
        .get(&Key::Table(BranchId(1), PageIndex(PAGES - 1), Generation(1), 0).encode());
    let took = started.elapsed();
    assert!(found.is_ok_and(|value| value.is_some()));
    let mut batch = Batch::new();
    batch.delete_range(KeyRange::table(BranchId(1)));
    store.commit(&[batch]).expect("deleting takes no room worth naming");
    (std::fs::metadata(&left).expect("the copy").len(), took)
}

#[test]
#[cfg_attr(debug_assertions, ignore = "redb walks the file at every opening when its assertions are on")]
fn ten_contiguous_tebibytes_of_metadata_open_within_a_second_after_a_kill() {
    let (bytes, took) = open_after_kill(80);
    assert!(bytes < WALKED_BYTES_MAX, "{bytes} bytes: the file is one of those that are walked");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "redb walks the file at every opening when its assertions are on")]
fn ten_scattered_tebibytes_of_metadata_open_within_a_second_after_a_kill() {
    let (bytes, took) = open_after_kill(2000);
    assert!(bytes > WALKED_BYTES_MAX, "{bytes} bytes: the file is one of those that are not walked");
    assert!(took < Duration::from_secs(1), "{took:?}");
}
