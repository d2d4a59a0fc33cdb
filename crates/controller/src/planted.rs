//! Bugs on demand: each switch makes one promise of this engine untrue, so that the simulator can be seen to notice.

/// Which bug is planted. None, unless the crate's `planted` feature lets somebody choose one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Planted {
    bug: Option<Bug>,
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
    /// What a commit frees is free in a batch of its own, before the one that unmaps it.
    FreeBeforeCommit,
    /// A commit is answered before it is durable.
    AnswerBeforeCommit,
    /// A grant is answered before it is durable.
    GrantBeforeCommit,
    /// Grants are not recorded: after a crash their units belong to nobody.
    GrantNotRecorded,
    /// Units that were mapped stay in their grant, and return to the pool with it.
    TakenForgotten,
    /// The units that a commit frees stay allocated for ever.
    FreesForgotten,
    /// What a commit frees is still counted as its volume's.
    UsageForgotten,
    /// Folding a page forgets the last delta.
    FoldDropsDelta,
    /// A summary claims to tell of versions that it does not.
    SummaryTellsLess,
    /// The answer to a page fault says that the next page there is were absent.
    AbsentTooFar,
    /// Folding a live end's page removes the version that a snapshot sees.
    FoldForgetsSnapshot,
    /// A drop of what the newest snapshot sees frees it.
    FrozenDropFreed,
    /// A commit after a snapshot changes the version that the snapshot sees.
    GenerationNotRaised,
    /// A volume of a cut begins its next generation before all of them hold still.
    BeginsBeforeAllHold,
    /// A snapshot is taken before what it sees is committed.
    SnapshotBeforeCommits,
    /// The generation of a snapshot that was given up is taken for the live end's still, which has begun the next.
    AbandonedNumberReused,
    /// A purge frees what the next older view holds too.
    PurgeForgetsOlder,
    /// A purge frees what the next younger view holds too.
    PurgeForgetsYounger,
    /// A purge does not hear of what the live end drops meanwhile.
    PurgeForgetsDrops,
    /// A purge begins anew after a crash, and frees twice.
    PurgePositionForgotten,
    /// A snapshot is taken back although it has a clone.
    CloneForgotten,
    /// Pages that a clone never wrote read as zeroes.
    OriginForgotten,
    /// Of the scheduled snapshots that a rule keeps, the oldest is deleted.
    SchedulePrunesOneMore,
    /// Scheduled snapshots are never too old.
    SchedulePilesUp,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::FreeBeforeCommit,
        Self::AnswerBeforeCommit,
        Self::GrantBeforeCommit,
        Self::GrantNotRecorded,
        Self::TakenForgotten,
        Self::FreesForgotten,
        Self::UsageForgotten,
        Self::FoldDropsDelta,
        Self::SummaryTellsLess,
        Self::AbsentTooFar,
        Self::FoldForgetsSnapshot,
        Self::FrozenDropFreed,
        Self::GenerationNotRaised,
        Self::BeginsBeforeAllHold,
        Self::SnapshotBeforeCommits,
        Self::AbandonedNumberReused,
        Self::PurgeForgetsOlder,
        Self::PurgeForgetsYounger,
        Self::PurgeForgetsDrops,
        Self::PurgePositionForgotten,
        Self::CloneForgotten,
        Self::OriginForgotten,
        Self::SchedulePrunesOneMore,
        Self::SchedulePilesUp,
    ];
}
