//! Bugs on demand: each switch makes one promise of this engine untrue, so that the simulator can be seen to notice.

/// Which bugs are planted. None, unless the crate's `planted` feature lets somebody set them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Planted {
    pub(crate) bug: Option<Bug>,
}

impl Planted {
    /// Plants one bug.
    #[cfg(feature = "planted")]
    #[must_use]
    pub const fn with(bug: Bug) -> Self {
        Self { bug: Some(bug) }
    }

    pub(crate) fn has(self, bug: Bug) -> bool {
        cfg!(feature = "planted") && self.bug == Some(bug)
    }
}

/// A bug that can be planted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// A flush commits the map without flushing the disks.
    DeviceFlushSkipped,
    /// The map is committed before the disks are flushed.
    CommitBeforeFlush,
    /// A block counts as written before its data is.
    BitBeforeData,
    /// The bit of the block beside the one written is set.
    WrongBit,
    /// A given-up region is freed while I/O may still address it.
    QuarantineSkipped,
    /// FUA is taken for an ordinary write.
    FuaIgnored,
    /// The padding of a block's first, partial write is left as it was.
    PaddingSkipped,
    /// The last block of a write is taken for zeroes when the first is.
    ZeroScanShort,
    /// Overlapping writes go to the disk side by side.
    OverlapAllowed,
    /// A region with a write in flight is given up by a trim.
    TrimForgetsWriteInFlight,
    /// A region given up is used again before the commit that frees it.
    ReusedBeforeCommit,
    /// A map change made while a flush is under way is counted as part of it.
    LateChangeCounted,
    /// A cut that could not be committed is forgotten.
    FailedCommitForgotten,
    /// A partial trim clears the whole block.
    TrimRoundsOut,
    /// What the newest snapshot sees is written in place.
    WriteInPlaceUnderSnapshot,
    /// A volume counts as frozen while writes are under way.
    FreezeWithoutDrain,
    /// A volume counts as frozen before its last changes are committed.
    FreezeWithoutCommit,
    /// A volume stays in the generation it was in when the next is begun.
    ThawKeepsGeneration,
    /// What was written after a snapshot's moment is committed before the snapshot is durable.
    CommitsBeforeSnapshot,
    /// A trim over what a snapshot sees hides nothing of it.
    ZeroLayerForgotten,
    /// A merge loses the blocks of the lowest layer.
    MergeForgetsBlocks,
    /// A region is written while it is merged.
    MergeIgnoresWrites,
    /// What a snapshot sees is read before it is durable.
    ReadBeforeSettled,
    /// A table page is evicted although it has changes that nobody has heard of.
    EvictsDirty,
    /// A table page is evicted although a write to it is in flight.
    EvictsInFlight,
    /// A table page is evicted before the commit of its changes is done: its next fault may be answered with a stale page.
    EvictsBeforeCommit,
    /// A table page that was written and evicted is taken for zero again, as it was once known to be.
    EvictedTakenForZero,
    /// What was written in the generation after a snapshot is not called changed since.
    ChangedSinceTooLate,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 28] = [
        Self::DeviceFlushSkipped,
        Self::CommitBeforeFlush,
        Self::BitBeforeData,
        Self::WrongBit,
        Self::QuarantineSkipped,
        Self::FuaIgnored,
        Self::PaddingSkipped,
        Self::ZeroScanShort,
        Self::OverlapAllowed,
        Self::TrimForgetsWriteInFlight,
        Self::ReusedBeforeCommit,
        Self::LateChangeCounted,
        Self::FailedCommitForgotten,
        Self::TrimRoundsOut,
        Self::WriteInPlaceUnderSnapshot,
        Self::FreezeWithoutDrain,
        Self::FreezeWithoutCommit,
        Self::ThawKeepsGeneration,
        Self::CommitsBeforeSnapshot,
        Self::ZeroLayerForgotten,
        Self::MergeForgetsBlocks,
        Self::MergeIgnoresWrites,
        Self::ReadBeforeSettled,
        Self::EvictsDirty,
        Self::EvictsInFlight,
        Self::EvictsBeforeCommit,
        Self::EvictedTakenForZero,
        Self::ChangedSinceTooLate,
    ];
}
