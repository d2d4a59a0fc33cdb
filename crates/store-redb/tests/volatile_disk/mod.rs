//! A disk in memory with a volatile cache, which fails when told and tears what was in its cache at a crash.
#![forbid(unsafe_code)]

use redb::StorageBackend;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store_redb::MetadataDisk;

const SECTOR_BYTES: usize = 512;

/// The disk; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct VolatileDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    durable: Vec<u8>,
    cached: Vec<u8>,
    /// Writes since the last sync, in order.
    unsynced: Vec<(usize, Vec<u8>)>,
    operations: u64,
    fail_from: Option<u64>,
    room_bytes: Option<u64>,
    /// Grows by one at each crash; what was opened before is cut off.
    life: u64,
}

impl VolatileDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many writes, syncs and changes of length there have been.
    pub(crate) fn operations(&self) -> u64 {
        self.state().operations
    }

    /// From the operation of this number on, every one fails; or none, again.
    pub(crate) fn fail_from(&self, operation: Option<u64>) {
        self.state().fail_from = operation;
    }

    /// The file may not grow beyond so many bytes.
    pub(crate) fn room_bytes(&self, bytes: Option<u64>) {
        self.state().room_bytes = bytes;
    }

    /// How long the file is.
    pub(crate) fn length_bytes(&self) -> u64 {
        self.state().cached.len() as u64
    }

    /// Pulls the plug: of each sector written since the last sync, chance decides whether it arrived. Whatever has the
    /// disk open sees only errors from now on.
    pub(crate) fn crash(&self, mut chance: impl FnMut() -> bool) {
        let mut state = self.state();
        state.life += 1;
        state.fail_from = None;
        let mut image = std::mem::take(&mut state.durable);
        let length = state.cached.len().max(image.len());
        image.resize(length, 0);
        for (offset, data) in std::mem::take(&mut state.unsynced) {
            for (index, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                let at = offset + index * SECTOR_BYTES;
                if chance() && at + sector.len() <= image.len() {
                    image[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        state.cached.clone_from(&image);
        state.durable = image;
    }

    /// Replaces the file.
    pub(crate) fn set_bytes(&self, bytes: Vec<u8>) {
        let mut state = self.state();
        state.life += 1;
        state.unsynced.clear();
        state.cached.clone_from(&bytes);
        state.durable = bytes;
    }

    /// What is in the file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state().cached.clone()
    }
}

impl MetadataDisk for VolatileDisk {
    fn name(&self) -> String {
        "a disk in memory".into()
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(Opened { life: self.state().life, disk: self.clone() }))
    }

    fn available_bytes(&self) -> io::Result<Option<u64>> {
        let state = self.state();
        Ok(state.room_bytes.map(|room| room.saturating_sub(state.cached.len() as u64)))
    }
}

/// The disk as one opening of it sees it.
#[derive(Debug)]
struct Opened {
    disk: VolatileDisk,
    life: u64,
}

impl Opened {
    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.life == self.life { Ok(state) } else { Err(io::Error::other("the plug was pulled")) }
    }

    fn operate(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.alive()?;
        state.operations += 1;
        match state.fail_from {
            Some(from) if state.operations >= from => Err(io::Error::other("the disk failed as told")),
            _ => Ok(state),
        }
    }
}

impl StorageBackend for Opened {
    fn len(&self) -> io::Result<u64> {
        Ok(self.alive()?.cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.alive()?;
        let offset = offset as usize;
        let bytes = state.cached.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length_bytes: u64) -> io::Result<()> {
        let mut state = self.operate()?;
        if state.room_bytes.is_some_and(|room| length_bytes > room && length_bytes > state.cached.len() as u64) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.cached.resize(length_bytes as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.operate()?;
        state.durable = state.cached.clone();
        state.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.operate()?;
        let offset = offset as usize;
        state.cached.get_mut(offset..offset + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        state.unsynced.push((offset, data.to_vec()));
        Ok(())
    }
}
