//! The reference store: a sorted map in memory. What is committed is durable by definition; a clone is what a crash
//! leaves behind.

use crate::{Batch, Change, KeyRange, MetaStore, Space, StoreError, StoreView, Visitor};
use std::collections::BTreeMap;
use std::sync::Arc;

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// A metadata store in memory, which can be told to fail.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    pairs: Arc<Pairs>,
    used_bytes: u64,
    limit_bytes: Option<u64>,
    fail_commits: Option<StoreError>,
    commits: u64,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on every commit fails like this; or, with `None`, succeeds again.
    pub fn fail_commits(&mut self, error: Option<StoreError>) {
        self.fail_commits = error;
    }

    /// From now on a commit that would leave more than so many bytes of keys and values fails as full.
    pub fn limit_bytes(&mut self, limit: Option<u64>) {
        self.limit_bytes = limit;
    }

    /// How many transactions were committed so far.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// How many keys it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The same view as [`MetaStore::snapshot`], by its own type.
    #[must_use]
    pub fn view(&self) -> MemoryView {
        MemoryView { pairs: Arc::clone(&self.pairs) }
    }
}

/// A view of a [`MemoryStore`] that stays as things were.
#[derive(Clone, Debug)]
pub struct MemoryView {
    pairs: Arc<Pairs>,
}

fn scan(pairs: &Pairs, range: &KeyRange, visitor: &mut Visitor<'_>) {
    if range.start >= range.end {
        return;
    }
    for (key, value) in pairs.range::<Vec<u8>, _>(&range.start..&range.end) {
        if visitor(key, value).is_break() {
            return;
        }
    }
}

fn scan_back(pairs: &Pairs, range: &KeyRange, visitor: &mut Visitor<'_>) {
    if range.start >= range.end {
        return;
    }
    for (key, value) in pairs.range::<Vec<u8>, _>(&range.start..&range.end).rev() {
        if visitor(key, value).is_break() {
            return;
        }
    }
}

impl StoreView for MemoryView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.pairs.get(key).cloned())
    }

    fn scan(&self, range: &KeyRange, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        scan(&self.pairs, range, visitor);
        Ok(())
    }

    fn scan_back(&self, range: &KeyRange, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        scan_back(&self.pairs, range, visitor);
        Ok(())
    }
}

impl StoreView for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.pairs.get(key).cloned())
    }

    fn scan(&self, range: &KeyRange, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        scan(&self.pairs, range, visitor);
        Ok(())
    }

    fn scan_back(&self, range: &KeyRange, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        scan_back(&self.pairs, range, visitor);
        Ok(())
    }
}

fn pair_bytes(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

/// Applies one change and says what it replaced, so that it can be taken back.
fn apply(pairs: &mut Pairs, used_bytes: &mut u64, change: &Change, undo: &mut Vec<(Vec<u8>, Option<Vec<u8>>)>) {
    let mut set = |pairs: &mut Pairs, key: &[u8], value: Option<&[u8]>| {
        let before = match value {
            Some(value) => {
                *used_bytes += pair_bytes(key, value);
                pairs.insert(key.to_vec(), value.to_vec())
            }
            None => pairs.remove(key),
        };
        *used_bytes -= before.as_deref().map_or(0, |before| pair_bytes(key, before));
        undo.push((key.to_vec(), before));
    };
    match change {
        Change::Put(key, value) => set(pairs, key, Some(value)),
        Change::Delete(key) => set(pairs, key, None),
        Change::DeleteRange(range) if range.start < range.end => {
            let keys: Vec<_> =
                pairs.range::<Vec<u8>, _>(&range.start..&range.end).map(|(key, _)| key.clone()).collect();
            keys.iter().for_each(|key| set(pairs, key, None));
        }
        Change::DeleteRange(_) => {}
    }
}

impl MetaStore for MemoryStore {
    fn commit(&mut self, batches: &[Batch]) -> Result<(), StoreError> {
        if let Some(error) = &self.fail_commits {
            return Err(error.clone());
        }
        let pairs = Arc::make_mut(&mut self.pairs);
        let (before_bytes, mut undo) = (self.used_bytes, Vec::new());
        for change in batches.iter().flat_map(|batch| &batch.changes) {
            apply(pairs, &mut self.used_bytes, change, &mut undo);
        }
        let grew = self.used_bytes > before_bytes;
        if grew && self.limit_bytes.is_some_and(|limit| self.used_bytes > limit) {
            for (key, value) in undo.into_iter().rev() {
                match value {
                    Some(value) => pairs.insert(key, value),
                    None => pairs.remove(&key),
                };
            }
            self.used_bytes = before_bytes;
            return Err(StoreError::Full);
        }
        self.commits += 1;
        Ok(())
    }

    fn snapshot(&self) -> Result<Box<dyn StoreView + Send>, StoreError> {
        Ok(Box::new(self.view()))
    }

    fn space(&self) -> Result<Space, StoreError> {
        let available_bytes = self.limit_bytes.map(|limit| limit.saturating_sub(self.used_bytes));
        Ok(Space { used_bytes: self.used_bytes, available_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Key;
    use model::PoolId;
    use std::ops::ControlFlow;

    fn put(id: u32, value: &[u8]) -> Batch {
        let mut batch = Batch::new();
        batch.put(Key::Pool(PoolId(id)), value.to_vec());
        batch
    }

    #[test]
    fn a_commit_that_does_not_fit_changes_nothing() {
        let mut store = MemoryStore::new();
        store.commit(&[put(1, b"one")]).unwrap();
        store.limit_bytes(Some(20));
        assert_eq!(store.commit(&[put(1, b"other"), put(2, &[0; 100])]), Err(StoreError::Full));
        assert_eq!(store.get(&Key::Pool(PoolId(1)).encode()), Ok(Some(b"one".to_vec())));
        assert_eq!(store.space().unwrap(), Space { used_bytes: 8, available_bytes: Some(12) });
    }

    #[test]
    fn a_snapshot_stays_as_it_was_and_a_scan_ends_where_told() {
        let mut store = MemoryStore::new();
        store.commit(&[put(1, b"a"), put(2, b"b"), put(3, b"c")]).unwrap();
        let view = store.snapshot().unwrap();
        let mut batch = Batch::new();
        batch.delete_range(KeyRange::all());
        store.commit(&[batch]).unwrap();
        assert!(store.is_empty());
        let mut seen = Vec::new();
        view.scan(&KeyRange::all(), &mut |_, value| {
            seen.push(value.to_vec());
            if seen.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert_eq!(seen, [b"a".to_vec(), b"b".to_vec()]);
        seen.clear();
        view.scan_back(&KeyRange::all(), &mut |_, value| {
            seen.push(value.to_vec());
            if seen.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert_eq!(seen, [b"c".to_vec(), b"b".to_vec()]);
    }
}
