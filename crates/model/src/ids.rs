//! Identities. Each is a newtype, so that none can be passed for another.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl $name {
            /// The id that follows this one.
            ///
            /// # Panics
            /// When the ids of this kind are used up, which no system lives to see.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("ids are never used up"))
            }
        }
    };
}

id!(/// A pool of physical disks.
    PoolId(u32), "pool-");
id!(/// A physical disk, unique in the cluster and never used again.
    DiskId(u32), "disk-");
id!(/// A logical disk: rows of RAID sets of chunklets.
    LogicalDiskId(u32), "ld-");
id!(/// A volume; its name may change, its id never does.
    VolumeId(u32), "volume-");
id!(/// A line of generations with one live end. A volume's name points at one.
    BranchId(u32), "branch-");
id!(/// A point in a branch's history. The live end of a new branch is at generation 1; 0 is before everything.
    Generation(u32), "g");
id!(/// One attachment of one volume by one agent. Never used again, ever growing across the cluster: a session's name.
    Epoch(u64), "epoch-");
id!(/// One leadership of one controller. Ever growing.
    Term(u64), "term-");

/// One Acreage cluster, drawn at random when its metadata store is made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
