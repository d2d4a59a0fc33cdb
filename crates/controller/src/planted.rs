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
    /// Freed units may be given out before the batch that frees them is durable.
    QuarantineSkipped,
    /// A commit is answered before it is durable.
    AnswerBeforeCommit,
    /// Grants are not recorded: after a crash their units belong to nobody.
    GrantNotRecorded,
    /// Units that were mapped stay in their grant, and return to the pool with it.
    TakenForgotten,
    /// The units of a dead session return before the nodes have fenced it.
    ReclaimBeforeFence,
    /// The freed units of a commit stay allocated for ever.
    FreesForgotten,
    /// The limits of volumes and pools are not looked at.
    LimitsUnchecked,
    /// A repeated commit is not recognised.
    RepeatNotRecognised,
    /// Folding a page forgets the last delta.
    FoldDropsDelta,
    /// What a commit frees is still counted as its volume's.
    UsageForgotten,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::QuarantineSkipped,
        Self::AnswerBeforeCommit,
        Self::GrantNotRecorded,
        Self::TakenForgotten,
        Self::ReclaimBeforeFence,
        Self::FreesForgotten,
        Self::LimitsUnchecked,
        Self::RepeatNotRecognised,
        Self::FoldDropsDelta,
        Self::UsageForgotten,
    ];
}
