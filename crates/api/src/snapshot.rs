//! Snapshots, clones, what changed between two views, and schedules.

use crate::name::{NAME_BYTES_MAX, check_name};
use crate::{Error, SnapshotIdentity};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Splits `VOL@NAME` into the volume's name and the snapshot's, and checks both.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`], with the rule in words.
pub fn split_snapshot_name(full: &str) -> Result<(&str, &str), Error> {
    let shown: String = full.chars().take(64).collect();
    let (volume, name) = full.split_once('@').ok_or_else(|| {
        Error::invalid(format!("{shown:?} names no snapshot: write the volume, an '@' and the snapshot's name"))
    })?;
    check_name("volume", volume)?;
    check_name("snapshot", name)?;
    if full.len() > NAME_BYTES_MAX {
        return Err(Error::invalid(format!(
            "{shown:?}… has {} bytes; a volume's name, the '@' and the snapshot's name may have {NAME_BYTES_MAX} together",
            full.len()
        )));
    }
    Ok((volume, name))
}

/// Snapshots to be taken at one moment: nothing written to one of the volumes after that moment is in any of them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotCreate {
    /// `VOL@NAME` each, no volume twice; at most [`SnapshotCreate::SNAPSHOTS_MAX`].
    pub snapshots: Vec<String>,
    /// An import takes it, of what this snapshot holds; with one in `snapshots` only.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub imported_from: Option<SnapshotIdentity>,
}

impl SnapshotCreate {
    /// The most volumes one cut goes through.
    pub const SNAPSHOTS_MAX: usize = 256;
}

/// A new name for a snapshot of the same volume.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRename {
    /// The new name, without the volume's.
    pub new_name: String,
}

/// How a snapshot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotState {
    /// It can be read and cloned.
    Ready,
    /// It is deleted, and its space is being taken back.
    Deleting,
    /// It is deleted, and stays behind the scenes for the clones it has.
    KeptByClones,
}

/// A snapshot: a volume as it was at one moment, read-only, an export of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Its id, which never changes and is never used again.
    pub id: u32,
    /// `VOL@NAME`: its export's name.
    pub name: String,
    /// The volume it is of.
    pub volume: String,
    /// How it is.
    pub state: SnapshotState,
    /// When it was taken, in seconds since 1970.
    pub created_unix_seconds: u64,
    /// The volume's size then, in bytes.
    pub size_bytes: u64,
    /// What it refers to, in bytes, whoever else does too.
    pub referenced_bytes: u64,
    /// What deleting it alone would free, in bytes.
    pub unique_bytes: u64,
    /// A schedule took it, and may delete it.
    pub scheduled: bool,
    /// An import took it, of what that snapshot holds.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub imported_from: Option<SnapshotIdentity>,
    /// The volumes that are clones of it.
    pub clones: Vec<String>,
    /// How far taking its space back has come, from 0 to 100; only while it is being deleted.
    pub progress_percent: Option<u8>,
}

/// A clone to be made.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneCreate {
    /// The snapshot, `VOL@NAME`.
    pub snapshot: String,
    /// The new volume's name.
    pub name: String,
}

/// A volume to be what it was.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeRollback {
    /// The snapshot's name, without the volume's.
    pub snapshot: String,
    /// Even if hosts have the volume attached, who then lose their connections. What was written since the snapshot is
    /// lost in any case.
    #[serde(default)]
    pub force: bool,
}

/// Which part of a comparison to show.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DiffQuery {
    /// The older view, a snapshot `VOL@NAME`; nothing at all (everything written is then a change) unless told.
    #[serde(default)]
    pub from: Option<String>,
    /// The younger view: a snapshot `VOL@NAME`, or a volume as it is now.
    pub to: String,
    /// From this byte on; 0 unless told.
    #[serde(default)]
    pub offset: u64,
    /// At most so many ranges; 10,000 unless told, at most 100,000.
    #[serde(default)]
    pub limit: Option<u32>,
}

impl DiffQuery {
    /// How many ranges an answer holds unless told.
    pub const LIMIT_DEFAULT: u32 = 10_000;
    /// The most ranges one answer may hold.
    pub const LIMIT_MAX: u32 = 100_000;

    /// How many ranges the answer may hold.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.unwrap_or(Self::LIMIT_DEFAULT).clamp(1, Self::LIMIT_MAX)
    }
}

/// What became of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiffKind {
    /// It was written: the younger view has data there.
    Data,
    /// It was trimmed or zeroed: the younger view has zeroes there.
    Zero,
}

/// A range that changed, in whole blocks of 4 KiB (cut at the volume's end).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct DiffRange {
    /// Where it starts, in bytes.
    pub offset_bytes: u64,
    /// How long it is, in bytes.
    pub length_bytes: u64,
    /// What became of it.
    pub kind: DiffKind,
}

/// What changed from one view to another. It names every block that changed; where layers were merged it may name blocks
/// that did not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Diff {
    /// The older view.
    pub from: Option<String>,
    /// The younger view.
    pub to: String,
    /// The size of the younger view, in bytes.
    pub size_bytes: u64,
    /// The size of the older view, in bytes; 0 without one. What lies beyond it was zeroes then.
    pub from_size_bytes: u64,
    /// Ranges, ascending.
    pub ranges: Vec<DiffRange>,
    /// Where to go on from, in bytes; none at the end.
    pub next_offset_bytes: Option<u64>,
    /// How many bytes of `ranges` are data.
    pub data_bytes: u64,
    /// How many bytes of `ranges` are zeroes.
    pub zero_bytes: u64,
}

/// How long snapshots of a schedule are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeepRule {
    /// Those younger than this, in seconds.
    pub within_seconds: u64,
    /// One for each such period, in seconds; 0 for all.
    pub each_seconds: u64,
}

/// When snapshots of a volume are taken without anybody asking, and for how long they are kept. A snapshot is kept if any
/// rule keeps it; those that people took are never deleted by a schedule.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSet {
    /// The time from one to the next, in seconds; at least 60.
    pub every_seconds: u64,
    /// At least one, at most 16.
    pub keep: Vec<KeepRule>,
}

impl ScheduleSet {
    /// The shortest time from one snapshot to the next, in seconds.
    pub const EVERY_SECONDS_MIN: u64 = 60;
    /// The most rules.
    pub const KEEP_MAX: usize = 16;

    /// Whether it can be kept to.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`], with the rule in words.
    pub fn check(&self) -> Result<(), Error> {
        if self.every_seconds < Self::EVERY_SECONDS_MIN {
            let least = Self::EVERY_SECONDS_MIN;
            return Err(Error::invalid(format!(
                "a snapshot every {} s is too many; the least is {least} s",
                self.every_seconds
            )));
        }
        if self.keep.is_empty() || self.keep.len() > Self::KEEP_MAX {
            let (given, most) = (self.keep.len(), Self::KEEP_MAX);
            return Err(Error::invalid(format!(
                "a schedule says what to keep in 1 to {most} rules, such as 24h:all; {given} are given"
            )));
        }
        if self.keep.iter().any(|rule| rule.within_seconds == 0) {
            return Err(Error::invalid("a rule that keeps what is younger than 0 s keeps nothing; say for how long"));
        }
        Ok(())
    }
}

/// A volume's schedule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Schedule {
    /// The volume.
    pub volume: String,
    /// The time from one snapshot to the next, in seconds.
    pub every_seconds: u64,
    /// What is kept.
    pub keep: Vec<KeepRule>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_that_would_flood_or_keep_nothing_is_refused() {
        let rule = KeepRule { within_seconds: 60, each_seconds: 0 };
        let check = |every_seconds, keep: &[KeepRule]| ScheduleSet { every_seconds, keep: keep.to_vec() }.check();
        assert_eq!(check(60, &[rule; 16]), Ok(()));
        assert!(check(59, &[rule]).is_err());
        assert!(check(60, &[]).is_err());
        assert!(check(60, &[rule; 17]).is_err());
        assert!(check(60, &[KeepRule { within_seconds: 0, ..rule }]).is_err());
    }

    #[test]
    fn a_full_name_is_a_volume_and_a_snapshot() {
        assert_eq!(split_snapshot_name("demo@monday"), Ok(("demo", "monday")));
        for wrong in ["demo", "demo@", "@monday", "demo@a@b", "de mo@x", &format!("{}@b", "a".repeat(254))] {
            let error = split_snapshot_name(wrong).expect_err(wrong);
            assert_eq!(error.kind, crate::ErrorKind::Invalid, "{error}");
        }
    }
}
