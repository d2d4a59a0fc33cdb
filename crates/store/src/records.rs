//! The values of the store, but for the table's: what each record holds and how it is written down.

mod snapshots;

pub use snapshots::{KEEP_RULES_MAX, KeepRule, ScheduleRecord, SnapshotRecord, UnitCount};

use crate::StoreError;
use crate::codec::{Reader, Writer};
use crate::keys::NAME_BYTES_MAX;
use model::{
    BranchId, ChunkletAddress, ClusterId, DiskId, Epoch, Generation, LogicalDiskId, LogicalDiskLayout, PageIndex,
    PoolId, RaidLevel, RegionSize, Term, UNIT_BYTES, VOLUME_BYTES_MAX, VolumeId,
};

/// The format of the whole store: key schema and records together. See `docs/on-disk-format.md`.
/// Version 1 had no snapshots; its records are read as they are, and written as those of version 2.
pub const FORMAT_VERSION: u32 = 2;

/// A value of the store.
pub trait Record: Sized {
    /// What it is, for errors.
    const WHAT: &'static str;

    /// Writes the fields.
    fn write(&self, writer: &mut Writer);

    /// Reads and checks the fields.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    fn read(reader: &mut Reader<'_>) -> Result<Self, StoreError>;

    /// The value's bytes.
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.write(&mut writer);
        writer.finish()
    }

    /// The value these bytes are.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] or [`StoreError::NewerVersion`].
    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader::new(Self::WHAT, bytes)?;
        let record = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(record)
    }
}

/// What the store is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetaRecord {
    /// [`FORMAT_VERSION`] of the program that made or last upgraded it.
    pub format_version: u32,
    /// Whose it is.
    pub cluster: ClusterId,
}

impl Record for MetaRecord {
    const WHAT: &'static str = "the metadata store";

    fn write(&self, writer: &mut Writer) {
        writer.number(self.format_version);
        writer.raw(&self.cluster.0.to_le_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StoreError> {
        let format_version = reader.u32()?;
        if format_version > FORMAT_VERSION {
            return Err(StoreError::NewerVersion { what: Self::WHAT, found: format_version, known: FORMAT_VERSION });
        }
        Ok(Self { format_version, cluster: read_cluster(reader)? })
    }
}

fn read_cluster(reader: &mut Reader<'_>) -> Result<ClusterId, StoreError> {
    let cluster = reader.raw(16)?.try_into().map_err(|_| reader.corrupt("its cluster id is cut short"))?;
    Ok(ClusterId(u128::from_le_bytes(cluster)))
}

/// The ids given out last. Ids are never used again, so these only grow.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// The current leadership.
    pub term: Term,
    /// The youngest session.
    pub epoch: Epoch,
    /// The youngest pool.
    pub pool: PoolId,
    /// The youngest disk.
    pub disk: DiskId,
    /// The youngest logical disk.
    pub logical_disk: LogicalDiskId,
    /// The youngest volume.
    pub volume: VolumeId,
    /// The youngest branch.
    pub branch: BranchId,
    /// The youngest job.
    pub job: u64,
}

impl Record for Counters {
    const WHAT: &'static str = "the id counters";

    fn write(&self, writer: &mut Writer) {
        writer.number(self.term.0);
        writer.number(self.epoch.0);
        for id in [self.pool.0, self.disk.0, self.logical_disk.0, self.volume.0, self.branch.0] {
            writer.number(id);
        }
        writer.number(self.job);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            term: Term(reader.number()?),
            epoch: Epoch(reader.number()?),
            pool: PoolId(reader.u32()?),
            disk: DiskId(reader.u32()?),
            logical_disk: LogicalDiskId(reader.u32()?),
            volume: VolumeId(reader.u32()?),
            branch: BranchId(reader.u32()?),
            job: reader.number()?,
        })
    }
}

fn read_name(reader: &mut Reader<'_>) -> Result<String, StoreError> {
    let name = reader.string()?;
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(reader.corrupt("its name is empty or too long"));
    }
    Ok(name)
}

fn raid_tag(raid: RaidLevel) -> u8 {
    match raid {
        RaidLevel::Raid0 => 0,
    }
}

fn read_raid(reader: &mut Reader<'_>) -> Result<RaidLevel, StoreError> {
    match reader.u8()? {
        0 => Ok(RaidLevel::Raid0),
        _ => Err(reader.corrupt("its RAID level is unknown")),
    }
}

/// A pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolRecord {
    /// What people call it.
    pub name: String,
    /// How its logical disks hold data.
    pub raid: RaidLevel,
    /// Usage at which an alert is raised, in bytes.
    pub warn_bytes: Option<u64>,
    /// Usage it may not pass, in bytes.
    pub limit_bytes: Option<u64>,
    /// How much it grows at a time, in bytes; by its size if not given.
    pub growth_bytes: Option<u64>,
}

impl Record for PoolRecord {
    const WHAT: &'static str = "a pool's record";

    fn write(&self, writer: &mut Writer) {
        writer.string(self.name.as_bytes());
        writer.u8(raid_tag(self.raid));
        [self.warn_bytes, self.limit_bytes, self.growth_bytes].into_iter().for_each(|bytes| writer.option(bytes));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            name: read_name(reader)?,
            raid: read_raid(reader)?,
            warn_bytes: reader.option()?,
            limit_bytes: reader.option()?,
            growth_bytes: reader.option()?,
        })
    }
}

/// A physical disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskRecord {
    /// The pool it serves.
    pub pool: PoolId,
    /// Where its node finds it.
    pub path: String,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// 512 or 4,096.
    pub sector_bytes: u32,
    /// The size of its chunklets, in bytes.
    pub chunklet_bytes: u64,
}

impl Record for DiskRecord {
    const WHAT: &'static str = "a disk's record";

    fn write(&self, writer: &mut Writer) {
        writer.number(self.pool.0);
        writer.string(self.path.as_bytes());
        writer.number(self.size_bytes);
        writer.number(self.sector_bytes);
        writer.number(self.chunklet_bytes);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StoreError> {
        let record = Self {
            pool: PoolId(reader.u32()?),
            path: reader.string()?,
            size_bytes: reader.number()?,
            sector_bytes: reader.u32()?,
            chunklet_bytes: reader.number()?,
        };
        let sane = matches!(record.sector_bytes, 512 | 4096)
            && record.chunklet_bytes >= 1 << 20
            && record.chunklet_bytes.is_multiple_of(1 << 20)
            && record.size_bytes <= VOLUME_BYTES_MAX;
        if sane { Ok(record) } else { Err(reader.corrupt("its sizes make no sense")) }
    }
}

impl Record for LogicalDiskLayout {
    const WHAT: &'static str = "a logical disk's record";

    fn write(&self, writer: &mut Writer) {
        writer.number(self.id.0);
        writer.number(self.pool.0);
        writer.u8(raid_tag(self.raid));
        writer.number(self.step_bytes);
        writer.number(self.chunklet_bytes);
        writer.number(self.rows.first().map_or(0, Vec::len) as u64);
        writer.number(self.rows.len() as u64);
        for chunklet in self.rows.iter().flatten() {
            writer.number(chunklet.disk.0);
            writer.number(chunklet.byte_offset / model::BLOCK_BYTES);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StoreError> {
        let (id, pool) = (LogicalDiskId(reader.u32()?), PoolId(reader.u32()?));
        let raid = read_raid(reader)?;
        let (step_bytes, chunklet_bytes) = (reader.u32()?, reader.number()?);
        let width = reader.count(2)?;
        let rows = reader.count(2 * width.max(1))?;
        let step = u64::from(step_bytes);
        let sane = width > 0
            && rows > 0
            && step > 0
            && step.is_multiple_of(UNIT_BYTES)
            && chunklet_bytes > 0
            && chunklet_bytes.is_multiple_of(step)
            && (chunklet_bytes.checked_mul((width * rows) as u64))
                .is_some_and(|bytes| bytes / UNIT_BYTES <= u64::from(u32::MAX));
        if !sane {
            return Err(reader.corrupt("its shape makes no sense"));
        }
        let mut layout = Self { id, pool, raid, step_bytes, chunklet_bytes, rows: Vec::with_capacity(rows) };
        for _ in 0..rows {
            let mut row = Vec::with_capacity(width);
            for _ in 0..width {
                let (disk, block) = (DiskId(reader.u32()?), reader.number()?);
                let beyond = block > VOLUME_BYTES_MAX / model::BLOCK_BYTES;
                if beyond {
                    return Err(reader.corrupt("a chunklet lies beyond every disk"));
                }
                row.push(ChunkletAddress { disk, byte_offset: block * model::BLOCK_BYTES });
            }
            layout.rows.push(row);
        }
        Ok(layout)
    }
}

/// A volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeRecord {
    /// What people call it; the name it had, once it is being deleted.
    pub name: String,
    /// Where its space comes from.
    pub pool: PoolId,
    /// Its line of generations.
    pub branch: BranchId,
    /// Its size, in bytes; a multiple of 512.
    pub size_bytes: u64,
    /// The size of its regions.
    pub region_size: RegionSize,
    /// Writes are refused.
    pub read_only: bool,
    /// Usage at which an alert is raised, in bytes.
    pub warn_bytes: Option<u64>,
    /// Usage it may not pass, in bytes.
    pub limit_bytes: Option<u64>,
    /// Its name is free again and a job takes its space back.
    pub deleting: bool,
}

impl Record for VolumeRecord {
    const WHAT: &'static str = "a volume's record";

    fn write(&self, writer: &mut Writer) {
        writer.string(self.name.as_bytes());
        writer.number(self.pool.0);
        writer.number(self.branch.0);
        writer.number(self.size_bytes);
        writer.u8(self.region_size.log2() as u8);
        writer.u8(u8::from(self.read_only));
        writer.option(self.warn_bytes);
        writer.option(self.limit_bytes);
        writer.u8(u8::from(self.deleting));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StoreError> {
        let (name, pool, branch) = (read_name(reader)?, PoolId(reader.u32()?), BranchId(reader.u32()?));
        let size_bytes = reader.number()?;
        let region_size = read_region_size(reader)?;
        if size_bytes > VOLUME_BYTES_MAX || size_bytes.div_ceil(region_size.page_bytes()) > u64::from(u32::MAX) {
            return Err(reader.corrupt("its size is beyond the largest volume"));
        }
        let read_only = reader.bool()?;
        let (warn_bytes, limit_bytes, deleting) = (reader.option()?, reader.option()?, reader.bool()?);
        Ok(Self { name, pool, branch, size_bytes, region_size, read_only, warn_bytes, limit_bytes, deleting })
    }
}

/// A region size as its logarithm.
pub(crate) fn read_region_size(reader: &mut Reader<'_>) -> Result<RegionSize, StoreError> {
    let log2 = reader.u8()?;
    1_u64
        .checked_shl(log2.into())
        .and_then(RegionSize::from_bytes)
        .ok_or_else(|| reader.corrupt("its region size is not one"))
}

/// A line of generations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BranchRecord {
    /// The volume whose live end it is.
    pub volume: VolumeId,
    /// The generation of that live end.
    pub generation: Generation,
    /// What was born up to here is frozen; zero without snapshot or origin.
    pub frozen_through: Generation,
    /// Where its missing pages are: another branch, at the generation it forked off from.
    pub origin: Option<(BranchId, Generation)>,
    /// It has no live end any more: its volume was deleted or rolled back. It is there for its snapshots, if it has any.
    pub ended: bool,
}

impl Record for BranchRecord {
    const WHAT: &'static str = "a branch's record";

    fn write(&self, writer: &mut Writer) {
        writer.number(self.volume.0);
        writer.number(self.generation.0);
        writer.number(self.frozen_through.0);
        writer.option(self.origin.map(|(branch, _)| branch.0.into()));
        writer.number(self.origin.map_or(0, |(_, generation)| generation.0));
        writer.u8(u8::from(self.ended));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StoreError> {
        let (volume, generation, frozen_through) =
            (VolumeId(reader.u32()?), Generation(reader.u32()?), Generation(reader.u32()?));
        // Version 1 ended here.
        if reader.remaining() == 0 {
            return Ok(Self { volume, generation, frozen_through, origin: None, ended: false });
        }
        let origin = reader.option()?.map(|branch| u32::try_from(branch).map(BranchId)).transpose();
        let origin = origin.map_err(|_| reader.corrupt("its origin is no branch"))?;
        let at = Generation(reader.u32()?);
        let ended = reader.bool()?;
        Ok(Self { volume, generation, frozen_through, origin: origin.map(|branch| (branch, at)), ended })
    }
}

/// How many answered requests a volume remembers.
pub const ANSWERED_MAX: usize = 16;

/// What changes with every commit to a volume's map.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VolumeProgress {
    /// The sequence number given to a delta last.
    pub sequence: u64,
    /// How many allocation units its map holds.
    pub mapped_units: u64,
    /// The commits answered last, oldest first: session and request. At most [`ANSWERED_MAX`].
    pub answered: Vec<(Epoch, u64)>,
    /// The logical disks it has ever had units of, ascending: what a new session's first flush covers.
    pub logical_disks: Vec<LogicalDiskId>,
}

impl Record for VolumeProgress {
    const WHAT: &'static str = "a volume's progress";

    fn write(&self, writer: &mut Writer) {
        writer.number(self.sequence);
        writer.number(self.mapped_units);
        writer.number(self.answered.len() as u64);
        for (epoch, request) in &self.answered {
            writer.number(epoch.0);
            writer.number(*request);
        }
        writer.number(self.logical_disks.len() as u64);
        self.logical_disks.iter().for_each(|disk| writer.number(disk.0));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StoreError> {
        let (sequence, mapped_units, count) = (reader.number()?, reader.number()?, reader.count(2)?);
        let mut answered = Vec::with_capacity(count);
        for _ in 0..count {
            answered.push((Epoch(reader.number()?), reader.number()?));
        }
        // Version 1 ended here.
        let count = if reader.remaining() == 0 { 0 } else { reader.count(1)? };
        let mut logical_disks = Vec::with_capacity(count);
        for _ in 0..count {
            logical_disks.push(LogicalDiskId(reader.u32()?));
        }
        Ok(Self { sequence, mapped_units, answered, logical_disks })
    }
}

/// An attachment of a volume by an agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionRecord {
    /// The volume.
    pub volume: VolumeId,
    /// The agent's number.
    pub agent: u32,
    /// The term in which it was opened.
    pub term: Term,
    /// It gets no grants and may not commit.
    pub read_only: bool,
}

impl Record for SessionRecord {
    const WHAT: &'static str = "a session's record";

    fn write(&self, writer: &mut Writer) {
        writer.number(self.volume.0);
        writer.number(self.agent);
        writer.number(self.term.0);
        writer.u8(u8::from(self.read_only));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            volume: VolumeId(reader.u32()?),
            agent: reader.u32()?,
            term: Term(reader.number()?),
            read_only: reader.bool()?,
        })
    }
}

/// A run of units given to a session (both in the key) that it has not mapped yet. What it maps or gives back leaves the
/// run, which then is shorter, or two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrantRecord {
    /// How many units, at least 1.
    pub count: u32,
}

impl Record for GrantRecord {
    const WHAT: &'static str = "a grant's record";

    fn write(&self, writer: &mut Writer) {
        writer.number(self.count);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StoreError> {
        let count = reader.u32()?;
        if count == 0 { Err(reader.corrupt("it covers no units")) } else { Ok(Self { count }) }
    }
}

/// Work that outlives a crash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JobRecord {
    /// Takes all space of a volume back. Written by format version 1 only: what a volume that is being deleted leaves
    /// to do is found without it.
    Delete {
        /// The volume.
        volume: VolumeId,
    },
    /// Takes back what a volume held beyond its new, smaller size.
    Shrink {
        /// The volume.
        volume: VolumeId,
        /// What it is shrunk to, in bytes.
        size_bytes: u64,
    },
    /// Takes back what nobody but one view of a branch holds, and then the view.
    Purge {
        /// The branch.
        branch: BranchId,
        /// A snapshot's generation, or that of an ended branch's live end.
        view: Generation,
        /// Every page before this one is done.
        next_page: PageIndex,
    },
    /// Gives a clone places of its own for everything it shares with its origin, and then cuts it loose.
    Flatten {
        /// The volume.
        volume: VolumeId,
    },
}

impl Record for JobRecord {
    const WHAT: &'static str = "a job's record";

    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Delete { volume } => {
                writer.u8(0);
                writer.number(volume.0);
            }
            Self::Shrink { volume, size_bytes } => {
                writer.u8(1);
                writer.number(volume.0);
                writer.number(*size_bytes);
            }
            Self::Purge { branch, view, next_page } => {
                writer.u8(2);
                writer.number(branch.0);
                writer.number(view.0);
                writer.number(next_page.0);
            }
            Self::Flatten { volume } => {
                writer.u8(3);
                writer.number(volume.0);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StoreError> {
        match reader.u8()? {
            0 => Ok(Self::Delete { volume: VolumeId(reader.u32()?) }),
            1 => Ok(Self::Shrink { volume: VolumeId(reader.u32()?), size_bytes: reader.number()? }),
            2 => Ok(Self::Purge {
                branch: BranchId(reader.u32()?),
                view: Generation(reader.u32()?),
                next_page: PageIndex(reader.u32()?),
            }),
            3 => Ok(Self::Flatten { volume: VolumeId(reader.u32()?) }),
            _ => Err(reader.corrupt("its kind is unknown")),
        }
    }
}

impl Record for VolumeId {
    const WHAT: &'static str = "a volume's name";

    fn write(&self, writer: &mut Writer) {
        writer.number(self.0);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StoreError> {
        reader.u32().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back<R: Record + PartialEq + std::fmt::Debug>(record: R) {
        let bytes = record.encode();
        assert_eq!(R::decode(&bytes), Ok(record));
        for end in 0..bytes.len() {
            assert!(R::decode(&bytes[..end]).is_err(), "a record cut at {end} is refused");
        }
    }

    #[test]
    fn every_record_comes_back_and_is_refused_when_cut() {
        back(MetaRecord { format_version: FORMAT_VERSION, cluster: ClusterId(u128::MAX / 3) });
        back(Counters { term: Term(3), epoch: Epoch(1 << 40), job: 7, ..Counters::default() });
        back(PoolRecord {
            name: "fast".into(),
            raid: RaidLevel::Raid0,
            warn_bytes: Some(1),
            limit_bytes: None,
            growth_bytes: Some(1 << 33),
        });
        back(DiskRecord {
            pool: PoolId(1),
            path: "/dev/x".into(),
            size_bytes: 1 << 40,
            sector_bytes: 4096,
            chunklet_bytes: 1 << 28,
        });
        let chunklet = |disk, byte_offset| ChunkletAddress { disk: DiskId(disk), byte_offset };
        back(LogicalDiskLayout {
            id: LogicalDiskId(1),
            pool: PoolId(1),
            raid: RaidLevel::Raid0,
            step_bytes: 1 << 18,
            chunklet_bytes: 1 << 28,
            rows: vec![
                vec![chunklet(1, 1 << 20), chunklet(2, 1 << 20)],
                vec![chunklet(1, 1 << 29), chunklet(2, 1 << 30)],
            ],
        });
        back(VolumeRecord {
            name: "demo".into(),
            pool: PoolId(1),
            branch: BranchId(2),
            size_bytes: 1 << 50,
            region_size: RegionSize::DEFAULT,
            read_only: true,
            warn_bytes: None,
            limit_bytes: Some(5),
            deleting: false,
        });
        let branch = BranchRecord {
            volume: VolumeId(1),
            generation: Generation(1),
            frozen_through: Generation(0),
            origin: None,
            ended: false,
        };
        back(branch.clone());
        back(BranchRecord { origin: Some((BranchId(7), Generation(9))), ended: true, ..branch });
        back(SnapshotRecord {
            volume: VolumeId(1),
            branch: BranchId(2),
            generation: Generation(3),
            name: "monday".into(),
            created_unix_seconds: 1_800_000_000,
            size_bytes: 1 << 40,
            scheduled: true,
            deleted: false,
            imported_from: Some((ClusterId(5), 17)),
        });
        back(UnitCount(1 << 40));
        let keep = vec![KeepRule { within_seconds: 86_400, each_seconds: 0 }];
        back(ScheduleRecord { every_seconds: 900, keep });
        back(VolumeProgress {
            sequence: 9,
            mapped_units: 1 << 33,
            answered: vec![(Epoch(3), 4), (Epoch(3), 9)],
            logical_disks: vec![LogicalDiskId(2), LogicalDiskId(7)],
        });
        back(SessionRecord { volume: VolumeId(1), agent: 2, term: Term(3), read_only: false });
        back(GrantRecord { count: 100 });
        back(JobRecord::Delete { volume: VolumeId(4) });
        back(JobRecord::Shrink { volume: VolumeId(4), size_bytes: 1 << 20 });
        let (branch, view) = (BranchId(4), Generation(7));
        back(JobRecord::Purge { branch, view, next_page: PageIndex(9) });
        back(JobRecord::Flatten { volume: VolumeId(4) });
        back(VolumeId(77));
    }

    #[test]
    fn a_branch_of_format_version_1_has_no_origin_and_is_alive() {
        let mut writer = Writer::new();
        [3_u32, 2, 1].into_iter().for_each(|number| writer.number(number));
        let expected = BranchRecord {
            volume: VolumeId(3),
            generation: Generation(2),
            frozen_through: Generation(1),
            origin: None,
            ended: false,
        };
        assert_eq!(BranchRecord::decode(&writer.finish()), Ok(expected));
    }

    #[test]
    fn a_store_of_a_newer_format_is_told_apart() {
        let bytes = MetaRecord { format_version: FORMAT_VERSION + 1, cluster: ClusterId(1) }.encode();
        assert!(matches!(MetaRecord::decode(&bytes), Err(StoreError::NewerVersion { .. })));
    }
}
