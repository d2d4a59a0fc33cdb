//! A host: one NBD client, what it has asked for, and what it will ask for next.

use crate::oracle::{Oracle, Tick};
use crate::plan::{Mix, VolumePlan};
use crate::random::Random;
use crate::stamp::{self, SECTOR};
use model::VolumeId;
use nbd::client::{Client, ClientConfig, Style};
use nbd::protocol::command_flags;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What hosts attach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A volume of the plan: made anew when it is deleted.
    Planned,
    /// A clone.
    Clone,
    /// A snapshot of the volume of that place, and of which cut.
    Snapshot { of: usize, cut: usize },
}

/// A volume or snapshot, as its hosts and the oracle know it.
#[derive(Debug)]
pub(crate) struct VolumeState {
    pub(crate) kind: Kind,
    pub(crate) plan: VolumePlan,
    pub(crate) name: String,
    /// `None` until it is made, while it is made anew, and when it is gone.
    pub(crate) id: Option<VolumeId>,
    pub(crate) size_bytes: u64,
    pub(crate) oracle: Oracle,
    /// How often it was made anew.
    pub(crate) incarnation: u32,
    /// Blocks that certainly have storage: overwriting them can never lack space.
    pub(crate) mapped: BTreeSet<u64>,
    /// Trims and zeroings in flight.
    pub(crate) zeroing: u32,
    /// When the last of them ended.
    pub(crate) zeroed: Tick,
    /// Being resized, rolled back or deleted: requests may be refused.
    pub(crate) unsettled: bool,
    /// The last door there was when its size last changed: through older ones it may open with the size it had.
    pub(crate) resized_door: u64,
    /// Snapshots of it are being taken.
    pub(crate) cutting: bool,
    /// When the last one was there: what was written before may be frozen.
    pub(crate) cut: Tick,
    /// What clones and rollbacks left it to share with may keep it from being empty.
    pub(crate) has_origin: bool,
}

impl VolumeState {
    pub(crate) fn new(kind: Kind, plan: VolumePlan, name: String) -> Self {
        Self {
            kind,
            name,
            id: None,
            size_bytes: plan.size_bytes,
            oracle: Oracle::new(VolumeId::default(), &[]),
            incarnation: 0,
            mapped: BTreeSet::new(),
            zeroing: 0,
            zeroed: 0,
            unsettled: false,
            resized_door: 0,
            cutting: false,
            cut: 0,
            has_origin: false,
            plan,
        }
    }

    /// Whether it was there and will not be again.
    pub(crate) fn is_gone(&self) -> bool {
        self.id.is_none() && self.kind != Kind::Planned
    }

    pub(crate) fn is_snapshot(&self) -> bool {
        matches!(self.kind, Kind::Snapshot { .. })
    }

    /// Whether what was written since `invoked` has places of its own.
    pub(crate) fn is_settled_since(&self, invoked: Tick) -> bool {
        self.zeroing == 0 && self.zeroed < invoked && !self.cutting && self.cut < invoked
    }
}

/// A range of sectors written alike by one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// The write's number, which its stamps bear.
    pub(crate) number: u32,
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) zero: bool,
}

impl Part {
    /// Whether it begins or ends within a block.
    pub(crate) fn is_ragged(self) -> bool {
        !self.first.is_multiple_of(8) || !(self.first + self.count).is_multiple_of(8)
    }
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    Read {
        number: u32,
        first: u64,
    },
    Write {
        parts: SmallVec<[Part; 2]>,
        fua: bool,
        assured: bool,
    },
    /// Trim, or zeroes; `fast` may be refused, `keep_space` may lack space.
    Zero {
        part: Part,
        fua: bool,
        fast: bool,
        keep_space: bool,
    },
    Flush,
    Status {
        first: u64,
    },
    /// What changed since the snapshot of that place.
    Changed {
        number: u32,
        first: u64,
        since: usize,
    },
    Cache,
}

/// A request in flight.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) asked: Asked,
    pub(crate) invoked: Tick,
    /// Of which incarnation of the volume.
    pub(crate) incarnation: u32,
}

/// How far a host's connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    /// None; it will try again.
    Down,
    /// Negotiating.
    Opening,
    /// Serving requests.
    Open,
}

/// A host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) volume: usize,
    pub(crate) depth: usize,
    pub(crate) operations_left: u32,
    pub(crate) client: Client,
    pub(crate) link: Link,
    /// The door it talks to.
    pub(crate) door: u64,
    pub(crate) in_flight: BTreeMap<u64, Request>,
    /// Ranges to be read before anything else: first sector and how many.
    pub(crate) scan: VecDeque<(u64, u64)>,
    /// What is to be trimmed in the end, and flushed.
    pub(crate) farewell: VecDeque<Farewell>,
    pub(crate) step_pending: bool,
    /// It turned into a source of garbage, for one connection.
    pub(crate) hostile: bool,
    /// All it asks is what changed since the snapshot of that place.
    pub(crate) since: Option<usize>,
}

/// The last requests of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Farewell {
    /// Trims a range: first sector and how many.
    Trim(u64, u64),
    Flush,
}

impl Host {
    pub(crate) fn new(volume: usize, depth: usize, operations: u32) -> Self {
        Self {
            volume,
            depth,
            operations_left: operations,
            client: Client::new(ClientConfig::new("")),
            link: Link::Down,
            door: 0,
            in_flight: BTreeMap::new(),
            scan: VecDeque::new(),
            farewell: VecDeque::new(),
            step_pending: false,
            hostile: false,
            since: None,
        }
    }

    /// Whether it has nothing more to ask and nothing to wait for.
    pub(crate) fn is_done(&self) -> bool {
        self.operations_left == 0 && self.scan.is_empty() && self.farewell.is_empty() && self.in_flight.is_empty()
    }
}

/// How a client of any kind introduces itself.
pub(crate) fn client_config(export: &str, random: &mut Random) -> ClientConfig {
    let mut config = ClientConfig::new(export);
    config.style = random.pick(&[Style::Simple, Style::Structured, Style::Extended, Style::Extended]);
    if config.style == Style::Simple {
        config.contexts.clear();
        config.by_export_name = random.permille(300);
    }
    config
}

/// A range of a volume: somewhere in its windows, at any sector, or in blocks; short more often than long.
pub(crate) fn draw_range(random: &mut Random, windows: &[(u64, u64)], longest: u64) -> (u64, u64) {
    let (start, count) = random.pick(windows);
    let longest = longest.min(count);
    let reach = random.pick(&[1, 8, 8, 16, 64, longest]).min(longest);
    let (mut first, mut length) = (random.below(count), random.between(1, reach));
    if random.below(3) > 0 {
        // Hosts mostly speak in blocks.
        first = (start + first) / 8 * 8;
        first = first.max(start) - start;
        length = length.div_ceil(8) * 8;
    }
    (start + first, length.min(count - first))
}

/// What to ask for next, and its payload.
pub(crate) struct Draw {
    pub(crate) asked: Asked,
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) flags: u16,
    pub(crate) payload: Vec<u8>,
}

/// Draws a request by the weights of `mix`.
pub(crate) fn draw_request(
    random: &mut Random,
    mix: Mix,
    volume: &VolumeState,
    has_status: bool,
    next_number: &mut u32,
) -> Draw {
    let windows = &volume.plan.windows;
    let total = mix.read + mix.write + mix.zero + mix.trim + mix.flush + mix.status + mix.cache;
    let mut at = random.below(u64::from(total)) as u32;
    let mut falls = |weight: u32| {
        let hit = at < weight;
        at = at.wrapping_sub(if hit { 0 } else { weight });
        hit
    };
    let mut number = || {
        *next_number += 1;
        *next_number
    };
    let fua = random.permille(mix.fua);
    let fua_flag = if fua { command_flags::FUA } else { 0 };
    if falls(mix.read) {
        let (first, count) = draw_range(random, windows, 512);
        return Draw { asked: Asked::Read { number: number(), first }, first, count, flags: 0, payload: Vec::new() };
    }
    if falls(mix.write) {
        let (first, count) = draw_range(random, windows, 512);
        let (parts, payload) = draw_payload(random, mix.zero_blocks, volume.id, first, count, &mut number);
        let assured = is_assured(volume, first, count) && parts.iter().all(|part| !part.zero);
        return Draw { asked: Asked::Write { parts, fua, assured }, first, count, flags: fua_flag, payload };
    }
    let is_zero = falls(mix.zero);
    if is_zero || falls(mix.trim) {
        let (first, count) = draw_range(random, windows, 4096);
        let part = Part { number: number(), first, count, zero: true };
        let (fast, keep_space) = (is_zero && random.below(8) == 0, is_zero && random.below(4) == 0);
        let fast_flag = if fast { command_flags::FAST_ZERO } else { 0 };
        let keep_flag = if keep_space { command_flags::NO_HOLE } else { 0 };
        // The weights tell a trim from zeroes by the flag that only zeroes may have.
        let flags = fua_flag | fast_flag | keep_flag | if is_zero { ZEROES } else { 0 };
        return Draw { asked: Asked::Zero { part, fua, fast, keep_space }, first, count, flags, payload: Vec::new() };
    }
    let (first, count) = draw_range(random, windows, 2048);
    let asked = if falls(mix.flush) {
        Asked::Flush
    } else if has_status && falls(mix.status) {
        Asked::Status { first }
    } else if mix.cache > 0 {
        Asked::Cache
    } else {
        Asked::Flush
    };
    Draw { asked, first, count, flags: 0, payload: Vec::new() }
}

/// Not on the wire: this zeroing is a WRITE_ZEROES, not a TRIM.
pub(crate) const ZEROES: u16 = 1 << 15;

/// Whether every block of a range certainly has storage.
fn is_assured(volume: &VolumeState, first: u64, count: u64) -> bool {
    volume.zeroing == 0
        && !volume.cutting
        && (first / 8..(first + count).div_ceil(8)).all(|block| volume.mapped.contains(&block))
}

/// A payload of stamps, some of its blocks (or stretches of sectors) zeroes.
fn draw_payload(
    random: &mut Random,
    zero_blocks: u32,
    volume: Option<VolumeId>,
    first: u64,
    count: u64,
    number: &mut impl FnMut() -> u32,
) -> (SmallVec<[Part; 2]>, Vec<u8>) {
    let mut payload = vec![0; count as usize * SECTOR];
    let mut parts: SmallVec<[Part; 2]> = SmallVec::new();
    let mixed = zero_blocks > 0 && random.below(4) == 0;
    let all_zero = random.permille(zero_blocks / 4);
    let mut at = first;
    while at < first + count {
        // Up to the next block's edge, or sometimes short of it.
        let edge = (at / 8 + 1) * 8 - u64::from(mixed && random.below(16) == 0);
        let end = if mixed { edge.max(at + 1).min(first + count) } else { first + count };
        let zero = all_zero || (mixed && random.permille(zero_blocks));
        match parts.last_mut() {
            Some(last) if last.zero == zero => last.count += end - at,
            _ => parts.push(Part { number: number(), first: at, count: end - at, zero }),
        }
        at = end;
    }
    for part in parts.iter().filter(|part| !part.zero) {
        let from = (part.first - first) as usize * SECTOR;
        let to = from + part.count as usize * SECTOR;
        stamp::fill(&mut payload[from..to], volume.unwrap_or_default(), part.number, part.first);
    }
    (parts, payload)
}
