//! Reads of one committed state.

use crate::disk::Health;
use crate::failure::RedbError;
use redb::{ReadOnlyTable, ReadableDatabase, TableDefinition};
use std::sync::Arc;
use store::{KeyRange, StoreError, StoreView, Visitor};

/// Every key and value of the store.
pub(crate) const PAIRS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("pairs");

/// A view that stays as things are while others commit.
pub(crate) struct RedbView {
    pairs: ReadOnlyTable<&'static [u8], &'static [u8]>,
    health: Arc<Health>,
}

impl RedbView {
    /// A view of what was committed last.
    pub(crate) fn of(database: &redb::Database, health: &Arc<Health>) -> Result<Self, RedbError> {
        let pairs = database.begin_read()?.open_table(PAIRS)?;
        Ok(Self { pairs, health: Arc::clone(health) })
    }

    fn try_get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RedbError> {
        Ok(self.pairs.get(key)?.map(|value| value.value().to_vec()))
    }

    fn try_scan(&self, range: &KeyRange, visitor: &mut Visitor<'_>) -> Result<(), RedbError> {
        if range.start >= range.end {
            return Ok(());
        }
        for pair in self.pairs.range::<&[u8]>(range.start.as_slice()..range.end.as_slice())? {
            let (key, value) = pair?;
            if visitor(key.value(), value.value()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn try_scan_back(&self, range: &KeyRange, visitor: &mut Visitor<'_>) -> Result<(), RedbError> {
        if range.start >= range.end {
            return Ok(());
        }
        for pair in self.pairs.range::<&[u8]>(range.start.as_slice()..range.end.as_slice())?.rev() {
            let (key, value) = pair?;
            if visitor(key.value(), value.value()).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl StoreView for RedbView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.try_get(key).map_err(|error| error.into_store_error(&self.health))
    }

    fn scan(&self, range: &KeyRange, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.try_scan(range, visitor).map_err(|error| error.into_store_error(&self.health))
    }

    fn scan_back(&self, range: &KeyRange, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.try_scan_back(range, visitor).map_err(|error| error.into_store_error(&self.health))
    }
}
