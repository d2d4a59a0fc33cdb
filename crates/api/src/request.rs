//! Everything that can be asked, and every shape of answer.

use crate::{
    AuditReport, CloneCreate, Diff, DiffQuery, Disk, DiskAdd, Pool, PoolCreate, Schedule, ScheduleSet, Snapshot,
    SnapshotCreate, SnapshotRename, Status, Volume, VolumeCreate, VolumeMap, VolumeMapQuery, VolumeRename,
    VolumeResize, VolumeRollback, VolumeSet,
};
use serde::{Deserialize, Serialize};

/// A request of an operator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Makes a pool. Answered by [`Response::Pool`].
    PoolCreate(PoolCreate),
    /// Answered by [`Response::Pools`], by name.
    PoolList,
    /// Answered by [`Response::Pool`].
    PoolShow {
        /// The pool.
        name: String,
    },
    /// Deletes a pool without volumes; its disks are free for others. Answered by [`Response::Done`].
    PoolDelete {
        /// The pool.
        name: String,
    },
    /// Claims a disk for a pool. Answered by [`Response::Disk`].
    DiskAdd(DiskAdd),
    /// Answered by [`Response::Disks`], by id.
    DiskList {
        /// Only this pool's.
        pool: Option<String>,
    },
    /// Answered by [`Response::Disk`].
    DiskShow {
        /// The disk.
        id: u32,
    },
    /// Makes a volume. Answered by [`Response::Volume`].
    VolumeCreate(VolumeCreate),
    /// Answered by [`Response::Volumes`], by name.
    VolumeList {
        /// Only this pool's.
        pool: Option<String>,
    },
    /// Answered by [`Response::Volume`].
    VolumeShow {
        /// The volume.
        name: String,
    },
    /// Changes limits and access. Answered by [`Response::Volume`].
    VolumeSet {
        /// The volume.
        name: String,
        /// What to change.
        set: VolumeSet,
    },
    /// Answered by [`Response::Volume`], once every host's session knows the new size.
    VolumeResize {
        /// The volume.
        name: String,
        /// To what size.
        resize: VolumeResize,
    },
    /// Answered by [`Response::Volume`].
    VolumeRename {
        /// The volume.
        name: String,
        /// To what name.
        rename: VolumeRename,
    },
    /// Deletes a volume and gives its space back. Answered by [`Response::Done`].
    VolumeDelete {
        /// The volume.
        name: String,
        /// Even if it holds data or hosts have it attached, who then get errors.
        force: bool,
        /// Its snapshots too. Without this, a volume that has any is not deleted.
        snapshots: bool,
    },
    /// Makes a volume what it was at a snapshot, at once; later snapshots stay. Answered by [`Response::Volume`].
    VolumeRollback {
        /// The volume.
        name: String,
        /// To what.
        rollback: VolumeRollback,
    },
    /// Takes snapshots of several volumes at one moment. Answered by [`Response::Snapshots`].
    SnapshotCreate {
        /// Which.
        create: SnapshotCreate,
        /// A schedule asks.
        scheduled: bool,
        /// The time, in seconds since 1970.
        now_unix_seconds: u64,
    },
    /// Answered by [`Response::Snapshots`], by volume and then by age, the oldest first.
    SnapshotList {
        /// Only this volume's.
        volume: Option<String>,
    },
    /// Answered by [`Response::Snapshot`].
    SnapshotShow {
        /// `VOL@NAME`.
        name: String,
    },
    /// Answered by [`Response::Snapshot`].
    SnapshotRename {
        /// `VOL@NAME`.
        name: String,
        /// To what name.
        rename: SnapshotRename,
    },
    /// Deletes a snapshot; its space comes back in the background. Answered by [`Response::Done`].
    SnapshotDelete {
        /// `VOL@NAME`.
        name: String,
        /// Even if hosts have it attached, who then get errors.
        force: bool,
    },
    /// Makes a volume that begins as a snapshot is. Answered by [`Response::Volume`].
    CloneCreate(CloneCreate),
    /// Copies what a clone still shares with its origin, in the background, and cuts it loose. Answered by
    /// [`Response::Volume`] when that has begun.
    CloneFlatten {
        /// The clone.
        name: String,
    },
    /// Ends the flattening of a clone before its time: what was copied stays its own, the rest stays shared. Answered by
    /// [`Response::Volume`].
    CloneFlattenCancel {
        /// The clone.
        name: String,
    },
    /// What changed from one view to another. Answered by [`Response::Diff`].
    Diff(DiffQuery),
    /// Gives a volume a snapshot schedule, or another one. Answered by [`Response::Schedule`].
    ScheduleSet {
        /// The volume.
        name: String,
        /// The schedule.
        set: ScheduleSet,
    },
    /// Answered by [`Response::Schedules`], by volume.
    ScheduleList,
    /// Takes a volume's schedule away; its snapshots stay. Answered by [`Response::Done`].
    ScheduleDelete {
        /// The volume.
        name: String,
    },
    /// Answered by [`Response::VolumeMap`].
    VolumeMap {
        /// The volume.
        name: String,
        /// Which part.
        query: VolumeMapQuery,
    },
    /// Answered by [`Response::Status`].
    Status,
    /// Checks that every region has one owner. Answered by [`Response::Audit`].
    Audit,
}

/// An answer. Over HTTP only what is inside travels; the path says which it is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// It is done and there is nothing to tell.
    Done,
    /// A pool.
    Pool(Pool),
    /// Pools, by name.
    Pools(Vec<Pool>),
    /// A disk.
    Disk(Disk),
    /// Disks, by id.
    Disks(Vec<Disk>),
    /// A volume.
    Volume(Volume),
    /// Volumes, by name.
    Volumes(Vec<Volume>),
    /// A snapshot.
    Snapshot(Snapshot),
    /// Snapshots.
    Snapshots(Vec<Snapshot>),
    /// What changed.
    Diff(Diff),
    /// A schedule.
    Schedule(Schedule),
    /// Schedules, by volume.
    Schedules(Vec<Schedule>),
    /// A part of a volume's map.
    VolumeMap(VolumeMap),
    /// The whole server.
    Status(Box<Status>),
    /// What an audit found.
    Audit(AuditReport),
}
