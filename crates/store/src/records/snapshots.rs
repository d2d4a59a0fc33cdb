//! The records of snapshots: what there is, who holds how much, and when more are taken.

use super::{Record, read_cluster, read_name};
use crate::StoreError;
use crate::codec::{Reader, Writer};
use model::{BranchId, ClusterId, Generation, VOLUME_BYTES_MAX, VolumeId};

/// A snapshot: a generation of a branch that stays readable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotRecord {
    /// The volume it is of, or was when it was taken.
    pub volume: VolumeId,
    /// The branch it is on.
    pub branch: BranchId,
    /// Its generation there.
    pub generation: Generation,
    /// What people call it; unique among its volume's. The name it had, once it is deleted.
    pub name: String,
    /// When it was taken, in seconds since 1970.
    pub created_unix_seconds: u64,
    /// The volume's size then, in bytes.
    pub size_bytes: u64,
    /// A schedule took it, and may delete it.
    pub scheduled: bool,
    /// Its name is free again; it is there for the clones it has, or until its space is taken back.
    pub deleted: bool,
    /// An import took it, of what this snapshot (its id there) of that cluster holds.
    pub imported_from: Option<(ClusterId, u32)>,
}

impl Record for SnapshotRecord {
    const WHAT: &'static str = "a snapshot's record";

    fn write(&self, writer: &mut Writer) {
        writer.number(self.volume.0);
        writer.number(self.branch.0);
        writer.number(self.generation.0);
        writer.string(self.name.as_bytes());
        writer.number(self.created_unix_seconds);
        writer.number(self.size_bytes);
        writer.u8(u8::from(self.scheduled));
        writer.u8(u8::from(self.deleted));
        writer.option(self.imported_from.map(|(_, snapshot)| snapshot.into()));
        if let Some((cluster, _)) = self.imported_from {
            writer.raw(&cluster.0.to_le_bytes());
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StoreError> {
        let (volume, branch, generation) =
            (VolumeId(reader.u32()?), BranchId(reader.u32()?), Generation(reader.u32()?));
        let (name, created_unix_seconds, size_bytes) = (read_name(reader)?, reader.number()?, reader.number()?);
        if size_bytes > VOLUME_BYTES_MAX {
            return Err(reader.corrupt("its size is beyond the largest volume"));
        }
        let (scheduled, deleted) = (reader.bool()?, reader.bool()?);
        let imported_from = match reader.option()? {
            None => None,
            Some(id) => Some((
                read_cluster(reader)?,
                u32::try_from(id).map_err(|_| reader.corrupt("its source is no snapshot"))?,
            )),
        };
        Ok(Self {
            volume,
            branch,
            generation,
            name,
            created_unix_seconds,
            size_bytes,
            scheduled,
            deleted,
            imported_from,
        })
    }
}

/// How many allocation units one view of a branch holds of one bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnitCount(pub u64);

impl Record for UnitCount {
    const WHAT: &'static str = "a count of units";

    fn write(&self, writer: &mut Writer) {
        writer.number(self.0);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StoreError> {
        reader.number().map(Self)
    }
}

/// The most rules one schedule has.
pub const KEEP_RULES_MAX: usize = 16;

/// How long snapshots of a schedule are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeepRule {
    /// Those younger than this, in seconds.
    pub within_seconds: u64,
    /// One for each such period, in seconds; 0 for all.
    pub each_seconds: u64,
}

/// When snapshots of a volume are taken without anybody asking, and for how long they are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScheduleRecord {
    /// The time from one to the next, in seconds.
    pub every_seconds: u64,
    /// A snapshot that any of them keeps is kept.
    pub keep: Vec<KeepRule>,
}

impl Record for ScheduleRecord {
    const WHAT: &'static str = "a snapshot schedule";

    fn write(&self, writer: &mut Writer) {
        writer.number(self.every_seconds);
        writer.number(self.keep.len() as u64);
        for rule in &self.keep {
            writer.number(rule.within_seconds);
            writer.number(rule.each_seconds);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StoreError> {
        let (every_seconds, count) = (reader.number()?, reader.count(2)?);
        if every_seconds == 0 || count > KEEP_RULES_MAX {
            return Err(reader.corrupt("it makes no sense"));
        }
        let mut keep = Vec::with_capacity(count);
        for _ in 0..count {
            keep.push(KeepRule { within_seconds: reader.number()?, each_seconds: reader.number()? });
        }
        Ok(Self { every_seconds, keep })
    }
}
