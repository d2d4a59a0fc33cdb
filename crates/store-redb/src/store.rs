//! The store itself.

use crate::disk::{Health, Watched};
use crate::failure::{self, RedbError};
use crate::view::{PAIRS, RedbView};
use crate::{MetadataDisk, MetadataFile};
use redb::{Database, ReadableDatabase, Table, TableDefinition, TableError, WriteTransaction};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use store::{Batch, Change, KeyRange, MetaStore, Space, StoreError, StoreView, Visitor};

/// How the redb file is laid out: which tables there are. What is in them has versions of its own.
pub const LAYOUT_VERSION: u32 = 1;
/// How much of the file is kept in memory, in bytes.
pub const CACHE_BYTES: usize = 64 << 20;
/// Up to this size, in bytes, a file is walked after a crash (about half a second for the largest, on a slow machine);
/// above it, every commit pays a second sync so that none need be.
pub const WALKED_BYTES_MAX: u64 = 128 << 20;

const ABOUT: TableDefinition<'static, &'static str, u32> = TableDefinition::new("about");
const LAYOUT_KEY: &str = "acreage layout";

/// A metadata store in one redb file.
pub struct RedbStore {
    disk: Box<dyn MetadataDisk>,
    state: State,
}

enum State {
    Open(Open),
    /// Refuses everything, and why.
    Dead(String),
}

/// Why a new file could not be made.
enum Making {
    Io(io::Error),
    Store(StoreError),
}

impl From<io::Error> for Making {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

struct Open {
    // Before the database, whose last commit on closing then finds no reader in its way. None within a commit, so
    // that the pages it replaces can be used again at once.
    view: Option<RedbView>,
    database: Database,
    health: Arc<Health>,
}

impl RedbStore {
    /// Opens the store at `path`, or makes one if there is no file.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when another process has it open, [`StoreError::Corrupt`] when it is not a store,
    /// [`StoreError::NewerVersion`] when a newer program made it.
    pub fn open_or_create(path: &Path) -> Result<Self, StoreError> {
        let made = MetadataFile::or_filled(path, |file| Open::on(&file).map(drop).map_err(Making::Store));
        made.map_err(|error| match error {
            Making::Store(error) => error,
            Making::Io(error) => failure::io_opening(&path.display().to_string(), &error),
        })?;
        Self::open(path)
    }

    /// Opens the store at `path`, which must be there.
    ///
    /// # Errors
    /// As [`RedbStore::open_or_create`]; [`StoreError::Failed`] when there is no file.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = MetadataFile::existing(path);
        if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0) {
            return Err(StoreError::Corrupt(format!("{} is empty", path.display())));
        }
        Self::on(Box::new(file))
    }

    /// Opens the store on `disk`, or makes one if it is empty. (A crash while it is made leaves a disk to be emptied.)
    ///
    /// # Errors
    /// As [`RedbStore::open_or_create`].
    pub fn on(disk: Box<dyn MetadataDisk>) -> Result<Self, StoreError> {
        let state = State::Open(Open::on(&*disk)?);
        Ok(Self { disk, state })
    }

    fn open_state(&self) -> Result<&Open, StoreError> {
        match &self.state {
            State::Open(open) => Ok(open),
            State::Dead(why) => Err(StoreError::Failed(why.clone())),
        }
    }

    /// After something failed on the disk: opens it again if what was committed is known to be there still.
    fn recover(&mut self, health: &Health) {
        let Some(failure) = health.first_failure() else { return };
        // Closing comes first: the file may be open once.
        self.state = State::Dead(format!("{}; start again to find out what is durable", failure.message));
        if !failure.harmless {
            tracing::error!(store = self.disk.name(), failure = failure.message, "the metadata store is closed");
            return;
        }
        match Open::on(&*self.disk) {
            Ok(open) => self.state = State::Open(open),
            Err(error) => {
                tracing::error!(store = self.disk.name(), %error, "the metadata store cannot be opened again");
                self.state = State::Dead(format!("{}, and opening it again: {error}", failure.message));
            }
        }
    }

    /// Puts a view of the last commit in place.
    fn renew_view(&mut self) {
        let State::Open(open) = &mut self.state else { return };
        match RedbView::of(&open.database, &open.health) {
            Ok(view) => open.view = Some(view),
            Err(error) => {
                let health = Arc::clone(&open.health);
                let why = error.into_store_error(&health).to_string();
                self.state = State::Dead(why);
                self.recover(&health);
            }
        }
    }
}

impl Open {
    fn on(disk: &dyn MetadataDisk) -> Result<Self, StoreError> {
        let name = disk.name();
        let backend = disk.open().map_err(|error| failure::io_opening(&name, &error))?;
        let (watched, health) = Watched::new(backend).map_err(|error| failure::io_opening(&name, &error))?;
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let database = builder.create_with_backend(watched).map_err(|error| failure::opening(&name, error))?;
        check_layout(&database, &health)?;
        let view = RedbView::of(&database, &health).map_err(|error| error.into_store_error(&health))?;
        Ok(Self { view: Some(view), database, health })
    }

    /// Commits, and knows when it did even if redb reports something that failed only afterwards.
    fn commit(&self, batches: &[Batch]) -> Result<(), RedbError> {
        let mut transaction = self.database.begin_write()?;
        let saves_free_space = self.health.length_bytes() > WALKED_BYTES_MAX;
        transaction.set_quick_repair(saves_free_space);
        apply(&transaction, batches)?;
        let syncs_to_durable = self.health.syncs() + if saves_free_space { 2 } else { 1 };
        match transaction.commit() {
            Err(error) if self.health.syncs() < syncs_to_durable => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn view(&self) -> &RedbView {
        self.view.as_ref().expect("a view is missing within a commit only")
    }
}

/// Refuses a layout this program does not know; enters its own in a new file.
fn check_layout(database: &Database, health: &Health) -> Result<(), StoreError> {
    let found = read_layout(database).map_err(|error| error.into_store_error(health))?;
    match found {
        Some(LAYOUT_VERSION) => Ok(()),
        Some(found) if found > LAYOUT_VERSION => {
            Err(StoreError::NewerVersion { what: "the metadata file", found, known: LAYOUT_VERSION })
        }
        Some(found) => Err(StoreError::Corrupt(format!("its layout has version {found}, which never was"))),
        None => write_layout(database).map_err(|error| error.into_store_error(health)),
    }
}

fn read_layout(database: &Database) -> Result<Option<u32>, RedbError> {
    let transaction = database.begin_read()?;
    match transaction.open_table(ABOUT) {
        Ok(about) => Ok(about.get(LAYOUT_KEY)?.map(|value| value.value())),
        Err(TableError::TableDoesNotExist(_)) if transaction.list_tables()?.next().is_none() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn write_layout(database: &Database) -> Result<(), RedbError> {
    let transaction = database.begin_write()?;
    transaction.open_table(ABOUT)?.insert(LAYOUT_KEY, LAYOUT_VERSION)?;
    transaction.open_table(PAIRS)?;
    transaction.commit()?;
    Ok(())
}

fn apply(transaction: &WriteTransaction, batches: &[Batch]) -> Result<(), RedbError> {
    let mut pairs = transaction.open_table(PAIRS)?;
    // What becomes of each key: a batch counts the same thing again and again, and neighbours in the tree are changed
    // most cheaply one after the other.
    let mut last: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
    for change in batches.iter().flat_map(|batch| &batch.changes) {
        match change {
            Change::Put(key, value) => drop(last.insert(key, Some(value))),
            Change::Delete(key) => drop(last.insert(key, None)),
            Change::DeleteRange(range) => {
                set(&mut pairs, std::mem::take(&mut last))?;
                delete_range(&mut pairs, range)?;
            }
        }
    }
    set(&mut pairs, last)
}

/// Gives each key its value, or none.
fn set(
    pairs: &mut Table<'_, &'static [u8], &'static [u8]>,
    wanted: BTreeMap<&[u8], Option<&[u8]>>,
) -> Result<(), RedbError> {
    for (key, value) in wanted {
        match value {
            Some(value) => drop(pairs.insert(key, value)?),
            None => drop(pairs.remove(key)?),
        }
    }
    Ok(())
}

fn delete_range(pairs: &mut Table<'_, &'static [u8], &'static [u8]>, range: &KeyRange) -> Result<(), RedbError> {
    if range.start < range.end {
        pairs.retain_in::<&[u8], _>(range.start.as_slice()..range.end.as_slice(), |_, _| false)?;
    }
    Ok(())
}

impl StoreView for RedbStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.open_state()?.view().get(key)
    }

    fn scan(&self, range: &KeyRange, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.open_state()?.view().scan(range, visitor)
    }

    fn scan_back(&self, range: &KeyRange, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.open_state()?.view().scan_back(range, visitor)
    }
}

impl MetaStore for RedbStore {
    fn commit(&mut self, batches: &[Batch]) -> Result<(), StoreError> {
        let State::Open(open) = &mut self.state else { return self.open_state().map(|_| ()) };
        if batches.iter().all(Batch::is_empty) {
            return Ok(());
        }
        open.view = None;
        let health = Arc::clone(&open.health);
        let committed = open.commit(batches).map_err(|error| error.into_store_error(&health));
        self.recover(&health);
        self.renew_view();
        committed
    }

    fn snapshot(&self) -> Result<Box<dyn StoreView + Send>, StoreError> {
        let open = self.open_state()?;
        let view = RedbView::of(&open.database, &open.health).map_err(|error| error.into_store_error(&open.health))?;
        Ok(Box::new(view))
    }

    fn space(&self) -> Result<Space, StoreError> {
        let open = self.open_state()?;
        let available_bytes = self
            .disk
            .available_bytes()
            .map_err(|error| StoreError::Failed(format!("asking for the room beside {}: {error}", self.disk.name())))?;
        Ok(Space { used_bytes: open.health.length_bytes(), available_bytes })
    }
}
