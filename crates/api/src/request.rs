//! Everything that can be asked, and every shape of answer.

use crate::{
    AuditReport, Disk, DiskAdd, Pool, PoolCreate, Status, Volume, VolumeCreate, VolumeMap, VolumeMapQuery,
    VolumeRename, VolumeResize, VolumeSet,
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
    /// A part of a volume's map.
    VolumeMap(VolumeMap),
    /// The whole server.
    Status(Box<Status>),
    /// What an audit found.
    Audit(AuditReport),
}
