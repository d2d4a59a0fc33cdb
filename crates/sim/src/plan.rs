//! What a seed stands for: the machine, its volumes and hosts, what they do and what goes wrong.

use crate::disk::DiskFaults;
use crate::planted::PlantedBug;
use crate::random::Random;
use crate::scenario::Scenario;
use model::RegionSize;

/// A physical disk.
#[derive(Clone, Copy, Debug)]
pub struct DiskPlan {
    /// In bytes.
    pub size_bytes: u64,
    /// 512 or 4,096.
    pub sector_bytes: u32,
}

/// A volume and who uses it.
#[derive(Clone, Debug)]
pub struct VolumePlan {
    /// In bytes.
    pub size_bytes: u64,
    /// The size of its regions.
    pub region_size: RegionSize,
    /// The parts that hosts use: first sector and how many; ascending, apart.
    pub windows: Vec<(u64, u64)>,
    /// How many connections hosts have to it.
    pub hosts: u32,
    /// Usage it may not pass, in bytes.
    pub limit_bytes: Option<u64>,
}

/// How often hosts do what: weights.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Reads.
    pub read: u32,
    /// Writes.
    pub write: u32,
    /// Write-zeroes.
    pub zero: u32,
    /// Trims.
    pub trim: u32,
    /// Flushes.
    pub flush: u32,
    /// Block status.
    pub status: u32,
    /// Cache.
    pub cache: u32,
    /// Writes, zeroes and trims with FUA, in thousandths of them.
    pub fua: u32,
    /// Blocks of zeroes among those written, in thousandths.
    pub zero_blocks: u32,
}

impl Mix {
    /// What hosts do with what they cannot write.
    pub const READING: Self =
        Self { read: 20, write: 0, zero: 0, trim: 0, flush: 1, status: 2, cache: 1, fua: 0, zero_blocks: 0 };
}

/// Everything stops at once.
#[derive(Clone, Copy, Debug)]
pub struct CrashPlan {
    /// After so many effects of this life.
    pub after_effects: u64,
    /// The disks' caches are lost too.
    pub power_cut: bool,
}

/// What an operator does while hosts are at work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OperatorAction {
    /// Grows a volume, or shrinks it to what its windows need.
    Resize,
    /// Deletes a volume, hosts or not, and makes another in its place.
    Recreate,
    /// Has the pool audited.
    Audit,
    /// Takes a snapshot of one volume.
    Snapshot,
    /// Takes snapshots of several at one moment.
    Cut,
    /// Deletes a snapshot, read or not: the newest, the oldest or one in between.
    SnapshotDelete(Which),
    /// Gives a snapshot another name.
    SnapshotRename,
    /// Gives a volume another name.
    VolumeRename,
    /// Gives a volume a schedule, and keeps to it for a while.
    Schedule,
    /// Makes a volume that begins as a snapshot is.
    Clone,
    /// Makes a volume what it was at a snapshot.
    Rollback,
    /// Gives a clone places of its own.
    Flatten,
    /// Deletes a clone, or a volume with its snapshots.
    Delete,
    /// Compares two views.
    Diff,
}

/// Which of a volume's snapshots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// The youngest.
    Newest,
    /// Neither the youngest nor the oldest, if there is such a one.
    Middle,
    /// The oldest.
    Oldest,
    /// Whichever.
    Any,
}

/// The plan of one run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it was drawn from.
    pub seed: u64,
    /// What it is about.
    pub scenario: Scenario,
    /// The disks.
    pub disks: Vec<DiskPlan>,
    /// The volumes.
    pub volumes: Vec<VolumePlan>,
    /// How many agents (and node shards).
    pub agents: u32,
    /// Requests of one host.
    pub operations: u32,
    /// Requests a host has in flight at most.
    pub depth: u32,
    /// What hosts do.
    pub mix: Mix,
    /// Crashes, one per life.
    pub crashes: Vec<CrashPlan>,
    /// How disks misbehave, until the faults stop.
    pub disk_faults: DiskFaults,
    /// Periods in which the store refuses commits, in thousandths of its commits.
    pub store_failures: u32,
    /// The store is full now and then.
    pub store_full: bool,
    /// Hosts that drop their connection, in thousandths of their requests.
    pub drops: u32,
    /// Hosts that send garbage, in thousandths of their requests.
    pub garbage: u32,
    /// What operators do.
    pub operator: Vec<OperatorAction>,
    /// What operators do is spread over what hosts do.
    pub paced: bool,
    /// Operators' requests about snapshots that end in a crash, in thousandths of them.
    pub strikes: u32,
    /// Within so many effects of the request.
    pub strike_reach: u64,
    /// In the end everything is deleted, and each time as much must become free as was said.
    pub accounts: bool,
    /// How often an agent dies alone, what it has sent still under way.
    pub agent_deaths: u32,
    /// Commits that are sent twice, in thousandths of them.
    pub repeats: u32,
    /// How often the clock jumps ahead.
    pub clock_jumps: u32,
    /// Mean delays, in nanoseconds: of a message, a disk, the store, and between two requests of a host.
    pub hop_nanos: u64,
    /// See [`Plan::hop_nanos`].
    pub disk_nanos: u64,
    /// See [`Plan::hop_nanos`].
    pub store_nanos: u64,
    /// See [`Plan::hop_nanos`].
    pub think_nanos: u64,
    /// The pool holds everything that can be written, and more: nothing may find it full.
    pub ample: bool,
    /// In the end every volume is trimmed, and the pool must be empty.
    pub empties: bool,
    /// What the tables of an agent may take in memory, in bytes.
    pub table_bytes_max: usize,
    /// When the controller folds pages.
    pub folding: controller::Folding,
    /// A bug to be found.
    pub planted: Option<PlantedBug>,
}

const MIB: u64 = 1 << 20;

/// What operators do with snapshots, each as often as it stands here.
pub const ACTIONS: [OperatorAction; 22] = {
    use OperatorAction::{
        Audit, Clone, Cut, Delete, Diff, Flatten, Recreate, Resize, Rollback, Snapshot, SnapshotDelete, SnapshotRename,
    };
    [
        Snapshot,
        Snapshot,
        Snapshot,
        Snapshot,
        Snapshot,
        Cut,
        Cut,
        SnapshotDelete(Which::Newest),
        SnapshotDelete(Which::Middle),
        SnapshotDelete(Which::Oldest),
        SnapshotDelete(Which::Any),
        SnapshotRename,
        Clone,
        Clone,
        Rollback,
        Flatten,
        Delete,
        Diff,
        Diff,
        Recreate,
        Resize,
        Audit,
    ]
};

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn draw(seed: u64, scenario: Scenario) -> Self {
        let mut random = Random::new(seed ^ 0x00ac_4ea6_e000_0001);
        let volumes: Vec<_> = (0..random.between(1, 3)).map(|_| draw_volume(&mut random)).collect();
        let wanted: u64 = volumes.iter().map(footprint_bytes).sum();
        let ample = random.permille(350);
        let disks = draw_disks(&mut random, wanted, ample);
        let mut plan = Self {
            seed,
            scenario,
            disks,
            agents: random.between(1, 2) as u32,
            operations: random.between(40, 220) as u32,
            depth: random.pick(&[1, 2, 4, 8, 16]),
            mix: draw_mix(&mut random),
            crashes: draw_crashes(&mut random),
            disk_faults: DiskFaults::default(),
            store_failures: 0,
            store_full: false,
            drops: if random.permille(250) { random.between(1, 20) as u32 } else { 0 },
            garbage: 0,
            operator: Vec::new(),
            paced: false,
            strikes: 0,
            strike_reach: 1,
            accounts: false,
            agent_deaths: if random.permille(200) { random.between(1, 4) as u32 } else { 0 },
            repeats: random.pick(&[0, 0, 100]),
            clock_jumps: u32::from(random.permille(100)) * 2,
            hop_nanos: random.pick(&[200, 5_000, 50_000]),
            disk_nanos: random.pick(&[10_000, 100_000, 2_000_000]),
            store_nanos: random.pick(&[50_000, 500_000, 5_000_000]),
            think_nanos: random.pick(&[1_000, 20_000, 300_000]),
            ample,
            empties: random.permille(400),
            table_bytes_max: usize::MAX,
            folding: controller::Folding::default(),
            planted: None,
            volumes,
        };
        if random.permille(150) {
            plan.disk_faults = draw_disk_faults(&mut random);
        }
        if random.permille(100) {
            plan.store_failures = random.between(10, 300) as u32;
        }
        if random.permille(250) {
            let actions = [OperatorAction::Resize, OperatorAction::Recreate, OperatorAction::Audit];
            plan.operator = (0..random.between(1, 4)).map(|_| random.pick(&actions)).collect();
        }
        if random.permille(50) {
            plan.garbage = random.between(5, 50) as u32;
        }
        scenario.shape(&mut plan, &mut random);
        // (From numbers of their own: what a seed meant before there were snapshots it means still.)
        let mut random = Random::new(seed ^ 0x5aa9_5407_5000_0002);
        if scenario == Scenario::Any && random.permille(300) {
            let count = random.between(2, 16);
            plan.take_snapshots(&mut random, count, &ACTIONS);
        }
        let mut random = Random::new(seed ^ 0x7ab1_e000_0000_0003);
        if random.permille(400) {
            // Nothing that can be evicted may stay, or a chunk of slots, or a few.
            plan.table_bytes_max = random.pick(&[1, 1, 26_000, 52_000, 100_000]);
        }
        // (Pages are small here: in every other run they are folded as if they were large.)
        let mut random = Random::new(seed ^ 0xf01d_0000_0000_0003);
        let deltas_max = random.pick(&[3, 8]);
        plan.folding = controller::Folding { deltas_max, page_parts: random.pick(&[0, 2]) };
        // (Put in between, so that all else stays what it was.)
        let mut random = Random::new(seed ^ 0x5c4e_d01e_0000_0004);
        if plan.paced && random.permille(300) {
            for action in [OperatorAction::VolumeRename, OperatorAction::Schedule] {
                let at = random.between(1, plan.operator.len() as u64) as usize;
                plan.operator.insert(at, action);
            }
        }
        plan
    }

    /// Operators take snapshots, and do what can be done with them.
    pub fn take_snapshots(&mut self, random: &mut Random, count: u64, actions: &[OperatorAction]) {
        self.operator.push(OperatorAction::Snapshot);
        self.operator.extend((0..count).map(|_| random.pick(actions)));
        self.paced = true;
        self.accounts = true;
        self.empties = false;
        self.strikes = random.pick(&[0, 0, 100, 300]);
        self.strike_reach = random.pick(&[20, 100, 600]);
        if self.ample {
            // Every snapshot may come to hold everything once more, and every clone too.
            for disk in &mut self.disks {
                disk.size_bytes = disk.size_bytes * (2 + self.operator.len() as u64) / MIB * MIB;
            }
        }
    }

    /// Whether errors may be answered at all.
    #[must_use]
    pub fn has_faults(&self) -> bool {
        let DiskFaults { read_error, write_error, out_of_space, flush_error } = self.disk_faults;
        read_error + write_error + out_of_space + flush_error + self.store_failures > 0 || self.store_full
    }
}

/// What a volume's windows may come to occupy, in bytes.
fn footprint_bytes(volume: &VolumePlan) -> u64 {
    let region = volume.region_size.bytes();
    volume
        .windows
        .iter()
        .map(|(first, count)| ((first + count) * 512).div_ceil(region) - first * 512 / region)
        .sum::<u64>()
        * region
}

fn draw_volume(random: &mut Random) -> VolumePlan {
    let log2 = random.pick(&[14, 14, 15, 16, 16, 16, 16, 17, 18, 20, 22]);
    let region_size = RegionSize::from_bytes(1 << log2).expect("a region size");
    let size_bytes = random.pick(&[MIB, 4 * MIB, 1 << 30, 1 << 40, (1 << 44) + 7 * 512]) + 512 * random.below(64);
    let sectors = size_bytes / 512;
    // Parts in use: the start, the end, and others, small so that requests meet.
    let mut windows = Vec::new();
    for _ in 0..random.between(1, 3) {
        let count = random.pick(&[64, 256, 1024, 2048]).min(sectors);
        let first = match random.below(3) {
            0 => 0,
            1 => sectors - count,
            _ => random.below(sectors - count + 1),
        };
        let apart = |(other, length): &(u64, u64)| first + count <= *other || other + length <= first;
        if windows.iter().all(apart) {
            windows.push((first, count));
        }
    }
    windows.sort_unstable();
    let limit_bytes = random.permille(150).then(|| random.between(1, 32) * region_size.bytes());
    VolumePlan { size_bytes, region_size, windows, hosts: random.between(1, 3) as u32, limit_bytes }
}

fn draw_disks(random: &mut Random, wanted: u64, ample: bool) -> Vec<DiskPlan> {
    let count = random.between(1, 3);
    // Each agent's volumes are granted more than they take: ample is much more than enough.
    let chunklets =
        if ample { 4 * wanted.div_ceil(MIB) + 48 } else { (wanted / MIB).max(1) * random.between(2, 5) / 4 };
    let sector_bytes = random.pick(&[512, 512, 4096]);
    let each = chunklets.div_ceil(count).max(1);
    (0..count).map(|_| DiskPlan { size_bytes: (each + 2) * MIB, sector_bytes }).collect()
}

fn draw_mix(random: &mut Random) -> Mix {
    Mix {
        read: random.between(5, 40) as u32,
        write: random.between(20, 60) as u32,
        zero: random.below(10) as u32,
        trim: random.below(25) as u32,
        flush: random.between(1, 15) as u32,
        status: random.below(4) as u32,
        cache: random.below(2) as u32,
        fua: random.pick(&[0, 50, 300]),
        zero_blocks: random.pick(&[0, 50, 300]),
    }
}

fn draw_crashes(random: &mut Random) -> Vec<CrashPlan> {
    let count = random.pick(&[0, 1, 1, 2, 3]);
    let reach = random.pick(&[200, 1_000, 4_000]);
    (0..count).map(|_| CrashPlan { after_effects: random.between(1, reach), power_cut: random.permille(600) }).collect()
}

fn draw_disk_faults(random: &mut Random) -> DiskFaults {
    let mut rate = || if random.permille(400) { random.between(1, 60) as u32 } else { 0 };
    DiskFaults { read_error: rate(), write_error: rate(), out_of_space: rate(), flush_error: rate() }
}
