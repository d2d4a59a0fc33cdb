//! The failure catalogue as named runs: each shapes the plan of a seed towards one fault.

use crate::disk::DiskFaults;
use crate::plan::{CrashPlan, Mix, OperatorAction, Plan, Which};
use crate::random::Random;
use model::RegionSize;

macro_rules! scenarios {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// A named kind of run.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Scenario { $($(#[doc = $doc])* $variant,)* }

        impl Scenario {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What the command line calls it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

scenarios! {
    /// Whatever the seed says.
    Any = "any",
    /// The pool fills up during writes (fault 1).
    PoolFull = "pool-full",
    /// The metadata store is full, or its disk is, in a commit (faults 2 and 44).
    MetadataFull = "metadata-full",
    /// Everything dies between an allocation and the commit of the table (fault 3).
    DiesBeforeCommit = "dies-before-commit",
    /// Trims race writes to the same blocks (fault 6).
    TrimRacesWrite = "trim-races-write",
    /// Freed regions go to other volumes (fault 7).
    RegionsChangeHands = "regions-change-hands",
    /// Space is accounted for after any crash (fault 8).
    AccountsAfterCrash = "accounts-after-crash",
    /// A volume is resized with I/O in flight (fault 22).
    Resize = "resize",
    /// The process is killed at any time (fault 37).
    Killed = "killed",
    /// The power fails in the middle of commits (fault 38).
    PowerCut = "power-cut",
    /// FUA without flush, then a crash (fault 39).
    ForceUnitAccess = "fua",
    /// A flush on one connection covers another's writes (fault 40).
    FlushOnAnother = "flush-on-another",
    /// Overlapping writes are in flight (fault 41).
    OverlappingWrites = "overlapping-writes",
    /// Clients drop with requests in flight (fault 42).
    ClientsDrop = "clients-drop",
    /// Flushes fail; that disk is failed at once (fault 28, of one disk).
    FlushFails = "flush-fails",
    /// Disks answer with errors.
    DiskErrors = "disk-errors",
    /// The clock jumps (fault 45).
    ClockJumps = "clock-jumps",
    /// Peers send garbage (faults 46 to 48).
    Garbage = "garbage",
    /// Agents die holding grants, their last requests still under way (faults 5, 9 and 10).
    AgentDies = "agent-dies",
    /// A commit is done, its answer lost, and it is sent again (fault 4).
    CommitRepeated = "commit-repeated",
    /// Volumes reach their limits.
    VolumeLimits = "volume-limits",
    /// Volumes come and go.
    VolumesComeAndGo = "volumes-come-and-go",
    /// Snapshots of several volumes at once, at several agents, while all are written to (fault 16).
    SnapshotCut = "snapshot-cut",
    /// Everything dies while a snapshot is being taken (fault 17).
    SnapshotCrash = "snapshot-crash",
    /// Everything dies while a snapshot is being deleted, the newest, the oldest or one between (fault 17).
    DeleteCrash = "delete-crash",
    /// Everything dies while a clone is being made (fault 17).
    CloneCrash = "clone-crash",
    /// Everything dies while a volume is being rolled back (fault 17).
    RollbackCrash = "rollback-crash",
    /// Everything dies while a clone is being flattened (fault 17).
    FlattenCrash = "flatten-crash",
    /// Everything dies soon after a snapshot, in the first writes above it (fault 18).
    FirstWriteCrash = "first-write-crash",
    /// Snapshots are deleted while they are read and while the live end writes and trims (fault 19).
    DeleteWhileRead = "delete-while-read",
    /// Volumes are resized and snapshotted with I/O in flight (fault 22).
    ResizeSnapshot = "resize-snapshot",
    /// More snapshots than a region has layers, written over again and again; everything dies in merges.
    DeepStacks = "deep-stacks",
    /// Snapshots fill the pool, and deleting them empties it.
    SnapshotsFill = "snapshots-fill",
    /// Snapshots of maps of so many pages that taking one back needs many steps; everything dies between them.
    ManyPages = "many-pages",
    /// Disks and the store fail while snapshots are taken and deleted.
    SnapshotErrors = "snapshot-errors",
}

/// How many scenarios there were before there were snapshots. Which seed has which of them stays as it was.
const BEFORE_SNAPSHOTS: usize = 22;

impl Scenario {
    /// The scenario of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|scenario| scenario.name() == name)
    }

    /// What a seed is about when nobody says: every other one whatever comes, the others one scenario after the other,
    /// every eighth of those with snapshots.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let (before, since) = Self::ALL.split_at(BEFORE_SNAPSHOTS);
        match seed % 8 {
            0 | 2 | 4 | 6 => Self::Any,
            7 => since[(seed / 8) as usize % since.len()],
            _ => before[(seed / 2) as usize % before.len()],
        }
    }

    /// Makes `plan` one of this kind.
    pub fn shape(self, plan: &mut Plan, random: &mut Random) {
        let writes =
            Mix { read: 10, write: 60, zero: 2, trim: 6, flush: 4, status: 1, cache: 1, fua: 50, zero_blocks: 50 };
        let crashes = |random: &mut Random, power_cut: bool| {
            let crash = |random: &mut Random| CrashPlan { after_effects: random.between(1, 2_000), power_cut };
            (0..4).map(|_| crash(random)).collect()
        };
        match self {
            Self::Any => {}
            Self::PoolFull => tighten(plan, writes),
            Self::MetadataFull => {
                plan.store_full = true;
                plan.mix = writes;
            }
            Self::DiesBeforeCommit => {
                plan.store_nanos = 5_000_000;
                plan.mix = Mix { flush: 20, fua: 300, ..writes };
                plan.crashes = crashes(random, true);
            }
            Self::TrimRacesWrite => {
                plan.mix = Mix { trim: 40, zero: 10, write: 50, ..writes };
                plan.depth = 16;
                one_small_window(plan);
            }
            Self::RegionsChangeHands => {
                tighten(plan, Mix { trim: 25, ..writes });
                plan.operations *= 2;
            }
            Self::AccountsAfterCrash => plan.crashes = crashes(random, random.clone().permille(500)),
            Self::Resize => plan.operator = vec![OperatorAction::Resize; 6],
            Self::Killed => plan.crashes = crashes(random, false),
            Self::PowerCut => plan.crashes = crashes(random, true),
            Self::ForceUnitAccess => {
                plan.mix = Mix { flush: 0, fua: 500, ..writes };
                plan.crashes = crashes(random, true);
            }
            Self::FlushOnAnother => {
                plan.volumes.iter_mut().for_each(|volume| volume.hosts = 3);
                plan.mix = Mix { flush: 15, fua: 0, ..writes };
                plan.crashes = crashes(random, true);
            }
            Self::OverlappingWrites => {
                plan.depth = 16;
                one_small_window(plan);
                plan.mix = Mix { read: 30, ..writes };
            }
            Self::ClientsDrop => {
                plan.drops = 40;
                plan.depth = 16;
            }
            Self::FlushFails => {
                plan.disk_faults = DiskFaults { flush_error: 40, ..DiskFaults::default() };
                plan.crashes = crashes(random, true);
            }
            Self::DiskErrors => {
                plan.disk_faults = DiskFaults { read_error: 20, write_error: 20, out_of_space: 10, flush_error: 0 };
            }
            Self::ClockJumps => plan.clock_jumps = 10,
            Self::Garbage => plan.garbage = 60,
            Self::AgentDies => {
                tighten(plan, Mix { trim: 15, ..writes });
                plan.agent_deaths = 8;
                plan.disk_nanos = 2_000_000;
            }
            Self::CommitRepeated => {
                plan.mix = Mix { flush: 15, trim: 15, ..writes };
                plan.repeats = 500;
            }
            Self::VolumeLimits => {
                plan.mix = Mix { trim: 10, ..writes };
                for volume in &mut plan.volumes {
                    volume.limit_bytes = Some(random.between(1, 8) * volume.region_size.bytes());
                }
            }
            Self::VolumesComeAndGo => plan.operator = vec![OperatorAction::Recreate; 4],
            _ => self.shape_snapshots(plan, random),
        }
    }
}

impl Scenario {
    fn shape_snapshots(self, plan: &mut Plan, random: &mut Random) {
        use OperatorAction::{
            Audit, Clone, Cut, Delete, Diff, Flatten, Recreate, Resize, Rollback, Snapshot, SnapshotDelete,
        };
        const DELETES: [OperatorAction; 3] =
            [SnapshotDelete(Which::Newest), SnapshotDelete(Which::Middle), SnapshotDelete(Which::Oldest)];
        small_and_busy(plan, random);
        plan.operator.clear();
        let count = random.between(6, 14);
        let actions: &[OperatorAction] = match self {
            Self::SnapshotCut => &[Cut, Cut, Cut, SnapshotDelete(Which::Any), Rollback],
            Self::SnapshotCrash => &[Snapshot, Snapshot, Cut],
            Self::DeleteCrash | Self::DeleteWhileRead => {
                &[Snapshot, Snapshot, Snapshot, DELETES[0], DELETES[0], DELETES[1], DELETES[2]]
            }
            Self::CloneCrash => &[Snapshot, Clone, Clone, Clone, Delete, SnapshotDelete(Which::Any), Diff],
            Self::RollbackCrash => &[Snapshot, Snapshot, Rollback, Rollback, DELETES[0], Clone],
            Self::FlattenCrash => &[Snapshot, Clone, Clone, Flatten, Flatten, Flatten, SnapshotDelete(Which::Any)],
            Self::FirstWriteCrash => &[Snapshot],
            Self::ResizeSnapshot => &[Resize, Resize, Snapshot, Clone, Rollback, SnapshotDelete(Which::Any), Diff],
            Self::DeepStacks => &[Snapshot, Snapshot, Snapshot, Snapshot, DELETES[1], Diff, Clone],
            Self::ManyPages => &[Snapshot, Snapshot, DELETES[0], DELETES[0], DELETES[0], DELETES[1]],
            Self::SnapshotsFill => &[Snapshot, Snapshot, Cut, SnapshotDelete(Which::Any), Delete, Clone, Audit],
            _ => &[Snapshot, Snapshot, Cut, Clone, Rollback, Recreate, SnapshotDelete(Which::Any), Audit],
        };
        plan.take_snapshots(random, count, actions);
        let crashing = [
            Self::SnapshotCrash,
            Self::DeleteCrash,
            Self::CloneCrash,
            Self::RollbackCrash,
            Self::FlattenCrash,
            Self::FirstWriteCrash,
            Self::ManyPages,
        ];
        if crashing.contains(&self) {
            plan.strikes = 500;
            // (A purge, a merge or a flattening goes on long after its request is answered.)
            plan.strike_reach = random.pick(&[20, 60, 200, 800]);
        }
        match self {
            Self::DeleteCrash | Self::DeleteWhileRead => {
                plan.mix = Mix { write: 40, trim: 30, zero: 5, read: 15, flush: 8, ..plan.mix };
            }
            Self::FirstWriteCrash => plan.strike_reach = 200,
            Self::ResizeSnapshot => plan.depth = 16,
            Self::DeepStacks => {
                one_small_window(plan);
                plan.operator.extend([Snapshot; 8]);
                plan.operations *= 2;
            }
            Self::ManyPages => many_pages(plan, random),
            Self::SnapshotsFill => {
                plan.ample = false;
                plan.disks.truncate(1);
                plan.disks[0].size_bytes = random.between(3, 5) << 20;
            }
            Self::SnapshotErrors => {
                let errors = DiskFaults { read_error: 10, write_error: 10, out_of_space: 5, flush_error: 0 };
                let flush_errors = DiskFaults { flush_error: 15, ..DiskFaults::default() };
                plan.disk_faults = random.pick(&[DiskFaults::default(), errors, flush_errors]);
                plan.store_failures = random.pick(&[0, 50, 300]);
            }
            _ => {}
        }
    }
}

/// Few regions, so that places are used again and stacks get deep, and many writes to them.
fn small_and_busy(plan: &mut Plan, random: &mut Random) {
    plan.operations = random.between(80, 240) as u32;
    plan.store_full = false;
    plan.disk_faults = DiskFaults::default();
    plan.store_failures = 0;
    plan.mix = Mix {
        read: random.between(5, 20) as u32,
        write: 60,
        zero: 3,
        trim: random.pick(&[2, 10, 25]),
        flush: random.pick(&[1, 4, 15]),
        ..plan.mix
    };
    for volume in &mut plan.volumes {
        let log2 = random.pick(&[14, 14, 15, 16, 16, 17]);
        volume.region_size = RegionSize::from_bytes(1 << log2).expect("a region size");
        volume.limit_bytes = None;
        volume.windows.truncate(2);
        for (_, count) in &mut volume.windows {
            *count = (*count).min(random.pick(&[64, 192, 512]));
        }
    }
}

/// One volume, a block of each of very many table pages in use.
fn many_pages(plan: &mut Plan, random: &mut Random) {
    let region_size = RegionSize::from_bytes(1 << 14).expect("a region size");
    let page_sectors = region_size.page_bytes() / 512;
    plan.volumes.truncate(1);
    let count = random.between(200, 400);
    plan.volumes[0].region_size = region_size;
    plan.volumes[0].size_bytes = count * region_size.page_bytes();
    plan.volumes[0].windows = (0..count).map(|page| (page * page_sectors, 8)).collect();
    plan.volumes[0].hosts = 3;
    // Little more space than two views need, so that what is freed is soon another's.
    plan.disks.truncate(1);
    plan.disks[0].size_bytes = ((count * region_size.bytes() * random.between(3, 5) / 2) >> 20 << 20) + (2 << 20);
    plan.ample = false;
    plan.mix = Mix { write: 80, trim: 8, read: 4, flush: 8, zero: 0, fua: 0, ..plan.mix };
    // The purge is slow, and hosts are not.
    plan.store_nanos = 5_000_000;
    (plan.disk_nanos, plan.hop_nanos, plan.think_nanos, plan.depth) = (10_000, 200, 1_000, 8);
    plan.strike_reach = random.pick(&[300, 1_000, 3_000]);
    plan.operations = 1_000;
}

/// A pool of about half of what the volumes may want.
fn tighten(plan: &mut Plan, mix: Mix) {
    plan.mix = mix;
    plan.ample = false;
    let megabytes: u64 = plan.volumes.iter().flat_map(|volume| &volume.windows).map(|(_, count)| count / 2048).sum();
    let each = (megabytes / 2 / plan.disks.len() as u64).max(1) + 2;
    plan.disks.iter_mut().for_each(|disk| disk.size_bytes = each << 20);
}

fn one_small_window(plan: &mut Plan) {
    for volume in &mut plan.volumes {
        volume.windows.truncate(1);
        volume.windows[0].1 = volume.windows[0].1.min(96);
    }
}
