//! What the simulator checks, by name, and what it says when a check fails.

use std::fmt;

/// A promise of the system. The names are those of the design.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Invariant {
    /// What was acknowledged before an acknowledged flush survives any crash.
    AckedFlushIsDurable,
    /// A disk region has at most one owner, and every region has one.
    NoRegionOwnedTwice,
    /// A byte not written under the current owner of a region reads as zero.
    NoForeignBytes,
    /// No read or write of a fenced epoch takes effect.
    StaleHolderIsRefused,
    /// No durable map entry points at data that is not durable.
    MapNeverAheadOfData,
    /// At zero free space nothing acknowledged is lost, and trim and delete work.
    FullIsHarmless,
    /// Every held I/O completes or fails once faults stop.
    FaultAlwaysEnds,
    /// A read returns the last write acknowledged before it began, or one that overlaps it.
    ReadsSeeTheLastWrite,
    /// Nothing fails while nothing is broken.
    NoErrorWithoutFault,
    /// A peer's garbage closes its own connection and touches nothing else.
    GarbageIsHarmless,
    /// Any two reads of a snapshot agree, whatever happens in between.
    SnapshotNeverChanges,
    /// Snapshots that were asked for together hold their volumes as they were at one moment between request and answer,
    /// and are there all or none.
    CutIsConsistent,
    /// What is said of space is so: deleting frees what was said it would.
    SpaceAddsUp,
    /// A comparison names every block that changed.
    DiffMissesNothing,
    /// No volume holds more than its limit.
    LimitsHold,
    /// A schedule deletes what no rule keeps, and nothing else.
    SchedulesKeep,
    /// No engine panics.
    NoPanic,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::AckedFlushIsDurable,
        Self::NoRegionOwnedTwice,
        Self::NoForeignBytes,
        Self::StaleHolderIsRefused,
        Self::MapNeverAheadOfData,
        Self::FullIsHarmless,
        Self::FaultAlwaysEnds,
        Self::ReadsSeeTheLastWrite,
        Self::NoErrorWithoutFault,
        Self::GarbageIsHarmless,
        Self::SnapshotNeverChanges,
        Self::CutIsConsistent,
        Self::SpaceAddsUp,
        Self::DiffMissesNothing,
        Self::LimitsHold,
        Self::SchedulesKeep,
        Self::NoPanic,
    ];

    /// The name the design gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckedFlushIsDurable => "ACKED_FLUSH_IS_DURABLE",
            Self::NoRegionOwnedTwice => "NO_REGION_OWNED_TWICE",
            Self::NoForeignBytes => "NO_FOREIGN_BYTES",
            Self::StaleHolderIsRefused => "STALE_HOLDER_IS_REFUSED",
            Self::MapNeverAheadOfData => "MAP_NEVER_AHEAD_OF_DATA",
            Self::FullIsHarmless => "FULL_IS_HARMLESS",
            Self::FaultAlwaysEnds => "FAULT_ALWAYS_ENDS",
            Self::ReadsSeeTheLastWrite => "READS_SEE_THE_LAST_WRITE",
            Self::NoErrorWithoutFault => "NO_ERROR_WITHOUT_FAULT",
            Self::GarbageIsHarmless => "GARBAGE_IS_HARMLESS",
            Self::SnapshotNeverChanges => "SNAPSHOT_NEVER_CHANGES",
            Self::CutIsConsistent => "CUT_IS_CONSISTENT",
            Self::SpaceAddsUp => "SPACE_ADDS_UP",
            Self::DiffMissesNothing => "DIFF_MISSES_NOTHING",
            Self::LimitsHold => "LIMITS_HOLD",
            Self::SchedulesKeep => "SCHEDULES_KEEP",
            Self::NoPanic => "NO_PANIC",
        }
    }
}

/// A promise broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub detail: String,
}

impl Violation {
    /// `invariant` is broken, as `detail` says.
    #[must_use]
    pub fn new(invariant: Invariant, detail: impl Into<String>) -> Self {
        Self { invariant, detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant.name(), self.detail)
    }
}
