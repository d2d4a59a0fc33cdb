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
    /// Fences are reported done and never enforced.
    FenceIgnored,
    /// Fences are reported done while I/O of the fenced session is still in flight.
    FenceNotDrained,
    /// Flushes are answered without asking the disk.
    FlushLies,
    /// A failed flush leaves its disk in service, so that the next one may succeed without the lost data.
    FlushRetried,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::FenceIgnored, Self::FenceNotDrained, Self::FlushLies, Self::FlushRetried];
}
