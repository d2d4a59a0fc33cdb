//! The per-sector oracle: what each sector of a volume may hold, whatever was written, flushed, refused and cut short.
//!
//! Time here is a count of things that happened (a [`Tick`]), so that no two coincide. A write takes effect on each sector
//! at some moment between its request and its reply. A read may return a write's value unless another write, begun after
//! the first had ended, is known to have happened before the read began. After a crash any value may be there that no
//! *durable* write has replaced: one acknowledged with FUA, or acknowledged before an acknowledged flush was asked for.

use crate::cut::Frozen;
use crate::stamp::{self, Content, SECTOR};
use crate::verdict::{Invariant, Violation};
use model::VolumeId;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};

/// A moment: how many things happened before.
pub type Tick = u64;
pub(crate) const NEVER: Tick = Tick::MAX;

/// How a write ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Acknowledged.
    Done,
    /// Refused: it may have happened in part, and nothing is promised of what did.
    Failed,
    /// Nobody was there to hear: it may have happened in part, and what did is as good as acknowledged.
    Unknown,
}

/// A write (or trim, or zeroing) as the oracle knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    /// The volume it was written to: a clone's first content is another's.
    volume: VolumeId,
    pub(crate) invoked: Tick,
    pub(crate) ended: Tick,
    /// It is known to have happened, on every sector, by then.
    pub(crate) happened: Tick,
    /// Acknowledged with FUA.
    durable: bool,
    failed: bool,
    pub(crate) zero: bool,
    /// It is what the view began with: of such, a sector holds one and always held that one.
    base: bool,
}

/// A write as one sector knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trace {
    pub(crate) write: u32,
    /// A read saw it by then.
    pub(crate) observed: Tick,
    /// A read saw something else settled, by then: later reads cannot see this one any more.
    dead: Tick,
}

pub(crate) type Traces = SmallVec<[Trace; 2]>;

impl Write {
    /// What was there from the start.
    pub(crate) fn of_old(volume: VolumeId, zero: bool, happened: Tick) -> Self {
        Self { volume, invoked: 0, ended: 0, happened, durable: true, failed: false, zero, base: true }
    }

    /// The same, as what another view begins with.
    pub(crate) fn as_base(self) -> Self {
        Self::of_old(self.volume, self.zero, NEVER)
    }
}

impl Trace {
    pub(crate) fn of(write: u32) -> Self {
        Self { write, observed: NEVER, dead: NEVER }
    }
}

/// A part of a volume that hosts use: the oracle follows each of its sectors.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) first_sector: u64,
    pub(crate) sectors: Vec<Traces>,
}

/// One volume's oracle. What lies outside its windows is never written, and zero.
#[derive(Debug)]
pub struct Oracle {
    volume: VolumeId,
    pub(crate) windows: Vec<Window>,
    /// By number; 0 is the state of a new volume: zeroes, durable.
    pub(crate) writes: BTreeMap<u32, Write>,
    /// Whose bytes may lie where this view's map points.
    pub(crate) owners: BTreeSet<VolumeId>,
    /// It is a snapshot: what it holds is settled for ever, known or not.
    pub(crate) frozen: Option<Frozen>,
    /// Requests in flight, by number: when they were begun.
    reads: BTreeMap<u32, Tick>,
    /// The youngest acknowledged flush: when it was asked for.
    flushed: Tick,
    /// Writes begun before may have been lost although they were acknowledged.
    lost_before: Tick,
    /// There was a crash: a value that cannot be there is blamed on it.
    crashed: bool,
    /// The last crash was a power cut and nothing has been written since: what is read is on the medium.
    medium: bool,
}

impl Oracle {
    /// A new volume's. `windows` are its parts in use: first sector and how many, ascending, apart.
    #[must_use]
    pub fn new(volume: VolumeId, windows: &[(u64, u64)]) -> Self {
        let initial = Trace::of(0);
        let windows = windows
            .iter()
            .map(|(first_sector, count)| Window {
                first_sector: *first_sector,
                sectors: vec![SmallVec::from_elem(initial, 1); *count as usize],
            })
            .collect();
        let writes = BTreeMap::from([(0, Write::of_old(volume, true, 0))]);
        Self {
            volume,
            windows,
            writes,
            owners: BTreeSet::from([volume]),
            frozen: None,
            reads: BTreeMap::new(),
            flushed: 0,
            lost_before: 0,
            crashed: false,
            medium: false,
        }
    }

    /// The parts in use: first sector and how many.
    pub fn windows(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.windows.iter().map(|window| (window.first_sector, window.sectors.len() as u64))
    }

    pub(crate) fn volume(&self) -> VolumeId {
        self.volume
    }

    pub(crate) fn overlap(&mut self, first: u64, count: u64) -> impl Iterator<Item = (u64, &mut Traces)> {
        self.windows.iter_mut().flat_map(move |window| {
            let length = window.sectors.len() as u64;
            let from = first.saturating_sub(window.first_sector).min(length);
            let to = (first + count).saturating_sub(window.first_sector).min(length);
            let base = window.first_sector;
            window.sectors[from as usize..to.max(from) as usize]
                .iter_mut()
                .enumerate()
                .map(move |(index, traces)| (base + from + index as u64, traces))
        })
    }

    /// A write of `count` sectors from `first` on begins. With `zero` it writes zeroes.
    pub fn write_begins(&mut self, now: Tick, number: u32, first: u64, count: u64, zero: bool) {
        let write = Write {
            volume: self.volume,
            invoked: now,
            ended: NEVER,
            happened: NEVER,
            durable: false,
            failed: false,
            zero,
            base: false,
        };
        self.writes.insert(number, write);
        self.medium = false;
        let horizon = self.reads.values().copied().min().unwrap_or(now);
        let (writes, flushed) = (std::mem::take(&mut self.writes), self.flushed);
        for (_, traces) in self.overlap(first, count) {
            if traces.len() > 2 {
                forget(&writes, flushed, horizon, traces);
            }
            traces.push(Trace::of(number));
        }
        self.writes = writes;
    }

    /// A write ends.
    ///
    /// # Panics
    /// When it never began.
    pub fn write_ends(&mut self, now: Tick, number: u32, ending: Ending, fua: bool) {
        let write = self.writes.get_mut(&number).expect("a write that ends has begun");
        write.ended = now;
        match ending {
            Ending::Done if write.invoked < self.lost_before && !fua => {}
            Ending::Done => {
                write.happened = now;
                write.durable = fua;
            }
            Ending::Failed => write.failed = true,
            Ending::Unknown => {}
        }
    }

    /// A flush that was asked for at `invoked` is acknowledged.
    pub fn flushed(&mut self, invoked: Tick) {
        self.flushed = self.flushed.max(invoked);
    }

    /// A read begins.
    pub fn read_begins(&mut self, now: Tick, number: u32) {
        self.reads.insert(number, now);
    }

    /// A read is answered or given up; with `bytes`, what it returned from sector `first` on.
    ///
    /// # Errors
    /// When that cannot be.
    ///
    /// # Panics
    /// When it never began.
    pub fn read_ends(&mut self, now: Tick, number: u32, first: u64, bytes: Option<&[u8]>) -> Result<(), Violation> {
        let invoked = self.reads.remove(&number).expect("a read that ends has begun");
        let Some(bytes) = bytes else { return Ok(()) };
        for (index, sector) in bytes.chunks_exact(SECTOR).enumerate() {
            let address = first + index as u64;
            let content = stamp::read(sector);
            let seen = self.judge(address, content)?;
            if self.frozen.is_some() {
                self.observe_frozen(address, content, seen)?;
                continue;
            }
            self.observe(invoked, now, address, seen).map_err(|expected| self.stale(address, content, &expected))?;
        }
        Ok(())
    }

    /// A sector of a range that cannot read as zeroes, for a request begun at `invoked` and answered now.
    #[must_use]
    pub fn must_hold_data(&self, invoked: Tick, first: u64, count: u64) -> Option<u64> {
        for window in &self.windows {
            let from = first.max(window.first_sector);
            let to = (first + count).min(window.first_sector + window.sectors.len() as u64);
            for address in from..to.max(from) {
                let traces = &window.sectors[(address - window.first_sector) as usize];
                let is_frozen = self.frozen.is_some();
                let may_be_zero = traces.iter().any(|trace| {
                    let possible = is_frozen || is_possible(&self.writes, invoked, traces, trace);
                    self.writes[&trace.write].zero && possible
                });
                if !may_be_zero {
                    return Some(address);
                }
            }
        }
        None
    }

    /// The write a sector's content belongs to: `None` for zeroes.
    fn judge(&self, address: u64, content: Content) -> Result<Option<u32>, Violation> {
        match content {
            Content::Zero => Ok(None),
            Content::Stamp { volume, write, sector }
                if sector == address
                    && self.writes.get(&write).is_some_and(|known| !known.zero && known.volume == volume) =>
            {
                Ok(Some(write))
            }
            // Its own, and older or younger than the snapshot: not foreign, but not what it holds either.
            Content::Stamp { volume, write, sector }
                if sector == address && self.frozen.is_some() && self.owners.contains(&volume) =>
            {
                Ok(Some(write))
            }
            Content::Stamp { .. } | Content::Canary | Content::Torn => {
                let detail = format!("{} sector {address} reads as {content:?}", self.volume);
                Err(Violation::new(Invariant::NoForeignBytes, detail))
            }
        }
    }

    fn stale(&self, address: u64, content: Content, expected: &str) -> Violation {
        let invariant = if self.crashed { Invariant::AckedFlushIsDurable } else { Invariant::ReadsSeeTheLastWrite };
        let detail = format!("{} sector {address} reads as {content:?}; it may hold {expected}", self.volume);
        Violation::new(invariant, detail)
    }

    fn observe(&mut self, invoked: Tick, now: Tick, address: u64, seen: Option<u32>) -> Result<(), String> {
        let (crashed_settles, writes) = (self.medium, std::mem::take(&mut self.writes));
        let traces = self.overlap(address, 1).next();
        let result = match traces {
            None if seen.is_none() => Ok(()),
            None => Err("zeroes: nobody writes there".to_owned()),
            Some((_, traces)) => observe_sector(&writes, invoked, now, traces, seen, crashed_settles),
        };
        self.writes = writes;
        result
    }

    /// Everything stops. With `power_cut`, what was not durable may be gone; else the disks' caches live on, but what the
    /// agent had not committed may be gone all the same.
    pub fn crash(&mut self, now: Tick, power_cut: bool) {
        self.reads.clear();
        if self.frozen.is_some() {
            return;
        }
        self.crashed = true;
        self.medium = power_cut;
        let flushed = self.flushed;
        let writes = std::mem::take(&mut self.writes);
        let mut used = BTreeSet::from([0]);
        for window in &mut self.windows {
            for traces in &mut window.sectors {
                if traces.len() > 1 {
                    forget(&writes, flushed, 0, traces);
                }
                for trace in traces.iter_mut() {
                    (trace.observed, trace.dead) = (NEVER, NEVER);
                    used.insert(trace.write);
                }
            }
        }
        self.writes = writes;
        self.writes.retain(|number, _| used.contains(number));
        for write in self.writes.values_mut() {
            write.ended = write.ended.min(now);
            if !is_durable(write, flushed) {
                write.happened = NEVER;
            }
        }
    }
}

impl Oracle {
    /// The session that served the volume ends although its last changes could not be committed, for want of a store or a
    /// disk that works: what was not flushed may be gone, as after a crash. Requests in flight end as they end.
    pub fn session_fails(&mut self, now: Tick) {
        if self.frozen.is_some() {
            return;
        }
        self.lost_before = now;
        self.crashed = true;
        let flushed = self.flushed;
        for window in &mut self.windows {
            for trace in window.sectors.iter_mut().flatten() {
                trace.observed = NEVER;
                trace.dead = if trace.dead < flushed { trace.dead } else { NEVER };
            }
        }
        for write in self.writes.values_mut() {
            if !is_durable(write, flushed) {
                write.happened = NEVER;
            }
        }
    }
}

fn is_durable(write: &Write, flushed: Tick) -> bool {
    write.happened != NEVER && (write.durable || write.ended < flushed)
}

/// Forgets what neither a read begun at `horizon` or later nor a crash can bring back.
fn forget(writes: &BTreeMap<u32, Write>, flushed: Tick, horizon: Tick, traces: &mut Traces) {
    // The youngest beginning among the durable writes that happened: whatever ended before it is gone for good.
    // (`horizon` of zero: nobody reads any more.)
    let gone_before = traces
        .iter()
        .map(|trace| &writes[&trace.write])
        .filter(|write| is_durable(write, flushed) && (horizon == 0 || write.happened < horizon))
        .map(|write| write.invoked)
        .max()
        .unwrap_or(0);
    traces.retain(|trace| {
        let settled_otherwise = trace.dead < flushed && (horizon == 0 || trace.dead < horizon);
        writes[&trace.write].ended >= gone_before && !settled_otherwise
    });
    assert!(!traces.is_empty(), "a sector always holds something");
}

/// Whether a read begun at `invoked` may see what `trace` left.
pub(crate) fn is_possible(writes: &BTreeMap<u32, Write>, invoked: Tick, traces: &Traces, trace: &Trace) -> bool {
    // Whatever ended before this moment was replaced before the read began.
    let gone_before = traces
        .iter()
        .filter(|trace| writes[&trace.write].happened.min(trace.observed) < invoked)
        .map(|trace| writes[&trace.write].invoked)
        .max()
        .unwrap_or(0);
    writes[&trace.write].ended >= gone_before && trace.dead >= invoked
}

fn observe_sector(
    writes: &BTreeMap<u32, Write>,
    invoked: Tick,
    now: Tick,
    traces: &mut Traces,
    seen: Option<u32>,
    medium: bool,
) -> Result<(), String> {
    let possible = |trace: &Trace| is_possible(writes, invoked, traces, trace);
    let is_seen = |trace: &Trace| match seen {
        Some(number) => trace.write == number,
        None => writes[&trace.write].zero,
    };
    let matching = traces.iter().filter(|trace| possible(trace) && is_seen(trace)).count();
    if matching == 0 {
        let list: Vec<_> = traces.iter().filter(|trace| possible(trace)).map(|trace| describe(writes, trace)).collect();
        return Err(list.join(" or "));
    }
    // Several writes of zeroes may be what was seen: then nothing is settled.
    if matching > 1 {
        return Ok(());
    }
    let quiet = traces.iter().all(|trace| writes[&trace.write].ended < invoked);
    let found = traces.iter().position(|trace| possible(trace) && is_seen(trace)).expect("one matches");
    if writes[&traces[found].write].failed {
        return Ok(());
    }
    // Until it ends, a write may be seen to come and go: a slow read can meet its data before the map says so.
    if writes[&traces[found].write].ended < invoked {
        traces[found].observed = traces[found].observed.min(now);
    }
    let kept = traces[found];
    if quiet && medium {
        traces.clear();
        traces.push(kept);
    } else if quiet {
        for (index, trace) in traces.iter_mut().enumerate() {
            if index != found {
                trace.dead = trace.dead.min(now);
            }
        }
    }
    if writes[&kept.write].base {
        traces.retain(|trace| !writes[&trace.write].base || trace.write == kept.write);
    }
    Ok(())
}

pub(crate) fn describe(writes: &BTreeMap<u32, Write>, trace: &Trace) -> String {
    let what = if writes[&trace.write].zero { "zeroes of write" } else { "write" };
    format!("{what} {}", trace.write)
}
