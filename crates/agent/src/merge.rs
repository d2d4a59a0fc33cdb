//! Merges: the blocks of a region that show, brought from many layers to one fresh place.
//!
//! A merge holds its region like a write, so that nothing changes there meanwhile; reads go on. What waits for one has not
//! begun: a write or trim looks before it holds its range, so that neither waits for the other in a circle.
//!
//! Deep stacks are merged in the background, before a write would have to wait for that: all of them while hosts ask
//! nothing; and while they do, those that have no room for another layer, one for so many requests ([`REQUESTS_A_MERGE`]),
//! because a merge reads and writes a whole region and would otherwise take a multiple of what the requests themselves do.

use crate::context::Context;
use crate::planted::Bug;
use crate::volume::Volume;
use crate::write::{Unplaced, io_error};
use mapping::stack::REGION_LAYERS_MAX;
use mapping::{EntryView, WriteTarget};
use model::{BLOCK_BYTES, ByteRange, IoBuffer, IoError, RegionIndex, Time, zero_scan};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use wire::CommandId;

/// Merges of one volume under way at once.
const MERGES_AT_ONCE: usize = 8;
/// Of them, those for which nobody waits.
const BACKGROUND_AT_ONCE: usize = 2;
/// Regions with so many layers with storage are merged when nobody writes there.
const LAYERS_NOTED: usize = 5;
/// Regions noted to be merged in the background, for each volume: deep ones, and as many full ones.
const NOTED_MAX: usize = 4096;
/// Noted regions looked at before other things have their turn.
const NOTED_AT_ONCE: usize = 64;
/// Hosts that asked nothing for so long leave the disks to merges.
const QUIET: Duration = Duration::from_millis(20);
/// While hosts ask, one full region is merged for so many of their requests. With a snapshot every hour, a region fills
/// in six hours: the hosts have to write less than this many times each region in that time for merges to fall behind.
const REQUESTS_A_MERGE: u32 = 16;

/// For whom a region is merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// A write that finds no room for another layer.
    Write,
    /// Nobody yet: the stack has grown deep.
    Background,
    /// An order to flatten.
    Flatten(CommandId),
}

/// What of one volume is to be merged, and is being.
#[derive(Debug, Default)]
pub(crate) struct Merges {
    /// Regions to be merged before any other write or trim begins there.
    pub(crate) wanted: BTreeMap<RegionIndex, Purpose>,
    pub(crate) running: BTreeMap<RegionIndex, Purpose>,
    /// Regions with deep stacks that have room for another layer, and those that have none.
    deep: Noted,
    full: Noted,
    /// When a host last asked for something.
    asked_at: Time,
    /// Requests of hosts since the last merge for which nobody waits.
    requests: u32,
    /// When to look whether hosts are quiet, if they ask nothing until then.
    pub(crate) look_at: Option<Time>,
    /// Set while held writes are tried again after a merge failed: the one that waited for it fails too.
    pub(crate) failed: Option<(RegionIndex, IoError)>,
}

/// Regions to be merged in the background.
#[derive(Debug, Default)]
struct Noted {
    regions: BTreeSet<RegionIndex>,
    /// Where to look on among them, so that none is passed over for ever.
    next: RegionIndex,
}

impl Noted {
    fn note(&mut self, region: RegionIndex) {
        if self.regions.len() < NOTED_MAX {
            self.regions.insert(region);
        }
    }

    /// Some of them, from where the last look ended.
    fn candidates(&self) -> Vec<RegionIndex> {
        let (before, after) = (self.regions.range(..self.next), self.regions.range(self.next..));
        after.chain(before).copied().take(NOTED_AT_ONCE).collect()
    }
}

impl Merges {
    pub(crate) fn new(now: Time) -> Self {
        Self { asked_at: now, ..Self::default() }
    }

    /// A host asks for something.
    pub(crate) fn asked(&mut self, now: Time) {
        self.asked_at = now;
        self.requests = self.requests.saturating_add(1);
    }

    /// A region has got one more layer and now has `layers` with storage.
    pub(crate) fn note(&mut self, region: RegionIndex, layers: usize) {
        if layers >= REGION_LAYERS_MAX {
            self.deep.regions.remove(&region);
            self.full.note(region);
        } else if layers >= LAYERS_NOTED {
            self.deep.note(region);
        }
    }

    /// Whether deep stacks are to be merged now, or only full ones, or (`None`) none.
    fn merges_deep(&mut self, now: Time) -> Option<bool> {
        if self.deep.regions.is_empty() && self.full.regions.is_empty() {
            return None;
        }
        let quiet_at = self.asked_at + QUIET;
        if now >= quiet_at {
            return Some(true);
        }
        self.look_at = Some(quiet_at);
        (!self.full.regions.is_empty() && self.requests >= REQUESTS_A_MERGE).then_some(false)
    }

    fn background_running(&self) -> usize {
        self.running.values().filter(|purpose| **purpose == Purpose::Background).count()
    }
}

impl Volume {
    /// Whether a write or trim of `range` has to wait for a merge that is to begin first.
    pub(crate) fn waits_for_merge(&self, range: ByteRange) -> bool {
        if self.merges.wanted.is_empty() {
            return false;
        }
        let size = self.attachment.region_size;
        let last = range.end().max(range.start + 1) - 1;
        self.merges.wanted.range(size.region_of(range.start)..=size.region_of(last)).next().is_some()
    }

    /// Sees that no region of a write that is about to begin needs a merge, or has it merged.
    pub(crate) fn merge_for_write(
        &mut self,
        context: &mut Context<'_>,
        range: ByteRange,
        data: &IoBuffer,
    ) -> Result<(), Unplaced> {
        if range.length == 0 || self.attachment.frozen_through.0 == 0 {
            return Ok(());
        }
        let size = self.attachment.region_size;
        let mut blocked = false;
        for index in size.region_of(range.start).0..=size.region_of(range.end() - 1).0 {
            if !self.needs_merge(context, RegionIndex(index)) {
                continue;
            }
            let base = index << size.log2();
            let (start, end) = (range.start.max(base), range.end().min(base + size.bytes()));
            let bytes = &data.bytes()[(start - range.start) as usize..(end - range.start) as usize];
            // Zeroes take no place, if the rest of their first and last block is zeroes too.
            if zero_scan::is_zero(bytes) && [start, end].iter().all(|at| self.parts_nothing(context, *at)) {
                continue;
            }
            self.need_merge(context, RegionIndex(index))?;
            blocked = true;
        }
        if blocked { Err(Unplaced::Blocked) } else { Ok(()) }
    }

    /// The same for a trim, which writes where it begins or ends within a block, and where it keeps space.
    pub(crate) fn merge_for_zero(
        &mut self,
        context: &mut Context<'_>,
        range: ByteRange,
        keep_space: bool,
    ) -> Result<(), Unplaced> {
        if range.length == 0 || self.attachment.frozen_through.0 == 0 {
            return Ok(());
        }
        let grain = if keep_space { self.attachment.region_size.bytes() } else { BLOCK_BYTES };
        let starts_within = !range.start.is_multiple_of(grain);
        let ends_within =
            !range.end().is_multiple_of(grain) && (keep_space || range.end() != self.attachment.size_bytes);
        let mut blocked = false;
        let edges = [(starts_within, range.start, range.start), (ends_within, range.end() - 1, range.end())];
        for (within, at, edge) in edges {
            let region = self.attachment.region_size.region_of(at);
            if !within {
                continue;
            }
            if self.table.page(region.page()).is_none() {
                self.fault(context, region.page());
                blocked = true;
            } else if self.needs_merge(context, region) && (keep_space || !self.parts_nothing(context, edge)) {
                self.need_merge(context, region)?;
                blocked = true;
            }
        }
        if blocked { Err(Unplaced::Blocked) } else { Ok(()) }
    }

    /// Whether a write may begin or end at this byte without a part of a block that holds data left beside it.
    fn parts_nothing(&self, context: &Context<'_>, at: u64) -> bool {
        at.is_multiple_of(BLOCK_BYTES) || self.block_place(context, at / BLOCK_BYTES * BLOCK_BYTES).is_none()
    }

    fn needs_merge(&self, context: &Context<'_>, region: RegionIndex) -> bool {
        let target = mapping::resolve_write(region, self.table.entry(region), self.frozen_through(context));
        target == WriteTarget::NeedsMerge
    }

    /// Has a region merged for a write that waits for it, or tells why that is impossible.
    fn need_merge(&mut self, context: &mut Context<'_>, region: RegionIndex) -> Result<(), Unplaced> {
        if let Some((failed, error)) = self.merges.failed
            && failed == region
        {
            return Err(Unplaced::Failed(error));
        }
        match self.try_merge(context, region, Purpose::Write) {
            Ok(true) => {}
            Ok(false) => {
                self.merges.wanted.entry(region).or_insert(Purpose::Write);
            }
            Err(error) => return Err(Unplaced::Failed(error)),
        }
        Ok(())
    }

    /// Begins the merges that others wait for, as far as that is possible now.
    pub(crate) fn merge_wanted(&mut self, context: &mut Context<'_>) {
        if self.merges.wanted.is_empty() || self.freeze.holds() {
            return;
        }
        for (region, purpose) in std::mem::take(&mut self.merges.wanted) {
            let needed = match purpose {
                Purpose::Flatten(command) => self.is_to_flatten(command, region),
                Purpose::Write | Purpose::Background => self.needs_merge(context, region),
            };
            let result = if needed { self.try_merge(context, region, purpose) } else { Ok(true) };
            match (result, purpose) {
                (Ok(false), _) => {
                    self.merges.wanted.insert(region, purpose);
                }
                (Ok(true), Purpose::Flatten(command)) if !needed => self.flatten_step_ended(command, Ok(())),
                (Err(error), Purpose::Flatten(command)) => self.flatten_step_ended(command, Err(error)),
                // The write that waits tries again in a moment, and meets the same error.
                (Ok(true) | Err(_), _) => {}
            }
        }
    }

    /// Begins a merge; `false` when it cannot begin yet.
    pub(crate) fn try_merge(
        &mut self,
        context: &mut Context<'_>,
        region: RegionIndex,
        purpose: Purpose,
    ) -> Result<bool, IoError> {
        let range = self.merge_range(context, region);
        if self.merges.running.len() >= MERGES_AT_ONCE
            || self.merges.running.contains_key(&region)
            || self.writes.overlaps(range)
        {
            return Ok(false);
        }
        match self.have_regions(context, 1) {
            Ok(true) => self.start_merge(context, region, purpose).map(|()| true),
            Ok(false) => Ok(false),
            Err(error) => Err(io_error(error)),
        }
    }

    /// What a merge of the region holds.
    pub(crate) fn merge_range(&self, context: &Context<'_>, region: RegionIndex) -> ByteRange {
        let size = self.attachment.region_size;
        let ignores = context.shared.config.planted.has(Bug::MergeIgnoresWrites);
        ByteRange::new(region.0 << size.log2(), if ignores { 0 } else { size.bytes() })
    }

    /// Merges deep stacks, as far as that hinders nobody.
    pub(crate) fn merge_in_background(&mut self, context: &mut Context<'_>) {
        let Some(with_deep) = self.merges.merges_deep(context.now) else { return };
        if self.grants.scarce || !self.freeze.is_open() || self.leaving.is_some() || !self.is_unhindered() {
            return;
        }
        let candidates = |noted: &Noted, is_full| noted.candidates().into_iter().map(move |region| (region, is_full));
        let mut regions: Vec<_> = candidates(&self.merges.full, true).collect();
        if with_deep {
            regions.extend(candidates(&self.merges.deep, false));
        }
        for (region, is_full) in regions {
            if self.merges.background_running() >= BACKGROUND_AT_ONCE {
                return;
            }
            let noted = if is_full { &mut self.merges.full } else { &mut self.merges.deep };
            noted.next = RegionIndex(region.0 + 1);
            let layers = match self.table.entry(region) {
                EntryView::Stack(layers) => mapping::stack::region_layers(layers),
                _ => 0,
            };
            if layers < LAYERS_NOTED {
                noted.regions.remove(&region);
                continue;
            }
            if self.writes.overlaps(self.merge_range(context, region)) {
                continue;
            }
            if self.grants.fresh_regions() == 0 {
                return self.request_grant(context, 0);
            }
            let noted = if is_full { &mut self.merges.full } else { &mut self.merges.deep };
            noted.regions.remove(&region);
            // Should it fail, a write that needs it says so.
            let _ = self.try_merge(context, region, Purpose::Background);
            if !with_deep {
                self.merges.requests = 0;
                return;
            }
        }
    }
}
