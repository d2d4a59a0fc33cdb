//! Maps large parts of a volume by commits alone, as an agent would: quicker than by writes, for start-up's sake.

use anyhow::{Context, Result, bail};
use model::{
    BlockBitmap, BlockRange, DiskRegion, EntryRun, Generation, Layer, LayerStack, MapEntry, Place, REGIONS_PER_PAGE,
    RegionIndex, RegionSize, UnitIndex, UnitRun, VolumeId,
};
use wire::{Access, AgentMessage, Attachment, ControllerMessage, MapCommit, PageDelta, RequestId};

use crate::map::random::Random;
use crate::map::world::World;

/// How many regions one grant is asked for: 1 GiB of 64 KiB ones.
const GRANT_REGIONS: u32 = 16 * 1024;
/// How many grants, and commits, share a transaction.
const GRANTS_AT_ONCE: u32 = 16;

/// A session of its own on one volume.
pub(crate) struct Mapper {
    attachment: Attachment,
    last_request: u64,
    /// Commits for what was granted in the round before.
    commits: Vec<MapCommit>,
    returns: Vec<UnitRun>,
    next: RegionIndex,
    random: Random,
}

impl Mapper {
    /// Opens a session.
    pub(crate) fn attach(world: &mut World, volume: VolumeId) -> Result<Self> {
        world.tell(AgentMessage::Attach { request: RequestId(1), volume, access: Access::ReadWrite });
        world.settle()?;
        while let Some(message) = world.inbox.pop_front() {
            if let ControllerMessage::Attached { result, .. } = message {
                let attachment = result.map_err(|error| anyhow::anyhow!("not attached: {error:?}"))?;
                return Ok(Self {
                    attachment,
                    last_request: 1,
                    commits: Vec::new(),
                    returns: Vec::new(),
                    next: RegionIndex(0),
                    random: Random::new(7),
                });
            }
        }
        bail!("an attachment was not answered")
    }

    /// Ends the session, so that an agent may open one.
    pub(crate) fn detach(self, world: &mut World) -> Result<()> {
        world.tell(AgentMessage::Detach { epoch: self.attachment.credentials.epoch });
        world.settle()?;
        let is_detached = |message: &ControllerMessage| matches!(message, ControllerMessage::Detached { .. });
        anyhow::ensure!(world.inbox.iter().any(is_detached), "the mapper was not detached");
        world.inbox.clear();
        Ok(())
    }

    fn request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    /// Maps the next `regions` as streams leave them: contiguous on both sides.
    pub(crate) fn map_contiguous(&mut self, world: &mut World, regions: u64) -> Result<()> {
        self.rounds(world, regions, false)
    }

    /// Maps about `regions` as scattered writes leave them: every other region at random, one block of it, in no order on
    /// the disk, which keeps holes.
    pub(crate) fn map_scattered(&mut self, world: &mut World, regions: u64) -> Result<()> {
        self.rounds(world, 2 * regions, true)
    }

    fn rounds(&mut self, world: &mut World, regions: u64, scattered: bool) -> Result<()> {
        let end = self.next.0 + regions;
        while self.next.0 < end {
            let epoch = self.attachment.credentials.epoch;
            for commit in std::mem::take(&mut self.commits) {
                let request = self.request();
                world.tell(AgentMessage::Commit { request, epoch, commit });
            }
            let runs = std::mem::take(&mut self.returns);
            if !runs.is_empty() {
                world.tell(AgentMessage::ReturnGrant { epoch, runs });
            }
            let left = (end - self.next.0).div_ceil(u64::from(GRANT_REGIONS));
            for _ in 0..left.min(u64::from(GRANTS_AT_ONCE)) {
                let request = self.request();
                world.tell(AgentMessage::RequestGrant { request, epoch, regions: GRANT_REGIONS, urgent: 0 });
            }
            world.settle()?;
            self.take_in(world, scattered)?;
        }
        self.send_last(world)
    }

    fn send_last(&mut self, world: &mut World) -> Result<()> {
        let epoch = self.attachment.credentials.epoch;
        for commit in std::mem::take(&mut self.commits) {
            let request = self.request();
            world.tell(AgentMessage::Commit { request, epoch, commit });
        }
        world.tell(AgentMessage::ReturnGrant { epoch, runs: std::mem::take(&mut self.returns) });
        world.settle()?;
        self.take_in(world, false)
    }

    /// A grant as an agent that was killed leaves it.
    pub(crate) fn hold_a_grant(&mut self, world: &mut World) -> Result<()> {
        let (request, epoch) = (self.request(), self.attachment.credentials.epoch);
        world.tell(AgentMessage::RequestGrant { request, epoch, regions: GRANT_REGIONS, urgent: 0 });
        world.settle()?;
        world.inbox.clear();
        Ok(())
    }

    fn take_in(&mut self, world: &mut World, scattered: bool) -> Result<()> {
        while let Some(message) = world.inbox.pop_front() {
            match message {
                ControllerMessage::Granted { result, .. } => {
                    let runs = result.map_err(|error| anyhow::anyhow!("not granted: {error:?}"))?;
                    let commit = if scattered { self.scatter(&runs)? } else { self.lay_out(&runs) };
                    self.commits.push(commit);
                }
                ControllerMessage::Committed { result, .. } => {
                    result.map_err(|error| anyhow::anyhow!("not committed: {error:?}"))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn size(&self) -> RegionSize {
        self.attachment.region_size
    }

    fn lay_out(&mut self, runs: &[UnitRun]) -> MapCommit {
        let (size, generation) = (self.size(), self.attachment.generation);
        let mut pages: Vec<PageDelta> = Vec::new();
        for run in runs {
            let mut place = DiskRegion { logical_disk: run.logical_disk, unit: run.start };
            let mut left = run.count / size.units();
            while left > 0 {
                let (page, slot) = (self.next.page(), self.next.slot());
                let count = left.min(REGIONS_PER_PAGE - u32::from(slot));
                let entry = MapEntry::full(place, size, generation, generation);
                push(&mut pages, page, EntryRun { first: slot, count: count as u16, entry });
                place = place.offset_by(count, size);
                self.next = RegionIndex(self.next.0 + u64::from(count));
                left -= count;
            }
        }
        MapCommit { pages, takes: runs.to_vec(), drops: Vec::new() }
    }

    fn scatter(&mut self, runs: &[UnitRun]) -> Result<MapCommit> {
        let (size, generation) = (self.size(), self.attachment.generation);
        let units = size.units();
        let mut places: Vec<DiskRegion> = Vec::new();
        let mut commit = MapCommit::default();
        for run in runs {
            for unit in (run.start.0..run.end()).step_by(units as usize) {
                let one = UnitRun { logical_disk: run.logical_disk, start: UnitIndex(unit), count: units };
                if self.random.below(2) == 0 {
                    places.push(DiskRegion { logical_disk: run.logical_disk, unit: one.start });
                    commit.takes.push(one);
                } else {
                    self.returns.push(one);
                }
            }
        }
        self.random.shuffle(&mut places);
        for place in places {
            let region = RegionIndex(self.next.0 + self.random.below(2));
            self.next = RegionIndex(self.next.0 + 2);
            let block = self.random.below(u64::from(size.blocks())) as u32;
            let entry = one_block(place, block, size, generation).context("a region has blocks")?;
            push(&mut commit.pages, region.page(), EntryRun { first: region.slot(), count: 1, entry });
        }
        Ok(commit)
    }
}

fn push(pages: &mut Vec<PageDelta>, page: model::PageIndex, run: EntryRun) {
    match pages.last_mut() {
        Some(last) if last.page == page => last.runs.push(run),
        _ => pages.push(PageDelta { page, runs: vec![run] }),
    }
}

fn one_block(place: DiskRegion, block: u32, size: RegionSize, generation: Generation) -> Option<MapEntry> {
    let mut blocks = BlockBitmap::none(size.blocks());
    blocks.insert(BlockRange::new(block, block + 1));
    let layer = Layer { place: Place::Region(place), blocks, born: generation, written: generation };
    let mut layers = LayerStack::new();
    layers.push(layer);
    Some(MapEntry::Layers(layers))
}
