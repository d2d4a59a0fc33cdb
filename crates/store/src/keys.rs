//! The key schema: typed keys, encoded so that byte order is the order of their fields.
//!
//! A key is one tag byte and then its fields, numbers big-endian. A table page, its versions and its deltas lie side by
//! side under one tag, so that one scan finds all of a page and, behind it, the next page there is:
//!
//! ```text
//! 0x01  kind                                   meta: format and cluster (0), counters (1)
//! 0x10  pool:4
//! 0x11  disk:4
//! 0x12  logical disk:4
//! 0x13  logical disk:4  index:4                allocation page
//! 0x20  volume:4
//! 0x21  name                                   volume by name
//! 0x22  branch:4
//! 0x23  volume:4                               volume progress
//! 0x24  snapshot:4                             snapshot (its id is of the volumes' kind)
//! 0x25  branch:4  holder:4  bucket:4           how many units a view holds, by when they were allocated
//! 0x26  volume:4                               snapshot schedule
//! 0x30  epoch:8                                session
//! 0x31  epoch:8  logical disk:4  unit:4        grant
//! 0x40  branch:4  page:4  generation:4  sequence:8    0: the folded page; from 1 on: its deltas; from 2^63 on: a summary
//! 0x50  job:8
//! ```

use model::{BranchId, DiskId, Epoch, Generation, LogicalDiskId, PageIndex, PoolId, UnitIndex, VolumeId};

/// The longest volume name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// The sequence of a table page that is whole.
pub const WHOLE: u64 = 0;
/// From here on a sequence is a summary's.
const SUMMARY: u64 = 1 << 63;

/// The sequence of a summary: a delta that tells all that changed on its page in the generations younger than `after`, up to
/// its own, which is over. It is the last one of its generation, so that whoever takes it for any other delta is right too.
#[must_use]
pub fn summary_sequence(after: Generation) -> u64 {
    SUMMARY | u64::from(after.0)
}

/// For a summary's sequence, the generation after which what it tells begins.
#[must_use]
pub fn summarized_after(sequence: u64) -> Option<Generation> {
    let after = u32::try_from(sequence.checked_sub(SUMMARY)?).ok()?;
    Some(Generation(after))
}

/// A half-open range of encoded keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRange {
    /// The first key.
    pub start: Vec<u8>,
    /// Greater than the last key.
    pub end: Vec<u8>,
}

impl KeyRange {
    /// Every key that starts with `prefix`, which is not all 0xff.
    fn prefix(prefix: Vec<u8>) -> Self {
        let mut end = prefix.clone();
        while end.pop_if(|byte| *byte == 0xff).is_some() {}
        let last = end.last_mut().expect("no tag is 0xff");
        *last += 1;
        Self { start: prefix, end }
    }

    /// Every key there is.
    #[must_use]
    pub fn all() -> Self {
        Self { start: vec![0], end: vec![0xff] }
    }

    /// One key and nothing else.
    #[must_use]
    pub fn one(key: Key<'_>) -> Self {
        let start = key.encode();
        let end = [&start[..], &[0]].concat();
        Self { start, end }
    }

    /// Every key of `tag`.
    #[must_use]
    pub fn tag(tag: Tag) -> Self {
        Self::prefix(vec![tag as u8])
    }

    /// The allocation pages of one logical disk.
    #[must_use]
    pub fn allocation(logical_disk: LogicalDiskId) -> Self {
        Self::prefix(Encoder::new(Tag::Allocation).u32(logical_disk.0).0)
    }

    /// The grants of one session.
    #[must_use]
    pub fn grants(epoch: Epoch) -> Self {
        Self::prefix(Encoder::new(Tag::Grant).u64(epoch.0).0)
    }

    /// How many units each view of one branch holds.
    #[must_use]
    pub fn usage(branch: BranchId) -> Self {
        Self::prefix(Encoder::new(Tag::Usage).u32(branch.0).0)
    }

    /// The table of one branch: every page, version and delta.
    #[must_use]
    pub fn table(branch: BranchId) -> Self {
        Self::prefix(Encoder::new(Tag::Table).u32(branch.0).0)
    }

    /// The table of one branch from `first` on.
    #[must_use]
    pub fn table_from(branch: BranchId, first: PageIndex) -> Self {
        Self { start: Encoder::new(Tag::Table).u32(branch.0).u32(first.0).0, end: Self::table(branch).end }
    }

    /// All versions and deltas of one page.
    #[must_use]
    pub fn table_page(branch: BranchId, page: PageIndex) -> Self {
        Self::prefix(Encoder::new(Tag::Table).u32(branch.0).u32(page.0).0)
    }

    /// The versions and deltas of one page up to `generation`.
    #[must_use]
    pub fn table_page_through(branch: BranchId, page: PageIndex, generation: Generation) -> Self {
        let page_range = Self::table_page(branch, page);
        let end = match generation.0.checked_add(1) {
            Some(next) => Encoder::new(Tag::Table).u32(branch.0).u32(page.0).u32(next).0,
            None => page_range.end,
        };
        Self { start: page_range.start, end }
    }

    /// The versions and deltas of one page younger than `generation`.
    #[must_use]
    pub fn table_page_after(branch: BranchId, page: PageIndex, generation: Generation) -> Self {
        let start = Self::table_page_through(branch, page, generation).end;
        Self { start, end: Self::table_page(branch, page).end }
    }
}

/// The kinds of keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Tag {
    /// [`Key::Meta`] and [`Key::Counters`].
    Meta = 0x01,
    /// [`Key::Pool`].
    Pool = 0x10,
    /// [`Key::Disk`].
    Disk = 0x11,
    /// [`Key::LogicalDisk`].
    LogicalDisk = 0x12,
    /// [`Key::Allocation`].
    Allocation = 0x13,
    /// [`Key::Volume`].
    Volume = 0x20,
    /// [`Key::VolumeName`].
    VolumeName = 0x21,
    /// [`Key::Branch`].
    Branch = 0x22,
    /// [`Key::VolumeProgress`].
    VolumeProgress = 0x23,
    /// [`Key::Snapshot`].
    Snapshot = 0x24,
    /// [`Key::Usage`].
    Usage = 0x25,
    /// [`Key::Schedule`].
    Schedule = 0x26,
    /// [`Key::Session`].
    Session = 0x30,
    /// [`Key::Grant`].
    Grant = 0x31,
    /// [`Key::Table`].
    Table = 0x40,
    /// [`Key::Job`].
    Job = 0x50,
}

/// A key of the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Key<'a> {
    /// → [`crate::records::MetaRecord`].
    Meta,
    /// → [`crate::records::Counters`].
    Counters,
    /// → [`crate::records::PoolRecord`].
    Pool(PoolId),
    /// → [`crate::records::DiskRecord`].
    Disk(DiskId),
    /// → [`model::LogicalDiskLayout`], by [`crate::records`].
    LogicalDisk(LogicalDiskId),
    /// → a page of the allocation bitmap, encoded by `pool` and sealed by [`crate::codec::seal`].
    Allocation(LogicalDiskId, u32),
    /// → [`crate::records::VolumeRecord`].
    Volume(VolumeId),
    /// → the volume's id.
    VolumeName(&'a [u8]),
    /// → [`crate::records::BranchRecord`].
    Branch(BranchId),
    /// → [`crate::records::VolumeProgress`].
    VolumeProgress(VolumeId),
    /// → [`crate::records::SnapshotRecord`].
    Snapshot(VolumeId),
    /// → [`crate::records::UnitCount`]: units of a branch by holder and bucket, see `docs/snapshots.md`.
    Usage(BranchId, Generation, Generation),
    /// → [`crate::records::ScheduleRecord`].
    Schedule(VolumeId),
    /// → [`crate::records::SessionRecord`].
    Session(Epoch),
    /// → [`crate::records::GrantRecord`].
    Grant(Epoch, LogicalDiskId, UnitIndex),
    /// → [`crate::table`]: sequence [`WHOLE`] is the folded page, others are deltas on top of it, those of
    /// [`summary_sequence`] summaries.
    Table(BranchId, PageIndex, Generation, u64),
    /// → [`crate::records::JobRecord`].
    Job(u64),
}

struct Encoder(Vec<u8>);

impl Encoder {
    fn new(tag: Tag) -> Self {
        let mut bytes = Vec::with_capacity(24);
        bytes.push(tag as u8);
        Self(bytes)
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }
}

impl<'a> Key<'a> {
    /// Its bytes, which sort as keys of one kind do.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let id = |tag, id: u32| Encoder::new(tag).u32(id);
        match self {
            Self::Meta => vec![Tag::Meta as u8, 0],
            Self::Counters => vec![Tag::Meta as u8, 1],
            Self::Pool(pool) => id(Tag::Pool, pool.0).0,
            Self::Disk(disk) => id(Tag::Disk, disk.0).0,
            Self::LogicalDisk(logical_disk) => id(Tag::LogicalDisk, logical_disk.0).0,
            Self::Allocation(logical_disk, index) => id(Tag::Allocation, logical_disk.0).u32(index).0,
            Self::Volume(volume) => id(Tag::Volume, volume.0).0,
            Self::VolumeName(name) => {
                let mut bytes = vec![Tag::VolumeName as u8];
                bytes.extend_from_slice(name);
                bytes
            }
            Self::Branch(branch) => id(Tag::Branch, branch.0).0,
            Self::VolumeProgress(volume) => id(Tag::VolumeProgress, volume.0).0,
            Self::Snapshot(snapshot) => id(Tag::Snapshot, snapshot.0).0,
            Self::Usage(branch, holder, bucket) => id(Tag::Usage, branch.0).u32(holder.0).u32(bucket.0).0,
            Self::Schedule(volume) => id(Tag::Schedule, volume.0).0,
            Self::Session(epoch) => Encoder::new(Tag::Session).u64(epoch.0).0,
            Self::Grant(epoch, logical_disk, unit) => {
                Encoder::new(Tag::Grant).u64(epoch.0).u32(logical_disk.0).u32(unit.0).0
            }
            Self::Table(branch, page, generation, sequence) => {
                id(Tag::Table, branch.0).u32(page.0).u32(generation.0).u64(sequence).0
            }
            Self::Job(job) => Encoder::new(Tag::Job).u64(job).0,
        }
    }

    /// The key these bytes are, if they are one.
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (&tag, rest) = bytes.split_first()?;
        if tag == Tag::VolumeName as u8 {
            return (rest.len() <= NAME_BYTES_MAX).then_some(Self::VolumeName(rest));
        }
        if tag == Tag::Meta as u8 {
            return match rest {
                [0] => Some(Self::Meta),
                [1] => Some(Self::Counters),
                _ => None,
            };
        }
        let mut fields = Decoder(rest);
        let key = match tag {
            0x10 => Self::Pool(PoolId(fields.u32()?)),
            0x11 => Self::Disk(DiskId(fields.u32()?)),
            0x12 => Self::LogicalDisk(LogicalDiskId(fields.u32()?)),
            0x13 => Self::Allocation(LogicalDiskId(fields.u32()?), fields.u32()?),
            0x20 => Self::Volume(VolumeId(fields.u32()?)),
            0x22 => Self::Branch(BranchId(fields.u32()?)),
            0x23 => Self::VolumeProgress(VolumeId(fields.u32()?)),
            0x24 => Self::Snapshot(VolumeId(fields.u32()?)),
            0x25 => Self::Usage(BranchId(fields.u32()?), Generation(fields.u32()?), Generation(fields.u32()?)),
            0x26 => Self::Schedule(VolumeId(fields.u32()?)),
            0x30 => Self::Session(Epoch(fields.u64()?)),
            0x31 => Self::Grant(Epoch(fields.u64()?), LogicalDiskId(fields.u32()?), UnitIndex(fields.u32()?)),
            0x40 => {
                Self::Table(BranchId(fields.u32()?), PageIndex(fields.u32()?), Generation(fields.u32()?), fields.u64()?)
            }
            0x50 => Self::Job(fields.u64()?),
            _ => return None,
        };
        fields.0.is_empty().then_some(key)
    }
}

struct Decoder<'a>(&'a [u8]);

impl Decoder<'_> {
    fn u32(&mut self) -> Option<u32> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*field))
    }

    fn u64(&mut self) -> Option<u64> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_key() -> impl Strategy<Value = (u8, u32, u32, u32, u64)> {
        (0_u8..17, any::<u32>(), any::<u32>(), any::<u32>(), any::<u64>())
    }

    fn build((kind, a, b, c, d): (u8, u32, u32, u32, u64), name: &[u8]) -> Key<'_> {
        match kind {
            0 => Key::Meta,
            1 => Key::Counters,
            2 => Key::Pool(PoolId(a)),
            3 => Key::Disk(DiskId(a)),
            4 => Key::LogicalDisk(LogicalDiskId(a)),
            5 => Key::Allocation(LogicalDiskId(a), b),
            6 => Key::Volume(VolumeId(a)),
            7 => Key::VolumeName(name),
            8 => Key::Branch(BranchId(a)),
            9 => Key::VolumeProgress(VolumeId(a)),
            10 => Key::Session(Epoch(d)),
            11 => Key::Grant(Epoch(d), LogicalDiskId(a), UnitIndex(b)),
            12 => Key::Table(BranchId(a), PageIndex(b), Generation(c), d),
            13 => Key::Snapshot(VolumeId(a)),
            14 => Key::Usage(BranchId(a), Generation(b), Generation(c)),
            15 => Key::Schedule(VolumeId(a)),
            _ => Key::Job(d),
        }
    }

    proptest! {
        #[test]
        fn keys_come_back_and_keep_their_order(x in any_key(), y in any_key(), name in prop::collection::vec(any::<u8>(), 0..20)) {
            let (one, other) = (build(x, &name), build(y, &name));
            let (one_bytes, other_bytes) = (one.encode(), other.encode());
            prop_assert_eq!(Key::decode(&one_bytes), Some(one));
            prop_assert_eq!(Key::decode(&other_bytes), Some(other));
            prop_assert_eq!(one.cmp(&other), one_bytes.cmp(&other_bytes));
        }
    }

    #[test]
    fn ranges_hold_their_keys_and_no_others() {
        let range = KeyRange::table_page(BranchId(1), PageIndex(u32::MAX));
        let within = |key: Key<'_>| (&range.start..&range.end).contains(&&key.encode());
        assert!(within(Key::Table(BranchId(1), PageIndex(u32::MAX), Generation(0), 0)));
        assert!(within(Key::Table(BranchId(1), PageIndex(u32::MAX), Generation(u32::MAX), u64::MAX)));
        assert!(!within(Key::Table(BranchId(2), PageIndex(0), Generation(0), 0)));
        assert!(!within(Key::Table(BranchId(1), PageIndex(u32::MAX - 1), Generation(u32::MAX), u64::MAX)));
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Key::decode(&bytes);
        }
    }
}
