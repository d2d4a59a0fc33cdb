//! Promises that show in messages, long before any byte is wrong.

use crate::disk::SimDisk;
use crate::stamp::{self, Content, SECTOR};
use crate::verdict::{Invariant, Violation};
use model::{BlockBitmap, DiskId, Epoch, LogicalDiskId, LogicalDiskLayout, MapEntry, Place, RegionSize, VolumeId};
use node::DiskIoId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wire::{Attachment, CommandId, MapCommit, NodeCommand, NodeOrder, NodeReport};

/// So many blocks of one commit are looked at.
const BLOCKS_MAX: u32 = 96;

/// What has been seen in one life of the process.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// Where each disk is among the world's.
    disks: BTreeMap<DiskId, usize>,
    layouts: BTreeMap<LogicalDiskId, Arc<LogicalDiskLayout>>,
    sessions: BTreeMap<Epoch, (VolumeId, RegionSize)>,
    /// Fences that nodes were told of, by command.
    fences: BTreeMap<CommandId, (Epoch, Vec<Epoch>)>,
    /// What each node has reported to refuse.
    floors: BTreeMap<usize, Epoch>,
    fenced: BTreeSet<(usize, Epoch)>,
    in_flight: BTreeMap<(usize, DiskIoId), Epoch>,
}

impl Checks {
    /// A disk is opened.
    pub(crate) fn opened(&mut self, disk: DiskId, index: usize) {
        self.disks.insert(disk, index);
    }

    /// Where a disk is among the world's.
    pub(crate) fn disk_index(&self, disk: DiskId) -> usize {
        self.disks[&disk]
    }

    /// An agent is told of a session.
    pub(crate) fn attached(&mut self, attachment: &Attachment) {
        self.sessions.insert(attachment.credentials.epoch, (attachment.volume, attachment.region_size));
        attachment.layouts.iter().for_each(|layout| self.introduced(layout));
    }

    /// The volume of a session.
    pub(crate) fn volume_of(&self, epoch: Epoch) -> Option<VolumeId> {
        self.sessions.get(&epoch).map(|(volume, _)| *volume)
    }

    /// An agent is told of a logical disk.
    pub(crate) fn introduced(&mut self, layout: &Arc<LogicalDiskLayout>) {
        self.layouts.insert(layout.id, Arc::clone(layout));
    }

    pub(crate) fn command_sent(&mut self, command: &NodeCommand) {
        if let NodeOrder::Fence { floor, epochs } = &command.order {
            self.fences.insert(command.command, (*floor, epochs.clone()));
        }
    }

    fn is_fenced(&self, node: usize, epoch: Epoch) -> bool {
        self.floors.get(&node).is_some_and(|floor| epoch < *floor) || self.fenced.contains(&(node, epoch))
    }

    /// A node reports. A fence is done only when nothing of the fenced is in flight.
    pub(crate) fn reported(&mut self, node: usize, report: &NodeReport) -> Result<(), Violation> {
        let Some((floor, epochs)) = self.fences.get(&report.command).filter(|_| report.result.is_ok()) else {
            return Ok(());
        };
        let known = self.floors.entry(node).or_default();
        *known = (*known).max(*floor);
        self.fenced.extend(epochs.iter().map(|epoch| (node, *epoch)));
        let late = self.in_flight.iter().find(|((at, _), epoch)| *at == node && self.is_fenced(node, **epoch));
        match late {
            Some((_, epoch)) => Err(refused(format!("node {node} reports {epoch} fenced with its I/O in flight"))),
            None => Ok(()),
        }
    }

    /// A node sends I/O of a session to a disk.
    pub(crate) fn disk_io(&mut self, node: usize, id: DiskIoId, epoch: Option<Epoch>) -> Result<(), Violation> {
        let Some(epoch) = epoch else { return Ok(()) };
        self.in_flight.insert((node, id), epoch);
        if self.is_fenced(node, epoch) {
            return Err(refused(format!("node {node} serves {epoch}, which it has reported fenced")));
        }
        Ok(())
    }

    pub(crate) fn disk_done(&mut self, node: usize, id: DiskIoId) {
        self.in_flight.remove(&(node, id));
    }

    /// A commit leaves its agent: every block it maps must be durable by now, written under this volume or one that it
    /// came from.
    pub(crate) fn commit_leaves(
        &self,
        disks: &[SimDisk],
        owners: &BTreeSet<VolumeId>,
        epoch: Epoch,
        commit: &MapCommit,
    ) -> Result<(), Violation> {
        let Some((volume, size)) = self.sessions.get(&epoch) else { return Ok(()) };
        let mut left = BLOCKS_MAX;
        for run in commit.pages.iter().flat_map(|page| &page.runs) {
            let MapEntry::Layers(layers) = &run.entry else { continue };
            // Where no layer above holds a block, that layer's bytes are what reads see.
            let mut hidden = BlockBitmap::none(size.blocks());
            for layer in layers {
                if let Place::Region(region) = layer.place {
                    for slot in 0..u32::from(run.count) {
                        let start = region.offset_by(slot, *size).unit.byte_offset();
                        let visible = (0..size.blocks()).filter(|i| layer.blocks.contains(*i) && !hidden.contains(*i));
                        for block in visible.take(left as usize) {
                            left -= 1;
                            let offset = start + u64::from(block) * 4096;
                            self.block_is_durable(disks, owners, *volume, region.logical_disk, offset)?;
                        }
                    }
                }
                for block in (0..size.blocks()).filter(|block| layer.blocks.contains(*block)) {
                    hidden.insert(model::BlockRange::new(block, block + 1));
                }
            }
        }
        Ok(())
    }

    fn block_is_durable(
        &self,
        disks: &[SimDisk],
        owners: &BTreeSet<VolumeId>,
        volume: VolumeId,
        logical_disk: LogicalDiskId,
        offset: u64,
    ) -> Result<(), Violation> {
        let Some(layout) = self.layouts.get(&logical_disk) else { return Ok(()) };
        for piece in pool::geometry::resolve(layout, offset, 4096) {
            let mut bytes = vec![0; piece.length as usize];
            let Some(disk) = self.disks.get(&piece.disk) else { continue };
            disks[*disk].durable_bytes(piece.byte_offset, &mut bytes);
            for sector in bytes.chunks_exact(SECTOR) {
                let content = stamp::read(sector);
                let own = matches!(content, Content::Zero)
                    || matches!(content, Content::Stamp { volume: owner, .. } if owners.contains(&owner));
                if !own {
                    let detail = format!(
                        "{volume} commits a block at {logical_disk}+{offset} where {content:?} is durable so far"
                    );
                    return Err(Violation::new(Invariant::MapNeverAheadOfData, detail));
                }
            }
        }
        Ok(())
    }
}

fn refused(detail: String) -> Violation {
    Violation::new(Invariant::StaleHolderIsRefused, detail)
}
